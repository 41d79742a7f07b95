//! Random tests of a connection, under paused time: arbitrary bytes in arbitrary pieces against arbitrary moments.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use proptest::{prelude::*, sample::select};
use tokio::{
    io::{DuplexStream, duplex, split},
    runtime::Runtime,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;
use crate::sniff::PREFACE;

/// One step of a random test.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Pause(u64),
    Raise(Moment),
    /// The peer closes its half.
    Fin,
}

/// The moments that a connection follows, before the hard deadline.
const MOMENTS: [Moment; 6] = [
    Moment::Began,
    Moment::Removed,
    Moment::Leave,
    Moment::CloseIdle,
    Moment::Stop,
    Moment::Close,
];

fn paused() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Serves a connection over a pipe with a service that echoes request bodies.
fn serve(drain: &Drain, pipe: DuplexStream) -> JoinHandle<()> {
    let traffic = drain.traffic("fuzz");
    let connection = Connection {
        drain: drain.clone(),
        shown: drain.clone(),
        meter: Meter::new(drain, traffic.server()),
        traffic,
        late: Arc::default(),
        settings: Arc::new(HttpSettings::default()),
        #[cfg(feature = "tls")]
        tls: None,
    };
    let service = tower::service_fn(|request: Request<Incoming>| async {
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
    });
    let mut driver = connection.driver(Peer::Unix, service);
    tokio::spawn(async move {
        let result = driver.serve(pipe).await;
        driver.ended(result);
        drop(driver.upgraded());
    })
}

/// Raises a moment, and all moments before it, as the conductor does.
fn raise(drain: &Drain, moment: Moment) {
    for earlier in Moment::ALL {
        drain.token(earlier).cancel();
        if earlier == moment {
            break;
        }
    }
}

/// Returns the sum of all gauges of connections and requests.
fn carried(drain: &Drain) -> f64 {
    let families = drain.registry().gather();
    let gauges = families.iter().filter(|family| {
        ["lameduck_connections", "lameduck_requests_in_flight"].contains(&family.name())
    });
    gauges
        .flat_map(|family| family.get_metric())
        .map(|metric| metric.get_gauge().get_value().abs())
        .sum()
}

/// Bytes that get further than random ones would.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n",
        b"\r\n",
        PREFACE,
        // SETTINGS, its acknowledgement, PING, WINDOW_UPDATE, GOAWAY.
        b"\0\0\0\x04\0\0\0\0\0",
        b"\0\0\0\x04\x01\0\0\0\0",
        b"\0\0\x08\x06\0\0\0\0\0ponypony",
        b"\0\0\x04\x08\0\0\0\0\0\0\x01\0\0",
        b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
        // HEADERS of GET and of POST, HEADERS without their end, DATA, RST_STREAM.
        b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x01\x01x",
        b"\0\0\x06\x01\x04\0\0\0\x03\x83\x86\x84\x01\x01x",
        b"\0\0\x03\x01\x01\0\0\0\x05\x82\x86\x84",
        b"\0\0\x02\0\x01\0\0\0\x03hi",
        b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08",
    ];
    let known = select(known).prop_map(<[u8]>::to_vec);
    let part = (known.clone(), 0.0f64..1.0).prop_map(|(bytes, share)| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let n = (bytes.len() as f64 * share) as usize;
        bytes[..n].to_vec()
    });
    prop_oneof![
        4 => known,
        2 => part,
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => bytes().prop_map(Step::Send),
        3 => select(vec![0, 1, 500, 4_000, 31_000]).prop_map(Step::Pause),
        2 => select(MOMENTS.to_vec()).prop_map(Step::Raise),
        1 => Just(Step::Fin),
    ]
}

/// Steps of a run. Some runs start as HTTP/2, because random ones rarely get there.
fn history() -> impl Strategy<Value = Vec<Step>> {
    (any::<bool>(), prop::collection::vec(step(), 0..20)).prop_map(|(http2, mut steps)| {
        if http2 {
            let settings = b"\0\0\0\x04\0\0\0\0\0";
            steps.insert(0, Step::Send([PREFACE, settings].concat()));
        }
        steps
    })
}

