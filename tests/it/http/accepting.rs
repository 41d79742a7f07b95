//! The listener: open to the end, swept when it closes, and patient when there is no room.

use std::{os::fd::AsRawFd, process::Stdio, time::Duration};

use tokio::{net::TcpStream, process::Command};

use super::{
    peer::Peer,
    soon,
    stage::{Stage, Transport},
    until,
};

/// Who comes after idle connections were to be closed has so long for its first request.
const PATIENT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn new_connections_are_served_until_the_listener_closes() {
    let stage = Stage::with(Transport::Tcp, |settings| settings.spread = PATIENT).await;
    let hold = stage.hold().await;
    stage.leave().await;
    assert!(stage.peer().await.get("/hello").await.says_close());
    stage.close_idle().await;
    let answer = stage.knock().await.get("/hello").await;
    assert!(answer.says_close());
    stage.stop().await;
    assert!(stage.knock().await.get("/hello").await.says_close());
    let address = stage.address();
    stage.close().await;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("it refuses connections", refused).await;
    // Those that it has are served on.
    assert_eq!(hold.release().await.text(), "held");
    stage.ends_clean().await;
}

/// What the kernel has accepted, and we have not: no room was left for it. Closing the listener would reset it.
#[tokio::test]
async fn the_backlog_is_swept_when_the_listener_closes() {
    tokio::join!(sweep(Transport::Tcp), sweep(Transport::Unix));
}

async fn sweep(transport: Transport) {
    let stage = Stage::with(transport, |settings| {
        settings.max_connections = Some(1);
        settings.spread = PATIENT;
    })
    .await;
    let hold = stage.hold().await;
    let mut waiting = Vec::new();
    for n in 0..50 {
        let mut peer = stage.knock().await;
        // Some have sent their request already, some will.
        if n % 2 == 0 {
            peer.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        }
        waiting.push(peer);
    }
    assert_eq!(stage.connections(), 1);
    stage.leave().await;
    // Who is swept comes after idle connections were to be closed, and has its chance all the same.
    stage.close().await;
    for (n, peer) in waiting.iter_mut().enumerate() {
        if n % 2 == 1 {
            peer.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
        }
        let answer = peer.answer().await;
        assert_eq!(answer.text(), "hello", "{transport:?} {n}");
        assert!(answer.says_close());
        peer.closed().await;
    }
    drop(waiting);
    hold.release().await;
    let (report, _) = stage.ends_clean().await;
    assert_eq!(report.requests.served, 50);
}

#[tokio::test]
async fn who_comes_when_there_are_as_many_as_may_be_waits_and_is_served() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.max_connections = Some(2);
    })
    .await;
    let (one, two) = (stage.hold_by("one").await, stage.hold_by("two").await);
    let mut waits = stage.knock().await;
    waits.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // Two are served, and go on to be.
    assert_eq!(stage.connections(), 2);
    one.release().await;
    assert_eq!(waits.answer().await.text(), "hello");
    two.release().await;
    drop(waits);
    until("all are gone", || stage.connections() == 0).await;
    stage.ends_clean().await;
}

/// In a process of its own, which gets no more files than it has.
#[tokio::test]
async fn no_free_file_is_waited_for() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "http::accepting::starved_of_files", "--ignored"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = soon("the other process", child.output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "changes the limits of its process; run by `no_free_file_is_waited_for`"]
async fn starved_of_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.max_connections = Some(1_000);
    })
    .await;
    let mut served = stage.peer().await;
    served.get("/hello").await;
    // The limit is the next number that a file would get, plus one for the client's end of the connection.
    let next = {
        let file = std::fs::File::open("/dev/null").unwrap();
        u64::try_from(file.as_raw_fd()).unwrap()
    };
    let before = getrlimit(Resource::Nofile);
    let limit = |current| Rlimit {
        current,
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, limit(Some(next + 1))).unwrap();
    let mut starved = Peer::connect(stage.address()).await;
    starved.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // The server goes on with what it has, and accept fails meanwhile, again and again.
    for _ in 0..20 {
        assert_eq!(served.get("/hello").await.text(), "hello");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(stage.connections(), 1);
    setrlimit(Resource::Nofile, limit(before.current)).unwrap();
    assert_eq!(starved.answer().await.text(), "hello");
    drop((served, starved));
    stage.ends_clean().await;
}
