//! Who still routes here, as the EndpointSlices say it. No I/O here.
//!
//! For each Service the EndpointSlice controller keeps slices of (mostly) a hundred endpoints, one set for
//! each address family, and moves endpoints between them as it likes. An endpoint has three conditions
//! (`staging/src/k8s.io/endpointslice/utils.go`, `podToEndpoint`; KEP-1669, KEP-1672):
//!
//! ```text
//!                    serving = the Pod's readiness
//!                    terminating = the Pod has a deletionTimestamp
//!                    ready = publishNotReadyAddresses || (serving && !terminating)
//!
//!   pod serves      deleted, readiness probe still succeeds   probe fails       pod gone
//!   ready           -                                         -                 the address
//!   serving         serving   (kube-proxy's last resort)      -                 vanishes
//!   -               terminating                               terminating
//! ```
//!
//! So a deleted pod stays in its slices until it is gone, and **"gone" means not ready**. Three rules follow:
//!
//! - A missing `ready` means true; a missing `serving` means what `ready` means.
//! - `ready` together with `terminating`, or without `serving`, is only possible where the Service
//!   publishes addresses that aren't ready. It will route here until the end: it is not waited for. The
//!   slices show this as soon as an ordinary endpoint would have gone, so the Service itself need not
//!   be read for it.
//! - An entry that vanished while it was ready may have moved to another slice. Until a new list has
//!   said so, it counts as routed.
//!
//! What is kept of a slice is a handful of numbers ([`SliceFacts`]), not its thousand endpoints.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

use super::pod::Replacement;
use lameduck_lifecycle::{Endpoints, Peers};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// By what the own endpoints are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Me {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) addresses: Vec<String>,
    pub(super) node: Option<String>,
    pub(super) replacement: Replacement,
}

/// What one slice says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SliceFacts {
    pub(super) name: String,
    pub(super) service: String,
    pub(super) own: Option<Own>,
    others: Others,
    /// An endpoint is ready that could not be, were it not for `publishNotReadyAddresses`.
    publishes_unready: bool,
}

/// The own endpoint in one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    ready: bool,
    serving: bool,
}

/// The other endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Others {
    any: usize,
    ready: usize,
    ready_on_this_node: usize,
}

/// What a Service adds to its slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Traffic that reaches a node stays there (`internalTrafficPolicy`, `externalTrafficPolicy`).
    pub(super) local: bool,
}

/// All that is known of the slices that hold, or held, this pod.
#[derive(Debug, Default)]
pub(super) struct Slices {
    me: Me,
    /// The slices that hold this pod, or did.
    own: BTreeMap<String, SliceFacts>,
    /// The Services that hold this pod, or did.
    services: BTreeMap<String, Held>,
}

/// A Service that holds this pod, or did.
#[derive(Clone, Debug, Default)]
struct Held {
    standing: Standing,
    serving: bool,
    /// In slices of it that do not hold this pod, as of the last list.
    elsewhere: Others,
    publishes_unready: bool,
    policy: Option<Policy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Routed,
    /// It was ready when it was last seen, and is in no slice that is watched.
    Vanished,
    Gone,
}

/// What the lifecycle is told, and what to do to know more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) endpoints: Endpoints,
    pub(super) peers: Peers,
    /// Each Service that is waited for, and whether it still routes here.
    pub(super) services: BTreeMap<String, bool>,
    /// Only a new list can say whether these still route here.
    pub(super) vanished: bool,
    /// The peers depend on whether these Services keep traffic on its node.
    pub(super) ask: BTreeSet<String>,
}

// === impl SliceFacts ===

