//! HTTP connections that can be asked to leave: any tower service over HTTP/1.1 and h2c.
//!
//! ```text
//!   Server ── accepts ──▶ Connection ── sniffs, then drives hyper ──▶ Counted ──▶ your service
//!     │                       │                                          │
//!     │ closes last,          │ Patience: what is it doing, and          │ `Connection: close` in lame duck,
//!     │ backlog swept         │ how far has the drain come?              │ counted to the last byte
//! ```
//!
//! This crate never decides *when*: the conductor raises its [`Moment`](lameduck_lifecycle::Moment)s, and every
//! connection follows them by itself.

mod activity;
mod answer;
mod bounds;
mod connection;
mod frames;
#[cfg(feature = "grpc")]
mod grpc;
mod head;
mod io;
mod late;
mod leaving;
mod listener;
mod metrics;
mod origin;
mod patience;
mod probes;
mod room;
mod scrapes;
mod sending;
mod server;
mod service;
mod settings;
mod sniff;
mod stream;
mod streams;
#[cfg(feature = "tls")]
mod tls;
mod uploads;
#[cfg(feature = "ws")]
mod websocket;

#[cfg(feature = "tls")]
pub use self::tls::{Tls, TlsError};
#[cfg(feature = "ws")]
pub use self::websocket::WebSocket;
pub use self::{
    bounds::HttpService,
    leaving::{UntilLeave, leave, until_leave},
    listener::{Listener, Peer},
    origin::{CurrentDrain, Origin},
    probes::{drain_state, probes},
    settings::HttpSettings,
};

use self::server::Server;
use lameduck_lifecycle::{Drain, Lifecycle};

/// Adds HTTP servers to a [`Lifecycle`].
pub trait ServeHttp: Sized {
    /// Serves a listener with any tower service: an axum `Router`, tonic's `Routes`, or your own.
    ///
    /// It goes on serving during a drain; connections are asked to leave once nobody routes here, and the
    /// listener closes last.
    fn http(self, name: &str, listener: impl Into<Listener>, service: impl HttpService) -> Self {
        self.http_with(name, listener, service, HttpSettings::default())
    }

    /// Like [`http`](Self::http), but with its own times and limits.
    fn http_with(
        self,
        name: &str,
        listener: impl Into<Listener>,
        service: impl HttpService,
        settings: HttpSettings,
    ) -> Self;

    /// Serves [probes and metrics](probes) and the [state of the drain](drain_state) on a separate listener,
    /// until after the last report. Its requests do not count as traffic: no drain waits for them.
    fn admin(self, listener: impl Into<Listener>) -> Self;

    /// Like [`admin`](Self::admin), but with a router of your own.
    fn admin_with(self, listener: impl Into<Listener>, router: axum::Router) -> Self;

    /// Waits at the end, after the report and within the budget, for one more scrape by everybody who has
    /// scraped the [admin](Self::admin) listener: a scrape is recognised by its header
    /// `X-Prometheus-Scrape-Timeout-Seconds`. The figures of the drain are thus collected, and the process ends
    /// at most one scrape interval later, or at its deadline.
    fn final_scrape(self) -> Self;

    /// Sets these services, and the server as a whole (`""`), to `NOT_SERVING` at the instant at which a drain fails
    /// readiness, and while a [check](lameduck_lifecycle::Drain::readiness_check) fails: a client that watches health
    /// is its own load balancer, and goes elsewhere. When clients are asked to leave, the streams of those that still
    /// watch end; otherwise they would go on forever.
    ///
    /// Calls are still served, like all requests: see [`http`](Self::http), which takes tonic's `Routes`.
    ///
    /// ```no_run
    /// # async fn example(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    /// use lameduck_http::ServeHttp as _;
    /// use lameduck_lifecycle::Lifecycle;
    /// use tonic::service::Routes;
    ///
    /// let (reporter, health) = tonic_health::server::health_reporter();
    /// Lifecycle::builder()
    ///     .grpc_health(reporter, &[])
    ///     .http("grpc", listener, Routes::new(health))
    ///     .run()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "grpc")]
    fn grpc_health(self, reporter: tonic_health::server::HealthReporter, services: &[&str])
    -> Self;
}

impl ServeHttp for Lifecycle {
    fn http_with(
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

    fn admin(self, listener: impl Into<Listener>) -> Self {
        let drain = self.drain();
        let router = probes(drain.clone()).merge(drain_state(drain.clone()));
        self.admin_with(listener, router)
    }

    fn admin_with(self, listener: impl Into<Listener>, router: axum::Router) -> Self {
        // It has its own drain, which never begins: probes and scrapes are answered to the very end.
        let drain = Drain::detached();
        let settings = HttpSettings::default();
        let server = Server::new(listener.into(), "admin", router, drain, settings)
            .for_admins_of(self.drain().clone());
        self.background("admin", async move { server.run().await })
    }

    fn final_scrape(self) -> Self {
        scrapes::final_scrape(self)
    }

    #[cfg(feature = "grpc")]
    fn grpc_health(
        self,
        reporter: tonic_health::server::HealthReporter,
        services: &[&str],
    ) -> Self {
        grpc::health(self, reporter, services)
    }
}
