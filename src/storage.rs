//! The queue's storage: how it is found, waited for, opened and closed.
//!
//! Probes report what the start waits for ([`Drain::starting`]), and every wait ends when a drain begins.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

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
    lifecycle::{DrainSettings, Moment},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{Bytes, Database, ProcessValues, SecretFile, Value};

/// Interval between two log lines about the same wait.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// Pause between two attempts to claim a data directory that is in use.
const LOOK: Duration = Duration::from_millis(50);

/// First and longest pause between two attempts to reach a database that is away.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How long opening an embedded queue may still take once a drain has begun. If it is abandoned, the ledger has an
/// entry as if the process had been killed.
const TO_OPEN: Duration = Duration::from_secs(1);

/// The place of a queue.
pub enum Place {
    /// A data directory, and how long a predecessor that still drains may hold it.
    Directory(PathBuf, Duration),
    /// A database, which other processes may use as well.
    Database(Database),
}

/// A place that this process may open.
pub enum Claimed {
    /// A data directory.
    Directory(Directory),
    /// A database, which is shared.
    Database(Database),
}

/// Finds the queue: in the PostgreSQL database that is named, or else in the data directory. `patience` is how long
/// to wait for a predecessor, which ends within its own grace period.
pub fn find(process: &ProcessValues, patience: Duration) -> anyhow::Result<Place> {
    Ok(match database(process)? {
        Some(database) => Place::Database(database),
        None => Place::Directory(process.data.clone(), patience),
    })
}

// === impl Place ===

impl Place {
    /// Whether another process on this machine may hold it.
    pub fn may_be_held(&self) -> bool {
        matches!(self, Self::Directory(..))
    }

    /// Waits until no other process holds the place, and claims it. Returns `None` if a drain begins first.
    pub async fn claim(self, drain: &Drain) -> anyhow::Result<Option<Claimed>> {
        let (data, patience) = match self {
            Self::Database(database) => return Ok(Some(Claimed::Database(database))),
            Self::Directory(data, patience) => (data, patience),
        };
        let since = Instant::now();
        let mut say = since;
        while !drain.has(Moment::Began) {
            let path = data.clone();
            let error = match tokio::task::spawn_blocking(move || Directory::claim(&path)).await? {
                Ok(directory) => return Ok(Some(Claimed::Directory(directory))),
                Err(error @ EngineError::InUse { .. }) if since.elapsed() < patience => error,
                Err(error) => return Err(error.into()),
            };
            let shown = data.display();
            drain.starting(format!(
                "the data directory {shown} is in use by another process; waiting for its end"
            ));
            if Instant::now() >= say {
                tracing::warn!(
                    data = %shown, %error,
                    "the data directory is in use by another process; waiting for its end"
                );
                say += STILL_WAITING;
            }
            // The pause ends early when a drain begins.
            let _ = timeout(LOOK, drain.reached(Moment::Began)).await;
        }
        told_to_end("the data directory")
    }
}

// === impl Claimed ===

impl Claimed {
    /// Opens the queue. Returns `None` if a drain begins first.
    pub async fn open(
        self,
        process: &ProcessValues,
        drain: &Drain,
    ) -> anyhow::Result<Option<Arc<dyn Engine>>> {
        match self {
            Self::Directory(directory) => embedded(process, directory, drain).await,
            Self::Database(database) => connect(process, database, drain).await,
        }
    }
}

fn told_to_end<T>(waiting_for: &str) -> anyhow::Result<Option<T>> {
    tracing::info!("told to end while waiting for {waiting_for}");
    Ok(None)
}

/// Returns the database that is named by a setting or in a file, if any.
pub fn database(process: &ProcessValues) -> anyhow::Result<Option<Database>> {
    let Some(file) = &process.database_file else {
        return Ok(process.database.clone());
    };
    let shown = file.shown();
    anyhow::ensure!(
        process.database.is_none(),
        "a database and the file {shown} with one are given; leave one of them out (settings 'database' and \
         'database-file')"
    );
    Ok(Some(database_in(file).map_err(|error| {
        anyhow::anyhow!("setting 'database-file': {error}")
    })?))
}

/// Returns the database that a file names.
pub fn database_in(file: &SecretFile) -> Result<Database, String> {
    let text = file.read()?;
    Database::from_text(text.trim()).map_err(|error| format!("in {}: {error}", file.shown()))
}

