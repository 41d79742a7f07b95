//! Where jobs are kept: one small contract, one engine a folder.
//!
//! An engine is opened for one process run ([`ProcessId`]). Whatever it reserves belongs to that process
//! until it is settled, released, or the process is known to be dead. The rest of the program does not
//! know which engine it talks to.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::broadcast;

use super::job::{
    JobId, JobRecord, NewJob, ProcessId, QueueName, QueueStats, Rejected, Reserved, Settled,
    Settlement, Submitted,
};
use super::ledger::Ledger;

#[cfg(feature = "sqlite")]
pub mod sqlite;

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
    /// The process run that this engine was opened for.
    fn process(&self) -> ProcessId;

    /// Stores jobs, all in one commit; one answer for each, in the same order.
    async fn submit(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, EngineError>;

    /// Takes up to `limit` runnable jobs of a queue, earliest `run_at` first, each under a fresh claim.
    async fn reserve(&self, queue: &QueueName, limit: usize) -> Result<Vec<Reserved>, EngineError>;

    /// Writes outcomes; one answer for each, in the same order. May be repeated with the same argument.
    async fn settle(&self, settlements: &Arc<Vec<Settlement>>)
    -> Result<Vec<Settled>, EngineError>;

    /// Gives back everything that this process holds, by process id and not by the claims that anybody
    /// remembers, without counting an attempt. The jobs are runnable after `delay`: zero when their
    /// handlers have provably ended. Returns their ids.
    async fn release_held(&self, delay: Duration) -> Result<Vec<JobId>, EngineError>;

    /// One job, or `None` if it is not known (any more).
    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, EngineError>;

    /// Every queue that has ever had a job, by name.
    async fn queues(&self) -> Result<Vec<QueueStats>, EngineError>;

    /// When the next job of this queue becomes runnable; `None` if none waits.
    async fn next_run_at(&self, queue: &QueueName) -> Result<Option<Timestamp>, EngineError>;

    /// What happens in the queue, as hints: an event may be missed (a lagging receiver, another process),
    /// so whoever waits also looks from time to time.
    fn events(&self) -> broadcast::Receiver<Event>;

    /// Finishes what was asked before and lets go of the storage. Whatever is asked later is answered with
    /// [`EngineError::Closed`]. The last thing that a process does.
    async fn close(&self);
}

/// A hint that it is worth looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A job of this queue became pending or scheduled.
    Runnable(QueueName),
    /// A job completed or died.
    Ended(JobId),
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
    /// The engine was closed.
    #[error("the queue's storage is closed")]
    Closed,
}
