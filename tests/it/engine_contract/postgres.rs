//! The contract on PostgreSQL, and what is PostgreSQL's own.

use lameduck::jobs::{
    engine::postgres::{PostgresEngine, PostgresOptions},
    job::ProcessId,
};

use super::*;
use crate::postgres_server::{Database, server as shared};

mod bounds;
mod cuts;
mod encodings;
mod enqueue;
mod locks;
mod processes;
mod server;
mod trouble;
mod two_runs;

super::contract!(PostgresStore);

struct PostgresStore {
    database: Database,
    clock: TestClock,
    limits: Limits,
    boots: u32,
    opened: Mutex<Vec<Arc<PostgresEngine>>>,
    /// Who nobody has found out yet to be dead.
    killed: Mutex<Vec<ProcessId>>,
}

impl PostgresStore {
    fn options(&self) -> PostgresOptions {
        PostgresOptions {
            clock: Some(self.clock.as_clock()),
            // Nobody finds out by himself: how it is found out has stories of its own.
            lease: Duration::from_secs(3600),
            ledger_rows: self.limits.ledger_rows,
            max_waiting: self.limits.max_waiting,
            max_bytes: self.limits.max_bytes,
            max_crashes: self.limits.max_crashes,
            node: Some("machine".to_owned()),
            boot_id: Some(format!("boot-{}", self.boots)),
            ..PostgresOptions::new(self.database.url())
        }
    }

    fn take(&self, engine: &dyn Engine) -> Arc<PostgresEngine> {
        let mut opened = self.opened.lock().unwrap();
        let place = opened.iter().position(|o| o.process() == engine.process());
        opened.remove(place.unwrap())
    }
}

impl Store for PostgresStore {
    // Each brings several processes, and each of those connections that PostgreSQL has to warm up.
    const HISTORIES: u32 = 32;

    async fn with(limits: Limits) -> Self {
        Self {
            database: shared().database().await,
            clock: TestClock::new(),
            limits,
            boots: 1,
            opened: Mutex::default(),
            killed: Mutex::default(),
        }
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    async fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = Arc::new(PostgresEngine::connect(self.options()).await?);
        let killed = std::mem::take(&mut *self.killed.lock().unwrap());
        for dead in killed {
            assert!(engine.reap(dead).await?, "it should not have left");
        }
        self.opened.lock().unwrap().push(engine.clone());
        Ok(engine)
    }

    async fn close(&mut self, engine: Arc<dyn Engine>) {
        self.take(&*engine).close().await;
    }

    /// Nothing of it is closed; who comes next is told that it is dead.
    async fn kill(&mut self, engine: Arc<dyn Engine>) {
        drop(self.take(&*engine));
        self.killed.get_mut().unwrap().push(engine.process());
    }

    fn reboot(&mut self) {
        self.boots += 1;
    }
}

// === words for its own stories ===

/// The defaults for this database, and a lease that is over soon.
fn quick(database: &Database) -> PostgresOptions {
    PostgresOptions {
        lease: LEASE,
        ..PostgresOptions::new(database.url())
    }
}

/// Long enough for a machine that is busy with other tests to renew it.
const LEASE: Duration = Duration::from_secs(2);

async fn open(options: PostgresOptions) -> PostgresEngine {
    PostgresEngine::connect(options).await.unwrap()
}

/// Looks until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let limit = Duration::from_secs(30);
    let looking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let seen = tokio::time::timeout(limit, looking).await;
    assert!(seen.is_ok(), "{what} never came");
}

/// Whether all of so many processes listen.
async fn listening(database: &Database, processes: i64) {
    let client = database.connect().await;
    let listen = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND query = 'LISTEN lameduck'";
    until("a listener", async || {
        let row = client.query_one(listen, &[]).await.unwrap();
        row.get::<_, i64>(0) >= processes
    })
    .await;
}
