//! Roll a pod without losing one request or one job.
#![forbid(unsafe_code)]

#[cfg(all(feature = "http", feature = "jobs"))]
pub mod api;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "jobs")]
pub mod jobs;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod lifecycle;
#[cfg(feature = "http")]
mod metrics;

pub use lifecycle::{Drain, DrainReport, Error, Lifecycle, Moment};

/// Serves a listener until SIGTERM or SIGINT, drains, and returns: the one call.
#[cfg(feature = "http")]
pub async fn serve<S, B>(
    listener: tokio::net::TcpListener,
    service: S,
) -> Result<std::sync::Arc<DrainReport>, Error>
where
    S: tower::Service<::http::Request<hyper::body::Incoming>, Response = ::http::Response<B>>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    S::Error: Into<lifecycle::BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<lifecycle::BoxError>,
{
    let lifecycle = Lifecycle::builder().http("http", listener, service);
    #[cfg(feature = "kubernetes")]
    let lifecycle = lifecycle.kubernetes(kubernetes::Kubernetes::in_cluster());
    lifecycle.run().await
}
