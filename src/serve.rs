//! `lameduck serve`: everything put together as the configuration says.

use std::sync::Arc;

use anyhow::Context;
use lameduck::prelude::*;
use lameduck::{
    Drain, Lifecycle,
    api::{self, Api, ApiQueue, Tokens},
    http::{Listener, Tls},
    jobs::{
        engine::Engine,
        handler::{self, exec::Exec, http::Http},
        workers::{Backoff, Pool},
    },
    kubernetes::Kubernetes,
    lifecycle::{Moment, ReportFile, Signals},
};

use crate::{
    config::{Access, Bytes, Config, Handler, ProcessValues, Queue, QueueValues},
    logging, storage, teardown, terminal,
};

/// Serves until a drain has ended.
pub async fn serve(config: Config, mut signals: Signals) -> anyhow::Result<()> {
    let Config {
        queues,
        process,
        drain: settings,
        tls,
        access,
        hooks,
    } = config;
    // Before anything is bound: whoever still has the data may have our addresses, too.
    let patience = settings.grace.saturating_mul(2);
    let Some(place) = storage::find(&process, patience, &mut signals).await? else {
        return Ok(());
    };
    let pools = queues.iter().map(pool).collect::<Result<Vec<Pool>, _>>()?;
    let mut listener = bind(&process.listen, "listen").await?;
    if let Some((cert, key)) = &tls {
        listener = listener.tls(Tls::from_pem_files(cert, key)?);
    }
    let admin = bind(&process.admin, "admin").await?;
    // All that can fail comes before the queue is opened: who ends after that without a drain counts as killed.
    let access = match access {
        Access::Anonymous => api::Access::Anonymous,
        Access::Tokens(file) => {
            api::Access::Tokens(Tokens::from_file(file).context("setting 'tokens'")?)
        }
    };
    let report = process.report.clone().map(ReportFile::prepare);
    let report = report.transpose().context("setting 'report'")?;
    let Some(engine) = storage::open(&process, place, &mut signals).await? else {
        return Ok(());
    };
    let mut lifecycle = Lifecycle::builder().settings(settings).signals(signals);
    if process.final_scrape {
        lifecycle = lifecycle.final_scrape();
    }
    if let Some(file) = report {
        lifecycle = lifecycle.on_report("report file", |report| file.write(report));
    }
    let drain = lifecycle.drain().clone();
    let shown = drain.clone();
    tokio::spawn(async move {
        shown.reached(Moment::Began).await;
        terminal::show(shown);
    });
    let api = api(&queues, &process, access, engine.clone(), drain.clone());
    let kubernetes = Kubernetes::in_cluster();
    let ended = teardown::install(lifecycle, hooks)
        .admin(admin)
        .workers(engine.clone(), pools)
        .http("api", listener, api::router(api))
        .kubernetes(kubernetes.map(|pod| pod.pod_deletion_cost(process.deletion_cost)))
        .on_report("log line", logging::report)
        .run()
        .await;
    storage::close(&*engine, &drain).await;
    ended?;
    Ok(())
}

/// Workers for a queue, as its settings say.
fn pool(queue: &Queue) -> anyhow::Result<Pool> {
    let values = &queue.values;
    let handler: Arc<dyn handler::Handler> = match &queue.handler {
        Handler::Exec(command) => {
            let exec = Exec::new(command.0.clone())
                .zero_after_stop_is_done(values.zero_after_stop_is_done);
            Arc::new(exec)
        }
        Handler::Http { url, secrets } => {
            Arc::new(Http::new(url.as_str())?.secrets(secrets.clone()))
        }
    };
    let mut pool = Pool::new(queue.name.clone(), handler);
    pool.workers = values.workers.get();
    pool.order = values.order;
    pool.timeout = values.timeout.0;
    pool.backoff = backoff(values);
    Ok(pool)
}

/// The API, as the settings say.
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

async fn bind(address: &str, setting: &str) -> anyhow::Result<Listener> {
    let listener = Listener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (setting '{setting}')"))?;
    tracing::info!(address = listener.local_addr()?, setting, "listening");
    Ok(listener)
}
