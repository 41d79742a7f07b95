//! Roll a pod without losing one request or one job.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tokio::net::TcpListener;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("0.0.0.0:8080").await?;
//! let router = Router::new().route("/", get(|| async { "hello\n" }));
//! lameduck::serve(listener, router).await?; // signals, drain, deadline: done
//! # Ok(())
//! # }
//! ```
//!
//! On SIGTERM or SIGINT, [`serve`] goes on serving; waits until the EndpointSlices *and*
//! the traffic show that nobody routes here; asks clients to leave, by `Connection: close` and GOAWAY; lets
//! every request come to its end; closes the listener last, its backlog swept; and returns inside the grace
//! period with a [`DrainReport`], or with the [`Error`] if there was one. A watchdog on a thread of its own
//! ends the process at its deadline whatever happens.
//!
//! # Features
//!
//! | feature | gives | default |
//! | --- | --- | --- |
//! | (none) | [`lifecycle`]: signals, phases, budget, teardown hooks, report, metrics | |
//! | `http` | [`http`]: the server for any tower service over HTTP/1.1 and h2c, probes, [`serve`] | yes |
//! | `ws` | [`http::WebSocket`], which says goodbye | |
//! | `grpc` | gRPC health that turns `NOT_SERVING` with a drain | |
//! | `tls` | [`http::Tls`]: rustls, certificates reloaded when their files change | |
//! | `kubernetes` | [`kubernetes`]: cause and deadline from the own Pod, endpoint removal | |
//! | `jobs` | [`jobs`]: the queue contract, workers, handlers | |
//! | `http-handler` | [`jobs::handler::http`]: jobs posted to an HTTP endpoint | |
//! | `sqlite` | the embedded engine | |
//! | `api` | [`api`]: the HTTP API for jobs | |
//! | `postgres` | the engine for any number of replicas | |
//! | `full` | all of it | |
//!
//! With `kubernetes` the final program chooses the Kubernetes version, by a feature of its own dependency on the crate
//! `k8s-openapi`: exactly one must be chosen.
//!
//! # More than one listener
//!
//! [`Lifecycle`] is the builder behind [`serve`]. The other crates add methods of their own to it:
//!
//! ```no_run
//! use lameduck::{kubernetes::Kubernetes, prelude::*};
//! # use axum::Router;
//! # use tokio::net::TcpListener;
//!
//! # async fn example(api: TcpListener, admin: TcpListener, router: Router) -> Result<(), Box<dyn std::error::Error>> {
//! Lifecycle::builder()
//!     .kubernetes(Kubernetes::in_cluster())
//!     .http("api", api, router)
//!     .admin(admin) // /livez, /readyz, /startupz, /metrics, /drain, until the very end
//!     .teardown("broker", |deadline| async move {
//!         println!("unplugging; {:?} left", deadline.remaining());
//!         Ok::<_, std::io::Error>(())
//!     })
//!     .run()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! A handler learns how far the drain has come from a [`Drain`]: with axum by the extractor
//! [`http::CurrentDrain`], otherwise from the [`http::Origin`] in its request's extensions. So an answer
//! without an end of its own, such as an event stream or a long poll, ends when clients are asked to leave.
//!
//! The drain is described moment by moment in [`lifecycle`] and, with the reason for every default, in
//! `docs/architecture.md`.

#[cfg(feature = "api")]
pub use lameduck_api as api;
#[cfg(feature = "http")]
pub use lameduck_http as http;
#[cfg(feature = "kubernetes")]
pub use lameduck_kubernetes as kubernetes;
pub use lameduck_lifecycle as lifecycle;
pub use lameduck_lifecycle::{Drain, DrainReport, Error, Lifecycle, Moment};
#[cfg(feature = "proxy")]
pub use lameduck_proxy as proxy;

/// Jobs: the queue contract, the workers, the handlers.
#[cfg(feature = "jobs")]
pub mod jobs {
    pub use lameduck_jobs::*;

    /// The storage of jobs: one small contract, and a crate for each engine.
    pub mod engine {
        pub use lameduck_jobs::engine::*;
        #[cfg(feature = "postgres")]
        pub use lameduck_postgres as postgres;
        #[cfg(feature = "sqlite")]
        pub use lameduck_sqlite as sqlite;
    }
}

/// The imports of a program that builds a [`Lifecycle`]: the builder, and the methods that the other crates
/// add to it.
pub mod prelude {
    #[cfg(feature = "http")]
    pub use lameduck_http::ServeHttp as _;
    #[cfg(feature = "jobs")]
    pub use lameduck_jobs::workers::RunWorkers as _;
    #[cfg(feature = "kubernetes")]
    pub use lameduck_kubernetes::ObserveKubernetes as _;
    pub use lameduck_lifecycle::{Drain, Lifecycle, Moment};
}

#[cfg(feature = "http")]
use prelude::*;

/// Serves a listener until SIGTERM or SIGINT, drains, and returns, all in one call.
///
/// The service is any tower service: an axum `Router`, a tonic server's, one of your own. It is cloned for
/// each request. In a pod (with the feature `kubernetes`) the drain follows the pod's own EndpointSlices and
/// deadline; elsewhere it has 30 s and waits for no endpoint. [`Lifecycle`] changes all of that.
///
/// There is no readiness probe in it: add one by [`Lifecycle::admin`], or merge [`http::probes`] into the
/// router. After it returns, the process should end: the watchdog ends it at its deadline.
///
/// # Errors
/// The work that was cut at the deadline, the teardown hook that failed, or the system's refusal of signal
/// handlers: see [`Error`]. A drain that lost nothing is `Ok`.
#[cfg(feature = "http")]
pub async fn serve(
    listener: impl Into<http::Listener>,
    service: impl http::HttpService,
) -> Result<std::sync::Arc<DrainReport>, Error> {
    let lifecycle = Lifecycle::builder().http("http", listener, service);
    #[cfg(feature = "kubernetes")]
    let lifecycle = lifecycle.kubernetes(kubernetes::Kubernetes::in_cluster());
    #[cfg(not(feature = "kubernetes"))]
    let lifecycle = by_the_clock_in_a_cluster(lifecycle);
    lifecycle.run().await
}

/// In a pod clients may be routed here, and without the feature nobody looks: then the drain waits by the clock.
#[cfg(all(feature = "http", not(feature = "kubernetes")))]
fn by_the_clock_in_a_cluster(lifecycle: Lifecycle) -> Lifecycle {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return lifecycle;
    }
    tracing::warn!(
        "in a cluster without the feature `kubernetes`: the drain waits by the clock (`fallback_wait`) instead \
         of until nobody routes here"
    );
    lifecycle.is_observed()
}
