//! Jobs and queues over HTTP.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep, timeout_at},
};

use super::{Api, Problem};
use crate::{
    jobs::{
        engine::Event,
        job::{
            JobId, JobRecord, NewJob, Priority, QueueName, QueueStats, Rejected, State as JobState,
        },
    },
    lifecycle::Moment,
};

/// The longest `?wait=`; what is longer is cut to this.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How often a waiting request looks although no event came, because events are only hints.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Bytes of an `Idempotency-Key`.
const MAX_KEY: usize = 255;

/// Bytes of a `Content-Type`.
const MAX_CONTENT_TYPE: usize = 255;

// --- submit ---

#[derive(Serialize)]
struct Accepted {
    id: JobId,
    queue: QueueName,
}

pub(super) async fn submit(
    State(api): State<Api>,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let queue = known_queue(&api, &queue)?;
    let payload = body.map_err(|rejection| too_large_or_broken(&api, &rejection))?;
    let job = NewJob {
        queue: queue.clone(),
        payload,
        content_type: content_type(&headers)?,
        run_at: None,
        priority: Priority::default(),
        timeout: None,
        traceparent: None,
        max_attempts: api.max_attempts,
        idempotency_key: idempotency_key(&headers)?,
    };
    let answer = api.engine.submit(vec![job]).await?.pop();
    match answer {
        Some(Ok(submitted)) => {
            let id = submitted.id;
            let location = [(header::LOCATION, format!("/v1/jobs/{id}"))];
            let accepted = Json(Accepted { id, queue });
            Ok((StatusCode::ACCEPTED, location, accepted).into_response())
        }
        Some(Err(rejected @ Rejected::KeyReused { .. })) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            rejected.to_string(),
        )),
        Some(Err(rejected)) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            rejected.to_string(),
        )),
        None => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the queue gave no answer",
        )),
    }
}

fn known_queue(api: &Api, name: &str) -> Result<QueueName, Problem> {
    let queue: QueueName = name
        .parse()
        .map_err(|error| Problem::new(StatusCode::NOT_FOUND, format!("{error}")))?;
    if api.queues.contains(&queue) {
        return Ok(queue);
    }
    let known: Vec<&str> = api.queues.iter().map(QueueName::as_str).collect();
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "nobody works on the queue '{queue}'; there are: {}",
            known.join(", ")
        ),
    ))
}

fn too_large_or_broken(api: &Api, rejection: &BytesRejection) -> Problem {
    let status = rejection.status();
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        let limit = api.max_body;
        return Problem::new(
            status,
            format!("a payload has at most {limit} bytes (setting 'max-body')"),
        );
    }
    Problem::new(status, rejection.body_text())
}

fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    match header_text(headers, header::CONTENT_TYPE.as_str(), MAX_CONTENT_TYPE)? {
        Some(given) => Ok(given.to_owned()),
        None => Ok("application/octet-stream".to_owned()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    match header_text(headers, "idempotency-key", MAX_KEY)? {
        Some("") => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the Idempotency-Key is empty; leave the header out or give it a value",
        )),
        key => Ok(key.map(str::to_owned)),
    }
}

fn header_text<'h>(
    headers: &'h HeaderMap,
    name: &str,
    limit: usize,
) -> Result<Option<&'h str>, Problem> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) if text.len() <= limit => Ok(Some(text)),
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the header {name} must be at most {limit} characters of visible ASCII"),
        )),
    }
}

// --- show ---

#[derive(Deserialize)]
pub(super) struct ShowQuery {
    wait: Option<String>,
}

#[derive(Serialize)]
pub(super) struct JobView {
    id: JobId,
    queue: QueueName,
    state: JobState,
    attempt: u32,
    max_attempts: u32,
    releases: u32,
    content_type: String,
    submitted_at: Timestamp,
    run_at: Timestamp,
    ended_at: Option<Timestamp>,
    last_error: Option<String>,
    /// Where it is text; see `/result` for the bytes.
    result: Option<String>,
}

