//! Group commit: all waiting commands share one transaction, and are answered after its one fsync.
//!
//! ```text
//!   BEGIN IMMEDIATE
//!     SAVEPOINT  first command   RELEASE
//!     SAVEPOINT  second command  ROLLBACK TO   (it failed: its neighbours do not notice)
//!     …
//!   COMMIT ── durable ──▶ events, then every answer
//!          ── failed  ──▶ every command gets the error, and nobody knows whether it happened
//! ```
//!
//! This file does not know what a command does.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{broadcast, oneshot};

use super::{
    connection::explain,
    directory::Directory,
    service::{Inbox, Service},
};
use lameduck_jobs::engine::{Clock, EngineError, Event, common::Effects, vital::Vitals};
use lameduck_lifecycle::LogThrottle;

/// Time between two log lines about failing writes: waiting callers try again four times a second.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// The handle on the writer's thread.
pub(super) struct Writer(Service<Box<dyn Command>>);

/// Returns the throttle for log lines about failing writes.
pub(super) const fn told() -> LogThrottle {
    LogThrottle::every(TELL_AGAIN)
}

/// Everything that the thread owns.
pub(super) struct Desk {
    pub connection: Connection,
    pub clock: Clock,
    pub batch: usize,
    pub events: broadcast::Sender<Event>,
    pub figures: Arc<Figures>,
    pub told: LogThrottle,
    /// Kept to the very end: the lock may be released only when nothing is written any more.
    pub directory: Kept,
}

/// The directory, which stays locked until the process ends if the thread panics: its handlers are still at
/// work, and another process must not free their jobs.
pub(super) struct Kept(Option<Directory>);

/// An open transaction, with which a command works.
pub(super) struct Turn<'a> {
    pub connection: &'a Connection,
    /// The queue's time, the same for a whole batch.
    pub now: Timestamp,
    /// The events to publish if this becomes durable.
    pub effects: &'a mut Effects,
}

/// The writer's counters.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub commands: AtomicU64,
    pub commits: AtomicU64,
    pub stale: AtomicU64,
}

/// The reason why a command did not happen; cloned for each command of a failed batch.
#[derive(Clone)]
struct Failure(String);

/// The way in which a transaction failed.
enum Broken {
    /// One command made the transaction fail, and it was rolled back: certainly nothing happened.
    ByOne(Failure),
    /// The transaction could not begin, or failed at its COMMIT: in that case it may have happened.
    AsAWhole(Failure),
}

trait Command: Send {
    /// Whether nobody waits for the answer any more.
    fn abandoned(&self) -> bool;

    /// Does the work and keeps the answer. May be called again after a rollback.
    fn run(&mut self, turn: &mut Turn<'_>) -> rusqlite::Result<()>;

    /// Replaces the answer by the reason why the command did not happen.
    fn fail(&mut self, failure: Failure);

    /// Sends the answer.
    fn answer(self: Box<Self>);
}

struct Request<F, T> {
    run: F,
    result: Result<T, Failure>,
    reply: oneshot::Sender<Result<T, EngineError>>,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread.
    pub fn spawn(backlog: usize, desk: Desk, vitals: Vitals) -> io::Result<Self> {
        let serve = move |inbox| desk.serve(inbox);
        Service::spawn("queue-writer", backlog, vitals, serve).map(Self)
    }

    /// Calls `run` in the next transaction; returns when it is durable.
    pub async fn call<T, F>(&self, run: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnMut(&mut Turn<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let result = Err(Failure("the command was not run".to_owned()));
        self.0
            .send(Box::new(Request { run, result, reply }))
            .await?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.0.gone().await),
        }
    }

