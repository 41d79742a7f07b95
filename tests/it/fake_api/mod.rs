//! A Kubernetes API server, small and faithful: real HTTP, real paging, real watches, a version of its own.
//!
//! It knows Pods, EndpointSlices, Services and whatever else `Resource` lists, and does with them what a client can tell apart: quorum and
//! versioned reads, `limit` and `continue`, `fieldSelector` and `labelSelector`, chunked watches with
//! bookmarks, `sendInitialEvents`, `timeoutSeconds`, versions that have been compacted away, `Status` bodies,
//! bearer tokens that end with their Pod, a `Date` that may be wrong, a Role and reviews of it ([`rbac`]). What it does not do is decide anything: pods are deleted and
//! endpoints moved by the test, with [`controller`] doing what the EndpointSlice controller would.
//!
//! Faults ([`faults`]) are scripted for a verb and a resource. Every request is [logged](FakeApi::requests).
//!
//! That it is faithful is itself tested: kube's own `watcher` runs against it.
#![allow(dead_code, reason = "a double shared by several test modules")]

mod controller;
mod create;
mod faults;
mod rbac;
mod serve;
mod store;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::{
    controller::pod,
    faults::{Fault, Gone, On},
    store::{Resource, Verb},
};
use self::{faults::Faults, store::Store};

/// The namespace that everything is in.
pub const NAMESPACE: &str = "shop";

/// A running API server; it stops when this is dropped.
pub struct FakeApi {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// What handlers see.
pub struct Shared {
    store: Mutex<Store>,
    /// The store's version, or the log's length, has changed.
    changed: watch::Sender<u64>,
    faults: Mutex<Faults>,
    log: Mutex<Vec<Logged>>,
    logged: watch::Sender<usize>,
    token: Mutex<Option<String>>,
    /// Name and uid of the Pod that whoever asks is: without it every request is refused.
    bound: Mutex<Option<(String, String)>>,
    /// The Role is one that knows Events only in `events.k8s.io`.
    no_core_events: AtomicBool,
    rules: Mutex<Option<Vec<Value>>>,
    skew: AtomicI64,
    access: Mutex<rbac::Access>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Logged {
    pub verb: Verb,
    pub resource: Resource,
    pub name: Option<String>,
    pub query: Vec<(String, String)>,
    /// Bytes of the answer's body so far.
    pub bytes: usize,
}

// === impl FakeApi ===

impl FakeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api = Self {
            address: listener.local_addr().expect("bound"),
            shared: Arc::new(Shared {
                store: Mutex::default(),
                changed: watch::Sender::new(0),
                faults: Mutex::default(),
                log: Mutex::default(),
                logged: watch::Sender::new(0),
                token: Mutex::default(),
                bound: Mutex::default(),
                no_core_events: AtomicBool::new(false),
                rules: Mutex::default(),
                skew: AtomicI64::new(0),
                access: Mutex::default(),
            }),
            server: Mutex::default(),
        };
        api.serve(listener);
        api
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How a client in a test reaches it.
    pub fn config(&self) -> kube::Config {
        kube::Config::new(self.url().parse().expect("a URL"))
    }

    /// What a Pod finds under `/var/run/secrets/kubernetes.io/serviceaccount`, for processes that are
    /// pointed here by `LAMEDUCK_KUBERNETES_API` and `LAMEDUCK_SERVICE_ACCOUNT_DIR`.
    pub fn write_service_account(&self, dir: &Path, token: &str) {
        std::fs::write(dir.join("token"), token).expect("written");
        std::fs::write(dir.join("namespace"), NAMESPACE).expect("written");
        *self.shared.token.lock().expect("a lock") = Some(token.to_owned());
    }

    /// Whoever asks is this Pod, by a token that is bound to its uid: once the object is gone, or another one has its
    /// name, the answer to everything is 401, as the API server's is (`pkg/serviceaccount/claims.go`). Watches
    /// that are open are not asked for it again.
    pub fn bind_token(&self, pod: &str) {
        let object = self.read(Resource::Pods, pod).expect("a pod");
        let uid = object["metadata"]["uid"]
            .as_str()
            .expect("a uid")
            .to_owned();
        *self.shared.bound.lock().expect("a lock") = Some((pod.to_owned(), uid));
    }

    /// The service account has these rules, and may ask for them; until then the server does not tell.
    pub fn grant(&self, rules: &[Value]) {
        *self.shared.rules.lock().expect("a lock") = Some(rules.to_vec());
    }

