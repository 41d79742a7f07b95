//! One job: its payload is the body, its options are in the query or in headers.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Problem, Service,
    extract::{Asked, AtQueue},
    options::{self, Options, Words},
    schemas::{Binary, Delay, Instant, Key, Name, Time},
};
use lameduck_jobs::job::{JobId, NewJob, QueueName, Submitted};

/// A job that was taken in.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    /// The job.
    #[schema(value_type = String, format = "uuid")]
    id: JobId,
    /// Its queue.
    #[schema(value_type = String)]
    queue: QueueName,
    /// This key had come before, with the same payload: it is the first job, and nothing new was stored.
    repeated: bool,
}

/// Submit a job.
///
/// The body is the payload, handed to the handler as it is with its Content-Type. The options are in the
/// query, or in headers of the same words; what is in both must be the same.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/jobs", operation_id = "submit_job", tag = "jobs",
    params(
        ("queue" = inline(Name), Path, description = "The queue"),
        ("Idempotency-Key" = inline(Option<Key>), Header,
         description = "Makes a repetition harmless: the same key, payload and content type answer with the first job \
                        again. At most 255 bytes; its scope is the queue"),
        Words,
        ("Lameduck-Delay" = inline(Option<Delay>), Header, description = "As delay"),
        ("Lameduck-Run-At" = inline(Option<Instant>), Header, description = "As run_at"),
        ("Lameduck-Priority" = Option<i8>, Header, minimum = -9, maximum = 9, description = "As priority"),
        ("Lameduck-Timeout" = inline(Option<Time>), Header, description = "As timeout"),
        ("Lameduck-Max-Attempts" = Option<u32>, Header, minimum = 1, maximum = 100, description = "As max_attempts"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, handed on to the handler"),
    ),
    request_body(content = inline(Binary), content_type = "application/octet-stream",
        description = "The payload, of any content type: the handler gets it with the one that is given"),
    responses(
        (status = 202, description = "Durably stored", body = Accepted,
         headers(("Location" = String, description = "The path of the job"))),
        (status = 400, description = "An option is unknown or out of bounds", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody works on this queue", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A transaction in the database uses the key and has not ended; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The payload is too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The key was used with another payload", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The queue is full; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overloaded, or the storage is full or failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn submit(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
    Asked(words): Asked<Words>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let taken = take_in(&service, &queue, &words, &headers, body).await;
    taken.inspect_err(|problem| service.refusals.refused(&queue, problem))
}

async fn take_in(
    service: &Service,
    queue: &QueueName,
    words: &Words,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let settings = service.open_queue(queue)?;
    options::check_coding(headers)?;
    let options = Options::of_request(words, headers)?;
    let mut job = NewJob {
        queue: queue.clone(),
        payload: bytes::Bytes::new(),
        content_type: options::content_type(headers)?,
        run_at: options.not_before()?,
        priority: options.priority.unwrap_or_default(),
        timeout: options.timeout,
        traceparent: options::traceparent(headers),
        max_attempts: options.max_attempts.unwrap_or(settings.max_attempts),
        idempotency_key: options::idempotency_key(headers)?,
    };
    let body = service.bodies.read(body, service.limits.payload()).await?;
    job.payload = body.bytes.clone();
    let Some(answer) = service.store(queue, vec![job]).await?.pop() else {
        let detail = "the queue gave no answer";
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail));
    };
    let accepted = Accepted::new(queue.clone(), answer?);
    let location = [(header::LOCATION, format!("/v1/jobs/{}", accepted.id))];
    Ok((StatusCode::ACCEPTED, location, Json(accepted)).into_response())
}

// === impl Accepted ===

impl Accepted {
    pub(super) fn new(queue: QueueName, submitted: Submitted) -> Self {
        Self {
            id: submitted.id,
            queue,
            repeated: submitted.repeated,
        }
    }
}

// === impl Service ===

impl Service {
    /// Stores jobs of a queue in one commit, and returns an answer for each.
    pub(super) async fn store(
        &self,
        queue: &QueueName,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Submitted, Problem>>, Problem> {
        let answers = self.engine.submit(jobs).await?;
        let new = |answer: &Result<Submitted, _>| matches!(answer, Ok(s) if !s.repeated);
        let stored = answers.iter().filter(|answer| new(answer)).count();
        self.submitted
            .with_label_values(&[queue.as_str()])
            .inc_by(stored as u64);
        if stored > 0 {
            self.refusals.taken(queue);
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.map_err(Problem::from))
            .collect())
    }
}
