//! Whoever does the work of a job: a command, an HTTP endpoint, Rust code.

use std::time::Duration;

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
/// at the hard deadline [`Context::cut`] says that its time is over. The future is *not* dropped at
/// either: a handler answers when its work has provably ended, so that the job can be given to somebody
/// else without running twice at once. One that never answers is left to the end of the process.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs the job to an end.
    async fn run(&self, job: &Job, context: Context) -> Verdict;
}

/// What a handler has to know beside its job.
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
    /// When the job's own timeout ends; `None` where it has none.
    pub timeout_at: Option<Instant>,
    /// The process' drain, where there is one: it may set an earlier deadline at any time.
    pub drain: Option<Drain>,
}

/// How a run ended, as the handler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Done {
        /// Kept with the job, bounded by the handler.
        result: Bytes,
    },
    /// Not done; the attempt counts.
    Failed {
        /// For people.
        error: String,
        /// Whether trying again may help.
        retry: Retry,
    },
    /// Given back because it was told to stop; the attempt does not count.
    Released,
    /// The work could not even be begun: connection refused, no process to be had. The attempt does not
    /// count, and the job waits a moment.
    Postponed {
        /// For people.
        error: String,
        /// How long to wait, clamped by the queue.
        wait: Duration,
    },
    /// The work goes on elsewhere, outside of this process and its drain: whoever does it says by
    /// [`Context::claim`] how it ended. The worker is free for another job.
    Deferred {
        /// How long to wait for that word. Then the attempt has failed.
        within: Duration,
    },
}

/// Whether trying again may help, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// By the queue's own backoff.
    Backoff,
    /// After this long, clamped by the queue.
    After(Duration),
    /// Never.
    Never,
}

// === impl Context ===

impl Context {
    /// One that nobody stops yet, without a timeout and without a drain.
    pub fn new(claim: impl Into<String>) -> Self {
        Self {
            claim: claim.into(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            timeout_at: None,
            drain: None,
        }
    }

    /// When the run will be told to stop, as far as it is known now: by the job's timeout, or by the drain
    /// that is under way, whichever is earlier. It may still come nearer, when a drain begins.
    pub fn deadline(&self) -> Option<Instant> {
        let plan = self.drain.as_ref().and_then(Drain::plan);
        let soft = plan.map(|plan| plan.soft);
        self.timeout_at.into_iter().chain(soft).min()
    }
}
