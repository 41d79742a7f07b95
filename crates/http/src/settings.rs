//! Times and limits of a server, each with its default and the reason for it.

use std::time::Duration;

/// Times and limits of a server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HttpSettings {
    /// Time from the first byte of a request head to its last, for the HTTP/2 preface, and for a TLS handshake. Only a
    /// slow sender reaches it: an idle connection has not sent a first byte. Default 30 s.
    pub header_timeout: Duration,
    /// How long a connection may be idle while serving. It should be longer than any proxy in front keeps its
    /// upstream connections (Google's load balancers: 600 s), so that the proxy closes first and no request meets
    /// our FIN. Default 620 s.
    pub idle_timeout: Duration,
    /// How long a peer may take no byte of an answer that is ready for it. Then its connection is closed; over
    /// HTTP/2, if it is a stream's window that the peer does not grant, that stream is reset. Default 60 s.
    pub write_timeout: Duration,
    /// How long a sender may pause in the middle of a request, in its head or its body, once clients are asked to
    /// leave. Then it is answered with 408 if possible, and the connection is closed. Without such a bound, a single
    /// upload that its client has forgotten would hold up every drain until the hard deadline. Before clients are
    /// asked to leave, a body may pause for as long as its handler waits. Default 5 s: longer than it takes to
    /// resend a lost packet twice.
    pub lame_duck_pause: Duration,
    /// The timeout sent to HTTP/1 clients as `Keep-Alive: timeout=…`, in whole seconds. Clients that read it (Node's
    /// agent, Apache's client, browsers) close an idle connection themselves before it has passed, so that in a drain
    /// there is no race over it. It should be shorter than the lame-duck share of the grace period. We still keep the
    /// connection for [`idle_timeout`](Self::idle_timeout). `None` sends no hint. Default 10 s.
    pub keep_alive_hint: Option<Duration>,
    /// How long a peer may take to acknowledge the PING that follows our GOAWAY, while no stream is open: longer than
    /// any round trip. Then the connection is closed. Default 5 s.
    pub goaway_timeout: Duration,
    /// How long we go on reading after we have closed our side, so that bytes under way do not cause a
    /// reset that destroys our last answer in the peer's buffer (RFC 9112, section 9.6). Default 1 s.
    pub linger: Duration,
    /// The time over which idle connections are closed, and HTTP/2 connections are told to go, so that not all
    /// clients reconnect at once. Default 1 s.
    pub spread: Duration,
    /// Maximum size of a request head, in bytes. Default 64 KiB.
    pub max_head: usize,
    /// Maximum number of streams that one HTTP/2 connection may have open. Default 256.
    pub max_streams: u32,
    /// Maximum number of connections at a time. Further ones wait in the kernel's backlog. In any case, all traffic
    /// listeners of the process together have no more than eight tenths of the files that it may open when the first
    /// of them starts, and admin listeners one tenth: a flood of connections can't take the last file from the
    /// database, nor keep the probes out. `None` sets no limit besides these. Default `None`.
    pub max_connections: Option<usize>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(620),
            write_timeout: Duration::from_secs(60),
            lame_duck_pause: Duration::from_secs(5),
            keep_alive_hint: Some(Duration::from_secs(10)),
            goaway_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            spread: Duration::from_secs(1),
            max_head: 64 * 1024,
            max_streams: 256,
            max_connections: None,
        }
    }
}
