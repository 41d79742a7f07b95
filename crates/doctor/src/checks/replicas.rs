//! Checks how a rollout replaces pods.

use super::{
    super::{facts::Controller, finding::Severity},
    Check, Trouble,
    storage::embedded,
    when,
};

pub(super) const TAKES_ALL: Check = Check {
    id: "rollout-takes-all",
    severity: Severity::Problem,
    fine: "Pods are replaced one after the other; a single one that keeps its own queue leaves a gap of seconds in \
           which nobody takes in new jobs.",
    run: |facts| {
        let controller = facts.controller.as_ref()?;
        let Some((surge, unavailable)) = controller.rolling() else {
            return Ok(Vec::new());
        };
        let replicas = controller.replicas();
        // An embedded queue has one pod at a time, so there is a gap whichever way the pod is replaced.
        let gap_is_due = replicas == 1 && unavailable >= 1 && embedded(facts)?.is_some();
        when(
            replicas > 0 && unavailable >= replicas && !gap_is_due,
            || {
                let happens = format!(
                    "All {replicas} replicas may be taken away at once (maxSurge {surge}, maxUnavailable \
                 {unavailable}), and until new ones are ready every request is refused."
                );
                let remedy =
                    "Set spec.strategy to RollingUpdate with maxUnavailable 0 and maxSurge 1.";
                Trouble::own(facts, happens, remedy)
            },
        )
    },
};

pub(super) const HOST_PORTS: Check = Check {
    id: "host-ports",
    severity: Severity::Warning,
    fine: "Old and new pods do not fight for a node's ports.",
    run: |facts| {
        let template = facts.template.as_ref()?;
        let host = template.spec.host_network == Some(true);
        let ports = template
            .spec
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().flatten());
        let taken: Vec<String> = ports
            .filter_map(|port| port.host_port.or(host.then_some(port.container_port)))
            .filter(|port| *port > 0)
            .map(|port| port.to_string())
            .collect();
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let controller = facts.controller.as_ref()?;
        let surge = match controller {
            Controller::StatefulSet(_) => false,
            Controller::Deployment(_) => controller.rolling().is_some_and(|(surge, _)| surge > 0),
        };
        when(surge, || {
            let happens = format!(
                "A new pod needs a node where the ports {} are free, and maxSurge starts it while the old ones \
                 still have them: with no node to spare the rollout never ends.",
                taken.join(", "),
            );
            let remedy = "Take hostNetwork and hostPort out, or set spec.strategy.rollingUpdate.maxSurge to 0.";
            Trouble::own(facts, happens, remedy)
        })
    },
};
