//! Who still comes: late requests, probes, scrapes; and what handlers learn of it.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use lameduck::Moment;

use super::{
    soon,
    stage::{Stage, sum},
    until,
};

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, what: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(what));
        lines.map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn by(agent: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nuser-agent: {agent}\r\n\r\n")
}

/// On one thread, so that its log is this thread's.
#[tokio::test]
async fn late_requests_are_served_marked_counted_and_told_of_once() {
    let (log, _listening) = Log::listen();
    let stage = Stage::tcp().await;
    let hold = stage.hold().await;
    let mut early = stage.peer().await;
    stage.begin().await;
    let mut since = stage.peer().await;
    for peer in [&mut early, &mut since] {
        let answer = peer.get("/whoami").await;
        assert_eq!(answer.text(), "in time, from 127.0.0.1, lame_duck");
        assert!(!answer.says_close(), "nobody is told before Leave");
    }
    stage.leave().await;
    for n in 0..3 {
        let mut late = stage.peer().await;
        let agent = if n < 2 { "lagging/1.0" } else { "other/2.0" };
        late.send(&by(agent, "/whoami")).await;
        let answer = late.answer().await;
        assert_eq!(answer.text(), "late, from 127.0.0.1, lame_duck");
        assert!(answer.says_close(), "its only answer");
        late.closed().await;
        drop(late);
        until("it is gone", || stage.connections() == 3).await;
    }
    // In time by its connection, whenever its request comes.
    let answer = early.get("/whoami").await;
    assert_eq!(answer.text(), "in time, from 127.0.0.1, lame_duck");
    drop((early, since));
    assert_eq!(
        log.lines("new connections").len(),
        0,
        "told when all have come"
    );
    hold.release().await;
    let (report, drain) = stage.ends_clean().await;
    assert_eq!((report.requests.late, report.requests.served), (3, 6));
    assert_eq!(sum(&drain, "lameduck_late_requests_total", &[]), 3.0);
    let told = log.lines("new connections");
    assert_eq!(told.len(), 1, "{told:?}");
    for part in [
        "WARN",
        "count=3",
        "2 from 127.0.0.1 (lagging/1.0)",
        "1 from 127.0.0.1 (other/2.0)",
    ] {
        assert!(told[0].contains(part), "{part} is not in {}", told[0]);
    }
    assert!(sum(&drain, "lameduck_time_to_empty_seconds", &[]) > 0.0);
}

/// They are answered, but nobody waits for them, and that they come shows nothing.
#[tokio::test]
async fn probes_and_scrapes_hold_up_nothing() {
    let (log, _listening) = Log::listen();
    let stage = Stage::tcp().await;
    let scrape =
        "GET /hello HTTP/1.1\r\nhost: x\r\nx-prometheus-scrape-timeout-seconds: 10\r\n\r\n";
    // Kept open, idle, by a scraper; and a probe that is never answered.
    let mut scraper = stage.peer().await;
    scraper.send(scrape).await;
    assert_eq!(scraper.answer().await.text(), "hello");
    let mut probe = stage.peer().await;
    probe.send(&by("kube-probe/1.36", "/held/probe")).await;
    stage.cues.wait("probe begun").await;
    assert_eq!((stage.connections(), stage.requests()), (0, 0));
    let hold = stage.hold().await;
    stage.leave().await;
    let mut late = stage.knock().await;
    late.send(&by("kube-probe/1.36", "/whoami")).await;
    let answer = late.answer().await;
    // Its connection is late, though it shows nothing.
    assert_eq!(answer.text(), "late, from 127.0.0.1, lame_duck");
    drop(late);
    hold.release().await;
    let drain = stage.drain.clone();
    let report = stage.ends_before_its_deadline().await;
    let report = report.expect("nothing was lost");
    assert!(!drain.has(Moment::Cut));
    assert_eq!((report.requests.late, report.requests.served), (0, 0));
    assert_eq!(log.lines("new connections").len(), 0);
    drop((scraper, probe));
}

/// A client that uses one connection for probes and for requests is a client.
#[tokio::test]
async fn a_connection_that_brings_a_request_after_a_probe_is_waited_for() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;
    peer.send(&by("kube-probe/1.36", "/hello")).await;
    peer.answer().await;
    assert_eq!(stage.connections(), 0);
    peer.send("GET /held/a HTTP/1.1\r\nhost: x\r\n\r\n").await;
    stage.cues.wait("a begun").await;
    assert_eq!((stage.connections(), stage.requests()), (1, 1));
    stage.close_idle().await;
    stage.cues.give("a");
    assert!(peer.answer().await.says_close());
    peer.closed().await;
    drop(peer);
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_handler_learns_that_clients_are_asked_to_leave() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;
    peer.send("GET /poll HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until("it polls", || stage.requests() == 1).await;
    stage.begin().await;
    let early = tokio::time::timeout(std::time::Duration::from_millis(1), peer.try_answer()).await;
    assert!(early.is_err(), "T0 is not the moment");
    stage.leave().await;
    let answer = soon("its end", peer.answer()).await;
    assert_eq!(answer.text(), "nothing new; ask again");
    assert!(answer.says_close());
    peer.closed().await;
    drop(peer);
    stage.ends_clean().await;
}
