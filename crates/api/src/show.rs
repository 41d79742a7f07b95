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
    lookout::For,
    options::parse_duration,
    schemas::Binary,
    view::JobDetails,
};
use lameduck_http::leave;
use lameduck_jobs::{
    engine::Details,
    job::{JobId, JobRecord},
};
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

/// The reason to answer a long poll.
enum Waited {
    /// The job has ended, or the time is up.
    Enough(Arc<Details>),
    /// Clients are asked to leave; the next process goes on waiting.
    Leave(Arc<Details>, NextTime),
}

/// When to ask the next process.
#[derive(Clone, Copy)]
enum NextTime {
    AtOnce,
    /// The request came although clients had been asked to leave, so the next one may well come here, too.
    InASecond,
}

/// One job.
///
/// With `?wait=` the answer comes once the job has ended, or with the job as it stands after that time. A
/// process that is asked to leave answers at once, with `Retry-After` and `Content-Location`: ask again
/// there, and the next process goes on waiting.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", operation_id = "show_job", tag = "jobs",
    params(("id" = String, Path, format = "uuid", description = "The job"), ShowQuery),
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
        None => Waited::Enough(service.details(id).await?),
        Some(wait) => {
            let wait = parse_wait(&wait)?;
            service.wait_for_end(id, Instant::now() + wait).await?
        }
    };
    match waited {
        Waited::Enough(details) => Ok(Json(JobDetails::from(&*details)).into_response()),
        Waited::Leave(details, next) => {
            let mut response = Json(JobDetails::from(&*details)).into_response();
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
    params(("id" = String, Path, format = "uuid", description = "The job")),
    responses(
        (status = 200, description = "The result", body = inline(Binary), content_type = "application/octet-stream"),
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
                // A browser must not take a handler's answer for a page.
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
    params(("id" = String, Path, format = "uuid", description = "The job")),
    responses(
        (status = 200, description = "The payload, as it was submitted and with its content type",
         content((inline(Binary) = "application/octet-stream"), (inline(Binary) = "*/*"))),
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
        // For jobs that came by SQL nobody has checked that the content type can be a header.
        (
            header::CONTENT_TYPE,
            HeaderValue::try_from(content_type).unwrap_or(octets),
        ),
        // The payload may claim to be a page with scripts; a browser must not show it as one of ours.
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

/// Returns the problem that there is no such job, or not any more.
pub(super) fn gone(id: JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}"))
}

// === impl Service ===

impl Service {
    pub(super) async fn find(&self, id: JobId) -> Result<JobRecord, Problem> {
        self.engine.job(id).await?.ok_or_else(|| gone(id))
    }

    /// Reads a job and its history at once.
    async fn details(&self, id: JobId) -> Result<Arc<Details>, Problem> {
        let details = self.engine.details(&[id]).await?.pop();
        let details = details.unwrap_or(Ok(None))?;
        details.map(Arc::new).ok_or_else(|| gone(id))
    }

    async fn wait_for_end(&self, id: JobId, until: Instant) -> Result<Waited, Problem> {
        if self.drain.has(Moment::Leave) {
            let details = self.details(id).await?;
            return Ok(match details.record.state.has_ended() {
                true => Waited::Enough(details),
                false => Waited::Leave(details, NextTime::InASecond),
            });
        }
        let mut watch = match self.lookout.watch(id, For::TheEnd) {
            Ok(watch) => watch,
            // A request that need not wait needs no place among those that do.
            Err(no_room) => {
                let details = self.details(id).await?;
                let enough = details.record.state.has_ended() || Instant::now() >= until;
                return enough.then_some(Waited::Enough(details)).ok_or(no_room);
            }
        };
        let mut leave = std::pin::pin!(leave(self.drain.clone()));
        let mut over = std::pin::pin!(sleep_until(until));
        let mut details = watch.look().await?;
        while !details.record.state.has_ended() {
            tokio::select! {
                changed = watch.changed() => details = changed?,
                () = &mut over => return Ok(Waited::Enough(watch.look().await?)),
                () = &mut leave => {
                    let details = watch.look().await?;
                    return Ok(match details.record.state.has_ended() {
                        true => Waited::Enough(details),
                        false => Waited::Leave(details, NextTime::AtOnce),
                    });
                }
            }
        }
        Ok(Waited::Enough(details))
    }
}
