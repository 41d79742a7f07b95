//! The drain ledger as metrics, with the figures of processes that no scrape will ever see again.
//!
//! | metric | sums up |
//! | --- | --- |
//! | `lameduck_drains_total{cause,outcome}` | processes that ended in this way |
//! | `lameduck_drain_seconds_total{cause,outcome}` | the durations of their drains |
//! | `lameduck_drain_budget_seconds_total{cause,outcome}` | the time that these drains had |
//! | `lameduck_tight_drains_total{cause}` | the drains that took more than four fifths of that |
//! | `lameduck_drain_routing_total{cause,outcome}` | how their waits for the end of routing ended |
//! | `lameduck_drain_requests_total{cause,fate}` | requests that came late, and requests that were cut |
//! | `lameduck_drain_connections_cut_total{cause}` | connections that were cut |
//! | `lameduck_drain_jobs_total{cause,fate}` | jobs given back at the deadline, and jobs left to the lease |
//!
//! Every process that uses the database exports the same figures, so a query takes `max by (…)` first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{CounterVec, IntCounterVec, Opts, Registry, core::Collector};
use tokio::time::sleep;

use super::{
    engine::Engine,
    ledger::{DrainTotal, KILLED},
};
use lameduck_lifecycle::{BoxError, Cause, Drain, LogThrottle, Outcome, RoutingEnd};

/// Interval at which the ledger is read: a little shorter than anybody's scrape interval.
const EVERY: Duration = Duration::from_secs(10);

struct LedgerMetrics {
    drains: IntCounterVec,
    seconds: CounterVec,
    budget: CounterVec,
    sums: Vec<Sum>,
}

/// A counter that sums up figures over all outcomes of a cause.
struct Sum {
    counter: IntCounterVec,
    /// The figures, each with the value of the second label that it stands for, if there is one.
    figures: Vec<(String, Option<&'static str>)>,
}

/// Minimum interval between two warnings that the ledger can't be read.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Reads the ledger every [`EVERY`], for as long as the process lives.
pub(super) async fn export(engine: Arc<dyn Engine>, drain: Drain) -> Result<(), BoxError> {
    // Nothing is exported before the first read: a zero that turns into the sum of all history would look
    // like an increase.
    let mut metrics = None;
    let limit = LogThrottle::every(TELL_AGAIN);
    loop {
        match engine.drain_totals().await {
            Ok(totals) => metrics
                .get_or_insert_with(|| LedgerMetrics::register(drain.registry(), &totals))
                .catch_up(&totals),
            Err(error) if error.is_final() => return Ok(()),
            Err(error) => {
                if let Some(left_out) = limit.admit() {
                    tracing::warn!(
                        %error, left_out,
                        "the drain ledger can't be read; its figures are old"
                    );
                }
            }
        }
        sleep(EVERY).await;
    }
}

// === impl LedgerMetrics ===

impl LedgerMetrics {
    fn register(registry: &Registry, totals: &[DrainTotal]) -> Self {
        let metrics = Self::new().expect("the names and labels below are valid");
        for (cause, outcome) in expected() {
            metrics.drains.with_label_values(&[cause, outcome]);
            metrics.seconds.with_label_values(&[cause, outcome]);
            metrics.budget.with_label_values(&[cause, outcome]);
            for sum in &metrics.sums {
                sum.expect(cause);
            }
        }
        metrics.catch_up(totals);
        let mut parts: Vec<Box<dyn Collector>> = vec![
            Box::new(metrics.drains.clone()),
            Box::new(metrics.seconds.clone()),
            Box::new(metrics.budget.clone()),
        ];
        for sum in &metrics.sums {
            parts.push(Box::new(sum.counter.clone()));
        }
        for part in parts {
            if let Err(error) = registry.register(part) {
                // With two engines in one lifecycle, the first one is exported.
                tracing::warn!(%error, "drain ledger metrics not registered");
            }
        }
        metrics
    }

    fn new() -> prometheus::Result<Self> {
        let labels = &["cause", "outcome"];
        let seconds = |name: &str, help: &str| CounterVec::new(Opts::new(name, help), labels);
        Ok(Self {
            drains: IntCounterVec::new(
                Opts::new(
                    "lameduck_drains_total",
                    "Processes that ended, by why they had to and how they did; the same in every process that uses \
                     this database.",
                ),
                labels,
            )?,
            seconds: seconds(
                "lameduck_drain_seconds_total",
                "How long their drains took, as far as they could say.",
            )?,
            budget: seconds(
                "lameduck_drain_budget_seconds_total",
                "How long their drains could have taken, as far as they could say.",
            )?,
            sums: Self::sums()?,
        })
    }

