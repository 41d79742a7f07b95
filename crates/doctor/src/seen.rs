//! The result of a read: a value, or why there is none.

use std::fmt;

use kube::Resource;

use lameduck_kubernetes::api::ApiError;

/// A value that was read, or why it was not.
pub(super) type Seen<T> = Result<T, NotSeen>;

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotSeen {
    /// One sentence, or the part of a sentence that follows a colon.
    pub(super) why: String,
    /// The refused request, if a rule in a Role would have allowed it.
    pub(super) denied: Option<Denied>,
}

/// A request that a rule in a Role would have allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Denied {
    group: String,
    resource: String,
    verb: &'static str,
}

// === impl NotSeen ===

impl NotSeen {
    /// Returns the reason for a failed request for objects of kind `K`.
    pub(super) fn asked<K>(verb: &'static str, what: impl fmt::Display, error: &ApiError) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        let done = match verb {
            "list" => "listed",
            _ => "read",
        };
        let denied = (error.code() == Some(403)).then(|| Denied {
            group: K::group(&()).into_owned(),
            resource: K::plural(&()).into_owned(),
            verb,
        });
        Self {
            why: format!("{what} cannot be {done}: {error}"),
            denied,
        }
    }
}

impl From<String> for NotSeen {
    fn from(why: String) -> Self {
        Self { why, denied: None }
    }
}

impl From<&str> for NotSeen {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

// === impl Denied ===

impl Denied {
    /// Returns the rule that would allow the request, as it is written in a Role.
    pub(super) fn rule(&self) -> String {
        let Self {
            group,
            resource,
            verb,
        } = self;
        format!("{{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}")
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            resource,
            verb,
        } = self;
        match group.as_str() {
            "" => write!(f, "{verb} {resource}"),
            group => write!(f, "{verb} {resource}.{group}"),
        }
    }
}
