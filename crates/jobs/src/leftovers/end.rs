//! Searches all processes for those of the list, and kills them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use lameduck_process::Seen;
use rustix::{
    io::Errno,
    process::{Pid, Signal},
};

use super::{CLAIM, Ended, Here, Leader, Record, remove};

/// How long to wait for killed processes to end. It takes milliseconds, unless the kernel hangs on a
/// disk or a network file system.
const END_WAIT: Duration = Duration::from_secs(2);
/// How long the environment of a command may take to appear after its exec.
const LAID_OUT: Duration = Duration::from_millis(50);
/// Interval between two searches.
const LOOK: Duration = Duration::from_millis(5);

/// The records that a predecessor left in the list.
pub(super) struct Leftovers {
    records: Vec<(PathBuf, Record)>,
    by_claim: BTreeMap<String, usize>,
    by_group: BTreeMap<i32, usize>,
    /// The records of which a process was found.
    found: BTreeSet<usize>,
}

// === impl Leftovers ===

impl Leftovers {
    /// Reads the list, and removes void records.
    pub(super) fn read(folder: &Path, here: &Here) -> Self {
        let mut this = Self {
            records: Vec::new(),
            by_claim: BTreeMap::new(),
            by_group: BTreeMap::new(),
            found: BTreeSet::new(),
        };
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        for path in files.map(|file| file.path()) {
            let text = fs::read(&path).unwrap_or_default();
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) if record.here == *here => this.add(path, record),
                // It is of another boot or namespace, or was not written completely, and then nothing was started.
                _ => remove(&path),
            }
        }
        this
    }

    fn add(&mut self, path: PathBuf, record: Record) {
        let index = self.records.len();
        self.by_claim.insert(record.claim.clone(), index);
        if let Some(leader) = record.leader {
            self.by_group.insert(leader.group, index);
        }
        self.records.push((path, record));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn all_have_leaders(&self) -> bool {
        self.records
            .iter()
            .all(|(_, record)| record.leader.is_some())
    }

    /// Kills all processes found until there are none or the time is over. Returns the records with a living process.
    pub(super) fn end(&mut self) -> BTreeMap<usize, Pid> {
        let begin = Instant::now();
        loop {
            let alive = self.kill();
            let sure = self.all_have_leaders() || begin.elapsed() > LAID_OUT;
            if (alive.is_empty() && sure) || begin.elapsed() > END_WAIT {
                return alive;
            }
            thread::sleep(LOOK);
        }
    }

    /// Kills all processes that are found. Returns the records of those that have not ended yet.
    fn kill(&mut self) -> BTreeMap<usize, Pid> {
        let own_group = Seen::look(rustix::process::getpid()).map(|this| this.group);
        // Spare our own group: a command of the predecessor may have started us, in whatever way.
        let seen: Vec<_> = Seen::all()
            .into_iter()
            .filter(|seen| Some(seen.group) != own_group)
            .map(|seen| (self.run_of(&seen), seen))
            .collect();
        let mut groups = BTreeMap::new();
        for (run, seen) in &seen {
            if let Some(run) = run
                && self.leads(*run, seen)
            {
                groups.insert(seen.group, (*run, seen));
            }
        }
        let mut alive = BTreeMap::new();
        for (run, one) in &seen {
            let group = groups.get(&one.group);
            let Some(run) = group.map(|(run, _)| *run).or(*run) else {
                continue;
            };
            if group.is_none() {
                kill(one);
            }
            if !one.ended {
                self.found.insert(run);
                alive.insert(run, one.pid);
            }
        }
        for (_, member) in groups.values() {
            kill_group_of(member);
        }
        alive
    }

    /// Returns the record to which this process provably belongs.
    fn run_of(&self, seen: &Seen) -> Option<usize> {
        let leads = self
            .by_group
            .get(&seen.pid.as_raw_nonzero().get())
            .filter(|run| self.leader(**run).is_some_and(|l| l.start == seen.start));
        leads
            .or_else(|| self.by_claim.get(&seen.variable(CLAIM)?))
            .copied()
    }

    /// Whether this process of the run is in the run's own group.
    fn leads(&self, run: usize, seen: &Seen) -> bool {
        self.leader(run)
            .is_some_and(|leader| leader.group == seen.group)
    }

    fn leader(&self, run: usize) -> Option<Leader> {
        self.records.get(run).and_then(|(_, record)| record.leader)
    }

    /// Removes the records of processes that are gone, and logs and returns the result.
    pub(super) fn strike_out(self, alive: &BTreeMap<usize, Pid>) -> Ended {
        for (index, (path, _)) in self.records.iter().enumerate() {
            if !alive.contains_key(&index) {
                remove(path);
            }
        }
        for pid in alive.values() {
            tracing::error!(
                %pid,
                "a command that the process before this one left running can't be ended, and its job may run again \
                 beside it: end it by hand, and see whether it hangs on a disk or runs as another user"
            );
        }
        let ended = Ended {
            ended: self.found.len() - alive.len(),
            alive: alive.len(),
        };
        if ended.ended > 0 {
            tracing::warn!(
                commands = ended.ended,
                "ended what the process before this one left running, so that its jobs can run again"
            );
        }
        ended
    }
}

/// Sends SIGKILL to this very process.
fn kill(seen: &Seen) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        // With a pidfd held, the process that is checked is the one that is killed.
        if let Ok(held) = pidfd_open(seen.pid, PidfdFlags::empty()) {
            if is_still(seen) {
                told(seen.pid, pidfd_send_signal(held, Signal::KILL));
            }
            return;
        }
    }
    if is_still(seen) {
        told(
            seen.pid,
            rustix::process::kill_process(seen.pid, Signal::KILL),
        );
    }
}

/// Sends SIGKILL to the group of this process. As long as the process exists, no other group has this id; and
/// the kernel would have to go through all ids between the two calls.
fn kill_group_of(member: &Seen) {
    if let Some(group) = Pid::from_raw(member.group)
        && is_still(member)
    {
        told(
            group,
            rustix::process::kill_process_group(group, Signal::KILL),
        );
    }
}

fn is_still(seen: &Seen) -> bool {
    Seen::look(seen.pid).is_some_and(|now| (now.start, now.group) == (seen.start, seen.group))
}

fn told(id: Pid, killed: rustix::io::Result<()>) {
    if let Err(error) = killed
        && error != Errno::SRCH
    {
        tracing::warn!(%error, %id, "a command that was left running could not be killed");
    }
}
