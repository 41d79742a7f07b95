//! The same through real processes: environment, mounted token, SIGTERM, termination message.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use super::stage::{ME, SLICE, SOON, Stage};
use crate::fake_api::{NAMESPACE, Resource, Verb};

/// What the kubelet keeps.
const LONGEST_MESSAGE: usize = 4096;

/// `lameduck serve`, as a Pod would start it.
pub struct Pod {
    pub dir: TempDir,
    pub command: Command,
}

pub struct Running {
    pub dir: TempDir,
    pub api: SocketAddr,
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    /// What was read of it so far.
    log: String,
}

pub struct Exited {
    pub dir: TempDir,
    pub status: ExitStatus,
    pub took: Duration,
    pub report: Value,
    message: Vec<u8>,
    /// All of it, from the start.
    pub log: String,
}

// === impl Pod ===

impl Pod {
    fn new() -> Self {
        Self::doing("true")
    }

    /// With this command as the handler.
    fn doing(handler: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        command
            .args([
                "serve",
                "--exec",
                handler,
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ])
            .args([
                "--settle",
                "60ms",
                "--quiet",
                "60ms",
                "--fallback-wait",
                "400ms",
            ])
            .arg("--data")
            .arg(dir.path().join("data"))
            .env("LAMEDUCK_TERMINATION_LOG", dir.path().join("message"))
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", ME)
            .env("POD_UID", "u1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self { dir, command }
    }

    /// In a cluster with this API server.
    fn of(stage: &Stage) -> Self {
        Self::of_one_that_does(stage, "true")
    }

    /// The same, with this command as the handler.
    pub fn of_one_that_does(stage: &Stage, handler: &str) -> Self {
        let mut pod = Self::doing(handler);
        stage.api.write_service_account(pod.dir.path(), "a token");
        pod.command
            .env("LAMEDUCK_KUBERNETES_API", stage.api.url())
            .env("LAMEDUCK_SERVICE_ACCOUNT_DIR", pod.dir.path());
        pod
    }

    /// Waits until it serves.
    pub async fn start(mut self) -> Running {
        let mut child = self.command.spawn().expect("built with the tests");
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut log, mut api) = (String::new(), None);
        let serving = async {
            loop {
                let line = stderr.next_line().await.unwrap().expect("a log line");
                log.push_str(&line);
                log.push('\n');
                let said: Value = serde_json::from_str(&line).expect("JSON");
                if said["setting"] == "listen" {
                    api = said["address"].as_str().and_then(|a| a.parse().ok());
                }
                if said["phase"] == "serving" {
                    break;
                }
            }
        };
        timeout(Duration::from_secs(15), serving)
            .await
            .expect("it starts");
        Running {
            dir: self.dir,
            api: api.expect("an address"),
            child,
            stderr,
            log,
        }
    }
}

// === impl Running ===

impl Running {
    pub fn terminate(&self) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    pub async fn exits(mut self) -> Exited {
        let begin = Instant::now();
        let ended = timeout(Duration::from_secs(20), self.child.wait()).await;
        let status = ended.expect("it ends").unwrap();
        let took = begin.elapsed();
        let mut log = self.log;
        while let Some(line) = self.stderr.next_line().await.unwrap() {
            log.push_str(&line);
            log.push('\n');
        }
        let report = log.lines().find(|line| line.contains("drain report"));
        let report = report.unwrap_or_else(|| panic!("no report in\n{log}"));
        Exited {
            status,
            took,
            report: serde_json::from_str(report).unwrap(),
            message: std::fs::read(self.dir.path().join("message")).unwrap(),
            dir: self.dir,
            log,
        }
    }
}

// === impl Exited ===

impl Exited {
    /// The termination message tells of the same drain as the log does.
    pub fn told_twice(&self) {
        assert!(
            self.message.len() <= LONGEST_MESSAGE,
            "{} bytes",
            self.message.len()
        );
        let message: Value = serde_json::from_slice(&self.message).expect("JSON");
        for field in [
            "drain_id",
            "outcome",
            "cause",
            "routing",
            "removal_seconds",
            "phases",
        ] {
            assert_eq!(message[field], self.report[field], "{field}");
        }
        assert!(
            message["drain_id"]
                .as_str()
                .is_some_and(|id| id.len() == 10)
        );
    }
}

