//! This process's lease, and a watch on the leases of others.
//!
//! It has its own thread and connection: handlers that block every worker thread, or a pool with no
//! connection left, must not make a living process look dead. It goes on until the engine is closed, also
//! during a drain.
//!
//! A process that was taken for dead (it was stopped, or cut off, for longer than its lease) finds no row to
//! renew. By then its jobs belong to others. It opens a row under a new id; nothing can be reserved under the
//! old one.

use std::{
    io,
    sync::{Arc, RwLock},
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{
    address::Address,
    convert::{Columns, params, process_uuid, stored_duration},
    failure::of_database,
    session::Failure,
    watch::{Beat, StoodStill, Watch},
};
use lameduck_jobs::{engine::vital::Vitals, job::ProcessId};

/// Number of beats in a lease. More of them find a death sooner and cost more; even if three fail in a row,
/// nobody is taken for dead.
const BEATS: u32 = 8;

/// Maximum time between two beats, however long the lease is.
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);

pub(super) const OPEN: &str = "
    INSERT INTO lameduck.processes (id, node, boot_id, opened_at, lease)
    VALUES ($1, $2, $3, coalesce($5, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), $4)";

// A single statement without a transaction around it. It need not wait for a disk: a crash of the database
// loses one beat.
const RENEW: &str = "
    WITH renewed AS (
        UPDATE lameduck.processes SET beat = beat + 1 WHERE id = $1 AND left_at IS NULL RETURNING 1
    )
    SELECT id, beat, lease, EXISTS (SELECT FROM renewed)
    FROM (SELECT 1) AS one LEFT JOIN lameduck.processes p ON p.left_at IS NULL AND p.id <> $1";

/// The id of this process, which changes after it was taken for dead.
#[derive(Clone)]
pub(super) struct Identity(Arc<RwLock<ProcessId>>);

/// The facts that a process records about itself.
#[derive(Clone)]
pub(super) struct About {
    pub node: Option<String>,
    pub boot_id: Option<String>,
    pub lease: Duration,
}

/// A process whose beat has stood still, and when that was seen.
pub(super) struct Order {
    pub dead: StoodStill,
    pub seen: Instant,
}

/// The handle on the thread. Dropping it ends the thread, and leaves the lease to run out.
pub(super) struct Lease {
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

struct Keeper {
    address: Address,
    identity: Identity,
    about: About,
    orders: mpsc::Sender<Order>,
    watch: Watch,
    client: Option<Client>,
    trouble: bool,
}

// === impl Identity ===

impl Identity {
    /// Returns the id of a new process.
    pub fn random() -> Self {
        Self(Arc::new(RwLock::new(ProcessId::random())))
    }

    /// Returns the current id.
    pub fn get(&self) -> ProcessId {
        *self
            .0
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, process: ProcessId) {
        *self
            .0
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = process;
    }
}

// === impl Lease ===

impl Lease {
    /// Keeps the lease from now on; its row is there already. Processes that stand still are reported to `orders`.
    pub fn keep(
        address: Address,
        identity: Identity,
        about: About,
        orders: mpsc::Sender<Order>,
        vitals: Vitals,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let keeper = Keeper {
            watch: Watch::new(about.lease / 2),
            address,
            identity,
            about,
            orders,
            client: None,
            trouble: false,
        };
        let thread = thread::Builder::new()
            .name("queue-lease".to_owned())
            .spawn(move || {
                let kept = async {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = keeper.run() => {}
                    }
                };
                vitals.run("queue-lease", || runtime.block_on(kept));
                // A name lookup that is under way can't be stopped, and nobody waits for it.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops the beats. The row stays as it is.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The thread has reported its own panic.
            let _ = thread.join();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self) {
        // A longer interval would be beyond what a clock can add up, and helps nobody.
        let interval = (self.about.lease / BEATS).min(LONGEST_INTERVAL);
        loop {
            // The timeout is two intervals: a slow database is not a dead one.
            match timeout(interval * 2, self.beat()).await {
                Ok(Ok(())) => {
                    if std::mem::take(&mut self.trouble) {
                        tracing::info!("this process' lease is renewed again");
                    }
                }
                Ok(Err(failure)) => self.failed(&failure),
                Err(_) => self.failed(&Failure::Silent(interval * 2)),
            }
            let next = Instant::now() + interval;
            let next = self.watch.next().map_or(next, |over| next.min(over));
            // Never at once again: a dead process may not have been reaped yet.
            let shortest = Instant::now() + interval / 4;
            tokio::time::sleep_until(next.max(shortest).into()).await;
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.watch.failed();
        self.client = None;
        let error = match failure {
            Failure::Database(error) => of_database(error),
            Failure::Silent(patience) => format!("no answer within {} s", patience.as_secs_f64()),
            other => format!("{other:?}"),
        };
        if !std::mem::replace(&mut self.trouble, true) {
            tracing::warn!(
                error,
                "this process' lease can't be renewed; when the others can reach the database and this one \
                 can't, they take its jobs after {} s",
                self.about.lease.as_secs_f64()
            );
        }
    }

    /// Renews the lease, and looks at the leases of others.
    async fn beat(&mut self) -> Result<(), Failure> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.connect().await?,
        };
        let process = self.identity.get();
        let asked = Instant::now();
        let rows = client
            .query_typed(RENEW, params![process_uuid(process) => UUID])
            .await?;
        let answered = Instant::now();
        let mut beats = Vec::new();
        let mut renewed = false;
        for row in &rows {
            renewed = row.try_get(3)?;
            if row.try_get::<_, Option<i64>>(1)?.is_some() {
                beats.push(Beat {
                    process: row.process_id(0)?,
                    beat: row.try_get(1)?,
                    lease: row.duration(2)?.unwrap_or(self.about.lease),
                });
            }
        }
        if !renewed {
            self.open_anew(&client, process).await?;
        }
        for dead in self.watch.look(asked, answered, &beats) {
            // If the order is not taken up in time, the next look sends it again.
            let _ = self.orders.try_send(Order {
                dead,
                seen: answered,
            });
        }
        self.client = Some(client);
        Ok(())
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let (client, driver) = self.address.connect().await?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the lease's connection has ended");
            }
        });
        Ok(client)
    }

    async fn open_anew(&self, client: &Client, dead: ProcessId) -> Result<(), Failure> {
        let process = ProcessId::random();
        let row = params![
            process_uuid(process) => UUID, self.about.node => TEXT, self.about.boot_id => TEXT,
            stored_duration(self.about.lease) => INT8, None::<i64> => INT8,
        ];
        client.execute_typed(OPEN, row).await?;
        self.identity.set(process);
        tracing::error!(
            was = %dead,
            now = %process,
            "this process was taken for dead because its lease stood still; what it still runs has been given to \
             others, and its outcomes will not be written"
        );
        Ok(())
    }
}
