//! Checks the permissions without which a drain waits for a fixed time instead of observing the cluster.

use super::super::facts::Facts;
use super::{super::finding::Severity, Answer, Check, Trouble, Unread, when};

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) const TOKEN_NOT_MOUNTED: Check = Check {
    id: "token-not-mounted",
    severity: Severity::Warning,
    fine: "The pod has a token for the API server.",
    run: token_not_mounted,
};

fn token_not_mounted(facts: &Facts) -> Answer {
    let template = facts.template.as_ref()?;
    let mounted = |container: &k8s_openapi::api::core::v1::Container| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.mount_path == TOKEN)
    };
    let refused = match template.spec.automount_service_account_token {
        _ if mounted(template.container()) => false,
        Some(automount) => !automount,
        // Then the ServiceAccount's setting decides, and its effect is visible on the pods.
        None => {
            let own = &template.container().name;
            let pods = facts
                .pods
                .as_ref()?
                .iter()
                .filter_map(|pod| pod.spec.as_ref());
            let mut own = pods
                .flat_map(|spec| &spec.containers)
                .filter(|c| c.name == *own);
            own.any(|container| !mounted(container))
        }
    };
    when(refused, || {
        let happens =
            "No token is mounted, so a drain may not look: it waits by the clock, and goes by the \
                       setting grace."
                .to_owned();
        let remedy = "Set spec.template.spec.automountServiceAccountToken to true.";
        Trouble::own(facts, happens, remedy)
    })
}

pub(super) const MISSING: Check = Check {
    id: "permission-missing",
    severity: Severity::Warning,
    fine: "The pod's ServiceAccount may read what a drain looks at.",
    run: |facts| {
        let mut found = Vec::new();
        let mut unread = None;
        for (rule, allowed) in &facts.rules {
            match allowed {
                Ok(true) => {}
                Ok(false) => {
                    let without = rule.without;
                    let happens = format!("The ServiceAccount may not {rule}: {without}.");
                    let group = rule.group;
                    let remedy = format!(
                        "Add to its Role: apiGroups [\"{group}\"], resources [\"{}\"], verbs [\"{}\"].",
                        rule.resource, rule.verb,
                    );
                    found.push(Trouble::with(&account(facts), happens, remedy));
                }
                Err(why) => unread = Some(why),
            }
        }
        match unread {
            Some(why) if found.is_empty() => Err(Unread {
                why: why.why.clone(),
                denied: why.denied.clone(),
                remedy: "Run it in the pod, or with a kubeconfig that may create SubjectAccessReviews, or list Roles and RoleBindings.",
            }),
            _ => Ok(found),
        }
    },
};

fn account(facts: &Facts) -> String {
    let template = facts.template.as_ref().ok();
    let name = template.and_then(|t| t.spec.service_account_name.as_deref());
    format!("ServiceAccount/{}", name.unwrap_or("default"))
}
