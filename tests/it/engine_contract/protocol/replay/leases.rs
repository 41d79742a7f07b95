//! Leases that run out while somebody watches, and ids that are taken anew: a few ways, in real time.
//!
//! A process stands still when nothing that it says reaches the database: a gate between the two is shut.

use std::{path::Path, time::Duration};

use lameduck::jobs::engine::postgres::{PostgresEngine, PostgresOptions};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};
use tokio_postgres::config::Host;

use super::{
    super::{
        model::Action::*,
        state::Outcome::{Complete, Fail, Release},
    },
    sides::until,
    *,
};
use crate::postgres_server::{Database, own_server};

/// Long enough for a machine that is busy with other tests to renew it.
const LEASE: Duration = Duration::from_secs(2);

/// Nobody tells anybody who is dead.
struct Leased {
    clock: TestClock,
    database: Database,
    observer: Arc<PostgresEngine>,
    gates: [Option<Gate>; MOST_PROCESSES],
    engines: [Option<Arc<PostgresEngine>>; MOST_PROCESSES],
}

/// The way of one process to the database.
struct Gate {
    directory: TempDir,
    open: watch::Sender<bool>,
}

// === impl Gate ===

impl Gate {
    fn before(database: &Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let behind: tokio_postgres::Config = database.url().parse().unwrap();
        let Host::Unix(socket) = &behind.get_hosts()[0] else {
            unreachable!("our own server is on a socket")
        };
        let socket = socket.join(format!(".s.PGSQL.{}", behind.get_ports()[0]));
        let (open, opened) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, socket.clone(), opened.clone()));
            }
        });
        Self { directory, open }
    }

    fn url(&self, database: &Database) -> String {
        let behind: tokio_postgres::Config = database.url().parse().unwrap();
        format!(
            "postgres://{}@{}:5432/{}?sslmode=disable",
            behind.get_user().unwrap(),
            self.directory
                .path()
                .display()
                .to_string()
                .replace('/', "%2F"),
            behind.get_dbname().unwrap()
        )
    }
}

async fn carry(client: UnixStream, socket: impl AsRef<Path>, open: watch::Receiver<bool>) {
    let Ok(server) = UnixStream::connect(socket).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, open.clone()) => {}
        () = pass(from_server, to_client, open) => {}
    }
}

/// What comes while the gate is shut goes on when it is open again.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut some = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut some).await {
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        if to.write_all(&some[..count]).await.is_err() {
            return;
        }
    }
}

// === impl Leased ===

impl Leased {
    fn options(url: String, clock: &TestClock) -> PostgresOptions {
        PostgresOptions {
            clock: Some(clock.as_clock()),
            lease: LEASE,
            max_crashes: state::MAX_CRASHES,
            ..PostgresOptions::new(url)
        }
    }
}

impl Side for Leased {
    async fn fresh() -> Self {
        let (clock, database) = (TestClock::new(), own_server().database().await);
        let observer = PostgresEngine::connect(Self::options(database.url(), &clock)).await;
        Self {
            clock,
            database,
            observer: Arc::new(observer.unwrap()),
            gates: Default::default(),
            engines: Default::default(),
        }
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    async fn start(&mut self, process: usize) -> Arc<dyn Engine> {
        let gate = Gate::before(&self.database);
        let options = Self::options(gate.url(&self.database), &self.clock);
        let engine = Arc::new(PostgresEngine::connect(options).await.unwrap());
        self.gates[process] = Some(gate);
        self.engines[process] = Some(engine.clone());
        engine
    }

    /// It finds out by itself.
    async fn new_id(&mut self, process: usize, was: ProcessId) -> Arc<dyn Engine> {
        let engine = self.engines[process].clone().unwrap();
        until("a new id", async || engine.process() != was).await;
        engine
    }

    async fn exit(&mut self, process: usize, engine: Arc<dyn Engine>) {
        engine.close().await;
        self.engines[process] = None;
    }

    async fn kill(&mut self, process: usize, engine: Arc<dyn Engine>) {
        self.engines[process] = None;
        assert_eq!(Arc::strong_count(&engine), 1, "its lease has to end");
    }

    /// Somebody does it who has seen the lease run out.
    async fn reap(&mut self, _: usize, dead: ProcessId) {
        let client = self.database.connect().await;
        let left = "SELECT left_at IS NOT NULL FROM lameduck.processes WHERE id = $1";
        let dead = uuid::Uuid::from_bytes(*dead.as_bytes());
        until("its end", async || {
            let row = client.query_one(left, &[&dead]).await.unwrap();
            row.get(0)
        })
        .await;
    }

    async fn freeze(&mut self, process: usize) {
        let gate = self.gates[process].as_ref().unwrap();
        gate.open.send_replace(false);
    }

    async fn thaw(&mut self, process: usize) {
        let gate = self.gates[process].as_ref().unwrap();
        gate.open.send_replace(true);
    }

    fn observer(&self) -> Option<Arc<dyn Engine>> {
        Some(self.observer.clone())
    }
}

/// Where a process' only run of a job is.
const fn run(process: usize, job: usize) -> Place {
    let slot = 0;
    Place { process, job, slot }
}

async fn go(way: &[Action]) {
    let protocol = Protocol {
        symmetric: false,
        ..Protocol::shared(2, 2)
    };
    let mut told = Told::INITIAL;
    for &action in way {
        let mut possible = Vec::new();
        protocol.possible(&told, &mut possible);
        assert!(possible.contains(&action), "{action:?} can't be done there");
        told = protocol.after(&told, action);
    }
    let mut side = Leased::fresh().await;
    Replay::new(&mut side, protocol, 0).go(way).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_killed_is_found_out_and_what_it_ran_goes_on() {
    go(&[
        Start(0),
        Start(1),
        Submit(0),
        Submit(1),
        Send(0, 0),
        Take(0),
        Begin(run(0, 0)),
        Send(1, 1),
        Take(1),
        Begin(run(1, 1)),
        Kill(0),
        SeenStill(1, 0),
        Reap(1, 0),
        Send(1, 0),
        Take(1),
        Begin(run(1, 0)),
        Settle(run(1, 0), Complete),
        Settle(run(1, 1), Complete),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stood_still_writes_nothing_and_goes_on_as_another() {
    go(&[
        Start(0),
        Start(1),
        Submit(0),
        Submit(1),
        Send(0, 0),
        Take(0),
        Begin(run(0, 0)),
        Send(1, 1),
        Take(1),
        Begin(run(1, 1)),
        Freeze(0),
        SeenStill(1, 0),
        Reap(1, 0),
        Send(1, 0),
        Take(1),
        Begin(run(1, 0)),
        Thaw(0),
        Settle(run(0, 0), Complete),
        NewId(0),
        Settle(run(1, 0), Fail),
        Wait,
        Send(0, 0),
        Take(0),
        Begin(run(0, 0)),
        Settle(run(0, 0), Fail),
        Settle(run(1, 1), Complete),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stood_still_in_its_drain_is_charged_with_nothing_and_exits() {
    go(&[
        Start(0),
        Start(1),
        Submit(0),
        Submit(1),
        Send(0, 0),
        Take(0),
        Begin(run(0, 0)),
        T0(0),
        Freeze(0),
        SeenStill(1, 0),
        Reap(1, 0),
        Send(1, 0),
        Take(1),
        Thaw(0),
        Settle(run(0, 0), Release),
        NewId(0),
        Exit(0),
        Begin(run(1, 0)),
        Settle(run(1, 0), Complete),
    ])
    .await;
}
