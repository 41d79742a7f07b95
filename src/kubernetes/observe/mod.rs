//! What this room does, and when.
//!
//! ```text
//!  start                      T0                    lame duck over       teardown
//!  │ may I? one GET, one LIST │ own Pod: GET, then watch it ──────────────┤
//!  │ of one; then nothing     │ EndpointSlices: list, then watch ─┤
//! ```
//!
//! Before T0 a pod costs the API server two requests in its whole life. Ten thousand pods that each kept a
//! watch on a large Service would cost it a copy of every change to each of them.

mod endpoints;
mod pod;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::api::ListParams;
use tokio::sync::watch;

use super::{
    Identity, Kubernetes,
    access::Access,
    api::{Api, ApiError},
    metrics::Metrics,
    pod::PodFacts,
    slices::Me,
};
use crate::lifecycle::{Drain, Endpoints, Moment, Unobservable};

/// For how long nobody may answer before it is said that nobody does.
const SILENCE: Duration = Duration::from_secs(2);

/// What all parts of the room share.
struct Room {
    api: Api,
    drain: Drain,
    metrics: Metrics,
    identity: Identity,
    no_deletion_cap: Option<Duration>,
    /// What is known of the own Pod.
    me: watch::Sender<Known>,
    warned: Mutex<BTreeSet<Rule>>,
}

/// What is known of the own Pod.
#[derive(Clone, Debug)]
struct Known {
    me: Me,
    /// It has been read, or never will be.
    settled: bool,
    /// It has been read.
    seen: bool,
}

/// An RBAC rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    /// What is lost without it.
    without: &'static str,
}

const GET_PODS: Rule = Rule {
    verb: "get",
    group: "",
    resource: "pods",
    without: "the cause and the deadline of a termination are not known, only the setting `grace`",
};
const WATCH_PODS: Rule = Rule {
    verb: "watch",
    group: "",
    resource: "pods",
    without: "a grace period that is shortened by a second delete is seen up to two seconds late",
};
const LIST_SLICES: Rule = Rule {
    verb: "list",
    group: "discovery.k8s.io",
    resource: "endpointslices",
    without: "a drain waits by the clock (`fallback_wait`) instead of until nobody routes here",
};
const WATCH_SLICES: Rule = Rule {
    verb: "watch",
    ..LIST_SLICES
};
const GET_SERVICES: Rule = Rule {
    verb: "get",
    group: "",
    resource: "services",
    without: "the readiness policy `auto` takes every Service for one that routes to all nodes",
};

/// Runs for the life of the process.
pub(super) async fn run(kubernetes: Kubernetes, drain: Drain, metrics: Metrics) {
    let room = match Room::new(kubernetes, &drain, metrics.clone()) {
        Ok(room) => Arc::new(room),
        Err(why) => return blind(&drain, &metrics, &why).await,
    };
    tokio::select! {
        biased;
        () = drain.reached(Moment::Began) => {}
        () = async { room.check_permissions().await; drain.reached(Moment::Began).await } => {}
    }
    tokio::join!(pod::follow(&room), endpoints::follow(&room));
}

/// In a cluster, with no way to ask it anything.
async fn blind(drain: &Drain, metrics: &Metrics, why: &str) {
    tracing::warn!(
        why,
        "no access to the Kubernetes API (automountServiceAccountToken?): a drain goes by the clock"
    );
    drain.reached(Moment::Began).await;
    let endpoints = Endpoints::Unobservable(Unobservable::NoPermission);
    metrics.endpoints(endpoints);
    drain.observe_endpoints(endpoints);
}

// === impl Room ===

impl Room {
    fn new(kubernetes: Kubernetes, drain: &Drain, metrics: Metrics) -> Result<Self, String> {
        let Kubernetes {
            access,
            identity,
            no_deletion_cap,
            ..
        } = kubernetes;
        let config = match access {
            Access::Config(config) => *config,
            Access::Refused(why) => return Err(why),
        };
        let api = Api::new(config, &identity.namespace, metrics.clone());
        let me = Me {
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
            addresses: identity.addresses.clone(),
            node: identity.node.clone(),
            ..Me::default()
        };
        let known = Known {
            me,
            settled: false,
            seen: false,
        };
        Ok(Self {
            api: api.map_err(|error| error.to_string())?,
            drain: drain.clone(),
            metrics,
            identity,
            no_deletion_cap,
            me: watch::Sender::new(known),
            warned: Mutex::default(),
        })
    }

    /// Says at start what would be missing at the end, while there is still time to put it right.
    async fn check_permissions(&self) {
        let one = ListParams::default().limit(1);
        let (pod, slices) = tokio::join!(
            self.api.get::<Pod>(&self.identity.name),
            self.api.list::<EndpointSlice>(&one),
        );
        match pod {
            Ok(answer) => {
                let container = self.identity.container.as_deref();
                self.learn(&PodFacts::read(&answer.object, container));
            }
            Err(error) if error.is_missing() => tracing::warn!(
                namespace = self.identity.namespace,
                pod = self.identity.name,
                "this process's own Pod is not there under this name; set POD_NAME and POD_NAMESPACE \
                 by the downward API"
            ),
            Err(error) => self.complain(GET_PODS, &error),
        }
        if let Err(error) = slices {
            self.complain(LIST_SLICES, &error);
        }
    }

    /// Takes over what the own Pod says of itself; `false` where it is another one of the same name.
    fn learn(&self, pod: &PodFacts) -> bool {
        let mut ours = true;
        self.me.send_modify(|known| {
            let me = &mut known.me;
            ours = me.uid.is_none() || pod.uid.is_none() || me.uid == pod.uid;
            known.settled = true;
            if ours {
                known.seen = true;
                me.uid = me.uid.take().or_else(|| pod.uid.clone());
                me.node = pod.node.clone().or_else(|| me.node.take());
                me.replacement = pod.replacement;
                if !pod.addresses.is_empty() {
                    me.addresses.clone_from(&pod.addresses);
                }
            }
        });
        ours
    }

    /// Nothing more is to be learned of the own Pod.
    fn settle(&self) {
        self.me.send_modify(|known| known.settled = true);
    }

    /// Warns of a missing rule once, of anything else at `debug`: who retries says in the end how it went.
    fn complain(&self, rule: Rule, error: &ApiError) {
        if !error.is_denied() {
            tracing::debug!(verb = rule.verb, resource = rule.resource, %error, "no answer from the API server");
            return;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(rule) {
            let Rule {
                verb,
                group,
                resource,
                without,
            } = rule;
            tracing::warn!(
                %error,
                "missing permission: the service account may not {verb} {resource} in API group '{group}' \
                 in namespace '{}'; without it {without}",
                self.api.namespace(),
            );
        }
    }
}
