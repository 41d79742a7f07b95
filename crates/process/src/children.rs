//! The children that this process started, told apart from the orphans that it adopted.
//!
//! A child that has ended stays a zombie until its parent reaps it, and the code that reaps it takes its exit
//! status. So anybody may reap an orphan, but only its owner may reap a child that was started here. The
//! kernel does not tell the two apart; this list does:
//!
//! ```text
//!   start begins ─▶ (the child may live, or have ended, and is not in the list yet) ─▶ awaited ─▶ reaped, out of the list
//! ```
//!
//! A zombie that is not in the list may therefore be the child of a start that is under way. It is certainly
//! an orphan once every start that was under way when it was first seen has finished, and it is still not in
//! the list. No lock is held while a command is started, so a start that hangs delays no others.
//!
//! Process ids cannot be mixed up on the way: until a zombie is reaped nobody else gets its id, and whenever
//! one of our own is reaped, the notes about its id are dropped.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    process::ExitStatus,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, WaitOptions},
};
use tokio::process::{ChildStderr, ChildStdout, Command};

/// The children of this process that somebody waits for.
#[derive(Default)]
pub struct Children(Mutex<State>);

#[derive(Default)]
struct State {
    /// Whether nothing may be started any more.
    closed: bool,
    /// The number of the next start.
    next: u64,
    /// Starts that are under way.
    starting: BTreeSet<u64>,
    /// Children that somebody waits for, or whose owner left them to the runtime to reap.
    awaited: HashSet<Pid>,
    left_to_runtime: HashSet<Pid>,
    /// Zombies that are not in the list, with the number of the next start when each was first seen.
    seen: HashMap<Pid, u64>,
    /// Groups whose leader was started here and has been reaped; kept while they have members, and only for a
    /// reaper that asks for them.
    ended_groups: Option<HashSet<Pid>>,
}

/// The start of a child, from before it can exist until it is in the list.
pub struct Starting {
    children: &'static Children,
    number: u64,
    /// Whether a failed start may have had a child all the same.
    had_child: bool,
}

/// A child in the list. It leaves the list when it has been reaped.
pub struct Awaited {
    children: &'static Children,
    pid: Pid,
    reaped: bool,
}

/// The meaning of a process id among our children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A child that is alive, that somebody waits for, or that is gone.
    NotForUs,
    /// A zombie that may be the child of a start which is under way.
    Doubtful,
    /// An orphan's zombie, unless other code in this process starts children and does not enter them here.
    Orphan,
}

/// A command that the reaper of orphans leaves to its owner; see [`spawn`].
pub struct Child {
    inner: tokio::process::Child,
    // Declared after `inner`: a child that is dropped unreaped goes to the runtime first.
    awaited: Awaited,
}

/// Starts a command whose exit status [`reap_orphans`](crate::reap_orphans) will certainly not take. A
/// process that reaps orphans must start every child this way.
///
/// # Errors
/// If the command can't be started, or the process is about to end.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut starting = Children::of_this_process()
        .starting()
        .ok_or_else(|| io::Error::other("this process is about to end"))?;
    starting.start(command)
}

// === impl Child ===

impl Child {
    /// Returns its process id.
    pub fn pid(&self) -> Pid {
        self.awaited.pid
    }

    /// Returns our ends of the pipes that were asked for, the first time only.
    pub fn pipes(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.inner.stdout.take(), self.inner.stderr.take())
    }

    /// Waits for its end. Afterwards the process id may belong to anybody.
    ///
    /// # Errors
    /// If somebody else took the exit status.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.inner.wait().await;
        self.awaited.reaped();
        status
    }
}

// === impl Children ===

