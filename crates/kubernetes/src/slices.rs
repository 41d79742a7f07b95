//! Derives from EndpointSlices who still routes to this pod. No I/O here.
//!
//! For each Service the EndpointSlice controller keeps slices of (mostly) a hundred endpoints, one set for
//! each address family, and moves endpoints between them at will. An endpoint has three conditions
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
//! A deleted pod therefore stays in its slices until it is gone, and **"gone" means not ready**. Three rules follow:
//!
//! - A missing `ready` means true; a missing `serving` has the value of `ready`.
//! - `ready` together with `terminating`, or without `serving`, is only possible if the Service publishes
//!   addresses that aren't ready. Such a Service routes here until the end, so it is not waited for. The
//!   slices show this as soon as an ordinary endpoint would have gone, so the Service itself need not
//!   be read for it.
//! - An entry that vanished while it was ready may have moved to another slice. It counts as routed until a
//!   new list shows where it is.
//!
//! Only a handful of numbers is kept of each slice ([`SliceFacts`]), not its thousand endpoints.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

use super::pod::Replacement;
use lameduck_lifecycle::{Endpoints, Peers};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The properties by which the own endpoints are recognized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Me {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) addresses: Vec<String>,
    pub(super) node: Option<String>,
    pub(super) replacement: Replacement,
}

/// The facts that are kept of one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SliceFacts {
    pub(super) name: String,
    pub(super) service: String,
    pub(super) own: Option<Own>,
    others: Others,
    /// Whether some endpoint is ready that could only be so by `publishNotReadyAddresses`.
    publishes_unready: bool,
}

/// The own endpoint in one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    ready: bool,
    serving: bool,
}

/// Numbers of endpoints that are not our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Others {
    any: usize,
    ready: usize,
    ready_on_this_node: usize,
}

/// The traffic policy of a Service, which its slices do not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Whether traffic that reaches a node stays there (`internalTrafficPolicy`, `externalTrafficPolicy`).
    pub(super) local: bool,
}

/// The current knowledge of the slices that hold, or held, this pod.
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
    /// The endpoints in the Service's slices that do not hold this pod, as of the last list.
    elsewhere: Others,
    publishes_unready: bool,
    policy: Option<Policy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Routed,
    /// The endpoint was ready when last seen, and is in none of the watched slices now.
    Vanished,
    Gone,
}

/// The result for the lifecycle, and the requests that would refine it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) endpoints: Endpoints,
    pub(super) peers: Peers,
    /// Each Service that is waited for, and whether it still routes here.
    pub(super) services: BTreeMap<String, bool>,
    /// Whether some entry has vanished, so that only a new list can show whether it still routes here.
    pub(super) vanished: bool,
    /// Services whose traffic policy must be known, because the peers depend on whether traffic stays on its node.
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
            // A slice without a Service counts as a Service of its own, because somebody routes by it.
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

/// A list that may be absent. Its type depends on the Kubernetes version that the program chose for
/// k8s-openapi, and a library must build with each of them.
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
    /// Returns whether the endpoint is ours. Addresses only count if it has no uid: host-network pods share theirs.
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

    /// Applies a complete list; slices that are not in it do not exist.
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

    /// Applies the new state of a watched slice.
    pub(super) fn applied(&mut self, slice: SliceFacts) {
        let held = self.services.entry(slice.service.clone()).or_default();
        held.publishes_unready |= slice.publishes_unready;
        self.own.insert(slice.name.clone(), slice);
        self.stand(Standing::Vanished);
    }

    /// Applies the deletion of a watched slice.
    pub(super) fn deleted(&mut self, name: &str) {
        self.own.remove(name);
        self.stand(Standing::Vanished);
    }

    /// Records that the own Pod is gone, and with it every entry that is in no watched slice.
    pub(super) fn pod_is_gone(&mut self) {
        self.stand(Standing::Gone);
    }

    pub(super) fn policy(&mut self, service: &str, policy: Policy) {
        if let Some(held) = self.services.get_mut(service) {
            held.policy = Some(policy);
        }
    }

    /// Returns the names of the slices that hold this pod.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own.values().filter(|slice| slice.own.is_some());
        own.map(|slice| slice.name.as_str())
    }

    /// Summarizes the slices into a view.
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

    /// Returns who else could take this Service's traffic; `None` if that depends on its unknown traffic policy.
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

    /// Returns the peers if no other endpoint is ready. Another may come, unless there is none at all and none is
    /// started before this one is gone. Slices list all replicas, ready or not, so none there means no other replica.
    fn alone(&self, others: &Others) -> Peers {
        match self.me.replacement {
            Replacement::Late if others.any == 0 => Peers::NeverAny,
            _ => Peers::NoneReady,
        }
    }

    /// Updates the standing of each Service; `vanished` is the standing of one without an own entry.
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

/// Returns the worse of two: readiness is held if another endpoint may come for either Service; see [`Peers`].
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
