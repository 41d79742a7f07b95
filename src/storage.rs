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
            () = signals.received() => {
                tracing::info!("told to end while waiting for the data directory");
                return Ok(None);
            }
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

/// Opens the queue.
pub async fn open(process: &ProcessValues, place: Place) -> anyhow::Result<Arc<dyn Engine>> {
    match place {
        Place::Directory(directory) => embedded(process, directory).await,
        Place::Database(database) => connect(process, database).await,
    }
}

/// The database that is named, by itself or in a file.
fn database(process: &ProcessValues) -> anyhow::Result<Option<Database>> {
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

async fn connect(process: &ProcessValues, database: Database) -> anyhow::Result<Arc<dyn Engine>> {
    let shown = database.shown();
    let mut options = PostgresOptions::new(database.0);
    options.connections = process.database_connections.get();
    options.lease = process.database_lease.0;
    options.max_waiting = process.max_queue_length.get();
    options.max_bytes = process.max_disk.map_or(u64::MAX, |disk| disk.0);
    options.max_crashes = process.max_crashes;
    options.retention = retention(process);
    if let Ok(node) = std::env::var("NODE_NAME") {
        options.node = Some(node);
    }
    let engine = PostgresEngine::connect(options).await?;
    tracing::info!(database = shown, process = %engine.process(), "queue opened");
    Ok(Arc::new(engine))
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
