//! A rollout on one machine: real processes, real signals, a control plane that moves endpoints as the real
//! one does, a balancer that follows it with a lag, a wire that takes its time, and clients of every kind
//! that must not lose a request. Beside it, in the same run, `axum::serve` with its graceful shutdown.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    clients::{Clients, Kind},
    fake_api::{FakeApi, NAMESPACE, Resource, pod},
    wire::Balancer,
};

const GRACE: i64 = 30;

/// Everybody at once.
const CROWD: &[(Kind, usize)] = &[
    (Kind::KeepAlive, 24),
    (Kind::MostlyIdle, 12),
    (Kind::Fresh, 8),
    (Kind::Slow, 8),
    (Kind::Http2, 4),
    (Kind::Events, 4),
    (Kind::Socket, 4),
];

#[derive(Clone, Copy, Debug)]
struct Scene {
    /// `lameduck` or `axum`.
    server: &'static str,
    /// Each way.
    wire: Duration,
    /// From the deletion to the last new connection that is routed to the old pod.
    lag: Duration,
    rollouts: usize,
    /// From SIGTERM to SIGKILL. What we drain is told 30 s and must not need them.
    patience: Duration,
}

#[derive(Debug)]
struct Outcome {
    done: u64,
    failed: u64,
    refused: u64,
    failures: Vec<String>,
    /// From SIGTERM to exit, for each rollout.
    shutdowns: Vec<Duration>,
}

struct Stage {
    scene: Scene,
    api: FakeApi,
    account: TempDir,
    balancer: Balancer,
    born: usize,
}

struct Backend {
    name: String,
    address: SocketAddr,
    child: Child,
}

// === impl Stage ===

impl Stage {
    async fn set(scene: Scene) -> Self {
        let api = FakeApi::start().await;
        let account = TempDir::new().unwrap();
        api.write_service_account(account.path(), "token");
        Self {
            scene,
            api,
            account,
            balancer: Balancer::start(scene.wire).await,
            born: 0,
        }
    }

    async fn play(scene: Scene) -> Outcome {
        let mut stage = Self::set(scene).await;
        let mut current = stage.start().await;
        stage.balancer.add(current.address);
        stage.route(&[&current]);
        let clients = Clients::start(stage.balancer.address(), CROWD);
        let mut shutdowns = Vec::new();
        for round in 0..scene.rollouts {
            work_goes_on(&clients, &format!("before rollout {round}")).await;
            let next = stage.start().await;
            stage.balancer.add(next.address);
            stage.route(&[&current, &next]);
            shutdowns.push(stage.terminate(current).await);
            current = next;
        }
        work_goes_on(&clients, "after the last rollout").await;
        let tally = clients.stop().await;
        let failures = tally.failures.lock().unwrap().clone();
        Outcome {
            done: tally.done.load(SeqCst),
            failed: tally.failed.load(SeqCst),
            refused: tally.refused.load(SeqCst),
            failures,
            shutdowns,
        }
    }

    async fn start(&mut self) -> Backend {
        self.born += 1;
        let name = format!("pod-{}", self.born);
        let uid = format!("uid-{}", self.born);
        self.api.put(Resource::Pods, pod(&name, &uid, "10.0.0.1"));
        let mut child = Command::new(example("rolled"))
            .arg(self.scene.server)
            .env("LAMEDUCK_KUBERNETES_API", self.api.url())
            .env("LAMEDUCK_SERVICE_ACCOUNT_DIR", self.account.path())
            .env("LAMEDUCK_TERMINATION_LOG", self.account.path().join(&name))
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", &name)
            .env("POD_UID", &uid)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("examples are built with the tests");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(Duration::from_secs(20), lines.next_line()).await;
        let address = line.unwrap().unwrap().expect("it says where it listens");
        Backend {
            name,
            address: address.parse().unwrap(),
            child,
        }
    }

    fn route(&self, backends: &[&Backend]) {
        let names: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
        self.api.place("shop-abc", "shop", &names);
    }

