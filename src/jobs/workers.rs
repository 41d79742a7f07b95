//! Workers: take jobs from the engine, hand each to its handler, write its outcome.
//!
//! ```text
//!            T0                                soft deadline        hard deadline      teardown
//!  reserve ──┤ none is sent; what one in flight │ Context::stop       │ Context::cut     │ what is still held is
//!            │ brings is given back at once     │                     │                  │ given back by process id
//!  running ──┴─ goes on, outcomes are written ──┴─────────────────────┴──────────────────┤
//! ```
//!
//! A job is counted from *before* its reservation is sent until its outcome is durable. So there is no
//! instant in which the conductor could believe that nothing is held while something is.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::TaskTracker;

use super::{
    engine::{Engine, EngineError, Event},
    handler::{Context, Handler, Retry, Verdict},
    job::{AfterFailure, Claim, Job, Outcome, QueueName, Reserved, Settled, Settlement},
    ledger_metrics,
};
use crate::lifecycle::{BoxError, Drain, JobGuard, Lifecycle, Moment, PoolGuard, Work};

/// How often an empty queue is looked at though no event came: the floor under all wake-ups.
const POLL: Duration = Duration::from_secs(1);

/// Jobs reserved in one statement.
const BATCH: usize = 64;

/// How long after this process' deadline a job may run elsewhere whose handler has not provably ended.
const UNENDED_DELAY: Duration = Duration::from_secs(1);

/// Workers for one queue.
#[derive(Clone)]
pub struct Pool {
    /// Where jobs come from.
    pub queue: QueueName,
    /// How many run at once.
    pub workers: usize,
    /// Who does the work.
    pub handler: Arc<dyn Handler>,
    /// How long a failed job waits.
    pub backoff: Backoff,
}

/// Exponential backoff with jitter.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    /// After the first failure. Default 1 s.
    pub first: Duration,
    /// At the most. Default 5 min.
    pub max: Duration,
}

struct Workers {
    engine: Arc<dyn Engine>,
    drain: Drain,
    /// Jobs that run, over all pools.
    running: TaskTracker,
    _open: PoolGuard,
}

/// One pool at work.
struct Worker {
    engine: Arc<dyn Engine>,
    pool: Pool,
    drain: Drain,
    work: Arc<Work>,
    running: TaskTracker,
}

impl Lifecycle {
    /// Runs workers over an engine, keeps the drain ledger in it, and exports what the ledger says.
    ///
    /// In a drain no job is reserved any more; those that run are finished, or given back at the hard
    /// deadline, attempt not counted.
    pub fn workers(self, engine: Arc<dyn Engine>, pools: Vec<Pool>) -> Self {
        let drain = self.drain().clone();
        let gauges: Vec<_> = pools
            .iter()
            .map(|pool| drain.work(pool.queue.as_str()))
            .collect();
        let everything = drain.work("process");
        let workers = Workers {
            engine: engine.clone(),
            drain: drain.clone(),
            running: TaskTracker::new(),
            _open: everything.pool(),
        };
        let ledger = engine.clone();
        let figures = ledger_metrics::export(engine, drain);
        self.service("workers", workers.run(pools, gauges, everything))
            .background("drain ledger", figures)
            .on_report("drain ledger", move |report| async move {
                let json = serde_json::to_string(&*report)?;
                let cause = report.cause.as_str();
                let outcome = report.outcome.as_str();
                ledger
                    .close_drain(&report.drain_id, cause, outcome, report.seconds, &json)
                    .await?;
                Ok::<_, BoxError>(())
            })
    }
}

// === impl Workers ===

impl Workers {
    async fn run(
        self,
        pools: Vec<Pool>,
        gauges: Vec<Arc<Work>>,
        everything: Arc<Work>,
    ) -> Result<(), BoxError> {
        let reserving = TaskTracker::new();
        for (pool, work) in pools.into_iter().zip(gauges) {
            let worker = Worker {
                engine: self.engine.clone(),
                pool,
                drain: self.drain.clone(),
                work,
                running: self.running.clone(),
            };
            reserving.spawn(Arc::new(worker).reserve_until_t0());
        }
        self.drain.reached(Moment::Began).await;
        tokio::select! {
            // First, so that even the shortest drain is marked.
            biased;
            () = self.mark_drain() => {}
            () = self.drain.reached(Moment::GiveBack) => {}
        }
        self.give_back(&everything).await;
        Ok(())
    }

