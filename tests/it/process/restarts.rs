//! Clients that go on submitting while the process under them is stopped, killed and started again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::harness::{Caller, JOBS, Line, Place, Process};

/// A twentieth of a second, with a process of its own to wait for.
const SHORT: &str = "sleep 0.05";

const WORKERS: &[&str] = &["--workers", "8"];

/// How clients behave.
#[derive(Clone, Copy)]
pub struct Crowd {
    pub clients: usize,
    /// Milliseconds from an answer to the next submission, at least and at most.
    pub pause: (u64, u64),
    /// One of so many jobs is a long one, by its payload.
    pub long_every: Option<usize>,
}

/// Not to submit faster than eight workers can do.
const USUAL: Crowd = Crowd {
    clients: 6,
    pause: (20, 120),
    long_every: None,
};

/// Clients at work, some over one connection as long as it lasts, some over a new one each time.
pub struct Submitters {
    address: watch::Sender<SocketAddr>,
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<BTreeMap<String, String>>>,
    running: JoinSet<()>,
}

struct Submitter {
    number: usize,
    crowd: Crowd,
    address: watch::Receiver<SocketAddr>,
    stop: Arc<AtomicBool>,
    /// The id of each job, by its Idempotency-Key.
    accepted: Arc<Mutex<BTreeMap<String, String>>>,
}

// === impl Submitters ===

impl Submitters {
    pub fn start(process: &Process, crowd: Crowd) -> Self {
        let mut this = Self {
            address: watch::Sender::new(process.api),
            stop: Arc::default(),
            accepted: Arc::default(),
            running: JoinSet::new(),
        };
        for number in 0..crowd.clients {
            let submitter = Submitter {
                number,
                crowd,
                address: this.address.subscribe(),
                stop: this.stop.clone(),
                accepted: this.accepted.clone(),
            };
            this.running.spawn(submitter.run());
        }
        this
    }

    pub fn turn_to(&self, process: &Process) {
        self.address.send_replace(process.api);
    }

    /// Lets everybody get the answer that is outstanding; the ids of all jobs that were accepted.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, SeqCst);
        self.running.join_all().await;
        let accepted = self.accepted.lock().unwrap();
        accepted.values().cloned().collect()
    }
}

// === impl Submitter ===

impl Submitter {
    async fn run(self) {
        let mut caller = Caller::new(self.number.is_multiple_of(2));
        for n in 0.. {
            if self.stop.load(SeqCst) {
                return;
            }
            let long = self.crowd.long_every.is_some_and(|every| n % every == 1);
            let kind = if long { "long" } else { "short" };
            let key = format!("client-{}-job-{n}-{kind}", self.number);
            let id = self.submit(&mut caller, &key).await;
            self.accepted.lock().unwrap().insert(key, id);
            let (least, most) = self.crowd.pause;
            sleep(Duration::from_millis(fastrand::u64(least..most))).await;
        }
    }