    fn sums() -> prometheus::Result<Vec<Sum>> {
        let fates = |of: &str, fates: &[&'static str]| {
            let figures = fates
                .iter()
                .map(|fate| (format!("{of}_{fate}"), Some(*fate)));
            figures.collect::<Vec<_>>()
        };
        let ends = RoutingEnd::ALL.map(RoutingEnd::as_str);
        Ok(vec![
            Sum::new(
                "lameduck_tight_drains_total",
                "Drains that took more than four fifths of what they had.",
                None,
                vec![("tight".to_owned(), None)],
            )?,
            Sum::new(
                "lameduck_drain_routing_total",
                "Drains by how their wait for the end of routing ended.",
                Some("outcome"),
                fates("routing", &ends),
            )?,
            Sum::new(
                "lameduck_drain_requests_total",
                "Requests in drains that came after the endpoints were gone, or were cut at the hard deadline.",
                Some("fate"),
                fates("requests", &["late", "cut"]),
            )?,
            Sum::new(
                "lameduck_drain_connections_cut_total",
                "Connections that were cut at the hard deadline of a drain, with a request or a websocket on them.",
                None,
                vec![("connections_cut".to_owned(), None)],
            )?,
            Sum::new(
                "lameduck_drain_jobs_total",
                "Jobs that were given back in drains that came to the soft deadline, or were left to the lease.",
                Some("fate"),
                fates("jobs", &["released", "left"]),
            )?,
        ])
    }

    /// Raises the counters to these totals. Both only ever grow.
    fn catch_up(&self, totals: &[DrainTotal]) {
        for total in totals {
            let labels = &[total.cause.as_str(), total.outcome.as_str()];
            let drains = self.drains.with_label_values(labels);
            drains.inc_by(total.count.saturating_sub(drains.get()));
            let budget = total.figures.get("budget_seconds").copied();
            for (counter, sum) in [
                (&self.seconds, total.seconds),
                (&self.budget, budget.unwrap_or_default()),
            ] {
                let counter = counter.with_label_values(labels);
                counter.inc_by((sum - counter.get()).max(0.0));
            }
        }
        for sum in &self.sums {
            sum.catch_up(totals);
        }
    }
}

// === impl Sum ===

impl Sum {
    fn new(
        name: &str,
        help: &str,
        second: Option<&str>,
        figures: Vec<(String, Option<&'static str>)>,
    ) -> prometheus::Result<Self> {
        let labels: Vec<&str> = ["cause"].into_iter().chain(second).collect();
        let counter = IntCounterVec::new(Opts::new(name, help), &labels)?;
        Ok(Self { counter, figures })
    }

    /// Exports the series of this cause at 0 until something is counted.
    fn expect(&self, cause: &str) {
        for (_, value) in &self.figures {
            self.series(cause, *value);
        }
    }

    fn series(&self, cause: &str, value: Option<&str>) -> prometheus::IntCounter {
        let labels: Vec<&str> = [cause].into_iter().chain(value).collect();
        self.counter.with_label_values(&labels)
    }

    fn catch_up(&self, totals: &[DrainTotal]) {
        for (figure, value) in &self.figures {
            let mut by_cause = BTreeMap::<&str, f64>::new();
            for total in totals {
                let sum = total.figures.get(figure).copied().unwrap_or_default();
                *by_cause.entry(&total.cause).or_default() += sum;
            }
            for (cause, sum) in by_cause {
                let series = self.series(cause, *value);
                series.inc_by((sum as u64).saturating_sub(series.get()));
            }
        }
    }
}

/// Returns the possible causes and outcomes, exported as zero until one happens, so that it shows as an increase.
fn expected() -> impl Iterator<Item = (&'static str, &'static str)> {
    let asked = [
        Cause::Unknown,
        Cause::Signal,
        Cause::Requested,
        Cause::PodDeleted,
        Cause::Disrupted,
        Cause::ContainerStopped,
    ];
    let ends = [Outcome::Clean, Outcome::Cut, Outcome::HookFailed].map(Outcome::as_str);
    let ends = [ends[0], ends[1], ends[2], KILLED];
    let by_failure = [Outcome::Failed.as_str(), Outcome::Cut.as_str(), KILLED];
    asked
        .into_iter()
        .flat_map(move |cause| ends.map(|end| (cause.as_str(), end)))
        .chain(by_failure.map(|end| (Cause::Failed.as_str(), end)))
}
