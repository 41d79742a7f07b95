//! `lameduck run`: a program that knows nothing, with the drain in front of it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use super::harness::{Answer, Caller, Place, Process, call, until, write};

/// A server that knows nothing of drains. It writes down what it is told, and answers
/// `/slow` when the file `go` is there, `/dies` never.
const SERVER: &str = r#"
import http.server, os, signal, sys, time
place = os.environ['PLACE']
def note(what):
    with open(place + '/outside', 'a') as f:
        f.write(what + '\n')
def told(number, frame):
    note('told ' + signal.Signals(number).name)
    if os.environ.get('OBEYS', 'yes') == 'yes' and number == signal.SIGTERM:
        os._exit(int(os.environ.get('STATUS', '0')))
for number in (signal.SIGTERM, signal.SIGWINCH, signal.SIGUSR1, signal.SIGQUIT):
    signal.signal(number, told)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        note(self.command + ' ' + self.path)
        if self.path == '/slow':
            while not os.path.exists(place + '/go'): time.sleep(0.01)
        if self.path == '/dies':
            os._exit(9)
        if self.path == '/upgrade':
            self.send_response(101)
            self.send_header('Connection', 'Upgrade')
            self.send_header('Upgrade', 'echo')
            self.end_headers()
            self.wfile.write(self.rfile.readline())
            self.close_connection = True
            return
        body = body or self.path.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('X-Peer', self.client_address[0])
        self.end_headers()
        self.wfile.write(body)
        # As a server does whose idle timeout has just come: after an answer that did not say so.
        if os.environ.get('CLOSES'): self.close_connection = True
        note('done ' + self.path)
    do_GET = do_POST = do_DELETE = answer
    def log_message(self, *_): pass
note('started')
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
"#;

/// A place with a program in it, in front of which `lameduck run` is to stand.
struct Behind {
    place: Place,
}

// === impl Behind ===

impl Behind {
    fn new() -> Self {
        let place = Place::new("");
        write(&place.path("server.py"), SERVER);
        Self { place }
    }

