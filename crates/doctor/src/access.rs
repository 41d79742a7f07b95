//! Asks the API server what the pod's ServiceAccount may do.
//!
//! Everybody may ask about their own permissions (`system:basic-user`). Asking about another account requires the
//! permission to create SubjectAccessReviews, which administrators have. If that is refused, Roles are read
//! instead ([`roles`]), which the owner of a single namespace may do.

use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};

use super::{
    facts::Rule,
    roles,
    seen::{NotSeen, Seen},
};
use lameduck_kubernetes::{
    api::{Api, ApiError},
    permissions,
};

/// The account whose permissions are examined.
pub(super) enum Subject {
    /// The account that sends the requests.
    Own,
    /// The ServiceAccount with this name.
    Account(String),
}

/// Returns the rules that a drain uses, with the Pod's name, since a Role may be restricted to it.
pub(super) fn rules(pod: Option<&str>) -> Vec<Rule> {
    let rules = permissions::ALL.iter();
    rules
        .map(|rule| Rule {
            group: rule.group,
            or_group: rule.or_group,
            resource: rule.resource,
            verb: rule.verb,
            without: rule.without,
            name: pod.filter(|_| rule.own_pod).map(str::to_owned),
        })
        .collect()
}

/// Asks whether each rule is granted.
pub(super) async fn review(
    api: &Api,
    subject: &Subject,
    rules: Vec<Rule>,
) -> Vec<(Rule, Seen<bool>)> {
    let asked = rules.into_iter().map(|rule| async move {
        let mut allowed = ask(api, subject, rule.group, &rule).await;
        if let (Ok(false), Some(group)) = (&allowed, rule.or_group) {
            allowed = ask(api, subject, group, &rule).await;
        }
        // No rule in a Role can allow such reviews, because they are not namespaced.
        let allowed = allowed.map_err(|error| {
            NotSeen::from(match subject {
                Subject::Own => format!("Whether this pod may {rule} is not known: {error}"),
                Subject::Account(name) => {
                    format!("Whether the ServiceAccount {name} may {rule} is not known: {error}")
                }
            })
        });
        (rule, allowed)
    });
    let mut reviewed = join_all(asked).await;
    if let Subject::Account(account) = subject
        && reviewed.iter().any(|(_, allowed)| allowed.is_err())
        && let Ok(granted) = roles::granted(api, account).await
    {
        for (rule, allowed) in &mut reviewed {
            if allowed.is_err() && roles::allow(&granted, rule) {
                *allowed = Ok(true);
            }
        }
    }
    reviewed
}

/// Returns the groups that every ServiceAccount of this namespace belongs to.
pub(super) fn groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ]
}

async fn ask(api: &Api, subject: &Subject, group: &str, rule: &Rule) -> Result<bool, ApiError> {
    let namespace = api.namespace();
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(rule.resource.to_owned()),
        verb: Some(rule.verb.to_owned()),
        name: rule.name.clone(),
        ..ResourceAttributes::default()
    };
    let status = match subject {
        Subject::Own => {
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview {
                spec,
                ..SelfSubjectAccessReview::default()
            };
            api.create(&review).await?.status
        }
        Subject::Account(name) => {
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: Some(format!("system:serviceaccount:{namespace}:{name}")),
                groups: Some(groups(namespace)),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview {
                spec,
                ..SubjectAccessReview::default()
            };
            api.create(&review).await?.status
        }
    };
    let status = status.ok_or_else(|| ApiError::Invalid("a review without a status".to_owned()))?;
    Ok(status.allowed)
}
