//! The look over all processes for those of the list, and their end.

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

/// How long the end of what was killed is waited for. It takes milliseconds, unless the kernel hangs on a
/// disk or a network file system.
const END_WAIT: Duration = Duration::from_secs(2);
/// How long the environment of a command may take to appear after its exec.
const LAID_OUT: Duration = Duration::from_millis(50);
/// How often to look.
const LOOK: Duration = Duration::from_millis(5);

/// What a predecessor left in the list.
pub(super) struct Leftovers {
    records: Vec<(PathBuf, Record)>,
    by_claim: BTreeMap<String, usize>,
    by_group: BTreeMap<i32, usize>,
    /// Records of which somebody was found.
    found: BTreeSet<usize>,
}

// === impl Leftovers ===

impl Leftovers {
    /// Reads the list, and strikes out what is void.
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
                // Of another boot or namespace; or never written to its end, then nothing was started.
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

    /// Kills whoever is found until nobody is, or the time is over. Says of which records somebody lives.
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

    /// Kills whoever is found; the records of those who have not ended yet.
    fn kill(&mut self) -> BTreeMap<usize, Pid> {
        let own_group = Seen::look(rustix::process::getpid()).map(|this| this.group);
        // Not ourselves, where a command of the predecessor has started us, in whatever way.
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

    /// The record that this process is provably of.
    fn run_of(&self, seen: &Seen) -> Option<usize> {
        let leads = self
            .by_group
            .get(&seen.pid.as_raw_nonzero().get())
            .filter(|run| self.leader(**run).is_some_and(|l| l.start == seen.start));
        leads
            .or_else(|| self.by_claim.get(&seen.variable(CLAIM)?))
            .copied()
    }

    /// Whether the group that this process of the run is in is the run's own.
    fn leads(&self, run: usize, seen: &Seen) -> bool {
        self.leader(run)
            .is_some_and(|leader| leader.group == seen.group)
    }

    fn leader(&self, run: usize) -> Option<Leader> {
        self.records.get(run).and_then(|(_, record)| record.leader)
    }

    /// Removes the records of those who are gone, and says what happened.
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

/// SIGKILL to this very process.
fn kill(seen: &Seen) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        // Once it is held, it can be nobody else who is looked at and killed.
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

/// SIGKILL to the group that this process is in. As long as it is there, the group's id is nobody else's; and
/// the kernel would have to go round all ids between the two calls.
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
