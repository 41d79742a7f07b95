//! Targets: one that answers as HTTP should, and one that writes what it likes.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, Method};
use lameduck::jobs::handler::http::Http;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Answers every request alike, and tells what came.
pub struct Target {
    pub address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

/// One request.
#[derive(Debug)]
pub struct Seen {
    pub from: SocketAddr,
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A listener whose connections a test answers by hand.
pub struct Wire {
    listener: TcpListener,
}

/// A certificate for `localhost`, and a server that has it.
pub struct Authority {
    pub pem: String,
    acceptor: TlsAcceptor,
}

// === impl Target ===

impl Target {
    pub async fn start(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Self {
        let (seen, inbox) = mpsc::unbounded_channel();
        let router = Router::new().fallback(
            async move |ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request| {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                let _ = seen.send(Seen {
                    from,
                    method: head.method,
                    path: head.uri.to_string(),
                    headers: head.headers,
                    body,
                });
                answer()
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self {
            address,
            seen: inbox,
        }
    }

    /// A handler that posts here.
    pub fn http(&self) -> Http {
        Http::new(&format!("http://{}/jobs", self.address)).unwrap()
    }

    /// The next request that came.
    pub fn seen(&mut self) -> Seen {
        self.seen.try_recv().expect("a request")
    }

    pub fn saw_nothing(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }
}

// === impl Seen ===

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().unwrap())
    }
}

// === impl Wire ===

impl Wire {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn http(&self) -> Http {
        Http::new(&format!("http://{}/jobs", self.address())).unwrap()
    }

    /// A handler that posts here by TLS.
    pub fn https(&self) -> Http {
        Http::new(&format!("https://localhost:{}/jobs", self.address().port())).unwrap()
    }

    pub async fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection on which a request has come whole.
    pub async fn request(&self) -> TcpStream {
        let mut stream = self.accept().await;
        read_request(&mut stream).await;
        stream
    }

    /// Answers one request with these bytes, and closes.
    pub async fn answer(&self, bytes: impl AsRef<[u8]>) {
        let mut stream = self.request().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
    }
}

/// Reads a request of HTTP/1.1 with the payload `hello`.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nhello") {
        let byte = stream.read_u8().await.expect("a whole request");
        read.push(byte);
    }
}

/// Returns when the peer has closed.
pub async fn until_closed(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

// === impl Authority ===

impl Authority {
    pub fn new(alpn: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Self {
            pem: made.cert.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    pub async fn accept(&self, wire: &Wire) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(wire.accept().await).await
    }
}
