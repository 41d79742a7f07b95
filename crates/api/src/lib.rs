//! The HTTP API for jobs.
//!
//! ```text
//!   submitter ── POST …/jobs, …/jobs:batch ──▶ options, body ──▶ Engine::submit ──▶ 202, after the commit
//!   reader    ── GET …/jobs/{id}?wait, …/events ──▶ Lookout (one follower of the engine's events for all)
//!   operator  ── cancel, retry, pause, resume, lists, numbers ──▶ Engine
//!   handler   ── POST …/jobs/{id}/outcome, with its claim ──▶ Engine::settle
//! ```
//!
//! In a drain all requests are answered as before: a job that comes in is stored, and the next process runs it.
//! Only clients that wait for a job are answered early, once clients are asked to leave, and are told where to
//! go on: their next request reaches a process that stays.
//!
//! The cost of a request is limited before it arises: see [`Limits`]. Every refusal is a [`Problem`], which says
//! what to do.
//!
//! The reference for people is `docs/api.md`, the one for programs is [`openapi`].

mod access;
mod batch;
mod drains;
mod events;
mod extract;
mod gate;
mod limits;
mod lists;
mod lookout;
mod openapi;
mod options;
mod orders;
mod outcome;
mod problem;
mod refusals;
mod schemas;
mod show;
mod submit;
mod view;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, http::StatusCode, middleware, routing::post};
use prometheus::{IntCounterVec, Opts};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{limits::Bodies, lookout::Lookout, refusals::Refusals};
use lameduck_jobs::{engine::Engine, job::QueueName, workers::Backoff};
use lameduck_lifecycle::Drain;

pub use self::{
    access::{Access, AccessError, Tokens},
    drains::{DrainView, Drains},
    gate::Gate,
    limits::Limits,
    openapi::openapi,
    problem::Problem,
};

/// The parts and settings that the API is made from.
#[derive(Clone)]
#[non_exhaustive]
pub struct Api {
    /// Where jobs are kept.
    pub engine: Arc<dyn Engine>,
    /// The queues that have workers. A job for any other queue is refused: it would wait forever.
    pub queues: Vec<ApiQueue>,
    /// The process's drain.
    pub drain: Drain,
    /// Limits on the cost of a request.
    pub limits: Limits,
    /// Access to the API.
    pub access: Access,
}

/// The settings of a queue that the API needs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApiQueue {
    /// Its name.
    pub name: QueueName,
    /// Maximum number of attempts of a job if its submitter does not say. Default 5.
    pub max_attempts: u32,
    /// The backoff of a job whose failure was reported from outside; the same as its workers'.
    pub backoff: Backoff,
}

/// The state that all requests share.
struct Service {
    engine: Arc<dyn Engine>,
    queues: BTreeMap<QueueName, ApiQueue>,
    drain: Drain,
    limits: Limits,
    bodies: Bodies,
    lookout: Arc<Lookout>,
    submitted: IntCounterVec,
    refusals: Refusals,
}

/// Returns the API as a router.
pub fn router(api: Api) -> Router {
    let open = OpenApiRouter::new()
        .routes(routes!(outcome::outcome))
        .routes(routes!(openapi::show));
    let access = middleware::from_fn_with_state(api.access.clone(), access::check);
    // A colon may be encoded in a path (RFC 3986, section 2.2), and some clients do so; routes are compared as bytes.
    let guarded = ["%3A", "%3a"].into_iter().fold(guarded(), |router, colon| {
        router.route(
            &format!("/v1/queues/{{queue}}/jobs{colon}batch"),
            post(batch::submit),
        )
    });
    let guarded = guarded.route_layer(access);
    let (router, _) = open.merge(guarded).split_for_parts();
    router
        .fallback(|| async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "there is nothing here; jobs are submitted to /v1/queues/{queue}/jobs, and /v1/openapi.json \
                 lists what there is",
            )
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path answers other methods; see the Allow header",
            )
        })
        .with_state(Arc::new(Service::new(api)))
}

/// Returns the routes that ask for a token if tokens are set.
fn guarded() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(submit::submit, lists::jobs))
        .routes(routes!(batch::submit))
        .routes(routes!(show::job))
        .routes(routes!(show::result))
        .routes(routes!(show::payload))
        .routes(routes!(events::follow))
        .routes(routes!(orders::cancel))
        .routes(routes!(orders::retry))
        .routes(routes!(orders::retry_dead))
        .routes(routes!(orders::cancel_dead))
        .routes(routes!(orders::pause))
        .routes(routes!(orders::resume))
        .routes(routes!(lists::queues))
        .routes(routes!(lists::queue))
        .routes(routes!(drains::drains))
}

// === impl Api ===

impl Api {
    /// Creates an API that is open to everybody who reaches it, with the default limits.
    pub fn new(engine: Arc<dyn Engine>, queues: Vec<ApiQueue>, drain: Drain) -> Self {
        Self {
            engine,
            queues,
            drain,
            limits: Limits::default(),
            access: Access::Anonymous,
        }
    }
}

// === impl ApiQueue ===

impl ApiQueue {
    /// Creates a queue with the defaults.
    pub fn new(name: QueueName) -> Self {
        Self {
            name,
            max_attempts: 5,
            backoff: Backoff::default(),
        }
    }
}

// === impl Service ===

impl Service {
    fn new(api: Api) -> Self {
        let submitted = api.drain.kept(|| submitted_metric(&api.drain));
        let queues: BTreeMap<_, _> = api
            .queues
            .into_iter()
            .map(|queue| (queue.name.clone(), queue))
            .collect();
        for queue in queues.keys() {
            submitted.with_label_values(&[queue.as_str()]);
        }
        Self {
            refusals: Refusals::new(&api.drain),
            lookout: Lookout::new(api.engine.clone(), api.limits.max_waiting),
            bodies: Bodies::new(&api.limits),
            engine: api.engine,
            queues,
            drain: api.drain,
            limits: api.limits,
            submitted: (*submitted).clone(),
        }
    }

    /// Returns a queue that accepts jobs, or the problem that it does not.
    fn open_queue(&self, name: &QueueName) -> Result<&ApiQueue, Problem> {
        self.queues.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.queues.keys().map(QueueName::as_str).collect();
            Problem::new(
                StatusCode::NOT_FOUND,
                format!(
                    "nobody works on the queue '{name}'; there are: {}",
                    known.join(", ")
                ),
            )
        })
    }

    /// Returns the backoff of a queue, or the default if it has no workers any more.
    fn backoff(&self, queue: &QueueName) -> Backoff {
        let queue = self.queues.get(queue);
        queue.map_or_else(Backoff::default, |queue| queue.backoff.clone())
    }
}

fn submitted_metric(drain: &Drain) -> IntCounterVec {
    let opts = Opts::new(
        "lameduck_jobs_submitted_total",
        "Jobs that were durably stored; a repeated submission is none.",
    );
    let submitted = IntCounterVec::new(opts, &["queue"]).expect("a valid name and label");
    drain
        .registry()
        .register(Box::new(submitted.clone()))
        .expect("kept, and so registered once");
    submitted
}
