//! A command and its process group: started, signalled, ended, reaped, in an order that can't hit
//! anybody else.
//!
//! A process id is free for somebody else as soon as its process is reaped; until then it is a zombie's,
//! and so is the id of its group. So a group is signalled only while its leader is unreaped: [`Living`]
//! stands for that, and goes before the leader is waited for.
//!
//! ```text
//!   spawn ─▶ Living ── SIGTERM, SIGKILL ──▶ the leader ends (seen, not reaped) ─▶ the rest is killed, Living goes ─▶ reaped
//! ```
//!
//! From before the spawn until it is reaped a command is in a [list](RunningList), by which the next process ends it
//! where this one was killed.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    process::ExitStatus,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, ChildStderr, ChildStdout, Command},
};

use crate::leftovers::{Listed, RunningList};

/// How often to look where the kernel can't tell (no pidfd: before Linux 5.3, or forbidden).
const LOOK: Duration = Duration::from_millis(20);
/// How long [`kill_all_groups`] waits for a command that is just being started.
const SPAWN_WAIT: Duration = Duration::from_millis(200);
/// How long what was killed is waited for where it is ours to reap.
const REAP_WAIT: Duration = Duration::from_secs(5);

/// A running command.
pub(super) struct Group {
    // Before `child`, so that whoever drops this kills the group before anybody may reap its leader.
    living: Living,
    child: Child,
    pidfd: Option<AsyncFd<OwnedFd>>,
    // Behind `living`: whoever is not killed yet stays in the list.
    listed: Option<Listed>,
}

/// Why there is no command.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// [`kill_all_groups`] was called: nothing may be started any more.
    ProcessEnds,
    /// The system could not start it.
    Failed(io::Error),
}

/// The groups that live.
pub(super) struct Groups {
    closed: AtomicBool,
    /// Held for reading from before a spawn until its group is in the list.
    spawning: RwLock<()>,
    living: Mutex<Vec<Pid>>,
    /// For the next process, where there is a place for it.
    list: Mutex<Option<RunningList>>,
}

/// The right to signal a group. Dropped, it kills what is left of it.
struct Living {
    id: Pid,
    groups: &'static Groups,
}

static GROUPS: Groups = Groups::new();

/// Kills every command that [`Exec`](super::Exec) runs in this process, with all of its group, and lets
/// none be started any more. For whoever is about to end the process: what a command does after it would
/// be done beside the job's next run. Says how many there were.
///
/// Blocks, but for a fraction of a second at most; made to be called from a thread of its own.
pub fn kill_all_groups() -> usize {
    GROUPS.kill_all()
}

/// Keeps a list of the commands that run, in the data directory that this process owns: after a SIGKILL the next
/// process to [open](crate::engine) the queue there ends them before their jobs run again. To be called
/// before the first job runs.
///
/// # Errors
/// Where the list's folder can't be made.
pub fn keep_list_in(data: &Path) -> io::Result<()> {
    GROUPS.keep_list_in(data)
}

// === impl Group ===

impl Group {
    /// Starts the command as the leader of a new group. It has this claim in its environment.
    pub fn spawn(
        mut command: Command,
        claim: &str,
        groups: &'static Groups,
    ) -> Result<Self, NotStarted> {
        command.process_group(0);
        let listed = groups.note(claim);
        let (child, living) = groups.spawn(command)?;
        let mut group = Self {
            pidfd: watch(living.id),
            living,
            child,
            listed,
        };
        group.note_leader();
        Ok(group)
    }

    fn note_leader(&mut self) {
        if let Some(listed) = &mut self.listed
            && let Err(error) = listed.started(self.living.id)
        {
            not_listed(&error);
        }
    }

    /// Its ends of the pipes; there once.
    pub fn pipes(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        let child = &mut self.child;
        (child.stdout.take(), child.stderr.take())
    }

    /// Signals the leader and all that it started and that did not leave.
    pub fn signal(&self, signal: Signal) {
        self.living.signal(signal);
    }

    /// Returns when the leader has ended. It stays unreaped.
    pub async fn ended(&self) {
        while !self.living.leader_ended() {
            match &self.pidfd {
                Some(pidfd) => match pidfd.readable().await {
                    Ok(_) if self.living.leader_ended() => return,
                    Ok(mut spurious) => spurious.clear_ready(),
                    Err(_) => tokio::time::sleep(LOOK).await,
                },
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Kills what is left of the group, then reaps the leader.
    pub async fn reap(self) -> io::Result<ExitStatus> {
        let Self {
            living,
            mut child,
            listed,
            ..
        } = self;
        let (id, groups) = (living.id, living.groups);
        drop(living);
        let status = child.wait().await;
        drop(listed);
        if adopts_orphans() {
            tokio::spawn(reap_adopted(id, groups));
        }
        status
    }
}

/// A descriptor that is readable when the process has ended.
fn watch(id: Pid) -> Option<AsyncFd<OwnedFd>> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open};
        let pidfd = pidfd_open(id, PidfdFlags::empty()).ok()?;
        #[allow(
            deprecated,
            reason = "its successor is an unsafe fn, because a descriptor could be closed behind its back; an OwnedFd \
                      that nobody else gets to see is what it asks for"
        )]
        AsyncFd::with_interest(pidfd, Interest::READABLE).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (id, Interest::READABLE);
        None
    }
}

/// True for PID 1, as which we run in most containers, and for a subreaper.
fn adopts_orphans() -> bool {
    #[cfg(target_os = "linux")]
    if rustix::process::child_subreaper().is_ok_and(|subreaper| subreaper.is_some()) {
        return true;
    }
    rustix::process::getpid().is_init()
}

