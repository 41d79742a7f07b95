//! A pod `web-1` of the Service `web`, beside its peer `web-2`, as a lifecycle in this process.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use axum::{Router, routing::get};
use lameduck::prelude::*;
use lameduck::{
    Drain, DrainReport, Lifecycle, Moment,
    kubernetes::{Identity, Kubernetes},
    lifecycle::{DrainSettings, Error, Phase, ReadinessPolicy, RoutingEnd, Signals, Trigger},
};
use prometheus::proto::Metric;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::fake_api::{FakeApi, NAMESPACE, Resource, Verb, pod};

pub const ME: &str = "web-1";
pub const PEER: &str = "web-2";
/// The Service, and the slice that holds both.
pub const SERVICE: &str = "web";
pub const SLICE: &str = "web-a";

/// The two waits after a removal.
pub const SETTLE: Duration = Duration::from_millis(60);
/// What a machine that is busy with other tests may take for what takes no time.
pub const SOON: Duration = Duration::from_millis(1_500);

/// The cluster, and how the pod's process is set up.
pub struct Stage {
    pub api: FakeApi,
    pub settings: DrainSettings,
    pub identity: Identity,
    pub cap: Option<Duration>,
    pub deletion_cost: bool,
    /// The mounted token's file.
    pub token: Option<PathBuf>,
}

/// The pod's process.
pub struct Process {
    pub drain: Drain,
    pub address: SocketAddr,
    trigger: Trigger,
    entered: Arc<Notify>,
    run: JoinHandle<Result<Arc<DrainReport>, Error>>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub report: Arc<DrainReport>,
    /// From `terminate` to the end of `run()`.
    pub took: Duration,
}

/// A drain under way.
pub struct Draining {
    process: Process,
    t0: Instant,
}

// === impl Stage ===

impl Stage {
    pub async fn set() -> Self {
        let api = FakeApi::start().await;
        api.put(Resource::Pods, pod(ME, "u1", "10.0.0.1"));
        api.put(Resource::Pods, pod(PEER, "u2", "10.0.0.2"));
        api.put(
            Resource::Services,
            json!({"metadata": {"name": SERVICE}, "spec": {}}),
        );
        api.place(SLICE, SERVICE, &[ME, PEER]);
        api.bind_token(ME);
        let mut settings = DrainSettings::default();
        settings.settle = SETTLE;
        settings.quiet = SETTLE;
        Self {
            api,
            settings,
            identity: Identity::new(NAMESPACE, ME).uid("u1").container("app"),
            cap: Some(Duration::from_secs(30)),
            deletion_cost: false,
            token: None,
        }
    }

    pub fn fallback_wait(mut self, wait: Duration) -> Self {
        self.settings.fallback_wait = wait;
        self
    }

    pub fn readiness(mut self, policy: ReadinessPolicy) -> Self {
        self.settings.readiness = policy;
        self
    }

    /// Starts the process, and waits for the answers to what it asks at start.
    pub async fn start(&self) -> Process {
        let process = self.start_in_haste().await;
        until("answers at start", || process.answers() == 3.0).await;
        process
    }

    /// Starts the process.
    pub async fn start_in_haste(&self) -> Process {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (signals, trigger) = Signals::manual();
        let entered = Arc::new(Notify::new());
        let mut config = self.api.config();
        let token = self.token.as_ref();
        config.auth_info.token_file = token.map(|file| file.to_string_lossy().into_owned());
        let lifecycle = Lifecycle::builder()
            .settings(self.settings.clone())
            .signals(signals)
            .http("api", listener, router(entered.clone()))
            .kubernetes(
                Kubernetes::with_config(config, self.identity.clone())
                    .no_deletion_cap(self.cap)
                    .pod_deletion_cost(self.deletion_cost),
            );
        let drain = lifecycle.drain().clone();
        let run = tokio::spawn(lifecycle.run());
        let mut phases = drain.phase_changes();
        let serving = phases.wait_for(|phases| phases.last().unwrap().0 >= Phase::Serving);
        serving.await.unwrap();
        Process {
            drain,
            address,
            trigger,
            entered,
            run,
        }
    }

    /// `kubectl delete pod`, seen by the kubelet but not yet by the EndpointSlice controller.
    pub fn delete(&self, process: Process, grace: i64) -> Draining {
        self.api.delete_pod(ME, grace);
        process.terminate()
    }

    /// Waits until the own Pod and so many slices are watched.
    pub async fn watched(&self, slices: usize) {
        self.api.asked(Verb::Watch, Resource::Pods, 1).await;
        self.api
            .asked(Verb::Watch, Resource::EndpointSlices, slices)
            .await;
    }

    /// The EndpointSlice controller catches up.
    pub fn sync(&self) {
        self.api.sync(SERVICE);
    }
}

fn router(entered: Arc<Notify>) -> Router {
    let never = move || async move {
        entered.notify_one();
        std::future::pending::<&str>().await
    };
    Router::new()
        .route("/", get(|| async { "served" }))
        .route("/never", get(never))
}

// === impl Process ===

