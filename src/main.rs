//! The program: parse, wire, run.

mod cli;
mod config;
mod demo;
mod doctor;
mod logging;
mod teardown;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use lameduck::{
    Drain, Lifecycle, api,
    http::{Listener, Tls},
    jobs::{
        engine::{
            Engine,
            sqlite::{SqliteEngine, SqliteOptions},
        },
        handler::{
            self,
            exec::{self, Exec},
            http::Http,
        },
        job::{QueueName, Retention},
        workers::Pool,
    },
    kubernetes::Kubernetes,
    lifecycle::{DrainSettings, Signals},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    cli::{Cli, Command, Serve, Show},
    config::{Access, Checked, Config, Handler, ProcessValues, Queue},
};

/// As clap does for a wrong command line.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => run(*serve),
        Command::Demo { duration } => demo::run(duration.0),
        Command::Config(cli::Config::Check(asked)) => {
            config::check(asked.file.as_deref(), asked.settings)
        }
        Command::Config(cli::Config::Show(asked)) => {
            let Show { serve, json } = *asked;
            config::show(serve.config.as_deref(), serve.settings, json)
        }
        Command::Doctor(asked) => doctor::run(asked),
        Command::Version => {
            println!("lameduck {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn run(serve: Serve) -> ExitCode {
    // First thing: a SIGTERM before this line finds nobody.
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot take SIGTERM and SIGINT: {error}")),
    };
    signals.last_will(|| {
        exec::kill_all_groups();
    });
    logging::install();
    let Checked { config, warnings } = match config::load(serve.config.as_deref(), serve.settings) {
        Ok(checked) => checked,
        Err(problems) => {
            eprintln!("lameduck: {problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start the runtime: {error}")),
    };
    let result = runtime.block_on(serve_jobs(config, signals));
    // Whatever still runs by now had its time. Commands would outlive us, and run beside their jobs' next run.
    exec::kill_all_groups();
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("{error:#}")),
    }
}

async fn serve_jobs(config: Config, signals: Signals) -> anyhow::Result<()> {
    let Config {
        queues,
        process,
        drain: settings,
        tls,
        access,
        hooks,
    } = config;
    let pools = queues.iter().map(pool).collect::<Result<Vec<Pool>, _>>()?;
    let mut listener = bind(&process.listen, "listen").await?;
    if let Some((cert, key)) = &tls {
        listener = listener.tls(Tls::from_pem_files(cert, key)?);
    }
    let admin = bind(&process.admin, "admin").await?;
    let engine = open(&process).await?;
    let mut lifecycle = Lifecycle::builder().settings(settings).signals(signals);
    if process.final_scrape {
        lifecycle = lifecycle.final_scrape();
    }
    if let Some(file) = process.report.clone() {
        lifecycle = lifecycle.on_report("report file", move |report| logging::write(file, report));
    }
    let drain = lifecycle.drain().clone();
    let api = api(&queues, &process, access, engine.clone(), drain.clone())?;
    let kubernetes = Kubernetes::in_cluster();
    let ended = teardown::install(lifecycle, hooks)
        .admin(admin)
        .workers(engine.clone(), pools)
        .http("api", listener, api::router(api))
        .kubernetes(kubernetes.map(|pod| pod.pod_deletion_cost(process.deletion_cost)))
        .on_report("log line", logging::report)
        .run()
        .await;
    close(&*engine, &drain).await;
    ended?;
    Ok(())
}

/// Workers for a queue, as its settings say.
fn pool(queue: &Queue) -> anyhow::Result<Pool> {
    let values = &queue.values;
    let handler: Arc<dyn handler::Handler> = match &queue.handler {
        Handler::Exec(command) => Arc::new(
            Exec::new(command.0.clone()).zero_after_stop_is_done(values.zero_after_stop_is_done),
        ),
        Handler::Http { url, secrets } => {
            Arc::new(Http::new(url.as_str())?.secrets(secrets.clone()))
        }
    };
    let mut pool = Pool::new(queue.name.clone(), handler);
    pool.workers = values.workers.get();
    pool.order = values.order;
    pool.timeout = values.timeout.0;
    pool.backoff.first = values.backoff_first.0;
    pool.backoff.max = values.backoff_max.0;
    Ok(pool)
}

fn api(
    queues: &[Queue],
    process: &ProcessValues,
    access: Access,
    engine: Arc<dyn Engine>,
    drain: Drain,
) -> anyhow::Result<api::Api> {
    // MERGE: the API asks for tokens, counts the jobs of a batch (process.max_batch), and knows attempts by queue.
    if let Access::Tokens(file) = access {
        anyhow::bail!(
            "the API does not ask for tokens yet, so those of {} would protect nothing (setting 'tokens')",
            file.display()
        );
    }
    let attempts = queues.iter().map(|queue| queue.values.max_attempts.get());
    Ok(api::Api {
        engine,
        queues: queues
            .iter()
            .map(|queue| queue.name.clone())
            .collect::<Vec<QueueName>>(),
        drain,
        max_body: usize::try_from(process.max_body.0).unwrap_or(usize::MAX),
        max_attempts: attempts.max().unwrap_or(1),
    })
}

/// Lets go of the storage, unless it hangs: everything is written, and the watchdog waits for nobody.
async fn close(engine: &dyn Engine, drain: &Drain) {
    let until = drain.plan().map(|plan| plan.report_end);
    let until = until.unwrap_or_else(|| Instant::now() + DrainSettings::default().reporting);
    if timeout_at(until, engine.close()).await.is_err() {
        tracing::warn!("the queue's storage did not close in time");
    }
}

async fn bind(address: &str, setting: &str) -> anyhow::Result<Listener> {
    let listener = Listener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (setting '{setting}')"))?;
    tracing::info!(address = listener.local_addr()?, setting, "listening");
    Ok(listener)
}

async fn open(process: &ProcessValues) -> anyhow::Result<Arc<dyn Engine>> {
    let options = SqliteOptions {
        max_waiting: process.max_queue_length.get(),
        max_bytes: process.max_disk.map_or(u64::MAX, |disk| disk.0),
        min_free: process.min_free_disk.0,
        max_crashes: process.max_crashes,
        retention: Retention {
            completed: process.retain_completed.0,
            dead: process.retain_dead.0,
            keys: process.idempotency_window.0,
        },
        ..SqliteOptions::default()
    };
    let data = process.data.clone();
    let open = move || SqliteEngine::open(&data, options);
    let engine = tokio::task::spawn_blocking(open).await??;
    tracing::info!(data = %process.data.display(), process = %engine.process(), "queue opened");
    Ok(Arc::new(engine))
}

fn fail(error: std::fmt::Arguments<'_>) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}
