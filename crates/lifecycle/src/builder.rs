//! [`Lifecycle`]: the builder by which a program is put together before it runs.

use std::{error::Error as StdError, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    conductor::{Input, Shape},
    drain::Drain,
    report::DrainReport,
    settings::DrainSettings,
    shell,
    signals::Signals,
};

/// Any error of a part of the program.
pub type BoxError = Box<dyn StdError + Send + Sync>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A function that is called once with its argument; its future returns how it went.
type Once<A> = Box<dyn FnOnce(A) -> BoxFuture<Result<(), BoxError>> + Send>;

/// A function that adds the parts that needed a preparation.
pub(super) type Addition = Box<dyn FnOnce(Lifecycle) -> Lifecycle + Send>;

/// A program with a drain.
///
/// Rooms add themselves by methods of their own: `http`, `admin`, `workers` and `kubernetes`.
#[must_use = "a lifecycle does nothing until it is run"]
pub struct Lifecycle {
    pub(super) drain: Drain,
    pub(super) inputs: mpsc::UnboundedReceiver<Input>,
    pub(super) settings: DrainSettings,
    pub(super) shape: Shape,
    pub(super) signals: Option<Signals>,
    pub(super) preparations: Vec<Preparation>,
    pub(super) services: Vec<Service>,
    pub(super) background: Vec<Service>,
    pub(super) hooks: Vec<Hook>,
    pub(super) reporters: Vec<Reporter>,
}

/// A part of the program: either the drain waits for it, or it runs in the background.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) future: BoxFuture<Result<(), BoxError>>,
}

/// Something that must be done before the program serves.
pub(super) struct Preparation {
    pub(super) name: String,
    pub(super) future: BoxFuture<Result<Addition, BoxError>>,
}

/// A teardown hook.
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) bound: Duration,
    pub(super) run: Once<Deadline>,
}

/// A receiver of the drain report.
pub(super) struct Reporter {
    pub(super) name: String,
    pub(super) run: Once<Arc<DrainReport>>,
}

/// An instant by which something must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Error of [`Lifecycle::run`]. If a drain took place, it contains the report.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a thread or a signal handler.
    #[error("cannot take SIGTERM and SIGINT: {0}")]
    Signals(#[source] std::io::Error),
    /// A [preparation](Lifecycle::prepare) failed: the program never served, and there was no drain.
    #[error("{name} failed: {source}")]
    NotStarted {
        /// The name of the preparation.
        name: String,
        /// Its error.
        source: BoxError,
    },
    /// A part of the program failed, which began the drain.
    #[error("{name} failed: {source}")]
    Failed {
        /// The name of the part.
        name: String,
        /// Its error.
        source: BoxError,
        /// The report of the drain.
        report: Arc<DrainReport>,
    },
    /// Requests were cut, or jobs given back, because time ran out.
    #[error("{}", cut(.report))]
    Cut {
        /// The report of the drain.
        report: Arc<DrainReport>,
    },
    /// A teardown hook failed; the others still ran.
    #[error("teardown hook '{name}' failed: {error}")]
    Teardown {
        /// The name of the first hook that failed.
        name: String,
        /// Its error.
        error: String,
        /// The report of the drain.
        report: Arc<DrainReport>,
    },
}

// === impl Lifecycle ===

impl Lifecycle {
    /// Returns a program with nothing in it yet.
    pub fn builder() -> Self {
        let (drain, inputs) = Drain::new();
        Self::with(drain, inputs, DrainSettings::default())
    }

    /// Returns an empty program that collects parts for a running program to take over.
    pub(super) fn addition(drain: Drain, settings: DrainSettings) -> Self {
        // The running program receives what is sent through the drain.
        let (_, nobody) = mpsc::unbounded_channel();
        Self::with(drain, nobody, settings)
    }

    fn with(drain: Drain, inputs: mpsc::UnboundedReceiver<Input>, settings: DrainSettings) -> Self {
        Self {
            drain,
            inputs,
            settings,
            shape: Shape::default(),
            signals: None,
            preparations: Vec::new(),
            services: Vec::new(),
            background: Vec::new(),
            hooks: Vec::new(),
            reporters: Vec::new(),
        }
    }

    /// Returns the handle by which rooms, handlers and hooks watch the drain.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Replaces the default settings.
    pub fn settings(mut self, settings: DrainSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Returns the settings in force.
    pub fn drain_settings(&self) -> &DrainSettings {
        &self.settings
    }

    /// Sets the time from SIGTERM to SIGKILL, unless an observer reports a better one; 30 s by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Uses signals that were installed earlier, or a [trigger](Signals::manual). Otherwise `run` installs
    /// them.
    pub fn signals(mut self, signals: Signals) -> Self {
        self.signals = Some(signals);
        self
    }

    /// Adds a hook to run at teardown, after the last request and job. Hooks run one by one, the last registered
    /// first. A hook gets its deadline and at most 10 s, see [`teardown_within`](Self::teardown_within).
    ///
    /// An error is reported and ends up in [`Error::Teardown`], but stops no other hook. A hook that has
    /// not ended by its deadline is dropped.
    pub fn teardown<F, Fut, E>(self, name: &str, hook: F) -> Self
    where
        F: FnOnce(Deadline) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.teardown_within(name, Duration::from_secs(10), hook)
    }

