//! The engine for any number of replicas: PostgreSQL 13 or later, also behind a PgBouncer in transaction mode.
//!
//! ```text
//!   submit, settle     ──▶ batchers ──▶ one transaction for all that waited ─┐
//!   reserve, cancel, … ─────────────▶ a transaction each ────────────────────┼─▶ pool ──▶ PostgreSQL
//!   job, queues, …     ─────────────▶ a transaction each, read only ─────────┘             │  ▲
//!   ping, the drain ledger ─────────▶ connection of its own, which no reader can hold up ──┤  │
//!   lease  (thread of its own) ──▶ connection of its own: beats, and watches the others' ──┘  │
//!   events ◀── listener ◀── connection of its own: LISTEN ◀── NOTIFY after each commit ◀──────┘
//! ```
//!
//! **Ownership of jobs** is recorded in one lease row for each process, whose beat goes up while it lives. A
//! process that has itself seen a beat stand still for the whole lease, on its own clock and with the database
//! answering all that while, reaps it: the dead process's jobs are free, and its claims write nothing any more. So
//! nobody steals the jobs of the living after an outage, and replicas' clocks need not agree.
//!
//! **The time** comes from the database, for everybody and everything: delays, backoffs and deadlines arrive here as
//! spans of time and are added to its clock; ages and waits leave as spans. No replica's clock is compared with it.
//!
//! | fails | what happens |
//! | --- | --- |
//! | a process | another one frees its jobs after its lease (8 s by default) and the time until the next look |
//! | a process stands still for longer than that | the same; when it goes on, it takes a new id and its outcomes are stale |
//! | the database, for however long | calls fail; when it is back, every process goes on with the jobs that it holds |
//! | an answer to COMMIT | outcomes are written again, keys make submissions harmless, a lost reservation is given back |
//! | somebody's transaction that is left open | only those that need what it holds wait for it, and for no longer than 2 s |
//! | LISTEN (a PgBouncer, a firewall) | nobody hears of others' jobs at once; idle workers look from time to time |

use std::{
    fmt,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_postgres::Client;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use lameduck_jobs::engine::{Clock, Details, Engine, EngineError, Event, Glance, vital::Vitals};
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
mod contended;
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
mod wakes;
mod watch;

use address::Address;
pub use address::{ConnectionString, InvalidConnectionString};
use batch::Batcher;
use contended::Contended;
use convert::{micros, params, process_uuid, stored_duration, text};
use lease::{About, Identity, Lease};
use news::News;
use queue::{Reap, Reaped, Released, Room, Why, Written};
pub use schema::Schema;
use session::{Command, Failure, LOCK_PATIENCE, LOCK_RETRY, Pools, Sessions, Turn, Undone};

/// Maximum time for a new process to find the database and to bring its schema up to date.
const OPENING: Duration = Duration::from_secs(60);

/// Pause between two attempts to give a lost reservation back.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Pause before the first retry for a locked row: usually a commit of ours is under way, which takes no longer.
const LOCK_GONE_SOON: Duration = Duration::from_millis(5);

/// Pause between two attempts to create a queue's row.
const PREPARE: Duration = Duration::from_secs(1);

/// The engine on PostgreSQL.
///
/// If it is dropped without [`close`](Engine::close), it looks to the others as if it had been killed: they
/// wait for its lease to end.
pub struct PostgresEngine {
    identity: Identity,
    sessions: Arc<Sessions>,
    options: Kept,
    submissions: Batcher<NewJob, Result<Submitted, Rejected>>,
    /// The batcher for submissions that need what somebody else's open transaction holds.
    patient: Batcher<NewJob, Result<Submitted, Rejected>>,
    contended: Contended,
    outcomes: Batcher<queue::One, Written>,
    tasks: TaskTracker,
    closing: CancellationToken,
    vitals: Vitals,
    lease: Mutex<Option<Lease>>,
    over: CancellationToken,
    // Ends the tasks that listen and wait, however the engine is dropped.
    _over: DropGuard,
}

/// The engine's options; the defaults are for production.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`. `sslmode` is `disable`, `prefer`
    /// (default), `require` or `verify-full`, this one with the authorities of the system or of
    /// `sslrootcert=/path`.
    pub url: String,
    /// Whether to create the tables, or bring older ones up to date. Otherwise tables that do not fit are
    /// refused, and somebody has to call [`migrate`] first.
    pub migrate: bool,
    /// Connections for commands; three more are for the lease, for events, and for readiness with the drain
    /// ledger. Each replica has as many, and PostgreSQL has 100 by default. All clients' reads together take
    /// one connection less, so that work always finds one.
    pub connections: usize,
    /// How long a process may seem dead before its jobs are given to others. With a look every eighth of it,
    /// the default of 8 s makes a killed process's jobs runnable again within 10 s.
    pub lease: Duration,
    /// Maximum duration of one statement.
    pub statement_timeout: Duration,
    /// Approximate number of jobs or outcomes in one transaction.
    pub batch: usize,
    /// Number of ended process runs that the ledger keeps one by one; older ones are only counted.
    pub ledger_rows: u32,
    /// Maximum number of jobs that may wait in one queue; more are refused. Several processes may exceed it
    /// together by what they take in at the same moment.
    pub max_waiting: u64,
    /// Maximum number of bytes of payloads and results that the jobs may hold; beyond it submissions are refused.
    pub max_bytes: u64,
    /// Number of times in a row that a job's process may crash while it runs, the last time with it alone,
    /// before the job is dead; 0 for no limit.
    pub max_crashes: u32,
    /// How long ended jobs and their keys are kept.
    pub retention: Retention,
    /// The machine, or something that lives no longer than it; the host's name by default.
    pub node: Option<String>,
    /// An id that differs from one boot of the machine to the next.
    pub boot_id: Option<String>,
    /// The clock to use instead of the database's; for tests.
    pub clock: Option<Clock>,
}

