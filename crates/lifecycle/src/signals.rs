//! SIGTERM and SIGINT, handled on a thread of their own: T0 is when the signal came, not when a busy runtime
//! noticed it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant as StdInstant},
};

use signal_hook::{
    consts::signal::{SIGINT, SIGTERM},
    iterator,
};
use tokio::{sync::mpsc, time::Instant};

use super::{budget::HURRY, conductor::SIGNAL_ECHO, watchdog::Watchdog};

/// The signals that begin a drain, and the watchdog that they arm.
///
/// Install it first thing in `main`: until then a SIGTERM kills the process, or, if it is PID 1 of a
/// container, is ignored by the kernel.
#[derive(Debug)]
pub struct Signals {
    pub(super) received: mpsc::UnboundedReceiver<Instant>,
    pub(super) watchdog: Watchdog,
    grace: Arc<Mutex<Duration>>,
    /// The handle for adding signals to those that are handled.
    taken: Option<iterator::Handle>,
    /// Keeps `received` open when no thread does.
    _sender: mpsc::UnboundedSender<Instant>,
}

/// Begins a drain as a signal would, for programs that take their signals themselves, and for tests.
#[derive(Clone, Debug)]
pub struct Trigger(mpsc::UnboundedSender<Instant>);

// === impl Signals ===

impl Signals {
    /// Installs the handlers of SIGTERM and SIGINT, and starts the watchdog.
    ///
    /// # Errors
    /// Fails if the operating system refuses a thread or a handler.
    pub fn install() -> io::Result<Self> {
        let watchdog = Watchdog::spawn()?;
        let (sender, received) = mpsc::unbounded_channel();
        let grace = Arc::new(Mutex::new(Duration::from_secs(30)));
        let signals = iterator::Signals::new([SIGTERM, SIGINT])?;
        let taken = signals.handle();
        let thread = Receiver {
            sender: sender.clone(),
            watchdog: watchdog.clone(),
            grace: grace.clone(),
            first: None,
        };
        std::thread::Builder::new()
            .name("lameduck-signals".into())
            .spawn(move || thread.run(signals))?;
        Ok(Self {
            received,
            watchdog,
            grace,
            taken: Some(taken),
            _sender: sender,
        })
    }

    /// Handles these signals too, as if each were SIGTERM.
    ///
    /// # Errors
    /// Fails if the operating system refuses a handler.
    pub fn take_also(&self, signals: &[i32]) -> io::Result<()> {
        match &self.taken {
            Some(taken) => signals
                .iter()
                .try_for_each(|signal| taken.add_signal(*signal)),
            None => Ok(()),
        }
    }

    /// Declares that there is nothing to drain until [`begin`](Self::begin). Until then a signal ends the process
    /// within a second, with exit status 0 and a line that says so, even if the main thread hangs in what it reads.
    pub fn nothing_begun(self) -> Self {
        self.watchdog.nothing_begun();
        self
    }

    /// Lets a signal begin a drain from now on. Returns `false` if one has come already: there is nothing to drain,
    /// and the process should end.
    #[must_use = "where it is false the process was told to end"]
    pub fn begin(&self) -> bool {
        self.watchdog.begin()
    }

    /// Handles no signals and runs no watchdog; the trigger begins the drain.
    pub fn manual() -> (Self, Trigger) {
        let (sender, received) = mpsc::unbounded_channel();
        let signals = Self {
            received,
            watchdog: Watchdog::disabled(),
            grace: Arc::default(),
            taken: None,
            _sender: sender.clone(),
        };
        (signals, Trigger(sender))
    }

    /// Waits for the first signal, and consumes it. For a program that waits for something before it runs its
    /// [`Lifecycle`](super::Lifecycle), and should end if it is told to in the meantime.
    pub async fn received(&mut self) {
        // The channel stays open as long as `self` lives.
        let _ = self.received.recv().await;
    }

    /// Adds something to do just before the watchdog ends the process; see [`Watchdog::last_will`].
    pub fn last_will(&self, will: impl FnOnce() + Send + 'static) {
        self.watchdog.last_will(will);
    }

    /// Sets how long after a signal the watchdog barks if the runtime does not even see that signal.
    pub(super) fn expect_grace(&self, usable: Duration) {
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner) = usable;
    }
}

// === impl Trigger ===

impl Trigger {
    /// Acts as if a signal had come just now. A second call, a second or more later, hurries the drain.
    pub fn fire(&self) {
        // Fails only if the drain is over.
        let _ = self.0.send(Instant::now());
    }
}

struct Receiver {
    sender: mpsc::UnboundedSender<Instant>,
    watchdog: Watchdog,
    grace: Arc<Mutex<Duration>>,
    first: Option<StdInstant>,
}

// === impl Receiver ===

impl Receiver {
    fn run(mut self, mut signals: iterator::Signals) {
        for _ in &mut signals {
            let now = StdInstant::now();
            match self.first {
                None => {
                    self.first = Some(now);
                    let grace = *self.grace.lock().unwrap_or_else(PoisonError::into_inner);
                    // The program may have begun a drain itself, and that drain may end sooner.
                    self.watchdog.signalled(now, grace);
                }
                Some(first) if now.duration_since(first) >= SIGNAL_ECHO => {
                    self.watchdog.arm_no_later(now + HURRY);
                }
                Some(_) => {}
            }
            if self.sender.send(Instant::from_std(now)).is_err() {
                // The drain is over and the process is about to end: a signal now ends it within a second.
                self.watchdog.arm_no_later(now + HURRY);
            }
        }
    }
}
