//! The real program in a directory of its own: started, signalled, asked, and looked after.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

/// Whatever is waited for comes much sooner; a bound, so that a broken promise ends its test.
const BOUND: Duration = Duration::from_secs(30);

/// How often to look where nobody tells.
const LOOK: Duration = Duration::from_millis(5);

/// Begins every handler: the outside ledger gets one line for each thing that happens, appended whole.
const PROLOGUE: &str = r#"#!/bin/sh
note() { echo "$LAMEDUCK_JOB_ID $LAMEDUCK_ATTEMPT $LAMEDUCK_CLAIM $1" >> "$PLACE/outside"; }
note begin
"#;

static PLACES: AtomicUsize = AtomicUsize::new(0);

/// A data directory, a handler, and the ledger that the handler keeps outside of the program.
pub struct Place {
    directory: TempDir,
    /// In the environment of whatever is started here, so that nobody can get lost.
    mark: String,
}

/// One line of the outside ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub job: String,
    pub attempt: u32,
    pub claim: String,
    pub what: String,
}

/// The program, running.
pub struct Process {
    child: Child,
    log: Log,
    pub api: SocketAddr,
    pub admin: SocketAddr,
}

/// The program, ended.
pub struct Exit {
    pub status: ExitStatus,
    pub log: Vec<Value>,
    /// Since the signal.
    pub took: Duration,
}

