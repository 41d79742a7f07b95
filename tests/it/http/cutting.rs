//! The hard deadline: what is left is cut, and counted by what it was.

use lameduck::{Error, lifecycle::Outcome};

use super::{
    peer::Peer,
    stage::{Stage, closed},
    until,
};

/// One of everything that is still there, all cut by one stroke.
#[tokio::test]
async fn what_is_left_at_the_hard_deadline_is_cut_and_counted_by_what_it_was() {
    let stage = Stage::tcp().await;
    let mut running = stage.peer().await;
    running
        .send("GET /held/a HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let mut half_body = stage.peer().await;
    half_body
        .send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nh")
        .await;
    let mut half_head = stage.peer().await;
    half_head.send("GET /hello HT").await;
    let mut half_preface = stage.peer().await;
    half_preface.send("PRI * HTT").await;
    let mut unread = stage.peer().await;
    unread.send("GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let stream = tokio::net::TcpStream::connect(stage.address())
        .await
        .unwrap();
    let (sender, h2) = h2::client::handshake(stream).await.unwrap();
    let h2 = tokio::spawn(h2);
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::get("http://x/held/b").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    stage.cues.wait("a begun").await;
    stage.cues.wait("b begun").await;
    until("all are in flight", || stage.requests() == 4).await;

    stage.cut().await;
    for peer in [
        &mut running,
        &mut half_body,
        &mut half_head,
        &mut half_preface,
    ] {
        peer.ended().await;
    }
    answer.await.unwrap_err();
    let _ = h2.await;
    unread.ended().await;
    let (result, drain) = stage.ends().await;
    let Err(Error::Cut { report }) = result else {
        panic!("requests were cut: {result:?}");
    };
    assert_eq!(report.outcome, Outcome::Cut);
    assert_eq!(report.requests.cut, 4);
    assert_eq!(report.connections.cut, 6);
    let cut: Vec<(&str, u64)> = report
        .connections
        .cut_by
        .iter()
        .map(|(what, n)| (what.as_str(), *n))
        .collect();
    assert_eq!(
        cut,
        [
            ("http/1.1 not read by its peer", 1),
            ("http/1.1 receiving", 1),
            ("http/1.1 serving", 2),
            ("http/2 serving", 1),
            ("unknown receiving", 1),
        ]
    );
    assert_eq!(closed(&drain, "cut"), 6.0);
}

/// A client that does not read is waited for in a drain as in serving: until the hard deadline, where that
/// comes first.
#[tokio::test]
async fn a_client_that_never_reads_does_not_outlive_the_hard_deadline() {
    let stage = Stage::tcp().await;
    let mut peer: Peer = stage.peer().await;
    peer.send("GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until("it is in flight", || stage.requests() == 1).await;
    stage.cut().await;
    peer.ended().await;
    let (result, _) = stage.ends().await;
    let Err(Error::Cut { report }) = result else {
        panic!("a request was cut: {result:?}");
    };
    assert_eq!(report.requests.cut, 1);
    assert_eq!(
        report.connections.cut_by["http/1.1 not read by its peer"],
        1
    );
}

#[tokio::test]
async fn idle_connections_are_closed_and_not_cut() {
    let stage = Stage::tcp().await;
    let hold = stage.hold().await;
    let mut silent = stage.peer().await;
    let mut used = stage.peer().await;
    used.get("/hello").await;
    stage.cut().await;
    silent.closed().await;
    used.closed().await;
    drop(hold);
    let (result, _) = stage.ends().await;
    let Err(Error::Cut { report }) = result else {
        panic!("a request was cut: {result:?}");
    };
    assert_eq!(report.connections.idle_closed, 2);
    assert_eq!(report.connections.cut, 1);
}
