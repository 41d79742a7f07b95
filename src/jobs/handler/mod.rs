//! Whoever does the work of a job: a command, an HTTP endpoint, Rust code.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::job::Job;

pub mod exec;

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
pub struct Context {
    /// The claim of this run, for a handler that fences its own side effects.
    pub claim: String,
    /// "Please come to an end": the soft deadline of a drain, or the job's own time is nearly over.
    pub stop: CancellationToken,
    /// "Your time is over": the hard deadline of a drain, or the job's timeout.
    pub cut: CancellationToken,
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
