//! HTTP clients of several kinds, none of which may retry a request that has left it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::body::Body;
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use hyper::{
    Request, StatusCode,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};
use tokio_tungstenite::tungstenite::{self, Message, protocol::frame::coding::CloseCode};

/// An event stream that ticks every 50 ms and says nothing for so long is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// How a client uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One POST after the other over one connection, as long as the server keeps it.
    KeepAlive,
    /// The same, with pauses in which the connection is idle.
    MostlyIdle,
    /// A connection for every POST.
    Fresh,
    /// POSTs that take a quarter of a second.
    Slow,
    /// POSTs that take three seconds.
    Long,
    /// Four streams at a time over one HTTP/2 connection.
    Http2,
    /// An event stream, which must end properly.
    Events,
    /// A websocket on which every message is answered, until it is closed properly.
    Socket,
}

/// What clients have seen.
#[derive(Debug, Default)]
pub struct Tally {
    pub done: AtomicU64,
    pub failed: AtomicU64,
    /// HTTP/2 requests that crossed a GOAWAY: refused by its last stream id, so provably not looked at, and
    /// sent once more by every client (RFC 9113, section 6.8). Not failed unless that fails.
    pub refused: AtomicU64,
    /// The first failures, in words.
    pub failures: Mutex<Vec<String>>,
}

/// Clients at work.
pub struct Clients {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    running: JoinSet<()>,
}