    fn command(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        command
            .arg("run")
            .args([
                "--admin",
                "127.0.0.1:0",
                "--quiet",
                "200ms",
                "--lame-duck-share",
                "0.2",
            ])
            .args(options)
            .arg("--")
            .args(program)
            .env("PLACE", self.place.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn server(&self, options: &[&str]) -> Command {
        let script = self.place.path("server.py");
        let listen = [&["--listen", "127.0.0.1:0"], options].concat();
        self.command(&listen, &["python3", script.to_str().unwrap()])
    }

    /// Waits until the program behind serves.
    async fn start(&self, command: Command) -> Process {
        let process = Process::start(command).await;
        ready(&process).await;
        process
    }

    fn noted(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.place.path("outside")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn until_noted(&self, what: &str) {
        until(&format!("'{what}' outside"), async || {
            self.noted().iter().any(|line| line == what).then_some(())
        })
        .await;
    }
}

async fn ready(process: &Process) {
    until("the program is ready", async || {
        (process.admin("/readyz").await.status == 200).then_some(())
    })
    .await;
}

/// Runs a command line to its end, and says with which status it ended.
async fn status(mut command: Command) -> Option<i32> {
    command.stderr(Stdio::null());
    command.status().await.unwrap().code()
}

#[tokio::test]
async fn the_program_is_told_last_and_nobody_is_let_in_between() {
    let behind = Behind::new();
    let process = behind.start(behind.server(&["--grace", "20s"])).await;
    let api = process.api;
    let slow = tokio::spawn(async move { get(api, "/slow").await });
    behind.until_noted("GET /slow").await;

    process.signal(Signal::TERM);
    let closed = |line: &serde_json::Value| line["requests"] == 1;
    // Whoever comes before is served: the program knows nothing yet.
    assert_eq!(get(api, "/early").await.unwrap().status, 200);
    process
        .log()
        .line(
            "the gate is closed; the program is told to stop when nobody is inside",
            closed,
        )
        .await;
    let late = get(api, "/late").await.unwrap();
    assert_eq!(late.status, 503);
    assert_eq!(late.headers["connection"], "close");
    assert!(!behind.noted().iter().any(|line| line.starts_with("told")));
    behind.place.touch("go");

    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    let exit = process.exit(Instant::now()).await;
    assert_eq!(exit.status.code(), Some(0));
    assert_eq!(exit.assert_clean()["requests"]["cut"], 0);
    let noted = behind.noted();
    let told = noted
        .iter()
        .position(|line| line == "told SIGTERM")
        .unwrap();
    let done = noted.iter().position(|line| line == "done /slow").unwrap();
    assert!(done < told && told == noted.len() - 1, "{noted:?}");
}

#[tokio::test]
async fn what_does_not_end_is_told_at_the_soft_deadline_and_killed_at_the_hard_one() {
    let behind = Behind::new();
    let mut command = behind.server(&["--grace", "4s", "--stop-notice", "1s"]);
    command.env("OBEYS", "no");
    let process = behind.start(command).await;
    let api = process.api;
    let slow = tokio::spawn(async move { get(api, "/slow").await });
    behind.until_noted("GET /slow").await;

    let exit = process.terminate().await;

    assert_eq!(exit.status.code(), Some(128 + 9));
    assert!(exit.took < Duration::from_secs(4), "{:?}", exit.took);
    assert_eq!(exit.report()["outcome"], "cut");
    assert!(behind.noted().contains(&"told SIGTERM".to_owned()));
    assert!(
        slow.await
            .unwrap()
            .map_or(true, |answer| answer.status == 502)
    );
}

#[tokio::test]
async fn a_program_that_dies_ends_what_is_in_flight_with_502_and_the_process_with_its_status() {
    let behind = Behind::new();
    let process = behind.start(behind.server(&[])).await;
    let since = Instant::now();

    let answer = get(process.api, "/dies").await.unwrap();

    assert_eq!(answer.status, 502);
    let exit = process.exit(since).await;
    assert_eq!(exit.status.code(), Some(9));
    assert!(exit.took < Duration::from_secs(10), "{:?}", exit.took);
    assert_eq!(exit.report()["cause"], "failed");
}

#[tokio::test]
async fn without_a_listener_the_program_is_told_at_once() {
    let behind = Behind::new();
    let script = r#"trap 'echo told >> $PLACE/outside; exit 5' TERM; echo started >> $PLACE/outside; while :; do sleep 0.05; done"#;
    let mut child = behind.command(&[], &["sh", "-c", script]).spawn().unwrap();
    behind.until_noted("started").await;

    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();

    assert_eq!(child.wait().await.unwrap().code(), Some(5));
    assert!(behind.noted().contains(&"told".to_owned()));
}

#[tokio::test]
async fn the_exit_status_is_the_programs() {
    let behind = Behind::new();
    write(&behind.place.path("not-executable"), "");
    let not_executable = behind.place.path("not-executable");
    for (program, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "kill -USR1 $$"], 128 + 10),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["/nowhere/at-all"], 127),
        (&["no-such-program-anywhere"], 127),
        (&[not_executable.to_str().unwrap()], 126),
    ] {
        let ended = status(behind.command(&[], program)).await;
        assert_eq!(ended, Some(expected), "{program:?}");
    }
}

/// In the foreground of a terminal the kernel sends Ctrl-C to the program, which may read from it.
#[tokio::test]
async fn a_program_on_a_terminal_is_in_the_foreground_as_behind_tini() {
    let ours = format!(
        "{} run --admin 127.0.0.1:0 --",
        env!("CARGO_BIN_EXE_lameduck")
    );
    for before in ["tini -s --", &ours] {
        // proc_pid_stat(5): the process group is the fifth field, the terminal's foreground group the eighth.
        // It has been started when it is put there, so it looks until it is.
        let look = r#"for _ in $(seq 200); do read -r _ _ _ _ group _ _ foreground _ < /proc/$$/stat; [ $group = $foreground ] && exit 3; sleep 0.05; done"#;
        let line = format!("{before} sh -c '{look}'");
        let mut terminal = Command::new("script");
        terminal
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        assert_eq!(status(terminal).await, Some(3), "{before}");
    }
}

