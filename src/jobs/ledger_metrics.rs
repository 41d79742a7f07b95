//! The drain ledger as metrics: the figures of processes that no scrape will ever see again.
//!
//! | metric | says |
//! | --- | --- |
//! | `lameduck_drains_total{cause,outcome}` | processes that ended so |
//! | `lameduck_drain_seconds_total{cause,outcome}` | the sum of their drains' durations |
//!
//! Every process that uses the database exports the same figures, so a query takes `max by (cause, outcome)`
//! first.

use std::{sync::Arc, time::Duration};

use prometheus::{CounterVec, IntCounterVec, Opts, Registry};
use tokio::time::sleep;

use super::{
    engine::{Engine, EngineError},
    ledger::{DrainTotal, KILLED},
};
use crate::lifecycle::{BoxError, Cause, Drain, Outcome};

/// How often the ledger is read: a little more often than anybody scrapes.
const EVERY: Duration = Duration::from_secs(10);

struct LedgerMetrics {
    drains: IntCounterVec,
    seconds: CounterVec,
}

/// Reads the ledger now and then, for as long as the process lives.
pub(super) async fn export(engine: Arc<dyn Engine>, drain: Drain) -> Result<(), BoxError> {
    // Nothing is exported before the first look: a zero that turns into the sum of all history would be
    // taken for an increase.
    let mut metrics = None;
    loop {
        match engine.drain_totals().await {
            Ok(totals) => metrics
                .get_or_insert_with(|| LedgerMetrics::register(drain.registry(), &totals))
                .catch_up(&totals),
            Err(EngineError::Closed) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the drain ledger can't be read; its figures are old");
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
        }
        metrics.catch_up(totals);
        let parts: [Box<dyn prometheus::core::Collector>; 2] = [
            Box::new(metrics.drains.clone()),
            Box::new(metrics.seconds.clone()),
        ];
        for part in parts {
            if let Err(error) = registry.register(part) {
                // Two engines in one lifecycle: the first one is told of.
                tracing::warn!(%error, "drain ledger metrics not registered");
            }
        }
        metrics
    }

    fn new() -> prometheus::Result<Self> {
        let labels = &["cause", "outcome"];
        Ok(Self {
            drains: IntCounterVec::new(
                Opts::new(
                    "lameduck_drains_total",
                    "Processes that ended, by why they had to and how they did; the same in every process that uses \
                     this database.",
                ),
                labels,
            )?,
            seconds: CounterVec::new(
                Opts::new(
                    "lameduck_drain_seconds_total",
                    "How long their drains took, as far as they could say.",
                ),
                labels,
            )?,
        })
    }

    /// Counters only ever grow, and so do the totals.
    fn catch_up(&self, totals: &[DrainTotal]) {
        for total in totals {
            let labels = &[total.cause.as_str(), total.outcome.as_str()];
            let drains = self.drains.with_label_values(labels);
            drains.inc_by(total.count.saturating_sub(drains.get()));
            let seconds = self.seconds.with_label_values(labels);
            seconds.inc_by((total.seconds - seconds.get()).max(0.0));
        }
    }
}

/// What can happen is exported as zero until it does, so that a first time is seen as an increase.
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
