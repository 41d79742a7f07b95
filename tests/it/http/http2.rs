//! HTTP/2: GOAWAY, streams that are open, and peers that do not play by the rules.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::Request;
use lameduck::Moment;
use tokio::{net::TcpStream, task::JoinHandle};

use super::{
    peer::{BIG, Peer},
    soon,
    stage::{Stage, Transport, closed},
    until,
};

/// A client by the rules.
struct Client {
    sender: SendRequest<Bytes>,
    running: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn connect(stage: &Stage) -> Self {
        Self::with(stage, &h2::client::Builder::new()).await
    }

    async fn with(stage: &Stage, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(stage.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection): (_, Connection<TcpStream, Bytes>) =
            builder.handshake(stream).await.unwrap();
        Self {
            sender,
            running: tokio::spawn(connection),
        }
    }

    /// Sends a request without a body.
    async fn ask(&mut self, path: &str) -> Result<h2::client::ResponseFuture, h2::Error> {
        let mut sender = soon("a free stream", self.sender.clone().ready()).await?;
        let request = Request::get(format!("http://stage{path}"))
            .body(())
            .unwrap();
        Ok(sender.send_request(request, true)?.0)
    }

    async fn get(&mut self, path: &str) -> String {
        let answer = self.ask(path).await.unwrap();
        body_of(answer).await
    }

    /// No new stream can be opened any more.
    async fn is_told_to_go(&mut self) {
        let refused = async {
            while let Ok(answer) = self.ask("/hello").await {
                // Refused as well where it has crossed the GOAWAY.
                let _ = answer.await;
            }
        };
        soon("GOAWAY is seen", refused).await;
    }

    /// The connection ends as the protocol says.
    async fn ends(self) {
        // Held open by its user meanwhile: it is the server that ends it.
        let end = soon("the connection ends", self.running).await.unwrap();
        end.expect("ended properly");
        drop(self.sender);
    }
}

async fn body_of(answer: h2::client::ResponseFuture) -> String {
    let answer = soon("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    for header in ["connection", "keep-alive"] {
        assert!(!answer.headers().contains_key(header), "{answer:?}");
    }
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(chunk) = soon("a body", body.data()).await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        text.extend(chunk);
    }
    String::from_utf8(text).unwrap()
}

/// A running request, and an answer that has left in part, at every moment before the hard deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_come_to_their_end() {
    let moments = [
        None,
        Some(Moment::Began),
        Some(Moment::Leave),
        Some(Moment::CloseIdle),
        Some(Moment::Stop),
        Some(Moment::Close),
    ];
    let stories = moments.into_iter().flat_map(|moment| {
        [Transport::Tcp, Transport::Wire].map(|transport| async move {
            // GOAWAY is not acknowledged in time where the wire is slow, which must not matter.
            let stage = Stage::with(transport, |settings| {
                settings.goaway_timeout = Duration::from_millis(20);
            })
            .await;
            let mut client = Client::connect(&stage).await;
            let held = client.ask("/held/a").await.unwrap();
            let slow = client.ask("/slow/b").await.unwrap();
            stage.cues.wait("a begun").await;
            stage.cues.wait("b begun").await;
            if let Some(moment) = moment {
                stage.reach(moment).await;
            }
            if stage.drain.has(Moment::Leave) {
                client.is_told_to_go().await;
            } else {
                for _ in 0..3 {
                    assert_eq!(client.get("/hello").await, "hello");
                }
            }
            stage.cues.give("a");
            stage.cues.give("b");
            assert_eq!(body_of(held).await, "held");
            assert_eq!(body_of(slow).await, "first last");
            stage.leave().await;
            client.ends().await;
            let (_, drain) = stage.ends_clean().await;
            assert_eq!(closed(&drain, "goaway"), 1.0, "{transport:?} {moment:?}");
        })
    });
    futures_util::future::join_all(stories).await;
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_goes() {
    let stage = Stage::tcp().await;
    let hold = stage.hold().await;
    let mut used = Client::connect(&stage).await;
    assert_eq!(used.get("/hello").await, "hello");
    let fresh = Client::connect(&stage).await;
    stage.begin().await;
    assert_eq!(
        used.get("/hello").await,
        "hello",
        "nobody is told before Leave"
    );
    stage.leave().await;
    used.ends().await;
    fresh.ends().await;
    hold.release().await;
    let (_, drain) = stage.ends_clean().await;
    assert_eq!(closed(&drain, "goaway"), 2.0);
}

