//! Workers, which take jobs from the engine, hand each to its handler, and write its outcome.
//!
//! ```text
//!            T0                                soft deadline        hard deadline      teardown
//!  reserve ──┤ none is sent; what one in flight │ Context::stop       │ Context::cut     │ what is still held is
//!            │ brings is given back at once     │                     │                  │ given back by process id
//!  running ──┴─ goes on, outcomes are written ──┴─────────────────────┴──────────────────┤
//! ```
//!
//! A job is counted from *before* its reservation is sent until its outcome is durable. So at no
//! instant can the conductor believe that no job is held while one is.
//!
//! `pool.rs` reserves jobs, `run.rs` supervises one run to its end, `outcome.rs` writes its outcome. `outage.rs` slows
//! down a pool whose target is away, `floor.rs` lets a suspect run alone, `runs.rs` keeps track of the runs.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::broadcast,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    engine::{Engine, EngineError, Event},
    handler::Handler,
    job::{Order, QueueName},
    ledger::LastWord,
    ledger_metrics,
    metrics::{Meter, look},
    storage,
};
use lameduck_lifecycle::{BoxError, Drain, Lifecycle, LogThrottle, Moment, PoolGuard, Work};

mod floor;
mod outage;
mod outcome;
mod pool;
mod run;
mod runs;
mod target;

use floor::Floor;
pub use outcome::Backoff;
use pool::Worker;
use runs::Runs;
pub use {
    outage::{Reason, Unavailable},
    target::unavailable,
};

/// Delay after this process's deadline until a job whose handler has not provably ended may run elsewhere.
const UNENDED_DELAY: Duration = Duration::from_secs(1);

/// Interval at which this process looks for cancellations of its jobs, because events are only hints.
const LOOK_FOR_CANCELLED: Duration = Duration::from_secs(1);

/// First and longest wait before a failed storage operation is tried again, doubled each time. Never long: the storage
/// may be back just before the deadline.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// Minimum interval between two warnings that it still fails.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Interval of housekeeping; a deferred job may be overdue for this long.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Workers for one queue.
#[derive(Clone)]
#[non_exhaustive]
pub struct Pool {
    /// The queue that the jobs come from.
    pub queue: QueueName,
    /// How many jobs run at once.
    pub workers: usize,
    /// The handler that does the work.
    pub handler: Arc<dyn Handler>,
    /// The order in which jobs are reserved.
    pub order: Order,
    /// How long a run may take if the submitter set no timeout. Then its handler is told to stop, and after
    /// the stop notice of the drain's settings its time is over; the attempt has failed. Default 10 min.
    pub timeout: Duration,
    /// How long a failed job waits.
    pub backoff: Backoff,
    /// The window over which arrivals are compared with the workers' capacity. A warning is logged when there
    /// have been too few workers for a fifth of it. Default 5 min.
    pub demand_window: Duration,
}

/// The state that all pools of a process share.
struct Shared {
    engine: Arc<dyn Engine>,
    drain: Drain,
    /// The time between telling a run to stop and cutting it.
    stop_notice: Duration,
    /// Tracks the jobs that are held, over all pools.
    running: TaskTracker,
    /// Tracks those of them whose handlers have ended, and whose outcomes are being written.
    writing: TaskTracker,
    floor: Floor,
    /// The runs, through which each can be told that it has to end.
    runs: Runs,
}

struct Workers {
    shared: Arc<Shared>,
    _open: PoolGuard,
}

/// Adds workers to a [`Lifecycle`].
pub trait RunWorkers: Sized {
    /// Runs workers over an engine, does its housekeeping, keeps the drain ledger in it, and exports the
    /// ledger's totals. Readiness follows whether the engine's storage answers, by a check named `storage`: not
    /// ready after 5 s of silence, ready again after 3 s of answers.
    ///
    /// In a drain no job is reserved any more; running jobs are finished, or given back at the hard
    /// deadline without counting the attempt. They can be cancelled until then.
    fn workers(self, engine: Arc<dyn Engine>, pools: Vec<Pool>) -> Self;
}

