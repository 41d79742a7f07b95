//! The watchdog: a thread of its own that ends the process at its deadline, whatever the runtime, the
//! handlers or the peers do. A process that ends itself can say so; one that is killed can't.

use std::{
    io::Write,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The exit status of a process that its watchdog ended.
pub const EXIT_WATCHDOG: i32 = 70;

/// Ends the process at an instant, unless told a later one before.
///
/// Uses the operating system's clock and a plain thread, never tokio's: it must bark when the runtime is
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
    last_will: Vec<Box<dyn FnOnce() + Send>>,
}

// === impl Watchdog ===

impl Watchdog {
    /// Starts the thread; it sleeps until armed.
    pub fn spawn() -> std::io::Result<Self> {
        let watchdog = Self::disabled();
        let shared = watchdog.0.clone();
        std::thread::Builder::new()
            .name("lameduck-watchdog".into())
            .spawn(move || shared.watch())?;
        Ok(watchdog)
    }

    /// One that never barks, for a process whose end somebody else watches over.
    pub fn disabled() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                deadline: None,
                last_will: Vec::new(),
            }),
            changed: Condvar::new(),
        }))
    }

    /// The process ends at this instant; replaces what was said before.
    pub fn arm(&self, deadline: Instant) {
        self.0.lock().deadline = Some(deadline);
        self.0.changed.notify_all();
    }

    /// As [`arm`](Self::arm), where nothing earlier was said.
    pub fn arm_no_later(&self, deadline: Instant) {
        let mut state = self.0.lock();
        state.deadline = Some(state.deadline.map_or(deadline, |d| d.min(deadline)));
        self.0.changed.notify_all();
    }

    /// Something to do just before the process is ended, on the watchdog's thread: what would outlive the
    /// process otherwise, such as a command's process group. It must not block and not use the runtime.
    pub fn last_will(&self, will: impl FnOnce() + Send + 'static) {
        self.0.lock().last_will.push(Box::new(will));
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
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
        let wills = std::mem::take(&mut state.last_will);
        drop(state);
        for will in wills {
            will();
        }
        // Not through `tracing`: whoever holds its locks may be what hangs.
        let _ = std::io::stderr().write_all(
            b"{\"level\":\"ERROR\",\"message\":\"the drain did not end before its deadline; \
              the watchdog ends the process\",\"outcome\":\"watchdog\"}\n",
        );
        signal_hook::low_level::exit(EXIT_WATCHDOG);
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
