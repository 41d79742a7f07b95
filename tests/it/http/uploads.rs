//! Uploads that pause: a drain waits for those that go on and for handlers that work, not for clients that have forgotten
//! what they began.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::Request;
use lameduck::{
    Lifecycle, Moment,
    http::{HttpSettings, Listener},
    prelude::*,
};

use super::{
    peer::Peer,
    soon,
    stage::{Cues, Stage, Transport, closed, sum},
    until,
};

/// How long a sender may pause in a drain. Whatever is shown to outlast it takes several times as long.
const PAUSE: Duration = Duration::from_millis(150);

async fn stage() -> Stage {
    Stage::with(Transport::Tcp, |settings| {
        settings.lame_duck_pause = PAUSE;
        settings.spread = Duration::ZERO;
    })
    .await
}

/// An upload over HTTP/2.
async fn upload_h2(stage: &Stage, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let stream = tokio::net::TcpStream::connect(stage.address())
        .await
        .unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = soon("a stream", sender.ready()).await.unwrap();
    let request = Request::post(format!("http://stage{path}"));
    let request = request.body(()).unwrap();
    sender.send_request(request, false).unwrap()
}

async fn text_of(mut body: RecvStream) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = soon("a body", body.data()).await {
        text.extend(chunk.unwrap());
    }
    String::from_utf8(text).unwrap()
}

const HEAD: &str = "POST /echo HTTP/1.1\r\nhost: x\r\n";

#[tokio::test]
async fn a_half_sent_upload_holds_no_drain_longer_than_its_sender_may_pause() {
    let stage = stage().await;
    let halves = [
        "content-length: 10\r\n\r\n",
        "content-length: 10\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "transfer-encoding: chunked\r\n\r\n4\r\nha",
    ];
    let mut peers = Vec::new();
    for half in halves {
        let mut peer = stage.peer().await;
        peer.send(&format!("{HEAD}{half}")).await;
        peers.push((half, peer));
    }
    let (answer, mut body) = upload_h2(&stage, "/echo").await;
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    until("all are in flight", || stage.requests() == halves.len() + 1).await;

    stage.leave().await;

    for (half, peer) in &mut peers {
        let answer = peer.answer().await;
        assert_eq!(answer.status, 408, "{half:?}");
        assert!(answer.says_close(), "{half:?}: {answer:?}");
        assert!(
            answer.text().contains("send the request again"),
            "{answer:?}"
        );
        peer.closed().await;
    }
    soon("the stream is given up", answer).await.unwrap_err();
    drop(body);
    let (report, drain) = stage.ends_clean().await;
    assert!(report.seconds < 10.0, "{report:?}");
    assert_eq!(closed(&drain, "body_timeout"), halves.len() as f64 + 1.0);
}

/// Half a head asks for nothing yet; its sender is not waited for either.
#[tokio::test]
async fn half_a_head_holds_no_drain_longer_than_its_sender_may_pause() {
    let stage = stage().await;
    let mut peer = stage.peer().await;
    peer.send("GET /hello HTTP/1.1\r\nhos").await;

    stage.leave().await;

    peer.ended().await;
    let (_, drain) = stage.ends_clean().await;
    assert_eq!(closed(&drain, "header_timeout"), 1.0);
}

#[tokio::test]
async fn an_upload_may_pause_for_as_long_as_it_likes_until_clients_are_asked_to_leave() {
    let stage = stage().await;
    let mut peer = stage.peer().await;
    peer.send(&format!("{HEAD}content-length: 8\r\n\r\nhalf"))
        .await;
    let (answer, mut body) = upload_h2(&stage, "/echo").await;
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    until("both are in flight", || stage.requests() == 2).await;
    stage.begin().await;
    // Time passes; nothing else can show that nobody counts it.
    tokio::time::sleep(PAUSE * 3).await;

    peer.send("half").await;
    body.send_data(Bytes::from_static(b"half"), true).unwrap();

    assert_eq!(peer.answer().await.text(), "halfhalf");
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, "halfhalf");
    // It was answered before anybody was asked to leave, and would be waited for to speak once more.
    drop(peer);
    stage.ends_clean().await;
}

