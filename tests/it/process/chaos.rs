//! Three replicas on one PostgreSQL, and everything that can happen to them, at random and at the same time: rolled,
//! killed, frozen for longer than their lease, cut off from the database, left without an answer; and the database's
//! connections ended, and the server restarted. A ledger that the handlers keep outside decides.
//!
//! Short in the usual test run; `make chaos` goes on for longer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    harness::{Line, Place, Process},
    restarts::{Crowd, Submitters, random, times},
    story::worked_off,
};
use crate::{
    postgres_proxy::{Proxy, Way},
    postgres_server::{Database, Server},
};

/// Most jobs are short, and some are longer than anybody waits.
const HANDLER: &str = r#"read -r payload
case "$payload" in *long) sleep 0.6 ;; *) sleep 0.05 ;; esac"#;

const CROWD: Crowd = Crowd {
    clients: 2,
    pause: (20, 100),
    long_every: Some(10),
};

/// Both shorter and longer than the lease.
const LEASE: &str = "1s";
const TROUBLE: (u64, u64) = (50, 2_500);

/// What happened, how often.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, u32>);

struct Replica {
    place: Place,
    proxy: Proxy,
    /// Always there but while it is started again.
    process: Option<Process>,
    submitters: Submitters,
    random: fastrand::Rng,
    tally: Tally,
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        for (what, times) in other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

// === impl Replica ===

impl Replica {
    async fn start(database: &Database, random: fastrand::Rng) -> Self {
        let place = Place::new(HANDLER);
        let proxy = Proxy::in_front_of(database).await;
        let process = start(&place, &proxy).await;
        Self {
            submitters: Submitters::start(&process, CROWD),
            place,
            proxy,
            process: Some(process),
            random,
            tally: Tally::default(),
        }
    }

    /// So many troubles in all, over all replicas.
    async fn suffer(mut self, troubles: Arc<AtomicU32>) -> Self {
        let next = || troubles.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        while next().is_ok() {
            // The instant is the subject, nothing is waited for.
            self.some_time((0, 400)).await;
            match self.random.u8(..6) {
                0 => self.roll().await,
                1 => self.kill().await,
                2 => self.freeze().await,
                3 => self.cut_off(Way::Closed, "cut off").await,
                4 => self.cut_off(Way::Silent, "left without an answer").await,
                _ => self.break_connections(),
            }
        }
        self
    }

    async fn some_time(&mut self, (least, most): (u64, u64)) {
        sleep(Duration::from_millis(self.random.u64(least..most))).await;
    }

    async fn roll(&mut self) {
        self.tally.count("rolled");
        // Cut or clean: where the database is away at the wrong moment, what runs is left to the lease.
        self.process.take().unwrap().terminate().await;
        self.start_again().await;
    }

    async fn kill(&mut self) {
        self.tally.count("killed");
        self.process.take().unwrap().kill().await;
        // As the kernel does in a container whose PID 1 is gone.
        self.place.kill_living().await;
        self.start_again().await;
    }

    async fn start_again(&mut self) {
        let process = start(&self.place, &self.proxy).await;
        self.submitters.turn_to(&process);
        self.process = Some(process);
    }

    async fn freeze(&mut self) {
        self.tally.count("frozen");
        self.process.as_ref().unwrap().signal(Signal::STOP);
        self.some_time(TROUBLE).await;
        self.process.as_ref().unwrap().signal(Signal::CONT);
    }

    async fn cut_off(&mut self, way: Way, what: &'static str) {
        self.tally.count(what);
        self.proxy.set(way);
        self.some_time(TROUBLE).await;
        self.proxy.set(Way::Open);
    }

