//! The engine for any number of replicas: PostgreSQL 13 or later, also behind a PgBouncer in transaction mode.
//!
//! ```text
//!   submit, settle     ──▶ batchers ──▶ one transaction for all that waited ─┐
//!   reserve, cancel, … ─────────────▶ a transaction each ────────────────────┼─▶ pool ──▶ PostgreSQL
//!   job, queues, …     ─────────────▶ a transaction each, read only ─────────┘             │  ▲
//!   lease  (thread of its own) ──▶ connection of its own: beats, and watches the others' ──┘  │
//!   events ◀── listener ◀── connection of its own: LISTEN ◀── NOTIFY after each commit ◀──────┘
//! ```
//!
//! **Who owns a job** is said by one lease row for each process, whose beat goes up while it lives. Whoever
//! has itself seen a beat stand still for the whole lease, on its own clock and with the database answering
//! all that while, reaps it: the process' jobs are free, and a claim of theirs writes nothing any more. So
//! nobody steals the jobs of the living after an outage, and replicas' clocks need not agree.
//!
//! **What time it is** the database says.
//!
//! | fails | what happens |
//! | --- | --- |
//! | a process | another one frees its jobs after its lease, 8 s by default, and what a look takes |
//! | a process stands still for longer than that | the same; when it goes on, it takes a new id and its outcomes are stale |
//! | the database, for however long | calls fail; when it is back, everybody goes on with what they hold |
//! | an answer to COMMIT | outcomes are written again, keys make submissions harmless, a lost reservation is given back |
//! | LISTEN (a PgBouncer, a firewall) | nobody hears of others' jobs at once; whoever waits looks from time to time |

use std::{
    fmt,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_postgres::Client;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use lameduck_jobs::engine::{Clock, Engine, EngineError, Event};
use lameduck_jobs::{
    job::{
        Cancelled, Claim, JobId, JobRecord, Listing, Maintained, NewJob, Order, Page, ProcessId,
        QueueName, QueueStats, Rejected, Reserved, Retention, Revived, Run, Settled, Settlement,
        Submitted,
    },
    ledger::{DrainRow, DrainTotal, LastWord, Ledger},
};

mod address;
mod batch;
mod convert;
mod drains;
mod failure;
mod lease;
mod lookup;
mod news;
#[cfg(test)]
mod plans;
mod queue;
mod schema;
mod session;
mod watch;

use address::Address;
use batch::Batcher;
use convert::{micros, params, process_uuid, stored_duration};
use lease::{About, Identity, Lease};
use news::News;
use queue::{Reap, Reaped, Room, Why};
pub use schema::Schema;
use session::{Command, Failure, Sessions, Turn};

/// How long a new process may take to find the database and to bring its schema up to date.
const OPENING: Duration = Duration::from_secs(60);

/// Between two attempts to give a lost reservation back.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// The engine on PostgreSQL.
///
/// Dropped without [`close`](Engine::close) it is to the others as if it had been killed: they wait for its
/// lease.
pub struct PostgresEngine {
    identity: Identity,
    sessions: Arc<Sessions>,
    options: Kept,
    submissions: Batcher<NewJob, Result<Submitted, Rejected>>,
    outcomes: Batcher<queue::One, Settled>,
    tasks: TaskTracker,
    closing: CancellationToken,
    lease: Mutex<Option<Lease>>,
    over: CancellationToken,
    // Ends what listens and waits, however the engine goes.
    _over: DropGuard,
}

/// What can be set; the defaults are for production.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`. `sslmode` is `disable`, `prefer`
    /// (default), `require` or `verify-full`, this one with the authorities of the system or of
    /// `sslrootcert=/path`.
    pub url: String,
    /// Whether to make the tables, or bring older ones up to date. Otherwise those that do not fit are refused, and
    /// [`migrate`] is what somebody has to call first.
    pub migrate: bool,
    /// Connections for commands; two more are for the lease and for events. Each replica has as many, and
    /// PostgreSQL has 100 by default.
    pub connections: usize,
    /// How long a process may seem dead before its jobs are given to others. With an eighth of it between
    /// two looks, the default of 8 s has a killed process' jobs runnable again within 10 s.
    pub lease: Duration,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// Jobs or outcomes in one transaction, about.
    pub batch: usize,
    /// Ended process runs that the ledger keeps one by one; older ones are only counted.
    pub ledger_rows: u32,
    /// Jobs that may wait in one queue; more are refused. Several processes may exceed it together by what
    /// they take in at the same moment.
    pub max_waiting: u64,
    /// Bytes of payloads and results that the jobs may hold before more are refused.
    pub max_bytes: u64,
    /// A job is dead when its process crashed so often in a row while it ran, the last time alone; 0 for
    /// never.
    pub max_crashes: u32,
    /// How long what ended is kept.
    pub retention: Retention,
    /// The machine, or what is no longer-lived than it; the host's name by default.
    pub node: Option<String>,
    /// What tells one boot of the machine from the next.
    pub boot_id: Option<String>,
    /// Says what time it is instead of the database; for tests.
    pub clock: Option<Clock>,
}

