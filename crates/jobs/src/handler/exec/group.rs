//! A command and its process group: started, signalled, ended and reaped in an order in which no signal
//! can hit another process.
//!
//! A process id can be used again as soon as its process is reaped; until then it belongs to a zombie,
//! and so does the id of its group. So a group is signalled only while its leader is unreaped: [`Living`]
//! stands for that, and is dropped before the leader is reaped.
//!
//! ```text
//!   spawn ─▶ Living ── SIGTERM, SIGKILL ──▶ the leader ends (seen, not reaped) ─▶ the rest is killed, Living goes ─▶ reaped
//! ```
//!
//! From before the spawn until it is reaped, a command is in a [list](RunningList), by which the next process ends it
//! if this one was killed.

use std::{
    io,
    path::Path,
    process::ExitStatus,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lameduck_process::{Child, Children, EndWatch, look_at, reap_leftovers_of_commands};
use rustix::{
    io::Errno,
    process::{Pid, Signal},
};
use tokio::process::{ChildStderr, ChildStdout, Command};

use crate::leftovers::{self, BackgroundList, Entry, Leader, RunningList};

/// How long [`kill_all_groups`] waits for a command that is just being started.
const SPAWN_WAIT: Duration = Duration::from_millis(200);

/// A running command.
pub(super) struct Group {
    // Before `child`, so that dropping this kills the group before its leader may be reaped.
    living: Living,
    child: Child,
    end: EndWatch,
    // After `living`, so that a group stays in the list until it is killed.
    listed: Option<Entry>,
}

/// Why a command was not started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// [`kill_all_groups`] was called, and nothing may be started any more.
    ProcessEnds,
    /// The system could not start it.
    Failed(io::Error),
}

/// The living groups.
pub(super) struct Groups {
    children: &'static Children,
    living: Mutex<Vec<Pid>>,
    /// The list for the next process, if there is a place to keep it.
    list: Mutex<Option<BackgroundList>>,
}

/// The right to signal a group. Dropping it kills what is left of the group.
struct Living {
    id: Pid,
    groups: &'static Groups,
}

static GROUPS: LazyLock<Groups> = LazyLock::new(|| Groups::new(Children::of_this_process()));

/// Kills every command that [`Exec`](super::Exec) runs in this process, with its whole group, and prevents
/// any more from being started. To be called just before the process ends: a command that outlived it would
/// work beside the job's next run. Returns the number of commands.
///
/// Blocks for a fraction of a second at most; meant to be called from a thread of its own.
pub fn kill_all_groups() -> usize {
    GROUPS.kill_all()
}

/// Keeps a list of running commands in the data directory that this process owns: after a SIGKILL, the next
/// process to [open](crate::engine) the queue there ends them before their jobs run again. To be called
/// before the first job runs.
///
/// # Errors
/// Returns an error if the list's folder can't be created.
pub fn keep_list_in(data: &Path) -> io::Result<()> {
    GROUPS.keep_list_in(data)
}

// === impl Group ===

impl Group {
    /// Starts the command as the leader of a new group. It has this claim in its environment.
    pub async fn spawn(
        mut command: Command,
        claim: &str,
        groups: &'static Groups,
    ) -> Result<Self, NotStarted> {
        command.process_group(0);
        reap_leftovers_of_commands();
        let listed = groups.note(claim).await;
        let (child, living) = groups.spawn(command)?;
        if let Some(listed) = &listed {
            listed.started(Leader::look(living.id));
        }
        Ok(Self {
            end: EndWatch::new(living.id),
            living,
            child,
            listed,
        })
    }

    /// Returns our ends of the pipes, on the first call only.
    pub fn pipes(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        self.child.pipes()
    }

    /// Signals the leader and all processes that it started and that did not leave the group.
    pub fn signal(&self, signal: Signal) {
        self.living.signal(signal);
    }

    /// Returns when the leader has ended, without reaping it.
    pub async fn ended(&self) {
        self.end.ended().await;
    }

    /// Kills what is left of the group, then reaps the leader.
    pub async fn reap(self) -> io::Result<ExitStatus> {
        let Self {
            living,
            mut child,
            listed,
            ..
        } = self;
        drop(living);
        let status = child.wait().await;
        if let Some(listed) = listed {
            listed.remove().await;
        }
        status
    }
}

// === impl Groups ===

