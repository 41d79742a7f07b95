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
            _database: database,
        }
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    async fn start(&mut self, _: usize) -> Arc<dyn Engine> {
        let options = Self::options(&self.bouncer, &self.clock);
        Arc::new(PostgresEngine::connect(options).await.unwrap())
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