impl SliceFacts {
    pub(super) fn read(slice: &EndpointSlice, me: &Me) -> Self {
        let name = slice.metadata.name.clone().unwrap_or_default();
        let service = slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_NAME));
        let mut facts = Self {
            // A slice without a Service is a Service of its own: somebody routes by it.
            service: service.unwrap_or(&name).clone(),
            name,
            ..Self::default()
        };
        for endpoint in slice.endpoints.as_list() {
            facts.add(endpoint, me);
        }
        facts
    }

    fn add(&mut self, endpoint: &Endpoint, me: &Me) {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        self.publishes_unready |= ready && (terminating || !serving);
        if me.is(endpoint) {
            let own = self.own.get_or_insert_default();
            own.ready |= ready;
            own.serving |= serving;
            return;
        }
        let here = me.node.is_some() && endpoint.node_name == me.node;
        let usable = ready && serving && !terminating;
        self.others.any += 1;
        self.others.ready += usize::from(usable);
        self.others.ready_on_this_node += usize::from(usable && here);
    }
}

/// The type of a list that may be absent depends on the Kubernetes version that the program chose for
/// k8s-openapi; a library must build with each.
trait AsList<T> {
    fn as_list(&self) -> &[T];
}

impl<T> AsList<T> for Vec<T> {
    fn as_list(&self) -> &[T] {
        self
    }
}

impl<T> AsList<T> for Option<Vec<T>> {
    fn as_list(&self) -> &[T] {
        self.as_deref().unwrap_or_default()
    }
}

// === impl Me ===

impl Me {
    /// A uid decides; an address only where there is none, for host-network pods share theirs.
    fn is(&self, endpoint: &Endpoint) -> bool {
        let target = endpoint.target_ref.as_ref();
        match (target.and_then(|target| target.uid.as_ref()), &self.uid) {
            (Some(theirs), Some(ours)) => theirs == ours,
            (Some(_), None) => target.is_some_and(|target| {
                target.kind.as_deref() == Some("Pod")
                    && target.name.as_deref() == Some(&self.name)
                    && target.namespace.as_deref() == Some(&self.namespace)
            }),
            (None, _) => {
                let mut addresses = endpoint.addresses.iter();
                addresses.any(|address| self.addresses.contains(address))
            }
        }
    }
}

// === impl Policy ===

impl Policy {
    pub(super) fn read(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let local = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Local");
        Self {
            local: spec.is_some_and(|spec| {
                local(spec.internal_traffic_policy.as_ref())
                    || local(spec.external_traffic_policy.as_ref())
            }),
        }
    }
}

// === impl Slices ===

impl Slices {
    pub(super) fn new(me: Me) -> Self {
        Self {
            me,
            ..Self::default()
        }
    }

    pub(super) fn me(&self) -> &Me {
        &self.me
    }

    /// Takes a whole list; what is not in it does not exist.
    pub(super) fn listed(&mut self, all: Vec<SliceFacts>) {
        for slice in all.iter().filter(|slice| slice.own.is_some()) {
            self.services.entry(slice.service.clone()).or_default();
        }
        for held in self.services.values_mut() {
            held.elsewhere = Others::default();
        }
        let known = std::mem::take(&mut self.own);
        for slice in all {
            let Some(held) = self.services.get_mut(&slice.service) else {
                continue;
            };
            held.publishes_unready |= slice.publishes_unready;
            if slice.own.is_some() || known.contains_key(&slice.name) {
                self.own.insert(slice.name.clone(), slice);
            } else {
                held.elsewhere.add(slice.others);
            }
        }
        self.stand(Standing::Gone);
    }

    /// A slice that is watched is now this.
    pub(super) fn applied(&mut self, slice: SliceFacts) {
        let held = self.services.entry(slice.service.clone()).or_default();
        held.publishes_unready |= slice.publishes_unready;
        self.own.insert(slice.name.clone(), slice);
        self.stand(Standing::Vanished);
    }

    /// A slice that is watched is no more.
    pub(super) fn deleted(&mut self, name: &str) {
        self.own.remove(name);
        self.stand(Standing::Vanished);
    }

    /// The own Pod is gone, and with it whatever entry is in no slice that is watched.
    pub(super) fn pod_is_gone(&mut self) {
        self.stand(Standing::Gone);
    }

    pub(super) fn policy(&mut self, service: &str, policy: Policy) {
        if let Some(held) = self.services.get_mut(service) {
            held.policy = Some(policy);
        }
    }