/// What of the options is needed later.
struct Kept {
    max_crashes: u32,
    ledger_rows: u32,
    retention: Retention,
}

// === impl PostgresOptions ===

impl PostgresOptions {
    /// The defaults, for the database at this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            migrate: true,
            connections: 4,
            lease: Duration::from_secs(8),
            statement_timeout: Duration::from_secs(10),
            batch: 512,
            ledger_rows: 1_000,
            max_waiting: 1_000_000,
            max_bytes: u64::MAX,
            max_crashes: 10,
            retention: Retention::default(),
            node: first_line("/proc/sys/kernel/hostname"),
            boot_id: first_line("/proc/sys/kernel/random/boot_id"),
            clock: None,
        }
    }
}

/// Linux tells; elsewhere nobody does, and every end counts as a crash.
fn first_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

// === impl PostgresEngine ===

impl PostgresEngine {
    /// Opens the queue for this process run, and makes or updates its tables (in the schema `lameduck`) unless
    /// the options say otherwise.
    ///
    /// # Errors
    /// [`EngineError::Storage`] where the database can't be reached and it may help to try again;
    /// [`EngineError::Unusable`] where somebody has to do something first, and says what.
    pub async fn connect(options: PostgresOptions) -> Result<Self, EngineError> {
        let address = Address::parse(&options.url, options.statement_timeout)?;
        alone(&address, async |client| {
            schema::prepare(client, &address, options.migrate).await
        })
        .await?;
        let (news, unsaid) = News::new();
        let sessions = Sessions::new(
            pool(&address, &options)?,
            options.clock.clone(),
            options.statement_timeout,
            options.lease,
            news.clone(),
        );
        let identity = Identity::random();
        let about = About {
            node: options.node.clone(),
            boot_id: options.boot_id.clone(),
            lease: options.lease,
        };
        let row = Open {
            process: identity.get(),
            about: about.clone(),
            ledger_rows: options.ledger_rows,
        };
        sessions.call(row).await?;

        let over = CancellationToken::new();
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (orders, ordered) = mpsc::channel(64);
        let kept = Kept {
            max_crashes: options.max_crashes,
            ledger_rows: options.ledger_rows,
            retention: options.retention.clone(),
        };
        tokio::spawn(News::cry(news.origin(), Arc::downgrade(&sessions), unsaid));
        tokio::spawn(news.listen(address.clone(), over.clone()));
        tokio::spawn(reap_all(
            sessions.clone(),
            ordered,
            options.lease,
            (options.max_crashes, options.ledger_rows),
            closing.clone(),
        ));
        let lease = Lease::keep(address, identity.clone(), about, orders)
            .map_err(|error| EngineError::Storage(format!("no thread for the lease: {error}")))?;
        Ok(Self {
            submissions: submissions(&sessions, &options, &tasks, &closing),
            outcomes: outcomes(&sessions, &options, &tasks, &closing),
            identity,
            sessions,
            options: kept,
            tasks,
            closing,
            lease: Mutex::new(Some(lease)),
            _over: over.clone().drop_guard(),
            over,
        })
    }

