//! The metrics of the queues, beside the ledger's totals. There is one set of families for all pools of a
//! program, with every known series at 0 from the start.
//!
//! ```text
//!   could run ───── wait ─────▶ reserved ─── begun ─────── run ─────── ended ───▶ outcome is durable
//!                               └──────────── a worker is busy with it ──────────────────┘
//! ```
//!
//! | metric | shows |
//! | --- | --- |
//! | `lameduck_job_wait_seconds{queue}` | from when a job could run until it was reserved |
//! | `lameduck_job_run_seconds{queue,outcome}` | runs that ended by themselves |
//! | `lameduck_job_outcomes_total{queue,outcome}` | the outcomes of reservations, each one of the words of [`Ending`] |
//! | `lameduck_job_timeouts_total{queue}` | runs that were told to stop because their time was over |
//! | `lameduck_stale_outcomes_total{queue}` | outcomes that came too late: somebody else owned the job |
//! | `lameduck_reserves_after_drain_total{queue}` | a broken promise |
//! | `lameduck_queue_target_unreachable{queue}`, `lameduck_queue_target_overloaded{queue}`, `lameduck_queue_backoff_start_timestamp_seconds{queue}` | whether jobs can be begun, see `workers/outage.rs` |
//! | `lameduck_queue_jobs{queue,state}` … | the engine's figures, see [`look`] |
//! | `lameduck_workers_needed{queue}` | capacity is arithmetic, see [`demand`] |
//! | `lameduck_job_grace_needed_seconds{queue}`, `lameduck_grace_configured_seconds` | whether runs are longer than a drain lets them be |
//!
//! A job that was given back by process id at the hard deadline has no outcome here, because its handler had not
//! ended. It is in the report, and in `lameduck_jobs_released_total{pool="process"}`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};
use tokio::time::Instant;

use self::{demand::Tally, families::Families};
use super::{
    job::{AfterFailure, Outcome, QueueName, QueueStats, Reserved},
    workers::{Pool, Reason, Unavailable},
};
use lameduck_lifecycle::{Drain, Moment, Work};

mod demand;
mod families;
pub(super) mod look;

/// The end of a reservation: exactly one of these, so that they add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ending {
    /// The job is done.
    Completed,
    /// The attempt failed and counts, and there will be another.
    Failed,
    /// The attempt failed and counts, and was the last.
    Dead,
    /// The job was given back after its handler had ended.
    Released,
    /// The job could not be begun.
    Postponed,
    /// The job goes on outside of this process.
    Deferred,
    /// A cancellation was requested, and the job did not complete.
    Cancelled,
}

/// The metrics of one pool, with every series created beforehand.
pub(super) struct Meter {
    queue: QueueName,
    workers: usize,
    window: Duration,
    work: Arc<Work>,
    wait: Histogram,
    completed: Histogram,
    failed: Histogram,
    outcomes: [IntCounter; Ending::ALL.len()],
    timeouts: IntCounter,
    stale: IntCounter,
    after_drain: IntCounter,
    busy: IntGauge,
    unreachable: IntGauge,
    overloaded: IntGauge,
    backoff_start: Gauge,
    needed: Gauge,
    grace: Gauge,
    tally: Mutex<Tally>,
}

/// Marks a worker as busy with a job while this lives: from its reservation until its outcome is durable.
#[must_use = "the worker counts as busy while this lives"]
pub(super) struct Busy {
    meter: Arc<Meter>,
    since: Instant,
    ran: Option<Duration>,
    cancelled: bool,
}

// === impl Ending ===

