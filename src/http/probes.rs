//! What Kubernetes and Prometheus ask: `/livez`, `/readyz`, `/startupz`, `/metrics`.

use std::convert::Infallible;

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;

use crate::lifecycle::{Drain, Phase};

use super::{late::SCRAPE, origin::Origin, scrapes::Scrapes};

/// Probes and metrics as a router, for a listener of its own ([`Lifecycle::admin`]) or to be merged into
/// another router.
///
/// - `/livez` succeeds as long as the process can answer, through the whole drain: a container that is
///   draining must not be killed for it.
/// - `/readyz` succeeds from the phase `serving` on, until a drain fails it.
/// - `/startupz` succeeds from the phase `serving` on.
/// - `/metrics` is the Prometheus text format, version 0.0.4.
///
/// [`Lifecycle::admin`]: crate::Lifecycle::admin
pub fn probes(drain: Drain) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics))
        .with_state(drain)
}

async fn readyz(State(drain): State<Drain>) -> Response {
    let phase = drain.phase();
    if drain.is_ready() {
        "ok\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {phase}\n"),
        )
            .into_response()
    }
}

async fn startupz(State(drain): State<Drain>) -> Response {
    match drain.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        _ => "ok\n".into_response(),
    }
}

async fn metrics(
    State(drain): State<Drain>,
    origin: Option<Extension<Origin>>,
    headers: HeaderMap,
) -> Response {
    let scrape = headers.contains_key(SCRAPE).then(|| {
        let scraper = origin.map_or_else(String::new, |origin| origin.peer().to_string());
        drain.kept(Scrapes::default).begin(scraper)
    });
    match crate::metrics::render(drain.registry()) {
        Ok(text) => {
            let whole = stream::once(async move {
                // Dropped when the answer is on its way.
                let _scrape = scrape;
                Ok::<_, Infallible>(text)
            });
            let text = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
            (text, Body::from_stream(whole)).into_response()
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot render metrics: {error}\n"),
        )
            .into_response(),
    }
}