    /// The slices that hold this pod.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own.values().filter(|slice| slice.own.is_some());
        own.map(|slice| slice.name.as_str())
    }

    /// What all of it comes to.
    pub(super) fn view(&self) -> View {
        let mut view = View {
            endpoints: Endpoints::InNone,
            peers: Peers::Ready,
            ..View::default()
        };
        for (name, held) in &self.services {
            if held.publishes_unready {
                continue;
            }
            let routed = held.standing != Standing::Gone;
            view.vanished |= held.standing == Standing::Vanished;
            view.services.insert(name.clone(), routed);
            view.endpoints = match (view.endpoints, routed) {
                (_, true) | (Endpoints::Routed, _) => Endpoints::Routed,
                _ => Endpoints::Removed,
            };
            if held.serving || routed {
                match self.peers(name, held) {
                    Some(peers) => view.peers = worse(view.peers, peers),
                    None => drop(view.ask.insert(name.clone())),
                }
            }
        }
        if !view.ask.is_empty() && view.peers == Peers::Ready {
            view.peers = Peers::Unknown;
        }
        view
    }

    /// Who else could take this Service's traffic; `None` where that depends on its traffic policy.
    fn peers(&self, service: &str, held: &Held) -> Option<Peers> {
        let mut others = held.elsewhere;
        for slice in self.own.values().filter(|slice| slice.service == service) {
            others.add(slice.others);
        }
        let policy = match self.me.node {
            Some(_) => held.policy,
            None => Some(Policy::default()),
        };
        if others.ready_on_this_node > 0 {
            return Some(Peers::Ready);
        }
        if others.ready > 0 {
            return policy.map(|policy| match policy.local {
                true => self.alone(&others),
                false => Peers::Ready,
            });
        }
        Some(self.alone(&others))
    }

    /// Nobody else is ready. Another may come, unless there is none at all and none is started before this
    /// one is gone. Other replicas, ready or not, are in the slices, so their absence tells the replica count.
    fn alone(&self, others: &Others) -> Peers {
        match self.me.replacement {
            Replacement::Late if others.any == 0 => Peers::NeverAny,
            _ => Peers::NoneReady,
        }
    }

    /// Where each Service stands now; `vanished` is what an absent entry means.
    fn stand(&mut self, vanished: Standing) {
        for (name, held) in &mut self.services {
            let slices = self.own.values().filter(|slice| slice.service == *name);
            let own: Vec<Own> = slices.filter_map(|slice| slice.own).collect();
            held.serving = own.iter().any(|own| own.serving);
            held.standing = match (own.is_empty(), held.standing) {
                (false, _) if own.iter().any(|own| own.ready) => Standing::Routed,
                (false, _) | (true, Standing::Gone) => Standing::Gone,
                (true, _) => vanished,
            };
        }
    }
}

/// Readiness is held for a Service where another endpoint may come; see [`Peers`].
fn worse(one: Peers, other: Peers) -> Peers {
    match (one, other) {
        (Peers::NoneReady, _) | (_, Peers::NoneReady) => Peers::NoneReady,
        (Peers::NeverAny, _) | (_, Peers::NeverAny) => Peers::NeverAny,
        _ => other,
    }
}

