//! The API of one process run over a directory, and its client.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lameduck::prelude::*;
use lameduck::{
    Drain, DrainReport, Error, Lifecycle,
    api::{self, Api, ApiQueue},
    http::Listener,
    jobs::{
        engine::{
            Engine,
            sqlite::{SqliteEngine, SqliteOptions},
        },
        job::{AfterFailure, Claim, Order, Outcome, QueueName, Settled},
    },
    lifecycle::{Signals, Trigger},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub use crate::process::harness::{Answer, call};

/// Where most stories submit.
pub const MAIL: &str = "/v1/queues/mail/jobs";

/// A job that nobody ever submitted.
pub const NOBODY: &str = "0198c0de-0000-7000-8000-000000000000";

/// Nothing that is waited for takes this long.
pub const BOUND: Duration = Duration::from_secs(20);

/// The API, serving the queues `mail` and `resize`.
pub struct Stage {
    pub engine: Arc<dyn Engine>,
    pub address: SocketAddr,
    pub drain: Drain,
    trigger: Trigger,
    running: JoinHandle<Result<Arc<DrainReport>, Error>>,
    directory: TempDir,
}

impl Stage {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut SqliteOptions, &mut Changes)) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm");
        let directory = directory.unwrap_or_else(|_| tempfile::tempdir().unwrap());
        Self::over(directory, change).await
    }

    /// The next process run over the same directory, after this one's drain.
    pub async fn restart(self) -> Self {
        self.trigger.fire();
        self.running.await.unwrap().unwrap();
        self.engine.close().await;
        Self::over(self.directory, |_, _| {}).await
    }

    async fn over(
        directory: TempDir,
        change: impl FnOnce(&mut SqliteOptions, &mut Changes),
    ) -> Self {
        let (mut options, mut changes) = (SqliteOptions::default(), Changes::default());
        change(&mut options, &mut changes);
        let engine = SqliteEngine::open(directory.path(), options).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder().signals(signals);
        let drain = lifecycle.drain().clone();
        let queues = ["mail", "resize"].map(|name| ApiQueue::new(queue(name)));
        let mut api = Api::new(engine.clone(), queues.to_vec(), drain.clone());
        api.limits = changes.limits;
        api.access = changes.access;
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().parse().unwrap();
        let lifecycle = lifecycle.http("api", listener, api::router(api));
        Self {
            engine,
            address,
            drain,
            trigger,
            running: tokio::spawn(lifecycle.run()),
            directory,
        }
    }

    /// T0; outside of a cluster clients are asked to leave at once.
    pub fn terminate(&self) {
        self.trigger.fire();
    }

    /// The drain ends as it should.
    pub async fn ended(self) {
        let ended = tokio::time::timeout(BOUND, self.running).await;
        ended.expect("the drain should end").unwrap().unwrap();
    }

    // --- requests ---

    pub async fn get(&self, path: &str) -> Answer {
        call(self.address, "GET", path, &[], "").await.unwrap()
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        call(self.address, "POST", path, headers, body)
            .await
            .unwrap()
    }

    /// Submits a job to `mail`; its id.
    pub async fn submit(&self, payload: &str) -> String {
        let answer = self.post(MAIL, &[], payload).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        id_of(&answer.json())
    }

    /// A job as the API shows it.
    pub async fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    pub async fn state(&self, id: &str) -> String {
        self.job(id).await["state"].as_str().unwrap().to_owned()
    }

    /// Asks for something to be done with a job.
    pub async fn order(&self, id: &str, order: &str) -> Answer {
        self.post(&format!("/v1/jobs/{id}/{order}"), &[], "").await
    }

    // --- what a worker would do ---

    /// Reserves the next job of `mail`.
    pub async fn reserve(&self) -> Claim {
        self.reserve_payload().await.0
    }

    pub async fn reserve_payload(&self) -> (Claim, String) {
        let order = Order::Priority;
        let mut reserved = self.engine.reserve(&queue("mail"), order, 1).await.unwrap();
        let reserved = reserved.pop().expect("a job of mail is runnable");
        let payload = String::from_utf8(reserved.job.payload.to_vec()).unwrap();
        (reserved.claim, payload)
    }

    pub async fn settle(&self, claim: Claim, outcome: Outcome) {
        let settlement = Arc::new(vec![claim.settle(outcome)]);
        let settled = self.engine.settle(&settlement).await.unwrap();
        assert_eq!(settled, [Settled::Written]);
    }

    /// Submits a job, and has its only attempt fail.
    pub async fn a_dead_job(&self) -> String {
        let id = self.submit("doomed").await;
        let claim = self.reserve().await;
        self.settle(claim, dead()).await;
        id
    }
}

/// What is to be different.
#[derive(Default)]
pub struct Changes {
    pub limits: api::Limits,
    pub access: api::Access,
}

pub fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

pub fn id_of(json: &Value) -> String {
    json["id"].as_str().expect("an id").to_owned()
}

pub fn completed(result: &str) -> Outcome {
    Outcome::Completed {
        result: bytes::Bytes::copy_from_slice(result.as_bytes()),
    }
}

pub fn dead() -> Outcome {
    Outcome::Failed {
        error: "broken".to_owned(),
        then: AfterFailure::Dead,
    }
}

pub fn deferred() -> Outcome {
    Outcome::Deferred {
        until: Duration::from_secs(600).into(),
    }
}
