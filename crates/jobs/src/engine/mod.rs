//! Where jobs are kept: one small contract, one engine a folder.
//!
//! An engine is opened for one process run ([`ProcessId`]). Whatever it reserves belongs to that process
//! until it is settled, released, or the process is known to be dead. The rest of the program does not
//! know which engine it talks to.

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

/// Runs of one job that its history keeps.
pub const RUNS_KEPT: usize = 20;

/// Says what time it is; tests say something else.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A durable queue.
///
/// Every method that changes something returns only after the change is durable, or with an error after
/// which the change may or may not have happened (a COMMIT whose answer was lost). For [`settle`] that is
/// harmless, since it may be repeated; for [`submit`] the idempotency key is the remedy; a lost
/// [`reserve`] is found again by [`release_held`].
///
/// In a drain: [`reserve`] is not called any more; everything else works until the engine is dropped.
///
/// [`settle`]: Engine::settle
/// [`submit`]: Engine::submit
/// [`reserve`]: Engine::reserve
/// [`release_held`]: Engine::release_held
#[async_trait]
pub trait Engine: Ledger + Send + Sync + 'static {
    /// The process run that this engine works for: the one that it was opened for, and another one after that
    /// was taken for dead. Then whatever the former had reserved is somebody else's.
    fn process(&self) -> ProcessId;

    /// Whether the storage answers, and could write; asked again and again, so it costs next to nothing.
    ///
    /// # Errors
    /// Why not. It may wait for as long as a write may.
    async fn ping(&self) -> Result<(), EngineError>;

    /// Returns when a part of the engine has failed that it can't do without, such as the thread that writes; never
    /// where all is well. Nothing gets better then until the process starts anew.
    async fn failed(&self) -> EngineError {
        std::future::pending().await
    }

    /// Stores jobs, all in one commit; one answer for each, in the same order.
    async fn submit(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, EngineError>;

    /// Sees to it, in the background, that whatever a queue needs in the storage is there before its first job comes. For
    /// queues that somebody works on: they are known from then on, though they have never had a job.
    fn prepare(&self, queue: &QueueName) {
        let _ = queue;
    }

    /// Takes up to `limit` runnable jobs of a queue, each under a fresh claim: in this order, and of equals
    /// the one that was submitted first. None of a queue that is paused.
    async fn reserve(
        &self,
        queue: &QueueName,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Reserved>, EngineError>;

    /// Says, before it does, that this job runs alone in its process: a crash from now on is its own.
    async fn runs_alone(&self, claim: &Claim) -> Result<(), EngineError>;

    /// Writes outcomes; one answer for each, in the same order. May be repeated with the same argument.
    ///
    /// What failed or was released after it had been cancelled is cancelled.
    async fn settle(&self, settlements: &Arc<Vec<Settlement>>)
    -> Result<Vec<Settled>, EngineError>;

    /// Gives back everything that this process holds, by process id and not by the claims that anybody
    /// remembers, without counting an attempt. The jobs are runnable after `delay`: zero when their
    /// handlers have provably ended. Returns their ids.
    async fn release_held(&self, delay: Duration) -> Result<Vec<JobId>, EngineError>;

    /// Cancels a job that waits or is dead, or asks for the end of one that runs; `None` if it is not known.
    async fn cancel(&self, id: JobId) -> Result<Option<Cancelled>, EngineError>;

    /// Cancels up to `limit` dead jobs of a queue, the first to die first. Says how many there were.
    async fn cancel_dead(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError>;

    /// The jobs of this process that somebody wants to end.
    async fn cancel_requests(&self) -> Result<Vec<JobId>, EngineError>;

    /// Runs a dead job again, from its first attempt; `None` if it is not known.
    async fn revive(&self, id: JobId) -> Result<Option<Revived>, EngineError>;

    /// The same for up to `limit` dead jobs of a queue, the first to die first. Says how many there were.
    async fn revive_all(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError>;

    /// Pauses a queue or resumes it, for every process and over restarts. What runs goes on.
    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<(), EngineError>;

    /// A bounded piece of housekeeping: fails what was deferred and is overdue, removes what ended long ago.
    async fn maintain(&self) -> Result<Maintained, EngineError>;

    /// One job, or `None` if it is not known (any more).
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, EngineError>;

    /// The payload of a job with its media type, as submitted; `None` if the job is not known (any more).
    async fn payload(&self, id: JobId) -> Result<Option<(String, Bytes)>, EngineError>;

    /// The runs of a job that have ended, the latest [`RUNS_KEPT`], in their order.
    async fn runs(&self, id: JobId) -> Result<Vec<Run>, EngineError>;

    /// Jobs with their histories, read together: one answer for each id, in the same order, and `None` for a job
    /// that is not known (any more). A job that can't be read is an error of its own.
    async fn details(
        &self,
        ids: &[JobId],
    ) -> Result<Vec<Result<Option<Details>, EngineError>>, EngineError>;

    /// How these jobs stand, as far as they are known, in any order. It costs next to nothing, so that whoever
    /// waits for many jobs can look at all of them.
    async fn glance(&self, ids: &[JobId]) -> Result<Vec<Glance>, EngineError>;

    /// Jobs of a queue in one state, page by page.
    async fn list(&self, listing: &Listing) -> Result<Page, EngineError>;

    /// Every queue that has ever had a job, was paused, or was prepared by an engine that has something to prepare; by
    /// name.
    async fn queues(&self) -> Result<Vec<QueueStats>, EngineError>;

    /// One of them; `None` where it never had a job, was never paused and never prepared. The others are not counted
    /// for it.
    async fn queue(&self, queue: &QueueName) -> Result<Option<QueueStats>, EngineError>;

    /// How long until the next job of this queue becomes runnable, by the storage's clock; `None` if none waits, or the
    /// queue is paused.
    async fn next_run_in(&self, queue: &QueueName) -> Result<Option<Duration>, EngineError>;

    /// What happens in the queue, as hints: an event may be missed (a lagging receiver, another process),
    /// so whoever waits also looks from time to time.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// Whether what other processes do comes in as events. While it does not, whoever waits has to look more
    /// often.
    fn hears_others(&self) -> bool {
        true
    }

    /// Finishes what was asked before and lets go of the storage. Whatever is asked later is answered with
    /// [`EngineError::Closed`]. The last thing that a process does.
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
    /// Somebody wants this running job to end.
    CancelRequested(JobId),
}

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Another living process has this data directory.
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
        /// What was being done, with the path.
        context: String,
        /// What went wrong and what to do.
        message: String,
    },
    /// It may work later: disk full, I/O error, connection lost. The change may or may not have happened.
    #[error("the queue's storage failed: {0}")]
    Storage(String),
    /// A part of the engine panicked: a bug. The change may or may not have happened.
    #[error(
        "the part '{part}' of the queue's storage panicked ({why}); the process has to start anew, and nothing that \
         was acknowledged is lost"
    )]
    Failed {
        /// Which part.
        part: String,
        /// What it said.
        why: String,
    },
    /// Somebody else has locked what this needs, and keeps it. Nothing was changed, and it works once they have ended.
    #[error("{0}")]
    Locked(String),
    /// There is something in the storage that no program of ours has written; it concerns this one thing alone.
    #[error("{0}")]
    Unreadable(String),
    /// The engine was closed.
    #[error("the queue's storage is closed")]
    Closed,
}

// === impl EngineError ===

impl EngineError {
    /// Whether everything that is asked later will fail as well.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::Failed { .. })
    }
}
