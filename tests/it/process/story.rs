//! The story that began it, told by real processes: work keeps coming in, and the process under it is rolled
//! or killed again and again. A ledger that the handlers keep outside of the program decides.
//!
//! Short in the usual test run; `make story` tells it at full length.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use lameduck::jobs::{
    engine::{
        Engine,
        sqlite::{SqliteEngine, SqliteOptions},
    },
    job::{Listing, State},
};
use tokio::time::{Instant, sleep};

use super::{
    harness::{Place, Process},
    restarts::{Crowd, Submitters, random, times},
};

/// A short job, or one that is longer than the grace period.
const HANDLER: &str = r#"read -r payload
case "$payload" in *long) sleep "$LONG" ;; *) sleep "$SHORT" ;; esac"#;

/// How much of it.
struct Scale {
    crowd: Crowd,
    workers: &'static str,
    grace: &'static str,
    /// What a short job takes, and a long one, in seconds.
    short: &'static str,
    long: &'static str,
    rounds: usize,
    /// Milliseconds of a process' life, at least and at most.
    life: (u64, u64),
}

const KILLED_QUICKLY: Scale = Scale {
    crowd: Crowd {
        clients: 6,
        pause: (10, 60),
        long_every: Some(15),
    },
    workers: "6",
    grace: "1s",
    short: "0.05",
    long: "1.1",
    rounds: 8,
    life: (0, 500),
};

const KILLED_AT_LENGTH: Scale = Scale {
    crowd: Crowd {
        clients: 12,
        pause: (100, 1_000),
        long_every: Some(15),
    },
    workers: "20",
    grace: "3s",
    short: "0.7",
    long: "4",
    rounds: 150,
    life: (0, 2_500),
};

/// 20 jobs a second of 3 s each for a minute, rolled every few seconds.
const ROLLED_AT_LENGTH: Scale = Scale {
    crowd: Crowd {
        clients: 20,
        pause: (950, 1_050),
        long_every: None,
    },
    workers: "70",
    grace: "30s",
    short: "3",
    long: "3",
    rounds: 12,
    life: (2_000, 6_000),
};

impl Scale {
    async fn start(&self, place: &Place) -> Process {
        let arguments = [
            "--workers",
            self.workers,
            "--grace",
            self.grace,
            // What is killed from outside, again and again, is not to blame.
            "--max-crashes",
            "0",
        ];
        let mut command = place.command_with_handler(&arguments);
        command.env("SHORT", self.short).env("LONG", self.long);
        Process::start(command).await
    }

    /// The instant is the subject, nothing is waited for.
    async fn some_time(&self, random: &mut fastrand::Rng) {
        let (least, most) = self.life;
        sleep(Duration::from_millis(random.u64(least..most))).await;
    }
}

// === SIGKILL ===

#[tokio::test]
async fn whatever_ran_again_after_a_sigkill_had_not_ended() {
    killed_again_and_again(&KILLED_QUICKLY).await;
}

#[tokio::test]
#[ignore = "minutes; make story"]
async fn whatever_ran_again_after_a_sigkill_had_not_ended_at_length() {
    killed_again_and_again(&KILLED_AT_LENGTH).await;
}

