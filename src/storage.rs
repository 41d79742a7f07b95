//! The queue's storage: waited for, opened, let go of.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use lameduck::{
    Drain,
    jobs::{
        engine::{
            Engine, EngineError,
            postgres::{PostgresEngine, PostgresOptions},
            sqlite::{Directory, SqliteEngine, SqliteOptions},
        },
        handler::exec,
        job::Retention,
    },
    lifecycle::{DrainSettings, Signals},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::{Database, ProcessValues, Value};

/// How often to say that the data directory is waited for.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// Between two attempts to reach a database that is away; doubled each time.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Where a queue is.
pub enum Place {
    /// In a data directory that is ours.
    Directory(Directory),
    /// In a database that others may use, too.
    Database(Database),
}

/// Makes the data directory ours, and waits for whoever has it: a predecessor that is still draining is gone within
/// its grace period, and has the same again to be told. `None` where we are told to end first.
async fn claim(
    data: &Path,
    patience: Duration,
    signals: &mut Signals,
) -> anyhow::Result<Option<Directory>> {
    let since = Instant::now();
    let mut say = since;
    loop {
        let path = data.to_owned();
        let error = match tokio::task::spawn_blocking(move || Directory::claim(&path)).await? {
            Ok(directory) => return Ok(Some(directory)),
            Err(error @ EngineError::InUse { .. }) if since.elapsed() < patience => error,
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= say {
            tracing::warn!(
                data = %data.display(), %error,
                "the data directory is in use by another process; waiting for its end"
            );
            say += STILL_WAITING;
        }
        tokio::select! {
            () = signals.received() => return told_to_end("the data directory"),
            () = sleep(Duration::from_millis(50)) => {}
        }
    }
}

/// Where the queue is: the PostgreSQL database that is named, else the data directory, once it is ours. `None` where
/// we are told to end first.
pub async fn find(
    process: &ProcessValues,
    patience: Duration,
    signals: &mut Signals,
) -> anyhow::Result<Option<Place>> {
    if let Some(database) = database(process)? {
        return Ok(Some(Place::Database(database)));
    }
    let directory = claim(&process.data, patience, signals).await?;
    Ok(directory.map(Place::Directory))
}

/// Opens the queue. `None` where we are told to end first.
pub async fn open(
    process: &ProcessValues,
    place: Place,
    signals: &mut Signals,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    match place {
        Place::Directory(directory) => embedded(process, directory).await.map(Some),
        Place::Database(database) => connect(process, database, signals).await,
    }
}

fn told_to_end<T>(waiting_for: &str) -> anyhow::Result<Option<T>> {
    tracing::info!("told to end while waiting for {waiting_for}");
    Ok(None)
}

/// The database that is named, by itself or in a file.
pub fn database(process: &ProcessValues) -> anyhow::Result<Option<Database>> {
    let Some(file) = &process.database_file else {
        return Ok(process.database.clone());
    };
    let shown = file.display();
    anyhow::ensure!(
        process.database.is_none(),
        "a database and the file {shown} with one are given; leave one of them out (settings 'database' and \
         'database-file')"
    );
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {shown} (setting 'database-file')"))?;
    let database = Database::from_text(text.trim())
        .map_err(|error| anyhow::anyhow!("in {shown} (setting 'database-file'): {error}"))?;
    Ok(Some(database))
}

/// How to use it.
pub fn postgres_options(process: &ProcessValues, database: Database) -> PostgresOptions {
    let mut options = PostgresOptions::new(database.0);
    options.migrate = process.database_migrate;
    options.statement_timeout = process.database_statement_timeout.0;
    options.connections = process.database_connections.get();
    options.lease = process.database_lease.0;
    options.max_waiting = process.max_queue_length.get();
    options.max_bytes = process.max_disk.map_or(u64::MAX, |disk| disk.0);
    options.max_crashes = process.max_crashes;
    options.retention = retention(process);
    if let Ok(node) = std::env::var("NODE_NAME") {
        options.node = Some(node);
    }
    options
}

/// Waits for a database that is away: it is not there more quickly for a process that ends and is started again.
/// `None` where we are told to end first.
async fn connect(
    process: &ProcessValues,
    database: Database,
    signals: &mut Signals,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    let shown = database.shown();
    let options = postgres_options(process, database);
    let mut pause = RECONNECT.0;
    let engine = loop {
        let error = tokio::select! {
            opened = PostgresEngine::connect(options.clone()) => match opened {
                Ok(engine) => break engine,
                Err(error @ EngineError::Storage(_)) => error,
                Err(error) => return Err(error.into()),
            },
            () = signals.received() => return told_to_end("the database"),
        };
        tracing::warn!(database = shown, %error, "the database is away; waiting for it");
        tokio::select! {
            () = signals.received() => return told_to_end("the database"),
            () = sleep(pause) => pause = (pause * 2).min(RECONNECT.1),
        }
    };
    tracing::info!(database = shown, process = %engine.process(), "queue opened");
    Ok(Some(Arc::new(engine)))
}

async fn embedded(
    process: &ProcessValues,
    directory: Directory,
) -> anyhow::Result<Arc<dyn Engine>> {
    let options = SqliteOptions {
        max_waiting: process.max_queue_length.get(),
        max_bytes: process.max_disk.map_or(u64::MAX, |disk| disk.0),
        min_free: process.min_free_disk.0,
        max_crashes: process.max_crashes,
        retention: retention(process),
        ..SqliteOptions::default()
    };
    let open = move || SqliteEngine::open_in(directory, options);
    let engine = tokio::task::spawn_blocking(open).await??;
    let data = process.data.display();
    exec::keep_list_in(&process.data).with_context(|| {
        format!("cannot keep the list of running commands in {data} (setting 'data')")
    })?;
    tracing::info!(%data, process = %engine.process(), "queue opened");
    Ok(Arc::new(engine))
}

fn retention(process: &ProcessValues) -> Retention {
    Retention {
        completed: process.retain_completed.0,
        dead: process.retain_dead.0,
        keys: process.idempotency_window.0,
    }
}

/// Lets go of the storage, unless it hangs: everything is written, and the watchdog waits for nobody.
pub async fn close(engine: &dyn Engine, drain: &Drain) {
    let until = drain.plan().map(|plan| plan.report_end);
    let until = until.unwrap_or_else(|| Instant::now() + DrainSettings::default().reporting);
    if timeout_at(until, engine.close()).await.is_err() {
        tracing::warn!("the queue's storage did not close in time");
    }
}