impl Groups {
    /// The groups of this process.
    pub fn of_this_process() -> &'static Self {
        &GROUPS
    }

    fn new(children: &'static Children) -> Self {
        Self {
            children,
            living: Mutex::new(Vec::new()),
            list: Mutex::new(None),
        }
    }

    fn keep_list_in(&self, data: &Path) -> io::Result<()> {
        let list = RunningList::of(data)?
            .map(BackgroundList::new)
            .transpose()?;
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
        Ok(())
    }

    /// Adds a command to the list. One that can't be listed runs all the same: that does harm only after a SIGKILL.
    async fn note(&self, claim: &str) -> Option<Entry> {
        let list = self
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        let noted = list.note(claim).await;
        noted.inspect_err(leftovers::not_listed).ok()
    }

    fn spawn(&'static self, mut command: Command) -> Result<(Child, Living), NotStarted> {
        let mut starting = self.children.starting().ok_or(NotStarted::ProcessEnds)?;
        let child = starting.start(&mut command).map_err(NotStarted::Failed)?;
        let id = child.pid();
        self.living().push(id);
        // The command counts as being started until it is in `living`: `kill_all` waits for that.
        drop(starting);
        Ok((child, Living { id, groups: self }))
    }

    fn kill_all(&self) -> usize {
        self.children.close();
        // A command that is being spawned will be in `living` in a moment. But a spawn can hang, for example
        // on a dead network file system, and must not keep the others alive.
        let deadline = Instant::now() + SPAWN_WAIT;
        while self.children.is_starting() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        // No leader can be reaped while the lock is held, so each of these ids still belongs to its group.
        let living = self.living();
        for id in living.iter() {
            signal_group(*id, Signal::KILL);
        }
        living.len()
    }

    fn living(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Living ===

impl Living {
    fn signal(&self, signal: Signal) {
        signal_group(self.id, signal);
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let mut living = self.groups.living();
        self.signal(Signal::KILL);
        living.retain(|id| *id != self.id);
        drop(living);
        self.groups.children.group_ended(self.id);
    }
}

fn signal_group(id: Pid, signal: Signal) {
    // Other code in this process reaped it by waiting for any child: the id may belong to another process now.
    if look_at(id) == Err(Errno::CHILD) {
        return;
    }
    if let Err(error) = rustix::process::kill_process_group(id, signal) {
        // Either no process is left, which is fine, or it runs as another user, which is not.
        if error != Errno::SRCH {
            tracing::warn!(%error, group = %id, ?signal, "a command could not be signalled");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn groups() -> &'static Groups {
        let children = Box::leak(Box::default());
        Box::leak(Box::new(Groups::new(children)))
    }

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    #[tokio::test]
    async fn killing_all_leaves_none_and_lets_none_be_started() {
        let groups = groups();
        let first = Group::spawn(sleeper(), "claim", groups).await.unwrap();
        let second = Group::spawn(sleeper(), "claim", groups).await.unwrap();

        assert_eq!(groups.kill_all(), 2);

        for group in [first, second] {
            group.ended().await;
            assert_eq!(group.reap().await.unwrap().signal(), Some(9));
        }
        let third = Group::spawn(sleeper(), "claim", groups).await;
        assert!(matches!(third, Err(NotStarted::ProcessEnds)));
        assert!(groups.living().is_empty());
    }

    #[tokio::test]
    async fn a_spawn_that_hangs_does_not_keep_the_others_alive() {
        let groups = groups();
        let group = Group::spawn(sleeper(), "claim", groups).await.unwrap();
        let hangs = groups.children.starting().unwrap();

        assert_eq!(groups.kill_all(), 1);

        drop(hangs);
        group.ended().await;
    }

    #[tokio::test]
    async fn the_end_is_seen_without_a_pidfd_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let mut group = Group::spawn(command, "claim", groups()).await.unwrap();
        group.end = EndWatch::by_looking(group.living.id);

        group.ended().await;

        assert_eq!(group.reap().await.unwrap().code(), Some(3));
    }

    #[tokio::test]
    async fn a_group_that_is_dropped_is_killed() {
        let groups = groups();
        let group = Group::spawn(sleeper(), "claim", groups).await.unwrap();
        let id = group.living.id;

        drop(group);

        assert!(groups.living().is_empty());
        // This returns when it is dead, or with an error if it was reaped already.
        use rustix::process::{WaitId, WaitIdOptions};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = rustix::process::waitid(WaitId::Pid(id), options);
    }
}