async fn killed_again_and_again(scale: &Scale) {
    let mut random = random();
    let place = Place::new(HANDLER);
    let mut process = scale.start(&place).await;
    let submitters = Submitters::start(&process, scale.crowd);
    let (mut orphans, mut backlogs, mut again) = (0, 0, 0);
    for kill in 0..scale.rounds {
        place.noted("begin", 1).await;
        scale.some_time(&mut random).await;

        process.kill().await;

        // As the kernel does in a container whose PID 1 is gone.
        orphans += place.kill_living().await;
        let before = place.outside();
        let copy = place.path(&format!("copy-{kill}"));
        copy_of(&place.path("data"), &copy);
        let not_ended = not_ended(&copy).await;
        backlogs += usize::from(!not_ended.is_empty());

        process = scale.start(&place).await;
        submitters.turn_to(&process);
        // Until something runs again, so that there is a story to be told.
        place
            .noted(
                "begin",
                times(&before, "begin") + usize::from(!not_ended.is_empty()),
            )
            .await;
        let seen: BTreeSet<_> = before.iter().map(|line| line.job.clone()).collect();
        for line in &place.outside()[before.len()..] {
            if line.what == "begin" && seen.contains(&line.job) {
                again += 1;
                assert!(
                    not_ended.contains(&line.job),
                    "kill {kill}: {line:?} ran again though it had ended"
                );
            }
        }
        std::fs::remove_dir_all(copy).unwrap();
    }

    let accepted = submitters.stop().await;

    worked_off(&process).await;
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
    println!(
        "{} jobs over {} kills, {backlogs} with a backlog; {again} runs again, {orphans} commands left to the kernel",
        accepted.len(),
        scale.rounds
    );
    assert!(backlogs > 0 && again > 0, "nothing was at stake");
}

/// Waits until nothing is left to do, as long as the queue gets shorter: who ran in many crashes runs one by one.
pub(super) async fn worked_off(process: &Process) {
    // Longer than a suspect waits, and runs.
    const STANDSTILL: Duration = Duration::from_secs(90);
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        let queue = process.get("/v1/queues").await.json()["queues"][0].clone();
        let left: u64 = ["pending", "scheduled", "running"]
            .iter()
            .map(|state| queue[state].as_u64().unwrap())
            .sum();
        if left == 0 {
            return;
        }
        if left < least {
            (least, since) = (left, Instant::now());
        }
        assert!(since.elapsed() < STANDSTILL, "it stands still: {queue}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Every file as it is at this instant; nobody writes.
fn copy_of(data: &Path, copy: &Path) {
    let copied = Command::new("cp").arg("-r").args([data, copy]).status();
    assert!(copied.unwrap().success());
}

/// What the database shows as not ended.
async fn not_ended(data: &Path) -> BTreeSet<String> {
    let engine = SqliteEngine::open(data, SqliteOptions::default()).unwrap();
    let mut ids = BTreeSet::new();
    for state in [State::Pending, State::Scheduled] {
        let mut after = None;
        loop {
            let page = engine
                .list(&Listing {
                    queue: "default".parse().unwrap(),
                    state,
                    after,
                    limit: 500,
                })
                .await
                .unwrap();
            ids.extend(page.jobs.iter().map(|job| job.id.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    engine.close().await;
    ids
}

// === SIGTERM ===

#[tokio::test]
#[ignore = "minutes; make story"]
async fn a_minute_of_rollouts_loses_no_job_runs_none_twice_and_burns_no_attempt() {
    let mut random = random();
    let scale = &ROLLED_AT_LENGTH;
    let place = Place::new(HANDLER);
    let mut process = scale.start(&place).await;
    let submitters = Submitters::start(&process, scale.crowd);
    let begin = Instant::now();
    let mut rollouts = 0;
    while begin.elapsed() < Duration::from_secs(60) {
        scale.some_time(&mut random).await;
        process.terminate().await.assert_clean();
        assert_eq!(place.living(), []);
        process = scale.start(&place).await;
        submitters.turn_to(&process);
        rollouts += 1;
    }

    let accepted = submitters.stop().await;

    for id in &accepted {
        let job = process.completed(id).await;
        // Whatever was reserved in the instant of a SIGTERM was given back before it began.
        assert_eq!(job["attempt"], 1, "{job}");
    }
    process.terminate().await.assert_clean();
    let outside = place.outside_by_job();
    assert_eq!(outside.len(), accepted.len(), "jobs that nobody knows of");
    for id in &accepted {
        let lines = &outside[id];
        let told = (times(lines, "begin"), times(lines, "end"));
        assert_eq!(told, (1, 1), "{lines:#?}");
    }
    println!("{} jobs of 3 s over {rollouts} rollouts", accepted.len());
}
