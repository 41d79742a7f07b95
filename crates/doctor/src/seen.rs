//! Something that was read, or why it was not.

use std::fmt;

use kube::Resource;

use lameduck_kubernetes::api::ApiError;

/// Something that was read, or why it was not.
pub(super) type Seen<T> = Result<T, NotSeen>;

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotSeen {
    /// One sentence, or the part of one that follows a colon.
    pub(super) why: String,
    /// The request that was refused, where a rule in a Role would have allowed it.
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
    /// A request for objects of this kind did not succeed.
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
    /// The rule that would allow it, as it stands in a Role.
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
