//! The metrics of a proxy: the four golden signals beside those of the drain.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use lameduck_lifecycle::Drain;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, core::Collector};

use crate::upstream::Unanswered;

/// Upper bounds in seconds: from a lookup in memory to a report that takes a minute.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0,
];

/// The counters of a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    requests: IntCounterVec,
    seconds: Histogram,
    errors: IntCounterVec,
    refused: IntCounter,
    connections: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Returns the metrics that this drain's registry exports; one set for all proxies of a process.
    pub(crate) fn of(drain: &Drain) -> Self {
        Self(drain.kept(|| Families::register(drain)))
    }

    /// Counts the head of an answer sent to the client, this long after its request had come.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        let class = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.0.requests.with_label_values(&[class]).inc();
        self.0.seconds.observe(took.as_secs_f64());
    }

    /// Counts a request that the program did not answer.
    pub(crate) fn unanswered(&self, why: &Unanswered) {
        let reason = match why {
            Unanswered::Unreachable { .. } => "unreachable",
            Unanswered::Broken(_) => "broken",
        };
        self.0.errors.with_label_values(&[reason]).inc();
    }

    /// Counts a request that met a closed gate.
    pub(crate) fn refused(&self) {
        self.0.refused.inc();
    }

    /// Counts an answer that came by a fresh connection, or by a kept one.
    pub(crate) fn connected(&self, reused: bool) {
        let kind = if reused { "reused" } else { "fresh" };
        self.0.connections.with_label_values(&[kind]).inc();
    }
}

// === impl Families ===

impl Families {
    fn register(drain: &Drain) -> Self {
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label]);
            let counters = counters.expect("a name and a label that Prometheus takes");
            for value in values {
                counters.with_label_values(&[value]);
            }
            counters
        };
        let seconds = HistogramOpts::new(
            "lameduck_proxy_request_seconds",
            "From a request to the head of its answer.",
        );
        let families = Self {
            requests: counters(
                "lameduck_proxy_requests_total",
                "Requests that came to the program's gate while it was open, by the class of their status.",
                "code",
                &["1xx", "2xx", "3xx", "4xx", "5xx"],
            ),
            seconds: Histogram::with_opts(seconds.buckets(BUCKETS.to_vec()))
                .expect("a name and buckets that Prometheus takes"),
            errors: counters(
                "lameduck_proxy_unanswered_total",
                "Requests to which the program gave no answer, by reason; their clients got 502.",
                "reason",
                &["unreachable", "broken"],
            ),
            refused: IntCounter::new(
                "lameduck_proxy_refused_total",
                "Requests that came when the gate was closed in a drain; their clients got 503.",
            )
            .expect("a name that Prometheus takes"),
            connections: counters(
                "lameduck_proxy_upstream_requests_total",
                "Answers of the program by fresh and by reused connections.",
                "connection",
                &["fresh", "reused"],
            ),
        };
        let collectors: [Box<dyn Collector>; 5] = [
            Box::new(families.requests.clone()),
            Box::new(families.seconds.clone()),
            Box::new(families.errors.clone()),
            Box::new(families.refused.clone()),
            Box::new(families.connections.clone()),
        ];
        for collector in collectors {
            // Refused only if somebody else took the name.
            if let Err(error) = drain.registry().register(collector) {
                tracing::warn!(%error, "a figure of the proxy can't be exported");
            }
        }
        families
    }
}