    /// What the control plane, the kubelet and kube-proxy do to a deleted pod.
    async fn terminate(&self, mut backend: Backend) -> Duration {
        let begin = Instant::now();
        self.api.delete_pod(&backend.name, GRACE);
        self.api.sync("shop");
        let pid = Pid::from_raw(backend.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let lagging = async {
            sleep(self.scene.lag).await;
            self.balancer.remove(backend.address);
        };
        let exit = timeout(self.scene.patience, backend.child.wait());
        let (exit, ()) = tokio::join!(exit, lagging);
        let exit = match exit {
            Ok(status) => status.unwrap(),
            Err(_) => {
                // What the kubelet would do.
                backend.child.kill().await.unwrap();
                backend.child.wait().await.unwrap()
            }
        };
        if self.scene.server == "lameduck" {
            assert!(exit.success(), "a drain that lost something: {exit}");
        }
        begin.elapsed()
    }
}

/// Some hundred answers more.
async fn work_goes_on(clients: &Clients, when: &str) {
    let done = || clients.tally().done.load(SeqCst);
    let wanted = done() + 300;
    let progress = async {
        while done() < wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(Duration::from_secs(30), progress).await.is_err() {
        panic!("{when}: {} of {wanted} answers came", done());
    }
}

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}

fn row(scene: &Scene, outcome: &Outcome) -> String {
    let shutdowns: Vec<String> = outcome
        .shutdowns
        .iter()
        .map(|time| format!("{:.1} s", time.as_secs_f64()))
        .collect();
    format!(
        "{:<8} wire {:>2} ms  lag {:>4} ms  {:>6} answered  {:>4} failed  \
         {} refused by GOAWAY  shutdown {}",
        scene.server,
        scene.wire.as_millis(),
        scene.lag.as_millis(),
        outcome.done,
        outcome.failed,
        outcome.refused,
        shutdowns.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_fails_no_request_of_any_client() {
    let scene = Scene {
        server: "lameduck",
        wire: Duration::from_millis(5),
        lag: Duration::from_millis(600),
        rollouts: 2,
        patience: Duration::from_secs(GRACE.unsigned_abs()),
    };
    let ours = Stage::play(scene).await;
    let compared = Scene {
        server: "axum",
        rollouts: 1,
        // An open event stream keeps it alive until it is killed; that takes no more time to show.
        patience: Duration::from_secs(10),
        ..scene
    };
    let theirs = Stage::play(compared).await;

    println!("{}", row(&scene, &ours));
    println!("{}", row(&compared, &theirs));
    assert_eq!(ours.failed, 0, "{:#?}", ours.failures);
}

/// The same with other wires and lags, as often as `LAMEDUCK_SOAK` says: what is rare shows only so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; run by `make soak`"]
async fn rollouts_again_and_again_fail_no_request() {
    let rounds = std::env::var("LAMEDUCK_SOAK").map_or(10, |n| n.parse().expect("a number"));
    let mut failed = 0;
    for _ in 0..rounds {
        let scene = Scene {
            server: "lameduck",
            wire: Duration::from_millis(fastrand::u64(1..=50)),
            lag: Duration::from_millis(fastrand::u64(0..=2_000)),
            rollouts: 3,
            patience: Duration::from_secs(GRACE.unsigned_abs()),
        };
        let outcome = Stage::play(scene).await;
        println!("{} {:#?}", row(&scene, &outcome), outcome.failures);
        failed += outcome.failed;
    }
    assert_eq!(failed, 0);
}

/// A constant is too short on one day and too long on the other; who looks needs neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes; run by `make lag`"]
async fn a_shutdown_follows_the_lag_of_the_balancer() {
    let mut outcomes = Vec::new();
    for lag in [0, 1, 3, 7, 10] {
        for (server, patience) in [("lameduck", GRACE.unsigned_abs()), ("sleep", 12)] {
            let scene = Scene {
                server,
                wire: Duration::from_millis(5),
                lag: Duration::from_secs(lag),
                rollouts: 1,
                patience: Duration::from_secs(patience),
            };
            let outcome = Stage::play(scene).await;
            println!("{}", row(&scene, &outcome));
            outcomes.push((scene, outcome));
        }
    }
    for (scene, outcome) in outcomes {
        if scene.server == "lameduck" {
            assert_eq!(outcome.failed, 0, "{scene:?}: {:#?}", outcome.failures);
            let longest = scene.lag + Duration::from_secs(8);
            assert!(outcome.shutdowns[0] < longest, "{scene:?}: {outcome:?}");
        }
    }
}