    /// Frees at once what a process held that is known to be dead, without waiting for its lease. Whoever
    /// calls this vouches for its death: one that lives finds its claims stale and takes a new id. Says
    /// whether there was such a process.
    pub async fn reap(&self, process: ProcessId) -> Result<bool, EngineError> {
        let reaped = self.sessions.call(self.end_of(process, Why::KnownDead));
        Ok(reaped.await?.is_some())
    }

    /// Transactions that were committed; the fewer for the same commands, the better they were grouped.
    pub fn commits(&self) -> u64 {
        self.sessions.figures().commits.load(Ordering::Relaxed)
    }

    /// Outcomes that came under a claim which was no longer the job's, and were not written.
    pub fn stale_settlements(&self) -> u64 {
        self.sessions.figures().stale.load(Ordering::Relaxed)
    }

    fn end_of(&self, process: ProcessId, why: Why) -> Reap {
        Reap {
            process,
            why,
            max_crashes: self.options.max_crashes,
            ledger_rows: self.options.ledger_rows,
        }
    }
}

impl fmt::Debug for PostgresEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresEngine")
            .field("process", &self.identity.get().to_string())
            .field("figures", self.sessions.figures())
            .finish_non_exhaustive()
    }
}

/// Does something on a connection of its own, for as long as opening may take.
async fn alone<T>(
    address: &Address,
    work: impl AsyncFnOnce(&Client) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let alone = async {
        let connected = address.connect().await;
        let (client, driver) = connected.map_err(|error| schema::failed(address, &error))?;
        let driver = tokio::spawn(driver);
        let done = work(&client).await;
        drop(client);
        // It says goodbye.
        let _ = driver.await;
        done
    };
    tokio::time::timeout(OPENING, alone)
        .await
        .unwrap_or_else(|_| {
            let why = format!("it did not answer within {} s", OPENING.as_secs());
            Err(EngineError::Storage(
                schema::unusable(address, &why).to_string(),
            ))
        })
}

/// Makes or updates the tables and starts nothing: what [`PostgresEngine::connect`] does first. Any number of
/// processes may do it at once, beside others that work with what is there.
///
/// # Errors
/// As of [`PostgresEngine::connect`].
pub async fn migrate(options: &PostgresOptions) -> Result<Schema, EngineError> {
    let address = Address::parse(&options.url, options.statement_timeout)?;
    alone(&address, async |client| {
        schema::prepare(client, &address, true).await
    })
    .await
}

/// The latest process runs by the drain ledger, at most so many, read without being one of them.
///
/// # Errors
/// As of [`PostgresEngine::connect`]; and [`EngineError::Unusable`] where there is no queue.
pub async fn read_drains(
    options: &PostgresOptions,
    limit: usize,
) -> Result<Vec<DrainRow>, EngineError> {
    let address = Address::parse(&options.url, options.statement_timeout)?;
    alone(&address, async |client| {
        schema::check(client, &address).await?;
        let rows = drains::read(client, limit).await;
        rows.map_err(|failure| failure::explain(&failure, false))
    })
    .await
}

fn pool(address: &Address, options: &PostgresOptions) -> Result<Pool, EngineError> {
    let how = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(address.config.clone(), address.tls.clone(), how);
    let patience = Some(options.statement_timeout);
    Pool::builder(manager)
        .max_size(options.connections.max(1))
        .timeouts(Timeouts {
            wait: patience,
            create: patience,
            recycle: patience,
        })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| schema::unusable(address, &error.to_string()))
}

fn submissions(
    sessions: &Arc<Sessions>,
    options: &PostgresOptions,
    tasks: &TaskTracker,
    closing: &CancellationToken,
) -> Batcher<NewJob, Result<Submitted, Rejected>> {
    let sessions = sessions.clone();
    let room = Room {
        max_waiting: options.max_waiting,
        max_bytes: options.max_bytes,
    };
    let work = move |jobs| {
        let (sessions, room) = (sessions.clone(), room.clone());
        Box::pin(async move { sessions.finish(queue::Submit { jobs, room }).await }) as _
    };
    Batcher::spawn(options.batch, tasks, closing.clone(), Box::new(work))
}

