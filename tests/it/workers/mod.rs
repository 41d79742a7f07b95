//! Workers with Rust handlers over a real engine: told to stop, cancelled, late, alone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use lameduck::prelude::*;
use lameduck::{
    Drain, DrainReport, Error, Lifecycle,
    jobs::{
        engine::{
            Engine,
            sqlite::{SqliteEngine, SqliteOptions},
        },
        handler::{Failure, Handler, function},
        job::{JobId, JobRecord, NewJob, Priority, QueueName},
        workers::Pool,
    },
    lifecycle::{DrainSettings, Signals, Trigger},
};
use tempfile::TempDir;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::timeout,
};

mod example;
mod failures;
mod figures;
mod functions;
mod outage;
mod runs;
mod suspects;

/// Longer than anything takes; a test that waits so long has failed.
const BOUND: Duration = Duration::from_secs(20);

/// A program with workers, running.
struct Program {
    engine: Arc<SqliteEngine>,
    drain: Drain,
    trigger: Trigger,
    running: JoinHandle<Result<Arc<DrainReport>, Error>>,
    _directory: Option<TempDir>,
}

fn queue() -> QueueName {
    "mail".parse().unwrap()
}

fn pool(handler: impl Handler) -> Pool {
    Pool::new(queue(), Arc::new(handler))
}

fn a_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn an_engine() -> (TempDir, Arc<SqliteEngine>) {
    let directory = a_directory();
    let engine = SqliteEngine::open(directory.path(), SqliteOptions::default()).unwrap();
    (directory, Arc::new(engine))
}

/// Half a second from being told to stop to being over.
fn settings() -> DrainSettings {
    let mut settings = DrainSettings::default();
    settings.stop_notice = Duration::from_millis(500);
    settings
}

// === impl Program ===

impl Program {
    fn start(pools: Vec<Pool>) -> Self {
        let (directory, engine) = an_engine();
        let mut program = Self::start_with(engine, pools);
        program._directory = Some(directory);
        program
    }

    fn start_with(engine: Arc<SqliteEngine>, pools: Vec<Pool>) -> Self {
        Self::start_within(settings(), engine, pools)
    }

    fn start_within(settings: DrainSettings, engine: Arc<SqliteEngine>, pools: Vec<Pool>) -> Self {
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder()
            .settings(settings)
            .signals(signals)
            .workers(engine.clone(), pools);
        Self {
            engine,
            drain: lifecycle.drain().clone(),
            trigger,
            running: tokio::spawn(lifecycle.run()),
            _directory: None,
        }
    }

    async fn submit(&self, job: NewJob) -> JobId {
        let answer = self.engine.submit(vec![job]).await.unwrap().remove(0);
        answer.unwrap().id
    }

    async fn ended(&self, id: JobId) -> JobRecord {
        self.seen(id, |job| job.state.has_ended()).await
    }

    /// Waits until a job is as expected.
    async fn seen(&self, id: JobId, is_it: impl Fn(&JobRecord) -> bool) -> JobRecord {
        let mut events = self.engine.events();
        let looking = async {
            loop {
                let job = self.engine.job(id).await.unwrap().unwrap();
                if is_it(&job) {
                    return job;
                }
                let _ = events.recv().await;
            }
        };
        match timeout(BOUND, looking).await {
            Ok(job) => job,
            Err(_) => panic!("it did not come to that: {:?}", self.engine.job(id).await),
        }
    }

    async fn drain(self) -> Result<Arc<DrainReport>, Error> {
        self.trigger.fire();
        timeout(BOUND, self.running)
            .await
            .expect("it should end")
            .unwrap()
    }
}

fn a_job(payload: &str) -> NewJob {
    NewJob {
        queue: queue(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        content_type: "application/json".to_owned(),
        run_at: None,
        priority: Priority::default(),
        timeout: None,
        max_attempts: 3,
        idempotency_key: None,
        traceparent: None,
    }
}
