//! The outcome of a deferred job, reported from outside by the program that does the work.
//!
//! ```text
//!   handler ── "deferred" ──▶ job is deferred, its claim lives on
//!   whoever works ── POST …/outcome, Lameduck-Claim ──▶ working (again and again), then completed or failed
//! ```
//!
//! The claim is the permission: 122 random bits that only the handler of this very run was given. No token is
//! needed as well, because the program that does the work need not be trusted with everybody's jobs.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Problem, Service,
    extract::{AtJob, object},
    options::{check_coding, header_text, parse_within},
    orders::Standing,
    schemas,
};
use lameduck_jobs::{
    handler::Retry,
    job::{Claim, JobId, JobRecord, Outcome, Settled, When},
};

/// Header that carries the claim.
const CLAIM: HeaderName = HeaderName::from_static("lameduck-claim");

/// Maximum size of an error in bytes.
const MAX_ERROR: usize = 16 * 1024;

/// How the work went.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Told {
    /// Done.
    #[schema(title = "Completed")]
    Completed {
        /// What is kept for whoever asks, as text.
        result: Option<String>,
        /// The same, as bytes.
        result_base64: Option<String>,
    },
    /// Not done; the attempt counts.
    #[schema(title = "Failed")]
    Failed {
        /// For people; at most 16384 bytes.
        #[schema(max_length = 16384)]
        error: String,
        /// Whether trying again may help. Default true.
        retry: Option<bool>,
    },
    /// Not done yet.
    #[schema(title = "Working")]
    Working {
        /// How long to wait for the next word.
        #[schema(schema_with = schemas::within)]
        within: String,
    },
}

/// Tell a job's outcome.
///
/// For whoever was told the job's claim, which is the permission: no token is needed. May be repeated.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/outcome", operation_id = "tell_outcome", tag = "handlers",
    params(
        ("id" = String, Path, format = "uuid", description = "The job"),
        ("Lameduck-Claim" = String, Header, format = "uuid", description = "The claim that the handler was told"),
    ),
    request_body = Told,
    security(()),
    responses(
        (status = 200, description = "Written, now or before", body = Standing),
        (status = 400, description = "No claim, or no outcome", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The claim is not the job's any more: it was cancelled, its time was over, or it runs elsewhere; nothing was written", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The result is too large", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overloaded, or the storage failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn outcome(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Standing>, Problem> {
    check_coding(&headers)?;
    let claim = claim(id, &headers)?;
    let longest = service.limits.payload();
    let body = service.bodies.read(body, longest).await?;
    let told = Told::parse(&body.bytes)?;
    let record = service.find(id).await?;
    let outcome = told.into_outcome(&service, &record)?;
    let settlement = Arc::new(vec![claim.settle(outcome)]);
    match service.engine.settle(&settlement).await?.first() {
        Some(Settled::Written | Settled::Repeated) => {
            let record = service.find(id).await?;
            Ok(Json(Standing::new(id, record.state)))
        }
        Some(Settled::Stale) | None => Err(Problem::conflict(format!(
            "this claim is not the job's any more, and nothing was written: it was cancelled, its time was over, \
             or it was reserved anew. It is {} now",
            record.state.as_str()
        ))),
    }
}

fn claim(job: JobId, headers: &HeaderMap) -> Result<Claim, Problem> {
    let Some(token) = header_text(headers, &CLAIM, 100)? else {
        return Err(Problem::bad_request(
            "the header Lameduck-Claim is missing: it carries the claim that the job's handler was told",
        ));
    };
    Claim::from_token(job, token).map_err(|_| {
        Problem::bad_request(
            "what is in Lameduck-Claim is not a claim; use the one that the job's handler was told as it is",
        )
    })
}

// === impl Told ===

impl Told {
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        const EXAMPLE: &str = r#"{"outcome": "completed", "result": "42"}"#;
        object("an outcome", EXAMPLE, body)?;
        let json: Value = serde_json::from_slice(body)
            .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
        let outcome = json["outcome"].as_str();
        let takes = match outcome {
            Some("completed") => "'result' or 'result_base64', both texts",
            Some("failed") => "'error', a text, and 'retry', true or false",
            Some("working") => "'within', a duration in quotes",
            _ => {
                return Err(Problem::bad_request(format!(
                    "'outcome' is \"completed\", \"failed\" or \"working\", as in {EXAMPLE}"
                )));
            }
        };
        serde_json::from_slice(body).map_err(|error| {
            let outcome = outcome.unwrap_or_default();
            Problem::bad_request(format!("with '{outcome}' goes {takes}: {error}"))
        })
    }

    fn into_outcome(self, service: &Service, record: &JobRecord) -> Result<Outcome, Problem> {
        match self {
            Self::Completed {
                result,
                result_base64,
            } => {
                let result = bytes_of(result, result_base64)?;
                Ok(Outcome::Completed { result })
            }
            Self::Failed { error, retry } => {
                if error.len() > MAX_ERROR {
                    return Err(Problem::bad_request(format!(
                        "'error' has at most {MAX_ERROR} bytes"
                    )));
                }
                let retry = match retry.unwrap_or(true) {
                    true => Retry::Backoff,
                    false => Retry::Never,
                };
                let backoff = service.backoff(&record.queue);
                let then = backoff.after_failure(record.attempt, record.max_attempts, retry);
                Ok(Outcome::Failed { error, then })
            }
            Self::Working { within } => {
                let within = parse_within(&within)?;
                Ok(Outcome::Deferred {
                    until: When::After(within),
                })
            }
        }
    }
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Result<Bytes, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "'result' and 'result_base64' say the same thing in two ways; give one of them",
        )),
        (Some(text), None) => Ok(text.into()),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(Bytes::from)
            .map_err(|error| Problem::bad_request(format!("result_base64: {error}"))),
        (None, None) => Ok(Bytes::new()),
    }
}
