//! The program's address, and the connections to it.
//!
//! ```text
//!   a request that may be repeated ─▶ one that was kept, if it is still open ─▶ else, or where it fails, a fresh one
//!   any other                      ─▶ a fresh one
//! ```
//!
//! The program may close a kept connection at the very instant at which a request is written to it, and then
//! nobody knows whether the request was read. A fresh connection was never idle.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::Instant,
};

use crate::body::ToProgram;

/// How long an unused connection is kept: shorter than the 5 s after which Node and uvicorn close theirs.
const KEPT: Duration = Duration::from_secs(4);

/// Maximum number of connections kept.
const MOST_KEPT: usize = 256;

/// The address at which the program listens: HOST:PORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// Error when a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not HOST:PORT; write it as in 127.0.0.1:3000 or [::1]:3000")]
pub struct InvalidAddress(String);

/// The program as the target of requests.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    kept: Mutex<Vec<Kept>>,
}

type Sender = SendRequest<ToProgram>;

#[derive(Debug)]
struct Kept {
    sender: Sender,
    since: Instant,
}

/// A connection that is in use. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Lent {
    sender: Sender,
    upstream: Upstream,
}

/// Reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nobody accepts connections at the address.
    #[error("it can't be reached at {address}: {error}")]
    Unreachable {
        /// The address.
        address: Address,
        /// The system's error.
        error: io::Error,
    },
    /// The connection ended before the head of an answer had come, or the bytes were not HTTP.
    #[error("it did not answer: {0}")]
    Broken(hyper::Error),
}

/// An answer, the connection that it comes by, and whether that connection was a kept one.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: Lent,
    pub(crate) reused: bool,
}

// === impl Address ===

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        // An IPv6 address has colons of its own, and so is written in brackets.
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(invalid());
        }
        let port = port.parse().ok().filter(|port| *port > 0);
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or_else(invalid)?,
        })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl Address {
    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// Creates the target for a program at this address.
    pub fn new(address: Address) -> Self {
        let kept = Mutex::default();
        Self(Arc::new(Shared { address, kept }))
    }

    /// Returns the address at which it listens.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Opens a connection, and does nothing more.
    pub(crate) async fn connect(&self) -> Result<TcpStream, Unanswered> {
        let Address { host, port } = self.address();
        let connected = async {
            let mut last = None;
            for address in lookup_host((host.as_str(), *port)).await? {
                match connect_to(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| io::Error::other("its name has no address")))
        };
        connected.await.map_err(|error| Unanswered::Unreachable {
            address: self.address().clone(),
            error,
        })
    }

    /// Sends a request, and returns when the head of its answer has come.
    pub(crate) async fn send(&self, request: Request<ToProgram>) -> Result<Answer, Unanswered> {
        if !is_repeatable(&request) {
            return self.send_afresh(request).await;
        }
        let mut request = request;
        while let Some(mut sender) = self.take_kept() {
            // It may have been closed, or still be busy with the end of the previous answer.
            if sender.ready().await.is_err() {
                continue;
            }
            let again = without_body(&request);
            match sender.send_request(request).await {
                Ok(response) => {
                    return Ok(Answer {
                        response,
                        connection: self.lend(sender),
                        reused: true,
                    });
                }
                // Repeated: the program may have closed the connection while the request was on its way.
                Err(error)
                    if error.is_canceled() || error.is_incomplete_message() || is_io(&error) =>
                {
                    request = again;
                }
                Err(error) => return Err(Unanswered::Broken(error)),
            }
        }
        self.send_afresh(request).await
    }

    async fn send_afresh(&self, request: Request<ToProgram>) -> Result<Answer, Unanswered> {
        let stream = self.connect().await?;
        // Answers are written as they come.
        let _ = stream.set_nodelay(true);
        let mut client = http1::Builder::new();
        client.preserve_header_case(true);
        let (mut sender, connection) = client
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Unanswered::Broken)?;
        tokio::spawn(async move {
            // The reader of the answer sees how the connection ended.
            let _ = connection.with_upgrades().await;
        });
        let response = sender
            .send_request(request)
            .await
            .map_err(Unanswered::Broken)?;
        Ok(Answer {
            response,
            connection: self.lend(sender),
            reused: false,
        })
    }

    fn lend(&self, sender: Sender) -> Lent {
        Lent {
            sender,
            upstream: self.clone(),
        }
    }

    /// Returns the connection that was used last, so that the others may grow old.
    fn take_kept(&self) -> Option<Sender> {
        let mut kept = self.kept();
        kept.retain(|one| one.since.elapsed() < KEPT && !one.sender.is_closed());
        kept.pop().map(|one| one.sender)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lent ===

impl Lent {
    /// Keeps the connection for another request: its answer was read to the end.
    pub(crate) fn give_back(self) {
        let Self { sender, upstream } = self;
        let mut kept = upstream.kept();
        if !sender.is_closed() && kept.len() < MOST_KEPT {
            let since = Instant::now();
            kept.push(Kept { sender, since });
        }
    }
}

/// Whether a request can be sent once more without harm (RFC 9110, section 9.2.2): its method is idempotent, and
/// no byte of a body was taken from the client.
fn is_repeatable(request: &Request<ToProgram>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    idempotent && request.body().is_end_stream()
}

/// Copies the head of a request, which is all of one that is [repeatable](is_repeatable).
fn without_body(request: &Request<ToProgram>) -> Request<ToProgram> {
    let mut again = Request::new(ToProgram::Empty);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    again
}

fn is_io(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.is::<io::Error>())
}

/// Connects from an address of this machine other than loopback, if there is one: programs trust loopback,
/// and requests that come this way come from anywhere.
async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip().is_loopback()
        && let Some(own) = own_address(&address)
    {
        // If it can't be bound, loopback has to do.
        let _ = socket.bind(SocketAddr::new(own, 0));
    }
    socket.connect(address).await
}

/// Returns the address from which this machine speaks to others. Nothing is sent: a connected datagram socket
/// only asks the routing table. The targets are addresses for documentation (RFC 5737, RFC 3849).
fn own_address(like: &SocketAddr) -> Option<IpAddr> {
    let (from, to) = match like {
        SocketAddr::V4(_) => ("0.0.0.0:0", "192.0.2.1:9"),
        SocketAddr::V6(_) => ("[::]:0", "[2001:db8::1]:9"),
    };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified() && !own.is_loopback()).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, shown) in [
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("[::1]:3000", "[::1]:3000"),
            ("localhost:80", "localhost:80"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "3000",
            ":3000",
            "localhost",
            "::1:3000",
            "a:0",
            "a:65536",
            "a:b",
            "[]:1",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn only_what_does_no_harm_is_sent_twice() {
        let request = |method: &str| Request::builder().method(method).body(ToProgram::Empty);
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_repeatable(&request(method).unwrap()), "{method}");
        }
        for method in ["POST", "PATCH", "LOCK"] {
            assert!(!is_repeatable(&request(method).unwrap()), "{method}");
        }
    }
}
