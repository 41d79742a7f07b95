//! Learns from Kubernetes why this pod must end, by when, and who still routes to it.
//!
//! A termination, as Kubernetes runs it:
//!
//! ```text
//!   somebody deletes the Pod: rollout, scale-down, eviction, kubectl
//!        │
//!        ├──▶ API server:  deletionTimestamp, deletionGracePeriodSeconds
//!        │        │
//!        │        ├──▶ EndpointSlice controller ──▶ ready=false, terminating=true ──▶ every kube-proxy,
//!        │        │                                                                  ingress, mesh, DNS
//!        │        └──▶ kubelet ──▶ preStop hook ──▶ SIGTERM ┄┄ grace period ┄┄▶ SIGKILL
//! ```
//!
//! The two branches are independent of each other. SIGTERM often comes first, and a program that then closes
//! its listener refuses connections that the rest of the cluster still sends. A drain must therefore read its
//! own Pod, to learn its deadline, and the EndpointSlices, to learn when the other branch has finished. This
//! crate does that and reports to the lifecycle, which decides what to do.
//!
//! | file | subject |
//! | --- | --- |
//! | `identity`, `access` | which Pod this is; how to reach the API server |
//! | `token` | the claims of the pod's own token: its Pod, its expiry |
//! | `pod` | cause and deadline, from a Pod; a table and arithmetic, no I/O |
//! | `slices` | who routes here, from EndpointSlices; no I/O |
//! | `observe` | when to send which request, and what to do without an answer |
//! | `api`, `watch`, `backoff` | requests that are bounded in time and size |
//! | `deletion_cost` | which pod a scale-down takes first |
//! | `events`, `termination` | the drain as `kubectl describe pod` shows it |
//! | `permissions` | the rules below, and how a missing one is reported |
//!
//! # Permissions
//!
//! ```yaml
//! rules:
//!   - { apiGroups: [""], resources: [pods], verbs: [get, watch] }
//!   - { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch] }
//!   - { apiGroups: [""], resources: [services], verbs: [get] }    # optional
//!   - { apiGroups: ["", events.k8s.io], resources: [events], verbs: [create] }    # optional
//! ```
//!
//! All of them apply to the pod's own namespace. Without the first, cause and deadline come from the settings;
//! with `get` alone, a second delete is seen up to two seconds late. Without the second, the endpoint wait has a
//! fixed length. The third only matters to the readiness policy `auto`, for Services whose traffic stays on its
//! node. Without the fourth, `kubectl describe pod` does not show the drain. A missing rule never causes a
//! failure; it is logged once, at start if it can be detected then.
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), lameduck_lifecycle::Error> {
//! use lameduck_kubernetes::{Kubernetes, ObserveKubernetes as _};
//! use lameduck_lifecycle::Lifecycle;
//!
//! Lifecycle::builder()
//!     .kubernetes(Kubernetes::in_cluster())
//!     .run()
//!     .await?;
//! # Ok(())
//! # }
//! ```

pub mod access;
pub mod api;
mod backoff;
mod deletion_cost;
mod events;
pub mod fault;
mod identity;
mod metrics;
mod observe;
pub mod permissions;
mod pod;
mod slices;
mod termination;
mod token;
mod watch;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use self::{access::Access, metrics::Metrics, termination::TerminationLog};
pub use self::{
    identity::Identity,
    pod::{DEFAULT_GRACE, MINIMUM_GRACE},
};
use lameduck_lifecycle::Lifecycle;

/// Default for the longest drain that is not caused by a deletion.
///
/// A SIGTERM without a deletion is either a container restart, which leaves the whole grace period, or a node
/// shutdown, which does not and is only reported afterwards: kubelets are given tens of seconds for a shutdown
/// (the documentation's example leaves 20 s to ordinary pods). Kubernetes' default grace period is 30 s, so this
/// cap affects only pods that asked for more; they lose progress in a restart, and nothing in a shutdown.
pub const NO_DELETION_CAP: Duration = Duration::from_secs(30);

/// Observes the own Pod and its EndpointSlices; hand it to [`ObserveKubernetes::kubernetes`].
#[derive(Clone, Debug)]
#[must_use = "it observes nothing until it is part of a lifecycle"]
pub struct Kubernetes {
    access: Access,
    identity: Identity,
    no_deletion_cap: Option<Duration>,
    termination_log: TerminationLog,
    deletion_cost: bool,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Returns an observer that uses the service account and the downward API (see [`Identity`]); `None`
    /// outside of a cluster, where there is nothing to observe.
    ///
    /// A cluster whose API can't be used (for example because no token is mounted) is still a cluster: the drain
    /// then waits for a fixed time, and a warning says why.
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `LAMEDUCK_TERMINATION_LOG` | where the termination message goes, if `terminationMessagePath` is set |
    /// | `LAMEDUCK_KUBERNETES_API` | another API server's URL, for development and tests |
    /// | `LAMEDUCK_SERVICE_ACCOUNT_DIR` | another directory with `token`, `namespace` and `ca.crt`, for the same |
    pub fn in_cluster() -> Option<Self> {
        let env = |name: &str| std::env::var(name).ok();
        let (access, namespace) = access::find(env)?;
        let identity = Identity::from_env(env, &namespace, hostname);
        let identity = identity.completed_by(&access);
        let mut kubernetes = Self::new(access, identity);
        if let Some(path) = env("LAMEDUCK_TERMINATION_LOG") {
            kubernetes = kubernetes.termination_log(path);
        }
        Some(kubernetes)
    }

    /// Returns an observer that uses the given client configuration.
    pub fn with_config(config: kube::Config, identity: Identity) -> Self {
        Self::new(Access::Config(Box::new(config)), identity)
    }

    fn new(access: Access, identity: Identity) -> Self {
        Self {
            access,
            identity,
            no_deletion_cap: Some(NO_DELETION_CAP),
            termination_log: TerminationLog::Default,
            deletion_cost: false,
        }
    }

    /// Sets the longest drain that is not caused by a deletion; 30 s by default, `None` for the Pod's grace period.
    ///
    /// If nodes are stopped under running pods, as spot instances are, set it to the time that the kubelets give
    /// ordinary pods at a shutdown (`shutdownGracePeriod` less `shutdownGracePeriodCriticalPods`).
    pub fn no_deletion_cap(mut self, cap: impl Into<Option<Duration>>) -> Self {
        self.no_deletion_cap = cap.into();
        self
    }

    /// Keeps the Pod's annotation `controller.kubernetes.io/pod-deletion-cost` at 1000 while requests or jobs
    /// run and at 0 while none do, so that the scale-down of a ReplicaSet takes idle pods first. Off by
    /// default; needs `patch` on pods, and costs a write for each change, at most one in ten seconds.
    pub fn pod_deletion_cost(mut self, on: bool) -> Self {
        self.deletion_cost = on;
        self
    }

    /// Sets the file for the termination message; by default `/dev/termination-log`, if the kubelet has created it.
    pub fn termination_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.termination_log = TerminationLog::Path(path.into());
        self
    }
}