impl Others {
    fn add(&mut self, other: Self) {
        self.any += other.any;
        self.ready += other.ready;
        self.ready_on_this_node += other.ready_on_this_node;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn me() -> Me {
        Me {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: Some("u1".into()),
            addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
            node: Some("n1".into()),
            replacement: Replacement::Early,
        }
    }

    fn endpoint(uid: &str, node: &str, conditions: Value) -> Value {
        json!({"addresses": [format!("10.0.0.{}", &uid[1..])], "nodeName": node, "conditions": conditions,
               "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{}", &uid[1..]), "uid": uid}})
    }

    fn ready(uid: &str) -> Value {
        endpoint(
            uid,
            "n1",
            json!({"ready": true, "serving": true, "terminating": false}),
        )
    }

    fn going(uid: &str, serving: bool) -> Value {
        endpoint(
            uid,
            "n1",
            json!({"ready": false, "serving": serving, "terminating": true}),
        )
    }

    fn slice(name: &str, service: &str, endpoints: &[Value]) -> SliceFacts {
        slice_for(&me(), name, service, endpoints)
    }

    fn slice_for(me: &Me, name: &str, service: &str, endpoints: &[Value]) -> SliceFacts {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {SERVICE_NAME: service}},
            "addressType": "IPv4", "endpoints": endpoints,
        }))
        .expect("a slice");
        SliceFacts::read(&slice, me)
    }

    fn view(slices: Vec<SliceFacts>) -> View {
        let mut state = Slices::new(me());
        state.listed(slices);
        state.view()
    }

    #[test]
    fn what_a_list_means() {
        let old = |conditions| endpoint("u1", "n1", conditions);
        let by_address = json!({"addresses": ["fd00::1"], "conditions": {}});
        let not_by_address =
            json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "uid": "u9"}});
        let unready = old(json!({"ready": true, "serving": true, "terminating": true}));
        let rows = [
            (
                "in no slice",
                vec![slice("a", "s", &[ready("u2")])],
                Endpoints::InNone,
                Peers::Ready,
            ),
            ("no slice at all", vec![], Endpoints::InNone, Peers::Ready),
            (
                "ready, with a peer",
                vec![slice("a", "s", &[ready("u1"), ready("u2")])],
                Endpoints::Routed,
                Peers::Ready,
            ),
            (
                "the last one",
                vec![slice("a", "s", &[ready("u1")])],
                Endpoints::Routed,
                Peers::NoneReady,
            ),
            (
                "terminating",
                vec![slice("a", "s", &[going("u1", true), ready("u2")])],
                Endpoints::Removed,
                Peers::Ready,
            ),
            (
                "terminating peers are none",
                vec![slice("a", "s", &[going("u1", true), going("u2", true)])],
                Endpoints::Removed,
                Peers::NoneReady,
            ),
            (
                "no longer serving: nobody depends on it",
                vec![slice("a", "s", &[going("u1", false)])],
                Endpoints::Removed,
                Peers::Ready,
            ),
            (
                "nothing said means ready",
                vec![slice("a", "s", &[old(json!({})), ready("u2")])],
                Endpoints::Routed,
                Peers::Ready,
            ),
            (
                "known by address",
                vec![slice("a", "s", &[by_address])],
                Endpoints::Routed,
                Peers::NoneReady,
            ),
            (
                "not known by address where there is a uid",
                vec![slice("a", "s", &[not_by_address])],
                Endpoints::InNone,
                Peers::Ready,
            ),
            (
                "both families",
                vec![
                    slice("a4", "s", &[going("u1", true)]),
                    slice("a6", "s", &[ready("u1"), ready("u2")]),
                ],
                Endpoints::Routed,
                Peers::Ready,
            ),
            (
                "peers in another slice",
                vec![
                    slice("a", "s", &[ready("u1")]),
                    slice("b", "s", &[ready("u2")]),
                ],
                Endpoints::Routed,
                Peers::Ready,
            ),
            (
                "peers in another Service are none",
                vec![
                    slice("a", "s", &[ready("u1")]),
                    slice("b", "t", &[ready("u2")]),
                ],
                Endpoints::Routed,
                Peers::NoneReady,
            ),
            (
                "one Service still routes",
                vec![
                    slice("a", "s", &[going("u1", true), ready("u2")]),
                    slice("b", "t", &[ready("u1"), ready("u2")]),
                ],
                Endpoints::Routed,
                Peers::Ready,
            ),
            (
                "publishes what is not ready",
                vec![slice("a", "s", std::slice::from_ref(&unready))],
                Endpoints::InNone,
                Peers::Ready,
            ),
            (
                "the same, beside an ordinary Service",
                vec![
                    slice("a", "s", &[unready]),
                    slice("b", "t", &[going("u1", true), ready("u2")]),
                ],
                Endpoints::Removed,
                Peers::Ready,
            ),
        ];
        for (name, slices, endpoints, peers) in rows {
            let view = view(slices);
            assert_eq!((view.endpoints, view.peers), (endpoints, peers), "{name}");
            assert!(!view.vanished, "{name}: a list leaves nothing open");
        }
    }

    #[test]
    fn an_entry_that_vanished_while_ready_counts_until_a_list_has_said_so() {
        let mut state = Slices::new(me());
        state.listed(vec![slice("a", "s", &[ready("u1"), ready("u2")])]);
        state.applied(slice("a", "s", &[ready("u2")]));
        let view = state.view();
        assert_eq!((view.endpoints, view.vanished), (Endpoints::Routed, true));

        state.listed(vec![
            slice("a", "s", &[ready("u2")]),
            slice("b", "s", &[ready("u1")]),
        ]);
        assert_eq!(state.names().collect::<Vec<_>>(), ["b"]);
        let view = state.view();
        assert_eq!((view.endpoints, view.vanished), (Endpoints::Routed, false));

        state.deleted("b");
        assert!(state.view().vanished);
        state.listed(vec![slice("a", "s", &[ready("u2")])]);
        let view = state.view();
        assert_eq!((view.endpoints, view.vanished), (Endpoints::Removed, false));
        assert_eq!(view.services, BTreeMap::from([("s".to_owned(), false)]));
    }

    #[test]
    fn an_entry_that_vanished_when_it_was_gone_leaves_nothing_open() {
        let mut state = Slices::new(me());
        state.listed(vec![slice("a", "s", &[going("u1", true), ready("u2")])]);
        state.deleted("a");
        let view = state.view();
        assert_eq!((view.endpoints, view.vanished), (Endpoints::Removed, false));
    }

    #[test]
    fn a_publishing_service_is_found_out_when_the_others_go() {
        let mut state = Slices::new(me());
        state.listed(vec![
            slice("a", "s", &[ready("u1")]),
            slice("b", "t", &[ready("u1")]),
        ]);
        assert_eq!(state.view().endpoints, Endpoints::Routed);
        let publishing = endpoint(
            "u1",
            "n1",
            json!({"ready": true, "serving": true, "terminating": true}),
        );
        state.applied(slice("a", "s", &[publishing]));
        state.applied(slice("b", "t", &[going("u1", true)]));
        let view = state.view();
        assert_eq!(view.endpoints, Endpoints::Removed);
        assert!(!view.services.contains_key("s"), "{view:?}");
    }

    #[test]
    fn one_of_one_never_waits_for_another() {
        let alone = Me {
            replacement: Replacement::Late,
            ..me()
        };
        let peers = |endpoints: &[Value]| {
            let mut state = Slices::new(alone.clone());
            state.listed(vec![slice_for(&alone, "a", "s", endpoints)]);
            state.view().peers
        };
        assert_eq!(peers(&[ready("u1")]), Peers::NeverAny);
        let starting = endpoint(
            "u2",
            "n2",
            json!({"ready": false, "serving": false, "terminating": false}),
        );
        assert_eq!(peers(&[ready("u1"), starting]), Peers::NoneReady);
    }

    #[test]
    fn a_local_traffic_policy_counts_only_this_node() {
        let elsewhere = endpoint("u2", "n2", json!({"ready": true, "serving": true}));
        let slices = vec![slice("a", "s", &[ready("u1"), elsewhere])];
        let mut state = Slices::new(me());
        state.listed(slices);
        let view = state.view();
        assert_eq!(view.peers, Peers::Unknown);
        assert_eq!(view.ask, BTreeSet::from(["s".to_owned()]));
        state.policy("s", Policy { local: true });
        assert_eq!(state.view().peers, Peers::NoneReady);
        state.policy("s", Policy { local: false });
        assert_eq!(state.view().peers, Peers::Ready);
    }
}
