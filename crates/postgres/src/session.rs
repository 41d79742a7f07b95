//! Transactions: begun with the database's time, committed or rolled back, then published as events.
//!
//! ```text
//!   BEGIN; SET LOCAL …; what time is it?     one round trip
//!     the command's statements
//!   COMMIT ── answered ──▶ events, then the answer
//!          ── no answer ─▶ an error, and nobody knows whether it happened
//! ```
//!
//! Replicas' clocks differ, the database has one: due times and timestamps are measured on it.
//!
//! **No connection is held while a lock is waited for.** Somebody else's transaction may stay open for hours,
//! and a few waiting for it would take the whole pool. So a lock that is not free within [`LOCK_WAIT`] fails
//! the transaction; it is begun again a moment later, and given up after [`LOCK_PATIENCE`].
//!
//! All of this works through a PgBouncer in transaction mode: settings are local to their transaction,
//! statements have no names, nothing is kept in a session.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Object, Pool, PoolError};
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_postgres::{
    Error, Row, SimpleQueryMessage,
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{failure, news::News};
use lameduck_jobs::{
    engine::{Clock, EngineError, common::Effects},
    job::QueueName,
};

/// Maximum number of times that a transaction is begun after it lost a race that cost it nothing but time.
const TRIES: u32 = 5;

/// How long a transaction waits for a lock: longer than the commit that usually holds it takes.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Pause between two attempts at something locked.
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(100);

/// Time after which a lock is given up: many commits, and less than a client waits for an answer.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The statements are written for their indexes. A planner whose figures are an hour old must not decide to
/// read or sort the backlog, or to compile something that runs for a millisecond.
pub(super) const PLANNER: &str = "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; \
    SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// One request to the database, in one transaction.
pub(super) trait Command: Send + Sync + 'static {
    /// The result.
    type Answer: Send + 'static;

    /// Whether it only reads.
    const LOOKS: bool = false;

    /// The connections that it may use.
    const WAY: Way = Way::Work;

    /// Maximum time for each of its steps, if less than for other commands.
    const PATIENCE: Option<Duration> = None;

    /// Does the work. May be called again after a rollback.
    fn run(&self, turn: &mut Turn) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}

/// The connections that a command may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The connections for commands.
    Work,
    /// The same, but never the last of them: however many clients read, one is left for work.
    Readers,
    /// A separate connection for readiness and the drain ledger: clients' requests do not hold it up.
    Reserved,
}

/// The connections, by who may use them.
pub(super) struct Pools {
    pub work: Pool,
    pub reserved: Pool,
}

/// An open transaction, with which a command works.
pub(super) struct Turn {
    // Taken when it goes back to the pool; a connection still here was cut off in the middle of something.
    connection: Option<Object>,
    /// The database's time, the same for the whole transaction.
    pub now: Timestamp,
    /// The events to publish if this becomes durable.
    pub effects: Effects,
    // Given back after the connection.
    _reader: Option<OwnedSemaphorePermit>,
}

/// The reason why a command did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    /// PostgreSQL reported an error, or the connection to it broke.
    Database(Error),
    /// No connection was available.
    NoConnection(PoolError),
    /// PostgreSQL did not answer in time.
    Silent(Duration),
    /// Somebody else was faster, and everything has to be read again.
    Raced,
    /// Somebody else is creating this queue, in a transaction that has not ended.
    NewQueue(QueueName),
    /// There is something in the database that this program does not understand.
    Unreadable(String),
}

/// A failed command, as the caller sees it.
pub(super) struct Undone {
    pub error: EngineError,
    /// The cause is the content to be written: other content may go through.
    pub by_content: bool,
    /// Whether it may have happened all the same.
    pub in_doubt: bool,
}

/// The point at which a transaction failed.
enum Broken {
    /// Before its COMMIT was sent: certainly nothing happened.
    Before(Failure),
    /// At its COMMIT: it may have happened.
    AtCommit(Failure),
}

/// Runs commands on the database.
pub(super) struct Sessions {
    pools: Pools,
    /// A permit for each connection that readers may have at the same time.
    readers: Arc<Semaphore>,
    begin: [String; 2],
    clock: Option<Clock>,
    patience: Duration,
    news: News,
    figures: Figures,
    running: TaskTracker,
    closed: CancellationToken,
}

