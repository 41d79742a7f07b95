//! The client side: requests one after the other over one connection.

use std::net::SocketAddr;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::{
    Request,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

pub const VERSIONS: [(Version, &str); 2] =
    [(Version::Http1, "HTTP/1.1"), (Version::Http2, "HTTP/2")];

/// A connection that takes one request after the other.
pub enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    pub async fn connect(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let io = TokioIo::new(stream);
        match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(io).await.expect("a handshake");
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .expect("a handshake");
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        }
    }

    /// POSTs and reads the answer to its end.
    pub async fn post(&mut self, path: &str, payload: &'static str) -> Result<(), hyper::Error> {
        let request = Request::builder()
            .method("POST")
            .uri(format!("http://bench{path}"))
            .header("host", "bench")
            .body(Body::from(payload))
            .expect("a request");
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let body = response.into_body().collect().await?;
        assert_eq!(body.to_bytes(), payload);
        Ok(())
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}
