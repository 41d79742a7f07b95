//! The RBAC rules that this crate uses, what is lost without each, and how a missing one is reported.
//!
//! At start the API server is asked once for the rules that the service account has in its namespace
//! (`SelfSubjectRulesReview`, which everybody may create), while there is still time to add missing ones.
//! Some authorizers can't list their rules; then a missing rule shows up when it is needed.

use k8s_openapi::api::authorization::v1::ResourceRule;

/// An RBAC rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The verb that the rule allows.
    pub verb: &'static str,
    /// The API group of the resource.
    pub group: &'static str,
    /// The resource, in the plural.
    pub resource: &'static str,
    /// The consequence of the rule being missing.
    pub without: &'static str,
    /// Whether the rule is needed only for the own Pod.
    pub own_pod: bool,
    /// Another API group in which the rule serves equally well.
    pub or_group: Option<&'static str>,
}

pub(super) const GET_PODS: Rule = Rule {
    verb: "get",
    group: "",
    resource: "pods",
    without: "the cause and the deadline of a termination are not known, only the setting `grace`",
    own_pod: true,
    or_group: None,
};
pub(super) const WATCH_PODS: Rule = Rule {
    verb: "watch",
    without: "a grace period that is shortened by a second delete is seen up to two seconds late",
    ..GET_PODS
};
pub(super) const LIST_SLICES: Rule = Rule {
    verb: "list",
    group: "discovery.k8s.io",
    resource: "endpointslices",
    without: "a drain waits by the clock (`fallback_wait`) instead of until nobody routes here",
    own_pod: false,
    or_group: None,
};
pub(super) const WATCH_SLICES: Rule = Rule {
    verb: "watch",
    ..LIST_SLICES
};
pub(super) const GET_SERVICES: Rule = Rule {
    verb: "get",
    group: "",
    resource: "services",
    without: "the readiness policy `auto` takes every Service for one that routes to all nodes",
    own_pod: false,
    or_group: None,
};
pub(super) const CREATE_EVENTS: Rule = Rule {
    verb: "create",
    group: "events.k8s.io",
    resource: "events",
    without: "`kubectl describe pod` does not tell of the drain",
    own_pod: false,
    // Both groups have the same objects. In the core group they also carry `lastTimestamp`.
    or_group: Some(""),
};

/// The rule for the pod deletion cost. Not checked at start, since it is needed only if that feature is on.
pub(super) const PATCH_PODS: Rule = Rule {
    verb: "patch",
    without: "a scale-down does not know which pods are idle",
    ..GET_PODS
};

/// All rules that every drain uses.
pub const ALL: [Rule; 6] = [
    GET_PODS,
    WATCH_PODS,
    LIST_SLICES,
    WATCH_SLICES,
    GET_SERVICES,
    CREATE_EVENTS,
];

/// Returns those of [`ALL`] that the granted rules do not include.
pub(super) fn missing(granted: &[ResourceRule], pod: &str) -> Vec<Rule> {
    let mut missing = ALL.to_vec();
    missing.retain(|rule| {
        !granted
            .iter()
            .any(|granted| rule.is_granted_by(granted, pod))
    });
    missing
}

/// Returns the missing rules as they are written in a Role, in one line that can be copied.
pub(super) fn remedy(missing: &[Rule]) -> String {
    let mut rules: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for rule in missing {
        match rules
            .iter_mut()
            .find(|(g, r, _)| (*g, *r) == (rule.group, rule.resource))
        {
            Some((_, _, verbs)) => verbs.push(rule.verb),
            None => rules.push((rule.group, rule.resource, vec![rule.verb])),
        }
    }
    let rules = rules.iter().map(|(group, resource, verbs)| {
        let verbs = verbs.join(", ");
        format!("{{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verbs}]}}")
    });
    rules.collect::<Vec<_>>().join(", ")
}

// === impl Rule ===

impl Rule {
    fn is_granted_by(&self, granted: &ResourceRule, pod: &str) -> bool {
        let has = |given: &Option<Vec<String>>, wanted: &str| {
            let given = given.iter().flatten();
            given
                .into_iter()
                .any(|given| given == "*" || given == wanted)
        };
        let names = granted.resource_names.as_deref().unwrap_or_default();
        let named = names.is_empty() || (self.own_pod && names.iter().any(|name| name == pod));
        let groups = [Some(self.group), self.or_group];
        named
            && granted
                .verbs
                .iter()
                .any(|verb| verb == "*" || verb == self.verb)
            && groups
                .into_iter()
                .flatten()
                .any(|group| has(&granted.api_groups, group))
            && has(&granted.resources, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(group: &str, resource: &str, verbs: &[&str], names: &[&str]) -> ResourceRule {
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ResourceRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(vec![resource.to_owned()]),
            resource_names: (!names.is_empty()).then(|| strings(names)),
            verbs: strings(verbs),
        }
    }

    #[test]
    fn what_is_granted_by_name_by_star_or_in_parts_is_not_missing() {
        let everything = [rule("*", "*", &["*"], &[])];
        assert_eq!(missing(&everything, "web-1"), []);
        let parts = [
            rule("", "pods", &["get", "watch"], &["web-1"]),
            rule("discovery.k8s.io", "*", &["list"], &[]),
            rule("discovery.k8s.io", "endpointslices", &["watch"], &[]),
            rule("", "services", &["get"], &[]),
            rule("events.k8s.io", "events", &["create"], &[]),
        ];
        assert_eq!(missing(&parts, "web-1"), []);
        assert_eq!(missing(&parts, "web-2"), [GET_PODS, WATCH_PODS]);
        // Events are the same objects in both groups.
        let core = [rule("", "events", &["create"], &[])];
        assert!(!missing(&core, "web-1").contains(&CREATE_EVENTS));
        let other = [rule("apps", "events", &["create"], &[])];
        assert!(missing(&other, "web-1").contains(&CREATE_EVENTS));
        // A list can't be restricted by name, because a controller generates the names.
        let named = [rule(
            "discovery.k8s.io",
            "endpointslices",
            &["*"],
            &["web-abc"],
        )];
        assert!(missing(&named, "web-1").contains(&LIST_SLICES));
    }

    #[test]
    fn the_remedy_can_be_copied_into_a_role() {
        assert_eq!(
            remedy(&[GET_PODS, WATCH_PODS, CREATE_EVENTS]),
            "{apiGroups: [\"\"], resources: [pods], verbs: [get, watch]}, \
             {apiGroups: [\"events.k8s.io\"], resources: [events], verbs: [create]}"
        );
    }
}
