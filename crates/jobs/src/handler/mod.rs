//! Whoever does the work of a job: a command, an HTTP endpoint, Rust code.

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
/// at the hard deadline [`Context::cut`] says that its time is over. The future is *not* dropped at
/// either: a handler answers when its work has provably ended, so that the job can be given to somebody
/// else without running twice at once. One that never answers is left to the end of the process.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs the job to an end.
    async fn run(&self, job: &Job, context: Context) -> Verdict;

    /// How long jobs are [postponed](Verdict::Postponed), none having been begun in between, before their attempts
    /// count. `None`, which is the default, for ever: no job dies of what is not its own fault.
    fn postpones_for(&self) -> Option<Duration> {
        None
    }
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
    pub(super) said: Said,
}

/// What a handler says of its target before the run has ended.
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
    /// count, and the job waits a moment. The queue then tries one job at a time until one can be begun, so that
    /// a target which is away does not meet all of them again and again.
    Postponed {
        /// For people.
        error: String,
        /// How long to wait, clamped by the queue. It is longer where the queue itself waits longer.
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
            said: Said::default(),
        }
    }

    /// Says that the work has begun, because whoever does it has been reached.
    ///
    /// After a job that could not be begun a queue tries one at a time; with this word it is back at full speed.
    /// Otherwise the end of the run says it, or that the run has lasted for ten seconds. So it is worth saying for
    /// handlers whose runs take long.
    pub fn begun(&self) {
        self.said.0.begun_at.get_or_init(Instant::now);
        self.said.0.begun.cancel();
    }

    /// Says that whoever does the work asks for less of it, as HTTP's 429 and 503 do. How the run ends is another
    /// matter; but when as many in a row say so as there are workers, the queue tries one job at a time.
    pub fn pushed_back(&self) {
        self.said.0.pushed_back.store(true, Ordering::Relaxed);
    }

    /// When the run will be told to stop, as far as it is known now: by the job's timeout, or by the drain
    /// that is under way, whichever is earlier. It may still come nearer, when a drain begins.
    pub fn deadline(&self) -> Option<Instant> {
        let plan = self.drain.as_ref().and_then(Drain::plan);
        let soft = plan.map(|plan| plan.soft);
        self.timeout_at.into_iter().chain(soft).min()
    }
}

// === impl Said ===

impl Said {
    /// Waits for the word that the work has begun.
    pub(super) async fn begun(&self) {
        self.0.begun.cancelled().await;
    }

    /// When it was said.
    pub(super) fn begun_at(&self) -> Option<Instant> {
        self.0.begun_at.get().copied()
    }

    /// Whether the target asks for less.
    pub(super) fn was_pushed_back(&self) -> bool {
        self.0.pushed_back.load(Ordering::Relaxed)
    }
}