#[tokio::test]
async fn a_late_connection_gets_its_first_answer_and_then_goaway() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        // Silent ones are told to go after this.
        settings.spread = Duration::from_millis(700);
    })
    .await;
    let hold = stage.hold().await;
    stage.close_idle().await;
    let mut client = Client::connect(&stage).await;
    assert!(
        client
            .get("/whoami")
            .await
            .starts_with("late, from 127.0.0.1")
    );
    client.ends().await;
    // One that never asks is told to go all the same.
    let silent = Client::connect(&stage).await;
    soon("it ends", silent.running).await.unwrap().unwrap();
    hold.release().await;
    stage.ends_clean().await;
}

#[tokio::test]
async fn the_idle_timeout_says_goaway() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.idle_timeout = Duration::from_millis(100);
    })
    .await;
    let mut client = Client::connect(&stage).await;
    client.get("/hello").await;
    soon("it ends", client.running).await.unwrap().unwrap();
    until("it is counted", || closed(&stage.drain, "idle") == 1.0).await;
    stage.ends_clean().await;
}

/// hyper hands over a body before its last bytes have left: a client that grants little window gets them
/// long after. It is not idle meanwhile, and GOAWAY gives it no bound.
#[tokio::test]
async fn a_large_answer_to_a_slow_reader_outlives_the_goaway_timeout() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.goaway_timeout = Duration::from_millis(50);
        settings.spread = Duration::ZERO;
    })
    .await;
    let mut client = Client::connect(&stage).await;
    let answer = client.ask("/big").await.unwrap();
    let mut body = soon("a head", answer).await.unwrap().into_body();
    stage.close_idle().await;
    client.is_told_to_go().await;
    assert_eq!(stage.requests(), 1, "in flight to its last byte");
    let mut read = 0;
    let mut pauses = 0;
    while let Some(chunk) = soon("a body", body.data()).await {
        let chunk = chunk.expect("not cut");
        read += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        // Pauses that are together longer than every timeout.
        if pauses < 10 && read > pauses * BIG / 10 {
            pauses += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(read, BIG);
    client.ends().await;
    stage.ends_clean().await;
}

// --- raw frames ---

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// GET, http, the path as a literal, `:authority: x` (RFC 7541, appendix A).
fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x01, 1, b'x']);
    // END_STREAM and END_HEADERS.
    frame(HEADERS, 0x5, stream, &block)
}

async fn next_frame(peer: &mut Peer) -> (u8, u8, u32, Vec<u8>) {
    let head = peer.bytes(9).await;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (head[3], head[4], stream, peer.bytes(length).await)
}

/// The next frame of a kind.
async fn next_of(peer: &mut Peer, kind: u8) -> (u8, u32, Vec<u8>) {
    loop {
        let (this, flags, stream, payload) = next_frame(peer).await;
        if this == kind {
            return (flags, stream, payload);
        }
    }
}

async fn raw(stage: &Stage) -> Peer {
    let mut peer = stage.peer().await;
    peer.send_bytes(PREFACE).await;
    peer.send_bytes(&frame(SETTINGS, 0, 0, &[])).await;
    next_of(&mut peer, SETTINGS).await;
    peer
}

