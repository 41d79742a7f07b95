//! HTTP/2 peers that read on and grant no window: `write_timeout` bounds them as it bounds a peer that does not read.

use std::time::Duration;

use bytes::Bytes;
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use http::Request;

use super::{
    soon,
    stage::{Stage, Transport, closed, sum},
    until,
};

const PATIENCE: Duration = Duration::from_millis(200);

async fn stage() -> Stage {
    Stage::with(Transport::Tcp, |settings| settings.write_timeout = PATIENCE).await
}

/// A client that lets so many bytes of each answer come.
async fn client(stage: &Stage, window: u32) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(stage.address())
        .await
        .unwrap();
    let mut builder = Builder::new();
    builder.initial_window_size(window);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    soon("a stream", sender.ready()).await.unwrap()
}

/// The body of an answer whose head has come.
async fn ask(sender: &mut SendRequest<Bytes>, path: &str) -> RecvStream {
    let request = Request::get(format!("http://stage{path}"));
    let request = request.body(()).unwrap();
    let mut sender = soon("a stream", sender.clone().ready()).await.unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    soon("a head", answer).await.unwrap().into_body()
}

/// Reads to the end, or to the reset.
async fn read(mut body: RecvStream, release: bool) -> Result<usize, h2::Error> {
    let mut bytes = 0;
    while let Some(chunk) = soon("more", body.data()).await {
        let chunk = chunk?;
        bytes += chunk.len();
        if release {
            body.flow_control().release_capacity(chunk.len()).unwrap();
        }
    }
    Ok(bytes)
}

fn in_flight(stage: &Stage) -> f64 {
    sum(&stage.drain, "lameduck_requests_in_flight", &[])
}

#[tokio::test]
async fn a_stream_that_is_granted_no_window_is_reset_and_the_others_go_on() {
    let stage = stage().await;
    // The window of the connection is left to the other streams.
    let mut sender = client(&stage, 1_000).await;
    let held = {
        let mut sender = sender.clone();
        tokio::spawn(async move { read(ask(&mut sender, "/held/a").await, true).await })
    };
    stage.cues.wait("a begun").await;

    let stuck = ask(&mut sender, "/big").await;
    let end = read(stuck, false).await.expect_err("it is reset");

    assert_eq!(end.reason(), Some(h2::Reason::CANCEL), "{end}");
    until("its request is over", || in_flight(&stage) == 1.0).await;
    assert_eq!(
        read(ask(&mut sender, "/hello").await, true).await.unwrap(),
        5
    );
    stage.cues.give("a");
    assert_eq!(held.await.unwrap().unwrap(), 4);
    assert_eq!(closed(&stage.drain, "write_timeout"), 0.0);
    drop(sender);
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_client_that_never_grants_anything_is_bound_too() {
    let stage = stage().await;
    for path in ["/hello", "/big"] {
        let mut sender = client(&stage, 0).await;
        let stuck = ask(&mut sender, path).await;
        read(stuck, false).await.expect_err("it does not last");
        until("its request is over", || in_flight(&stage) == 0.0).await;
    }
    stage.ends_clean().await;
}

/// What is small leaves hyper's hands at once; the rest of the connection must not be lost over it.
#[tokio::test]
async fn an_answer_that_cannot_be_reset_any_more_costs_nobody_else_an_answer() {
    let stage = stage().await;
    let mut sender = client(&stage, 3).await;
    let held = {
        let mut sender = sender.clone();
        tokio::spawn(async move { read(ask(&mut sender, "/held/a").await, true).await })
    };
    stage.cues.wait("a begun").await;
    let stuck = ask(&mut sender, "/hello").await;
    // Several times as long as there is patience.
    tokio::time::sleep(PATIENCE * 4).await;

    stage.cues.give("a");

    assert_eq!(held.await.unwrap().unwrap(), 4);
    read(stuck, false).await.expect_err("it does not last");
    until("its request is over", || in_flight(&stage) == 0.0).await;
    drop(sender);
    stage.ends_clean().await;
}

/// A body that has nothing to say is no fault of its reader's.
#[tokio::test]
async fn a_stream_that_is_silent_is_not_stuck() {
    let stage = stage().await;
    let mut sender = client(&stage, 1_000).await;
    let body = ask(&mut sender, "/slow/a").await;
    stage.cues.wait("a begun").await;
    tokio::time::sleep(PATIENCE * 4).await;

    stage.cues.give("a");

    assert_eq!(read(body, true).await.unwrap(), "first last".len());
    drop(sender);
    stage.ends_clean().await;
}

/// Bytes that leave one by one are progress, as over HTTP/1.
#[tokio::test]
async fn a_slow_reader_is_not_stuck() {
    let stage = stage().await;
    let mut sender = client(&stage, 4 << 20).await;
    let mut body = ask(&mut sender, "/big").await;
    let mut bytes = 0;
    while let Some(chunk) = soon("more", body.data()).await {
        let chunk = chunk.expect("not reset");
        bytes += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        if bytes % (4 << 20) < chunk.len() {
            tokio::time::sleep(PATIENCE / 3).await;
        }
    }
    assert_eq!(bytes, super::peer::BIG);
    drop(sender);
    stage.ends_clean().await;
}
