//! The metrics of the lifecycle. Everything is read from the [`Drain`] at the scrape, so that no figure can
//! be forgotten or late.

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::time::Instant;

use super::{
    conductor::RoutingEnd,
    drain::{Drain, WeakDrain},
    observation::{Cause, DeadlineSource},
    phase::Phase,
    report::phase_seconds,
};

/// The name of the gauge from which `lameduck doctor` learns how long jobs take.
pub const LONGEST_RUN: &str = "lameduck_job_longest_run_seconds";

struct LifecycleCollector {
    /// Weak, because the drain holds the registry, which holds this collector.
    drain: WeakDrain,
    phase: IntGaugeVec,
    phase_seconds: GaugeVec,
    ready: IntGauge,
    cause: IntGaugeVec,
    source: IntGaugeVec,
    routing: IntGaugeVec,
    seconds_left: Gauge,
    jobs: IntGaugeVec,
    finished: IntCounterVec,
    failed: IntCounterVec,
    longest: GaugeVec,
    released: IntCounterVec,
}

/// Registers the lifecycle's metrics; done once, when the drain's registry is made.
pub(super) fn register(drain: &Drain) {
    let collector =
        LifecycleCollector::new(drain.downgrade()).expect("the names and labels below are valid");
    drain
        .registry()
        .register(Box::new(collector))
        .expect("nothing else is registered yet");
    let build = build_info().expect("the name and the label below are valid");
    drain
        .registry()
        .register(Box::new(build))
        .expect("nothing else has its name");
    #[cfg(target_os = "linux")]
    drain
        .registry()
        .register(Box::new(ProcessCollector::for_self()))
        .expect("no name of the process is one of ours");
}

/// Returns a gauge that names the version, so that figures of a rollout can be told apart by version.
fn build_info() -> prometheus::Result<IntGaugeVec> {
    let help = "1, for the version of lameduck that runs.";
    let info = IntGaugeVec::new(Opts::new("lameduck_build_info", help), &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(info)
}

impl LifecycleCollector {
    fn new(drain: WeakDrain) -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        Ok(Self {
            drain,
            phase: gauges(
                "lameduck_phase",
                "1 for the phase that the process is in, 0 for the others.",
                &["phase"],
            )?,
            phase_seconds: GaugeVec::new(
                Opts::new(
                    "lameduck_drain_phase_seconds",
                    "How long each phase of the drain has taken so far; 0 where it has not begun.",
                ),
                &["phase"],
            )?,
            ready: IntGauge::new("lameduck_ready", "1 while /readyz succeeds.")?,
            cause: gauges(
                "lameduck_drain_cause",
                "1 for why this process drains, 0 for the other causes, and for all before a drain.",
                &["cause"],
            )?,
            source: gauges(
                "lameduck_drain_deadline_source",
                "1 for who said how long this process has, 0 for the others, and for all before a drain.",
                &["source"],
            )?,
            routing: gauges(
                "lameduck_drain_routing_end",
                "1 for how the wait for the end of routing ended, 0 for the other ways, and for all before it has.",
                &["outcome"],
            )?,
            seconds_left: Gauge::new(
                "lameduck_drain_seconds_left",
                "Until the deadline of this drain; 0 before a drain.",
            )?,
            jobs: gauges(
                "lameduck_jobs_in_flight",
                "Jobs that are reserved and not yet durably settled.",
                &["pool"],
            )?,
            finished: counters(
                "lameduck_jobs_finished_total",
                "Jobs that ended well.",
                &["pool"],
            )?,
            longest: GaugeVec::new(
                Opts::new(
                    LONGEST_RUN,
                    "The longest run of a job that has ended by itself since the process began: the grace period should \
                     be longer.",
                ),
                &["pool"],
            )?,
            failed: counters(
                "lameduck_jobs_failed_total",
                "Attempts that failed; tried again, or dead.",
                &["pool"],
            )?,
            released: counters(
                "lameduck_jobs_released_total",
                "Jobs given back without an attempt counted.",
                &["pool"],
            )?,
        })
    }

    fn update(&self) {
        let Some(drain) = self.drain.upgrade() else {
            return;
        };
        let now = Instant::now();
        let phases = drain.phases();
        let current = drain.phase();
        let seconds = phase_seconds(&phases, now);
        let phases = Phase::ALL.map(Phase::as_str);
        show(&self.phase, phases, Some(current.as_str()));
        for phase in Phase::ALL {
            let name = phase.as_str();
            if phase > Phase::Serving && phase < Phase::Stopped {
                self.phase_seconds
                    .with_label_values(&[name])
                    .set(seconds.get(name).copied().unwrap_or_default());
            }
        }
        self.ready.set(i64::from(drain.is_ready()));
        let cause = *drain.causes().borrow();
        let causes = Cause::ALL.map(Cause::as_str);
        show(&self.cause, causes, cause.map(Cause::as_str));
        let known = drain.known();
        let sources = DeadlineSource::ALL.map(DeadlineSource::as_str);
        show(
            &self.source,
            sources,
            known.source.map(DeadlineSource::as_str),
        );
        let ends = RoutingEnd::ALL.map(RoutingEnd::as_str);
        show(&self.routing, ends, known.routing.map(RoutingEnd::as_str));
        let left = drain
            .plan()
            .map(|plan| plan.deadline.saturating_duration_since(now));
        self.seconds_left
            .set(left.unwrap_or_default().as_secs_f64());
        for work in drain.all_work() {
            let pool = &[work.pool_name()];
            self.jobs.with_label_values(pool).set(signed(work.jobs()));
            catch_up(&self.finished, pool, work.finished_counts().0);
            let longest = work.longest_run().as_secs_f64();
            self.longest.with_label_values(pool).set(longest);
            catch_up(&self.failed, pool, work.failed_counts().0);
            catch_up(&self.released, pool, work.released_count());
        }
    }

    fn parts(&self) -> [&dyn Collector; 12] {
        [
            &self.phase,
            &self.phase_seconds,
            &self.ready,
            &self.cause,
            &self.source,
            &self.routing,
            &self.seconds_left,
            &self.jobs,
            &self.finished,
            &self.failed,
            &self.longest,
            &self.released,
        ]
    }
}

impl Collector for LifecycleCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts()
            .into_iter()
            .flat_map(|part| part.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        self.parts()
            .into_iter()
            .flat_map(|part| part.collect())
            .collect()
    }
}

/// Sets the gauges of a set of states: 1 for the current one, 0 for the others.
fn show<const N: usize>(gauges: &IntGaugeVec, states: [&str; N], now: Option<&str>) {
    for state in states {
        let gauge = gauges.with_label_values(&[state]);
        gauge.set(i64::from(now == Some(state)));
    }
}

/// Raises a counter to a value. Two scrapes at once may do this with the same value, which counts only once.
fn catch_up(counter: &IntCounterVec, labels: &[&str], value: u64) {
    let counter = counter.with_label_values(labels);
    counter.inc_by(value.saturating_sub(counter.get()));
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