/// Returns the options for a database, as the settings say.
pub fn postgres_options(process: &ProcessValues, database: Database) -> PostgresOptions {
    let mut options = PostgresOptions::new(database.text());
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

/// Connects to the database, and waits for it while it is away: restarting this process would not bring it back
/// sooner. Returns `None` if a drain begins first.
async fn connect(
    process: &ProcessValues,
    database: Database,
    drain: &Drain,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    let shown = database.shown();
    let options = postgres_options(process, database);
    let mut pause = RECONNECT.0;
    let engine = loop {
        let error = tokio::select! {
            biased;
            () = drain.reached(Moment::Began) => return told_to_end("the database"),
            opened = PostgresEngine::connect(options.clone()) => match opened {
                Ok(engine) => break engine,
                Err(error @ EngineError::Storage(_)) => error,
                Err(error) => return Err(error.into()),
            },
            never = tell_of_silence(&shown, drain) => match never {},
        };
        tracing::warn!(database = shown, %error, "the database is away; waiting for it");
        drain.starting(format!(
            "the database {shown} is away ({error}); waiting for it"
        ));
        tokio::select! {
            () = drain.reached(Moment::Began) => return told_to_end("the database"),
            () = sleep(pause) => pause = (pause * 2).min(RECONNECT.1),
        }
    };
    tracing::info!(database = shown, process = %engine.process(), "queue opened");
    Ok(Some(Arc::new(engine)))
}

/// Logs repeatedly that a database has not answered yet.
async fn tell_of_silence(database: &str, drain: &Drain) -> Infallible {
    drain.starting(format!("opening the queue in the database {database}"));
    loop {
        sleep(STILL_WAITING).await;
        tracing::warn!(
            database,
            "the database has not answered yet, or its schema is being brought up to date; waiting for it"
        );
        drain.starting(format!(
            "the database {database} has not answered yet, or its schema is being brought up to date; waiting for it"
        ));
    }
}

/// Opens the embedded queue. Returns `None` if a drain begins first.
async fn embedded(
    process: &ProcessValues,
    directory: Directory,
    drain: &Drain,
) -> anyhow::Result<Option<Arc<dyn Engine>>> {
    let options = SqliteOptions {
        max_waiting: process.max_queue_length.get(),
        max_bytes: process.max_disk.map_or(u64::MAX, |disk| disk.0),
        min_free: process.min_free_disk.0,
        max_crashes: process.max_crashes,
        retention: retention(process),
        ..SqliteOptions::default()
    };
    let data = process.data.display();
    exec::keep_list_in(&process.data).with_context(|| {
        format!("cannot keep the list of running commands in {data} (setting 'data')")
    })?;
    drain.starting(format!(
        "opening the queue in {data}, and ending what the process before this one left running"
    ));
    if drain.has(Moment::Began) {
        return told_to_end("the data directory");
    }
    let mut opening =
        tokio::task::spawn_blocking(move || SqliteEngine::open_in(directory, options));
    let opened = tokio::select! {
        biased;
        opened = &mut opening => opened,
        () = drain.reached(Moment::Began) => match timeout(TO_OPEN, opening).await {
            Ok(opened) => opened,
            Err(_) => return told_to_end("the queue in the data directory"),
        },
    };
    let engine = opened??;
    tracing::info!(%data, process = %engine.process(), "queue opened");
    warn_of_a_small_volume(process);
    Ok(Some(Arc::new(engine)))
}

/// Warns if the volume has less free space than is to be kept free, before the first job is refused for that.
fn warn_of_a_small_volume(process: &ProcessValues) {
    let Ok(volume) = rustix::fs::statvfs(&process.data) else {
        return;
    };
    let [free, size] = [volume.f_bavail, volume.f_blocks].map(|blocks| blocks * volume.f_frsize);
    let kept = process.min_free_disk;
    if free < kept.0 {
        let data = process.data.display();
        tracing::warn!(
            %data, free_bytes = free, size_bytes = size, min_free_disk = kept.0,
            "every job is refused as it is: the volume of {data} has {} free of {}, and {kept} are kept free \
             (setting 'min-free-disk'); enlarge the volume, or lower the setting",
            Bytes(free).rounded(), Bytes(size).rounded()
        );
    }
}

fn retention(process: &ProcessValues) -> Retention {
    Retention {
        completed: process.retain_completed.0,
        dead: process.retain_dead.0,
        keys: process.idempotency_window.0,
    }
}

/// Closes the storage, but waits no longer than until the report is due: everything is written by then.
pub async fn close(engine: &dyn Engine, drain: &Drain) {
    let until = drain.plan().map(|plan| plan.report_end);
    let until = until.unwrap_or_else(|| Instant::now() + DrainSettings::default().reporting);
    if timeout_at(until, engine.close()).await.is_err() {
        tracing::warn!("the queue's storage did not close in time");
    }
}
