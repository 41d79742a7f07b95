//! The facts that a drain learns from outside: the cause, the deadline, and whether anybody still routes here.
//!
//! These are the lifecycle's own terms. It does not know who fills them in: the Kubernetes room, a test, or
//! somebody's own service registry.

use serde::Serialize;
use tokio::time::Instant;

/// Why the process must end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A signal came, and its cause is not known yet.
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
    /// The container is restarted or the node goes down; as far as anybody can see during the drain, the pod is
    /// not deleted.
    ContainerStopped,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Signal,
        Self::Requested,
        Self::Failed,
        Self::PodDeleted,
        Self::Disrupted,
        Self::ContainerStopped,
    ];

    /// Returns the word used in logs, metrics and the ledger.
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

    /// Returns the same word, or none while the cause is unknown, because that is not worth reporting.
    pub const fn known(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            cause => Some(cause.as_str()),
        }
    }
}

/// The instant of SIGKILL, and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// SIGKILL comes at this instant.
    pub at: Instant,
    /// The source of this instant.
    pub source: DeadlineSource,
}

/// The source of the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadlineSource {
    /// The setting `grace`.
    #[default]
    Settings,
    /// `deletionGracePeriodSeconds` of the process's own Pod.
    DeletionGracePeriod,
    /// `deletionTimestamp` of the process's own Pod, because a preStop hook used part of the grace period.
    DeletionTimestamp,
    /// `terminationGracePeriodSeconds` in the spec of the process's own Pod.
    PodSpec,
    /// A configured cap, because no deletion was seen.
    Cap,
}

impl DeadlineSource {
    /// All sources.
    pub const ALL: [Self; 5] = [
        Self::Settings,
        Self::DeletionGracePeriod,
        Self::DeletionTimestamp,
        Self::PodSpec,
        Self::Cap,
    ];

    /// Returns the word used in metrics and reports.
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

/// The state of this process's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoints {
    /// Nobody has looked yet, or the answer has not come yet.
    #[default]
    Unknown,
    /// At least one endpoint of this process is ready.
    Routed,
    /// There were endpoints of this process; none of them is ready any more.
    Removed,
    /// No Service selects this process.
    InNone,
    /// The endpoints can't be seen, for this reason.
    Unobservable(Unobservable),
}

/// Why endpoints can't be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unobservable {
    /// The API server answered 401, 403 or 404.
    NoPermission,
    /// There is no API server, or it gives no answer, or only errors.
    Unavailable,
    /// The Pod was deleted by force, and the API server no longer answers its process.
    PodGone,
}

/// The state of the other endpoints of this process's Services. The readiness policy `auto` depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peers {
    /// The state is not known yet.
    #[default]
    Unknown,
    /// In every Service, another endpoint is ready and not terminating.
    Ready,
    /// In some Service, this endpoint is the last one; another may come.
    NoneReady,
    /// In some Service, this endpoint is the only one, and no other will come before it is gone.
    NeverAny,
}

/// The load of all rooms together at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Open listeners.
    pub listeners: usize,
    /// Connections that came before [`Moment::Removed`](super::Moment::Removed).
    pub connections: usize,
    /// Requests on these connections, each until the last byte of its answer.
    pub requests: usize,
    /// Connections that came after [`Moment::Removed`](super::Moment::Removed).
    pub late_connections: usize,
    /// Requests on these late connections.
    pub late_requests: usize,
    /// The last time that the first request of a new connection came.
    pub last_new: Option<Instant>,
    /// Jobs that are reserved and not yet durably settled, including reservations under way.
    pub jobs: usize,
    /// Worker pools that have not yet given back, by process id, the jobs that they still held.
    pub pools: usize,
}

impl Load {
    /// Whether nobody is connected or can connect, and nothing runs. (Pools close later, see [`Load::pools`].)
    pub fn is_empty(&self) -> bool {
        self.listeners == 0
            && self.all_connections() == 0
            && self.all_requests() == 0
            && self.jobs == 0
    }

    /// Returns the number of all connections, late ones included.
    pub fn all_connections(&self) -> usize {
        self.connections + self.late_connections
    }

    /// Returns the number of all requests, late ones included.
    pub fn all_requests(&self) -> usize {
        self.requests + self.late_requests
    }
}