    /// Like [`teardown`](Self::teardown), but with a bound of its own. All hooks together have the time that the
    /// settings reserve for the teardown, plus the time that the drain has left over.
    pub fn teardown_within<F, Fut, E>(mut self, name: &str, bound: Duration, hook: F) -> Self
    where
        F: FnOnce(Deadline) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.hooks.push(Hook {
            name: name.to_owned(),
            bound,
            run: Box::new(move |deadline| {
                let hook = hook(deadline);
                Box::pin(async move { hook.await.map_err(Into::into) })
            }),
        });
        self
    }

    /// Adds a function that gets the report while the process still lives, before anything that it needs is gone.
    /// All reporters run concurrently.
    pub fn on_report<F, Fut, E>(mut self, name: &str, reporter: F) -> Self
    where
        F: FnOnce(Arc<DrainReport>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.reporters.push(Reporter {
            name: name.to_owned(),
            run: Box::new(move |report| {
                let reporter = reporter(report);
                Box::pin(async move { reporter.await.map_err(Into::into) })
            }),
        });
        self
    }

    /// Waits for something before the program serves, such as a database that may be away for a while.
    ///
    /// Listeners already answer: probes report that the process is [starting](Drain::starting), and your own service
    /// decides for itself what it answers. The preparation returns a function that adds the parts which needed it.
    /// Once all preparations have ended, the process enters the phase `serving`.
    ///
    /// A signal during the start begins a drain that waits for no endpoint, because nobody has been routed here yet.
    /// It does wait for the preparation, which should therefore give up at [`Moment::Began`] and return a function
    /// that adds nothing. Parts that are added nonetheless see the drain and end with it.
    ///
    /// An error before a drain ends [`run`](Self::run) at once with [`Error::NotStarted`].
    ///
    /// [`Moment::Began`]: super::Moment::Began
    pub fn prepare<Fut, F, E>(mut self, name: &str, preparation: Fut) -> Self
    where
        Fut: Future<Output = Result<F, E>> + Send + 'static,
        F: FnOnce(Self) -> Self + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.preparations.push(Preparation {
            name: name.to_owned(),
            future: Box::pin(async move {
                let add = preparation.await.map_err(Into::into)?;
                Ok(Box::new(add) as Addition)
            }),
        });
        self
    }

    /// Adds a part of the program. If it fails or panics before a drain, that begins one.
    pub fn service<Fut, E>(mut self, name: &str, service: Fut) -> Self
    where
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.services.push(Service::new(name, service));
        self
    }

    /// Adds a part that runs until the very end, after the last report, such as probes and metrics.
    pub fn background<Fut, E>(mut self, name: &str, service: Fut) -> Self
    where
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.background.push(Service::new(name, service));
        self
    }

    /// Declares that the program has a listener that traffic is routed to: the drain gets a lame-duck phase.
    pub fn serves_traffic(mut self) -> Self {
        self.shape.serves = true;
        self
    }

    /// Declares that an observer will report cause, deadline and endpoints through the [`Drain`].
    pub fn is_observed(mut self) -> Self {
        self.shape.observed = true;
        self.drain.set_observed();
        self
    }

    /// Runs the program until its drain has ended. Bind everything before; the first signal is T0.
    ///
    /// After it returns, the process should end: the watchdog stays armed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self) -> Result<Arc<DrainReport>, Error> {
        shell::run(self).await
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle")
            .field("settings", &self.settings)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

// === impl Service ===

impl Service {
    fn new<Fut, E>(name: &str, future: Fut) -> Self
    where
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        Self {
            name: name.to_owned(),
            future: Box::pin(async move { future.await.map_err(Into::into) }),
        }
    }
}

// === impl Deadline ===

impl Deadline {
    pub(super) fn new(at: Instant) -> Self {
        Self(at)
    }

    /// Returns the instant.
    pub fn at(&self) -> Instant {
        self.0
    }

    /// Returns the remaining time; zero if the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Describes how much was cut, and what to do about it.
fn cut(report: &DrainReport) -> String {
    let told = format!(
        "the drain had to cut {} requests and {} connections, to give back {} jobs and to leave {} to their lease",
        report.requests.cut,
        report.connections.cut,
        report.jobs.released.count,
        report.jobs.left.count
    );
    match report.hurried {
        true => format!("{told}; a second signal ended it early"),
        false => format!("{told}; a longer grace period gives what runs more time to end"),
    }
}

// === impl Error ===

/// `main` prints errors by `Debug`, so this is a sentence and not the whole report.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// Returns the report of the drain, if there was one.
    pub fn report(&self) -> Option<&Arc<DrainReport>> {
        match self {
            Self::Signals(_) | Self::NotStarted { .. } => None,
            Self::Failed { report, .. } | Self::Cut { report } | Self::Teardown { report, .. } => {
                Some(report)
            }
        }
    }
}