#[tokio::test]
async fn a_deleted_pods_process_waits_for_its_endpoint_and_leaves_its_report() {
    let stage = Stage::set().await;
    let running = Pod::of(&stage).start().await;
    stage
        .api
        .asked(Verb::List, Resource::EndpointSlices, 1)
        .await;
    stage.api.delete_pod(ME, 30);
    running.terminate();
    stage.watched(1).await;
    stage.sync();
    let exited = running.exits().await;
    assert!(exited.status.success(), "{}", exited.log);
    assert!(exited.took < SOON, "{:?}", exited.took);
    let report = &exited.report;
    assert_eq!(report["routing"], "removed");
    assert_eq!(report["cause"], "pod_deleted");
    assert_eq!(report["deadline_source"], "deletion_grace_period");
    exited.told_twice();
}

#[tokio::test]
async fn a_process_whose_token_is_refused_waits_by_the_clock() {
    let stage = Stage::set().await;
    let pod = Pod::of(&stage);
    std::fs::write(pod.dir.path().join("token"), "another token").unwrap();
    let running = pod.start().await;
    running.terminate();
    let exited = running.exits().await;
    assert!(exited.status.success(), "{}", exited.log);
    assert_eq!(exited.report["routing"], "no_permission");
    assert_eq!(exited.report["cause"], "unknown");
    let words = "the API server does not accept this pod's token";
    assert_eq!(exited.log.matches(words).count(), 1, "{}", exited.log);
    assert!(!exited.log.contains("missing permission"), "{}", exited.log);
    exited.told_twice();
}

/// The kubelet exchanges the token; the old one is refused from then on, and kube would go on with it for up
/// to a minute.
#[tokio::test]
async fn a_token_that_was_exchanged_a_moment_ago_is_read_anew() {
    let stage = Stage::set().await;
    let pod = Pod::of(&stage);
    let running = pod.start().await;
    stage
        .api
        .asked(Verb::List, Resource::EndpointSlices, 1)
        .await;
    stage
        .api
        .write_service_account(running.dir.path(), "the next token");
    stage.api.delete_pod(ME, 20);
    stage.sync();
    running.terminate();
    let exited = running.exits().await;
    assert!(exited.status.success(), "{}", exited.log);
    assert_eq!(exited.report["routing"], "removed");
    assert_eq!(exited.report["cause"], "pod_deleted");
    assert!(!exited.log.contains("missing permission"), "{}", exited.log);
}

#[tokio::test]
async fn a_process_without_a_service_account_waits_by_the_clock_and_says_why() {
    let mut pod = Pod::new();
    pod.command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    let running = pod.start().await;
    running.terminate();
    let exited = running.exits().await;
    assert!(exited.status.success(), "{}", exited.log);
    assert_eq!(exited.report["routing"], "no_permission");
    assert!(
        exited.log.contains("automountServiceAccountToken"),
        "{}",
        exited.log
    );
    exited.told_twice();
}

/// A library user's program, with nothing set but where the cluster is.
#[tokio::test]
async fn a_program_that_uses_the_library_leaves_its_report_too() {
    let stage = Stage::set().await;
    let pod = Pod::of(&stage);
    let mut child = Command::new(example("rolled"))
        .env("LAMEDUCK_KUBERNETES_API", stage.api.url())
        .env("LAMEDUCK_SERVICE_ACCOUNT_DIR", pod.dir.path())
        .env("LAMEDUCK_TERMINATION_LOG", pod.dir.path().join("message"))
        .env("POD_NAME", ME)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("examples are built with the tests");
    let mut byte = [0];
    child
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut byte)
        .await
        .unwrap();
    stage
        .api
        .asked(Verb::List, Resource::EndpointSlices, 1)
        .await;
    stage.api.delete_pod(ME, 30);
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    stage.watched(1).await;
    stage.api.set_endpoint(SLICE, ME, [false, true, true]);
    let status = timeout(Duration::from_secs(20), child.wait()).await;
    assert!(status.expect("it ends").unwrap().success());
    let message = std::fs::read(pod.dir.path().join("message")).unwrap();
    assert!(message.len() <= LONGEST_MESSAGE);
    let message: Value = serde_json::from_slice(&message).expect("JSON");
    assert_eq!(message["routing"], "removed");
    assert_eq!(message["cause"], "pod_deleted");
}

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}