    /// Again and again, under the same key, until there is an answer.
    async fn submit(&self, caller: &mut Caller, key: &str) -> String {
        let headers = [("idempotency-key", key)];
        loop {
            let address = *self.address.borrow();
            match caller.call(address, "POST", JOBS, &headers, key).await {
                Ok(answer) if answer.status == 202 => {
                    return answer.json()["id"].as_str().unwrap().to_owned();
                }
                // Committed or not, who knows; the key makes it harmless to ask again.
                Ok(answer) if answer.status == 503 => {}
                Ok(answer) => panic!("{key}: {answer:?}"),
                Err(_) => {}
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Seeded by `LAMEDUCK_TEST_SEED`, or by a seed that a failing test shows.
pub fn random() -> fastrand::Rng {
    let given = std::env::var("LAMEDUCK_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("LAMEDUCK_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

pub fn times(lines: &[Line], what: &str) -> usize {
    lines.iter().filter(|line| line.what == what).count()
}

#[tokio::test]
async fn restarts_lose_no_job_run_none_twice_and_burn_no_attempt() {
    let place = Place::new(SHORT);
    let mut process = place.start(WORKERS).await;
    let submitters = Submitters::start(&process, USUAL);
    let mut served_in_drains = 0;
    for restart in 1..=5 {
        place.noted("begin", restart * 25).await;

        let exit = process.terminate().await;

        let report = exit.assert_clean();
        assert_eq!(place.living(), [], "restart {restart} left somebody behind");
        served_in_drains += report["requests"]["served"].as_u64().unwrap();
        process = place.start(WORKERS).await;
        submitters.turn_to(&process);
    }
    place.noted("begin", 150).await;

    let accepted = submitters.stop().await;

    for id in &accepted {
        let job = process.completed(id).await;
        assert_eq!(job["attempt"], 1, "{job}");
    }
    process.terminate().await.assert_clean();
    assert_eq!(place.living(), []);
    let outside = place.outside_by_job();
    assert_eq!(outside.len(), accepted.len(), "jobs that nobody knows of");
    for id in &accepted {
        let lines = &outside[id];
        assert_eq!(
            (times(lines, "begin"), times(lines, "end")),
            (1, 1),
            "{lines:#?}"
        );
    }
    println!(
        "{} jobs over 5 restarts, {served_in_drains} of them or so accepted in a drain",
        accepted.len()
    );
    assert!(served_in_drains > 0, "nobody was served during a drain");
}

#[tokio::test]
async fn a_backlog_is_worked_off_over_restarts_at_any_instant_and_each_job_once() {
    let mut random = random();
    // Short ones, so that reservations are under way at any instant; held up until all are there.
    let place = Place::new(r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#);
    let mut process = place.start(&["--workers", "16"]).await;
    let mut ids = Vec::new();
    for n in 0..250 {
        ids.push(process.submit(&n.to_string()).await);
    }
    place.touch("go");
    let mut restarts = 0;
    let backlog = async |process: &Process| {
        let queue = process.get("/v1/queues").await.json()["queues"][0].clone();
        queue["pending"].as_u64().unwrap() + queue["running"].as_u64().unwrap()
    };
    while backlog(&process).await > 0 {
        // The instant is the subject, nothing is waited for.
        sleep(Duration::from_millis(random.u64(..60))).await;
        process.terminate().await.assert_clean();
        assert_eq!(place.living(), []);
        process = place.start(&["--workers", "16"]).await;
        restarts += 1;
    }

    let outside = place.outside_by_job();
    let mut released = 0;
    for id in &ids {
        let job = process.completed(id).await;
        assert_eq!(job["attempt"], 1, "{job}");
        released += job["releases"].as_u64().unwrap();
        let lines = &outside[id];
        assert_eq!((times(lines, "begin"), times(lines, "end")), (1, 1));
    }
    println!("{restarts} restarts, {released} jobs given back before they began");
    assert!(restarts > 0);
}

#[tokio::test]
async fn sigkill_at_any_instant_loses_no_accepted_job() {
    let mut random = random();
    let place = Place::new(SHORT);
    let mut process = place.start(WORKERS).await;
    let submitters = Submitters::start(&process, USUAL);
    let mut orphans = 0;
    for _ in 0..8 {
        // The instant is the subject, nothing is waited for.
        sleep(Duration::from_millis(random.u64(..300))).await;

        process.kill().await;

        let left = place.living();
        process = place.start(WORKERS).await;
        let living = place.living();
        assert!(
            left.iter().all(|orphan| !living.contains(orphan)),
            "of {left:?} live {living:?}"
        );
        orphans += left.len();
        submitters.turn_to(&process);
    }

    let accepted = submitters.stop().await;

    for id in &accepted {
        process.completed(id).await;
    }
    process.terminate().await.assert_clean();
    assert_eq!(place.living(), []);
    let outside = place.outside_by_job();
    for id in &accepted {
        let lines = outside.get(id).unwrap_or_else(|| panic!("{id} never ran"));
        assert!(times(lines, "end") >= 1, "completed, it says: {lines:#?}");
    }
    for id in outside.keys() {
        assert!(accepted.contains(id), "{id} ran, and nobody was told of it");
    }
    let again: usize = outside
        .values()
        .map(|lines| times(lines, "begin").saturating_sub(1))
        .sum();
    println!(
        "{} jobs over 8 kills, {again} runs more than jobs, {orphans} processes left running and ended by the next start",
        accepted.len()
    );
}
