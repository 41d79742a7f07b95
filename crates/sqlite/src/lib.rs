//! The embedded engine: SQLite, one process, nothing else to run.
//!
//! ```text
//!   submit, reserve, settle, …  ──▶ bounded channel ──▶ writer thread ──▶ one COMMIT for all that waited
//!   job, queues, …              ──▶ bounded channel ──▶ reader thread ──▶ a connection of its own
//! ```
//!
//! The throughput of a durable queue is the number of fsyncs per second times the number of commands that
//! share one. So there is one writer, and all commands that wait while it commits share its next transaction.
//! Polls use another connection and never wait for an fsync.
//!
//! The database belongs to one process: an OS lock on a file beside it refuses a second one. It is a lock and not
//! a PID file, because the kernel releases it when the process dies, and in a container every process is PID 1.
//! For the same reason all jobs that a predecessor still held when this one opens are free: their owner is dead.
//!
//! **The time** comes from the machine's clock, as long as nobody sets it: see [`Uptime`].
//!
//! The files must be on a local file system (or a block volume). SQLite's locks and its shared memory do
//! not work over NFS.

use std::{
    fmt,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::broadcast;

use lameduck_jobs::{
    engine::{Clock, Details, Engine, EngineError, Event, Glance, common::EVENTS, vital::Vitals},
    job::{
        Cancelled, Claim, JobId, JobRecord, Listing, Maintained, NewJob, Order, Page, ProcessId,
        QueueName, QueueStats, Rejected, Reserved, Retention, Revived, Run, Settled, Settlement,
        Submitted,
    },
    ledger::{DrainRow, DrainTotal, LastWord, Ledger},
    leftovers,
};

mod beside;
mod connection;
mod convert;
mod directory;
mod drains;
mod file_system;
mod lookup;
mod queue;
mod reader;
mod schema;
mod service;
mod time;
mod writer;

pub use beside::read_drains;
pub use directory::Directory;
use queue::Room;
use reader::Reader;
use time::QueueTime;
pub use time::Uptime;
use writer::{Desk, Figures, Kept, Writer};

/// The embedded engine.
///
/// Dropping it ends its threads, which blocks for as long as the commands under way and a checkpoint take;
/// [`close`](SqliteEngine::close) does the same without blocking the caller's thread.
pub struct SqliteEngine {
    process: ProcessId,
    room: Arc<Room>,
    retention: Retention,
    time: Arc<QueueTime>,
    events: broadcast::Sender<Event>,
    figures: Arc<Figures>,
    vitals: Vitals,
    // These are dropped in this order: the reader goes first, so that the writer's connection is the last one
    // and folds the WAL in.
    reader: Reader,
    writer: Writer,
}

/// The engine's options; the defaults are for production.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The clock; the machine's by default.
    pub clock: Clock,
    /// The machine's uptime, which shows when the clock was set. The default is the machine's own if the
    /// clock is; with another clock and no uptime, the clock counts as set only when it goes back.
    pub uptime: Option<Uptime>,
    /// Maximum number of commands in one transaction. Above a few hundred the fsync hardly counts any more,
    /// and the first command of a batch waits for the last.
    pub batch: usize,
    /// Maximum number of commands waiting for the writer; further callers wait to be let in.
    pub backlog: usize,
    /// Number of ended process runs that the ledger keeps one by one; older ones are only counted.
    pub ledger_rows: u32,
    /// Maximum number of jobs that may wait in one queue; more are refused.
    pub max_waiting: u64,
    /// Maximum size of the database in bytes; beyond it jobs are refused.
    pub max_bytes: u64,
    /// Bytes that jobs leave free on its file system, so that there is room for their outcomes.
    pub min_free: u64,
    /// Number of times in a row that a job's process may crash while it runs, the last time with it alone,
    /// before the job is dead; 0 for no limit.
    pub max_crashes: u32,
    /// How long ended jobs and their keys are kept.
    pub retention: Retention,
    /// An id that differs from one boot of the machine to the next; without one (outside of Linux), no job is
    /// charged with a crash.
    pub boot_id: Option<String>,
}