async fn play(steps: Vec<Step>) {
    let drain = Drain::detached();
    let (peer, pipe) = duplex(4 * 1024);
    let served = serve(&drain, pipe);
    let (mut read, mut write) = split(peer);
    let reader =
        tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    for step in steps {
        match step {
            // The server may have closed the connection, or may have stopped reading.
            Step::Send(bytes) => {
                let sent = write.write_all(&bytes);
                let _ = timeout(Duration::from_secs(1), sent).await;
            }
            Step::Pause(millis) => sleep(Duration::from_millis(millis)).await,
            Step::Raise(moment) => raise(&drain, moment),
            Step::Fin => {
                let _ = write.shutdown().await;
            }
        }
    }
    raise(&drain, Moment::Cut);
    let ended = timeout(Duration::from_millis(1), served).await;
    ended
        .expect("it ends at the hard deadline")
        .expect("no panic");
    // Gives the tasks of streams time to notice the cut.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(carried(&drain), 0.0);
    let traffic = &drain.all_traffic()[0];
    assert_eq!((traffic.connections(), traffic.requests()), (0, 0));
    let _ = timeout(Duration::from_millis(1), reader)
        .await
        .expect("the peer sees the end");
}

/// A valid request that is sent in pieces, with pauses between them.
#[derive(Clone, Debug)]
struct Valid {
    body: Vec<u8>,
    chunked: bool,
    pieces: Vec<(usize, u64)>,
    /// A moment that is raised after so many pieces.
    moment: Option<(usize, Moment)>,
}

fn valid() -> impl Strategy<Value = Valid> {
    (
        prop::collection::vec(any::<u8>(), 0..60),
        any::<bool>(),
        prop::collection::vec((1usize..60, select(vec![0, 1, 300])), 1..12),
        prop::option::of((0usize..12, select(MOMENTS.to_vec()))),
    )
        .prop_map(|(body, chunked, pieces, moment)| Valid {
            body,
            chunked,
            pieces,
            moment,
        })
}

impl Valid {
    fn bytes(&self) -> Vec<u8> {
        let length = self.body.len();
        let mut bytes = b"POST / HTTP/1.1\r\nhost: x\r\n".to_vec();
        if self.chunked {
            bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
            if length > 0 {
                bytes.extend(format!("{length:x}\r\n").into_bytes());
                bytes.extend(&self.body);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        } else {
            bytes.extend(format!("content-length: {length}\r\n\r\n").into_bytes());
            bytes.extend(&self.body);
        }
        bytes
    }
}

async fn answer(pipe: &mut DuplexStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(pipe.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    pipe.read_exact(&mut body).await.expect("a whole body");
    (head, body)
}

async fn converse(requests: Vec<Valid>) {
    let drain = Drain::detached();
    let (mut peer, pipe) = duplex(64 * 1024);
    let served = serve(&drain, pipe);
    for request in requests {
        // The connection may have been closed between two requests; then nothing is lost.
        sleep(Duration::from_millis(1)).await;
        if served.is_finished() {
            break;
        }
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        let closed =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut peer).poll_read(cx, &mut read).is_ready()));
        if closed.await {
            break;
        }
        let bytes = request.bytes();
        let mut rest = &bytes[..];
        let mut pieces = request.pieces.iter().cycle().enumerate();
        while !rest.is_empty() {
            let (n, (length, pause)) = pieces.next().unwrap();
            let (piece, behind) = rest.split_at(rest.len().min(*length));
            peer.write_all(piece).await.expect("nobody closes it now");
            rest = behind;
            // The moment comes only after the first byte has been sent.
            if let Some((_, moment)) = request.moment.filter(|(after, _)| *after == n) {
                raise(&drain, moment);
            }
            sleep(Duration::from_millis(*pause)).await;
        }
        let (head, body) = timeout(Duration::from_secs(1), answer(&mut peer))
            .await
            .unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, request.body);
        assert_eq!(
            head.contains("connection: close"),
            drain.has(Moment::Leave),
            "{head}"
        );
    }
    drop(peer);
    timeout(Duration::from_secs(1), served)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(carried(&drain), 0.0);
}

