//! A Role, what it allows, and reviews of it.

use serde_json::{Value, json};

use super::{FakeApi, NAMESPACE, Resource, Shared, Verb};

/// Who may what.
#[derive(Default)]
pub struct Access {
    /// What reviews go by: everything is allowed where there are none.
    rules: Option<Value>,
    /// Requests go by them too.
    enforced: bool,
    /// The specs of the reviews that were asked for.
    reviewed: Vec<Value>,
}

// === impl FakeApi ===

impl FakeApi {
    /// Reviews are answered by these rules of a Role; whoever asks may still do everything.
    pub fn set_rules(&self, rules: Value) {
        self.shared.access().rules = Some(rules);
    }

    /// Whoever asks has these rules, and may review itself as everybody may.
    pub fn enforce_rules(&self, rules: Value) {
        let mut access = self.shared.access();
        access.rules = Some(rules);
        access.enforced = true;
    }

    /// The specs of the reviews so far.
    pub fn reviewed(&self) -> Vec<Value> {
        self.shared.access().reviewed.clone()
    }
}

// === impl Shared ===

impl Shared {
    fn access(&self) -> std::sync::MutexGuard<'_, Access> {
        self.access.lock().expect("a lock")
    }

    pub fn is_allowed(&self, verb: Verb, resource: Resource, name: Option<&str>) -> bool {
        let access = self.access();
        if !access.enforced || resource == Resource::SelfSubjectAccessReviews {
            return true;
        }
        let (version, plural, _) = resource.names();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let verb = format!("{verb:?}").to_lowercase();
        access.allows(group, plural, &verb, name)
    }

    /// The review with its status.
    pub fn review(&self, resource: Resource, body: &[u8]) -> Value {
        let mut review: Value = serde_json::from_slice(body).expect("a review");
        let mut access = self.access();
        access.reviewed.push(review["spec"].clone());
        let asked = &review["spec"]["resourceAttributes"];
        assert_eq!(
            asked["namespace"], NAMESPACE,
            "a review of another namespace"
        );
        let word = |key: &str| asked[key].as_str().unwrap_or_default();
        let allowed = access.allows(
            word("group"),
            word("resource"),
            word("verb"),
            asked["name"].as_str(),
        );
        let (version, _, kind) = resource.names();
        review["apiVersion"] = json!(version);
        review["kind"] = json!(kind);
        review["status"] = json!({"allowed": allowed});
        review
    }
}

// === impl Access ===

impl Access {
    fn allows(&self, group: &str, resource: &str, verb: &str, name: Option<&str>) -> bool {
        let Some(rules) = &self.rules else {
            return true;
        };
        let has = |list: &Value, wanted: &str| {
            list.as_array()
                .is_some_and(|l| l.iter().any(|v| v == wanted))
        };
        rules.as_array().into_iter().flatten().any(|rule| {
            let names = &rule["resourceNames"];
            has(&rule["apiGroups"], group)
                && has(&rule["resources"], resource)
                && has(&rule["verbs"], verb)
                && (names.is_null() || name.is_some_and(|name| has(names, name)))
        })
    }
}
