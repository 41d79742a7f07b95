//! Refusals of jobs: counted by reason, and logged once when they begin and once when they end.
//!
//! A full queue accepts a job whenever another one ends, and refuses the next. So refusals have ended only when a job
//! was accepted and none was refused for a while.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use prometheus::{IntCounterVec, Opts};
use tokio::time::{Instant, sleep_until};

use super::Problem;
use lameduck_jobs::job::QueueName;
use lameduck_lifecycle::Drain;

/// How long no job may have been refused before refusals count as ended.
const OVER: Duration = Duration::from_secs(5);

/// Why a job was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// The disk is full, or the share of it that the queue may use.
    StorageFull,
    /// The storage did not answer, or said no; the job may have been stored.
    StorageFailed,
    /// The queue holds the maximum number of waiting jobs.
    QueueFull,
    /// The bodies in flight hold as much memory as they may.
    TooManyBodies,
    /// The payload or the batch is too large.
    TooLarge,
    /// The body came too slowly.
    TooSlow,
    /// The idempotency key was used for another job.
    KeyReused,
    /// A transaction in the database that has not ended holds the idempotency key or the queue.
    InUse,
    /// No process works on the queue.
    UnknownQueue,
    /// An option or the body can't be read.
    Invalid,
}

/// All refusals of a process.
pub(super) struct Refusals {
    counted: IntCounterVec,
    ongoing: Arc<Mutex<BTreeMap<Key, Ongoing>>>,
}

/// The reason, and the queue where only that one is concerned.
type Key = (Refusal, Option<QueueName>);

/// Refusals that have begun and have not ended.
struct Ongoing {
    jobs: u64,
    since: Instant,
    last: Instant,
    /// Whether a job was accepted since the last refusal.
    taken: bool,
}

// === impl Refusal ===

impl Refusal {
    const ALL: [Self; 10] = [
        Self::StorageFull,
        Self::StorageFailed,
        Self::QueueFull,
        Self::TooManyBodies,
        Self::TooLarge,
        Self::TooSlow,
        Self::KeyReused,
        Self::InUse,
        Self::UnknownQueue,
        Self::Invalid,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::StorageFull => "storage_full",
            Self::StorageFailed => "storage_failed",
            Self::QueueFull => "queue_full",
            Self::TooManyBodies => "too_many_bodies",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::KeyReused => "key_reused",
            Self::InUse => "in_use",
            Self::UnknownQueue => "unknown_queue",
            Self::Invalid => "invalid",
        }
    }

    /// Returns the reason that a status stands for where none was given.
    pub(super) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::UnknownQueue,
            StatusCode::REQUEST_TIMEOUT => Self::TooSlow,
            StatusCode::CONFLICT => Self::InUse,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNPROCESSABLE_ENTITY => Self::KeyReused,
            StatusCode::TOO_MANY_REQUESTS => Self::QueueFull,
            StatusCode::SERVICE_UNAVAILABLE => Self::StorageFailed,
            _ => Self::Invalid,
        }
    }

    /// Whether it takes the operator to change something. Otherwise the submitter has to.
    fn concerns_the_operator(self) -> bool {
        matches!(
            self,
            Self::StorageFull | Self::QueueFull | Self::TooManyBodies
        )
    }
}

// === impl Refusals ===

impl Refusals {
    /// Registers the metric.
    pub(super) fn new(drain: &Drain) -> Self {
        let counted = drain.kept(|| refused_metric(drain));
        Self {
            counted: counted.0.clone(),
            ongoing: Arc::default(),
        }
    }

    /// Counts a refused job, or a batch of which nothing was read, and logs the beginning of such refusals.
    pub(super) fn refused(&self, queue: &QueueName, problem: &Problem) {
        let refusal = problem.refusal();
        self.counted.with_label_values(&[refusal.as_str()]).inc();
        if !refusal.concerns_the_operator() {
            return;
        }
        let key = (
            refusal,
            (refusal == Refusal::QueueFull).then(|| queue.clone()),
        );
        let now = Instant::now();
        let mut ongoing = lock(&self.ongoing);
        let refusals = ongoing.entry(key).or_insert_with(|| {
            let detail = problem.detail();
            tracing::warn!(%queue, reason = refusal.as_str(), "jobs are refused: {detail}");
            Ongoing {
                jobs: 0,
                since: now,
                last: now,
                taken: false,
            }
        });
        refusals.jobs += 1;
        refusals.last = now;
        refusals.taken = false;
    }

