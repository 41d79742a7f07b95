//! Errors as RFC 9457 problem details.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::refusals::Refusal;
use lameduck_jobs::{engine::EngineError, job::Rejected};
use lameduck_lifecycle::LogThrottle;

/// Seconds to wait when a queue is full. It empties as fast as its workers work.
const QUEUE_FULL: u32 = 5;

/// Seconds to wait for somebody else's transaction. It was waited for already, and may end at any moment.
const IN_USE: u32 = 2;

/// Seconds to wait when the disk is full. It takes housekeeping, or a person, to change that.
const STORAGE_FULL: u32 = 30;

/// An error answer: what is wrong, and what to do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says what kind it is (RFC 9457, section 4.2.1); or one of ours, where it does not.
    r#type: &'static str,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
    /// The line of a batch, or the item of its array, the first being 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    line: Option<usize>,
    /// In seconds, as the header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
    /// Of an answer without a token.
    #[serde(skip)]
    wants_token: bool,
    /// Of a job that was not taken in, where the status does not say it all.
    #[serde(skip)]
    refusal: Option<Refusal>,
    /// The content codings that would have been taken, of an answer to another one.
    #[serde(skip)]
    takes_codings: Option<&'static str>,
}

// === impl Problem ===

impl Problem {
    /// Creates a problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            line: None,
            retry_after: None,
            wants_token: false,
            refusal: None,
            takes_codings: None,
        }
    }

    /// Sets after how many seconds to try again.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Creates the problem of a request that is not as it should be.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Creates the problem of something that does not exist.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Creates the problem of something that is in the wrong state for the request.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// Creates the problem that there is too much to do at the moment.
    pub(super) fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    }

    /// Creates the problem that asks for a token (RFC 6750, section 3).
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, detail);
        problem.wants_token = true;
        problem
    }

    /// Creates the problem of a body with a content coding, which nothing here can decode. It says what would have
    /// been accepted (RFC 9110, sections 15.5.16 and 12.5.3).
    pub(super) fn coded(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
        problem.takes_codings = Some("identity");
        problem
    }

    /// Adds which job of a batch is concerned: the line, or the item, of this number.
    pub(super) fn at(mut self, place: &str, number: usize) -> Self {
        self.detail = format!(
            "in {place} {number}: {}; nothing of the batch was stored",
            self.detail
        );
        self.line = Some(number);
        self
    }

    /// Sets the reason for which a job was refused.
    pub(super) fn because(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(refusal);
        self
    }

    /// Returns the reason for which a job was refused.
    pub(super) fn refusal(&self) -> Refusal {
        self.refusal.unwrap_or_else(|| Refusal::of(self.status()))
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn retry_seconds(&self) -> Option<u32> {
        self.retry_after
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        // A stranger can cause these log lines with every request.
        static THROTTLE: LogThrottle = LogThrottle::every(Duration::from_secs(10));
        match error {
            EngineError::Locked(why) => return Self::overloaded(why),
            EngineError::Unreadable(why) => {
                if let Some(left_out) = THROTTLE.admit() {
                    tracing::error!(
                        why,
                        left_out,
                        "the queue's storage holds what can't be read"
                    );
                }
                let detail = format!("{why}. It can be cancelled, and hides no other job");
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
            }
            _ => {}
        }
        if let Some(left_out) = THROTTLE.admit() {
            tracing::error!(%error, left_out, "the queue's storage failed under a request");
        }
        Self::overloaded(
            "the queue's storage did not answer; the request may or may not have taken effect. \
             Repeat it, with the same Idempotency-Key where it submits a job",
        )
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        let detail = rejected.to_string();
        match rejected {
            Rejected::KeyReused { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            Rejected::QueueFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(QUEUE_FULL)
            }
            Rejected::OutOfBounds(_) => Self::bad_request(detail),
            // Same as for a request whose first copy is in flight (draft-ietf-httpapi-idempotency-key-header, 2.7).
            Rejected::InUse { .. } => {
                let mut problem = Self::new(StatusCode::CONFLICT, detail).retry_after(IN_USE);
                problem.r#type = "urn:lameduck:problem:in-use";
                problem
            }
            Rejected::StorageFull(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                .retry_after(STORAGE_FULL)
                .because(Refusal::StorageFull),
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status(), [(header::CONTENT_TYPE, json)], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(codings) = self.takes_codings {
            let codings = HeaderValue::from_static(codings);
            headers.insert(header::ACCEPT_ENCODING, codings);
        }
        if self.wants_token {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
