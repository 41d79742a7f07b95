//! HTTP connections that can be asked to leave: any tower service over HTTP/1.1 and h2c.
//!
//! ```text
//!   Server ── accepts ──▶ Connection ── sniffs, then drives hyper ──▶ Counted ──▶ your service
//!     │                       │                                          │
//!     │ closes last,          │ Patience: what is it doing, and          │ `Connection: close` in lame duck,
//!     │ backlog swept         │ how far has the drain come?              │ counted to the last byte
//! ```
//!
//! Nothing here decides *when*: the conductor raises its [`Moment`](lameduck_lifecycle::Moment)s, and every connection
//! follows them by itself.

mod activity;
mod bounds;
mod connection;
mod frames;
#[cfg(feature = "grpc")]
mod grpc;
mod io;
mod late;
mod leaving;
mod listener;
mod metrics;
mod origin;
mod patience;
mod probes;
mod scrapes;
mod server;
mod service;
mod settings;
mod sniff;
mod stream;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "ws")]
mod websocket;

#[cfg(feature = "tls")]
pub use self::tls::{Tls, TlsError};
#[cfg(feature = "ws")]
pub use self::websocket::WebSocket;
pub use self::{
    bounds::HttpService,
    leaving::{UntilLeave, until_leave},
    listener::{Listener, Peer},
    origin::Origin,
    probes::{drain_state, probes},
    settings::HttpSettings,
};

#[cfg(feature = "api")]
pub(crate) use self::leaving::leave;

use self::server::Server;
use lameduck_lifecycle::{Drain, Lifecycle};

impl Lifecycle {
    /// Serves a listener with any tower service: an axum `Router`, tonic's `Routes`, your own.
    ///
    /// In a drain it goes on serving; connections are asked to leave once nobody routes here, and the
    /// listener closes last.
    pub fn http(
        self,
        name: &str,
        listener: impl Into<Listener>,
        service: impl HttpService,
    ) -> Self {
        self.http_with(name, listener, service, HttpSettings::default())
    }

    /// As [`http`](Self::http), with times and limits of its own.
    pub fn http_with(
        self,
        name: &str,
        listener: impl Into<Listener>,
        service: impl HttpService,
        settings: HttpSettings,
    ) -> Self {
        let server = Server::new(
            listener.into(),
            name,
            service,
            self.drain().clone(),
            settings,
        );
        self.serves_traffic().service(name, server.run())
    }

    /// Serves [probes and metrics](probes) and the [state of the drain](drain_state) on a listener of their
    /// own, until after the last report. What comes here is no traffic: no drain waits for it.
    pub fn admin(self, listener: impl Into<Listener>) -> Self {
        let drain = self.drain();
        let router = probes(drain.clone()).merge(drain_state(drain.clone()));
        self.admin_with(listener, router)
    }

    /// As [`admin`](Self::admin), with a router of your own.
    pub fn admin_with(self, listener: impl Into<Listener>, router: axum::Router) -> Self {
        // Its own drain, which never begins: probes and scrapes are answered to the very end.
        let drain = Drain::detached();
        let settings = HttpSettings::default();
        let server = Server::new(listener.into(), "admin", router, drain, settings)
            .showing(self.drain().clone());
        self.background("admin", async move { server.run().await })
    }
}
