//! HTTP/1.1 where it is delicate: pipelines, half-closes, early answers, peers that stall, and the race over
//! an idle connection.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lameduck::Moment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    peer::{BIG, Peer},
    soon,
    stage::{Stage, Transport, WIRE, closed, sum},
    until,
};

// --- pipelines ---

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;
    peer.send("GET /held/a HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    stage.cues.wait("a begun").await;
    stage.begin().await;
    stage.cues.give("a");
    let first = peer.answer().await;
    let second = peer.answer().await;
    assert_eq!((first.text(), second.text()), ("held", "hello"));
    assert!(!first.says_close() && !second.says_close());
    drop(peer);
    stage.ends_clean().await;
}

/// The answer that says close is the last: what was pipelined behind it is not begun, which its client learns
/// from that very header and may send again (RFC 9112, section 9.6).
#[tokio::test]
async fn what_is_pipelined_behind_the_last_answer_is_not_begun() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.linger = Duration::from_millis(300);
        settings.spread = Duration::ZERO;
    })
    .await;
    let hold = stage.hold().await;
    let mut peer = stage.peer().await;
    peer.send("GET /held/a HTTP/1.1\r\nhost: x\r\n\r\nGET /held/b HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    stage.cues.wait("a begun").await;
    stage.leave().await;
    stage.cues.give("a");
    assert!(peer.answer().await.says_close());
    peer.closed().await;
    // It is closed on our side, and read on for a while. What comes meanwhile is not begun either, not even
    // when idle connections are closed and looked at once more.
    peer.send("GET /held/b HTTP/1.1\r\nhost: x\r\n\r\n").await;
    stage.close_idle().await;
    peer.send("GET /held/b HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until("our side has given it up", || stage.connections() == 1).await;
    assert!(!stage.cues.given("b begun"));
    hold.release().await;
    let (report, _) = stage.ends_clean().await;
    assert_eq!(report.requests.served, 0, "all were taken in before T0");
}

// --- half-closes and early answers ---

#[tokio::test]
async fn a_client_that_closes_its_half_after_its_request_gets_its_answer() {
    for moment in [None, Some(Moment::Leave), Some(Moment::CloseIdle)] {
        let stage = Stage::tcp().await;
        let mut peer = stage.peer().await;
        peer.send("GET /slow/a HTTP/1.1\r\nhost: x\r\n\r\n").await;
        peer.stream.shutdown().await.unwrap();
        stage.cues.wait("a begun").await;
        if let Some(moment) = moment {
            stage.reach(moment).await;
        }
        stage.cues.give("a");
        assert_eq!(peer.answer().await.text(), "first last");
        peer.closed().await;
        stage.ends_clean().await;
    }
}

/// Closing a socket with unread bytes in it sends a reset, which destroys an answer under way (RFC 9112,
/// section 9.6): so the rest of the body is read, for a while.
#[tokio::test]
async fn an_early_answer_to_an_unread_body_arrives() {
    for moment in [None, Some(Moment::Leave), Some(Moment::CloseIdle)] {
        let stage = Stage::tcp().await;
        let hold = stage.hold().await;
        let mut peer = stage.peer().await;
        let body = vec![b'x'; 64 * 1024];
        let head = format!(
            "POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            4 * body.len()
        );
        // Part of the head first, so that it is part of a request when the moment comes.
        peer.send(&head[..20]).await;
        if let Some(moment) = moment {
            stage.reach(moment).await;
        }
        peer.send(&head[20..]).await;
        for _ in 0..3 {
            // The answer may have come by now; writing must go on without an error.
            peer.send_bytes(&body).await;
        }
        let answer = peer.answer().await;
        assert_eq!((answer.status, answer.text()), (403, "no"));
        peer.send_bytes(&body).await;
        peer.closed().await;
        drop(peer);
        hold.release().await;
        stage.ends_clean().await;
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told_to_go_on() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;
    peer.send(
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(peer.answer().await.status, 100);
    stage.close_idle().await;
    peer.send("hi").await;
    let answer = peer.answer().await;
    assert_eq!(answer.text(), "hi");
    assert!(answer.says_close());
    peer.closed().await;
    drop(peer);
    stage.ends_clean().await;
}

/// HTTP/1.0 closes by itself, and knows keep-alive only where it is asked for.
#[tokio::test]
async fn http_1_0_is_served_to_its_end() {
    let stage = Stage::tcp().await;
    let hold = stage.hold().await;
    let mut plain = stage.peer().await;
    plain.send("GET /hello HTTP/1.0\r\n\r\n").await;
    assert_eq!(plain.answer().await.text(), "hello");
    plain.closed().await;
    drop(plain);
    until("it is gone", || stage.connections() == 1).await;
    let mut kept = stage.peer().await;
    let request = "GET /hello HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    kept.send(request).await;
    assert_eq!(kept.answer().await.header("connection"), Some("keep-alive"));
    stage.leave().await;
    kept.send(request).await;
    assert!(kept.answer().await.says_close());
    kept.closed().await;
    drop(kept);
    hold.release().await;
    stage.ends_clean().await;
}

// --- peers that stall ---

#[tokio::test]
async fn half_a_head_is_waited_for_no_longer_than_the_header_timeout() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.header_timeout = Duration::from_millis(100);
    })
    .await;
    let mut fresh = stage.peer().await;
    let mut used = stage.peer().await;
    let mut preface = stage.peer().await;
    used.get("/hello").await;
    fresh.send("GET /hello HTTP/1.1\r\nhost").await;
    used.send("GET /hello HTTP/1.1\r\nhost").await;
    preface.send("PRI * HTTP/2.0\r\n").await;
    for peer in [&mut fresh, &mut used, &mut preface] {
        peer.ended().await;
    }
    until("all are counted", || {
        closed(&stage.drain, "header_timeout") == 3.0
    })
    .await;
    stage.ends_clean().await;
}

