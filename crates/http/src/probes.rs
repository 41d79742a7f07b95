//! The endpoints for Kubernetes and Prometheus (`/livez`, `/readyz`, `/startupz`, `/metrics`) and for operators
//! (`/drain`).

use std::{convert::Infallible, fmt::Write};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;

use lameduck_lifecycle::{CheckResult, Drain};
use prometheus::TextEncoder;

use super::{late::SCRAPE, origin::Origin, scrapes::Scrapes};

/// Returns a router for probes and metrics, for a separate listener ([`ServeHttp::admin`]) or to be merged into
/// another router.
///
/// - `/livez` succeeds as long as the process can answer, through the whole drain: a container that is
///   draining must not be killed for it.
/// - `/readyz` succeeds from the phase `serving` on, until a drain fails it, and not while a
///   [check](Drain::readiness_check) fails.
/// - `/startupz` succeeds from the phase `serving` on.
/// - `/metrics` is the Prometheus text format, version 0.0.4.
///
/// With `?verbose`, and whenever they fail, probes name each check, as the probes of Kubernetes' own API
/// server do; otherwise they answer `ok`.
///
/// [`ServeHttp::admin`]: crate::ServeHttp::admin
pub fn probes(drain: Drain) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics))
        .with_state(drain)
}

/// Returns a router for `/drain`: the [state of the drain](lameduck_lifecycle::DrainState) as JSON, even before
/// there is one. It names jobs, so it is only for operators: [`ServeHttp::admin`] has it, [`probes`] do not.
///
/// [`ServeHttp::admin`]: crate::ServeHttp::admin
pub fn drain_state(drain: Drain) -> Router {
    Router::new().route("/drain", get(async move || Json(drain.state())))
}

async fn livez(RawQuery(query): RawQuery) -> Response {
    // The process is alive if it answers at all.
    answer("livez", query.as_deref(), &[CheckResult::passing("ping")])
}

async fn readyz(State(drain): State<Drain>, RawQuery(query): RawQuery) -> Response {
    answer("readyz", query.as_deref(), &drain.readiness_checks())
}

async fn startupz(State(drain): State<Drain>, RawQuery(query): RawQuery) -> Response {
    let checks = drain.readiness_checks();
    answer("startupz", query.as_deref(), &checks[..1])
}

/// Renders the checks like `k8s.io/apiserver/pkg/server/healthz`, but with the reasons.
fn answer(probe: &str, query: Option<&str>, checks: &[CheckResult]) -> Response {
    let passed = checks.iter().all(|check| check.failed.is_none());
    if passed && !is_verbose(query) {
        return "ok\n".into_response();
    }
    let mut text = String::new();
    for CheckResult {
        name, failed, note, ..
    } in checks
    {
        let one_line = |text: &str| text.replace('\n', " ");
        // Writing to a string cannot fail.
        let _ = match (failed, note) {
            (Some(reason), _) => writeln!(text, "[-]{name} failed: {}", one_line(reason)),
            (None, Some(note)) => writeln!(text, "[+]{name} ok: {}", one_line(note)),
            (None, None) => writeln!(text, "[+]{name} ok"),
        };
    }
    let (status, end) = match passed {
        true => (StatusCode::OK, "passed"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let _ = writeln!(text, "{probe} check {end}");
    (status, text).into_response()
}

/// Whether the query contains `verbose`, with any value.
fn is_verbose(query: Option<&str>) -> bool {
    let mut parameters = query.unwrap_or_default().split('&');
    parameters.any(|parameter| parameter.split('=').next() == Some("verbose"))
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
    match TextEncoder::new().encode_to_string(&drain.registry().gather()) {
        Ok(text) => {
            let whole = stream::once(async move {
                // This is dropped when the answer is being sent.
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
