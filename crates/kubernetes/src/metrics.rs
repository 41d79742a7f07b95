//! The metrics of the Kubernetes observer.
//!
//! | metric | meaning |
//! | --- | --- |
//! | `lameduck_endpoint_removal_seconds{service}` | from T0 until the Service was seen to no longer route here; 0 until then |
//! | `lameduck_endpoints{state}` | 1 for what is known about the own endpoints, 0 for the other states |
//! | `lameduck_kubernetes_requests_total{outcome}` | requests to the API server, and how they ended |
//! | `lameduck_kubernetes_received_bytes_total` | bytes of its answers, lists and watches included |

use std::time::Duration;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use lameduck_lifecycle::{Endpoints, Unobservable};

/// Values of the label `outcome`, which says how a request to the API server ended.
pub(super) const OUTCOMES: [&str; 8] = [
    "ok",
    "denied",
    "gone",
    "throttled",
    "error",
    "timeout",
    "unreachable",
    "invalid",
];

const STATES: [Endpoints; 7] = [
    Endpoints::Unknown,
    Endpoints::Routed,
    Endpoints::Removed,
    Endpoints::InNone,
    Endpoints::Unobservable(Unobservable::NoPermission),
    Endpoints::Unobservable(Unobservable::Unavailable),
    Endpoints::Unobservable(Unobservable::PodGone),
];

/// The metrics of the Kubernetes observer; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    removal: GaugeVec,
    endpoints: IntGaugeVec,
    requests: IntCounterVec,
    received: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let metrics = Self::new().expect("the names and labels below are valid");
        let parts: [Box<dyn prometheus::core::Collector>; 4] = [
            Box::new(metrics.removal.clone()),
            Box::new(metrics.endpoints.clone()),
            Box::new(metrics.requests.clone()),
            Box::new(metrics.received.clone()),
        ];
        for part in parts {
            if let Err(error) = registry.register(part) {
                // If one lifecycle has two observers, the metrics of the second are not exported.
                tracing::warn!(%error, "Kubernetes metrics not registered");
            }
        }
        metrics
    }

    fn new() -> prometheus::Result<Self> {
        let metrics = Self {
            removal: GaugeVec::new(
                Opts::new(
                    "lameduck_endpoint_removal_seconds",
                    "From the start of the drain until the Service was seen to route here no more; 0 until then.",
                ),
                &["service"],
            )?,
            endpoints: IntGaugeVec::new(
                Opts::new(
                    "lameduck_endpoints",
                    "1 for what is known about this pod's own endpoints, 0 for the other states.",
                ),
                &["state"],
            )?,
            requests: IntCounterVec::new(
                Opts::new(
                    "lameduck_kubernetes_requests_total",
                    "Requests to the Kubernetes API server, by how they ended.",
                ),
                &["outcome"],
            )?,
            received: IntCounter::new(
                "lameduck_kubernetes_received_bytes_total",
                "Bytes of the Kubernetes API server's answers, lists and watches included.",
            )?,
        };
        for outcome in OUTCOMES {
            metrics.requests.with_label_values(&[outcome]);
        }
        metrics.endpoints(Endpoints::Unknown);
        Ok(metrics)
    }

    pub(super) fn endpoints(&self, now: Endpoints) {
        for state in STATES {
            self.endpoints
                .with_label_values(&[word(state)])
                .set(i64::from(state == now));
        }
    }

    /// Records how long after T0 the removal from this Service was seen; `None` if it has not been seen yet.
    pub(super) fn removal(&self, service: &str, lag: Option<Duration>) {
        self.removal
            .with_label_values(&[service])
            .set(lag.unwrap_or_default().as_secs_f64());
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    pub(super) fn request(&self, outcome: &str) {
        self.requests.with_label_values(&[outcome]).inc();
    }
}

/// Returns the name of the state in metrics and logs.
pub(super) const fn word(endpoints: Endpoints) -> &'static str {
    match endpoints {
        Endpoints::Unknown => "unknown",
        Endpoints::Routed => "routed",
        Endpoints::Removed => "removed",
        Endpoints::InNone => "in_none",
        Endpoints::Unobservable(Unobservable::NoPermission) => "no_permission",
        Endpoints::Unobservable(Unobservable::Unavailable) => "unavailable",
        Endpoints::Unobservable(Unobservable::PodGone) => "pod_gone",
    }
}
