//! The watchdog: a separate thread that ends the process at its deadline, whatever the runtime, the
//! handlers or the peers do. A process that ends itself can log that; one that is killed can't.

use std::{
    io::Write,
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// The exit status of a process that was ended by its watchdog.
pub const EXIT_WATCHDOG: i32 = 70;

/// Maximum time for the last wills.
const WILLS: Duration = Duration::from_millis(250);

/// Maximum time for the last line after them. Writing it hangs if nobody reads the log, which may be why the
/// watchdog barks at all; so it takes no more than this from the margin behind the deadline.
const LINE: Duration = Duration::from_millis(50);

/// Time for the main thread to end the process by itself if it was told to before it had begun anything. It
/// may hang in reading a configuration file that is a pipe or lies on a network file system.
const START: Duration = Duration::from_millis(500);

/// Maximum time from barking to the end of the process.
pub(super) const WORDS: Duration = WILLS.saturating_add(LINE);

type Will = Box<dyn FnOnce() + Send>;

/// Ends the process at an instant, unless it is given a later one before then.
///
/// Uses the operating system's clock and a plain thread, never tokio's: it must bark even if the runtime is
/// starved.
#[derive(Clone, Debug)]
pub struct Watchdog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    deadline: Option<Instant>,
    last_will: Vec<Will>,
    /// Whether there is nothing yet that would have to be drained.
    nothing_begun: bool,
}

/// How the process ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The drain missed its deadline.
    Overdue,
    /// The process was told to end before it had begun anything.
    NothingBegun,
}

// === impl Watchdog ===

impl Watchdog {
    /// Starts its threads, which sleep until it barks: one that ends the process, and one for the last words,
    /// which may hang. Both are started now, because at the end the system may refuse a new thread.
    pub fn spawn() -> std::io::Result<Self> {
        let watchdog = Self::disabled();
        let shared = watchdog.0.clone();
        let (bark, barked) = mpsc::channel();
        let (spoken, end_of_words) = mpsc::channel();
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        thread("lameduck-words").spawn(move || {
            if let Ok((wills, ending)) = barked.recv() {
                execute(wills);
                let _ = spoken.send(());
                say_so(ending);
                let _ = spoken.send(());
            }
        })?;
        thread("lameduck-watchdog").spawn(move || {
            let (wills, ending) = shared.watch();
            let _ = bark.send((wills, ending));
            let _ = end_of_words.recv_timeout(WILLS);
            let _ = end_of_words.recv_timeout(LINE);
            signal_hook::low_level::exit(ending.status());
        })?;
        Ok(watchdog)
    }

    /// Returns a watchdog that never barks, for a process whose end is enforced by somebody else.
    pub fn disabled() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                deadline: None,
                last_will: Vec::new(),
                nothing_begun: false,
            }),
            changed: Condvar::new(),
        }))
    }

    /// Sets the instant at which the process ends, replacing any earlier setting.
    pub fn arm(&self, deadline: Instant) {
        self.0.lock().deadline = Some(deadline);
        self.0.changed.notify_all();
    }

    /// Like [`arm`](Self::arm), but never moves the instant to a later one.
    pub fn arm_no_later(&self, deadline: Instant) {
        let mut state = self.0.lock();
        state.deadline = Some(state.deadline.map_or(deadline, |d| d.min(deadline)));
        self.0.changed.notify_all();
    }

    /// Lets a signal end the process after a moment, and with success, until [`begin`](Self::begin).
    pub(super) fn nothing_begun(&self) {
        self.0.lock().nothing_begun = true;
    }

    /// Lets a signal begin a drain from now on. Returns `false` if one has come already.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.0.lock();
        if state.nothing_begun && state.deadline.is_some() {
            return false;
        }
        state.nothing_begun = false;
        true
    }

    /// Notes a signal: the process ends after the grace period, or in a moment if nothing was begun.
    pub(super) fn signalled(&self, now: Instant, grace: Duration) {
        let mut state = self.0.lock();
        let deadline = now + if state.nothing_begun { START } else { grace };
        state.deadline = Some(state.deadline.map_or(deadline, |d| d.min(deadline)));
        self.0.changed.notify_all();
    }

    /// Adds something to do just before the process is ended, on a thread of the watchdog: for example, to kill a
    /// command's process group, which would otherwise outlive the process. It must not use the runtime, and nothing
    /// waits for it if it blocks.
    pub fn last_will(&self, will: impl FnOnce() + Send + 'static) {
        self.0.lock().last_will.push(Box::new(will));
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the deadline, and returns what is still to be done.
    fn watch(&self) -> (Vec<Will>, Ending) {
        let mut state = self.lock();
        loop {
            let wait = match state.deadline {
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    None | Some(Duration::ZERO) => break,
                    Some(left) => left,
                },
                None => Duration::from_secs(3600),
            };
            state = self
                .changed
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let ending = match state.nothing_begun {
            true => Ending::NothingBegun,
            false => Ending::Overdue,
        };
        (std::mem::take(&mut state.last_will), ending)
    }
}

// === impl Ending ===

impl Ending {
    fn status(self) -> i32 {
        match self {
            Self::Overdue => EXIT_WATCHDOG,
            Self::NothingBegun => 0,
        }
    }

    fn line(self) -> &'static str {
        match self {
            Self::Overdue => {
                "{\"level\":\"ERROR\",\"message\":\"the drain did not end before its deadline; \
                 the watchdog ends the process\",\"outcome\":\"watchdog\"}\n"
            }
            Self::NothingBegun => {
                "{\"level\":\"INFO\",\"message\":\"told to end before anything was begun; there is nothing to \
                 drain\"}\n"
            }
        }
    }
}

fn execute(wills: Vec<Will>) {
    for will in wills {
        will();
    }
}

fn say_so(ending: Ending) {
    // This does not use `tracing`, because the thread that hangs may hold its locks.
    let _ = std::io::stderr().write_all(ending.line().as_bytes());
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
