//! The metric families: each metric's name, type, labels and help text.
//!
//! `docs/metrics.md` has the same texts, and a test compares them.

use std::sync::Arc;

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use crate::job::{QueueStats, State};
use lameduck_lifecycle::Drain;

/// Histogram buckets from 10 ms to an hour: by factors of about three, and then the round numbers of the clock.
const BUCKETS: [f64; 14] = [
    0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0,
];

/// The states of jobs that have neither completed nor been cancelled.
const STATES: [State; 5] = [
    State::Pending,
    State::Scheduled,
    State::Running,
    State::Deferred,
    State::Dead,
];

/// All metric families of the queues.
pub(super) struct Families {
    pub(super) wait: HistogramVec,
    pub(super) run: HistogramVec,
    pub(super) outcomes: IntCounterVec,
    pub(super) timeouts: IntCounterVec,
    pub(super) stale: IntCounterVec,
    pub(super) after_drain: IntCounterVec,
    jobs: IntGaugeVec,
    oldest: GaugeVec,
    paused: IntGaugeVec,
    pub(super) workers: IntGaugeVec,
    pub(super) busy: IntGaugeVec,
    pub(super) unreachable: IntGaugeVec,
    pub(super) overloaded: IntGaugeVec,
    pub(super) backoff_start: GaugeVec,
    pub(super) needed: GaugeVec,
    pub(super) grace: GaugeVec,
    pub(super) grace_configured: Gauge,
}

// === impl Families ===

impl Families {
    /// Returns the program's families, created on the first call.
    pub(super) fn of(drain: &Drain) -> Arc<Self> {
        drain.kept(|| {
            Self::register(drain.registry())
                .expect("the names and labels are valid, and registered once")
        })
    }

    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let figures = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["queue"]);
        let histograms = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            HistogramVec::new(opts, labels)
        };
        let families = Self {
            wait: histograms(
                "lameduck_job_wait_seconds",
                "From when a job could run until it was reserved; one that was given back has waited since it could run at first.",
                &["queue"],
            )?,
            run: histograms(
                "lameduck_job_run_seconds",
                "How long runs took that ended by themselves, completed or failed.",
                &["queue", "outcome"],
            )?,
            outcomes: counters(
                "lameduck_job_outcomes_total",
                "What became of reservations, each counted once when it is durable.",
                &["queue", "outcome"],
            )?,
            timeouts: counters(
                "lameduck_job_timeouts_total",
                "Runs that were told to stop because the job's own time was over, whatever their outcome then was.",
                &["queue"],
            )?,
            stale: counters(
                "lameduck_stale_outcomes_total",
                "Outcomes that were dropped, because the job belonged to somebody else by then.",
                &["queue"],
            )?,
            after_drain: counters(
                "lameduck_reserves_after_drain_total",
                "Reserves that were sent after the drain had begun; there must be none.",
                &["queue"],
            )?,
            jobs: gauges(
                "lameduck_queue_jobs",
                "Jobs in the queue by their state, the same in every process that uses this database.",
                &["queue", "state"],
            )?,
            oldest: figures(
                "lameduck_queue_oldest_age_seconds",
                "For how long the oldest pending job could have run; 0 where none is pending.",
            )?,
            paused: gauges(
                "lameduck_queue_paused",
                "1 while the queue is paused.",
                &["queue"],
            )?,
            workers: gauges(
                "lameduck_workers",
                "Workers of this process for the queue.",
                &["queue"],
            )?,
            busy: gauges(
                "lameduck_workers_busy",
                "Workers that have a job, from its reservation until its outcome is durable.",
                &["queue"],
            )?,
            unreachable: gauges(
                "lameduck_queue_target_unreachable",
                "1 while no job of the queue can be started here, because the program is missing or nobody answers; one is tried at a time.",
                &["queue"],
            )?,
            overloaded: gauges(
                "lameduck_queue_target_overloaded",
                "1 while the endpoint answers every job of the queue with 429, 502, 503 or 504; one is tried at a time.",
                &["queue"],
            )?,
            backoff_start: figures(
                "lameduck_queue_backoff_start_timestamp_seconds",
                "Since when jobs of the queue are tried one at a time here, as Unix time; 0 while they are not.",
            )?,
            needed: figures(
                "lameduck_workers_needed",
                "Workers of this process that the jobs would keep busy: what arrives a second times how long each takes, over the last minutes.",
            )?,
            grace: figures(
                "lameduck_job_grace_needed_seconds",
                "The shortest grace period in which the longest run so far ends before a drain tells it to stop; 0 before the first run.",
            )?,
            grace_configured: Gauge::new(
                "lameduck_grace_configured_seconds",
                "The grace period by the program's setting; in a pod a drain goes by what the Pod says.",
            )?,
        };
        let parts: [Box<dyn Collector>; 17] = [
            Box::new(families.wait.clone()),
            Box::new(families.run.clone()),
            Box::new(families.outcomes.clone()),
            Box::new(families.timeouts.clone()),
            Box::new(families.stale.clone()),
            Box::new(families.after_drain.clone()),
            Box::new(families.jobs.clone()),
            Box::new(families.oldest.clone()),
            Box::new(families.paused.clone()),
            Box::new(families.workers.clone()),
            Box::new(families.busy.clone()),
            Box::new(families.unreachable.clone()),
            Box::new(families.overloaded.clone()),
            Box::new(families.backoff_start.clone()),
            Box::new(families.needed.clone()),
            Box::new(families.grace.clone()),
            Box::new(families.grace_configured.clone()),
        ];
        for part in parts {
            registry.register(part)?;
        }
        Ok(families)
    }

    /// Sets the gauges to the engine's figures of a queue.
    pub(super) fn show(&self, stats: &QueueStats) {
        let queue = stats.queue.as_str();
        let QueueStats {
            pending,
            scheduled,
            running,
            deferred,
            dead,
            ..
        } = *stats;
        for (state, count) in STATES
            .into_iter()
            .zip([pending, scheduled, running, deferred, dead])
        {
            self.jobs
                .with_label_values(&[queue, state.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let age = stats.oldest_age.map_or(0.0, |age| age.as_secs_f64());
        self.oldest.with_label_values(&[queue]).set(age);
        let paused = self.paused.with_label_values(&[queue]);
        paused.set(i64::from(stats.paused));
    }
}
