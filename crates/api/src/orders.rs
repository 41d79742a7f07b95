//! Operator commands: cancel a job, run dead jobs again or give them up, pause a queue.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Problem, Service,
    extract::{AtJob, AtQueue},
    schemas::Name,
    show::gone,
    view::QueueView,
};
use lameduck_jobs::job::{Cancelled, JobId, QueueName, Revived, State as JobState};

/// Maximum number of dead jobs that are run again or given up in one commit.
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

/// How many dead jobs were given up.
#[derive(Serialize, ToSchema)]
pub(super) struct GivenUp {
    /// That many.
    cancelled: u64,
}

/// The command for dead jobs.
#[derive(Clone, Copy)]
enum Fate {
    Retried,
    Cancelled,
}

/// Cancel a job.
///
/// One that waits, works elsewhere or is dead is cancelled; the handler of one that runs is told to stop, and
/// what does not complete then is cancelled. May be repeated.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = String, Path, format = "uuid", description = "The job")),
    responses(
        (status = 200, description = "It is cancelled", body = Standing),
        (status = 202, description = "It runs; its handler is told to stop", body = Standing),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has completed", body = Problem, content_type = "application/problem+json"),
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
    params(("id" = String, Path, format = "uuid", description = "The job")),
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
    params(("queue" = inline(Name), Path, description = "The queue")),
    responses(
        (status = 200, description = "They are pending", body = Retried),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn retry_dead(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
) -> Result<Json<Retried>, Problem> {
    let retried = service.all_dead(&queue, Fate::Retried).await?;
    Ok(Json(Retried { retried }))
}

/// Cancel all dead jobs of a queue: they are given up.
///
/// Those that are dead when it begins; what dies meanwhile stays so.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/cancel", operation_id = "cancel_dead", tag = "queues",
    params(("queue" = inline(Name), Path, description = "The queue")),
    responses(
        (status = 200, description = "They are cancelled", body = GivenUp),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel_dead(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
) -> Result<Json<GivenUp>, Problem> {
    let cancelled = service.all_dead(&queue, Fate::Cancelled).await?;
    Ok(Json(GivenUp { cancelled }))
}

/// Pause a queue.
///
/// Nothing is begun in it until it is resumed, by no process and also after a restart. What runs goes on,
/// and jobs are taken in.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/pause", operation_id = "pause_queue", tag = "queues",
    params(("queue" = inline(Name), Path, description = "The queue")),
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
    params(("queue" = inline(Name), Path, description = "The queue")),
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

// === impl Standing ===

impl Standing {
    pub(super) fn new(id: JobId, state: JobState) -> Self {
        Self { id, state }
    }
}

// === impl Service ===

impl Service {
    /// Retries or cancels all dead jobs in pieces, so that submissions and outcomes get their turn. It stops at the
    /// number that were dead at first, because jobs that die again at once would keep it going forever.
    async fn all_dead(&self, queue: &QueueName, fate: Fate) -> Result<u64, Problem> {
        let dead = self.stats(queue).await?.dead;
        let mut done = 0;
        while done < dead {
            let piece = PIECE.min(usize::try_from(dead - done).unwrap_or(PIECE));
            let some = match fate {
                Fate::Retried => self.engine.revive_all(queue, piece).await?,
                Fate::Cancelled => self.engine.cancel_dead(queue, piece).await?,
            };
            if some == 0 {
                break;
            }
            done += some;
        }
        Ok(done)
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        paused: bool,
    ) -> Result<Json<QueueView>, Problem> {
        // Check that the queue exists first: pausing a misspelt name would create a queue of that name.
        self.known(queue).await?;
        self.engine.set_paused(queue, paused).await?;
        let stats = self.stats(queue).await?;
        Ok(Json(QueueView::here(stats, &self.drain)))
    }
}