pub(super) async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<JobView>, Problem> {
    let id = parse_id(&id)?;
    let record = match query.wait {
        None => find(&api, id).await?,
        Some(wait) => wait_for_end(&api, id, Instant::now() + parse_wait(&wait)?).await?,
    };
    Ok(Json(record.into()))
}

/// The job once it has ended; earlier, as it stands, when the time is over or clients are to leave.
async fn wait_for_end(api: &Api, id: JobId, until: Instant) -> Result<JobRecord, Problem> {
    // Subscribed before the first look, so that no end is missed between the two.
    let mut events = api.engine.events();
    loop {
        let record = find(api, id).await?;
        let over = Instant::now() >= until || api.drain.has(Moment::Leave);
        if over || record.state.has_ended() {
            return Ok(record);
        }
        let ended = async {
            loop {
                match events.recv().await {
                    Ok(Event::Ended(ended)) if ended == id => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let look = async {
            tokio::select! {
                () = ended => {}
                () = sleep(LOOK_AGAIN) => {}
                () = api.drain.reached(Moment::Leave) => {}
            }
        };
        // Being over is seen at the next turn.
        let _ = timeout_at(until, look).await;
    }
}

pub(super) async fn result(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let record = find(&api, parse_id(&id)?).await?;
    match record.result {
        Some(result) => {
            let octets = [(header::CONTENT_TYPE, "application/octet-stream")];
            Ok((octets, result).into_response())
        }
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "this job has no result (yet); its state says why",
        )),
    }
}

async fn find(api: &Api, id: JobId) -> Result<JobRecord, Problem> {
    api.engine
        .job(id)
        .await?
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no job {id}")))
}

fn parse_id(id: &str) -> Result<JobId, Problem> {
    id.parse()
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "a job's id is a UUID"))
}

fn parse_wait(wait: &str) -> Result<Duration, Problem> {
    let parsed: Option<SignedDuration> = wait.parse().ok();
    parsed
        .and_then(|wait| Duration::try_from(wait).ok())
        .map(|wait| wait.min(MAX_WAIT))
        .ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "'wait' is a duration, written as in ?wait=20s",
            )
        })
}

impl From<JobRecord> for JobView {
    fn from(record: JobRecord) -> Self {
        Self {
            id: record.id,
            queue: record.queue,
            state: record.state,
            attempt: record.attempt,
            max_attempts: record.max_attempts,
            releases: record.releases,
            content_type: record.content_type,
            submitted_at: record.submitted_at,
            run_at: record.run_at,
            ended_at: record.ended_at,
            last_error: record.last_error,
            result: record
                .result
                .and_then(|result| String::from_utf8(result.to_vec()).ok()),
        }
    }
}

// --- queues ---

#[derive(Serialize)]
pub(super) struct Queues {
    queues: Vec<QueueView>,
}

#[derive(Serialize)]
pub(super) struct QueueView {
    queue: QueueName,
    pending: u64,
    scheduled: u64,
    running: u64,
    dead: u64,
    oldest_age_seconds: Option<f64>,
}

pub(super) async fn queues(State(api): State<Api>) -> Result<Json<Queues>, Problem> {
    let mut stats = api.engine.queues().await?;
    for queue in &api.queues {
        if !stats.iter().any(|known| known.queue == *queue) {
            stats.push(empty(queue.clone()));
        }
    }
    stats.sort_by(|a, b| a.queue.cmp(&b.queue));
    let now = Timestamp::now();
    let queues = stats.into_iter().map(|stats| view(stats, now)).collect();
    Ok(Json(Queues { queues }))
}

fn view(stats: QueueStats, now: Timestamp) -> QueueView {
    QueueView {
        queue: stats.queue,
        pending: stats.pending,
        scheduled: stats.scheduled,
        running: stats.running,
        dead: stats.dead,
        oldest_age_seconds: stats
            .oldest_pending
            .map(|since| now.duration_since(since).as_secs_f64().max(0.0)),
    }
}

fn empty(queue: QueueName) -> QueueStats {
    QueueStats {
        queue,
        paused: false,
        pending: 0,
        scheduled: 0,
        running: 0,
        deferred: 0,
        dead: 0,
        oldest_pending: None,
    }
}