impl RunWorkers for Lifecycle {
    fn workers(self, engine: Arc<dyn Engine>, pools: Vec<Pool>) -> Self {
        let drain = self.drain().clone();
        let meters: Vec<_> = pools
            .iter()
            .map(|pool| Meter::new(&drain, pool, drain.work(pool.queue.as_str())))
            .collect();
        let everything = drain.work("process");
        let workers = Workers {
            shared: Arc::new(Shared {
                engine: engine.clone(),
                drain: drain.clone(),
                stop_notice: self.drain_settings().stop_notice,
                running: TaskTracker::new(),
                writing: TaskTracker::new(),
                floor: Floor::new(),
                runs: Runs::default(),
            }),
            _open: everything.pool(),
        };
        let cancels = workers.shared.clone().follow_cancellations();
        let storage = storage::watch(engine.clone(), drain.clone());
        let ledger = engine.clone();
        let totals = ledger_metrics::export(engine.clone(), drain.clone());
        let settings = self.drain_settings().clone();
        let figures = look::now_and_then(engine.clone(), drain, settings, meters.clone());
        let mut lifecycle = self;
        for (pool, meter) in pools.into_iter().zip(meters) {
            let name = format!("workers of queue {}", pool.queue);
            let worker = Arc::new(Worker::new(workers.shared.clone(), pool, meter));
            // Each pool is a part of its own: a queue whose workers are gone must not wait in silence.
            lifecycle = lifecycle.background(&name, worker.reserve_until_t0());
        }
        lifecycle
            .service("workers", workers.run(everything))
            .background("cancellations", cancels)
            .background("storage", storage)
            .background("housekeeping", keep_house(engine))
            .background("drain ledger", totals)
            .background("queue figures", figures)
            .on_report("drain ledger", move |report| async move {
                let last = LastWord {
                    drain_id: report.drain_id.clone(),
                    cause: report.cause.as_str().to_owned(),
                    outcome: report.outcome.as_str().to_owned(),
                    seconds: report.seconds,
                    figures: report.figures(),
                    report: serde_json::to_string(&*report)?,
                };
                ledger.close_drain(&last).await?;
                Ok::<_, BoxError>(())
            })
    }
}

// === impl Pool ===

impl Pool {
    /// Makes a pool of twenty workers for a queue, with defaults for the rest.
    pub fn new(queue: QueueName, handler: Arc<dyn Handler>) -> Self {
        Self {
            queue,
            workers: 20,
            handler,
            order: Order::default(),
            timeout: Duration::from_secs(600),
            backoff: Backoff::default(),
            demand_window: Duration::from_secs(300),
        }
    }
}

// === impl Workers ===

impl Workers {
    async fn run(self, everything: Arc<Work>) -> Result<(), BoxError> {
        let drain = &self.shared.drain;
        drain.reached(Moment::Began).await;
        tokio::select! {
            // Marking comes first, so that even the shortest drain is marked.
            biased;
            () = self.mark_drain() => {}
            () = drain.reached(Moment::GiveBack) => {}
        }
        self.give_back(&everything).await;
        Ok(())
    }

    /// Marks T0 in the ledger, and again whenever more is known of the cause: a killed process can't report it later.
    async fn mark_drain(&self) {
        let mut causes = self.shared.drain.causes();
        loop {
            let cause = causes.borrow_and_update().unwrap_or_default();
            let marked = self.shared.engine.mark_drain(
                self.shared.drain.id(),
                cause.as_str(),
                self.since_t0(),
            );
            if let Err(error) = marked.await {
                tracing::warn!(%error, "the drain's begin is not in the ledger");
            }
            if causes.changed().await.is_err() {
                return;
            }
        }
    }

    fn since_t0(&self) -> Duration {
        let plan = self.shared.drain.plan();
        plan.map_or(Duration::ZERO, |plan| plan.t0.elapsed())
    }