/// The last stream id of a GOAWAY.
fn last_id(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

#[tokio::test]
async fn a_peer_that_never_acknowledges_goaway_is_waited_for_while_a_stream_is_open() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.goaway_timeout = Duration::from_millis(100);
        settings.spread = Duration::ZERO;
    })
    .await;
    let mut idle = raw(&stage).await;
    let mut peer = raw(&stage).await;
    peer.send_bytes(&get(1, "/held/a")).await;
    stage.cues.wait("a begun").await;
    stage.leave().await;
    let (_, _, goaway) = next_of(&mut peer, GOAWAY).await;
    assert_eq!(last_id(&goaway), u32::MAX >> 1, "nothing is refused yet");
    next_of(&mut peer, PING).await;
    // Never acknowledged. Another connection shows that the timeout has passed.
    next_of(&mut idle, GOAWAY).await;
    idle.ended().await;
    // A request that was under way when GOAWAY came is answered.
    peer.send_bytes(&get(3, "/hello")).await;
    let (_, stream, payload) = next_of(&mut peer, DATA).await;
    assert_eq!((stream, &payload[..]), (3, &b"hello"[..]));
    stage.cues.give("a");
    let (_, stream, payload) = next_of(&mut peer, DATA).await;
    assert_eq!((stream, &payload[..]), (1, &b"held"[..]));
    // With no stream left it is waited for no longer than the timeout.
    peer.ended().await;
    let (_, drain) = stage.ends_clean().await;
    assert_eq!(closed(&drain, "goaway"), 2.0);
}

#[tokio::test]
async fn a_preface_without_settings_holds_up_nothing() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.goaway_timeout = Duration::from_millis(100);
    })
    .await;
    let hold = stage.hold().await;
    let mut peer = stage.peer().await;
    peer.send_bytes(PREFACE).await;
    next_of(&mut peer, SETTINGS).await;
    stage.leave().await;
    peer.ended().await;
    hold.release().await;
    stage.ends_clean().await;
}

/// Part of a request has been received: it is not closed, however long ago GOAWAY was sent.
#[tokio::test]
async fn half_a_headers_frame_is_part_of_a_request() {
    for cut in [1, 9, 12] {
        let stage = Stage::with(Transport::Tcp, |settings| {
            settings.goaway_timeout = Duration::from_millis(50);
            settings.spread = Duration::from_millis(30);
        })
        .await;
        let hold = stage.hold().await;
        let mut witness = raw(&stage).await;
        let mut peer = raw(&stage).await;
        let request = get(1, "/hello");
        peer.send_bytes(&request[..cut]).await;
        stage.close_idle().await;
        next_of(&mut peer, GOAWAY).await;
        // Another connection shows that the timeout has passed.
        witness.ended().await;
        peer.send_bytes(&request[cut..]).await;
        let (_, _, payload) = next_of(&mut peer, DATA).await;
        assert_eq!(payload, b"hello", "cut after {cut}");
        drop(peer);
        hold.release().await;
        stage.ends_clean().await;
    }
}

/// The same where the head is spread over frames: HEADERS has come, CONTINUATION has not.
#[tokio::test]
async fn half_a_header_block_is_part_of_a_request() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.goaway_timeout = Duration::from_millis(50);
        settings.spread = Duration::from_millis(30);
    })
    .await;
    let hold = stage.hold().await;
    let mut witness = raw(&stage).await;
    let mut peer = raw(&stage).await;
    let request = get(1, "/hello");
    let (first, rest) = request[9..].split_at(3);
    peer.send_bytes(&frame(HEADERS, 0x1, 1, first)).await;
    stage.close_idle().await;
    next_of(&mut peer, GOAWAY).await;
    witness.ended().await;
    peer.send_bytes(&frame(9, 0x4, 1, rest)).await;
    let (_, _, payload) = next_of(&mut peer, DATA).await;
    assert_eq!(payload, b"hello");
    drop(peer);
    hold.release().await;
    stage.ends_clean().await;
}

#[tokio::test]
async fn half_a_headers_frame_is_waited_for_no_longer_than_the_header_timeout() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.header_timeout = Duration::from_millis(100);
    })
    .await;
    let mut peer = raw(&stage).await;
    peer.send_bytes(&get(1, "/hello")[..12]).await;
    peer.ended().await;
    until("it is counted", || {
        closed(&stage.drain, "header_timeout") == 1.0
    })
    .await;
    stage.ends_clean().await;
}