    /// Events may only be created in `events.k8s.io`, not in the core group.
    pub fn refuse_core_events(&self) {
        self.shared.no_core_events.store(true, Ordering::SeqCst);
    }

    /// Its clock runs ahead by so many seconds.
    pub fn set_skew(&self, seconds: i64) {
        self.shared.skew.store(seconds, Ordering::SeqCst);
    }

    // --- faults ---

    /// From now on, requests of this kind meet this fault.
    pub fn fail(&self, on: On, fault: Fault) {
        self.shared.faults().add(on, fault, None);
    }

    /// The next so many requests of this kind do.
    pub fn fail_times(&self, on: On, fault: Fault, times: usize) {
        self.shared.faults().add(on, fault, Some(times));
    }

    /// All is well again.
    pub fn heal(&self) {
        self.shared.faults().clear();
    }

    /// Refuses connections and resets those that are open.
    pub fn refuse(&self) {
        if let Some(server) = self.server.lock().expect("a lock").take() {
            server.abort();
        }
    }

    /// Takes connections again, at the same address.
    pub async fn accept(&self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                // The old listener is on its way out.
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.serve(listener);
    }

    // --- what was asked ---

    /// The requests so far.
    pub fn requests(&self) -> Vec<Logged> {
        self.shared.log().clone()
    }

    /// How many requests of this kind there were.
    pub fn count(&self, verb: Verb, resource: Resource) -> usize {
        let log = self.shared.log();
        log.iter()
            .filter(|r| r.verb == verb && r.resource == resource)
            .count()
    }

    /// Waits until there were so many.
    pub async fn asked(&self, verb: Verb, resource: Resource, times: usize) {
        let mut logged = self.shared.logged.subscribe();
        let enough = logged.wait_for(|_| self.count(verb, resource) >= times);
        tokio::time::timeout(Duration::from_secs(15), enough)
            .await
            .unwrap_or_else(|_| panic!("{verb:?} {resource:?} × {times}: {:?}", self.requests()))
            .expect("the server lives");
    }

    /// The Events that were created, by name.
    pub fn events(&self) -> Vec<Value> {
        self.shared.store().all(Resource::Events).cloned().collect()
    }

    // --- state ---

    /// Creates or replaces an object.
    pub fn put(&self, resource: Resource, object: Value) {
        self.shared.change(|store| store.put(resource, object));
    }

    /// The object, if there is one.
    pub fn read(&self, resource: Resource, name: &str) -> Option<Value> {
        self.shared.store().get(resource, name).cloned()
    }

    /// Changes an object, where there is one.
    pub fn modify(&self, resource: Resource, name: &str, change: impl FnOnce(&mut Value)) {
        self.shared.change(|store| {
            if let Some(mut object) = store.get(resource, name).cloned() {
                change(&mut object);
                store.put(resource, object);
            }
        });
    }

    /// Removes an object.
    pub fn remove(&self, resource: Resource, name: &str) {
        self.shared.change(|store| store.remove(resource, name));
    }

    /// Forgets what happened until now: versions before this are too old to be watched from.
    pub fn compact(&self) {
        self.shared.change(Store::compact);
    }

    fn serve(&self, listener: TcpListener) {
        let router = Router::new()
            .fallback(serve::handle)
            .with_state(self.shared.clone());
        let server = tokio::spawn(async move {
            // Dropped with the task, and with it the connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, router.clone()));
            }
        });
        *self.server.lock().expect("a lock") = Some(server);
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    // An error is a client that went away.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.refuse();
    }
}

// === impl Shared ===

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("a lock")
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("a lock")
    }

    fn log(&self) -> MutexGuard<'_, Vec<Logged>> {
        self.log.lock().expect("a lock")
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        let mut store = self.store();
        change(&mut store);
        let version = store.version();
        drop(store);
        self.changed.send_replace(version);
    }

    /// The API server knows who asks with this header.
    fn knows(&self, bearer: Option<&str>) -> bool {
        let expected = self.token.lock().expect("a lock").clone();
        let bound = self.bound.lock().expect("a lock").clone();
        let by_token = expected.is_none_or(|token| bearer == Some(&format!("Bearer {token}")));
        by_token
            && bound.is_none_or(|(pod, uid)| {
                let store = self.store();
                let found = store.get(Resource::Pods, &pod);
                found.is_some_and(|pod| pod["metadata"]["uid"] == uid)
            })
    }

    /// Now, by its own clock.
    fn now(&self) -> jiff::Timestamp {
        let skew = jiff::SignedDuration::from_secs(self.skew.load(Ordering::SeqCst));
        jiff::Timestamp::now() + skew
    }
}