impl Children {
    /// Returns the children of this process.
    pub fn of_this_process() -> &'static Self {
        static CHILDREN: LazyLock<Children> = LazyLock::new(Children::default);
        &CHILDREN
    }

    /// Announces a child. `None` if nothing may be started any more.
    pub fn starting(&'static self) -> Option<Starting> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.starting.insert(number);
        Some(Starting {
            children: self,
            number,
            had_child: true,
        })
    }

    /// Forbids starting children from now on.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Whether a start is under way.
    pub fn is_starting(&self) -> bool {
        !self.state().starting.is_empty()
    }

    /// Remembers from now on which groups were ours, while they have members.
    pub fn remember_groups(&self) {
        self.state().ended_groups.get_or_insert_default();
    }

    /// Notes that the leader of this group is about to be reaped.
    pub fn group_ended(&self, id: Pid) {
        if let Some(groups) = &mut self.state().ended_groups {
            groups.insert(id);
        }
    }

    /// Whether this group was ours and may still have members. Nobody else gets its id as long as it has any.
    pub fn was_group(&self, id: Pid) -> bool {
        let state = self.state();
        let groups = state.ended_groups.as_ref();
        groups.is_some_and(|groups| groups.contains(&id))
    }

    /// Forgets groups without members, and children that the runtime has reaped.
    pub fn tidy(&self) {
        let mut state = self.state();
        if let Some(groups) = &mut state.ended_groups {
            groups.retain(|id| {
                rustix::process::test_kill_process_group(*id).err() != Some(Errno::SRCH)
            });
        }
        state
            .left_to_runtime
            .retain(|pid| !matches!(look_at(*pid), Err(Errno::CHILD)));
    }

    /// Returns those of these process ids that nobody here waits for.
    pub fn not_awaited(&self, pids: Vec<Pid>) -> Vec<Pid> {
        let state = self.state();
        let mut pids = pids;
        pids.retain(|pid| !state.is_owned(*pid));
        pids
    }

    /// Returns what this child is.
    pub fn look(&self, pid: Pid) -> Sight {
        self.state().look(pid)
    }

    /// Reaps a zombie that was [seen](Self::look) and that nobody here waits for, unless its id may have
    /// changed hands since. If `certain`, a doubtful one is reaped, too.
    pub fn reap(&self, pid: Pid, certain: bool) -> bool {
        let mut state = self.state();
        // If it was seen before and never forgotten since, it is still the same zombie.
        let is_same = state.seen.contains_key(&pid);
        match state.look(pid) {
            Sight::Orphan => {}
            Sight::Doubtful if certain && is_same => {}
            Sight::Doubtful | Sight::NotForUs => return false,
        }
        // Still under the lock: no child of ours can have got this process id meanwhile.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let reaped = rustix::process::waitid(WaitId::Pid(pid), options);
        state.seen.remove(&pid);
        matches!(reaped, Ok(Some(_)))
    }

    /// Reaps every zombie if nobody waits for any child: for a process that can't list its children. Returns
    /// how many there were.
    pub fn reap_all_if_none_is_awaited(&self) -> usize {
        let state = self.state();
        let none = state.starting.is_empty()
            && state.awaited.is_empty()
            && state.left_to_runtime.is_empty();
        let mut reaped = 0;
        while none && matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {
            reaped += 1;
        }
        reaped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn is_owned(&self, pid: Pid) -> bool {
        self.awaited.contains(&pid) || self.left_to_runtime.contains(&pid)
    }

    fn look(&mut self, pid: Pid) -> Sight {
        if self.is_owned(pid) || !matches!(look_at(pid), Ok(true)) {
            self.seen.remove(&pid);
            return Sight::NotForUs;
        }
        let first_seen = *self.seen.entry(pid).or_insert(self.next);
        match self.starting.first() {
            Some(oldest) if *oldest < first_seen => Sight::Doubtful,
            _ => Sight::Orphan,
        }
    }
}

// === impl Starting ===

impl Starting {
    /// Starts the command, and enters it into the list. The start lasts until this value is dropped.
    pub fn start(&mut self, command: &mut Command) -> io::Result<Child> {
        let inner = command.spawn().inspect_err(|error| {
            // Without a process or a descriptor nothing was forked.
            let errno = Errno::from_io_error(error);
            self.had_child = !matches!(errno, Some(Errno::AGAIN | Errno::MFILE | Errno::NFILE));
        })?;
        let pid = inner
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| io::Error::other("it has no process id"))?;
        let children = self.children;
        let mut state = children.state();
        state.awaited.insert(pid);
        // It may have ended already, and have been seen.
        state.seen.remove(&pid);
        drop(state);
        self.had_child = false;
        let awaited = Awaited {
            children,
            pid,
            reaped: false,
        };
        Ok(Child { inner, awaited })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut state = self.children.state();
        state.starting.remove(&self.number);
        if self.had_child {
            // It was reaped where the start failed, and its id is unknown.
            state.seen.clear();
        }
    }
}