/// Counters.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub commits: AtomicU64,
    pub stale: AtomicU64,
}

// === impl Sessions ===

impl Sessions {
    /// Uses these connections. A statement may take `timeout`; a process that stops in the middle of a
    /// transaction gives up its locks before its `lease` is over.
    pub fn new(
        pools: Pools,
        clock: Option<Clock>,
        timeout: Duration,
        lease: Duration,
        news: News,
    ) -> Arc<Self> {
        let begin = |how: &str| {
            format!(
                "BEGIN {how}; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
                 SET LOCAL idle_in_transaction_session_timeout = {}; \
                 {PLANNER}; \
                 SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
                timeout.as_millis().max(1),
                LOCK_WAIT.as_millis(),
                (lease / 2).as_millis().max(1),
            )
        };
        let for_readers = pools.work.status().max_size.saturating_sub(1).max(1);
        Arc::new(Self {
            pools,
            readers: Arc::new(Semaphore::new(for_readers)),
            begin: [begin("READ WRITE"), begin("READ ONLY")],
            clock,
            patience: timeout * 2,
            news,
            figures: Figures::default(),
            running: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Returns the counters.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Returns the publisher of events.
    pub fn news(&self) -> &News {
        &self.news
    }

    /// Runs a command; returns when it is durable. Once begun it goes on even if the caller goes away.
    pub async fn call<C: Command>(self: &Arc<Self>, command: C) -> Result<C::Answer, EngineError> {
        if self.closed.is_cancelled() {
            return Err(EngineError::Closed);
        }
        self.finish(command).await.map_err(|undone| undone.error)
    }

    /// Does the same for commands that were requested before everything closed.
    pub async fn finish<C: Command>(self: &Arc<Self>, command: C) -> Result<C::Answer, Undone> {
        self.run(command).await.map_err(|broken| match broken {
            Broken::Before(failure) => Undone {
                error: failure::explain(&failure, false),
                by_content: failure.by_content(),
                in_doubt: false,
            },
            Broken::AtCommit(failure) => Undone {
                error: failure::explain(&failure, true),
                by_content: false,
                in_doubt: true,
            },
        })
    }

    /// Refuses new commands, and returns when all that were begun have ended.
    pub async fn settle_down(&self) {
        self.closed.cancel();
        self.running.close();
        self.running.wait().await;
    }

    /// Does the same, and closes every connection.
    pub async fn close(&self) {
        self.settle_down().await;
        self.pools.work.close();
        self.pools.reserved.close();
    }

    async fn run<C: Command>(self: &Arc<Self>, command: C) -> Result<C::Answer, Broken> {
        let sessions = Arc::clone(self);
        // A separate task, so that no transaction is left in the middle.
        let run = self.running.spawn(async move {
            let mut tries = 1;
            let begun = Instant::now();
            loop {
                match sessions.transact(&command).await {
                    Err(broken) if broken.is_locked() && begun.elapsed() < LOCK_PATIENCE => {
                        sleep(LOCK_RETRY).await;
                    }
                    Err(broken) if broken.cost_only_time() && tries < TRIES => tries += 1,
                    result => return result,
                }
            }
        });
        run.await.unwrap_or_else(|panic| {
            let why = Failure::Unreadable(format!("the command did not end: {panic}"));
            Err(Broken::Before(why))
        })
    }

    async fn transact<C: Command>(&self, command: &C) -> Result<C::Answer, Broken> {
        let patience = C::PATIENCE.unwrap_or(self.patience);
        let mut turn = in_time(patience, self.begin(C::LOOKS, C::WAY))
            .await
            .map_err(Broken::Before)?;
        match in_time(patience, command.run(&mut turn)).await {
            Ok(answer) => {
                in_time(patience, turn.end("COMMIT"))
                    .await
                    .map_err(Broken::AtCommit)?;
                if !C::LOOKS {
                    self.figures.commits.fetch_add(1, Ordering::Relaxed);
                }
                let effects = std::mem::take(&mut turn.effects);
                self.figures
                    .stale
                    .fetch_add(effects.stale, Ordering::Relaxed);
                self.news.publish(effects);
                Ok(answer)
            }
            Err(failure) => {
                if !matches!(failure, Failure::Silent(_)) {
                    // If this fails, too, the connection is thrown away.
                    let _ = in_time(patience, turn.end("ROLLBACK")).await;
                }
                Err(Broken::Before(failure))
            }
        }
    }

    async fn begin(&self, looks: bool, way: Way) -> Result<Turn, Failure> {
        let reader = match way {
            // The semaphore is never closed.
            Way::Readers => self.readers.clone().acquire_owned().await.ok(),
            Way::Work | Way::Reserved => None,
        };
        let pool = match way {
            Way::Work | Way::Readers => &self.pools.work,
            Way::Reserved => &self.pools.reserved,
        };
        let connection = pool.get().await.map_err(Failure::NoConnection)?;
        let mut turn = Turn {
            connection: Some(connection),
            now: Timestamp::UNIX_EPOCH,
            effects: Effects::default(),
            _reader: reader,
        };
        let begin = &self.begin[usize::from(looks)];
        let said = turn.connection().simple_query(begin).await?;
        let now = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
            _ => None,
        });
        turn.now = match (&self.clock, now) {
            (Some(clock), _) => clock(),
            (None, Some(now)) => Timestamp::from_microsecond(now)
                .map_err(|error| Failure::Unreadable(error.to_string()))?,
            (None, None) => return Err(Failure::Unreadable("no time was told".to_owned())),
        };
        Ok(turn)
    }
}

async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or(Err(Failure::Silent(patience)))
}