/// Returns the name of this host, which in a pod is the Pod's name unless its spec sets another.
pub fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

/// Adds the observation of the own Pod to a [`Lifecycle`].
pub trait ObserveKubernetes: Sized {
    /// Learns cause, deadline and endpoint removal from Kubernetes, and writes the drain report as the
    /// container's termination message. Does nothing if `kubernetes` is `None`.
    fn kubernetes(self, kubernetes: impl Into<Option<Kubernetes>>) -> Self;
}

impl ObserveKubernetes for Lifecycle {
    fn kubernetes(self, kubernetes: impl Into<Option<Kubernetes>>) -> Self {
        let Some(kubernetes) = kubernetes.into() else {
            return self;
        };
        let drain = self.drain().clone();
        let metrics = Metrics::register(drain.registry());
        let log = kubernetes.termination_log.clone();
        let room = Arc::new(OnceLock::new());
        let shared = room.clone();
        let observer = async move {
            observe::run(kubernetes, drain, metrics, &shared).await;
            Ok::<_, Infallible>(())
        };
        self.is_observed()
            .background("kubernetes", observer)
            .on_report("Event", move |report| async move {
                if let Some(room) = room.get() {
                    room.tell_of_the_end(&report).await;
                }
                Ok::<_, Infallible>(())
            })
            .on_report("termination message", move |report| async move {
                log.write(&report).await
            })
    }
}
