//! Checks that the probes take the pod out of its Services in time, and do not kill it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::{
    super::{facts::flip, finding::Severity},
    Check, Trouble,
    grace::shown,
    when,
};

/// The time that the chart's probe takes to fail; any less, and one late answer would take a pod out.
const FASTEST: Duration = Duration::from_secs(2);

pub(super) const READINESS_MISSING: Check = Check {
    id: "readiness-missing",
    severity: Severity::Problem,
    fine: "There is a readiness probe.",
    run: |facts| {
        let container = facts.template.as_ref()?.container();
        when(container.readiness_probe.is_none(), || {
            let happens = "A new pod is routed to before it listens, and the old one is taken away for it; a \
                           container that is restarted without a deletion stays routed to while it drains."
                .to_owned();
            let remedy = format!(
                "Give container {} a readinessProbe on /readyz.",
                container.name
            );
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const READINESS_PATH: Check = Check {
    id: "readiness-path",
    severity: Severity::Warning,
    fine: "The readiness probe asks what a drain changes.",
    run: |facts| {
        let container = facts.template.as_ref()?.container();
        let Some(probe) = &container.readiness_probe else {
            return Ok(Vec::new());
        };
        // gRPC health becomes NOT_SERVING when a drain begins.
        let follows = path(probe).is_some_and(|path| path == "/readyz") || probe.grpc.is_some();
        when(!follows, || {
            let asked = match (path(probe), &probe.tcp_socket) {
                (Some(path), _) => format!("{path} and not /readyz"),
                (None, Some(_)) => {
                    "whether a port is open, which it is until the very end".to_owned()
                }
                (None, None) => "something else than /readyz".to_owned(),
            };
            let happens = format!(
                "The readiness probe asks {asked}: unless that fails in a drain too, a container that is \
                 restarted without a deletion stays routed to until it is gone."
            );
            Trouble::own(
                facts,
                happens,
                "Set readinessProbe.httpGet.path to /readyz, on the admin port.",
            )
        })
    },
};

/// Without a deletion, only the failing probe removes the endpoint. The drain waits for that, but no longer than
/// its budget allows, or than the fixed time if it may not read EndpointSlices.
pub(super) const READINESS_SLOW: Check = Check {
    id: "readiness-slow",
    severity: Severity::Warning,
    fine: "Where a container is restarted, readiness fails in time for the drain.",
    run: |facts| {
        let template = facts.template.as_ref()?;
        let container = template.container();
        let Some(probe) = &container.readiness_probe else {
            return Ok(Vec::new());
        };
        let own = container.liveness_probe.as_ref();
        let own = own.and_then(|probe| probe.termination_grace_period_seconds);
        let own = own.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
        let grace = own
            .unwrap_or(Duration::MAX)
            .min(facts.left()?)
            .min(lameduck_kubernetes::NO_DELETION_CAP);
        let (drain, budget) = (facts.drain(), facts.budget(grace));
        let mut room =
            (budget.route_end - budget.t0).saturating_sub(drain.settle.saturating_add(drain.quiet));
        let by_clock = facts.may("endpointslices") == Some(false);
        if by_clock {
            room = room.min(drain.fallback_wait.saturating_sub(drain.settle));
        }
        let flip = flip(probe);
        when(flip > room, || {
            let how = match by_clock {
                true => "the wait by the clock, which is all there is without permission to look,",
                false => "the wait for the end of routing",
            };
            let happens = format!(
                "Where the container is restarted without a deletion, the endpoint stays for {} (periodSeconds × \
                 failureThreshold), and {how} has room for {} of that before settle and quiet: clients that \
                 are told to leave come back.",
                shown(flip),
                shown(room),
            );
            let remedy = match flip > FASTEST {
                true => "Set readinessProbe.periodSeconds to 1 and failureThreshold to 2.",
                false if by_clock => {
                    "Give the ServiceAccount what permission-missing names, or raise fallback-wait."
                }
                false => {
                    "Raise terminationGracePeriodSeconds, and that of the livenessProbe where it has one."
                }
            };
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const LIVENESS_ON_READYZ: Check = Check {
    id: "liveness-on-readyz",
    severity: Severity::Problem,
    fine: "Liveness does not depend on readiness.",
    run: |facts| {
        let container = facts.template.as_ref()?.container();
        let probe = container.liveness_probe.as_ref();
        let follows = probe
            .and_then(path)
            .is_some_and(|path| path == "/readyz" || path == "/startupz");
        when(follows, || {
            let happens = "A pod that is not ready is killed instead of left alone: while it recovers its queue \
                           at start, and in a drain that no deletion began, which is cut short, with its jobs."
                .to_owned();
            Trouble::own(facts, happens, "Set livenessProbe.httpGet.path to /livez.")
        })
    },
};

fn path(probe: &Probe) -> Option<&str> {
    let get = probe.http_get.as_ref()?;
    let path = get.path.as_deref().unwrap_or("/");
    Some(path.split('?').next().unwrap_or(path))
}
