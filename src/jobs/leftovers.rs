//! The list of the commands that run, and the end of those that outlived their process.
//!
//! SIGKILL can't be answered: the commands of a killed process live on (unless it was PID 1 of its
//! container, and took them along). Its jobs must not run again beside them. So every command is in a list
//! while it runs, a file each in `running/` of the data directory, and the next process to own that
//! directory ends who is left before it frees a job.
//!
//! ```text
//!   claim, boot, namespace ──▶ spawn ──▶ + group, start time ──▶ … runs … ──▶ reaped ──▶ removed
//! ```
//!
//! Nobody is killed on suspicion. A record is void in another boot and in another namespace of process ids.
//! In its own, these are its processes, and nobody else is:
//!
//! | who | known by |
//! | --- | --- |
//! | the leader | process id and start time |
//! | its group | the leader, or a member that carries the claim in its environment |
//! | who left the group (`setsid`) | the claim in its environment |
//!
//! Whoever left the group *and* wiped its environment is not found. What a command left behind that had
//! ended before is no leftover: its record is gone, and its job does not run again.
//!
//! The record is written before the spawn, so that there is no command without one. Between the spawn and the
//! start time a command is known by its claim, which is in its environment from its exec on; and until its
//! exec it holds a copy of the directory's lock, so that there is no next process yet. What remains are the
//! microseconds in which the kernel has closed that copy and not yet laid out the environment: where a
//! record names no leader, the look is repeated for [`LAID_OUT`].
//!
//! Nothing is synced: SIGKILL keeps what was written, and after a power cut it is void.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod proc;

pub(crate) use proc::boot_id;
use proc::{Seen, pid_namespace};

/// In the data directory.
const FOLDER: &str = "running";
/// How long the end of what was killed is waited for. It takes milliseconds, unless the kernel hangs on a
/// disk or a network file system.
const END_WAIT: Duration = Duration::from_secs(2);
/// How long the environment of a command may take to appear after its exec.
const LAID_OUT: Duration = Duration::from_millis(50);
/// How often to look.
const LOOK: Duration = Duration::from_millis(5);

/// The list of the commands that run, for the next process.
#[derive(Clone, Debug)]
pub struct RunningList {
    folder: PathBuf,
    here: Here,
}

/// A command in the list; it leaves it when this is dropped.
#[derive(Debug)]
#[must_use = "a command that is not in the list is not ended by the next process"]
pub struct Listed {
    path: PathBuf,
    /// Open until the command has started: a descriptor for each that runs would be one too many.
    file: Option<File>,
    record: Record,
}

/// What became of the commands in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Runs of which something still lived and was ended.
    pub ended: usize,
    /// Runs of which something lives all the same. They stay in the list.
    pub alive: usize,
}

/// Where process ids and start times mean what they say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Here {
    boot: String,
    /// Its number may come back after it is gone; the start time still tells.
    namespace: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    claim: String,
    #[serde(flatten)]
    here: Here,
    /// Last, so that writing it changes nothing before it.
    leader: Option<Leader>,
}

/// The leader of a group, by whose process id the group is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Leader {
    group: i32,
    start: u64,
}

/// What a predecessor left in the list.
struct Leftovers {
    records: Vec<(PathBuf, Record)>,
    by_claim: BTreeMap<String, usize>,
    by_group: BTreeMap<i32, usize>,
    /// Records of which somebody was found.
    found: BTreeSet<usize>,
}

// === impl RunningList ===

impl RunningList {
    /// The list of this data directory. `None` where the system can't tell processes apart (no `/proc`).
    ///
    /// # Errors
    /// Where its folder can't be made.
    pub fn of(data: &Path) -> io::Result<Option<Self>> {
        let Some(here) = Here::look() else {
            return Ok(None);
        };
        let folder = data.join(FOLDER);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Some(Self { folder, here }))
    }

    /// Writes down that a command is about to be started under this claim, and has it in its environment.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn note(&self, claim: &str) -> io::Result<Listed> {
        let record = Record {
            claim: claim.to_owned(),
            here: self.here.clone(),
            leader: None,
        };
        let path = self.folder.join(Uuid::new_v4().to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let mut listed = Listed {
            path,
            file: None,
            record,
        };
        listed.write(&file)?;
        listed.file = Some(file);
        Ok(listed)
    }
}

// === impl Listed ===

impl Listed {
    /// It was started, as the leader of this group. Not to be called once the leader may have been reaped.
    ///
    /// # Errors
    /// Where the file can't be written. The command is then known by its claim alone.
    pub fn started(&mut self, group: Pid) -> io::Result<()> {
        self.record.leader = Seen::look(group).map(|seen| Leader {
            group: group.as_raw_nonzero().get(),
            start: seen.start,
        });
        self.file.take().map_or(Ok(()), |file| self.write(&file))
    }

