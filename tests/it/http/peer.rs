//! A peer that writes bytes, and the handlers that it talks to.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, ws::WebSocketUpgrade},
    http::{HeaderMap, Method, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use lameduck::http::{CurrentDrain, Origin, WebSocket, until_leave};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{soon, stage::Cues};

/// More than the kernel keeps for a peer that does not read.
pub const BIG: usize = 32 * 1024 * 1024;

pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// One connection, as its client sees it.
pub struct Peer {
    pub stream: Box<dyn Socket>,
    read: Vec<u8>,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

// === impl Peer ===

impl Peer {
    pub fn new(stream: impl Socket + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            read: Vec::new(),
        }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    pub async fn send(&mut self, bytes: &str) {
        self.send_bytes(bytes.as_bytes()).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        soon("bytes are sent", async {
            self.stream.write_all(bytes).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await;
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// As [`get`](Self::get), on a connection that may have been closed while it was idle; `None` where it was.
    pub async fn try_get(&mut self, path: &str) -> Option<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let sent = self.stream.write_all(request.as_bytes()).await.is_ok()
            && self.stream.flush().await.is_ok();
        match soon("an answer or the end", self.try_answer()).await {
            Ok(answer) => Some(answer),
            Err(_) if self.read.is_empty() => None,
            Err(error) => panic!("half an answer (sent: {sent}): {error}"),
        }
    }

    /// A whole answer.
    pub async fn answer(&mut self) -> Answer {
        match soon("an answer", self.try_answer()).await {
            Ok(answer) => answer,
            Err(error) => panic!("no complete answer: {error}"),
        }
    }

    pub async fn try_answer(&mut self) -> Result<Answer, String> {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        self.read.drain(..end);
        let status = head[9..12].parse().map_err(|_| head.clone())?;
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.read.len() < length {
                self.more().await?;
            }
            answer.body = self.read.drain(..length).collect();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await? {
                answer.body.extend(chunk);
            }
        }
        Ok(answer)
    }

    /// The next chunk of a chunked body; `None` for the last.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let line = loop {
            if let Some(end) = find(&self.read, b"\r\n") {
                break end;
            }
            self.more().await?;
        };
        let length = std::str::from_utf8(&self.read[..line]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        while self.read.len() < line + 2 + length + 2 {
            self.more().await?;
        }
        let chunk = self.read[line + 2..][..length].to_vec();
        self.read.drain(..line + 2 + length + 2);
        Ok((length > 0).then_some(chunk))
    }

    /// So many bytes.
    pub async fn bytes(&mut self, n: usize) -> Vec<u8> {
        soon("bytes", async {
            while self.read.len() < n {
                self.more().await.unwrap();
            }
        })
        .await;
        self.read.drain(..n).collect()
    }

    async fn more(&mut self) -> Result<(), String> {
        let n = self.stream.read_buf(&mut self.read).await;
        match n.map_err(|error| error.to_string())? {
            0 => Err(format!(
                "closed after {:?}",
                String::from_utf8_lossy(&self.read)
            )),
            _ => Ok(()),
        }
    }

    /// The server closes properly, with nothing more to say.
    pub async fn closed(&mut self) {
        let end = soon("the end", self.stream.read_buf(&mut self.read)).await;
        match end {
            Ok(0) if self.read.is_empty() => {}
            end => panic!(
                "not closed but {end:?}: {:?}",
                String::from_utf8_lossy(&self.read)
            ),
        }
    }

    /// The server ends it, it does not matter how.
    pub async fn ended(&mut self) {
        let read = async { while self.more().await.is_ok() {} };
        soon("an end of any kind", read).await;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

// === impl Answer ===

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn says_close(&self) -> bool {
        self.header("connection") == Some("close")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

// --- the server's side ---

pub fn router(cues: Cues) -> Router {
    let held = {
        let cues = cues.clone();
        move |Path(name): Path<String>| async move {
            cues.give(&format!("{name} begun"));
            cues.of(&name).cancelled().await;
            "held"
        }
    };
    let slow = {
        let cues = cues.clone();
        move |Path(name): Path<String>| async move {
            let parts = stream::unfold(0, move |n| {
                let (cues, name) = (cues.clone(), name.clone());
                async move {
                    match n {
                        0 => Some((Ok::<_, Infallible>("first "), 1)),
                        1 => {
                            cues.give(&format!("{name} begun"));
                            cues.of(&name).cancelled().await;
                            Some((Ok("last"), 2))
                        }
                        _ => None,
                    }
                }
            });
            Body::from_stream(parts)
        }
    };
    let socket = {
        let cues = cues.clone();
        move |upgrade: WebSocketUpgrade, CurrentDrain(drain): CurrentDrain| async move {
            upgrade.on_upgrade(|socket| echo_messages(WebSocket::new(socket, drain), cues))
        }
    };
    let tunnel = move |request: Request| tunnel(request, cues);
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/early", post(|| async { (StatusCode::FORBIDDEN, "no") }))
        .route("/held/{name}", get(held.clone()).post(held))
        .route("/slow/{name}", get(slow))
        .route("/big", get(|| async { vec![b'x'; BIG] }))
        .route("/events", get(events))
        .route("/socket", get(socket))
        .route("/whoami", get(whoami))
        .route("/poll", get(poll))
        .fallback(tunnel)
}

/// A tick every few milliseconds, until clients are asked to leave.
async fn events(
    CurrentDrain(drain): CurrentDrain,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok(Event::default().data("tick")), ()))
    });
    Sse::new(until_leave(&drain, ticks))
}

async fn echo_messages(mut socket: WebSocket, cues: Cues) {
    cues.give("socket begun");
    while let Some(Ok(message)) = socket.recv().await {
        if let Ok(text) = message.to_text()
            && !text.is_empty()
        {
            cues.give(text);
        }
        if socket.send(message).await.is_err() {
            break;
        }
    }
    cues.give("socket ended");
}

/// A raw upgrade, or a CONNECT: says back what it is told, for ever.
async fn tunnel(mut request: Request, cues: Cues) -> Response {
    let connect = request.method() == Method::CONNECT;
    if !connect && request.uri().path() != "/upgrade" {
        return StatusCode::NOT_FOUND.into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        cues.give("tunnel begun");
        let mut chunk = [0; 1024];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) => break,
                Ok(n) => {
                    if stream.write_all(&chunk[..n]).await.is_err() {
                        break;
                    }
                    let _ = stream.flush().await;
                }
                Err(error) => {
                    cues.give(&format!("tunnel: {error}"));
                    break;
                }
            }
        }
        cues.give("tunnel ended");
    });
    if connect {
        StatusCode::OK.into_response()
    } else {
        let headers = [("connection", "upgrade"), ("upgrade", "echo")];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

/// What a handler learns.
async fn whoami(CurrentDrain(drain): CurrentDrain, request: Request) -> String {
    let origin = request.extensions().get::<Origin>().unwrap();
    let late = if origin.is_late() { "late" } else { "in time" };
    let from = origin.peer();
    format!("{late}, from {from}, {}", drain.phase())
}

/// A long poll that ends when clients are asked to leave.
async fn poll(CurrentDrain(drain): CurrentDrain, _: HeaderMap) -> &'static str {
    drain.reached(lameduck::Moment::Leave).await;
    "nothing new; ask again"
}