// === impl Awaited ===

impl Awaited {
    /// Notes that its owner has reaped it: its process id may be anybody's now.
    pub fn reaped(&mut self) {
        let mut state = self.children.state();
        state.awaited.remove(&self.pid);
        state.seen.remove(&self.pid);
        self.reaped = true;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if !self.reaped {
            // The runtime reaps a child dropped unreaped. It goes by the process id, so nobody else may reap it first.
            let mut state = self.children.state();
            state.awaited.remove(&self.pid);
            state.left_to_runtime.insert(self.pid);
        }
    }
}

/// Whether a child has ended, without reaping it.
pub fn look_at(child: Pid) -> rustix::io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(child), options).map(|status| status.is_some())
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    fn children() -> &'static Children {
        Box::leak(Box::default())
    }

    /// Returns a child that is in no list, and has ended.
    #[allow(clippy::zombie_processes, reason = "a zombie is what is asked for")]
    fn zombie() -> Pid {
        let child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        until_ended(pid);
        pid
    }

    fn until_ended(pid: Pid) {
        while !look_at(pid).unwrap() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_zombie_that_nobody_waits_for_is_an_orphan() {
        let children = children();
        let pid = zombie();

        assert_eq!(children.look(pid), Sight::Orphan);
        assert!(children.reap(pid, false));

        assert_eq!(look_at(pid), Err(Errno::CHILD));
        assert_eq!(children.look(pid), Sight::NotForUs);
    }

    #[tokio::test]
    async fn the_exit_status_of_what_was_started_here_is_left_to_its_owner() {
        let children = children();
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        let mut child = children.starting().unwrap().start(&mut command).unwrap();
        until_ended(child.pid());

        assert_eq!(children.not_awaited(vec![child.pid()]), []);
        assert_eq!(children.look(child.pid()), Sight::NotForUs);
        assert!(!children.reap(child.pid(), true));
        assert_eq!(children.reap_all_if_none_is_awaited(), 0);

        assert_eq!(child.wait().await.unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn a_zombie_that_came_during_a_start_is_doubtful_until_that_start_is_over() {
        let children = children();
        let mut first = children.starting().unwrap();
        let pid = zombie();
        assert_eq!(children.look(pid), Sight::Doubtful);
        assert!(!children.reap(pid, false));

        // A start that began later can't have started it.
        let _second = children.starting().unwrap();
        let mut child = first.start(&mut Command::new("true")).unwrap();
        drop(first);

        assert_eq!(children.look(pid), Sight::Orphan);
        assert!(children.reap(pid, false));
        child.wait().await.unwrap();
    }

    #[tokio::test]
    async fn after_a_start_that_failed_what_was_seen_is_seen_anew() {
        let children = children();
        let mut first = children.starting().unwrap();
        let pid = zombie();
        assert_eq!(children.look(pid), Sight::Doubtful);
        let _second = children.starting().unwrap();

        assert!(first.start(&mut Command::new("/nowhere/at-all")).is_err());
        drop(first);

        // It may be the second one's by now, as far as anybody knows.
        assert_eq!(children.look(pid), Sight::Doubtful);
        assert!(children.reap(pid, true), "unless it is certain otherwise");
    }

    #[tokio::test]
    async fn what_is_dropped_is_left_to_the_runtime_and_then_forgotten() {
        let children = children();
        let mut starting = children.starting().unwrap();
        let child = starting.start(&mut Command::new("true")).unwrap();
        drop(starting);
        let pid = child.pid();
        drop(child);

        assert_eq!(children.not_awaited(vec![pid]), []);
        // The runtime reaps it when the next child ends.
        while look_at(pid) != Err(Errno::CHILD) {
            Command::new("true").status().await.unwrap();
        }
        children.tidy();
        assert_eq!(children.not_awaited(vec![pid]), [pid]);
    }
}
