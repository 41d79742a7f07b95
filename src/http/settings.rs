//! Times and limits of a server, each with its default and the reason for it.

use std::time::Duration;

/// Times and limits of a server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HttpSettings {
    /// From the first byte of a request head to its last, and for the HTTP/2 preface. Only a slow sender
    /// needs it: an idle connection has not sent a first byte. Default 30 s.
    pub header_timeout: Duration,
    /// How long a connection may be idle while serving. Longer than any proxy in front keeps its upstream
    /// connections (Google's load balancers: 600 s), so that the proxy closes first and no request meets
    /// our FIN. Default 620 s.
    pub idle_timeout: Duration,
    /// How long we go on reading after we closed our side, so that bytes under way do not turn into a
    /// reset that destroys our last answer in the peer's buffer (RFC 9112, section 9.6). Default 1 s.
    pub linger: Duration,
    /// Over which time idle connections are closed, and HTTP/2 connections told to go, so that not all
    /// clients reconnect at once. Default 1 s.
    pub spread: Duration,
    /// Bytes of a request head. Default 64 KiB.
    pub max_head: usize,
    /// Streams that one HTTP/2 connection may have open. Default 256.
    pub max_streams: u32,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(620),
            linger: Duration::from_secs(1),
            spread: Duration::from_secs(1),
            max_head: 64 * 1024,
            max_streams: 256,
        }
    }
}
