//! Reads which permissions the namespace's Roles grant a ServiceAccount.
//!
//! This is a fallback. Authorizers only ever add permissions, so anything that a Role grants is granted. A permission
//! that no Role grants may still come from a ClusterRole or from elsewhere, so it is unknown.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, Subject};

use super::{facts::Rule, read::all, seen::Seen};
use lameduck_kubernetes::api::Api;

/// Returns the rules of all Roles that are bound to this account.
pub(super) async fn granted(api: &Api, account: &str) -> Seen<Vec<PolicyRule>> {
    let (bindings, roles) = tokio::join!(all::<RoleBinding>(api, None), all::<Role>(api, None));
    let namespace = api.namespace();
    let bound: Vec<String> = bindings?
        .into_iter()
        .filter(|binding| {
            let mut subjects = binding.subjects.iter().flatten();
            subjects.any(|subject| is_meant(subject, account, namespace))
        })
        .filter(|binding| binding.role_ref.kind == "Role")
        .map(|binding| binding.role_ref.name)
        .collect();
    let roles = roles?.into_iter();
    let roles = roles.filter(|role| {
        role.metadata
            .name
            .as_ref()
            .is_some_and(|n| bound.contains(n))
    });
    Ok(roles
        .flat_map(|role| role.rules.unwrap_or_default())
        .collect())
}

fn is_meant(subject: &Subject, account: &str, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "ServiceAccount" => {
            subject.name == account
                && subject.namespace.as_deref().unwrap_or(namespace) == namespace
        }
        "Group" => super::access::groups(namespace).contains(&subject.name),
        _ => false,
    }
}

/// Returns whether one of the granted rules allows what `rule` asks for.
pub(super) fn allow(granted: &[PolicyRule], rule: &Rule) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
    granted.iter().any(|granted| {
        let names = granted.resource_names.as_deref().unwrap_or_default();
        let groups = granted.api_groups.as_deref().unwrap_or_default();
        let either = [Some(rule.group), rule.or_group];
        let in_group = either.into_iter().flatten().any(|group| has(groups, group));
        in_group
            && has(
                granted.resources.as_deref().unwrap_or_default(),
                rule.resource,
            )
            && has(&granted.verbs, rule.verb)
            && (names.is_empty() || rule.name.as_ref().is_some_and(|name| names.contains(name)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_with_names_grants_only_these() {
        let rule = |name: Option<&str>| Rule {
            group: "",
            or_group: None,
            resource: "pods",
            verb: "get",
            without: "",
            name: name.map(str::to_owned),
        };
        for (granted, name, expected) in [
            (
                json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}),
                None,
                true,
            ),
            (
                json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
                Some("a"),
                true,
            ),
            (
                json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}),
                Some("a"),
                true,
            ),
            (
                json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}),
                None,
                false,
            ),
            (
                json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}),
                None,
                false,
            ),
            (
                json!({"apiGroups": ["apps"], "resources": ["pods"], "verbs": ["get"]}),
                None,
                false,
            ),
        ] {
            let granted: PolicyRule = serde_json::from_value(granted).expect("a rule");
            assert_eq!(
                allow(std::slice::from_ref(&granted), &rule(name)),
                expected,
                "{granted:?} {name:?}"
            );
        }
    }

    #[test]
    fn a_binding_means_the_account_of_this_namespace_and_its_groups() {
        for (subject, expected) in [
            (json!({"kind": "ServiceAccount", "name": "jobs"}), true),
            (
                json!({"kind": "ServiceAccount", "name": "jobs", "namespace": "shop"}),
                true,
            ),
            (
                json!({"kind": "ServiceAccount", "name": "jobs", "namespace": "other"}),
                false,
            ),
            (
                json!({"kind": "Group", "name": "system:serviceaccounts:shop"}),
                true,
            ),
            (json!({"kind": "User", "name": "jobs"}), false),
        ] {
            let subject: Subject = serde_json::from_value(subject).expect("a subject");
            assert_eq!(is_meant(&subject, "jobs", "shop"), expected, "{subject:?}");
        }
    }
}
