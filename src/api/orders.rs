//! What people ask for: cancel a job, run dead ones again, pause a queue.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Problem, Service,
    extract::{AtJob, AtQueue},
    view::QueueView,
};
use crate::jobs::job::{Cancelled, JobId, QueueName, Revived, State as JobState};

/// Dead jobs that go back in one commit.
const PIECE: usize = 500;

/// Where a job stands after what was asked.
#[derive(Serialize, ToSchema)]
pub(super) struct Standing {
    /// The job.
    #[schema(value_type = String, format = "uuid")]
    id: JobId,
    /// Where it stands.
    state: JobState,
}

/// How many dead jobs run again.
#[derive(Serialize, ToSchema)]
pub(super) struct Retried {
    /// That many.
    retried: u64,
}

/// Cancel a job.
///
/// One that waits or works elsewhere is cancelled; the handler of one that runs is told to stop, and what
/// does not complete then is cancelled. May be repeated.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "It is cancelled", body = Standing),
        (status = 202, description = "It runs; its handler is told to stop", body = Standing),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has completed, or is dead", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
) -> Result<(StatusCode, Json<Standing>), Problem> {
    let (status, state) = match service.engine.cancel(id).await?.ok_or_else(|| gone(id))? {
        Cancelled::Now | Cancelled::TooLate(JobState::Cancelled) => {
            (StatusCode::OK, JobState::Cancelled)
        }
        Cancelled::Requested => (StatusCode::ACCEPTED, JobState::Running),
        Cancelled::TooLate(state) => {
            return Err(Problem::conflict(format!(
                "this job has ended: it is {}",
                state.as_str()
            )));
        }
    };
    Ok((status, Json(Standing::new(id, state))))
}

/// Run a dead job again, with all its attempts.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", operation_id = "retry_job", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "It is pending", body = Standing),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is not dead", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn retry(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
) -> Result<Json<Standing>, Problem> {
    match service.engine.revive(id).await?.ok_or_else(|| gone(id))? {
        Revived::Now => {
            let state = JobState::Pending;
            Ok(Json(Standing::new(id, state)))
        }
        Revived::NotDead(state) => Err(Problem::conflict(format!(
            "only a dead job can be run again: this one is {}",
            state.as_str()
        ))),
    }
}

/// Run all dead jobs of a queue again.
///
/// Those that are dead when it begins; what dies meanwhile stays so.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/retry", operation_id = "retry_dead", tag = "queues",
    params(("queue" = String, Path, description = "The queue")),
    responses(
        (status = 200, description = "They are pending", body = Retried),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn retry_dead(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
) -> Result<Json<Retried>, Problem> {
    let dead = service.stats(&queue).await?.dead;
    let mut retried = 0;
    // In pieces, so that submissions and outcomes come in between; counted, because a job that dies again
    // at once would keep it going for ever.
    while retried < dead {
        let piece = PIECE.min(usize::try_from(dead - retried).unwrap_or(PIECE));
        match service.engine.revive_all(&queue, piece).await? {
            0 => break,
            some => retried += some,
        }
    }
    Ok(Json(Retried { retried }))
}

/// Pause a queue.
///
/// Nothing is begun in it until it is resumed, by no process and also after a restart. What runs goes on,
/// and jobs are taken in.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/pause", operation_id = "pause_queue", tag = "queues",
    params(("queue" = String, Path, description = "The queue")),
    responses(
        (status = 200, description = "It is paused", body = QueueView),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn pause(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
) -> Result<Json<QueueView>, Problem> {
    service.set_paused(&queue, true).await
}

/// Resume a queue.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/resume", operation_id = "resume_queue", tag = "queues",
    params(("queue" = String, Path, description = "The queue")),
    responses(
        (status = 200, description = "It is not paused", body = QueueView),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn resume(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
) -> Result<Json<QueueView>, Problem> {
    service.set_paused(&queue, false).await
}

fn gone(id: JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}"))
}

// === impl Standing ===

impl Standing {
    pub(super) fn new(id: JobId, state: JobState) -> Self {
        Self { id, state }
    }
}

// === impl Service ===

impl Service {
    async fn set_paused(
        &self,
        queue: &QueueName,
        paused: bool,
    ) -> Result<Json<QueueView>, Problem> {
        // Looked for first: pausing a queue that is misspelt would make one of that name.
        self.stats(queue).await?;
        self.engine.set_paused(queue, paused).await?;
        Ok(Json(self.stats(queue).await?.into()))
    }
}
