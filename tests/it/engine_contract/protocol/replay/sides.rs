//! The engines, as the replay needs them.

use lameduck::jobs::engine::postgres::{PostgresEngine, PostgresOptions};

use super::*;
use crate::postgres_server::{Database, PgBouncer, server as shared};

/// Processes that share a queue.
pub trait Side {
    async fn fresh() -> Self;

    /// The time that its engines see.
    fn clock(&self) -> &TestClock;

    async fn start(&mut self, process: usize) -> Arc<dyn Engine>;

    /// One that was taken for dead is another one from now on.
    async fn new_id(&mut self, process: usize, _was: ProcessId) -> Arc<dyn Engine> {
        self.start(process).await
    }

    async fn exit(&mut self, process: usize, engine: Arc<dyn Engine>);

    async fn kill(&mut self, process: usize, engine: Arc<dyn Engine>);

    /// A process finds another one dead.
    async fn reap(&mut self, process: usize, dead: ProcessId);

    /// A way is over, and this one is still there.
    async fn over(&mut self, _: usize, _: Arc<dyn Engine>) {}

    async fn freeze(&mut self, _process: usize) {}

    async fn thaw(&mut self, _process: usize) {}

    /// Somebody who only looks.
    fn observer(&self) -> Option<Arc<dyn Engine>>;
}

pub struct Embedded(sqlite::SqliteStore);

impl Side for Embedded {
    async fn fresh() -> Self {
        Self(sqlite::SqliteStore::start().await)
    }

    fn clock(&self) -> &TestClock {
        self.0.clock()
    }

    /// Frees what a killed one held, at the same time.
    async fn start(&mut self, _: usize) -> Arc<dyn Engine> {
        self.0.open().await.unwrap()
    }

    async fn exit(&mut self, _: usize, engine: Arc<dyn Engine>) {
        self.0.close(engine).await;
    }

    async fn kill(&mut self, _: usize, engine: Arc<dyn Engine>) {
        self.0.kill(engine).await;
    }

    /// Its directory is for one.
    async fn over(&mut self, _: usize, engine: Arc<dyn Engine>) {
        self.0.close(engine).await;
    }

    async fn reap(&mut self, _: usize, _: ProcessId) {
        unreachable!("there is nobody else");
    }

    fn observer(&self) -> Option<Arc<dyn Engine>> {
        None
    }
}

pub struct Shared {
    clock: TestClock,
    /// In front of the database, so that a new process finds connections that are warm.
    bouncer: PgBouncer,
    client: tokio_postgres::Client,
    _database: Database,
    observer: Arc<PostgresEngine>,
}

impl Shared {
    fn options(bouncer: &PgBouncer, clock: &TestClock) -> PostgresOptions {
        PostgresOptions {
            clock: Some(clock.as_clock()),
            lease: Duration::from_secs(3600),
            max_crashes: state::MAX_CRASHES,
            connections: 1,
            ..PostgresOptions::new(bouncer.url())
        }
    }

    /// The next one comes in minutes. One that found its row reaped would take a new id, where the model does not
    /// say so.
    async fn first_beat(&self, process: ProcessId) {
        let beats = "SELECT beat > 0 FROM lameduck.processes WHERE id = $1";
        let process = uuid::Uuid::from_bytes(*process.as_bytes());
        until("its first beat", async || {
            let row = self.client.query_one(beats, &[&process]).await.unwrap();
            row.get(0)
        })
        .await;
    }
}

impl Side for Shared {
    async fn fresh() -> Self {
        let (clock, database) = (TestClock::new(), shared().database().await);
        let bouncer = PgBouncer::in_front_of(&database);
        let observer = PostgresEngine::connect(Self::options(&bouncer, &clock)).await;
        Self {
            observer: Arc::new(observer.unwrap()),
            clock,
            bouncer,
            client: database.connect().await,
            _database: database,
        }
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    async fn start(&mut self, _: usize) -> Arc<dyn Engine> {
        let options = Self::options(&self.bouncer, &self.clock);
        let engine = PostgresEngine::connect(options).await.unwrap();
        self.first_beat(engine.process()).await;
        Arc::new(engine)
    }

    async fn exit(&mut self, _: usize, engine: Arc<dyn Engine>) {
        engine.close().await;
    }

    /// Nobody asks it for anything any more. What it had sent may still arrive.
    async fn kill(&mut self, _: usize, _: Arc<dyn Engine>) {}

    async fn reap(&mut self, _: usize, dead: ProcessId) {
        assert!(self.observer.reap(dead).await.unwrap());
    }

    fn observer(&self) -> Option<Arc<dyn Engine>> {
        Some(self.observer.clone())
    }
}

/// Looks until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let patience = Duration::from_secs(30);
    let looking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let seen = tokio::time::timeout(patience, looking).await;
    assert!(seen.is_ok(), "{what} never came");
}
