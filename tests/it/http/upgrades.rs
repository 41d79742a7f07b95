//! What has no end of its own: event streams, websockets, tunnels.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use lameduck::Moment;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::frame::coding::CloseCode},
};

use super::{
    peer::Peer,
    soon,
    stage::{Stage, Transport, closed, sum},
    until,
};

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
const CONNECT: &str = "CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n";

async fn websocket(stage: &Stage) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(stage.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let url = format!("ws://{}/socket", stage.address());
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket
}

async fn next(
    socket: &mut WebSocketStream<TcpStream>,
) -> Option<Result<Message, tungstenite::Error>> {
    soon("a message", socket.next()).await
}

async fn is_told_to_go(socket: &mut WebSocketStream<TcpStream>) {
    match next(socket).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("no goodbye but {other:?}"),
    }
}

#[tokio::test]
async fn an_event_stream_ends_properly_when_clients_are_asked_to_leave() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;
    peer.send("GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // The head.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(peer.bytes(1).await);
    }
    let ticks = async |peer: &mut Peer, n: usize| {
        for _ in 0..n {
            let tick = soon("a tick", peer.chunk()).await.unwrap();
            assert_eq!(tick.as_deref(), Some(&b"data: tick\n\n"[..]));
        }
    };
    ticks(&mut peer, 3).await;
    stage.begin().await;
    ticks(&mut peer, 3).await;
    stage.leave().await;
    let rest = async {
        while let Some(tick) = peer.chunk().await.expect("not cut") {
            assert_eq!(tick, b"data: tick\n\n");
        }
    };
    soon("the last chunk", rest).await;
    drop(peer);
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_websocket_is_told_to_go_and_its_answer_waited_for() {
    let stage = Stage::over(Transport::Wire).await;
    let mut socket = websocket(&stage).await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(
        next(&mut socket).await.unwrap().unwrap(),
        Message::text("hello")
    );
    stage.begin().await;
    socket.send(Message::text("again")).await.unwrap();
    assert_eq!(
        next(&mut socket).await.unwrap().unwrap(),
        Message::text("again")
    );
    stage.leave().await;
    is_told_to_go(&mut socket).await;
    assert!(
        !stage.cues.given("socket ended"),
        "our answer is still to come"
    );
    assert_eq!(
        sum(
            &stage.drain,
            "lameduck_connections",
            &[("protocol", "upgraded")]
        ),
        1.0
    );
    // Sends our Close frame, then sees the end.
    match next(&mut socket).await {
        None | Some(Err(tungstenite::Error::ConnectionClosed)) => {}
        other => panic!("not closed but {other:?}"),
    }
    drop(socket);
    let (_, drain) = stage.ends_clean().await;
    assert_eq!(closed(&drain, "cut"), 0.0);
}

/// Sent before our Close frame was seen: it is delivered, though nobody can answer any more.
#[tokio::test]
async fn a_message_that_crosses_the_close_frame_is_delivered() {
    let stage = Stage::tcp().await;
    let mut socket = websocket(&stage).await;
    stage.cues.wait("socket begun").await;
    stage.leave().await;
    // Told to go, and not looked at it yet.
    tokio::time::sleep(Duration::ZERO).await;
    let told = async {
        use tokio::io::AsyncReadExt;
        let mut frame = [0; 2];
        socket.get_mut().read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[0], 0x88, "a Close frame");
    };
    soon("the Close frame", told).await;
    socket.send(Message::text("crossing")).await.unwrap();
    stage.cues.wait("crossing").await;
    drop(socket);
    stage.cues.wait("socket ended").await;
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_websocket_whose_peer_never_answers_is_cut_and_counted() {
    let stage = Stage::tcp().await;
    let socket = websocket(&stage).await;
    stage.cues.wait("socket begun").await;
    stage.cut().await;
    stage.cues.wait("socket ended").await;
    let (result, drain) = stage.ends().await;
    drop(socket);
    let report = result.expect("no request was cut");
    assert_eq!(report.connections.cut, 1);
    assert_eq!(report.connections.cut_by["upgraded"], 1);
    assert_eq!(closed(&drain, "cut"), 1.0);
}

/// 101 and CONNECT: never told `Connection: close`, tracked to their end.
#[tokio::test]
async fn tunnels_live_until_the_hard_deadline_and_are_counted() {
    let stories = [(UPGRADE, 101), (CONNECT, 200)]
        .into_iter()
        .flat_map(|(begin, status)| {
            [Moment::Began, Moment::Leave].map(|moment| tunnel_to_the_end(begin, status, moment))
        });
    futures_util::future::join_all(stories).await;
}

/// Begun after this moment.
async fn tunnel_to_the_end(begin: &str, status: u16, moment: Moment) {
    let stage = Stage::tcp().await;
    let hold = stage.hold().await;
    stage.reach(moment).await;
    let mut peer = stage.peer().await;
    peer.send(begin).await;
    let answer = peer.answer().await;
    assert_eq!(answer.status, status);
    assert!(!answer.says_close(), "{}", answer.head);
    assert_eq!(answer.header("keep-alive"), None);
    stage.cues.wait("tunnel begun").await;
    stage.close_idle().await;
    hold.release().await;
    peer.send("through").await;
    assert_eq!(peer.bytes(7).await, b"through");
    stage.cut().await;
    peer.ended().await;
    stage.cues.wait("tunnel ended").await;
    let (result, drain) = stage.ends().await;
    let report = result.expect("no request was cut");
    assert_eq!(report.connections.cut_by["upgraded"], 1, "{begin}");
    assert_eq!(report.connections.cut, 1);
    assert_eq!(closed(&drain, "cut"), 1.0);
}

#[tokio::test]
async fn a_tunnel_that_ends_by_itself_holds_up_nothing() {
    let stage = Stage::tcp().await;
    let mut peer = stage.peer().await;
    peer.send(UPGRADE).await;
    assert_eq!(peer.answer().await.status, 101);
    stage.leave().await;
    peer.send("last words").await;
    assert_eq!(peer.bytes(10).await, b"last words");
    drop(peer);
    let (_, drain) = stage.ends_clean().await;
    assert_eq!(closed(&drain, "peer"), 1.0);
}

/// They hold a socket each: who limits connections means them too.
#[tokio::test]
async fn upgraded_connections_count_among_all_connections() {
    let stage = Stage::with(Transport::Tcp, |settings| {
        settings.max_connections = Some(1);
    })
    .await;
    let mut tunnel = stage.peer().await;
    tunnel.send(UPGRADE).await;
    assert_eq!(tunnel.answer().await.status, 101);
    let mut waits = stage.knock().await;
    waits.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tunnel.send("through").await;
    assert_eq!(tunnel.bytes(7).await, b"through");
    assert_eq!(stage.connections(), 1);
    drop(tunnel);
    assert_eq!(waits.answer().await.text(), "hello");
    until("one is gone, one is there", || stage.connections() == 1).await;
    drop(waits);
    stage.ends_clean().await;
}