    /// Returns when everything that was sent is durable, the files are closed and the directory is free.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

// === impl Kept ===

impl Kept {
    pub fn new(directory: Directory) -> Self {
        Self(Some(directory))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

// === impl Desk ===

impl Desk {
    fn serve(self, mut inbox: Inbox<Box<dyn Command>>) {
        while let Some(first) = inbox.next() {
            let mut batch = vec![first];
            while batch.len() < self.batch
                && let Some(next) = inbox.next_waiting()
            {
                batch.push(next);
            }
            // Nothing has been done for these yet, and nobody is waiting for their claims any more.
            batch.retain(|command| !command.abandoned());
            self.settle(batch);
        }
        self.close();
    }

    /// Runs a batch and sends the answers.
    fn settle(&self, mut batch: Vec<Box<dyn Command>>) {
        match self.transact(&mut batch) {
            Ok(effects) => self.publish(effects),
            // One command made the whole transaction fail (a full disk does that). Alone, its neighbours may
            // still succeed: an outcome needs less room than a submission.
            Err(Broken::ByOne(_)) if batch.len() > 1 => {
                return batch.into_iter().for_each(|one| self.settle(vec![one]));
            }
            Err(Broken::ByOne(failure) | Broken::AsAWhole(failure)) => {
                if let Some(left_out) = self.told.admit() {
                    tracing::error!(
                        error = failure.0,
                        left_out,
                        "the queue could not be written"
                    );
                }
                for command in &mut batch {
                    command.fail(failure.clone());
                }
            }
        }
        for command in batch {
            command.answer();
        }
    }

    fn transact(&self, batch: &mut [Box<dyn Command>]) -> Result<Effects, Broken> {
        if batch.is_empty() {
            return Ok(Effects::default());
        }
        self.execute("BEGIN IMMEDIATE").map_err(Broken::AsAWhole)?;
        let now = (self.clock)();
        let mut effects = Effects::default();
        for command in &mut *batch {
            effects.merge(self.step(command.as_mut(), now)?);
        }
        if let Err(failure) = self.execute("COMMIT") {
            // It may have rolled back already, and nothing can be done if this fails too.
            let _ = self.execute("ROLLBACK");
            return Err(Broken::AsAWhole(failure));
        }
        self.figures.commits.fetch_add(1, Ordering::Relaxed);
        self.figures
            .commands
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(effects)
    }

    /// Runs one command so that its failure does not affect the others.
    fn step(&self, command: &mut dyn Command, now: Timestamp) -> Result<Effects, Broken> {
        let mut effects = Effects::default();
        let mut turn = Turn {
            connection: &self.connection,
            now,
            effects: &mut effects,
        };
        let undone = |failure| {
            let _ = self.execute("ROLLBACK");
            Broken::ByOne(failure)
        };
        self.execute("SAVEPOINT command").map_err(undone)?;
        if let Err(error) = command.run(&mut turn) {
            let failure = self.failure(&error);
            command.fail(failure.clone());
            // SQLite rolls everything back by itself if the disk is full, or if I/O or memory fails.
            if self.connection.is_autocommit() {
                return Err(Broken::ByOne(failure));
            }
            self.execute("ROLLBACK TO command").map_err(undone)?;
            effects = Effects::default();
        }
        self.execute("RELEASE command").map_err(undone)?;
        Ok(effects)
    }

    fn publish(&self, effects: Effects) {
        self.figures
            .stale
            .fetch_add(effects.stale, Ordering::Relaxed);
        for event in effects.into_events() {
            // It is fine if nobody listens.
            let _ = self.events.send(event);
        }
    }

    fn execute(&self, sql: &str) -> Result<(), Failure> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        Failure(explain(&self.database(), error))
    }

    fn database(&self) -> PathBuf {
        let directory = self.directory.0.as_ref();
        directory.map(Directory::database).unwrap_or_default()
    }

    fn close(self) {
        // Optional: the next start would read the WAL. But a volume at rest is better one file.
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = self.connection.query_row(checkpoint, [], |_| Ok(())) {
            tracing::warn!(%error, "the write-ahead log was not folded in; the next start does it");
        }
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "the database did not close cleanly; nothing is lost");
        }
        drop(self.directory);
    }
}

// === impl Request ===

impl<T, F> Command for Request<F, T>
where
    T: Send,
    F: FnMut(&mut Turn<'_>) -> rusqlite::Result<T> + Send,
{
    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> rusqlite::Result<()> {
        self.result = Ok((self.run)(turn)?);
        Ok(())
    }

    fn fail(&mut self, failure: Failure) {
        self.result = Err(failure);
    }

    fn answer(self: Box<Self>) {
        let result = self
            .result
            .map_err(|failure| EngineError::Storage(failure.0));
        // It does not matter if the caller went away meanwhile: what it asked for is durable, and a
        // reservation is found again by the process that holds it.
        let _ = self.reply.send(result);
    }
}