/// The options that are needed later.
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

/// Reads a fact about the machine, which only Linux offers; elsewhere every end counts as a crash.
fn first_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

// === impl PostgresEngine ===

impl PostgresEngine {
    /// Opens the queue for this process run, and creates or updates its tables (in the schema `lameduck`) unless
    /// the options say otherwise.
    ///
    /// # Errors
    /// [`EngineError::Storage`] if the database can't be reached and trying again may help;
    /// [`EngineError::Unusable`] if somebody has to do something first; the error says what.
    pub async fn connect(options: PostgresOptions) -> Result<Self, EngineError> {
        let address = Address::parse(&options.url, options.statement_timeout)?;
        alone(&address, async |client| {
            schema::prepare(client, &address, options.migrate).await
        })
        .await?;
        let (news, unsaid) = News::new();
        let pools = Pools {
            work: pool(&address, &options, options.connections)?,
            reserved: pool(&address, &options, 1)?,
        };
        let sessions = Sessions::new(
            pools,
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
        let vitals = Vitals::default();
        let kept = Kept {
            max_crashes: options.max_crashes,
            ledger_rows: options.ledger_rows,
            retention: options.retention.clone(),
        };
        tokio::spawn(News::cry(news.origin(), Arc::downgrade(&sessions), unsaid));
        tokio::spawn(news.listen(address.clone(), over.clone()));
        let reaps = reap_all(
            sessions.clone(),
            ordered,
            options.lease,
            (options.max_crashes, options.ledger_rows),
            closing.clone(),
        );
        tokio::spawn(vitals.clone().watch("queue-reaper", reaps));
        let lease = Lease::keep(address, identity.clone(), about, orders, vitals.clone())
            .map_err(|error| EngineError::Storage(format!("no thread for the lease: {error}")))?;
        Ok(Self {
            submissions: submissions(&sessions, &options, &tasks, (&closing, &vitals)),
            patient: submissions(&sessions, &options, &tasks, (&closing, &vitals)),
            contended: Contended::default(),
            outcomes: outcomes(&sessions, &options, &tasks, (&closing, &vitals)),
            vitals,
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

    /// Frees the jobs of a process that is known to be dead at once, without waiting for its lease. The
    /// caller vouches for its death: a process that is alive finds its claims stale and takes a new id.
    /// Returns whether there was such a process.
    pub async fn reap(&self, process: ProcessId) -> Result<bool, EngineError> {
        let reaped = self.sessions.call(self.end_of(process, Why::KnownDead));
        Ok(reaped.await?.is_some())
    }

    /// Returns the number of committed transactions; the fewer for the same commands, the better they were grouped.
    pub fn commits(&self) -> u64 {
        self.sessions.figures().commits.load(Ordering::Relaxed)
    }

    /// Returns the number of outcomes not written because their claim was no longer the job's.
    pub fn stale_settlements(&self) -> u64 {
        self.sessions.figures().stale.load(Ordering::Relaxed)
    }

    /// Whether a submission has to wait for somebody else's transaction to end.
    fn still_in_use(&self, job: &NewJob, answer: &Result<Submitted, Rejected>) -> bool {
        let in_use = matches!(answer, Err(Rejected::InUse { .. }));
        self.contended.note(job, in_use);
        in_use
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

/// Does something on a separate connection, within the time that opening may take.
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
        // It closes the connection properly.
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

/// Creates or updates the tables and starts nothing, as [`PostgresEngine::connect`] does first. Any number of
/// processes may do it at once, beside others that work with the existing tables.
///
/// # Errors
/// Those of [`PostgresEngine::connect`].
pub async fn migrate(options: &PostgresOptions) -> Result<Schema, EngineError> {
    let address = Address::parse(&options.url, options.statement_timeout)?;
    alone(&address, async |client| {
        schema::prepare(client, &address, true).await
    })
    .await
}

/// Returns the latest process runs in the drain ledger, at most this many, without opening a run of its own.
///
/// # Errors
/// Those of [`PostgresEngine::connect`]; and [`EngineError::Unusable`] if there is no queue.
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

fn pool(
    address: &Address,
    options: &PostgresOptions,
    connections: usize,
) -> Result<Pool, EngineError> {
    let how = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(address.config.clone(), address.tls.clone(), how);
    let patience = Some(options.statement_timeout);
    Pool::builder(manager)
        .max_size(connections.max(1))
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
    (closing, vitals): (&CancellationToken, &Vitals),
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
    let end = (closing.clone(), vitals.clone());
    Batcher::spawn(
        "queue-submissions",
        options.batch,
        tasks,
        end,
        Box::new(work),
    )
}

fn outcomes(
    sessions: &Arc<Sessions>,
    options: &PostgresOptions,
    tasks: &TaskTracker,
    (closing, vitals): (&CancellationToken, &Vitals),
) -> Batcher<queue::One, Written> {
    let sessions = sessions.clone();
    let work = move |outcomes| {
        let sessions = sessions.clone();
        Box::pin(async move { write_outcomes(&sessions, outcomes).await }) as _
    };
    let end = (closing.clone(), vitals.clone());
    Batcher::spawn("queue-outcomes", options.batch, tasks, end, Box::new(work))
}

/// Writes outcomes together; if the database rejects the text of one, each by itself. No text keeps its
/// outcome from being written: a rejected one is replaced by the reason, and if need be by nothing.
async fn write_outcomes(
    sessions: &Arc<Sessions>,
    outcomes: Arc<Vec<queue::One>>,
) -> Result<Vec<Written>, Undone> {
    let all = queue::Settle {
        outcomes: outcomes.clone(),
        instead: None,
    };
    match sessions.finish(all).await {
        Err(undone) if undone.by_content => {}
        done => return done,
    }
    let mut answers = Vec::new();
    for outcome in outcomes.iter() {
        answers.extend(write_outcome(sessions, outcome).await?);
    }
    Ok(answers)
}

async fn write_outcome(
    sessions: &Arc<Sessions>,
    outcome: &queue::One,
) -> Result<Vec<Written>, Undone> {
    let outcomes = Arc::new(vec![outcome.clone()]);
    let write = |instead| {
        let outcomes = outcomes.clone();
        sessions.finish(queue::Settle { outcomes, instead })
    };
    let undone = match write(None).await {
        Err(undone) if undone.by_content => undone,
        done => return done,
    };
    // Only characters that every encoding has.
    let why: String = undone.error.to_string().chars().take(300).collect();
    let why = why.replace(|c: char| !(c == ' ' || c.is_ascii_graphic()), "?");
    tracing::warn!(error = %undone.error, "an outcome's text could not be stored; it is written without");
    match write(Some(why)).await {
        Err(undone) if undone.by_content => write(Some(String::new())).await,
        done => done,
    }
}

/// Reaps processes whose beat has stood still.
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
        // An old observation may have been an outage since. If it is still true, the next look reports it again.
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
            Ok(Some(Reaped {
                freed,
                condemned,
                locked,
            })) => {
                tracing::warn!(%process, freed, "a process is dead; its jobs are free again");
                if locked > 0 {
                    tracing::warn!(
                        %process, locked,
                        "jobs of a dead process are not free yet: another transaction in the database has locked them"
                    );
                }
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

/// Waits before another attempt at something locked; returns how long to wait before the one after it.
async fn again_after(pause: Duration) -> Duration {
    sleep(pause).await;
    (pause * 2).min(LOCK_RETRY)
}

/// Gives back jobs that were reserved and never reached anybody.
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
            Ok(Released { left: 0, .. }) | Err(EngineError::Closed) => return,
            Ok(_) | Err(_) => sleep(GIVE_BACK).await,
        }
    }
}

/// Opens this process's row.
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
            process_uuid(self.process) => UUID, self.about.node.as_deref().map(text) => TEXT,
            self.about.boot_id.as_deref().map(text) => TEXT,
            stored_duration(self.about.lease) => INT8, Some(micros(turn.now)) => INT8,
        ];
        turn.execute(lease::OPEN, row).await?;
        drains::prune(turn, self.ledger_rows).await
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    /// A different id after this process was taken for dead.
    fn process(&self) -> ProcessId {
        self.identity.get()
    }

    async fn failed(&self) -> EngineError {
        self.vitals.failed().await
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.sessions.call(lookup::Ping).await
    }

    async fn submit(
        &self,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, EngineError> {
        let (mut later, mut now) = (Vec::new(), Vec::new());
        for (place, job) in jobs.iter().enumerate() {
            let in_use = self.contended.concerns(job);
            if in_use { &mut later } else { &mut now }.push(place);
        }
        let some = |places: &[usize]| places.iter().map(|place| jobs[*place].clone()).collect();
        let mut answers: Vec<Option<Result<Submitted, Rejected>>> = vec![None; jobs.len()];
        if !now.is_empty() {
            for (place, answer) in now.iter().zip(self.submissions.call(some(&now)).await?) {
                if self.still_in_use(&jobs[*place], &answer) {
                    later.push(*place);
                }
                answers[*place] = Some(answer);
            }
        }
        let (begun, mut pause) = (Instant::now(), LOCK_GONE_SOON);
        while !later.is_empty() {
            let mut left = Vec::new();
            for (place, answer) in later.iter().zip(self.patient.call(some(&later)).await?) {
                if self.still_in_use(&jobs[*place], &answer) {
                    left.push(*place);
                }
                answers[*place] = Some(answer);
            }
            if left.is_empty() || begun.elapsed() >= LOCK_PATIENCE {
                break;
            }
            later = left;
            pause = again_after(pause).await;
        }
        let answers: Option<Vec<_>> = answers.into_iter().collect();
        answers.ok_or_else(|| EngineError::Storage("a job got no answer".to_owned()))
    }

    /// Creates the queue's row, so that no first submission has to, in a transaction that may stay open.
    fn prepare(&self, queue: &QueueName) {
        let (sessions, closing) = (self.sessions.clone(), self.closing.clone());
        let queue = queue.clone();
        self.tasks.spawn(async move {
            let make = async {
                while sessions
                    .call(queue::MakeQueue(queue.clone()))
                    .await
                    .is_err()
                {
                    sleep(PREPARE).await;
                }
            };
            tokio::select! {
                () = closing.cancelled() => {}
                () = make => {}
            }
        });
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
        let all: Vec<_> = (0..settlements.len()).map(one).collect();
        let mut answers: Vec<Written> = self.outcomes.call(all.clone()).await?;
        let (begun, mut pause) = (Instant::now(), LOCK_GONE_SOON);
        loop {
            let locked = (0..answers.len()).filter(|n| answers[*n] == Written::Locked);
            let locked: Vec<usize> = locked.collect();
            if locked.is_empty() {
                break;
            }
            if begun.elapsed() >= LOCK_PATIENCE {
                return Err(EngineError::Locked(
                    "another transaction in the database has locked the job, and has not ended; its outcome is not \
                     written yet"
                        .to_owned(),
                ));
            }
            pause = again_after(pause).await;
            let again = locked.iter().map(|n| all[*n].clone()).collect();
            for (n, answer) in locked.into_iter().zip(self.outcomes.call(again).await?) {
                answers[n] = answer;
            }
        }
        let settled = answers.into_iter().filter_map(|answer| match answer {
            Written::Settled(settled) => Some(settled),
            Written::Locked => None,
        });
        Ok(settled.collect())
    }

    async fn release_held(&self, delay: Duration) -> Result<Vec<JobId>, EngineError> {
        let process = self.identity.get();
        let (begun, mut pause) = (Instant::now(), LOCK_GONE_SOON);
        let mut jobs = Vec::new();
        loop {
            let held = queue::ReleaseHeld { process, delay };
            let mut released = self.sessions.call(held).await?;
            jobs.append(&mut released.jobs);
            if released.left == 0 || begun.elapsed() >= LOCK_PATIENCE {
                return Ok(jobs);
            }
            pause = again_after(pause).await;
        }
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
        };
        let done = self.sessions.call(housekeeping).await?;
        // In a transaction of its own: if others have locked the totals, that is no reason to keep old jobs.
        let prune = queue::PruneLedger(self.options.ledger_rows);
        match self.sessions.call(prune).await {
            Ok(()) => {}
            Err(EngineError::Locked(why)) => {
                tracing::debug!(why, "the drain ledger is not pruned yet");
            }
            Err(error) => return Err(error),
        }
        Ok(done)
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, EngineError> {
        let found = self.sessions.call(lookup::OneJob(id)).await?;
        found
            .transpose()
            .map_err(|row| EngineError::Unreadable(row.to_string()))
    }

    async fn payload(&self, id: JobId) -> Result<Option<(String, Bytes)>, EngineError> {
        self.sessions.call(lookup::Payload(id)).await
    }

    async fn runs(&self, id: JobId) -> Result<Vec<Run>, EngineError> {
        self.sessions.call(lookup::Runs(id)).await
    }

    async fn details(
        &self,
        ids: &[JobId],
    ) -> Result<Vec<Result<Option<Details>, EngineError>>, EngineError> {
        self.sessions.call(lookup::WithRuns(ids.to_vec())).await
    }

    async fn glance(&self, ids: &[JobId]) -> Result<Vec<Glance>, EngineError> {
        self.sessions.call(lookup::AtAGlance(ids.to_vec())).await
    }

    async fn list(&self, listing: &Listing) -> Result<Page, EngineError> {
        self.sessions.call(lookup::List(listing.clone())).await
    }

    async fn queues(&self) -> Result<Vec<QueueStats>, EngineError> {
        self.sessions.call(lookup::Queues(None)).await
    }

    async fn queue(&self, queue: &QueueName) -> Result<Option<QueueStats>, EngineError> {
        let one = lookup::Queues(Some(queue.clone()));
        Ok(self.sessions.call(one).await?.pop())
    }

    async fn next_run_in(&self, queue: &QueueName) -> Result<Option<Duration>, EngineError> {
        self.sessions.call(lookup::NextRunIn(queue.clone())).await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.sessions.news().subscribe()
    }

    fn hears_others(&self) -> bool {
        self.sessions.news().hears_others()
    }

    /// Ends the lease, so that nobody waits for it: the jobs that this process still holds are free at once.
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
            match self.sessions.finish(end).await {
                Ok(Some(Reaped { locked, .. })) if locked > 0 => tracing::warn!(
                    locked,
                    "this process' lease was not ended, because another transaction in the database has locked some of \
                     its jobs; the others wait until it is over"
                ),
                Ok(_) => {}
                Err(Undone { error, .. }) => {
                    tracing::warn!(%error, "this process' lease was not ended; the others wait until it is over");
                }
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
        let close = |bare| drains::Close {
            process: self.identity.get(),
            last: last.clone(),
            bare,
        };
        match self.sessions.finish(close(false)).await {
            Err(undone) if undone.by_content => {
                tracing::warn!(error = %undone.error, "the drain's report could not be stored; its row is closed without");
                self.sessions.call(close(true)).await
            }
            done => done.map_err(|undone| undone.error),
        }
    }

    async fn drain_totals(&self) -> Result<Vec<DrainTotal>, EngineError> {
        self.sessions.call(drains::Totals).await
    }

    async fn drains(&self, limit: usize) -> Result<Vec<DrainRow>, EngineError> {
        self.sessions.call(drains::Newest(limit)).await
    }
}
