//! The storage of jobs: one small contract, with each engine in a folder of its own.
//!
//! An engine is opened for one process run ([`ProcessId`]). A job that it reserves belongs to that process
//! until the job is settled or released, or the process is known to be dead. The rest of the program does
//! not know which engine it talks to.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::broadcast;

use super::job::{
    Cancelled, Claim, JobId, JobRecord, Listing, Maintained, NewJob, Order, Page, ProcessId,
    QueueName, QueueStats, Rejected, Reserved, Revived, Run, Settled, Settlement, Submitted,
};
use super::ledger::Ledger;

pub mod common;
mod glance;
pub mod vital;

pub use glance::{Details, Glance};

/// Number of runs that a job's history keeps.
pub const RUNS_KEPT: usize = 20;

/// Returns the current time; tests replace it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A durable queue.
///
/// Every method that changes something returns only after the change is durable, or with an error after
/// which the change may or may not have happened (a COMMIT whose answer was lost). For [`settle`] that is
/// harmless, since it may be repeated; for [`submit`] the idempotency key is the remedy; the jobs of a lost
/// [`reserve`] are given back by [`release_held`].
///
/// During a drain, [`reserve`] is not called any more; everything else works until the engine is dropped.
///
/// [`settle`]: Engine::settle
/// [`submit`]: Engine::submit
/// [`reserve`]: Engine::reserve
/// [`release_held`]: Engine::release_held
#[async_trait]
pub trait Engine: Ledger + Send + Sync + 'static {
    /// The process run that this engine works for: the one that it was opened for, or a new one after that one
    /// was taken for dead. All jobs that the former had reserved then belong to somebody else.
    fn process(&self) -> ProcessId;

    /// Checks whether the storage answers, and could write. It is called often, so it costs next to nothing.
    ///
    /// # Errors
    /// Returns the reason why not. It may wait for as long as a write may.
    async fn ping(&self) -> Result<(), EngineError>;

    /// Returns when an indispensable part of the engine, such as the writer thread, has failed; never returns while all
    /// is well. The engine does not recover from this until the process is restarted.
    async fn failed(&self) -> EngineError {
        std::future::pending().await
    }

    /// Stores jobs, all in one commit; one answer for each, in the same order.
    async fn submit(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, EngineError>;

    /// Creates in the background what a queue needs in the storage before its first job comes. It is called for
    /// queues that have workers; these are known from then on, even if they have never had a job.
    fn prepare(&self, queue: &QueueName) {
        let _ = queue;
    }

    /// Takes up to `limit` runnable jobs of a queue, each under a fresh claim, in this order; among equals,
    /// the one that was submitted first comes first. Takes none if the queue is paused.
    async fn reserve(
        &self,
        queue: &QueueName,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Reserved>, EngineError>;

    /// Records, before the run begins, that this job runs alone in its process: any crash from now on is its own.
    async fn runs_alone(&self, claim: &Claim) -> Result<(), EngineError>;

    /// Writes outcomes; one answer for each, in the same order. May be repeated with the same argument.
    ///
    /// A job that failed or was released after its cancellation had been requested is cancelled.
    async fn settle(&self, settlements: &Arc<Vec<Settlement>>)
    -> Result<Vec<Settled>, EngineError>;

    /// Gives back all jobs that this process holds, found by process id and not by remembered claims,
    /// without counting an attempt. The jobs are runnable after `delay`, which is zero if their
    /// handlers have provably ended. Returns their ids.
    async fn release_held(&self, delay: Duration) -> Result<Vec<JobId>, EngineError>;

    /// Cancels a job that waits or is dead, or requests the end of one that runs; `None` if the job is not known.
    async fn cancel(&self, id: JobId) -> Result<Option<Cancelled>, EngineError>;

    /// Cancels up to `limit` dead jobs of a queue, the first to die first. Returns how many there were.
    async fn cancel_dead(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError>;

    /// Returns the jobs of this process for which a cancellation was requested.
    async fn cancel_requests(&self) -> Result<Vec<JobId>, EngineError>;

    /// Runs a dead job again, from its first attempt; `None` if the job is not known.
    async fn revive(&self, id: JobId) -> Result<Option<Revived>, EngineError>;

    /// Runs up to `limit` dead jobs of a queue again, the first to die first. Returns how many there were.
    async fn revive_all(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError>;

    /// Pauses a queue or resumes it, for every process and across restarts. Running jobs go on.
    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<(), EngineError>;

    /// Does a bounded piece of housekeeping: fails deferred jobs that are overdue, removes jobs that ended long ago.
    async fn maintain(&self) -> Result<Maintained, EngineError>;

    /// Returns one job, or `None` if it is not known (any more).
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, EngineError>;

    /// Returns the payload of a job with its media type, as submitted; `None` if the job is not known (any more).
    async fn payload(&self, id: JobId) -> Result<Option<(String, Bytes)>, EngineError>;

    /// Returns the latest [`RUNS_KEPT`] runs of a job that have ended, in their order.
    async fn runs(&self, id: JobId) -> Result<Vec<Run>, EngineError>;

    /// Returns jobs with their histories, read together: one answer for each id, in the same order, and `None` for a
    /// job that is not known (any more). For a job that can't be read, its own answer is an error.
    async fn details(
        &self,
        ids: &[JobId],
    ) -> Result<Vec<Result<Option<Details>, EngineError>>, EngineError>;

    /// Returns the states of these jobs, as far as they are known, in any order. It costs next to nothing, so that
    /// a caller that waits for many jobs can look at all of them.
    async fn glance(&self, ids: &[JobId]) -> Result<Vec<Glance>, EngineError>;

    /// Returns jobs of a queue in one state, page by page.
    async fn list(&self, listing: &Listing) -> Result<Page, EngineError>;

    /// Returns every queue that has ever had a job, was paused, or was prepared by an engine that has something to
    /// prepare, sorted by name.
    async fn queues(&self) -> Result<Vec<QueueStats>, EngineError>;

    /// Returns one of these queues; `None` if it never had a job, was never paused and never prepared. The jobs of other
    /// queues are not counted for this.
    async fn queue(&self, queue: &QueueName) -> Result<Option<QueueStats>, EngineError>;

    /// Returns the time until the next job of this queue becomes runnable, by the storage's clock; `None` if none waits,
    /// or the queue is paused.
    async fn next_run_in(&self, queue: &QueueName) -> Result<Option<Duration>, EngineError>;

    /// Returns a stream of the queue's events. They are hints: an event may be missed (a lagging receiver, another
    /// process), so a caller that waits must also look from time to time.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// Whether changes by other processes arrive as events. While they do not, a caller that waits has to look more
    /// often.
    fn hears_others(&self) -> bool {
        true
    }

    /// Finishes earlier requests and lets go of the storage. Every later request is answered with
    /// [`EngineError::Closed`]. This is the last thing that a process does.
    async fn close(&self);
}

/// A hint that it is worth looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A job of this queue became pending or scheduled.
    Runnable(QueueName),
    /// A job was reserved, given back, deferred or failed.
    Changed(JobId),
    /// A job completed, died or was cancelled.
    Ended(JobId),
    /// A cancellation of this running job was requested.
    CancelRequested(JobId),
}

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Another living process uses this data directory.
    #[error(
        "the data directory {path} is in use by another process; an embedded queue serves one process only: \
         stop the other one, or give this one a directory of its own (--data)"
    )]
    InUse {
        /// The directory.
        path: String,
    },
    /// The database can't be used as it is.
    #[error("{context}: {message}")]
    Unusable {
        /// The operation that failed, with the path.
        context: String,
        /// The cause, and what to do about it.
        message: String,
    },
    /// A failure that may pass: disk full, I/O error, connection lost. The change may or may not have happened.
    #[error("the queue's storage failed: {0}")]
    Storage(String),
    /// A part of the engine panicked, which is a bug. The change may or may not have happened.
    #[error(
        "the part '{part}' of the queue's storage panicked ({why}); the process has to start anew, and nothing that \
         was acknowledged is lost"
    )]
    Failed {
        /// The name of the part.
        part: String,
        /// The panic's message.
        why: String,
    },
    /// Somebody else holds a lock that this needs. Nothing was changed, and it will work once the lock is released.
    #[error("{0}")]
    Locked(String),
    /// The storage contains something that no program of ours has written; only the requested item is affected.
    #[error("{0}")]
    Unreadable(String),
    /// The engine was closed.
    #[error("the queue's storage is closed")]
    Closed,
}

// === impl EngineError ===

impl EngineError {
    /// Whether all later requests will fail as well.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::Failed { .. })
    }
}