/// Copies bytes in pieces, with pauses between them, repeating the pattern until the end.
async fn carry(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    pieces: Vec<(usize, u64)>,
) {
    for (length, pause) in pieces.into_iter().cycle() {
        let mut piece = vec![0; length];
        match from.read(&mut piece).await {
            Ok(n) if n > 0 && to.write_all(&piece[..n]).await.is_ok() => {}
            _ => break,
        }
        sleep(Duration::from_millis(pause)).await;
    }
    let _ = to.shutdown().await;
}

/// Sends a request as a correct client does; returns false if GOAWAY refused it, which means that it was not begun.
async fn ask(sender: h2::client::SendRequest<Bytes>, body: Vec<u8>, at: u64) -> bool {
    sleep(Duration::from_millis(at)).await;
    let Ok(mut sender) = sender.ready().await else {
        return false;
    };
    let request = Request::post("http://x/").body(()).unwrap();
    let Ok((answer, mut stream)) = sender.send_request(request, false) else {
        return false;
    };
    // The request may be refused while it is being sent.
    let _ = stream.send_data(body.clone().into(), true);
    let mut answer = match answer.await {
        Ok(answer) => answer.into_body(),
        Err(error) => {
            let refused = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            assert!(refused, "lost: {error}");
            return false;
        }
    };
    let mut told = Vec::new();
    while let Some(data) = answer.data().await {
        told.extend(data.expect("a whole answer"));
    }
    assert_eq!(told, body);
    true
}

async fn streams(
    requests: Vec<(Vec<u8>, u64)>,
    pieces: Vec<(usize, u64)>,
    moment: Option<(u64, Moment)>,
) {
    let drain = Drain::detached();
    let (client, near) = duplex(64 * 1024);
    let (far, pipe) = duplex(64 * 1024);
    let served = serve(&drain, pipe);
    let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
    tokio::spawn(carry(near_read, far_write, pieces.clone()));
    tokio::spawn(carry(far_read, near_write, pieces));
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    let connection = tokio::spawn(connection);
    let moves = async {
        if let Some((at, moment)) = moment {
            sleep(Duration::from_millis(at)).await;
            raise(&drain, moment);
        }
    };
    let asks = requests
        .into_iter()
        .map(|(body, at)| ask(sender.clone(), body, at));
    let answered = futures_util::future::join_all(asks);
    let both = async { tokio::join!(answered, moves) };
    let (answered, ()) = timeout(Duration::from_secs(300), both).await.unwrap();
    if !drain.has(Moment::Leave) {
        assert!(
            answered.iter().all(|answered| *answered),
            "refused by whom?"
        );
    }
    raise(&drain, Moment::Leave);
    timeout(Duration::from_secs(60), served)
        .await
        .expect("GOAWAY ends it")
        .unwrap();
    drop(sender);
    let _ = connection.await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(carried(&drain), 0.0);
}

/// The peer does not close its side in return, and the hard deadline comes during that wait.
#[test]
fn an_idle_connection_that_is_being_closed_ends_at_the_hard_deadline_too() {
    let get = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    for first in [vec![], vec![Step::Send(get)]] {
        let then = [
            Step::Pause(4_000),
            Step::Raise(Moment::CloseIdle),
            Step::Pause(500),
        ];
        paused().block_on(play(first.into_iter().chain(then).collect()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_a_peer_sends_it_ends_at_the_hard_deadline_and_nothing_is_left(steps in history()) {
        paused().block_on(play(steps));
    }

    /// The pauses are too short to exceed the GOAWAY timeout.
    #[test]
    fn a_stream_is_answered_or_refused_however_its_frames_are_cut(
        requests in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..60), 0u64..300), 1..5),
        pieces in prop::collection::vec((1usize..100, select(vec![0, 1, 20])), 1..6),
        moment in prop::option::of((0u64..400, select(MOMENTS.to_vec()))),
    ) {
        paused().block_on(streams(requests, pieces, moment));
    }

    #[test]
    fn a_request_that_has_begun_to_arrive_is_answered_however_it_is_cut(
        requests in prop::collection::vec(valid(), 1..4),
    ) {
        paused().block_on(converse(requests));
    }
}