#[tokio::test]
async fn other_signals_are_passed_on_and_those_that_begin_a_drain_are_not() {
    let behind = Behind::new();
    let process = behind.start(behind.server(&["--begin-on", "QUIT"])).await;
    for (signal, name) in [(Signal::WINCH, "SIGWINCH"), (Signal::USR1, "SIGUSR1")] {
        process.signal(signal);
        behind.until_noted(&format!("told {name}")).await;
    }
    assert_eq!(get(process.api, "/").await.unwrap().status, 200);

    let since = Instant::now();
    process.signal(Signal::QUIT);

    process.exit(since).await.assert_clean();
    assert!(!behind.noted().contains(&"told SIGQUIT".to_owned()));
    assert!(behind.noted().contains(&"told SIGTERM".to_owned()));
}

#[tokio::test]
async fn a_program_with_work_of_its_own_may_be_told_at_the_start() {
    let behind = Behind::new();
    let options = ["--tell", "at-start=USR1", "--grace", "20s"];
    let process = behind.start(behind.server(&options)).await;
    let api = process.api;
    let slow = tokio::spawn(async move { get(api, "/slow").await });
    behind.until_noted("GET /slow").await;
    process.signal(Signal::TERM);
    behind.until_noted("told SIGUSR1").await;
    assert!(!behind.noted().contains(&"told SIGTERM".to_owned()));
    behind.place.touch("go");
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    process.exit(Instant::now()).await.assert_clean();

    let behind = Behind::new();
    let process = behind
        .start(behind.server(&["--tell", "at-start=/drain"]))
        .await;
    process.terminate().await.assert_clean();
    assert!(behind.noted().contains(&"POST /drain".to_owned()));
}

#[tokio::test]
async fn bodies_pass_in_both_directions_and_the_peer_is_not_loopback_where_there_is_another_address()
 {
    let behind = Behind::new();
    let process = behind.start(behind.server(&[])).await;
    let body: String = "0123456789".repeat(200_000);

    let answer = call(process.api, "POST", "/echo", &[], &body)
        .await
        .unwrap();

    assert_eq!((answer.status, answer.body.len()), (200, body.len()));
    assert_eq!(answer.body, body);
    if let Some(own) = own_address() {
        assert_eq!(answer.headers["x-peer"], own.as_str());
    }
    assert_eq!(
        process
            .metric("lameduck_proxy_requests_total{code=\"2xx\"}")
            .await,
        Some(1.0)
    );
    process.terminate().await.assert_clean();
}

#[tokio::test]
async fn another_protocol_passes_through_after_a_101() {
    let behind = Behind::new();
    let process = behind.start(behind.server(&[])).await;
    let mut stream = TcpStream::connect(process.api).await.unwrap();
    let request =
        "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");

    stream.write_all(b"something else\n").await.unwrap();

    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, "something else\n");
    drop(stream);
    process.terminate().await.assert_clean();
}

/// Servers close idle connections when they like, and a request may be on its way at that instant.
#[tokio::test]
async fn a_program_that_closes_its_connections_without_a_word_causes_no_502() {
    let behind = Behind::new();
    let mut command = behind.server(&[]);
    command.env("CLOSES", "yes");
    let process = behind.start(command).await;
    let mut caller = Caller::new(true);
    for round in 0..100 {
        let method = ["GET", "POST", "DELETE"][round % 3];
        let path = format!("/{round}");
        let answer = caller
            .call(process.api, method, &path, &[], "")
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
    }
    let posts = behind.noted();
    let posts = posts.iter().filter(|line| line.starts_with("POST"));
    assert_eq!(posts.count(), 33, "each once");
    process.terminate().await.assert_clean();
}

async fn get(at: std::net::SocketAddr, path: &str) -> Result<Answer, String> {
    call(at, "GET", path, &[], "").await
}

/// The address from which this machine speaks to others.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then(|| own.to_string())
}
