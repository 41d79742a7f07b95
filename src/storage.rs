//! The queue's storage: waited for, opened, let go of.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use lameduck::{
    Drain,
    jobs::{
        engine::{
            Engine, EngineError,
            sqlite::{Directory, SqliteEngine, SqliteOptions},
        },
        handler::exec,
        job::Retention,
    },
    lifecycle::{DrainSettings, Signals},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::ProcessValues;

/// How often to say that the data directory is waited for.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// Makes the data directory ours, and waits for whoever has it: a predecessor that is still draining is gone within
/// its grace period, and has the same again to be told. `None` where we are told to end first.
pub async fn claim(
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

/// Opens the queue in a directory that is ours.
pub async fn open(
    process: &ProcessValues,
    directory: Directory,
) -> anyhow::Result<Arc<dyn Engine>> {
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
    let open = move || SqliteEngine::open_in(directory, options);
    let engine = tokio::task::spawn_blocking(open).await??;
    let data = process.data.display();
    exec::keep_list_in(&process.data).with_context(|| {
        format!("cannot keep the list of running commands in {data} (setting 'data')")
    })?;
    tracing::info!(%data, process = %engine.process(), "queue opened");
    Ok(Arc::new(engine))
}

/// Lets go of the storage, unless it hangs: everything is written, and the watchdog waits for nobody.
pub async fn close(engine: &dyn Engine, drain: &Drain) {
    let until = drain.plan().map(|plan| plan.report_end);
    let until = until.unwrap_or_else(|| Instant::now() + DrainSettings::default().reporting);
    if timeout_at(until, engine.close()).await.is_err() {
        tracing::warn!("the queue's storage did not close in time");
    }
}
