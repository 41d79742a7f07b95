//! Many jobs in one request and one commit: a job a line.
//!
//! It has a path of its own, because newline-delimited JSON may well be the payload of one job: by its
//! content type alone the two could not be told apart.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    ApiQueue, Problem, Service,
    extract::AtQueue,
    options::{self, Options},
    submit::Accepted,
};
use crate::jobs::job::{NewJob, Priority};

/// A job of a batch: one of the three payloads, and what else is to be said.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Line {
    /// JSON; the handler gets it byte for byte as it is written here.
    #[serde(deserialize_with = "some")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Text.
    payload_text: Option<String>,
    /// Bytes.
    payload_base64: Option<String>,
    /// The default is that of the payload: application/json, text/plain, application/octet-stream.
    content_type: Option<String>,
    /// As the query's.
    delay: Option<String>,
    /// As the query's.
    run_at: Option<String>,
    /// As the query's.
    priority: Option<i64>,
    /// As the query's.
    timeout: Option<String>,
    /// As the query's.
    max_attempts: Option<u32>,
    /// As the header.
    idempotency_key: Option<String>,
}

/// What became of a line.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Answer {
    /// It was stored, or had been before.
    Accepted(Accepted),
    /// It was not.
    Refused {
        /// Why.
        problem: Problem,
    },
}

/// Submit many jobs.
///
/// One JSON object a line, all stored in one commit; the answers come in the same order. A line that can't
/// be read refuses the whole batch. Repeat a batch whose answer was lost only with a key in every line.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/jobs:batch", operation_id = "submit_batch", tag = "jobs",
    params(("queue" = String, Path, description = "The queue")),
    request_body(content = Line, content_type = "application/x-ndjson", description = "A job a line"),
    responses(
        (status = 202, description = "All were stored", body = Vec<Answer>),
        (status = 207, description = "Some or all were refused: see each", body = Vec<Answer>),
        (status = 400, description = "A line can't be read; nothing was stored", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody works on this queue", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too many lines, or too many bytes", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overloaded, or the storage failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn submit(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let settings = service.open_queue(&queue)?;
    let traceparent = options::traceparent(&headers);
    let body = service.bodies.read(body, service.limits.batch()).await?;
    let now = Timestamp::now();
    let mut jobs = Vec::new();
    for (number, line) in (1..).zip(lines(&body.bytes, service.limits.max_batch)?) {
        let job = Line::parse(line).and_then(|line| line.into_job(settings, now));
        let mut job = job.map_err(|problem| problem.in_line(number))?;
        if job.payload.len() > service.limits.max_body {
            return Err(service.limits.payload().exceeded().in_line(number));
        }
        job.traceparent.clone_from(&traceparent);
        jobs.push(job);
    }
    let answers = service.store(&queue, jobs).await?;
    let answers = answers.into_iter().map(|answer| match answer {
        Ok(submitted) => Answer::Accepted(Accepted::new(queue.clone(), submitted)),
        Err(problem) => Answer::Refused { problem },
    });
    Ok(answer(answers.collect()))
}

/// The lines of a batch; the last may end or not.
fn lines(body: &[u8], most: usize) -> Result<Vec<&[u8]>, Problem> {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    if body.trim_ascii().is_empty() {
        let detail = "the batch is empty; it has a JSON object for each job, one a line";
        return Err(Problem::bad_request(detail));
    }
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').take(most + 1).collect();
    if lines.len() > most {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a batch has at most {most} lines (setting 'max-batch')"),
        ));
    }
    Ok(lines)
}

fn answer(answers: Vec<Answer>) -> Response {
    let problems = || {
        answers.iter().filter_map(|answer| match answer {
            Answer::Refused { problem } => Some(problem),
            Answer::Accepted(_) => None,
        })
    };
    let status = match problems().next() {
        None => StatusCode::ACCEPTED,
        Some(_) => StatusCode::MULTI_STATUS,
    };
    let retry = problems().filter_map(Problem::retry_seconds).max();
    let mut response = (status, Json(&answers)).into_response();
    if let Some(seconds) = retry {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

// === impl Line ===

impl Line {
    fn parse(line: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(line).map_err(|error| {
            // serde_json counts lines as well, and here it is always the first.
            let error = error
                .to_string()
                .replace(" at line 1 column ", " at column ");
            Problem::bad_request(error)
        })
    }

    fn into_job(self, queue: &ApiQueue, now: Timestamp) -> Result<NewJob, Problem> {
        let options = Options {
            delay: self
                .delay
                .as_deref()
                .map(options::parse_delay)
                .transpose()?,
            run_at: self
                .run_at
                .as_deref()
                .map(options::parse_run_at)
                .transpose()?,
            priority: self
                .priority
                .map(Priority::try_from)
                .transpose()
                .map_err(|error| Problem::bad_request(format!("priority: {error}")))?,
            timeout: self
                .timeout
                .as_deref()
                .map(options::parse_timeout)
                .transpose()?,
            max_attempts: self
                .max_attempts
                .map(|attempts| options::check_attempts(Some(attempts)))
                .transpose()?,
        };
        let (payload, usual) = payload(self.payload, self.payload_text, self.payload_base64)?;
        Ok(NewJob {
            queue: queue.name.clone(),
            payload,
            content_type: options::check_content_type(
                self.content_type.as_deref().unwrap_or(usual),
            )?,
            run_at: options.not_before(now)?,
            priority: options.priority.unwrap_or_default(),
            timeout: options.timeout,
            traceparent: None,
            max_attempts: options.max_attempts.unwrap_or(queue.max_attempts),
            idempotency_key: self
                .idempotency_key
                .as_deref()
                .map(options::check_key)
                .transpose()?,
        })
    }
}

/// The payload, and its usual content type.
fn payload(
    json: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
) -> Result<(Bytes, &'static str), Problem> {
    match (json, text, base64) {
        (Some(json), None, None) => {
            let json = Box::<str>::from(json).into_boxed_bytes();
            Ok((json.into_vec().into(), "application/json"))
        }
        (None, Some(text), None) => Ok((text.into(), "text/plain; charset=utf-8")),
        (None, None, Some(base64)) => STANDARD
            .decode(base64)
            .map(|bytes| (bytes.into(), "application/octet-stream"))
            .map_err(|error| Problem::bad_request(format!("payload_base64: {error}"))),
        _ => Err(Problem::bad_request(
            "a job has one payload: 'payload' (JSON), 'payload_text' or 'payload_base64'",
        )),
    }
}

/// What is there is `Some`, `null` included: that is a payload, too.
fn some<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
