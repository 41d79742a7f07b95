//! One machine as a cluster: real processes, real signals, a control plane that moves endpoints as the real
//! one does, a balancer that follows it with a lag, a wire that takes its time. Who asks for answers
//! meanwhile is a [`Crowd`].

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    fake_api::{FakeApi, NAMESPACE, Resource, pod},
    wire::Balancer,
};

pub const GRACE: i64 = 30;

/// Whoever asks for answers while pods are rolled.
pub trait Crowd {
    /// Answers so far.
    fn done(&self) -> u64;

    /// Lets every request under way end, and says what became of all of them.
    async fn stop(self) -> Seen;
}

/// What a crowd has seen.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Seen {
    pub done: u64,
    pub failed: u64,
    /// HTTP/2 requests that GOAWAY refused by its last stream id: not failed, see
    /// [`Tally`](crate::clients::Tally).
    #[serde(default)]
    pub refused: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// `lameduck` or `axum`.
    pub server: &'static str,
    /// Whether the pods speak TLS.
    pub tls: bool,
    /// Each way.
    pub wire: Duration,
    /// From the deletion to the last new connection that is routed to the old pod.
    pub lag: Duration,
    pub rollouts: usize,
    /// From SIGTERM to SIGKILL. What we drain is told 30 s and must not need them.
    pub patience: Duration,
    /// Clients leave requests behind that never end, so that the hard deadline must.
    pub may_cut: bool,
}

#[derive(Debug)]
pub struct Outcome {
    pub seen: Seen,
    /// From SIGTERM to exit, for each rollout.
    pub shutdowns: Vec<Duration>,
}

pub struct Stage {
    scene: Scene,
    api: FakeApi,
    account: TempDir,
    certificate: Option<Certificate>,
    balancer: Balancer,
    born: usize,
}

struct Backend {
    name: String,
    address: SocketAddr,
    child: Child,
}

/// For 127.0.0.1, signed by itself.
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
}

// === impl Stage ===

impl Stage {
    async fn set(scene: Scene) -> Self {
        let api = FakeApi::start().await;
        let account = TempDir::new().unwrap();
        api.write_service_account(account.path(), "token");
        Self {
            scene,
            certificate: scene.tls.then(|| Certificate::make(account.path())),
            api,
            account,
            balancer: Balancer::start(scene.wire).await,
            born: 0,
        }
    }

    /// Rolls pods while a crowd is at work, which is started against [`address`](Self::address).
    pub async fn play<C: Crowd>(scene: Scene, start: impl AsyncFnOnce(&Self) -> C) -> Outcome {
        let mut stage = Self::set(scene).await;
        let mut current = stage.start().await;
        stage.balancer.add(current.address);
        stage.route(&[&current]);
        let crowd = start(&stage).await;
        let mut shutdowns = Vec::new();
        for round in 0..scene.rollouts {
            work_goes_on(&crowd, &format!("before rollout {round}")).await;
            let next = stage.start().await;
            stage.balancer.add(next.address);
            stage.route(&[&current, &next]);
            shutdowns.push(stage.terminate(current).await);
            current = next;
        }
        work_goes_on(&crowd, "after the last rollout").await;
        let seen = crowd.stop().await;
        Outcome { seen, shutdowns }
    }

    /// Where the pods are reached.
    pub fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    /// Who signed what the pods show, where they speak TLS.
    pub fn authority(&self) -> &Path {
        let certificate = self.certificate.as_ref();
        &certificate.expect("a scene with TLS").cert
    }

    async fn start(&mut self) -> Backend {
        self.born += 1;
        let name = format!("pod-{}", self.born);
        let uid = format!("uid-{}", self.born);
        self.api.put(Resource::Pods, pod(&name, &uid, "10.0.0.1"));
        let mut command = Command::new(example("rolled"));
        if let Some(certificate) = &self.certificate {
            command.env("ROLLED_TLS_CERT", &certificate.cert);
            command.env("ROLLED_TLS_KEY", &certificate.key);
        }
        let mut child = command
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
        if self.scene.server == "lameduck" && !self.scene.may_cut {
            assert!(exit.success(), "a drain that lost something: {exit}");
        }
        begin.elapsed()
    }
}

/// Some hundred answers more.
async fn work_goes_on(crowd: &impl Crowd, when: &str) {
    let wanted = crowd.done() + 300;
    let progress = async {
        while crowd.done() < wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(Duration::from_secs(30), progress).await.is_err() {
        panic!("{when}: {} of {wanted} answers came", crowd.done());
    }
}

pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}

// === impl Certificate ===

impl Certificate {
    fn make(dir: &Path) -> Self {
        let (cert, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"])
            .args(["-subj", "/CN=rolled", "-addext"])
            .arg("subjectAltName=IP:127.0.0.1")
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .expect("Debian's package openssl");
        let error = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "openssl: {error}");
        Self { cert, key }
    }
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shutdowns = self.shutdowns.iter();
        let shutdowns: Vec<String> = shutdowns
            .map(|time| format!("{:.1} s", time.as_secs_f64()))
            .collect();
        write!(
            f,
            "{:>6} answered  {:>4} failed  {} refused by GOAWAY  shutdown {}",
            self.seen.done,
            self.seen.failed,
            self.seen.refused,
            shutdowns.join(", ")
        )
    }
}
