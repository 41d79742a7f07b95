//! Reaps what this process adopts.
//!
//! A process whose parent ends is adopted: by PID 1, which this program is in most containers, or by the nearest
//! ancestor that is a subreaper (`PR_SET_CHILD_SUBREAPER`). Commands leave such orphans behind (`setsid -f`,
//! daemons, the rest of a killed group), and so do others in the container: exec probes, `kubectl exec`. Each
//! stays a zombie until it is reaped, and holds a process id; a container that has none left can start nothing.
//!
//! ```text
//!   SIGCHLD ─▶ thread ─▶ children of the main thread ─▶ zombies that nobody here waits for ─▶ reaped
//! ```
//!
//! The kernel gives orphans to the main thread of the process that adopts them. Children of other threads are
//! not even looked at, and among the rest [`Children`] knows which ones somebody waits for.
//!
//! | in | it reaps |
//! | --- | --- |
//! | the program, and any caller of [`reap_orphans`] | every child that was not started by [`spawn`](crate::spawn) or by a handler |
//! | another program that runs commands by this handler | orphans in another session, or in a group that a command left behind |
//!
//! The thread is there from the start: when it is needed there may be no process id left for it.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::unix::{fs::FileExt, net::UnixStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, WaitId, WaitIdOptions};
use signal_hook::{consts::signal::SIGCHLD, low_level::pipe};

use crate::{
    children::{Children, Sight},
    seen::Seen,
};

/// Minimum time between two looks: many ends are handled by one look.
const PAUSE: Duration = Duration::from_millis(5);
/// Maximum time between two looks, while there are zombies that are not reaped yet.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether every child that nobody is known to wait for is an orphan.
static ALL: AtomicBool = AtomicBool::new(false);
/// Whether the thread is running.
static RUNNING: Mutex<bool> = Mutex::new(false);

/// Reaps every orphan that this process adopts from now on, as an init does, and makes it a subreaper unless
/// it is PID 1. For a program that starts every child by [`spawn`](crate::spawn), or enters it into
/// [`Children`] in another way: the exit status of any other child would be taken.
///
/// # Errors
/// If the system refuses a thread, or the signal's handler.
pub fn reap_orphans() -> io::Result<()> {
    ALL.store(true, Ordering::SeqCst);
    run()?;
    #[cfg(target_os = "linux")]
    {
        let this = rustix::process::getpid();
        if !this.is_init()
            && let Err(error) = rustix::process::set_child_subreaper(Some(this))
        {
            // In that case orphans go to another process, which has to reap them.
            tracing::debug!(%error, "this process can't become a subreaper");
        }
    }
    Ok(())
}

/// Reaps the processes that commands of this handler leave behind, if this process adopts them.
pub fn reap_leftovers_of_commands() {
    if adopts_orphans()
        && let Err(error) = run()
    {
        tracing::warn!(%error, "what commands leave behind can't be reaped, and stays a zombie");
    }
}

/// Whether this process is PID 1 or a subreaper.
fn adopts_orphans() -> bool {
    #[cfg(target_os = "linux")]
    if rustix::process::child_subreaper().is_ok_and(|subreaper| subreaper.is_some()) {
        return true;
    }
    rustix::process::getpid().is_init()
}

/// Starts the thread, unless it is running.
fn run() -> io::Result<()> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if *running {
        return Ok(());
    }
    let reaper = Reaper::new(Children::of_this_process())?;
    thread::Builder::new()
        .name("lameduck-reaper".to_owned())
        .spawn(move || reaper.run())?;
    *running = true;
    Ok(())
}

struct Reaper {
    children: &'static Children,
    /// Receives a byte for each SIGCHLD, or for some of them.
    signals: UnixStream,
    /// Open from the start: later no descriptor may be available.
    main_thread: Option<File>,
}

// === impl Reaper ===

impl Reaper {
    fn new(children: &'static Children) -> io::Result<Self> {
        children.remember_groups();
        let (signals, sender) = UnixStream::pair()?;
        pipe::register(SIGCHLD, sender)?;
        Ok(Self {
            children,
            signals,
            main_thread: open_children_of_main_thread(),
        })
    }

    fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let reaped = self.look();
            // One look handles many ends.
            thread::sleep(PAUSE);
            if reaped > 0 {
                pause = PAUSE;
                tracing::debug!(processes = reaped, "reaped orphans");
            }
            // A zombie that somebody waits for, that is doubtful, or that came while we looked.
            let patience = has_zombies().then_some(pause);
            pause = match patience {
                Some(_) => (pause * 2).min(LONGEST_PAUSE),
                None => PAUSE,
            };
            self.wait(patience);
        }
    }

    /// Waits until a child has ended, or for at most this long.
    fn wait(&mut self, patience: Option<Duration>) {
        // Only a time of zero is refused.
        let _ = self.signals.set_read_timeout(patience);
        let mut bytes = [0; 256];
        match self.signals.read(&mut bytes) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // There are no signals any more: look from time to time.
            Ok(_) | Err(_) => thread::sleep(patience.unwrap_or(LONGEST_PAUSE)),
        }
    }

    /// Reaps the orphans that there are. Returns how many.
    fn look(&self) -> usize {
        let all = ALL.load(Ordering::SeqCst);
        self.children.tidy();
        let Some(pids) = self.list() else {
            return match all {
                true => self.children.reap_all_if_none_is_awaited(),
                false => 0,
            };
        };
        let reap = |pid: &Pid| match self.children.look(*pid) {
            Sight::NotForUs => false,
            Sight::Orphan if all => self.children.reap(*pid, false),
            Sight::Orphan | Sight::Doubtful => {
                self.is_known_orphan(*pid) && self.children.reap(*pid, true)
            }
        };
        let pids = self.children.not_awaited(pids);
        pids.iter().filter(|pid| reap(pid)).count()
    }

    /// Whether inherited ids show that this is no child of ours: a process started here is in our session,
    /// and in our group or in one of its own.
    fn is_known_orphan(&self, pid: Pid) -> bool {
        let (Some(this), Some(child)) = (Seen::look(rustix::process::getpid()), Seen::look(pid))
        else {
            return false;
        };
        if child.session != this.session {
            return true;
        }
        let is_leader = child.group == pid.as_raw_nonzero().get();
        let group = Pid::from_raw(child.group);
        !is_leader && group.is_some_and(|group| self.children.was_group(group))
    }

    /// Returns the children of the main thread. `None` if there is no `/proc` of ours.
    fn list(&self) -> Option<Vec<Pid>> {
        let mut listed = String::new();
        if let Some(file) = &self.main_thread
            && read_whole(file, &mut listed).is_ok()
        {
            let pids = listed.split_ascii_whitespace();
            return Some(
                pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                    .collect(),
            );
        }
        proc_is_ours().then(|| {
            let this = rustix::process::getpid().as_raw_nonzero().get();
            let all = Seen::all().into_iter();
            all.filter(|seen| seen.parent == this)
                .map(|seen| seen.pid)
                .collect()
        })
    }
}

/// Returns `None` in a kernel without `CONFIG_PROC_CHILDREN`.
fn open_children_of_main_thread() -> Option<File> {
    let this = rustix::process::getpid().as_raw_nonzero();
    proc_is_ours()
        .then(|| File::open(format!("/proc/self/task/{this}/children")).ok())
        .flatten()
}

/// Whether the numbers in `/proc` are those of our own PID namespace.
fn proc_is_ours() -> bool {
    let this = rustix::process::getpid().as_raw_nonzero().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == this.as_str())
}

/// Reads a file from the beginning, whatever was read of it before.
fn read_whole(file: &File, text: &mut String) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let length @ 1.. = file.read_at(&mut piece, bytes.len() as u64)? {
        bytes.extend_from_slice(&piece[..length]);
    }
    text.push_str(&String::from_utf8_lossy(&bytes));
    Ok(())
}

fn has_zombies() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::All, options), Ok(Some(_)))
}