#[tokio::test]
async fn an_upload_that_goes_on_in_small_pieces_is_waited_for() {
    let stage = stage().await;
    let mut peer = stage.peer().await;
    peer.send(&format!("{HEAD}content-length: 20\r\n\r\n"))
        .await;
    let (answer, mut body) = upload_h2(&stage, "/echo").await;
    until("both are in flight", || stage.requests() == 2).await;
    stage.leave().await;

    // Together several times as long as one pause may be.
    for _ in 0..19 {
        peer.send("x").await;
        body.send_data(Bytes::from_static(b"x"), false).unwrap();
        tokio::time::sleep(PAUSE / 5).await;
    }
    peer.send("x").await;
    body.send_data(Bytes::from_static(b"x"), true).unwrap();

    assert_eq!(peer.answer().await.text(), "x".repeat(20));
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, "x".repeat(20));
    let (_, drain) = stage.ends_clean().await;
    assert_eq!(closed(&drain, "body_timeout"), 0.0);
}

/// What has come completely is the handler's, however long it takes.
#[tokio::test]
async fn a_handler_that_has_its_whole_body_is_waited_for() {
    let stage = stage().await;
    let mut witness = stage.peer().await;
    witness
        .send(&format!("{HEAD}content-length: 8\r\n\r\nhalf"))
        .await;
    let mut peer = stage.peer().await;
    peer.send("POST /held/a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody")
        .await;
    let (answer, mut body) = upload_h2(&stage, "/held/b").await;
    body.send_data(Bytes::from_static(b"body"), true).unwrap();
    stage.cues.wait("a begun").await;
    stage.cues.wait("b begun").await;
    until("all are in flight", || stage.requests() == 3).await;
    stage.leave().await;
    // Another connection shows that the pause is over.
    assert_eq!(witness.answer().await.status, 408);
    tokio::time::sleep(PAUSE).await;

    stage.cues.give("a");
    stage.cues.give("b");

    assert_eq!(peer.answer().await.text(), "held");
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, "held");
    stage.ends_clean().await;
}

/// A client that has filled the window waits for the handler, not the handler for the client.
#[tokio::test]
async fn a_client_that_a_slow_handler_holds_back_has_forgotten_nothing() {
    const SENT: usize = 3 << 20;
    let cues = Cues::default();
    let reads_late = {
        let cues = cues.clone();
        move |body: axum::body::Body| async move {
            cues.give("begun");
            cues.of("read").cancelled().await;
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            body.len().to_string()
        }
    };
    let router = axum::Router::new().route("/", axum::routing::post(reads_late));
    let serve = |lifecycle: Lifecycle, listener: Listener, settings: HttpSettings| {
        lifecycle.http_with("stage", listener, router, settings)
    };
    let change = |settings: &mut HttpSettings| settings.lame_duck_pause = PAUSE;
    let stage = Stage::serving(Transport::Tcp, cues, change, serve).await;
    let mut peer: Peer = stage.peer().await;
    let sending = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {SENT}\r\n\r\n");
        peer.send(&head).await;
        peer.send_bytes(&vec![b'x'; SENT]).await;
        peer.answer().await
    });
    stage.cues.wait("begun").await;
    let (answer, mut body) = upload_h2(&stage, "/").await;
    body.send_data(Bytes::from(vec![b'x'; SENT]), true).unwrap();
    until("both are in flight", || stage.requests() == 2).await;
    stage.leave().await;
    tokio::time::sleep(PAUSE * 4).await;
    assert_eq!(closed(&stage.drain, "body_timeout"), 0.0);

    stage.cues.give("read");

    let first = soon("an answer", sending).await.unwrap();
    assert_eq!(first.text(), SENT.to_string());
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(text_of(answer.into_body()).await, SENT.to_string());
    stage.ends_clean().await;
}

/// A request that is answered while its body still comes is a conversation.
#[tokio::test]
async fn an_answer_that_has_begun_may_pause_with_its_client() {
    let stage = stage().await;
    let mut peer = stage.peer().await;
    peer.send("GET /slow/a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nha")
        .await;
    stage.cues.wait("a begun").await;
    let mut witness = stage.peer().await;
    witness
        .send(&format!("{HEAD}content-length: 8\r\n\r\nhalf"))
        .await;
    until("both are in flight", || stage.requests() == 2).await;
    stage.reach(Moment::Leave).await;
    assert_eq!(witness.answer().await.status, 408);

    stage.cues.give("a");

    assert_eq!(peer.answer().await.text(), "first last");
    drop(peer);
    let (_, drain) = stage.ends_clean().await;
    let requests = sum(
        &drain,
        "lameduck_connections_closed_total",
        &[("reason", "body_timeout")],
    );
    assert_eq!(requests, 1.0);
}
