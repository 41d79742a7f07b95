//! The HTTP API for jobs.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /v1/queues/{queue}/jobs` | 202 with `Location`, after the durable commit |
//! | `GET /v1/jobs/{id}` | the job; with `?wait=20s` once it has ended, or after that time |
//! | `GET /v1/jobs/{id}/result` | what the handler answered, byte for byte |
//! | `GET /v1/queues` | the queues in numbers |
//! | `GET /v1/drains?limit=20` | how the latest processes of this queue ended, each with its drain report |
//!
//! In a drain everything is answered as before: a job that comes in is stored, and run by whoever comes
//! next. Only who waits for a job is answered early, with the job as it stands, once clients are asked to
//! leave: the next request reaches a process that stays.

mod drains;
mod jobs;
mod problem;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    routing::{get, post},
};

use crate::{
    jobs::{engine::Engine, job::QueueName},
    lifecycle::Drain,
};

pub use self::{
    drains::{DrainView, Drains},
    problem::Problem,
};

/// What the API works on.
#[derive(Clone)]
pub struct Api {
    /// Where jobs are kept.
    pub engine: Arc<dyn Engine>,
    /// The queues that somebody works on. A job for another one is refused: it would wait for ever.
    pub queues: Vec<QueueName>,
    /// The process' drain.
    pub drain: Drain,
    /// The largest payload in bytes.
    pub max_body: usize,
    /// Attempts of a job whose submitter does not say.
    pub max_attempts: u32,
}

/// The API as a router.
pub fn router(api: Api) -> Router {
    let limit = DefaultBodyLimit::max(api.max_body);
    Router::new()
        .route("/v1/drains", get(drains::drains))
        .route("/v1/queues", get(jobs::queues))
        .route("/v1/queues/{queue}/jobs", post(jobs::submit))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/result", get(jobs::result))
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "there is nothing here; jobs are submitted to /v1/queues/{queue}/jobs",
            )
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path answers other methods; see the Allow header",
            )
        })
        .layer(limit)
        .with_state(api)
}
