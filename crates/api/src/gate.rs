//! The API of a process that is still starting.
//!
//! The listeners are bound before the queue is open, so that probes and metrics answer. Until it is, API requests get
//! 503 and `Retry-After` instead of an accepted connection on which nothing ever comes.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tower::ServiceExt;

use super::Problem;

/// Seconds after which a client may try again. The pause between attempts to reach a database is 5 s at most.
const RETRY_AFTER: u32 = 2;

/// A service that answers 503 until the API behind it is ready.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<OnceLock<Router>>);

// === impl Gate ===

impl Gate {
    /// Sends all further requests to the API. Only the first call has an effect.
    pub fn open(&self, api: Router) {
        let _ = self.0.set(api);
    }

    /// Returns the router for a listener.
    pub fn router(&self) -> Router {
        let gate = self.clone();
        Router::new().fallback(async move |request: Request| gate.answer(request).await)
    }

    async fn answer(&self, request: Request) -> Response {
        match self.0.get() {
            Some(api) => api.clone().oneshot(request).await.into_response(),
            None => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the service is starting and its queue is not open yet, so nothing was done; repeat the request. \
                 /readyz of the admin listener says what is waited for",
            )
            .retry_after(RETRY_AFTER)
            .into_response(),
        }
    }
}
