//! What a request may cost.

use std::{net::SocketAddr, time::Duration};

use lameduck::{api::Limits, jobs::engine::sqlite::SqliteOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::process::harness::until;

use super::stage::{BOUND, MAIL, Stage};

const TEN_MEGABYTES: usize = 10 << 20;

/// A client that sends what it is told, byte by byte.
struct Slow(TcpStream);

impl Slow {
    async fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Everything that comes until the server closes.
    async fn until_the_end(mut self) -> String {
        let mut answer = Vec::new();
        let read = timeout(BOUND, self.0.read_to_end(&mut answer)).await;
        read.expect("an end").unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// The head of an answer.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(BOUND, self.0.read_u8()).await.unwrap().unwrap());
        }
        String::from_utf8(head).unwrap()
    }
}

#[tokio::test]
async fn ten_megabytes_are_a_job_where_that_is_allowed() {
    let stage = Stage::with(|_, changes| changes.limits.max_body = TEN_MEGABYTES).await;
    let payload = "x".repeat(TEN_MEGABYTES);

    let id = stage.submit(&payload).await;
    let (claim, seen) = stage.reserve_payload().await;

    assert_eq!(claim.job().to_string(), id);
    assert!(seen == payload, "it came back otherwise");
    let detail = stage
        .post(MAIL, &[], &format!("{payload}x"))
        .await
        .problem(413);
    assert!(detail.contains("max-body"), "{detail}");
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_refused_before_it_comes() {
    let stage = Stage::with(|_, changes| changes.limits.max_body = 10).await;

    let mut told = Slow::post(stage.address, MAIL, "content-length: 11", "").await;
    let chunked = "transfer-encoding: chunked";
    let mut untold = Slow::post(stage.address, MAIL, chunked, "b\r\n01234567890\r\n").await;

    for peer in [&mut told, &mut untold] {
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        assert!(head.contains("application/problem+json"), "{head}");
    }
}

#[tokio::test]
async fn a_body_that_pauses_for_too_long_is_ended_and_its_connection_too() {
    let pause = Duration::from_millis(50);
    let stage = Stage::with(|_, changes| changes.limits.body_pause = pause).await;

    let slow = Slow::post(stage.address, MAIL, "content-length: 10", "01234").await;

    let answer = slow.until_the_end().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    for setting in ["'body-pause'", "'body-time'"] {
        assert!(answer.contains(setting), "{answer}");
    }
    assert!(stage.engine.queues().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_trickles_is_ended_all_the_same() {
    let stage =
        Stage::with(|_, changes| changes.limits.body_time = Duration::from_millis(200)).await;
    let mut slow = Slow::post(stage.address, MAIL, "content-length: 1000000", "0").await;
    let (mut answer, mut trickle) = slow.0.split();

    let trickling = async {
        loop {
            // Until nobody reads any more.
            if trickle.write_all(b"0").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut status = [0; 13];
    let answered = async {
        timeout(BOUND, answer.read_exact(&mut status))
            .await
            .unwrap()
    };
    tokio::select! {
        () = trickling => unreachable!(),
        answered = answered => drop(answered.unwrap()),
    }

    assert_eq!(&status, b"HTTP/1.1 408 ");
}

#[tokio::test]
async fn bodies_that_find_no_room_are_told_so_at_once_and_find_it_later() {
    const KB: usize = 1000;
    // With what they cost beside, two payloads of 200 kB are too much.
    let stage = Stage::with(|_, changes| {
        changes.limits.max_body = 200 * KB;
        changes.limits.max_batch_body = 200 * KB;
        changes.limits.max_bodies = 400 * KB;
    })
    .await;
    let too_much = "x".repeat(200 * KB);
    let headers = format!("content-length: {}", 200 * KB);
    let mut holder = Slow::post(stage.address, MAIL, &headers, "half").await;
    until("the half body holds its room", async || {
        (stage.post(MAIL, &[], &too_much).await.status == 503).then_some(())
    })
    .await;

    let refused = stage.post(MAIL, &[], &too_much).await;
    let small = stage.post(MAIL, &[], &"x".repeat(100 * KB)).await;
    holder.send(&"x".repeat(200 * KB - 4)).await;
    let held = holder.head().await;
    let later = stage.post(MAIL, &[], &too_much).await;

    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.problem(503).contains("max-bodies"));
    assert_eq!(small.status, 202);
    assert!(held.starts_with("HTTP/1.1 202 "), "{held}");
    assert_eq!(later.status, 202);
}

#[tokio::test]
async fn who_waits_takes_a_place_and_gives_it_back() {
    let stage = Stage::with(|_, changes| changes.limits.max_waiting = 1).await;
    let id = stage.submit("x").await;
    let path = format!("/v1/jobs/{id}?wait=60s");
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut waiting = TcpStream::connect(stage.address).await.unwrap();
    waiting.write_all(head.as_bytes()).await.unwrap();

    let full = until("the place is taken", async || {
        let answer = stage.get(&format!("/v1/jobs/{id}?wait=1ms")).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(full.headers["retry-after"], "1");
    assert!(full.problem(503).contains("max-waiting"));
    stage
        .get(&format!("/v1/jobs/{id}/events"))
        .await
        .problem(503);
    assert_eq!(stage.state(&id).await, "pending");

    drop(waiting);
    until("the place is free", async || {
        let answer = stage.get(&format!("/v1/jobs/{id}?wait=1ms")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let stage = Stage::start().await;
    let long = format!("x-long: {}", "x".repeat(100 * 1024));

    let mut peer = Slow::post(stage.address, MAIL, &long, "").await;

    let head = peer.head().await;
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
}

#[test]
fn the_api_page_states_the_defaults_that_are_in_the_code() {
    const PAGE: &str = include_str!("../../../docs/api.md");
    let limits = Limits::default();
    let queue = SqliteOptions::default();
    for (setting, default) in [
        ("max-body", format!("{} bytes", limits.max_body)),
        ("max-batch", format!("{} lines", limits.max_batch)),
        ("max-batch-body", format!("{} bytes", limits.max_batch_body)),
        ("max-bodies", format!("{} bytes", limits.max_bodies)),
        ("max-waiting", format!("{} requests", limits.max_waiting)),
        ("body-pause", format!("{:?}", limits.body_pause)),
        ("body-time", format!("{:?}", limits.body_time)),
        ("max-queue-length", format!("{} jobs", queue.max_waiting)),
    ] {
        let row = format!("| `{setting}` | {default} |");
        assert!(PAGE.contains(&row), "docs/api.md should say {row}");
    }
}