impl Clients {
    /// Starts so many clients of each kind.
    pub fn start(address: SocketAddr, kinds: &[(Kind, usize)]) -> Self {
        let mut clients = Self {
            tally: Arc::default(),
            stop: Arc::default(),
            running: JoinSet::new(),
        };
        for (kind, count) in kinds {
            for _ in 0..*count {
                let client = Client {
                    kind: *kind,
                    address,
                    tally: clients.tally.clone(),
                    stop: clients.stop.clone(),
                };
                clients.running.spawn(client.run());
            }
        }
        clients
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Lets every request under way end.
    pub async fn stop(self) -> Arc<Tally> {
        self.stop.store(true, SeqCst);
        self.running.join_all().await;
        self.tally
    }
}

struct Client {
    kind: Kind,
    address: SocketAddr,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn run(self) {
        while !self.stopped() {
            let connection = match self.kind {
                Kind::Http2 => self.http2_connection().await,
                Kind::Socket => self.websocket().await,
                _ => self.http1_connection().await,
            };
            if let Err(error) = connection {
                self.failed(&error);
                // A refused connection must not become a busy loop.
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    fn done(&self) {
        self.tally.done.fetch_add(1, SeqCst);
    }

    fn failed(&self, error: &str) {
        self.tally.failed.fetch_add(1, SeqCst);
        let mut failures = self.tally.failures.lock().unwrap();
        if failures.len() < 20 {
            failures.push(format!("{:?}: {error}", self.kind));
        }
    }

    fn request(&self, n: usize) -> (Request<Body>, String) {
        let payload = format!("payload {n}");
        let (method, path) = match self.kind {
            Kind::Events => ("GET", "/events"),
            Kind::Slow => ("POST", "/slow"),
            Kind::Long => ("POST", "/long"),
            _ => ("POST", "/echo"),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("host", self.address.to_string())
            .body(Body::from(payload.clone()))
            .unwrap();
        (request, payload)
    }

    /// As many requests as the connection takes. An error is a request that was lost.
    async fn http1_connection(&self) -> Result<(), String> {
        let stream = connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("handshake: {error}"))?;
        let connection = tokio::spawn(connection);
        let mut n = 0;
        while !self.stopped() {
            // A connection that was seen to be closed takes no request: that is no failure.
            if n > 0 && sender.ready().await.is_err() {
                break;
            }
            let (request, payload) = self.request(n);
            match sender.try_send_request(request).await {
                Ok(response) => self.check(response, &payload).await?,
                Err(mut error) => {
                    // It never left this process.
                    if n > 0 && error.take_message().is_some() {
                        break;
                    }
                    return Err(format!("request {n}: {}", chain(error.error())));
                }
            }
            n += 1;
            match self.kind {
                Kind::Fresh | Kind::Events => break,
                Kind::MostlyIdle => sleep(Duration::from_millis(fastrand::u64(100..900))).await,
                _ => {}
            }
        }
        connection.abort();
        Ok(())
    }

    async fn http2_connection(&self) -> Result<(), String> {
        let stream = connect(self.address).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| format!("handshake: {error}"))?;
        let connection = tokio::spawn(connection);
        let streams: FuturesUnordered<_> =
            (0..4).map(|_| self.http2_stream(sender.clone())).collect();
        let result = streams.try_collect::<()>().await;
        connection.abort();
        result
    }

    /// Messages one by one until the server closes; then its reason must be that it goes away. A message that
    /// crosses its Close frame is not answered, and sent again over the next connection.
    async fn websocket(&self) -> Result<(), String> {
        let stream = connect(self.address).await?;
        let url = format!("ws://{}/socket", self.address);
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream)
            .await
            .map_err(|error| format!("websocket: {}", chain(&error)))?;
        let mut n = 0;
        while !self.stopped() {
            let sent = format!("message {n}");
            let told = socket.send(Message::text(sent.clone())).await;
            told.map_err(|error| format!("message {n} not sent: {error}"))?;
            match tokio::time::timeout(SILENCE, socket.next()).await {
                Ok(Some(Ok(Message::Text(echo)))) if echo.as_str() == sent => self.done(),
                Ok(Some(Ok(Message::Close(Some(frame))))) if frame.code == CloseCode::Away => {
                    // Our own Close frame goes out by the next read, which then sees the end.
                    return match tokio::time::timeout(SILENCE, socket.next()).await {
                        Ok(None) => Ok(()),
                        Ok(Some(Err(tungstenite::Error::ConnectionClosed))) => Ok(()),
                        other => Err(format!("after the close frame: {other:?}")),
                    };
                }
                other => return Err(format!("message {n}: {other:?}")),
            }
            n += 1;
            sleep(Duration::from_millis(fastrand::u64(5..50))).await;
        }
        Ok(())
    }

    async fn http2_stream(&self, mut sender: http2::SendRequest<Body>) -> Result<(), String> {
        let mut n = 0;
        while !self.stopped() {
            if sender.ready().await.is_err() {
                return Ok(());
            }
            let (request, payload) = self.request(n);
            match sender.try_send_request(request).await {
                Ok(response) => self.check(response, &payload).await?,
                Err(mut error) => {
                    if error.take_message().is_some() {
                        return Ok(());
                    }
                    if was_refused(error.error()) {
                        self.tally.refused.fetch_add(1, SeqCst);
                        return Ok(());
                    }
                    return Err(format!("stream {n}: {}", chain(error.error())));
                }
            }
            n += 1;
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn check(
        &self,
        response: hyper::Response<hyper::body::Incoming>,
        payload: &str,
    ) -> Result<(), String> {
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status()));
        }
        if self.kind == Kind::Events {
            return self.follow(response.into_body()).await;
        }
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| format!("answer cut: {}", chain(&error)))?;
        if body.to_bytes() != payload.as_bytes() {
            return Err("another answer than was sent".into());
        }
        self.done();
        Ok(())
    }

    /// Follows a stream to its end; whoever stops following it is no failure.
    async fn follow(&self, body: hyper::body::Incoming) -> Result<(), String> {
        let mut events = body.into_data_stream();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(format!("stream cut: {}", chain(&error))),
                    None => break,
                },
                () = sleep(SILENCE) => return Err("stream fell silent".into()),
            }
            if self.stopped() {
                break;
            }
        }
        self.done();
        Ok(())
    }
}

/// GOAWAY without an error, and our stream is above its last stream id.
fn was_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|h2| {
        h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR)
    })
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

/// An error with everything behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A builder of reqwest's clients. The program chooses the library behind TLS; here it is a test that does.
pub fn reqwest() -> reqwest::ClientBuilder {
    // An error says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}
