//! The requests of the Kubernetes observer, and when it sends them.
//!
//! ```text
//!  start                      T0                    lame duck over       teardown     reporting
//!  │ may I? rules, one GET,   │ own Pod: GET, then watch it ──────────────┤            │ Event
//!  │ one LIST of one;         │ EndpointSlices: list, then watch ─┤
//!  │ then nothing             │ Event
//! ```
//!
//! Before T0 a pod costs the API server three requests in its whole life. If ten thousand pods each kept a watch
//! on a large Service, the API server would have to send every change to each of them.

mod endpoints;
mod pod;
mod refusal;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::api::ListParams;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::refusal::Meaning;
use super::{
    Identity, Kubernetes,
    access::Access,
    api::{Api, ApiError},
    backoff::Backoff,
    deletion_cost,
    events::{Event, EventObject},
    metrics::Metrics,
    permissions::{
        self, CREATE_EVENTS, GET_PODS, GET_SERVICES, LIST_SLICES, Rule, WATCH_PODS, WATCH_SLICES,
    },
    pod::{Owner, PodFacts},
    slices::Me,
};
use lameduck_lifecycle::{Cause, Drain, DrainReport, Endpoints, Moment, Place, Unobservable};

/// How long the API server may fail to answer before it is reported as unavailable.
const SILENCE: Duration = Duration::from_secs(2);

/// Maximum time that the first Event waits for the cause of the drain to be known.
const KNOW_WHY: Duration = Duration::from_secs(1);

/// Maximum time by which the last Event may delay the end.
const TELL_THE_END: Duration = Duration::from_secs(1);

/// Maximum number of attempts to create an Event.
const TELLINGS: usize = 3;

/// State that all parts of the Kubernetes observer share.
pub(super) struct Room {
    pub(super) api: Api,
    pub(super) drain: Drain,
    metrics: Metrics,
    pub(super) identity: Identity,
    no_deletion_cap: Option<Duration>,
    deletion_cost: bool,
    /// The current knowledge about the own Pod.
    me: watch::Sender<Known>,
    warned: Mutex<BTreeSet<Rule>>,
    /// Whether it was logged that the token is refused.
    told_of_token: AtomicBool,
    /// Cancelled once it is known that the Pod no longer exists.
    gone: CancellationToken,
}

/// Knowledge about the own Pod.
#[derive(Clone, Debug)]
struct Known {
    me: Me,
    /// The StatefulSet that makes the next Pod of this name.
    stateful_set: Option<Owner>,
    /// Whether the Pod has been read, or never will be.
    settled: bool,
    /// Whether the Pod has been read.
    seen: bool,
}

/// Runs for the life of the process.
pub(super) async fn run(
    kubernetes: Kubernetes,
    drain: Drain,
    metrics: Metrics,
    shared: &OnceLock<Arc<Room>>,
) {
    let room = match Room::new(kubernetes, &drain, metrics.clone()) {
        Ok(room) => shared.get_or_init(|| Arc::new(room)).clone(),
        Err(why) => return blind(&drain, &metrics, &why).await,
    };
    tokio::select! {
        biased;
        () = drain.reached(Moment::Began) => {}
        () = async { room.check_permissions().await; room.serve().await } => {}
    }
    tokio::join!(
        pod::follow(&room),
        endpoints::follow(&room),
        room.tell_of_the_start()
    );
}

/// Returns where this process runs, for the report.
fn place(me: &Me) -> Place {
    Place {
        pod: Some(me.name.clone()).filter(|name| !name.is_empty()),
        node: me.node.clone(),
    }
}