    /// Over what was there, never shorter: at no instant is there less to read than before.
    fn write(&self, file: &File) -> io::Result<()> {
        let record = serde_json::to_vec(&self.record)?;
        file.write_all_at(&record, 0)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Ends what a dead predecessor's commands left running, waits for its end, and empties the list. Only for the
/// owner of the data directory, before it starts anything. Blocks, for [`END_WAIT`] at most.
pub(crate) fn end(data: &Path) -> Ended {
    let Some(here) = Here::look() else {
        return Ended::default();
    };
    let mut leftovers = Leftovers::read(&data.join(FOLDER), &here);
    if leftovers.records.is_empty() {
        return Ended::default();
    }
    let begin = Instant::now();
    let alive = loop {
        let alive = leftovers.end();
        let sure = leftovers.all_have_leaders() || begin.elapsed() > LAID_OUT;
        if (alive.is_empty() && sure) || begin.elapsed() > END_WAIT {
            break alive;
        }
        thread::sleep(LOOK);
    };
    leftovers.strike_out(&alive)
}

// === impl Leftovers ===

impl Leftovers {
    /// Reads the list, and strikes out what is void.
    fn read(folder: &Path, here: &Here) -> Self {
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

    fn all_have_leaders(&self) -> bool {
        self.records
            .iter()
            .all(|(_, record)| record.leader.is_some())
    }

    /// Kills whoever is found; the records of those who have not ended yet.
    fn end(&mut self) -> BTreeMap<usize, Pid> {
        let own_group = rustix::process::getpgrp().as_raw_nonzero().get();
        // Not ourselves, where a command of the predecessor has started us, in whatever way.
        let seen: Vec<_> = Seen::all()
            .into_iter()
            .filter(|seen| seen.group != own_group)
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
        leads.or_else(|| self.by_claim.get(&seen.claim()?)).copied()
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
    fn strike_out(self, alive: &BTreeMap<usize, Pid>) -> Ended {
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

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "cannot remove a command from the list of those that run");
    }
}

// === impl Here ===

impl Here {
    fn look() -> Option<Self> {
        Some(Self {
            boot: boot_id()?,
            namespace: pid_namespace()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::process::{CommandExt, ExitStatusExt},
        process::{Child, Command, Stdio},
    };

    use tempfile::TempDir;

    use super::*;

    /// Long enough that nobody waits for its end.
    const FOR_EVER: &str = "sleep 1000";

    /// A data directory, and what runs there.
    struct Place {
        data: TempDir,
        list: RunningList,
        /// Its own: tests that run beside it end theirs.
        claim: String,
    }

    /// A command that says a line once it has done what the test needs.
    struct Running {
        leader: Child,
        said: String,
    }

    impl Place {
        fn new() -> Self {
            let data = tempfile::tempdir().unwrap();
            let list = RunningList::of(data.path()).unwrap().unwrap();
            let claim = Uuid::new_v4().to_string();
            Self { data, list, claim }
        }

        /// Its record as SIGKILL leaves it: nobody strikes it out.
        fn listed(&self, leader: Option<&Running>) {
            let mut listed = self.list.note(&self.claim).unwrap();
            if let Some(running) = leader {
                listed.started(running.pid()).unwrap();
            }
            std::mem::forget(listed);
        }

        fn write(&self, record: &Record) {
            let text = serde_json::to_vec(record).unwrap();
            fs::write(self.list.folder.join("one"), text).unwrap();
        }

        fn end(&self) -> Ended {
            end(self.data.path())
        }

        fn is_empty(&self) -> bool {
            fs::read_dir(&self.list.folder).unwrap().next().is_none()
        }
    }

    impl Running {
        fn start(claim: &str, script: &str) -> Self {
            let mut leader = Command::new("sh")
                .args(["-c", script])
                .env("LAMEDUCK_CLAIM", claim)
                .stdout(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap();
            let mut said = String::new();
            let stdout = leader.stdout.take().unwrap();
            BufReader::new(stdout).read_line(&mut said).unwrap();
            Self { leader, said }
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(self.leader.id().cast_signed()).unwrap()
        }

        /// Of the processes that it named.
        fn is_alive(&self) -> Vec<bool> {
            let pids = self.said.split_whitespace();
            pids.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
                .map(|pid| Seen::look(pid).is_some_and(|seen| !seen.ended))
                .collect()
        }

        fn leader_ends(&mut self) {
            self.leader.wait().unwrap();
        }

        /// What its leader died of, at the latest now.
        fn died_of(mut self) -> Option<i32> {
            self.leader.wait().unwrap().signal()
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = rustix::process::kill_process_group(self.pid(), Signal::KILL);
        }
    }

    const ONE: Ended = Ended { ended: 1, alive: 0 };
    const NONE: Ended = Ended { ended: 0, alive: 0 };

    #[test]
    fn a_command_that_outlived_its_process_is_ended_with_its_group() {
        let place = Place::new();
        let script = format!("trap '' TERM; {FOR_EVER} & echo $! $$; wait");
        let running = Running::start(&place.claim, &script);
        place.listed(Some(&running));

        assert_eq!(place.end(), ONE);

        assert_eq!(running.is_alive(), [false, false]);
        assert!(place.is_empty());
        assert_eq!(place.end(), NONE);
    }

    #[test]
    fn a_leader_that_wiped_its_environment_is_known_by_its_start() {
        let place = Place::new();
        let running = Running::start(&place.claim, "exec env -i sh -c 'echo $$; exec sleep 1000'");
        place.listed(Some(&running));

        assert_eq!(place.end(), ONE);

        assert_eq!(running.died_of(), Some(9));
    }

    #[test]
    fn a_group_without_its_leader_is_known_by_a_member_that_carries_the_claim() {
        let place = Place::new();
        let script = format!("{FOR_EVER} & a=$!; env -i {FOR_EVER} & echo $a $!; wait");
        let mut running = Running::start(&place.claim, &script);
        place.listed(Some(&running));
        rustix::process::kill_process(running.pid(), Signal::KILL).unwrap();
        running.leader_ends();
        assert_eq!(running.is_alive(), [true, true]);

        assert_eq!(place.end(), ONE);

        assert_eq!(running.is_alive(), [false, false]);
    }

    #[test]
    fn who_left_the_group_is_known_by_the_claim() {
        let place = Place::new();
        let escape = format!("setsid sh -c 'echo $$; exec {FOR_EVER}' & wait");
        let mut running = Running::start(&place.claim, &escape);
        place.listed(Some(&running));
        rustix::process::kill_process(running.pid(), Signal::KILL).unwrap();
        running.leader_ends();

        assert_eq!(place.end(), ONE);

        assert_eq!(running.is_alive(), [false]);
    }

    #[test]
    fn a_command_whose_start_was_not_written_down_any_more_is_known_by_the_claim() {
        let place = Place::new();
        place.listed(None);
        let running = Running::start(&place.claim, &format!("echo $$; exec {FOR_EVER}"));

        assert_eq!(place.end(), ONE);

        assert_eq!(running.died_of(), Some(9));
        assert!(place.is_empty());
    }

    #[test]
    fn who_got_the_process_id_of_a_command_is_left_alone() {
        let place = Place::new();
        let innocent = Running::start("another", &format!("{FOR_EVER} & echo $! $$; wait"));
        let now = Seen::look(innocent.pid()).unwrap();
        place.write(&Record {
            claim: place.claim.clone(),
            here: place.list.here.clone(),
            leader: Some(Leader {
                group: now.group,
                start: now.start - 1,
            }),
        });

        assert_eq!(place.end(), NONE);

        assert_eq!(innocent.is_alive(), [true, true]);
        assert!(place.is_empty());
    }

    #[test]
    fn a_record_of_another_boot_or_namespace_is_void_and_goes() {
        let place = Place::new();
        let running = Running::start(&place.claim, &format!("echo $$; exec {FOR_EVER}"));
        let now = Seen::look(running.pid()).unwrap();
        let here = place.list.here.clone();
        let elsewhere = [
            Here {
                boot: "another".to_owned(),
                ..here.clone()
            },
            Here {
                namespace: "pid:[1]".to_owned(),
                ..here
            },
        ];
        for here in elsewhere {
            place.write(&Record {
                claim: place.claim.clone(),
                here,
                leader: Some(Leader {
                    group: now.group,
                    start: now.start,
                }),
            });

            assert_eq!(place.end(), NONE);

            assert_eq!(running.is_alive(), [true]);
            assert!(place.is_empty());
        }
    }

    #[test]
    fn a_record_that_was_not_written_to_its_end_goes() {
        let place = Place::new();
        fs::write(place.list.folder.join("one"), "").unwrap();

        assert_eq!(place.end(), NONE);

        assert!(place.is_empty());
    }

    #[test]
    fn a_command_leaves_the_list_when_it_is_over() {
        let place = Place::new();
        let listed = place.list.note(&place.claim).unwrap();
        assert!(!place.is_empty());

        drop(listed);

        assert!(place.is_empty());
    }
}
