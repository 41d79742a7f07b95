//! One job: as it stands, or once it has ended.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use utoipa::IntoParams;

use super::{
    Problem, Service,
    extract::{Asked, AtJob},
    options::parse_duration,
    view::JobDetails,
};
use lameduck_http::leave;
use lameduck_jobs::job::{JobId, JobRecord};
use lameduck_lifecycle::Moment;

/// The longest `?wait=`.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Answer once the job has ended, or after this time, as in `20s`; at most a minute (`60s`).
    #[param(pattern = "^(([0-9]|[1-5][0-9]|60)s|[0-9]{1,4}ms|1m)$")]
    wait: Option<String>,
}

/// Why a long poll was answered.
enum Waited {
    /// The job has ended, or the time is over.
    Enough(JobRecord),
    /// Clients are asked to leave; whoever comes next waits on.
    Leave(JobRecord, NextTime),
}

/// When to ask the next process.
#[derive(Clone, Copy)]
enum NextTime {
    AtOnce,
    /// It came although clients had been asked to leave: it may well come here again.
    InASecond,
}

/// One job.
///
/// With `?wait=` the answer comes once the job has ended, or with the job as it stands after that time. A
/// process that is asked to leave answers at once, with `Retry-After` and `Content-Location`: ask again
/// there, and the next process goes on waiting.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", operation_id = "show_job", tag = "jobs",
    params(("id" = String, Path, description = "The job"), ShowQuery),
    responses(
        (status = 200, description = "The job", body = JobDetails),
        (status = 400, description = "A wait that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many wait already, or the storage failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn job(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
    Asked(query): Asked<ShowQuery>,
) -> Result<Response, Problem> {
    let waited = match query.wait {
        None => Waited::Enough(service.find(id).await?),
        Some(wait) => {
            let wait = parse_wait(&wait)?;
            service.wait_for_end(id, Instant::now() + wait).await?
        }
    };
    match waited {
        Waited::Enough(record) => Ok(Json(service.details(&record).await?).into_response()),
        Waited::Leave(record, next) => {
            let mut response = Json(service.details(&record).await?).into_response();
            let seconds = match next {
                NextTime::AtOnce => "0",
                NextTime::InASecond => "1",
            };
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
            if let Ok(job) = HeaderValue::try_from(format!("/v1/jobs/{id}")) {
                headers.insert(header::CONTENT_LOCATION, job);
            }
            Ok(response)
        }
    }
}

fn parse_wait(text: &str) -> Result<Duration, Problem> {
    let wait = parse_duration("wait", text)?;
    if wait > MAX_WAIT {
        return Err(Problem::bad_request(
            "'wait' is at most a minute (60s); who is answered before the job has ended asks again",
        ));
    }
    Ok(wait)
}

/// What the handler answered, byte for byte.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/result", operation_id = "show_result", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "The result", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is no such job, or it has no result (yet)", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn result(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
) -> Result<Response, Problem> {
    let record = service.find(id).await?;
    match record.result {
        Some(result) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                // A handler's answer is nobody's page.
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            Ok((headers, result).into_response())
        }
        None => Err(Problem::not_found(format!(
            "this job has no result: it is {}",
            record.state.as_str()
        ))),
    }
}

/// The payload, byte for byte and with its media type.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/payload", operation_id = "show_payload", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "The payload, as it was submitted", body = Vec<u8>, content_type = "*/*"),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn payload(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
) -> Result<Response, Problem> {
    let payload = service.engine.payload(id).await?;
    let (content_type, body) = payload.ok_or_else(|| gone(id))?;
    let octets = HeaderValue::from_static("application/octet-stream");
    let headers = [
        // Of jobs that came by SQL nobody has looked whether it can be a header.
        (
            header::CONTENT_TYPE,
            HeaderValue::try_from(content_type).unwrap_or(octets),
        ),
        // It may say that it is a page with scripts; it is not to be shown as one of ours.
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    Ok((headers, body).into_response())
}

/// There is no such job, or not any more.
pub(super) fn gone(id: JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}"))
}

// === impl Service ===

impl Service {
    pub(super) async fn find(&self, id: JobId) -> Result<JobRecord, Problem> {
        self.engine.job(id).await?.ok_or_else(|| gone(id))
    }

    pub(super) async fn details(&self, record: &JobRecord) -> Result<JobDetails, Problem> {
        let runs = self.engine.runs(record.id).await?;
        Ok(JobDetails::new(record, runs))
    }

    async fn wait_for_end(&self, id: JobId, until: Instant) -> Result<Waited, Problem> {
        let too_late = self.drain.has(Moment::Leave);
        let record = self.find(id).await?;
        if record.state.has_ended() || Instant::now() >= until {
            return Ok(Waited::Enough(record));
        }
        if too_late {
            return Ok(Waited::Leave(record, NextTime::InASecond));
        }
        let mut watch = self.lookout.watch(id)?;
        let mut leave = std::pin::pin!(leave(self.drain.clone()));
        let mut over = std::pin::pin!(sleep_until(until));
        loop {
            let record = self.find(id).await?;
            if record.state.has_ended() {
                return Ok(Waited::Enough(record));
            }
            tokio::select! {
                () = watch.changed() => {}
                () = &mut over => return Ok(Waited::Enough(self.find(id).await?)),
                () = &mut leave => {
                    let record = self.find(id).await?;
                    return Ok(match record.state.has_ended() {
                        true => Waited::Enough(record),
                        false => Waited::Leave(record, NextTime::AtOnce),
                    });
                }
            }
        }
    }
}