    /// Notes that jobs of this queue were accepted, and logs the end of refusals unless they come back soon.
    pub(super) fn taken(&self, queue: &QueueName) {
        let mut ongoing = lock(&self.ongoing);
        for (key, refusals) in ongoing.iter_mut() {
            let concerned = key.1.as_ref().is_none_or(|of| of == queue);
            if !concerned || refusals.taken {
                continue;
            }
            refusals.taken = true;
            tokio::spawn(end(
                self.ongoing.clone(),
                key.clone(),
                refusals.last,
                queue.clone(),
            ));
        }
    }
}

/// Ends refusals some time after the last one, unless another came after it.
async fn end(
    ongoing: Arc<Mutex<BTreeMap<Key, Ongoing>>>,
    key: Key,
    last: Instant,
    queue: QueueName,
) {
    sleep_until(last + OVER).await;
    let mut ongoing = lock(&ongoing);
    let Some(refusals) = ongoing.get(&key).filter(|refusals| refusals.last == last) else {
        return;
    };
    let seconds = refusals.last.duration_since(refusals.since).as_secs_f64();
    tracing::info!(
        %queue, reason = key.0.as_str(), refused = refusals.jobs, seconds,
        "jobs are taken in again"
    );
    ongoing.remove(&key);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused_metric(drain: &Drain) -> RefusedMetric {
    let opts = Opts::new(
        "lameduck_jobs_refused_total",
        "Jobs that were refused over HTTP, by reason; a batch of which nothing was read counts as one.",
    );
    let refused = IntCounterVec::new(opts, &["reason"]).expect("a valid name and label");
    for refusal in Refusal::ALL {
        refused.with_label_values(&[refusal.as_str()]);
    }
    drain
        .registry()
        .register(Box::new(refused.clone()))
        .expect("registered once, because it is kept");
    RefusedMetric(refused)
}

/// The type under which the counter is kept: other counters are kept as well.
struct RefusedMetric(IntCounterVec);

#[cfg(test)]
mod tests {
    use lameduck_lifecycle::Lifecycle;
    use tokio::time::{advance, sleep};
    use tracing_test::traced_test;

    use super::*;

    fn full(refusal: Refusal) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "only 3 bytes are free").because(refusal)
    }

    fn count(lines: &[&str], beginning: &str) -> usize {
        lines.iter().filter(|line| line.contains(beginning)).count()
    }

    #[tokio::test(start_paused = true)]
    #[traced_test]
    async fn refusals_are_logged_when_they_begin_and_when_they_end_also_where_nobody_submits_any_more()
     {
        let lifecycle = Lifecycle::builder();
        let refusals = Refusals::new(lifecycle.drain());
        let queue: QueueName = "mail".parse().unwrap();

        for _ in 0..3 {
            refusals.refused(&queue, &full(Refusal::StorageFull));
            refusals.taken(&queue);
            advance(Duration::from_secs(2)).await;
        }
        logs_assert(|lines| {
            match (
                count(lines, "jobs are refused: only 3"),
                count(lines, "again"),
            ) {
                (1, 0) => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
        refusals.refused(&queue, &full(Refusal::StorageFull));
        refusals.taken(&queue);
        sleep(OVER * 2).await;

        logs_assert(
            |lines| match (count(lines, "jobs are refused"), count(lines, "refused=4")) {
                (1, 1) => Ok(()),
                found => Err(format!("{found:?}")),
            },
        );
        let full = refusals.counted.with_label_values(&["storage_full"]);
        assert_eq!(full.get(), 4);
        assert!(lock(&refusals.ongoing).is_empty());
    }

    #[tokio::test(start_paused = true)]
    #[traced_test]
    async fn a_queue_that_is_full_is_not_over_because_another_takes_jobs_in() {
        let lifecycle = Lifecycle::builder();
        let refusals = Refusals::new(lifecycle.drain());
        let [mail, resize]: [QueueName; 2] = ["mail", "resize"].map(|name| name.parse().unwrap());
        refusals.refused(&mail, &full(Refusal::QueueFull));
        refusals.refused(&mail, &full(Refusal::Invalid));

        refusals.taken(&resize);
        sleep(OVER * 2).await;

        assert!(!logs_contain("taken in again"));
        refusals.taken(&mail);
        sleep(OVER * 2).await;
        assert!(logs_contain("taken in again"));
        assert!(!logs_contain("reason=\"invalid\""));
    }
}