    /// Marks T0 in the ledger, and again whenever more is known of the cause: who is killed can't tell later.
    async fn mark_drain(&self) {
        let mut causes = self.drain.causes();
        loop {
            let cause = causes.borrow_and_update().unwrap_or_default();
            let marked = self.engine.mark_drain(self.drain.id(), cause.as_str());
            if let Err(error) = marked.await {
                tracing::warn!(%error, "the drain's begin is not in the ledger");
            }
            if causes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Gives back, by process id, whatever is still held.
    async fn give_back(&self, work: &Work) {
        let Some(plan) = self.drain.plan() else {
            return;
        };
        // Only what has provably ended may run elsewhere at once.
        let delay = if self.running.is_empty() {
            Duration::ZERO
        } else {
            plan.deadline.saturating_duration_since(Instant::now()) + UNENDED_DELAY
        };
        let give_back = retry("give back", || self.engine.release_held(delay));
        match timeout_at(plan.teardown_end, give_back).await {
            Ok(Some(ids)) => {
                for id in ids {
                    tracing::warn!(job = %id, delay = delay.as_secs_f64(), "job given back by process id");
                    for pool in self.drain.all_work() {
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

// === impl Worker ===

impl Worker {
    async fn reserve_until_t0(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(self.pool.workers));
        let mut events = self.engine.events();
        while !self.drain.has(Moment::Began) {
            let began = self.drain.reached(Moment::Began);
            let free = tokio::select! {
                () = began => break,
                free = free_slots(&slots) => free,
            };
            let wanted = free.len();
            let taken = self.reserve(free).await;
            if taken < wanted.min(BATCH) {
                self.wait_for_jobs(&mut events).await;
            }
        }
    }

    /// Reserves a job for each slot; returns how many there were.
    async fn reserve(self: &Arc<Self>, slots: Vec<OwnedSemaphorePermit>) -> usize {
        // First counted, then looked at T0: either we see it, or the conductor sees us.
        let mut holds: Vec<JobGuard> = slots.iter().map(|_| self.work.hold()).collect();
        if self.drain.has(Moment::Began) {
            return 0;
        }
        let reserved = match self.engine.reserve(&self.pool.queue, slots.len()).await {
            Ok(reserved) => reserved,
            Err(error) => {
                tracing::error!(queue = %self.pool.queue, %error, "cannot reserve jobs");
                return 0;
            }
        };
        let count = reserved.len();
        holds.truncate(count);
        let late = self.drain.has(Moment::Began);
        for ((reserved, slot), mut hold) in reserved.into_iter().zip(slots).zip(holds) {
            hold.name(reserved.job.id.to_string());
            let worker = self.clone();
            self.running.spawn(async move {
                let Reserved { job, claim } = reserved;
                let outcome = if late {
                    Outcome::Released
                } else {
                    worker.run(&job, &claim).await
                };
                worker.settle(claim, outcome).await;
                drop((hold, slot));
            });
        }
        count
    }

    /// Waits until it is worth looking again.
    async fn wait_for_jobs(&self, events: &mut broadcast::Receiver<Event>) {
        let due = match self.engine.next_run_at(&self.pool.queue).await {
            Ok(Some(at)) => until(at).min(POLL),
            Ok(None) => POLL,
            Err(error) => {
                tracing::warn!(queue = %self.pool.queue, %error, "cannot look at the queue");
                POLL
            }
        };
        let runnable = async {
            loop {
                match events.recv().await {
                    Ok(Event::Runnable(queue)) if queue != self.pool.queue => {}
                    Ok(Event::Ended(_)) => {}
                    // Events were missed, or the engine is gone: look.
                    Ok(Event::Runnable(_)) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = self.drain.reached(Moment::Began) => {}
            () = runnable => {}
            () = sleep(due) => {}
        }
    }

    async fn run(&self, job: &Job, claim: &Claim) -> Outcome {
        let context = Context {
            claim: claim.to_token_string(),
            stop: self.drain.token(Moment::Stop).child_token(),
            cut: self.drain.token(Moment::Cut).child_token(),
        };
        let begin = Instant::now();
        let run = AssertUnwindSafe(self.pool.handler.run(job, context)).catch_unwind();
        let verdict = run.await.unwrap_or_else(|_| Verdict::Failed {
            error: "the handler panicked".to_owned(),
            retry: Retry::Backoff,
        });
        if verdict != Verdict::Released {
            self.work.ran(begin.elapsed());
        }
        self.judge(job, verdict)
    }

    fn judge(&self, job: &Job, verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Done { result } => Outcome::Completed { result },
            Verdict::Released => Outcome::Released,
            Verdict::Failed { error, retry } => {
                let wait = match retry {
                    Retry::Never => None,
                    _ if job.attempt >= job.max_attempts => None,
                    Retry::Backoff => Some(self.pool.backoff.after(job.attempt)),
                    Retry::After(wait) => Some(wait.min(self.pool.backoff.max)),
                };
                tracing::warn!(
                    job = %job.id, queue = %job.queue, attempt = job.attempt, error,
                    retry_seconds = wait.map(|wait| wait.as_secs_f64()), "job failed"
                );
                let then = match wait {
                    Some(wait) => AfterFailure::RetryAt(Timestamp::now() + wait),
                    None => AfterFailure::Dead,
                };
                Outcome::Failed { error, then }
            }
        }
    }

    /// Writes an outcome, again and again until it lands or the deadline comes.
    async fn settle(&self, claim: Claim, outcome: Outcome) {
        let job = claim.job();
        let released = outcome == Outcome::Released;
        let failed = matches!(outcome, Outcome::Failed { .. });
        let settlement = Arc::new(vec![claim.settle(outcome)]);
        match self.write(&settlement).await {
            Some(Settled::Written | Settled::Repeated) if released => {
                self.work.released(job.to_string());
            }
            Some(Settled::Written | Settled::Repeated) if failed => self.work.failed(),
            Some(Settled::Written | Settled::Repeated) => self.work.finished(),
            Some(Settled::Stale) => {
                tracing::warn!(job = %job, "the job belongs to somebody else by now; outcome dropped");
            }
            None => self.work.left_behind(job.to_string()),
        }
    }

    async fn write(&self, settlement: &Arc<Vec<Settlement>>) -> Option<Settled> {
        let landed = retry("write an outcome", || self.engine.settle(settlement));
        let given_up = async {
            self.drain.reached(Moment::GiveBack).await;
            match self.drain.plan() {
                Some(plan) => tokio::time::sleep_until(plan.teardown_end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            landed = landed => landed.and_then(|settled| settled.first().copied()),
            () = given_up => None,
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// How long after the failure of this attempt, the first being 1: doubled each time, and between half
    /// and the whole of that, so that what failed together does not come back together.
    fn after(&self, attempt: u32) -> Duration {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1).min(30));
        let whole = self.first.saturating_mul(doubled).min(self.max);
        whole.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

/// Waits for one free slot, then takes all that are free, up to a batch.
async fn free_slots(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let mut free = Vec::new();
    if let Ok(slot) = slots.clone().acquire_owned().await {
        free.push(slot);
    }
    while free.len() < BATCH {
        match slots.clone().try_acquire_owned() {
            Ok(slot) => free.push(slot),
            Err(_) => break,
        }
    }
    free
}

/// Repeats what the storage could not do; `None` once it is closed.
async fn retry<T, F, Fut>(what: &str, mut attempt: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, EngineError>>,
{
    let mut wait = Duration::from_millis(50);
    loop {
        match attempt().await {
            Ok(done) => return Some(done),
            Err(EngineError::Closed) => return None,
            Err(error) => tracing::warn!(%error, what, "the storage failed; trying again"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("queue", &self.queue)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
