//! Checks whether Services stop routing to an old pod, and start routing to its replacement.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

use super::{
    super::{
        facts::{Controller, Facts, is_selected, name, selector},
        finding::Severity,
        seen::NotSeen,
    },
    Check, Trouble,
};

pub(super) const PUBLISHES_UNREADY: Check = Check {
    id: "service-publishes-unready",
    severity: Severity::Problem,
    fine: "Every Service stops routing to a pod that is not ready.",
    run: |facts| {
        let services = facts.routing()?.into_iter();
        let publishing = services.filter(|service| {
            let spec = service.spec.as_ref();
            spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
        });
        let trouble = |service: &Service| {
            let happens = "It routes to the old pod until that is gone, and to the new one before it listens; a \
                           drain cannot wait for the end of it."
                .to_owned();
            let remedy = "Set spec.publishNotReadyAddresses to false; peers that must find each other early get a headless Service of their own, without this port.";
            Trouble::with(&shown(service), happens, remedy)
        };
        Ok(publishing.map(trouble).collect())
    },
};

/// Checks the Services meant for these pods, which are those named after the workload or selecting its current pods.
pub(super) const SELECTS_NOTHING: Check = Check {
    id: "service-selects-nothing",
    severity: Severity::Problem,
    fine: "The Services that are meant for these pods select them, before a rollout and after it.",
    run: |facts| {
        let template = facts.template.as_ref()?;
        let mut found = Vec::new();
        for service in facts.services.as_ref()? {
            let Some(wanted) = selector(service).filter(|labels| !labels.is_empty()) else {
                continue;
            };
            if is_selected(Some(wanted), &template.labels) {
                continue;
            }
            let today = of_today(facts, service);
            if today == 0 && !is_named_for(facts, service) {
                continue;
            }
            let differing: Vec<String> = wanted
                .iter()
                .filter(|(key, value)| template.labels.get(*key) != Some(value))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let happens = match today {
                0 => "It selects none of the pods: requests to it never reach them.".to_owned(),
                today => format!(
                    "It selects {today} pods of today and none that the next rollout makes: with the last of them \
                     goes the last endpoint."
                ),
            };
            let remedy = format!(
                "Set spec.selector of the Service to labels of the template, which has no {}.",
                differing.join(", ")
            );
            found.push(Trouble::with(&shown(service), happens, remedy));
        }
        Ok(found)
    },
};

/// When the last endpoint of a node goes, traffic to that node is lost until the load balancer has noticed.
pub(super) const LOCAL_TRAFFIC: Check = Check {
    id: "service-local-traffic",
    severity: Severity::Warning,
    fine: "No Service keeps traffic on a node with a single pod.",
    run: |facts| {
        let mut found = Vec::new();
        for service in facts.routing()? {
            let spec = service.spec.clone().unwrap_or_default();
            let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
            let field = match (
                local(&spec.external_traffic_policy),
                local(&spec.internal_traffic_policy),
            ) {
                (true, _) => "externalTrafficPolicy",
                (_, true) => "internalTrafficPolicy",
                _ => continue,
            };
            let lonely = lonely_nodes(facts)?;
            if lonely.is_empty() {
                continue;
            }
            let happens = format!(
                "{field} is Local and there is a single pod on {}: while it goes, what reaches that node is \
                 dropped until the load balancer, or the client, has noticed.",
                lonely.join(", ")
            );
            let remedy = format!(
                "Set spec.{field} to Cluster, or have two pods on each node that has one (topologySpreadConstraints)."
            );
            found.push(Trouble::with(&shown(service), happens, remedy));
        }
        Ok(found)
    },
};

fn lonely_nodes(facts: &Facts) -> Result<Vec<&str>, &NotSeen> {
    let mut nodes = BTreeMap::new();
    for pod in facts.pods.as_ref()? {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            *nodes.entry(node).or_insert(0) += 1;
        }
    }
    nodes.retain(|_, pods| *pods == 1);
    Ok(nodes.into_keys().collect())
}

fn of_today(facts: &Facts, service: &Service) -> usize {
    let pods = facts.pods.iter().flatten();
    let labels = pods.filter_map(|pod| pod.metadata.labels.as_ref());
    labels
        .filter(|labels| is_selected(selector(service), labels))
        .count()
}

fn is_named_for(facts: &Facts, service: &Service) -> bool {
    let (_, workload) = facts.workload.split_once('/').unwrap_or_default();
    let governing = match &facts.controller {
        Ok(Controller::StatefulSet(spec)) => spec.service_name.as_deref(),
        _ => None,
    };
    name(service) == workload || Some(name(service)) == governing
}

fn shown(service: &Service) -> String {
    format!("Service/{}", name(service))
}