// === impl Turn ===

/// A parameter and its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

impl Turn {
    /// Returns the rows of a query.
    pub async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
        Ok(self.connection().query_typed(sql, params).await?)
    }

    /// Returns the only row, if there is one.
    pub async fn find(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, Failure> {
        Ok(self.connection().query_typed_opt(sql, params).await?)
    }

    /// Returns the number of rows changed.
    pub async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Failure> {
        Ok(self.connection().execute_typed(sql, params).await?)
    }

    /// Ends the transaction and gives the connection back.
    async fn end(&mut self, how: &str) -> Result<(), Failure> {
        self.connection().batch_execute(how).await?;
        drop(self.connection.take());
        Ok(())
    }

    fn connection(&self) -> &Object {
        // Only `end` takes it, and nothing comes after that.
        self.connection
            .as_ref()
            .unwrap_or_else(|| unreachable!("a transaction was used after its end"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // It must not go back to the pool: something may be under way on it. PostgreSQL rolls back.
            drop(Object::take(connection));
        }
    }
}

// === impl Broken ===

impl Broken {
    /// Whether nothing happened because somebody else has locked what it needs.
    fn is_locked(&self) -> bool {
        matches!(self, Self::Before(failure) if failure.is_locked())
    }

    /// Whether nothing happened, and trying again at once may succeed.
    fn cost_only_time(&self) -> bool {
        match self {
            Self::Before(Failure::Raced) => true,
            Self::Before(Failure::Database(error)) => {
                // A connection that was closed while it was idle in the pool, or was just opening.
                error.is_closed()
                    || error.code().is_some_and(|code| {
                        *code == SqlState::T_R_SERIALIZATION_FAILURE
                            || *code == SqlState::T_R_DEADLOCK_DETECTED
                            || *code == SqlState::ADMIN_SHUTDOWN
                    })
            }
            Self::Before(_) | Self::AtCommit(_) => false,
        }
    }
}

// === impl Failure ===

impl Failure {
    /// Whether somebody else holds a lock and keeps it.
    pub fn is_locked(&self) -> bool {
        match self {
            Self::Database(error) => error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE),
            Self::NewQueue(_) => true,
            _ => false,
        }
    }

    /// Whether PostgreSQL rejected a value, and not the state of the database.
    fn by_content(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        // Data exceptions, constraints, limits of the program: appendix A of PostgreSQL's manual.
        let classes = ["22", "23", "54", "P0"];
        error
            .code()
            .is_some_and(|code| classes.iter().any(|class| code.code().starts_with(class)))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}
