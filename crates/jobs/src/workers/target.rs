//! The target of a pool's jobs, and how people see that it is unavailable: one line in the log per interval, two
//! gauges, a note in `/readyz?verbose`, a field of `GET /v1/queues`.
//!
//! Readiness does not fail. It shows whether this process may be sent requests, and the process still accepts jobs;
//! besides, every replica has the same target, so that all would leave the Service together and nobody could submit a
//! job, look at one or report an outcome.
//!
//! All this is the process's own view. Another replica may reach the target, or may not have tried.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Pool,
    outage::{Back, Outage, Pace, Reason, Unavailable},
};
use crate::{job::QueueName, metrics::Meter};
use lameduck_lifecycle::{Check, Drain, LogThrottle};

/// Minimum interval between two lines of the log about one queue.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// The target of one pool.
pub(super) struct Target {
    queue: QueueName,
    drain: Drain,
    meter: Arc<Meter>,
    outage: Arc<Outage>,
    told: LogThrottle,
    /// Whether the outage has been logged, and its end has not.
    announced: AtomicBool,
    /// The note in `/readyz?verbose`, as long as there is an outage.
    word: Mutex<Option<Check>>,
}

/// The outages of all pools of a process, to be shown elsewhere.
#[derive(Default)]
struct Outages(Mutex<Vec<(QueueName, Arc<Outage>)>>);

/// Returns the outage that keeps this process's workers from beginning a queue's jobs, if there is one.
pub fn unavailable(drain: &Drain, queue: &QueueName) -> Option<Unavailable> {
    let outages = drain.kept(Outages::default);
    let outages = outages.0.lock().unwrap_or_else(PoisonError::into_inner);
    let of_this_queue = outages.iter().filter(|(name, _)| name == queue);
    of_this_queue.filter_map(|(_, outage)| outage.now()).next()
}

// === impl Target ===

impl Target {
    pub(super) fn new(drain: &Drain, pool: &Pool, meter: Arc<Meter>) -> Self {
        let outage = Arc::new(Outage::new(pool.handler.postpones_for(), pool.workers));
        let outages = drain.kept(Outages::default);
        let mut outages = outages.0.lock().unwrap_or_else(PoisonError::into_inner);
        outages.push((pool.queue.clone(), outage.clone()));
        Self {
            queue: pool.queue.clone(),
            drain: drain.clone(),
            meter,
            outage,
            told: LogThrottle::every(TELL_AGAIN),
            announced: AtomicBool::new(false),
            word: Mutex::default(),
        }
    }

    pub(super) fn outage(&self) -> &Arc<Outage> {
        &self.outage
    }

    /// Returns how many jobs may be reserved now.
    pub(super) fn pace(&self) -> Pace {
        let pace = self.outage.pace();
        if pace == Pace::Full {
            // The outage may also have been forgotten, because nothing was tried for so long.
            self.show(None);
        }
        pace
    }

    /// Whether there is an outage.
    pub(super) fn is_away(&self) -> bool {
        self.outage.pace() != Pace::Full
    }

    /// Records that a job whose run started at `begun` could not be begun, or was pushed back.
    pub(super) fn came_back(&self, begun: Instant, reason: Reason, error: &str) -> Option<Back> {
        let back = self.outage.came_back(begun, reason, error)?;
        let now = self.outage.now()?;
        self.show(Some(&now));
        if self.told.admit().is_some() {
            self.announced.store(true, Ordering::Relaxed);
            let (queue, jobs) = (&self.queue, now.jobs);
            let seconds = back.lasted.as_secs_f64();
            let retry_seconds = back.wait.as_secs_f64();
            match reason {
                Reason::Unreachable => tracing::warn!(
                    %queue, error, seconds, jobs, retry_seconds,
                    "jobs cannot be started; they are tried one at a time until one can"
                ),
                Reason::Overloaded => tracing::warn!(
                    %queue, error, seconds, jobs, retry_seconds,
                    "the target asks for less; jobs are tried one at a time until one is accepted"
                ),
            }
        }
        Some(back)
    }

    /// Records that the target had taken a job by this instant.
    pub(super) fn reached(&self, at: Instant) {
        let Some((ended, lasted)) = self.outage.reached(at) else {
            return;
        };
        self.show(None);
        if self.announced.swap(false, Ordering::Relaxed) {
            tracing::info!(
                queue = %self.queue, seconds = lasted.as_secs_f64(), jobs = ended.jobs,
                "jobs are started again, as many at once as there are workers"
            );
        }
    }

    fn show(&self, now: Option<&Unavailable>) {
        let mut word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        match now {
            None if word.is_none() => return,
            None => *word = None,
            Some(now) => {
                let name = format!("queue {}", self.queue);
                word.get_or_insert_with(|| self.drain.readiness_check(&name))
                    .note(now.to_string());
            }
        }
        self.meter.target(now);
    }
}

// === impl Unavailable ===

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, error, .. } = self;
        match self.reason {
            Reason::Unreachable => {
                write!(f, "its jobs cannot be started since {since:.0}: {error}")
            }
            Reason::Overloaded => write!(f, "its target asks for less since {since:.0}: {error}"),
        }
    }
}
