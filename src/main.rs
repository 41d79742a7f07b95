//! The program: parse, wire, run.

mod cli;
mod config;
mod demo;
mod doctor;
mod logging;

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
        handler::exec::{self, Exec},
        job::QueueName,
        workers::Pool,
    },
    kubernetes::Kubernetes,
    lifecycle::{DrainSettings, Signals},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    cli::{Cli, Command, Serve},
    config::{Config, Settings},
};

/// As clap does for a wrong command line.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => run(*serve),
        Command::Demo { duration } => demo::run(duration.0),
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
    let config = match configure(serve) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("lameduck: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
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

fn configure(serve: Serve) -> Result<Config, config::ConfigError> {
    let settings = match &serve.config {
        Some(file) => serve.settings.or(Settings::from_file(file)?),
        None => serve.settings,
    };
    settings.resolve()
}

async fn serve_jobs(config: Config, signals: Signals) -> anyhow::Result<()> {
    let mut listener = bind(&config.listen, "listen").await?;
    if let Some((cert, key)) = &config.tls {
        listener = listener.tls(Tls::from_pem_files(cert, key)?);
    }
    let admin = bind(&config.admin, "admin").await?;
    let engine = open(&config).await?;
    let queue: QueueName = "default".parse()?;
    let Config {
        exec,
        zero_after_stop_is_done,
        workers,
        max_attempts,
        max_body,
        drain: settings,
        final_scrape,
        ..
    } = config;
    let handler = Exec::new(exec.0).zero_after_stop_is_done(zero_after_stop_is_done);
    let mut pool = Pool::new(queue.clone(), Arc::new(handler));
    pool.workers = workers.get();
    let mut lifecycle = Lifecycle::builder().settings(settings).signals(signals);
    if final_scrape {
        lifecycle = lifecycle.final_scrape();
    }
    let drain = lifecycle.drain().clone();
    let mut queue = api::ApiQueue::new(queue);
    queue.max_attempts = max_attempts;
    queue.backoff = pool.backoff.clone();
    let mut api = api::Api::new(engine.clone(), vec![queue], drain.clone());
    api.limits.max_body = max_body;
    let api = api::router(api);
    let ended = lifecycle
        .admin(admin)
        .workers(engine.clone(), vec![pool])
        .http("api", listener, api)
        .kubernetes(Kubernetes::in_cluster())
        .on_report("log line", logging::report)
        .run()
        .await;
    close(&*engine, &drain).await;
    ended?;
    Ok(())
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

async fn open(config: &Config) -> anyhow::Result<Arc<dyn Engine>> {
    let data = config.data.clone();
    let open = move || SqliteEngine::open(&data, SqliteOptions::default());
    let engine = tokio::task::spawn_blocking(open).await??;
    tracing::info!(data = %config.data.display(), process = %engine.process(), "queue opened");
    Ok(Arc::new(engine))
}

fn fail(error: std::fmt::Arguments<'_>) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}