/// The header timeout is neither the handler's nor the body's.
#[tokio::test]
async fn a_slow_body_and_a_slow_handler_are_waited_for() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.header_timeout = Duration::from_millis(50);
        settings.idle_timeout = Duration::from_millis(300);
    })
    .await;
    let mut body = stage.peer().await;
    body.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        .await;
    let slow = stage.hold_by("slow").await;
    let mut idle = stage.peer().await;
    let mut half = stage.peer().await;
    half.send("GET").await;
    // Both timeouts pass for somebody.
    half.ended().await;
    idle.closed().await;
    body.send("cd").await;
    assert_eq!(body.answer().await.text(), "abcd");
    slow.release().await;
    until("idle again, for too long", || stage.connections() == 0).await;
    let drain = stage.drain.clone();
    stage.ends_clean().await;
    assert_eq!(closed(&drain, "header_timeout"), 1.0);
    assert!(closed(&drain, "idle") >= 1.0);
}

#[tokio::test]
async fn a_client_that_never_reads_is_given_up_after_the_write_timeout() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.write_timeout = Duration::from_millis(100);
    })
    .await;
    let mut peer = stage.peer().await;
    peer.send("GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until("it is given up", || {
        closed(&stage.drain, "write_timeout") == 1.0
    })
    .await;
    peer.ended().await;
    stage.ends_clean().await;
}

/// Slow is not stuck: who takes a byte now and then gets the whole answer, whatever the drain does.
#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.write_timeout = Duration::from_millis(500);
    })
    .await;
    let mut peer = stage.peer().await;
    peer.send("GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut read = 0;
    let mut chunk = vec![0; 1024 * 1024];
    stage.close_idle().await;
    while read < BIG {
        read += soon("bytes", peer.stream.read(&mut chunk)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(peer);
    stage.ends_clean().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.idle_timeout = Duration::from_millis(100);
        settings.keep_alive_hint = None;
    })
    .await;
    let mut silent = stage.peer().await;
    let mut used = stage.peer().await;
    assert_eq!(used.get("/hello").await.header("keep-alive"), None);
    silent.closed().await;
    used.closed().await;
    drop((silent, used));
    until("both are counted", || closed(&stage.drain, "idle") == 2.0).await;
    stage.ends_clean().await;
}

// --- the race over an idle connection ---

/// The bytes are in the kernel before the connection is closed, but nobody has polled the socket: the
/// runtime's only thread was busy. A reader that trusts tokio's readiness would not see them.
#[tokio::test]
async fn a_request_that_the_kernel_has_and_nobody_has_polled_for_is_answered() {
    for reused in [false, true] {
        let stage = Stage::with(Transport::Tcp, |settings| settings.spread = Duration::ZERO).await;
        let hold = stage.hold().await;
        let mut client = std::net::TcpStream::connect(stage.address()).unwrap();
        until("it is accepted", || stage.connections() == 2).await;
        if reused {
            let theirs = client.try_clone().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let mut peer = Peer::new(tokio::net::TcpStream::from_std(theirs).unwrap());
            peer.get("/hello").await;
        }
        // Told of the moment before the connection is, for its waiter is the older one; writes before the
        // connection's task gets its turn on the only thread.
        let drain = stage.drain.clone();
        let writer = tokio::spawn(async move {
            drain.reached(Moment::CloseIdle).await;
            client
                .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
                .unwrap();
            client
        });
        tokio::task::yield_now().await;
        stage.close_idle().await;
        let mut client = writer.await.unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            client.set_nonblocking(false).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = soon("an answer", answer).await.unwrap().unwrap();
        assert!(answer.contains("connection: close"), "{reused}: {answer}");
        assert!(answer.ends_with("hello"), "{reused}: {answer}");
        hold.release().await;
        stage.ends_clean().await;
    }
}

/// With a wire between them nobody can win this race for sure: a request that crosses our FIN finds the
/// connection closed. But then it was not begun; and whatever was begun is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_crosses_our_fin_is_answered_or_not_begun() {
    let stage = Stage::with(Transport::Wire, |settings| {
        settings.spread = Duration::from_millis(40);
    })
    .await;
    let hold = stage.hold().await;
    let before = sum(&stage.drain, "lameduck_requests_total", &[]);
    let mut peers = Vec::new();
    for _ in 0..60 {
        peers.push(stage.peer().await);
    }
    let answered = Arc::new(AtomicU64::new(0));
    let racing = peers.into_iter().map(|mut peer| {
        let (drain, answered) = (stage.drain.clone(), answered.clone());
        async move {
            drain.reached(Moment::CloseIdle).await;
            tokio::time::sleep(WIRE * fastrand::u32(0..10)).await;
            if let Some(answer) = peer.try_get("/hello").await {
                assert_eq!(answer.text(), "hello");
                answered.fetch_add(1, SeqCst);
            }
        }
    });
    tokio::join!(join_all(racing), stage.close_idle());
    hold.release().await;
    let (_, drain) = stage.ends_clean().await;
    let begun = sum(&drain, "lameduck_requests_total", &[]) - before;
    assert_eq!(begun, answered.load(SeqCst) as f64);
}
