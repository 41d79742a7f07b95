//! Three replicas on one PostgreSQL, replaced one after the other under the founding story's load: 20 jobs a second.
//! Those that do not end inside the grace period are given back, and go on elsewhere at once.
//!
//! Short in the usual test run; `make story` tells it with jobs of 3 s for a minute.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    harness::{Place, Process},
    restarts::{Crowd, Submitters, times},
};
use crate::postgres_server::{Database, server};

const HANDLER: &str = r#"sleep "$LONG""#;

const REPLICAS: usize = 3;

struct Scale {
    workers: &'static str,
    /// What a job takes, in seconds.
    job: &'static str,
    /// Shorter than it takes to end all that runs.
    grace: &'static str,
    /// From one replacement to the next.
    between: Duration,
    replacements: usize,
}

const QUICK: Scale = Scale {
    workers: "12",
    job: "1.5",
    grace: "1s",
    between: Duration::from_millis(1_200),
    replacements: REPLICAS,
};

const AT_LENGTH: Scale = Scale {
    workers: "25",
    job: "3",
    grace: "5s",
    between: Duration::from_secs(5),
    replacements: 4 * REPLICAS,
};

/// Twenty a second.
const CROWD: Crowd = Crowd {
    clients: 20,
    pause: (950, 1_050),
    long_every: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_are_replaced_under_load_and_no_attempt_is_burnt() {
    replaced(&QUICK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute; make story"]
async fn three_replicas_are_replaced_under_load_and_no_attempt_is_burnt_at_length() {
    replaced(&AT_LENGTH).await;
}

async fn start(place: &Place, database: &Database, scale: &Scale) -> Process {
    let arguments = ["--workers", scale.workers, "--grace", scale.grace];
    let mut command = place.command_with_handler(&arguments);
    command
        .env("LAMEDUCK_DATABASE", database.url())
        .env("LONG", scale.job);
    Process::start(command).await
}

async fn replaced(scale: &Scale) {
    let database = server().database().await;
    let place = Place::new(HANDLER);
    let mut replicas = VecDeque::new();
    for _ in 0..REPLICAS {
        replicas.push_back(start(&place, &database, scale).await);
    }
    let submitters = Submitters::start(&replicas[0], CROWD);
    let mut drains: Vec<f64> = Vec::new();
    for _ in 0..scale.replacements {
        // The load is the subject, nothing is waited for.
        sleep(scale.between).await;
        // As a Deployment does with maxUnavailable: 0.
        replicas.push_back(start(&place, &database, scale).await);
        let old = replicas.pop_front().unwrap();
        submitters.turn_to(&replicas[0]);
        let exit = old.terminate().await;
        let report = exit.report();
        assert_eq!(report["jobs"]["left"]["count"], 0, "{report:#}");
        assert_eq!(report["jobs"]["failed"], 0, "{report:#}");
        drains.push(report["seconds"].as_f64().unwrap());
    }

    let accepted = submitters.stop().await;

    let mut resumed: Vec<Duration> = Vec::new();
    for id in &accepted {
        let job = replicas[0].completed(id).await;
        // Releases cost none; nothing was lost, and nothing failed.
        assert_eq!(job["attempt"], 1, "{job:#}");
        let history = job["history"].as_array().unwrap();
        let known = ["completed", "released"].map(Value::from);
        assert!(
            history.iter().all(|run| known.contains(&run["end"])),
            "{job:#}"
        );
        resumed.extend(history.windows(2).map(|runs| latency(&runs[0], &runs[1])));
    }
    let outside = place.outside_by_job();
    for id in &accepted {
        let lines = &outside[id];
        assert_eq!(times(lines, "end"), 1, "done once: {lines:#?}");
    }
    assert!(
        !resumed.is_empty(),
        "nothing was given back: there is no story"
    );
    resumed.sort();
    let quantile = |q: f64| resumed[((resumed.len() - 1) as f64 * q) as usize];
    let (half, nearly_all) = (quantile(0.5), quantile(0.99));
    println!(
        "{} jobs of {} s over {} replacements of {:.1} s each at the most: {} given back, running elsewhere after \
         {half:.1?} (p50), {nearly_all:.1?} (p99)",
        accepted.len(),
        scale.job,
        scale.replacements,
        drains.iter().copied().fold(0.0, f64::max),
        resumed.len(),
    );
    // Without anybody who hears of it, half of them would wait for half of a poll of one second.
    assert!(half <= Duration::from_millis(300), "{resumed:?}");
    for replica in replicas {
        replica.terminate().await.assert_clean();
    }
    assert_eq!(place.living(), []);
}

/// From the end of a run to the beginning of the next one.
fn latency(before: &Value, after: &Value) -> Duration {
    let at =
        |run: &Value, what: &str| -> Timestamp { run[what].as_str().unwrap().parse().unwrap() };
    let between = at(after, "started_at").duration_since(at(before, "ended_at"));
    Duration::try_from(between).unwrap_or_default()
}
