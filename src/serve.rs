//! `lameduck serve`: puts everything together as the configuration says.
//!
//! ```text
//!   settings, files ──▶ listeners ──▶ the lifecycle runs ──▶ the queue is open ──▶ serving
//!   mistakes are        probes, metrics: answered           (the database may be
//!   reported            API: 503                             away for any time)
//! ```

use std::sync::{Arc, OnceLock};

use anyhow::Context;
use lameduck::prelude::*;
use lameduck::{
    Drain, Lifecycle,
    api::{self, Api, ApiQueue, Gate, Tokens},
    jobs::{
        engine::Engine,
        handler::{self, exec::Exec, http::Http},
        workers::{Backoff, Pool},
    },
    kubernetes::Kubernetes,
    lifecycle::{BoxError, Moment, ReportFile, Signals},
};

use crate::{
    config::{Access, Bytes, Config, Handler, ProcessValues, Queue, QueueValues},
    listen::Listeners,
    logging, storage, teardown, terminal,
};

/// The queue's engine, once it is open.
type Opened = Arc<OnceLock<Arc<dyn Engine>>>;

/// Serves until a drain has ended.
pub async fn serve(config: Config, signals: Signals) -> anyhow::Result<()> {
    // Everything that can fail comes before the queue is opened: a process that ends after that without a drain is
    // recorded as killed.
    let Config {
        queues,
        process,
        drain: settings,
        tls,
        access,
        hooks,
    } = config;
    let pools = queues.iter().map(pool).collect::<Result<Vec<Pool>, _>>()?;
    let access = match access {
        Access::Anonymous => api::Access::Anonymous,
        Access::Tokens(file) => {
            api::Access::Tokens(Tokens::from_file(file).context("setting 'tokens'")?)
        }
    };
    let report = process.report.clone().map(ReportFile::prepare);
    let report = report.transpose().context("setting 'report'")?;
    let place = storage::find(&process, settings.grace.saturating_mul(2))?;

    let mut lifecycle = Lifecycle::builder().settings(settings).signals(signals);
    if process.final_scrape {
        lifecycle = lifecycle.final_scrape();
    }
    if let Some(file) = report {
        lifecycle = lifecycle.on_report("report file", |report| file.write(report));
    }
    let drain = lifecycle.drain().clone();
    tokio::spawn(show(drain.clone()));
    let gate = Gate::default();
    let mut listeners = None;
    match Listeners::bind(&process, tls.as_ref()).await {
        Ok(bound) => lifecycle = bound.serve(lifecycle, &gate),
        // A predecessor on this machine that still holds the data directory may hold the addresses as well.
        Err(error) if error.is_in_use() && place.may_be_held() => listeners = Some(tls),
        Err(error) => return Err(error.into()),
    }
    let opened = Opened::default();
    let kubernetes = Kubernetes::in_cluster();
    let kubernetes = kubernetes.map(|pod| pod.pod_deletion_cost(process.deletion_cost));
    let start = {
        let (drain, opened) = (drain.clone(), opened.clone());
        async move {
            let Some(place) = place.claim(&drain).await? else {
                return Ok(Parts::default());
            };
            let listeners = match listeners {
                Some(tls) => Some(Listeners::bind(&process, tls.as_ref()).await?),
                None => None,
            };
            let Some(engine) = place.open(&process, &drain).await? else {
                return Ok(Parts::default());
            };
            // Kept here, so that it can be closed after the drain.
            let _ = opened.set(engine.clone());
            let api = api(&queues, &process, access, engine.clone(), drain);
            Ok(Parts {
                listeners: listeners.map(|listeners| (listeners, gate.clone())),
                queue: Some(Open {
                    gate,
                    api,
                    engine,
                    pools,
                }),
            })
        }
    };
    let ended = teardown::install(lifecycle, hooks)
        .kubernetes(kubernetes)
        .on_report("log line", logging::report)
        .prepare("the start", async {
            let parts: anyhow::Result<Parts> = start.await;
            let parts = parts.map_err(|error| BoxError::from(format!("{error:#}")))?;
            Ok::<_, BoxError>(|lifecycle| parts.add_to(lifecycle))
        })
        .run()
        .await;
    if let Some(engine) = opened.get() {
        storage::close(&**engine, &drain).await;
    }
    // The sources are dropped, because the message includes them already.
    ended.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The parts that the start has made; none if it was given up.
#[derive(Default)]
struct Parts {
    /// The listeners, if they could not be bound at once.
    listeners: Option<(Listeners, Gate)>,
    queue: Option<Open>,
}

/// The open queue, and what is started with it.
struct Open {
    gate: Gate,
    api: Api,
    engine: Arc<dyn Engine>,
    pools: Vec<Pool>,
}

// === impl Parts ===

impl Parts {
    fn add_to(self, mut lifecycle: Lifecycle) -> Lifecycle {
        if let Some((listeners, gate)) = self.listeners {
            lifecycle = listeners.serve(lifecycle, &gate);
        }
        if let Some(open) = self.queue {
            let Open {
                gate,
                api,
                engine,
                pools,
            } = open;
            gate.open(api::router(api));
            lifecycle = lifecycle.workers(engine, pools);
        }
        lifecycle
    }
}

async fn show(drain: Drain) {
    drain.reached(Moment::Began).await;
    terminal::show(drain);
}

/// Creates the workers of a queue, as its settings say.
fn pool(queue: &Queue) -> anyhow::Result<Pool> {
    let values = &queue.values;
    let handler: Arc<dyn handler::Handler> = match &queue.handler {
        Handler::Exec(command) => {
            let exec = Exec::new(command.0.clone())
                .zero_after_stop_is_done(values.zero_after_stop_is_done);
            Arc::new(exec)
        }
        Handler::Http { url, secrets } => {
            Arc::new(Http::new(url.0.as_str())?.secrets(secrets.clone()))
        }
    };
    let mut pool = Pool::new(queue.name.clone(), handler);
    pool.workers = values.workers.get();
    pool.order = values.order;
    pool.timeout = values.timeout.0;
    pool.backoff = backoff(values);
    Ok(pool)
}

/// Creates the API, as the settings say.
fn api(
    queues: &[Queue],
    process: &ProcessValues,
    access: api::Access,
    engine: Arc<dyn Engine>,
    drain: Drain,
) -> Api {
    let queues = queues.iter().map(|Queue { name, values, .. }| {
        let mut queue = ApiQueue::new(name.clone());
        queue.max_attempts = values.max_attempts.get();
        queue.backoff = backoff(values);
        queue
    });
    let mut api = Api::new(engine, queues.collect(), drain);
    api.access = access;
    let bytes = |bytes: Bytes| usize::try_from(bytes.0).unwrap_or(usize::MAX);
    api.limits.max_body = bytes(process.max_body);
    api.limits.max_batch = process.max_batch.get();
    api.limits.max_batch_body = bytes(process.max_batch_body);
    api.limits.max_bodies = bytes(process.max_bodies);
    api.limits.max_waiting = process.max_waiting.get();
    api.limits.body_pause = process.body_pause.0;
    api.limits.body_time = process.body_time.0;
    api
}

fn backoff(values: &QueueValues) -> Backoff {
    Backoff {
        first: values.backoff_first.0,
        max: values.backoff_max.0,
    }
}
