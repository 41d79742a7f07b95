//! Queues in numbers, and their jobs page by page.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Problem, Service,
    extract::{Asked, AtQueue, limit},
    schemas::Name,
    view::{JobView, QueueView, UnreadableView},
};
use lameduck_jobs::job::{Listing, QueueName, QueueStats, State as JobState};

/// Number of jobs on a page if the query does not say.
const PAGE: usize = 50;

/// Maximum number of jobs on a page.
const MAX_PAGE: usize = 500;

/// Every queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Queues {
    /// By name.
    queues: Vec<QueueView>,
}

/// Jobs of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Jobs {
    /// What waits by its instant, what runs by its order of submission, what ended latest first.
    jobs: Vec<JobView>,
    /// Those of this page that can't be read; absent where all can. They can be cancelled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<UnreadableView>,
    /// Where the next page is; null at the end.
    #[schema(format = "uri-reference")]
    next: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// In this state. Default `pending`.
    #[param(value_type = Option<JobState>)]
    state: Option<String>,
    /// At most so many, 1 to 500. Default 50.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    limit: Option<String>,
    /// Behind this place; `next` of the page before has it.
    #[param(pattern = "^-?[0-9]{1,18}\\.-?[0-9]{1,18}$")]
    after: Option<String>,
}

/// Every queue in numbers.
#[utoipa::path(
    get, path = "/v1/queues", operation_id = "list_queues", tag = "queues",
    responses((status = 200, description = "Those that somebody works on, and those that ever had a job", body = Queues)),
)]
pub(super) async fn queues(State(service): State<Arc<Service>>) -> Result<Json<Queues>, Problem> {
    let stats = service.all_stats().await?;
    let here = |stats| QueueView::here(stats, &service.drain);
    let queues = stats.into_iter().map(here).collect();
    Ok(Json(Queues { queues }))
}

/// A queue in numbers.
#[utoipa::path(
    get, path = "/v1/queues/{queue}", operation_id = "show_queue", tag = "queues",
    params(("queue" = inline(Name), Path, description = "The queue")),
    responses(
        (status = 200, description = "The queue", body = QueueView),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn queue(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
) -> Result<Json<QueueView>, Problem> {
    let stats = service.stats(&queue).await?;
    Ok(Json(QueueView::here(stats, &service.drain)))
}

/// Jobs of a queue in one state, page by page.
///
/// A job that stays in its state is on exactly one page, whatever happens to the others meanwhile.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/jobs", operation_id = "list_jobs", tag = "queues",
    params(("queue" = inline(Name), Path, description = "The queue"), ListQuery),
    responses(
        (status = 200, description = "A page", body = Jobs),
        (status = 400, description = "No such state, or a page that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn jobs(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<Jobs>, Problem> {
    let listing = query.listing(queue)?;
    let page = service.engine.list(&listing).await?;
    if page.jobs.is_empty() && page.unreadable.is_empty() {
        // A queue without jobs is a valid answer; a queue that does not exist is an error.
        service.known(&listing.queue).await?;
    }
    let next = page.next.map(|place| {
        format!(
            "/v1/queues/{}/jobs?state={}&limit={}&after={place}",
            listing.queue,
            listing.state.as_str(),
            listing.limit
        )
    });
    let jobs = page.jobs.iter().map(JobView::from).collect();
    let unreadable = page.unreadable.into_iter();
    Ok(Json(Jobs {
        jobs,
        unreadable: unreadable.map(UnreadableView::from).collect(),
        next,
    }))
}

// === impl ListQuery ===

impl ListQuery {
    fn listing(self, queue: QueueName) -> Result<Listing, Problem> {
        let bad = |error: String| Problem::bad_request(error);
        let limit = limit(self.limit.as_deref(), PAGE, MAX_PAGE)?;
        let state = match self.state {
            None => JobState::Pending,
            Some(state) => state
                .parse()
                .map_err(|error| bad(format!("state: {error}")))?,
        };
        let after = self.after.map(|place| place.parse()).transpose();
        Ok(Listing {
            queue,
            state,
            after: after.map_err(|error| bad(format!("after: {error}")))?,
            limit,
        })
    }
}

// === impl Service ===

impl Service {
    /// Returns the figures of every queue, including those that nobody has used yet.
    async fn all_stats(&self) -> Result<Vec<QueueStats>, Problem> {
        let mut stats = self.engine.queues().await?;
        for queue in self.queues.keys() {
            if !stats.iter().any(|known| known.queue == *queue) {
                stats.push(QueueStats::empty(queue.clone()));
            }
        }
        stats.sort_by(|a, b| a.queue.cmp(&b.queue));
        Ok(stats)
    }

    /// Returns the figures of a queue that has workers or ever had a job. Only the jobs of this queue are counted.
    pub(super) async fn stats(&self, queue: &QueueName) -> Result<QueueStats, Problem> {
        match self.engine.queue(queue).await? {
            Some(stats) => Ok(stats),
            None if self.queues.contains_key(queue) => Ok(QueueStats::empty(queue.clone())),
            None => Err(self.no_such_queue(queue)),
        }
    }

    /// Checks the same without asking for figures.
    pub(super) async fn known(&self, queue: &QueueName) -> Result<(), Problem> {
        match self.queues.contains_key(queue) {
            true => Ok(()),
            false => self.stats(queue).await.map(drop),
        }
    }

    fn no_such_queue(&self, queue: &QueueName) -> Problem {
        let names: Vec<_> = self.queues.keys().map(QueueName::as_str).collect();
        Problem::not_found(format!(
            "there is no queue '{queue}'; jobs are taken in for {}, and /v1/queues lists all that there are",
            names.join(", ")
        ))
    }
}
