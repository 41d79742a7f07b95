//! What a drain learns from outside: why it must go, until when, and who still routes here.
//!
//! These are the lifecycle's own terms. Who fills them in (the Kubernetes room, a test, somebody's own
//! service registry) is not known here.

use serde::Serialize;
use tokio::time::Instant;

/// Why the process must end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A signal came, and nobody has said yet what stands behind it.
    #[default]
    Unknown,
    /// A signal outside of Kubernetes: a terminal, a supervisor.
    Signal,
    /// The program itself asked for it.
    Requested,
    /// A part of the program failed.
    Failed,
    /// The pod was deleted: rollout, scale-down, `kubectl delete`.
    PodDeleted,
    /// The pod was deleted, and the control plane named a disruption: eviction, preemption, node drain.
    Disrupted,
    /// The container is restarted or the node goes down; the pod is not deleted, as far as anybody can
    /// see while it lasts.
    ContainerStopped,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Signal,
        Self::Requested,
        Self::Failed,
        Self::PodDeleted,
        Self::Disrupted,
        Self::ContainerStopped,
    ];

    /// The word used in logs, metrics and the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Signal => "signal",
            Self::Requested => "requested",
            Self::Failed => "failed",
            Self::PodDeleted => "pod_deleted",
            Self::Disrupted => "disrupted",
            Self::ContainerStopped => "container_stopped",
        }
    }

    /// The same word; none while nobody knows, because that is nothing to tell anybody.
    pub const fn known(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            cause => Some(cause.as_str()),
        }
    }
}

/// Until when, and who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// SIGKILL comes at this instant.
    pub at: Instant,
    /// Who said so.
    pub source: DeadlineSource,
}

/// Who said how long the process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadlineSource {
    /// The setting `grace`.
    #[default]
    Settings,
    /// `deletionGracePeriodSeconds` of the own Pod.
    DeletionGracePeriod,
    /// `deletionTimestamp` of the own Pod, because a preStop hook took its part of the grace period.
    DeletionTimestamp,
    /// `terminationGracePeriodSeconds` of the own Pod's spec.
    PodSpec,
    /// A configured cap, because no deletion was seen.
    Cap,
}

impl DeadlineSource {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Settings,
        Self::DeletionGracePeriod,
        Self::DeletionTimestamp,
        Self::PodSpec,
        Self::Cap,
    ];

    /// The word used in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::DeletionGracePeriod => "deletion_grace_period",
            Self::DeletionTimestamp => "deletion_timestamp",
            Self::PodSpec => "pod_spec",
            Self::Cap => "cap",
        }
    }
}

/// Who routes to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoints {
    /// Nobody has looked yet, or the answer is not there yet.
    #[default]
    Unknown,
    /// At least one endpoint of this process is ready.
    Routed,
    /// There were endpoints of this process; none of them is ready any more.
    Removed,
    /// No Service holds this process.
    InNone,
    /// It can't be seen, and why.
    Unobservable(Unobservable),
}

/// Why endpoints can't be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unobservable {
    /// 401, 403, 404.
    NoPermission,
    /// No API server, no answer, only errors.
    Unavailable,
    /// The Pod was deleted by force, and nobody answers its process any more.
    PodGone,
}

/// The other endpoints of the Services that this process is in; decides the readiness policy `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peers {
    /// Not known yet.
    #[default]
    Unknown,
    /// In every Service another endpoint is ready and not terminating.
    Ready,
    /// In some Service this endpoint is the last one; another may come.
    NoneReady,
    /// In some Service this endpoint is the only one, and no other will come before it is gone.
    NeverAny,
}

/// What the rooms carry at one instant, summed over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Listeners that are open.
    pub listeners: usize,
    /// Connections that came before [`Moment::Removed`](super::Moment::Removed).
    pub connections: usize,
    /// Requests on them, each until the last byte of its answer.
    pub requests: usize,
    /// Connections that came after it.
    pub late_connections: usize,
    /// Requests on them.
    pub late_requests: usize,
    /// The last time a request came over a connection that was new.
    pub last_new: Option<Instant>,
    /// Jobs that are reserved and not yet durably settled, reservations under way included.
    pub jobs: usize,
    /// Worker pools that have not yet given back, by process id, whatever they still held.
    pub pools: usize,
}

impl Load {
    /// Nobody is connected or could be, nothing runs. (Pools close later, see [`Load::pools`].)
    pub fn is_empty(&self) -> bool {
        self.listeners == 0
            && self.all_connections() == 0
            && self.all_requests() == 0
            && self.jobs == 0
    }

    /// Connections of any age.
    pub fn all_connections(&self) -> usize {
        self.connections + self.late_connections
    }

    /// Requests of any age.
    pub fn all_requests(&self) -> usize {
        self.requests + self.late_requests
    }
}