fn outcomes(
    sessions: &Arc<Sessions>,
    options: &PostgresOptions,
    tasks: &TaskTracker,
    closing: &CancellationToken,
) -> Batcher<queue::One, Settled> {
    let sessions = sessions.clone();
    let work = move |outcomes| {
        let sessions = sessions.clone();
        Box::pin(async move { sessions.finish(queue::Settle(outcomes)).await }) as _
    };
    Batcher::spawn(options.batch, tasks, closing.clone(), Box::new(work))
}

/// Reaps whoever has stood still.
async fn reap_all(
    sessions: Arc<Sessions>,
    mut orders: mpsc::Receiver<lease::Order>,
    lease: Duration,
    (max_crashes, ledger_rows): (u32, u32),
    closing: CancellationToken,
) {
    loop {
        let order = tokio::select! {
            () = closing.cancelled() => return,
            order = orders.recv() => order,
        };
        let Some(order) = order else { return };
        // What was seen too long ago may have been an outage since. If it is still so, it is said again.
        if order.seen.elapsed() > lease / 4 {
            continue;
        }
        let process = order.dead.process;
        let reap = Reap {
            process,
            why: Why::StoodStill(order.dead.beat),
            max_crashes,
            ledger_rows,
        };
        match sessions.call(reap).await {
            Ok(Some(Reaped { freed, condemned })) => {
                tracing::warn!(%process, freed, "a process is dead; its jobs are free again");
                if condemned > 0 {
                    tracing::error!(
                        condemned,
                        "jobs are dead because their process crashed whenever they ran"
                    );
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%process, %error, "a dead process' jobs are not free yet"),
        }
    }
}

/// Gives back what was reserved and never came to anybody.
async fn give_back(
    sessions: Arc<Sessions>,
    process: ProcessId,
    tokens: Vec<Uuid>,
    over: CancellationToken,
) {
    while !over.is_cancelled() {
        let lost = queue::GiveBack {
            process,
            tokens: tokens.clone(),
        };
        match sessions.call(lost).await {
            Ok(_) | Err(EngineError::Closed) => return,
            Err(_) => tokio::time::sleep(GIVE_BACK).await,
        }
    }
}

/// This process' row.
struct Open {
    process: ProcessId,
    about: About,
    ledger_rows: u32,
}

// === impl Open ===

impl Command for Open {
    type Answer = ();

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        let row = params![
            process_uuid(self.process) => UUID, self.about.node => TEXT, self.about.boot_id => TEXT,
            stored_duration(self.about.lease) => INT8, Some(micros(turn.now)) => INT8,
        ];
        turn.execute(lease::OPEN, row).await?;
        drains::prune(turn, self.ledger_rows).await
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    /// Another one after this process was taken for dead.
    fn process(&self) -> ProcessId {
        self.identity.get()
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.sessions.call(lookup::Ping).await
    }

    async fn submit(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, EngineError> {
        self.submissions.call(jobs).await
    }

    async fn reserve(
        &self,
        queue: &QueueName,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Reserved>, EngineError> {
        if self.closing.is_cancelled() {
            return Err(EngineError::Closed);
        }
        let process = self.identity.get();
        let tokens = || Uuid::from_bytes(Claim::fresh_token());
        let tokens: Vec<_> = (0..limit.min(queue::MOST)).map(|_| tokens()).collect();
        let reserve = queue::Reserve {
            process,
            queue: queue.clone(),
            order,
            tokens: tokens.clone(),
        };
        let (reply, answer) = oneshot::channel();
        let (sessions, over) = (self.sessions.clone(), self.over.clone());
        self.tasks.spawn(async move {
            let reserved = sessions.finish(reserve).await;
            let lost = matches!(&reserved, Err(undone) if undone.in_doubt);
            let unheard = reply.send(reserved.map_err(|undone| undone.error));
            if lost || matches!(unheard, Err(Ok(reserved)) if !reserved.is_empty()) {
                tokio::spawn(give_back(sessions, process, tokens, over));
            }
        });
        answer.await.unwrap_or(Err(EngineError::Closed))
    }

    async fn runs_alone(&self, claim: &Claim) -> Result<(), EngineError> {
        let (job, token) = (claim.job(), *claim.token());
        self.sessions.call(queue::RunsAlone { job, token }).await
    }

    async fn settle(
        &self,
        settlements: &Arc<Vec<Settlement>>,
    ) -> Result<Vec<Settled>, EngineError> {
        let one = |number| queue::One {
            all: settlements.clone(),
            number,
        };
        let all = (0..settlements.len()).map(one).collect();
        self.outcomes.call(all).await
    }

    async fn release_held(&self, delay: Duration) -> Result<Vec<JobId>, EngineError> {
        let process = self.identity.get();
        self.sessions
            .call(queue::ReleaseHeld { process, delay })
            .await
    }

    async fn cancel(&self, id: JobId) -> Result<Option<Cancelled>, EngineError> {
        self.sessions.call(queue::Cancel(id)).await
    }

    async fn cancel_dead(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError> {
        let queue = queue.clone();
        self.sessions.call(queue::CancelDead { queue, limit }).await
    }

    async fn cancel_requests(&self) -> Result<Vec<JobId>, EngineError> {
        let process = self.identity.get();
        self.sessions.call(lookup::CancelRequests(process)).await
    }

    async fn revive(&self, id: JobId) -> Result<Option<Revived>, EngineError> {
        self.sessions.call(queue::Revive(id)).await
    }

    async fn revive_all(&self, queue: &QueueName, limit: usize) -> Result<u64, EngineError> {
        let queue = queue.clone();
        self.sessions.call(queue::ReviveAll { queue, limit }).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<(), EngineError> {
        let queue = queue.clone();
        self.sessions.call(queue::SetPaused { queue, paused }).await
    }

    async fn maintain(&self) -> Result<Maintained, EngineError> {
        let housekeeping = queue::Maintain {
            retention: self.options.retention.clone(),
            ledger_rows: self.options.ledger_rows,
        };
        self.sessions.call(housekeeping).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, EngineError> {
        self.sessions.call(lookup::OneJob(id)).await
    }

    async fn payload(&self, id: JobId) -> Result<Option<(String, Bytes)>, EngineError> {
        self.sessions.call(lookup::Payload(id)).await
    }

    async fn runs(&self, id: JobId) -> Result<Vec<Run>, EngineError> {
        self.sessions.call(lookup::Runs(id)).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, EngineError> {
        self.sessions.call(lookup::List(listing.clone())).await
    }

    async fn queues(&self) -> Result<Vec<QueueStats>, EngineError> {
        self.sessions.call(lookup::Queues).await
    }

    async fn next_run_at(&self, queue: &QueueName) -> Result<Option<Timestamp>, EngineError> {
        self.sessions.call(lookup::NextRunAt(queue.clone())).await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.sessions.news().subscribe()
    }

    /// Ends the lease, so that nobody waits for it: what this process still holds is free at once.
    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.sessions.settle_down().await;
        let lease = self.lease.lock().map_or(None, |mut lease| lease.take());
        if let Some(lease) = lease {
            // Joining a thread may take a moment.
            let _ = tokio::task::spawn_blocking(move || drop(lease)).await;
            let end = self.end_of(self.identity.get(), Why::Closed);
            if let Err(undone) = self.sessions.finish(end).await {
                let error = undone.error;
                tracing::warn!(%error, "this process' lease was not ended; the others wait until it is over");
            }
        }
        self.sessions.close().await;
        self.over.cancel();
    }
}

#[async_trait]
impl Ledger for PostgresEngine {
    async fn mark_drain(
        &self,
        drain_id: &str,
        cause: &str,
        ago: Duration,
    ) -> Result<(), EngineError> {
        let mark = drains::Mark {
            process: self.identity.get(),
            drain_id: drain_id.to_owned(),
            cause: cause.to_owned(),
            ago,
        };
        self.sessions.call(mark).await
    }

    async fn close_drain(&self, last: &LastWord) -> Result<(), EngineError> {
        let last = drains::Close {
            process: self.identity.get(),
            last: last.clone(),
        };
        self.sessions.call(last).await
    }

    async fn drain_totals(&self) -> Result<Vec<DrainTotal>, EngineError> {
        self.sessions.call(drains::Totals).await
    }

    async fn drains(&self, limit: usize) -> Result<Vec<DrainRow>, EngineError> {
        self.sessions.call(drains::Newest(limit)).await
    }
}