    fn break_connections(&mut self) {
        self.tally.count("connections broken");
        self.proxy.set(Way::Closed);
        self.proxy.set(Way::Open);
    }
}

async fn start(place: &Place, proxy: &Proxy) -> Process {
    let arguments = [
        "--workers",
        "6",
        "--grace",
        "2s",
        "--database-lease",
        LEASE,
        "--database-statement-timeout",
        "3s",
        // What is killed from outside, again and again, is not to blame.
        "--max-crashes",
        "0",
    ];
    let mut command = place.command_with_handler(&arguments);
    command.env("LAMEDUCK_DATABASE", proxy.url());
    Process::start(command).await
}

/// The database's own troubles, until nobody else has any.
async fn trouble_the_server(
    server: &'static Server,
    database: &Database,
    mut random: fastrand::Rng,
    troubles: &AtomicU32,
) -> Tally {
    let mut tally = Tally::default();
    while troubles.load(SeqCst) > 0 {
        sleep(Duration::from_millis(random.u64(500..3_000))).await;
        match random.u8(..4) {
            0 => {
                tally.count("server restarted");
                server.restart("INT").await;
            }
            1 => {
                tally.count("server crashed");
                server.restart("QUIT").await;
            }
            _ => {
                tally.count("backends terminated");
                database.end_connections().await;
            }
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_three_replicas_no_job_is_lost() {
    suffer(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "many minutes; make chaos"]
async fn whatever_happens_to_three_replicas_no_job_is_lost_at_length() {
    let troubles = std::env::var("LAMEDUCK_CHAOS").ok();
    suffer(troubles.map_or(2_000, |troubles| troubles.parse().expect("a number"))).await;
}

async fn suffer(troubles: u32) {
    let mut random = random();
    let server = Server::alone();
    let database = server.database().await;
    let troubles = Arc::new(AtomicU32::new(troubles));
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Replica::start(&database, random.fork()).await);
    }

    let sufferers = replicas.into_iter().map(|r| r.suffer(troubles.clone()));
    let (replicas, mut tally) = tokio::join!(
        futures_util::future::join_all(sufferers),
        trouble_the_server(server, &database, random.fork(), &troubles)
    );

    let mut accepted = Vec::new();
    let mut outside = BTreeMap::<String, Vec<Line>>::new();
    let mut alive = Vec::new();
    for replica in replicas {
        accepted.extend(replica.submitters.stop().await);
        tally.add(replica.tally);
        alive.push((replica.process.unwrap(), replica.place, replica.proxy));
    }
    worked_off(&alive[0].0).await;
    for (_, place, _) in &alive {
        for (job, mut lines) in place.outside_by_job() {
            outside.entry(job).or_default().append(&mut lines);
        }
    }
    let (mut again, mut twice) = (0, 0);
    for id in &accepted {
        let job = alive[0].0.completed(id).await;
        let lines = outside.get(id).unwrap_or_else(|| panic!("{id} never ran"));
        judge(&job, lines);
        again += times(lines, "begin") - 1;
        twice += times(lines, "end") - 1;
    }
    for id in outside.keys() {
        assert!(accepted.contains(id), "{id} ran, and nobody was told of it");
    }
    println!(
        "{} jobs over {:?}: {again} runs again, {twice} of them of work that was done",
        accepted.len(),
        tally.0
    );
    for (process, place, _) in alive {
        process.terminate().await.assert_clean();
        assert_eq!(place.living(), []);
    }
}

/// What the program says of a job that has completed, and what happened outside, go together.
fn judge(job: &Value, outside: &[Line]) {
    let history = job["history"].as_array().unwrap();
    let runs = |how: &str| history.iter().filter(|run| run["end"] == how).count();
    let (begins, ends) = (times(outside, "begin"), times(outside, "end"));
    let told = || format!("{job:#}\n{outside:#?}");
    assert!(ends >= 1, "completed, it says: {}", told());
    assert_eq!(runs("completed"), 1, "one outcome was written: {}", told());
    assert_eq!(job["attempt"], 1, "nothing failed: {}", told());
    assert_eq!(runs("failed"), 0, "nothing failed: {}", told());
    assert!(
        begins <= history.len(),
        "a run that nobody knows of: {}",
        told()
    );
    // Only where a lease ran out, or what was given back could not be known to have ended.
    let excused = runs("lost") + runs("released");
    assert!(
        begins - 1 <= excused,
        "run again without a reason: {}",
        told()
    );
    assert!(
        ends - 1 <= excused,
        "done twice without a reason: {}",
        told()
    );
}