/// Stands in for the observer in a cluster whose API server can't be asked.
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
            deletion_cost,
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
        drain.set_place(place(&me));
        let known = Known {
            me,
            stateful_set: None,
            settled: false,
            seen: false,
        };
        Ok(Self {
            api: api.map_err(|error| error.to_string())?,
            drain: drain.clone(),
            metrics,
            identity,
            no_deletion_cap,
            deletion_cost,
            me: watch::Sender::new(known),
            warned: Mutex::default(),
            told_of_token: AtomicBool::new(false),
            gone: CancellationToken::new(),
        })
    }

    /// Does the work that is due until a drain begins.
    async fn serve(&self) {
        if self.deletion_cost {
            deletion_cost::follow(self).await;
        }
        self.drain.reached(Moment::Began).await;
    }

    /// Warns at start of permissions that a drain would lack, while there is still time to fix them.
    async fn check_permissions(&self) {
        self.review_rules().await;
        let one = ListParams::default().limit(1);
        let (pod, slices) = tokio::join!(
            self.api.get::<Pod>(&self.identity.name),
            self.api.list::<EndpointSlice>(&one),
        );
        // Log one line for the token, not one for each rule that it is refused for.
        let refused = [pod.as_ref().err(), slices.as_ref().err()];
        let refused = refused
            .into_iter()
            .flatten()
            .find(|e| e.is_unauthenticated());
        if let Some(error) = refused.filter(|_| !self.api.was_accepted()) {
            return self.say_of_the_token(
                error,
                "none of its requests was ever accepted (is it a token of this cluster, for this audience?)",
            );
        }
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

    /// Logs all missing rules in one line, if the API server can list the rules.
    async fn review_rules(&self) {
        let status = match self.api.own_rules().await {
            Ok(status) => status,
            Err(error) => {
                tracing::debug!(%error, "the API server does not say which rules there are");
                return;
            }
        };
        let missing = permissions::missing(&status.resource_rules, &self.identity.name);
        if status.incomplete || missing.is_empty() {
            return;
        }
        self.warned().extend(&missing);
        let without: Vec<&str> = missing.iter().map(|rule| rule.without).collect();
        tracing::warn!(
            namespace = self.api.namespace(),
            rules = permissions::remedy(&missing),
            "missing permission: the service account's Role lacks these rules; without them: {}",
            without.join("; "),
        );
    }

    /// Creates an Event on the own Pod when a drain has begun, as soon as the cause is known.
    async fn tell_of_the_start(&self) {
        let mut causes = self.drain.causes();
        let known = causes.wait_for(|cause| cause.is_some_and(|cause| cause != Cause::Unknown));
        // An unknown cause is reported as well.
        let _ = timeout(KNOW_WHY, known).await;
        let Some(plan) = self.drain.plan() else {
            return;
        };
        let cause = self.drain.causes().borrow().unwrap_or_default();
        let left = plan.deadline.saturating_duration_since(Instant::now());
        let event = Event::started(
            self.drain.id(),
            cause.known(),
            left.as_secs_f64(),
            &self.drain.load(),
        );
        self.tell(&event).await;
    }

    /// Creates an Event on the own Pod when a drain has ended, and a copy on the StatefulSet that makes the next Pod:
    /// a Pod of the same name hides this one's Events from `kubectl describe pod`.
    pub(super) async fn tell_of_the_end(&self, report: &DrainReport) {
        let event = Event::ended(report);
        let owner = self.me.borrow().stateful_set.clone();
        let tell_the_owner = async {
            if let Some(owner) = owner {
                let object = event.on_owner(self.drain.id(), &self.identity, &owner);
                self.create(&object).await;
            }
        };
        // This is the last thing that the process has to do.
        let both = async { tokio::join!(self.tell(&event), tell_the_owner) };
        if timeout(TELL_THE_END, both).await.is_err() {
            tracing::debug!("no Event about the drain's end: no answer in time");
        }
    }

    async fn tell(&self, event: &Event) {
        let uid = self.me.borrow().me.uid.clone();
        let object = event.on_pod(self.drain.id(), &self.identity, uid.as_deref());
        self.create(&object).await;
    }

    async fn create(&self, object: &EventObject) {
        let mut backoff = Backoff::new();
        for _ in 0..TELLINGS {
            match self.api.create_event(object).await {
                Ok(()) => return,
                // The answer to an earlier attempt was lost: the Event already exists.
                Err(error) if error.is_conflict() => return,
                Err(error) => match self.understand(CREATE_EVENTS, &error).await {
                    Meaning::Passing => sleep(backoff.after(&error)).await,
                    Meaning::Denied | Meaning::PodGone => return,
                },
            }
        }
    }

    fn warned(&self) -> MutexGuard<'_, BTreeSet<Rule>> {
        self.warned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the facts of the own Pod; `false` if this is another Pod of the same name.
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
                known.stateful_set.clone_from(&pod.stateful_set);
                if !pod.addresses.is_empty() {
                    me.addresses.clone_from(&pod.addresses);
                }
            }
        });
        self.drain.set_place(place(&self.me.borrow().me));
        ours
    }

    /// Records that nothing more will be learned about the own Pod.
    fn settle(&self) {
        self.me.send_modify(|known| known.settled = true);
    }

    /// Warns of a missing rule once. Logs other errors at `debug`, because the retrying caller reports the outcome.
    pub(super) fn complain(&self, rule: Rule, error: &ApiError) {
        if !error.is_denied() {
            tracing::debug!(verb = rule.verb, resource = rule.resource, %error, "no answer from the API server");
            return;
        }
        if self.warned().insert(rule) {
            let Rule {
                verb,
                group,
                resource,
                without,
                ..
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
