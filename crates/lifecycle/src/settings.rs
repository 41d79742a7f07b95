//! The settings of a drain: every wait, share and margin, with its default, stated once.
//!
//! `docs/architecture.md` justifies each default by a number.

use std::time::Duration;

use serde::Serialize;

/// The settings of a drain. Reserves that do not fit into the grace period are scaled down with it (see
/// [`Budget`](super::Budget)), so that every step still gets its share of a period of two seconds; `settle`,
/// `quiet` and `fallback_wait` are cut off at the end of their step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DrainSettings {
    /// Time from SIGTERM to SIGKILL, unless an observer reports a better one: `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Time left unused at the end of the grace period, because the kubelet counts from when it begins to stop
    /// the container, a little before the signal arrives. At most a tenth of the grace period.
    pub margin: Duration,
    /// The lame-duck share of the budget, 0 to 1: until when idle connections may speak once more.
    pub lame_duck_share: f64,
    /// How readiness follows the start of a drain.
    pub readiness: ReadinessPolicy,
    /// Time from removal in the API to removal in every kube-proxy and load balancer, if no traffic shows it.
    pub settle: Duration,
    /// Time after the removal without a request on a *new* connection, which shows that nobody routes here: the
    /// process may go. Clients are asked to leave after half of it, so that the rest passes while they do.
    pub quiet: Duration,
    /// Time from T0 after which removal is assumed if it can't be observed.
    pub fallback_wait: Duration,
    /// Time between the soft and the hard deadline, in which handlers can come to an end.
    pub stop_notice: Duration,
    /// Time reserved for the teardown hooks, after the hard deadline.
    pub teardown: Duration,
    /// Time reserved for reports, after the teardown.
    pub reporting: Duration,
}

/// How readiness follows the start of a drain.
///
/// Deleting a pod already makes its endpoint `ready=false, terminating=true`; a failing readiness probe
/// also clears `serving`, and with it kube-proxy's fallback to serving-terminating endpoints (KEP-1669).
/// Without a deletion, only the failing probe removes the endpoint, so every policy is immediate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadinessPolicy {
    /// Readiness fails at T0.
    Immediate,
    /// Readiness fails once the endpoint is gone.
    AfterRemoval,
    /// Readiness fails at T0, unless no other endpoint of a Service is ready: then it is held until another one
    /// is, or the lame-duck share is spent. It is not held for a workload of one replica, where no other can come.
    #[default]
    Auto,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            margin: Duration::from_secs(1),
            lame_duck_share: 0.5,
            readiness: ReadinessPolicy::default(),
            settle: Duration::from_secs(1),
            quiet: Duration::from_secs(2),
            fallback_wait: Duration::from_secs(5),
            stop_notice: Duration::from_secs(5),
            teardown: Duration::from_secs(3),
            reporting: Duration::from_secs(1),
        }
    }
}
