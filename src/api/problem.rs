//! Errors as RFC 9457 problem details.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::jobs::engine::EngineError;

/// An error answer: what is wrong, and what to do.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// `about:blank`: the status says what kind it is (RFC 9457, section 4.2.1).
    r#type: &'static str,
    title: String,
    status: u16,
    detail: String,
    #[serde(skip)]
    retry_after: Option<u32>,
}

// === impl Problem ===

impl Problem {
    /// A problem of this kind.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// Says after how many seconds to try again.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        tracing::error!(%error, "the queue's storage failed under a request");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the queue's storage did not answer; the request may or may not have taken effect. \
             Repeat it, with the same Idempotency-Key where it submits a job",
        )
        .retry_after(1)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, json)], body).into_response();
        if let Some(seconds) = self.retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
