//! What goes wrong, scripted for a verb and a resource.

use std::time::Duration;

use super::store::{Resource, Verb};

/// Which requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct On {
    pub verb: Option<Verb>,
    pub resource: Option<Resource>,
}

/// What they meet.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A `Status` with this code.
    Status(u16),
    /// 429, with this `Retry-After` in seconds.
    Throttled(u64),
    /// 403, worded as RBAC words it.
    Forbidden,
    /// The request is taken and never answered.
    Mute,
    /// The answer begins, and never ends.
    Stalled,
    /// A watch says that the version is too old.
    Gone(Gone),
    /// A watch begins and ends.
    CloseAtOnce,
    /// A watch begins, sends a bookmark, and ends.
    BookmarkAndClose,
    /// Not JSON.
    Garbage,
    /// The answer comes, but late.
    Delay(Duration),
    /// The same, and by then it is out of date.
    Stale(Duration),
}

/// A version that is too old is told in two ways.
#[derive(Clone, Copy, Debug)]
pub enum Gone {
    /// HTTP 410.
    Status,
    /// HTTP 200 and an `ERROR` event: what watch caches do.
    Event,
}

#[derive(Default)]
pub struct Faults(Vec<Scripted>);

struct Scripted {
    on: On,
    fault: Fault,
    left: Option<usize>,
}

// === impl On ===

impl On {
    pub const ALL: Self = Self {
        verb: None,
        resource: None,
    };

    pub fn verb(verb: Verb, resource: Resource) -> Self {
        Self {
            verb: Some(verb),
            resource: Some(resource),
        }
    }

    pub fn resource(resource: Resource) -> Self {
        Self {
            verb: None,
            resource: Some(resource),
        }
    }

    fn matches(self, verb: Verb, resource: Resource) -> bool {
        self.verb.is_none_or(|of| of == verb) && self.resource.is_none_or(|of| of == resource)
    }
}

// === impl Faults ===

impl Faults {
    pub fn add(&mut self, on: On, fault: Fault, left: Option<usize>) {
        self.0.push(Scripted { on, fault, left });
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault that this request meets.
    pub fn next(&mut self, verb: Verb, resource: Resource) -> Option<Fault> {
        let found = self
            .0
            .iter_mut()
            .find(|s| s.left != Some(0) && s.on.matches(verb, resource))?;
        found.left = found.left.map(|left| left - 1);
        Some(found.fault.clone())
    }
}
