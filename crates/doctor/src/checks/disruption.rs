//! Checks the PodDisruptionBudgets, which decide what a node drain does to these pods.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};

use super::{
    super::{
        facts::{Facts, scaled},
        finding::Severity,
    },
    Check, Trouble, when,
};

pub(super) const MISSING: Check = Check {
    id: "pdb-missing",
    severity: Severity::Warning,
    fine: "A PodDisruptionBudget counts the pods, or there is only one.",
    run: |facts| {
        let budgets = facts.counted_by()?;
        if !budgets.is_empty() {
            return Ok(Vec::new());
        }
        when(facts.replicas()? > 1, || {
            let happens = "Node drains may evict all replicas at once: until others are ready elsewhere nobody \
                           answers, and all jobs are given back at the same time."
                .to_owned();
            let remedy = "Make a PodDisruptionBudget with maxUnavailable 1 and unhealthyPodEvictionPolicy AlwaysAllow.";
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const BLOCKS: Check = Check {
    id: "pdb-blocks",
    severity: Severity::Problem,
    fine: "Node drains can evict a pod.",
    run: |facts| {
        let mut found = Vec::new();
        for budget in facts.counted_by()? {
            let spec = budget.spec.clone().unwrap_or_default();
            let Some(why) = never_allows(&spec, facts)? else {
                continue;
            };
            let happens = format!(
                "{why}: no pod may ever be evicted, so a node drain waits until somebody deletes the pod, or \
                 the node, by force."
            );
            let remedy = "Set spec.maxUnavailable to 1 and take minAvailable out: an evicted pod drains as any other.";
            found.push(Trouble::with(&named(budget), happens, remedy));
        }
        Ok(found)
    },
};

/// Returns why the budget allows no disruption even if all pods are healthy; `None` if it allows one.
fn never_allows(
    spec: &PodDisruptionBudgetSpec,
    facts: &Facts,
) -> Result<Option<String>, super::Unread> {
    if let Some(most) = &spec.max_unavailable {
        // Zero pods or zero percent stay zero for any number of replicas.
        let none = scaled(most, 100, true) <= 0;
        return Ok(none.then(|| "maxUnavailable is 0".to_owned()));
    }
    let Some(least) = &spec.min_available else {
        return Ok(None);
    };
    let replicas = facts.replicas()?;
    let kept = scaled(least, replicas, true);
    let blocks = replicas > 0 && kept >= replicas;
    Ok(blocks.then(|| format!("minAvailable keeps {kept} of {replicas}")))
}

/// With several budgets the eviction API returns an error (`pkg/registry/core/pod/storage/eviction.go`).
pub(super) const SEVERAL: Check = Check {
    id: "pdb-several",
    severity: Severity::Problem,
    fine: "At most one PodDisruptionBudget counts the pods.",
    run: |facts| {
        let budgets = facts.counted_by()?;
        when(budgets.len() > 1, || {
            let names: Vec<String> = budgets.iter().map(|budget| named(budget)).collect();
            let happens = format!(
                "{} count the same pods, which evictions answer with an error: a node drain waits until \
                 somebody deletes the pod, or the node, by force.",
                names.join(" and ")
            );
            Trouble::own(
                facts,
                happens,
                "Delete all but one, or set spec.selector so that each counts pods of its own.",
            )
        })
    },
};

pub(super) const UNHEALTHY: Check = Check {
    id: "pdb-unhealthy",
    severity: Severity::Warning,
    fine: "A pod that cannot get ready holds up no node drain.",
    run: |facts| {
        let budgets = facts.counted_by()?.into_iter();
        let strict = budgets.filter(|budget| {
            let spec = budget.spec.as_ref();
            spec.and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref())
                != Some("AlwaysAllow")
        });
        let trouble = |budget: &PodDisruptionBudget| {
            let happens = "A pod that cannot get ready may not be evicted where too few others are, so that a node \
                           drain waits for it for ever."
                .to_owned();
            Trouble::with(
                &named(budget),
                happens,
                "Set spec.unhealthyPodEvictionPolicy to AlwaysAllow.",
            )
        };
        Ok(strict.map(trouble).collect())
    },
};

fn named(budget: &PodDisruptionBudget) -> String {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    format!("PodDisruptionBudget/{name}")
}