impl Ending {
    const ALL: [Self; 7] = [
        Self::Completed,
        Self::Failed,
        Self::Dead,
        Self::Released,
        Self::Postponed,
        Self::Deferred,
        Self::Cancelled,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Released => "released",
            Self::Postponed => "postponed",
            Self::Deferred => "deferred",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns the engine's view of an outcome: a job cancelled while it ran is cancelled unless it completed.
    fn of(outcome: &Outcome, cancelled: bool) -> Self {
        match outcome {
            Outcome::Completed { .. } => Self::Completed,
            _ if cancelled => Self::Cancelled,
            Outcome::Failed {
                then: AfterFailure::Dead,
                ..
            } => Self::Dead,
            Outcome::Failed { .. } => Self::Failed,
            Outcome::Released => Self::Released,
            Outcome::Postponed { .. } => Self::Postponed,
            Outcome::Deferred { .. } => Self::Deferred,
        }
    }
}

// === impl Meter ===

impl Meter {
    /// Creates the meter of a pool, whose jobs this gauge counts.
    pub(super) fn new(drain: &Drain, pool: &Pool, work: Arc<Work>) -> Arc<Self> {
        let families = Families::of(drain);
        let queue = &[pool.queue.as_str()];
        let outcome = |ending: Ending| [pool.queue.as_str(), ending.as_str()];
        families.show(&QueueStats::empty(pool.queue.clone()));
        let size = families.workers.with_label_values(queue);
        size.add(i64::try_from(pool.workers).unwrap_or(i64::MAX));
        Arc::new(Self {
            queue: pool.queue.clone(),
            workers: pool.workers,
            window: pool.demand_window,
            work,
            wait: families.wait.with_label_values(queue),
            completed: families.run.with_label_values(&outcome(Ending::Completed)),
            failed: families.run.with_label_values(&outcome(Ending::Failed)),
            outcomes: Ending::ALL.map(|e| families.outcomes.with_label_values(&outcome(e))),
            timeouts: families.timeouts.with_label_values(queue),
            stale: families.stale.with_label_values(queue),
            after_drain: families.after_drain.with_label_values(queue),
            busy: families.busy.with_label_values(queue),
            unreachable: families.unreachable.with_label_values(queue),
            overloaded: families.overloaded.with_label_values(queue),
            backoff_start: families.backoff_start.with_label_values(queue),
            needed: families.needed.with_label_values(queue),
            grace: families.grace.with_label_values(queue),
            tally: Mutex::new(Tally::new(Instant::now())),
        })
    }

    /// The gauge that the drain waits for.
    pub(super) fn work(&self) -> &Arc<Work> {
        &self.work
    }

    /// Records that a reserve is being sent. The sender has checked for T0 before; this counts the cases in which it
    /// forgot to.
    pub(super) fn reserve_sent(&self, drain: &Drain) {
        if drain.has(Moment::Began) {
            self.after_drain.inc();
            tracing::error!(queue = %self.queue, "a reserve was sent after the drain had begun");
        }
    }

    /// Records that a worker has got this job.
    pub(super) fn reserved(self: &Arc<Self>, reserved: &Reserved) -> Busy {
        self.wait.observe(reserved.waited.as_secs_f64());
        let since = Instant::now();
        self.with_tally(|tally| tally.begin(since));
        self.busy.inc();
        Busy {
            meter: self.clone(),
            since,
            ran: None,
            cancelled: false,
        }
    }

    /// Sets the gauges to what keeps the jobs from being begun, if anything does.
    pub(super) fn target(&self, unavailable: Option<&Unavailable>) {
        let is = |reason| unavailable.is_some_and(|now| now.reason == reason);
        self.unreachable.set(is(Reason::Unreachable).into());
        self.overloaded.set(is(Reason::Overloaded).into());
        let since = unavailable.map_or(0.0, |now| now.since.as_millisecond() as f64 / 1000.0);
        self.backoff_start.set(since);
    }

    /// Records that an outcome was dropped.
    pub(super) fn stale(&self) {
        self.stale.inc();
    }

    fn with_tally<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Busy ===

impl Busy {
    /// Records that the run has ended: how long it took, if it was begun, and whether it was told to stop because
    /// its time was over, or because it was cancelled.
    pub(super) fn ended(&mut self, took: Option<Duration>, timed_out: bool, cancelled: bool) {
        self.ran = took;
        self.cancelled = cancelled;
        if timed_out {
            self.meter.timeouts.inc();
        }
    }

    /// Returns the end that this outcome of the run stands for.
    pub(super) fn ending(&self, outcome: &Outcome) -> Ending {
        Ending::of(outcome, self.cancelled)
    }

    /// Records that the outcome is durable.
    pub(super) fn settled(&self, ending: Ending) {
        self.meter.outcomes[ending as usize].inc();
        let runs = match ending {
            Ending::Completed => &self.meter.completed,
            Ending::Failed | Ending::Dead => &self.meter.failed,
            // A run that was cut short, or not even begun, says nothing about how long a job takes.
            _ => return,
        };
        if let Some(ran) = self.ran {
            runs.observe(ran.as_secs_f64());
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let since = self.since;
        self.meter
            .with_tally(|tally| tally.end(since, Instant::now()));
        self.meter.busy.dec();
    }
}