// === impl SqliteOptions ===

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            clock: time::MACHINE.clone(),
            uptime: None,
            batch: 512,
            backlog: 4096,
            ledger_rows: 1_000,
            max_waiting: 1_000_000,
            max_bytes: u64::MAX,
            min_free: 64 << 20,
            max_crashes: 10,
            retention: Retention::default(),
            boot_id: leftovers::boot_id(),
        }
    }
}

// === impl SqliteEngine ===

impl SqliteEngine {
    /// Opens the queue in `directory` for this process run, and creates it if there is none. Ends what
    /// commands of a dead predecessor left running, and frees the jobs that it held. Blocks.
    pub fn open(directory: &Path, options: SqliteOptions) -> Result<Self, EngineError> {
        Self::open_in(Directory::claim(directory)?, options)
    }

    /// Does the same in a directory that this process has claimed already.
    pub fn open_in(directory: Directory, options: SqliteOptions) -> Result<Self, EngineError> {
        let room = Arc::new(Room {
            max_waiting: options.max_waiting,
            max_bytes: options.max_bytes,
            min_free: options.min_free,
            directory: directory.path().to_owned(),
        });
        // This comes before any job is free: a job must not run again beside the command that still does its work.
        leftovers::end(directory.path());
        let database = directory.database();
        let mut connection = connection::writer(&database)?;
        let process = ProcessId::random();
        let time = take_over(&mut connection, process, &options)
            .map_err(|error| EngineError::Storage(connection::explain(&database, &error)))?;

        let (events, _) = broadcast::channel(EVENTS);
        let figures = Arc::new(Figures::default());
        let desk = Desk {
            connection,
            clock: time.as_clock(),
            batch: options.batch.max(1),
            events: events.clone(),
            figures: figures.clone(),
            told: writer::told(),
            directory: Kept::new(directory),
        };
        let reads = connection::reader(&database)?;
        let (vitals, backlog) = (Vitals::default(), options.backlog.max(1));
        let no_thread = |error| EngineError::Storage(format!("no thread for the queue: {error}"));
        Ok(Self {
            process,
            room,
            retention: options.retention,
            time,
            events,
            figures,
            reader: Reader::spawn(backlog, reads, database, vitals.clone()).map_err(no_thread)?,
            writer: Writer::spawn(backlog, desk, vitals.clone()).map_err(no_thread)?,
            vitals,
        })
    }

    /// Returns the number of commands that were answered after a commit.
    pub fn commands(&self) -> u64 {
        self.figures.commands.load(Ordering::Relaxed)
    }

    /// Returns the number of commits; the fewer for the same commands, the better they were grouped.
    pub fn commits(&self) -> u64 {
        self.figures.commits.load(Ordering::Relaxed)
    }

    /// Returns the number of outcomes not written because their claim was no longer the job's.
    pub fn stale_settlements(&self) -> u64 {
        self.figures.stale.load(Ordering::Relaxed)
    }
}

/// Ends what predecessors left behind and opens this process's row, all or nothing.
fn take_over(
    connection: &mut Connection,
    process: ProcessId,
    options: &SqliteOptions,
) -> rusqlite::Result<Arc<QueueTime>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let boot_id = options.boot_id.as_deref();
    let uptime = options.uptime.clone().or_else(|| {
        let of_the_machine = Arc::ptr_eq(&options.clock, &time::MACHINE);
        of_the_machine.then(time::machine_uptime).flatten()
    });
    let clock = options.clock.clone();
    let time = QueueTime::open(&transaction, clock, uptime, options.boot_id.clone())?;
    let (now, _) = time.now();
    let charged = queue::charge_crashes(&transaction, boot_id, now)?;
    let (freed, condemned) =
        queue::take_from_the_dead(&transaction, boot_id, now, options.max_crashes)?;
    let killed = drains::bury_predecessors(&transaction, now)?;
    drains::open(&transaction, process, boot_id, now)?;
    drains::prune(&transaction, options.ledger_rows)?;
    transaction.commit()?;
    if killed > 0 {
        tracing::warn!(
            killed,
            freed,
            charged,
            "the process before this one ended without a report; its jobs are free again"
        );
    }
    if condemned > 0 {
        tracing::error!(
            condemned,
            "jobs are dead because their process crashed whenever they ran"
        );
    }
    Ok(Arc::new(time))
}

