//! Handlers, which do the work of a job: a command, an HTTP endpoint, Rust code.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::Job;
use lameduck_lifecycle::Drain;

pub mod exec;
mod function;
#[cfg(feature = "http-handler")]
pub mod http;

pub use function::{Failure, Function, function};

/// Does the work of one job.
///
/// In a drain a handler simply goes on; at the soft deadline [`Context::stop`] asks it to come to an end,
/// and at the hard deadline [`Context::cut`] says that its time is over. The future is *not* dropped at
/// either: a handler returns when its work has provably ended, so that the job can be given to somebody
/// else without running twice at once. One that never returns runs until the process ends.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs the job to an end.
    async fn run(&self, job: &Job, context: Context) -> Verdict;

    /// How long jobs are [postponed](Verdict::Postponed), if none is begun in between, before their attempts
    /// count. `None`, the default, means forever: no job dies of anything that is not its own fault.
    fn postpones_for(&self) -> Option<Duration> {
        None
    }
}

/// The information that a handler gets in addition to its job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The claim of this run, for a handler that fences its own side effects.
    pub claim: String,
    /// "Please come to an end": the soft deadline of a drain, the job's timeout, or its cancellation.
    pub stop: CancellationToken,
    /// "Your time is over": the hard deadline of a drain, or the stop notice after the job's timeout or
    /// cancellation.
    pub cut: CancellationToken,
    /// When the job's own timeout ends; `None` if it has none.
    pub timeout_at: Option<Instant>,
    /// The process's drain, if there is one: it may set an earlier deadline at any time.
    pub drain: Option<Drain>,
    pub(super) said: Said,
}

/// The handler's reports about its target before the run has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Said(Arc<AllSaid>);

#[derive(Debug, Default)]
struct AllSaid {
    begun: CancellationToken,
    begun_at: OnceLock<Instant>,
    pushed_back: AtomicBool,
}

/// How a run ended, as the handler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The job is done.
    Done {
        /// The result, limited in size by the handler. It is kept with the job.
        result: Bytes,
    },
    /// The job is not done; the attempt counts.
    Failed {
        /// The error, for people.
        error: String,
        /// Whether trying again may help.
        retry: Retry,
    },
    /// The job is given back because the run was told to stop; the attempt does not count.
    Released,
    /// The work could not even be begun: the connection was refused, or no process could be started. The attempt does
    /// not count, and the job waits a moment. The queue then tries one job at a time until one can be begun, so that
    /// an unavailable target is not tried with all of them again and again.
    Postponed {
        /// The error, for people.
        error: String,
        /// How long to wait, clamped by the queue. It is longer where the queue itself waits longer.
        wait: Duration,
    },
    /// The work goes on elsewhere, outside of this process and its drain, and its outcome is reported with
    /// [`Context::claim`]. The worker is free for another job.
    Deferred {
        /// How long to wait for that outcome. After that, the attempt has failed.
        within: Duration,
    },
}

/// Whether trying again may help, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try again after the queue's own backoff.
    Backoff,
    /// Try again after this long, clamped by the queue.
    After(Duration),
    /// Do not try again.
    Never,
}

// === impl Context ===

impl Context {
    /// Makes a context whose tokens are not cancelled, without a timeout and without a drain.
    pub fn new(claim: impl Into<String>) -> Self {
        Self {
            claim: claim.into(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            timeout_at: None,
            drain: None,
            said: Said::default(),
        }
    }

    /// Reports that the work has begun, because the target has been reached.
    ///
    /// After a job that could not be begun, a queue tries one at a time; this call brings it back to full speed.
    /// Without it, the queue only learns this from the end of the run, or after the run has lasted for ten seconds. So
    /// handlers with long runs should call it.
    pub fn begun(&self) {
        self.said.0.begun_at.get_or_init(Instant::now);
        self.said.0.begun.cancel();
    }

    /// Reports that the target asks for less work, as HTTP's 429 and 503 do. It does not decide how the run
    /// ends; but when as many runs in a row report this as there are workers, the queue tries one job at a time.
    pub fn pushed_back(&self) {
        self.said.0.pushed_back.store(true, Ordering::Relaxed);
    }

    /// Returns when the run will be told to stop, as far as is known now: by the job's timeout, or by the drain
    /// that is under way, whichever is earlier. It may still become earlier, when a drain begins.
    pub fn deadline(&self) -> Option<Instant> {
        let plan = self.drain.as_ref().and_then(Drain::plan);
        let soft = plan.map(|plan| plan.soft);
        self.timeout_at.into_iter().chain(soft).min()
    }
}

// === impl Said ===

impl Said {
    /// Returns when the handler has reported that the work has begun.
    pub(super) async fn begun(&self) {
        self.0.begun.cancelled().await;
    }

    /// Returns when the handler reported that the work has begun.
    pub(super) fn begun_at(&self) -> Option<Instant> {
        self.0.begun_at.get().copied()
    }

    /// Whether the target asks for less work.
    pub(super) fn was_pushed_back(&self) -> bool {
        self.0.pushed_back.load(Ordering::Relaxed)
    }
}