    /// Gives back, by process id, all jobs that are still held.
    async fn give_back(&self, work: &Work) {
        let Some(plan) = self.shared.drain.plan() else {
            return;
        };
        self.shared.let_outcomes_land(plan.teardown_end).await;
        self.shared.give_up_what_is_lost();
        // Only jobs whose handlers have provably ended may run elsewhere at once.
        let delay = if self.shared.handlers_have_ended() {
            Duration::ZERO
        } else {
            plan.deadline.saturating_duration_since(Instant::now()) + UNENDED_DELAY
        };
        let give_back = retry("give back", || self.shared.engine.release_held(delay));
        match timeout_at(plan.teardown_end, give_back).await {
            Ok(Some(Done { answer: ids, .. })) => {
                for id in ids {
                    tracing::warn!(job = %id, delay = delay.as_secs_f64(), "job given back by process id");
                    for pool in self.shared.drain.all_work() {
                        pool.no_longer_held(&id.to_string());
                    }
                    work.released(id.to_string());
                }
            }
            Ok(None) | Err(_) => {
                tracing::error!("jobs could not be given back; their lease will free them");
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Tells the runs of jobs that were cancelled, or belong to somebody else by now, to stop, until the process ends.
    async fn follow_cancellations(self: Arc<Self>) -> Result<(), BoxError> {
        let mut events = self.engine.events();
        let limit = LogThrottle::every(TELL_AGAIN);
        loop {
            let heard = async {
                loop {
                    match events.recv().await {
                        Ok(Event::CancelRequested(_))
                        | Err(broadcast::error::RecvError::Lagged(_)) => return,
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            tokio::select! {
                () = heard => {}
                () = sleep(LOOK_FOR_CANCELLED) => {}
            }
            if self.runs.is_empty() {
                continue;
            }
            self.give_up_what_is_lost();
            match self.engine.cancel_requests().await {
                Ok(asked) => asked.iter().for_each(|id| self.runs.cancel(*id)),
                Err(error) if error.is_final() => return Ok(()),
                Err(error) => {
                    if let Some(left_out) = limit.admit() {
                        tracing::warn!(%error, left_out, "cannot look for jobs to cancel");
                    }
                }
            }
        }
    }

    /// Gives up the runs that this process began before it was taken for dead.
    fn give_up_what_is_lost(&self) {
        self.runs
            .give_up_those_of_others_than(self.engine.process());
    }

    /// Waits for outcomes to be written, so that finished work is not given back as unfinished: a storage that has been
    /// away gets them first. It takes at most half of the time left, since running jobs still have to be given back.
    async fn let_outcomes_land(&self, end: Instant) {
        let half = end.saturating_duration_since(Instant::now()) / 2;
        self.writing.close();
        let _ = timeout(half, self.writing.wait()).await;
    }

    fn handlers_have_ended(&self) -> bool {
        self.running.len() <= self.writing.len()
    }

    /// Returns how many handlers are at work.
    fn running_beside(&self) -> usize {
        self.runs.begun()
    }
}

/// Does the housekeeping piece by piece, so that it holds up nobody.
async fn keep_house(engine: Arc<dyn Engine>) -> Result<(), BoxError> {
    let limit = LogThrottle::every(TELL_AGAIN);
    loop {
        let more = match engine.maintain().await {
            Ok(done) => done.more,
            Err(error) if error.is_final() => return Ok(()),
            Err(error) => {
                if let Some(left_out) = limit.admit() {
                    tracing::warn!(
                        %error, left_out,
                        "housekeeping failed; the queue grows until it works again"
                    );
                }
                false
            }
        };
        if !more {
            sleep(HOUSEKEEPING).await;
        }
    }
}

/// The result of an operation that was tried until the storage did it.
struct Done<T> {
    answer: T,
    /// Whether an earlier try failed, which may have taken effect nonetheless.
    again: bool,
}

/// Limits the log for all retries together: twenty outcomes that wait for the same storage need no line each.
static RETRIES: LogThrottle = LogThrottle::every(TELL_AGAIN);

/// Repeats an operation until the storage does it; `None` once the storage is closed.
async fn retry<T, F, Fut>(what: &str, mut attempt: F) -> Option<Done<T>>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, EngineError>>,
{
    let mut wait = AGAIN.0;
    let mut again = false;
    loop {
        match attempt().await {
            Ok(answer) => return Some(Done { answer, again }),
            Err(error) if error.is_final() => return None,
            Err(error) => {
                again = true;
                if let Some(left_out) = RETRIES.admit() {
                    tracing::warn!(
                        %error, what, left_out,
                        "the storage failed; trying again until it works"
                    );
                }
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(AGAIN.1);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("queue", &self.queue)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