impl fmt::Debug for SqliteEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteEngine")
            .field("process", &self.process.to_string())
            .field("figures", &self.figures)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    fn process(&self) -> ProcessId {
        self.process
    }

    async fn failed(&self) -> EngineError {
        self.vitals.failed().await
    }

    /// Asks the writer, so that a hanging disk holds up the answer.
    async fn ping(&self) -> Result<(), EngineError> {
        self.writer.call(|turn| lookup::ping(turn.connection)).await
    }

    async fn submit(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, EngineError> {
        let (room, time) = (self.room.clone(), self.time.clone());
        self.writer
            .call(move |turn| queue::submit(turn, &time, &room, &jobs))
            .await
    }

    async fn reserve(
        &self,
        queue: &QueueName,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Reserved>, EngineError> {
        let (process, queue) = (self.process, queue.clone());
        let time = self.time.clone();
        self.writer
            .call(move |turn| queue::reserve(turn, &time, process, &queue, order, limit))
            .await
    }

    async fn runs_alone(&self, claim: &Claim) -> Result<(), EngineError> {
        let claim = (claim.job(), *claim.token());
        self.writer
            .call(move |turn| queue::runs_alone(turn.connection, &claim))
            .await
    }

    async fn settle(
        &self,
        settlements: &Arc<Vec<Settlement>>,
    ) -> Result<Vec<Settled>, EngineError> {
        let settlements = Arc::clone(settlements);
        let time = self.time.clone();
        self.writer
            .call(move |turn| queue::settle(turn, time.shift(), &settlements))
            .await
    }

    async fn release_held(&self, delay: Duration) -> Result<Vec<JobId>, EngineError> {
        let process = self.process;
        self.writer
            .call(move |turn| queue::release_held(turn, process, delay))
            .await
    }

    async fn cancel(&self, id: JobId) -> Result<Option<Cancelled>, EngineError> {
        self.writer.call(move |turn| queue::cancel(turn, id)).await
    }

    async fn cancel_dead(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError> {
        let queue = queue.clone();
        self.writer
            .call(move |turn| queue::cancel_dead(turn, &queue, limit))
            .await
    }

    async fn cancel_requests(&self) -> Result<Vec<JobId>, EngineError> {
        let process = self.process;
        self.reader
            .call(move |connection| lookup::cancel_requests(connection, process))
            .await
    }

    async fn revive(&self, id: JobId) -> Result<Option<Revived>, EngineError> {
        self.writer.call(move |turn| queue::revive(turn, id)).await
    }

    async fn revive_all(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError> {
        let queue = queue.clone();
        self.writer
            .call(move |turn| queue::revive_all(turn, &queue, limit))
            .await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<(), EngineError> {
        let queue = queue.clone();
        self.writer
            .call(move |turn| queue::set_paused(turn, &queue, paused))
            .await
    }

    async fn maintain(&self) -> Result<Maintained, EngineError> {
        let (retention, time) = (self.retention.clone(), self.time.clone());
        self.writer
            .call(move |turn| {
                // For times when nobody reserves or submits.
                time::catch_up(turn, &time)?;
                queue::maintain(turn, &retention)
            })
            .await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, EngineError> {
        let (now, shift) = self.time.now();
        let found = self
            .reader
            .call(move |connection| lookup::job(connection, id, now))
            .await?;
        let found = found.transpose();
        let job = found.map_err(|row| EngineError::Unreadable(row.to_string()))?;
        Ok(job.map(|job| shift.job(job)))
    }

    async fn payload(&self, id: JobId) -> Result<Option<(String, Bytes)>, EngineError> {
        self.reader
            .call(move |connection| lookup::payload(connection, id))
            .await
    }

    async fn runs(&self, id: JobId) -> Result<Vec<Run>, EngineError> {
        let (_, shift) = self.time.now();
        let runs = self
            .reader
            .call(move |connection| lookup::runs(connection, id))
            .await?;
        Ok(runs.into_iter().map(|run| shift.run(run)).collect())
    }

    async fn details(
        &self,
        ids: &[JobId],
    ) -> Result<Vec<Result<Option<Details>, EngineError>>, EngineError> {
        let ((now, shift), ids) = (self.time.now(), ids.to_vec());
        self.reader
            .call(move |connection| {
                let read = |id| {
                    let details = lookup::details(connection, id, now)?;
                    Ok(details.map(|details| shift.details(details)))
                };
                Ok(ids.into_iter().map(read).collect())
            })
            .await
    }

    async fn glance(&self, ids: &[JobId]) -> Result<Vec<Glance>, EngineError> {
        let ((now, shift), ids) = (self.time.now(), ids.to_vec());
        let seen = self
            .reader
            .call(move |connection| lookup::glance(connection, &ids, now))
            .await?;
        Ok(seen.into_iter().map(|job| shift.glance(job)).collect())
    }

    async fn list(&self, listing: &Listing) -> Result<Page, EngineError> {
        let (now, shift) = self.time.now();
        let listing = listing.clone();
        let mut page = self
            .reader
            .call(move |connection| lookup::list(connection, &listing, now))
            .await?;
        page.jobs = page.jobs.into_iter().map(|job| shift.job(job)).collect();
        Ok(page)
    }

    async fn queues(&self) -> Result<Vec<QueueStats>, EngineError> {
        let (now, _) = self.time.now();
        self.reader
            .call(move |connection| lookup::queues(connection, None, now))
            .await
    }

    async fn queue(&self, queue: &QueueName) -> Result<Option<QueueStats>, EngineError> {
        let (queue, (now, _)) = (queue.clone(), self.time.now());
        self.reader
            .call(move |connection| lookup::queues(connection, Some(&queue), now))
            .await
            .map(|mut found| found.pop())
    }

    async fn next_run_in(&self, queue: &QueueName) -> Result<Option<Duration>, EngineError> {
        let (queue, (now, _)) = (queue.clone(), self.time.now());
        self.reader
            .call(move |connection| lookup::next_run_in(connection, &queue, now))
            .await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Folds the WAL in and frees the directory.
    async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

#[async_trait]
impl Ledger for SqliteEngine {
    async fn mark_drain(
        &self,
        drain_id: &str,
        cause: &str,
        ago: Duration,
    ) -> Result<(), EngineError> {
        let process = self.process;
        let (drain_id, cause) = (drain_id.to_owned(), cause.to_owned());
        self.writer
            .call(move |turn| drains::mark(turn, process, &drain_id, &cause, ago))
            .await
    }

    async fn close_drain(&self, last: &LastWord) -> Result<(), EngineError> {
        let (process, last) = (self.process, last.clone());
        self.writer
            .call(move |turn| drains::close(turn, process, &last))
            .await
    }

    async fn drain_totals(&self) -> Result<Vec<DrainTotal>, EngineError> {
        self.reader.call(drains::totals).await
    }

    async fn drains(&self, limit: usize) -> Result<Vec<DrainRow>, EngineError> {
        let (_, shift) = self.time.now();
        let rows = self
            .reader
            .call(move |connection| drains::newest(connection, limit))
            .await?;
        Ok(rows.into_iter().map(|row| shift.drain(row)).collect())
    }
}