/// What the program writes to stderr, line by line.
#[derive(Clone)]
pub struct Log {
    lines: watch::Receiver<Vec<Value>>,
    reader: AbortHandle,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A client's one connection.
pub struct Caller {
    sender: Option<http1::SendRequest<Body>>,
    keep_alive: bool,
}

// === impl Place ===

impl Place {
    /// A new directory, and a handler that runs this piece of shell and notes its end.
    pub fn new(script: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let mark = format!("{}-{}", std::process::id(), PLACES.fetch_add(1, SeqCst));
        let script = format!("{PROLOGUE}{script}\nnote end\n");
        fs::write(directory.path().join("handler"), script).unwrap();
        Self { directory, mark }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file that handlers look for.
    pub fn touch(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    /// `lameduck serve` with these arguments, and nothing in its environment that it was not given here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_without_handler("127.0.0.1:0", "127.0.0.1:0", arguments)
    }

    fn command_without_handler(&self, api: &str, admin: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        command
            .args(["serve", "--listen", api, "--admin", admin])
            .arg("--data")
            .arg(self.path("data"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("PLACE", self.directory.path())
            .env("LAMEDUCK_TEST_MARK", &self.mark)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The same, with the place's handler.
    pub fn command_with_handler(&self, arguments: &[&str]) -> Command {
        self.command_at("127.0.0.1:0", "127.0.0.1:0", arguments)
    }

    /// The same at these addresses.
    pub fn command_at(&self, api: &str, admin: &str, arguments: &[&str]) -> Command {
        let mut command = self.command_without_handler(api, admin, arguments);
        let handler = format!("sh {}", self.path("handler").display());
        command.env("LAMEDUCK_EXEC", handler);
        command
    }

    pub async fn start(&self, arguments: &[&str]) -> Process {
        Process::start(self.command_with_handler(arguments)).await
    }

    /// The outside ledger so far.
    pub fn outside(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.path("outside")).unwrap_or_default();
        text.lines().map(Line::parse).collect()
    }

    /// What the outside ledger says of each job, in its order.
    pub fn outside_by_job(&self) -> BTreeMap<String, Vec<Line>> {
        let mut jobs = BTreeMap::<_, Vec<_>>::new();
        for line in self.outside() {
            jobs.entry(line.job.clone()).or_default().push(line);
        }
        jobs
    }

    /// Waits until so many lines say so.
    pub async fn noted(&self, what: &str, times: usize) {
        let count = || self.outside().iter().filter(|l| l.what == what).count();
        until(&format!("{times} times '{what}' outside"), async || {
            (count() >= times).then_some(())
        })
        .await;
    }

    /// Everybody alive who was started from here, the program itself included.
    pub fn living(&self) -> Vec<Pid> {
        let mark = format!("LAMEDUCK_TEST_MARK={}", self.mark);
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| is_alive(*pid) && is_marked(*pid, mark.as_bytes()))
            .filter_map(Pid::from_raw)
            .collect()
    }

    /// Kills everybody who was started from here; says how many there were.
    pub async fn kill_living(&self) -> usize {
        let living = self.living();
        for pid in &living {
            let _ = kill_process(*pid, Signal::KILL);
        }
        until("the killed to be gone", async || {
            self.living().is_empty().then_some(())
        })
        .await;
        living.len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a test that failed.
        for pid in self.living() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Neither a zombie nor about to become one.
fn is_alive(pid: i32) -> bool {
    const EXITING: u64 = 0x4;
    const SIGKILL_BIT: u64 = 1 << 8;
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else {
        return false;
    };
    // proc_pid_stat(5): the name, which may contain anything, ends at the last parenthesis.
    let fields: Vec<&str> = match stat.rsplit_once(") ") {
        Some((_, rest)) => rest.split(' ').collect(),
        None => return false,
    };
    let flags: u64 = fields[6].parse().unwrap();
    let killed = status
        .lines()
        .filter_map(|line| {
            let pending = line
                .strip_prefix("SigPnd:")
                .or(line.strip_prefix("ShdPnd:"))?;
            u64::from_str_radix(pending.trim(), 16).ok()
        })
        .any(|pending| pending & SIGKILL_BIT != 0);
    !matches!(fields[0], "Z" | "X") && flags & EXITING == 0 && !killed
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|v| v == mark)
}

// === impl Line ===

impl Line {
    fn parse(line: &str) -> Self {
        let [job, attempt, claim, what] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("a torn line in the outside ledger: {line}");
        };
        Self {
            job: job.to_owned(),
            attempt: attempt.parse().unwrap(),
            claim: claim.to_owned(),
            what: what.to_owned(),
        }
    }
}

// === impl Process ===

impl Process {
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        Self::started(child, log).await
    }

    /// Waits until it serves.
    pub async fn started(child: Child, log: Log) -> Self {
        let process = Self::listening(child, log).await;
        let serves = |line: &Value| line["phase"] == "serving";
        process.log.line("phase", serves).await;
        process
    }

    /// Waits until its listeners answer, whatever they say.
    pub async fn listening(child: Child, log: Log) -> Self {
        let address = async |setting: &str| {
            let line = log.line("listening", |l| l["setting"] == setting).await;
            line["address"].as_str().unwrap().parse().unwrap()
        };
        let api = address("listen").await;
        let admin = address("admin").await;
        Self {
            child,
            log,
            api,
            admin,
        }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn pid(&self) -> Pid {
        pid(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM, and whatever follows from it.
    pub async fn terminate(self) -> Exit {
        let since = Instant::now();
        self.signal(Signal::TERM);
        self.exit(since).await
    }

    /// Nobody can answer that.
    pub async fn kill(self) {
        let since = Instant::now();
        self.signal(Signal::KILL);
        self.exit(since).await;
    }

    /// Waits until it has exited.
    pub async fn exit(mut self, since: Instant) -> Exit {
        let status = timeout(BOUND, self.child.wait()).await;
        let took = since.elapsed();
        let status = status.expect("the process should exit").unwrap();
        Exit {
            status,
            took,
            log: self.log.until_its_end().await,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        call(self.api, "GET", path, &[], "").await.unwrap()
    }

    /// What the admin listener answers.
    pub async fn admin(&self, path: &str) -> Answer {
        call(self.admin, "GET", path, &[], "").await.unwrap()
    }

    /// Submits a job; its id.
    pub async fn submit(&self, payload: &str) -> String {
        let answer = self.post(payload, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn post(&self, payload: &str, headers: &[(&str, &str)]) -> Answer {
        call(self.api, "POST", JOBS, headers, payload)
            .await
            .unwrap()
    }

    /// The job once it has completed.
    pub async fn completed(&self, id: &str) -> Value {
        let path = format!("/v1/jobs/{id}?wait=20s");
        let mut job = self.get(&path).await.json();
        // After a crash a job may wait for its turn, and run alone.
        for _ in 0..5 {
            if job["state"] == "completed" || job["state"] == "dead" {
                break;
            }
            job = self.get(&path).await.json();
        }
        assert_eq!(job["state"], "completed", "{job}");
        job
    }

    /// The value of a series, `None` where it is not exported.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        self.admin("/metrics").await.metric(series)
    }
}

/// Where jobs are submitted.
pub const JOBS: &str = "/v1/queues/default/jobs";

pub fn pid(child: &Child) -> Pid {
    let pid = child.id().expect("not reaped yet");
    Pid::from_raw(pid.cast_signed()).unwrap()
}

// === impl Exit ===

impl Exit {
    /// The drain report.
    pub fn report(&self) -> &Value {
        let report = self.log.iter().find(|l| l["message"] == "drain report");
        report.unwrap_or_else(|| panic!("there is no drain report:\n{}", self.text()))
    }

    /// Exit status 0, and the report says the same.
    pub fn assert_clean(&self) -> &Value {
        let report = self.report();
        assert_eq!(report["outcome"], "clean", "{report:#}");
        assert_eq!(self.status.code(), Some(0), "{}", self.text());
        report
    }

    pub fn text(&self) -> String {
        text(&self.log)
    }
}

// === impl Log ===

impl Log {
    pub fn follow(stderr: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (lines, log) = watch::channel(Vec::new());
        let reader = tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = stderr.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.send_modify(|lines| lines.push(line));
            }
        });
        Self {
            lines: log,
            reader: reader.abort_handle(),
        }
    }

    /// From now on nobody reads what the program writes.
    pub fn stop_reading(&self) {
        self.reader.abort();
    }

    /// Waits for a line with this message.
    pub async fn line(&self, message: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = |lines: &Vec<Value>| {
            let mut found = lines.iter().filter(|l| l["message"] == message);
            found.find(|line| is_it(line)).cloned()
        };
        let mut log = self.lines.clone();
        let found = timeout(BOUND, log.wait_for(|lines| find(lines).is_some())).await;
        match found {
            Ok(Ok(lines)) => find(&lines).unwrap(),
            _ => panic!("no '{message}' came:\n{}", text(&self.lines.borrow())),
        }
    }

    /// Waits for a line whose message begins like this.
    pub async fn any(&self, beginning: &str) -> Value {
        let begins = |line: &Value| {
            let message = line["message"].as_str();
            message.is_some_and(|message| message.starts_with(beginning))
        };
        let mut log = self.lines.clone();
        let found = timeout(BOUND, log.wait_for(|lines| lines.iter().any(begins))).await;
        match found {
            Ok(Ok(lines)) => lines.iter().find(|line| begins(line)).unwrap().clone(),
            _ => panic!("no '{beginning}…' came:\n{}", text(&self.lines.borrow())),
        }
    }

    /// The program's next line meets a closed pipe.
    pub fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    /// Everything that it wrote, once it has ended.
    pub async fn whole(self) -> Vec<Value> {
        self.until_its_end().await
    }

    async fn until_its_end(mut self) -> Vec<Value> {
        while self.lines.changed().await.is_ok() {}
        self.lines.borrow().clone()
    }
}

fn text(lines: &[Value]) -> String {
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    lines.join("\n")
}

// === impl Answer ===

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// A problem of this status; its detail.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }

    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = std::str::from_utf8(&self.body).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }
}

// === impl Caller ===

impl Caller {
    pub fn new(keep_alive: bool) -> Self {
        Self {
            sender: None,
            keep_alive,
        }
    }

    /// One request, over the connection that is there or a new one. After an error it is gone.
    pub async fn call(
        &mut self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(address).await?,
        };
        let error = |error: hyper::Error| error.to_string();
        let response = sender.send_request(request).await.map_err(error)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(error)?.to_bytes();
        if self.keep_alive && sender.ready().await.is_ok() {
            self.sender = Some(sender);
        }
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

async fn connect(address: SocketAddr) -> Result<http1::SendRequest<Body>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request over a connection of its own.
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, String> {
    let mut caller = Caller::new(false);
    timeout(BOUND, caller.call(address, method, path, headers, body))
        .await
        .unwrap_or_else(|_| panic!("{method} {path} was not answered"))
}

/// Looks again and again until there is something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            sleep(LOOK).await;
        }
    };
    match timeout(BOUND, looking).await {
        Ok(seen) => seen,
        Err(_) => panic!("it did not come to {what}"),
    }
}

/// Runs a command to its end; its status and what it wrote to stderr.
pub async fn output(mut command: Command) -> (Option<i32>, String) {
    let output = timeout(BOUND, command.output()).await;
    let output = output.expect("it should have ended").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

/// Writes a file into a place.
pub fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