/// Reaps what the leader left behind and we killed: adopted, it would stay a zombie for ever, one for each
/// job, until the container is out of process ids.
async fn reap_adopted(id: Pid, groups: &'static Groups) {
    let deadline = Instant::now() + REAP_WAIT;
    while Instant::now() < deadline {
        match groups.reap_one(id) {
            Reaped::One => {}
            Reaped::NotYet => tokio::time::sleep(LOOK).await,
            Reaped::All => return,
        }
    }
}

// === impl Groups ===

enum Reaped {
    One,
    NotYet,
    All,
}

impl Groups {
    /// The ones of this process.
    pub fn of_this_process() -> &'static Self {
        &GROUPS
    }

    const fn new() -> Self {
        Self {
            closed: AtomicBool::new(false),
            spawning: RwLock::new(()),
            living: Mutex::new(Vec::new()),
            list: Mutex::new(None),
        }
    }

    fn keep_list_in(&self, data: &Path) -> io::Result<()> {
        let list = RunningList::of(data)?;
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
        Ok(())
    }

    /// A command that can't be listed runs all the same: what it would take to do it harm is a SIGKILL.
    fn note(&self, claim: &str) -> Option<Listed> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let list = list.clone()?;
        list.note(claim).inspect_err(not_listed).ok()
    }

    fn spawn(&'static self, mut command: Command) -> Result<(Child, Living), NotStarted> {
        let _spawning = self.spawning.read().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::SeqCst) {
            return Err(NotStarted::ProcessEnds);
        }
        let child = command.spawn().map_err(NotStarted::Failed)?;
        let id = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| NotStarted::Failed(io::Error::other("it has no process id")))?;
        self.living().push(id);
        Ok((child, Living { id, groups: self }))
    }

    fn kill_all(&self) -> usize {
        self.closed.store(true, Ordering::SeqCst);
        // Whoever spawns now will be in the list in a moment. But a spawn can hang, on a dead network
        // file system for example, and must not keep the others alive.
        let deadline = Instant::now() + SPAWN_WAIT;
        while self.spawning.try_write().is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        // Under the lock no leader can be reaped: each of these ids is still its group's.
        let living = self.living();
        for id in living.iter() {
            signal_group(*id, Signal::KILL);
        }
        living.len()
    }

    /// Reaps a process of a group whose leader is gone.
    fn reap_one(&self, id: Pid) -> Reaped {
        // Nothing is spawned while we look: otherwise the id could just now become a new leader's.
        let Ok(_nothing_spawns) = self.spawning.try_write() else {
            return Reaped::NotYet;
        };
        if self.living().contains(&id) {
            return Reaped::All;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::Pgid(Some(id)), options) {
            Ok(Some(_)) => Reaped::One,
            Ok(None) | Err(Errno::INTR) => Reaped::NotYet,
            Err(_) => Reaped::All,
        }
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

    fn leader_ended(&self) -> bool {
        match look_at(self.id) {
            Ok(ended) => ended,
            Err(error) => error != Errno::INTR,
        }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let mut living = self.groups.living();
        self.signal(Signal::KILL);
        living.retain(|id| *id != self.id);
    }
}

/// Whether a leader has ended, without reaping it.
fn look_at(leader: Pid) -> rustix::io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(leader), options).map(|status| status.is_some())
}

fn not_listed(error: &io::Error) {
    tracing::warn!(
        %error,
        "a command can't be put into the list of those that run; after a SIGKILL of this process it would run on \
         beside its job's next run"
    );
}

fn signal_group(id: Pid, signal: Signal) {
    // Somebody else in this process reaped it, with a wait for any child: the id may be anybody's now.
    if look_at(id) == Err(Errno::CHILD) {
        return;
    }
    if let Err(error) = rustix::process::kill_process_group(id, signal) {
        // Nobody is left, which is fine, or it runs as another user, which is not.
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
        Box::leak(Box::new(Groups::new()))
    }

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    #[tokio::test]
    async fn killing_all_leaves_none_and_lets_none_be_started() {
        let groups = groups();
        let first = Group::spawn(sleeper(), "claim", groups).unwrap();
        let second = Group::spawn(sleeper(), "claim", groups).unwrap();

        assert_eq!(groups.kill_all(), 2);

        for group in [first, second] {
            group.ended().await;
            assert_eq!(group.reap().await.unwrap().signal(), Some(9));
        }
        let third = Group::spawn(sleeper(), "claim", groups);
        assert!(matches!(third, Err(NotStarted::ProcessEnds)));
        assert!(groups.living().is_empty());
    }

    #[tokio::test]
    async fn a_spawn_that_hangs_does_not_keep_the_others_alive() {
        let groups = groups();
        let group = Group::spawn(sleeper(), "claim", groups).unwrap();
        let hangs = groups.spawning.read().unwrap();

        assert_eq!(groups.kill_all(), 1);

        drop(hangs);
        group.ended().await;
    }

    #[tokio::test]
    async fn the_end_is_seen_without_a_pidfd_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let mut group = Group::spawn(command, "claim", groups()).unwrap();
        group.pidfd = None;

        group.ended().await;

        assert_eq!(group.reap().await.unwrap().code(), Some(3));
    }

    #[tokio::test]
    async fn a_group_that_is_dropped_is_killed() {
        let groups = groups();
        let group = Group::spawn(sleeper(), "claim", groups).unwrap();
        let id = group.living.id;

        drop(group);

        assert!(groups.living().is_empty());
        // Returns when it is dead, or with an error when it was reaped already.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = rustix::process::waitid(WaitId::Pid(id), options);
    }
}