impl Process {
    /// SIGTERM.
    pub fn terminate(self) -> Draining {
        let t0 = Instant::now();
        self.trigger.fire();
        Draining { process: self, t0 }
    }

    /// How many requests to the API server have ended, by its own count.
    fn answers(&self) -> f64 {
        let requests = metrics(&self.drain, "lameduck_kubernetes_requests_total");
        requests.values().sum()
    }

    pub fn drain_id(&self) -> String {
        self.drain.id().to_owned()
    }

    /// One request over a new connection.
    pub async fn ask(&self) -> io::Result<String> {
        ask(self.address).await
    }

    /// A request that never ends, once it is being served. It lives as long as the stream.
    pub async fn ask_for_ever(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = b"GET /never HTTP/1.1\r\nhost: web\r\n\r\n";
        stream.write_all(request).await.unwrap();
        self.entered.notified().await;
        stream
    }
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

// === impl Draining ===

impl Draining {
    pub fn drain(&self) -> &Drain {
        &self.process.drain
    }

    pub fn t0(&self) -> Instant {
        self.t0
    }

    pub async fn ask(&self) -> io::Result<String> {
        self.process.ask().await
    }

    /// Long enough for settle, quiet and more to pass: nobody has been asked to leave.
    pub async fn stays(&self) {
        let leave = self.drain().reached(Moment::Leave);
        let left = timeout(SETTLE * 5, leave).await;
        assert!(
            left.is_err(),
            "asked to leave after {:?}",
            self.t0.elapsed()
        );
    }

    /// Waits until `/readyz` fails.
    pub async fn fails_readiness(&self) {
        until("readiness fails", || !self.drain().is_ready()).await;
    }

    /// Waits for the end.
    pub async fn ends(self) -> Ended {
        let ended = timeout(Duration::from_secs(25), self.process.run).await;
        let took = self.t0.elapsed();
        let result = ended.expect("it ends").expect("no panic");
        let report = result.unwrap_or_else(|error| error.report().expect("a drain").clone());
        Ended { report, took }
    }
}

// === impl Ended ===

impl Ended {
    pub fn routing(&self) -> RoutingEnd {
        self.report.routing.expect("a wait for the end of routing")
    }

    /// It ended before its deadline.
    pub fn in_time(&self) {
        let budget = Duration::from_secs_f64(self.report.budget_seconds);
        assert!(self.took <= budget, "{:?} of {budget:?}", self.took);
    }

    /// Endpoints were seen to go, and hardly anything more was waited for.
    pub fn ended_at_removal(&self) {
        assert_eq!(self.routing(), RoutingEnd::Removed);
        let removal = self.report.removal_seconds.expect("a removal");
        // Both are rounded to milliseconds.
        let rest = self.report.seconds - removal + 0.001;
        assert!(rest >= SETTLE.as_secs_f64(), "settled for {rest} s");
        assert!(rest <= SOON.as_secs_f64(), "took {rest} s more");
    }
}

// === what is exported ===

/// The values of a metric with one label, by that.
pub fn metrics(drain: &Drain, name: &str) -> BTreeMap<String, f64> {
    let families = drain.registry().gather();
    let family = families.iter().find(|family| family.name() == name);
    let series = family.expect("a known metric").get_metric().iter();
    let value = |m: &Metric| m.get_counter().get_value() + m.get_gauge().get_value();
    series
        .map(|m| (m.get_label()[0].value().to_owned(), value(m)))
        .collect()
}

// === what was logged ===

/// Everything at `warn` and above that is logged on this thread.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Records until the guard is dropped; tasks of a current-thread runtime included.
    pub fn record() -> (Self, tracing::subscriber::DefaultGuard) {
        Self::record_from(tracing::Level::WARN)
    }

    /// The same, with more or less of it.
    pub fn record_from(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let sink = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that hold all of these words.
    pub fn lines(&self, words: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let lines = text.lines().filter(|line| line.contains(words));
        lines.map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === stories ===

/// Waits until something holds that cannot be waited on.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let polled = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let held = timeout(Duration::from_secs(15), polled).await;
    held.unwrap_or_else(|_| panic!("{what}: not within 15 s"));
}

/// Rows that are told at once.
const AT_ONCE: usize = 12;

/// Tells a story for each row, some at once, each on a thread and a runtime of its own: they wait more than
/// they work, but all of them together starve whoever has to answer in time. The name of a row that fails is
/// its thread's.
pub fn each<T, F, Fut>(rows: impl IntoIterator<Item = (&'static str, T)>, story: F)
where
    T: Send + 'static,
    F: Fn(T) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()>,
{
    let tell = |(name, row): (&'static str, T)| {
        let story = story.clone();
        let told = thread::Builder::new().name(name.into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(story(row));
        });
        (name, told.unwrap())
    };
    let rows: Vec<_> = rows.into_iter().collect();
    let mut rows = rows.into_iter().peekable();
    let mut failed = Vec::new();
    while rows.peek().is_some() {
        let told: Vec<_> = rows.by_ref().take(AT_ONCE).map(tell).collect();
        let ends = told.into_iter();
        failed.extend(ends.filter_map(|(name, thread)| thread.join().is_err().then_some(name)));
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
