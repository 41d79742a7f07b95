//! Jobs that are longer than the grace period, handlers that will not go, people who will not wait.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{ErrorKind, PipeReader, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    time::{Duration, Instant},
};

use rustix::{fs::OFlags, process::Signal};
use serde_json::{Value, json};
use tokio::{net::unix::pipe::Receiver, time::sleep};

use super::harness::{Log, Place, Process, until};

/// Done at once where the file `again` is there; else far beyond any grace period, and says that it was told.
const TOLD: &str = r#"
if ! [ -e "$PLACE/again" ]; then
    trap 'note told; exit 1' TERM
    sleep 60 & wait
fi"#;

/// The same with a grandchild, and none of them listens.
const DEAF: &str = r#"
if ! [ -e "$PLACE/again" ]; then
    trap '' TERM
    sh -c 'sleep 60; echo "the grandchild lived on" >> "$PLACE/outside"' &
    note deaf
    sleep 60
fi"#;

/// Four seconds: told at 2.07, cut at 2.79, gone by 3.6.
const FOUR: &[&str] = &["--grace", "4s"];
const GRACE: Duration = Duration::from_secs(4);

/// The next process runs them again, as the attempts that they were, and shows that they had been given back.
async fn run_again(place: &Place, ids: &[String]) {
    place.touch("again");
    let process = place.start(&[]).await;
    for id in ids {
        let job = process.completed(id).await;
        assert_eq!((&job["attempt"], &job["releases"]), (&1.into(), &1.into()));
    }
    process.terminate().await.assert_clean();

    let outside = place.outside_by_job();
    for id in ids {
        let lines = &outside[id];
        let begun: Vec<_> = lines.iter().filter(|l| l.what == "begin").collect();
        assert_eq!(begun.len(), 2, "{lines:#?}");
        assert_eq!((begun[0].attempt, begun[1].attempt), (1, 1));
        assert_ne!(begun[0].claim, begun[1].claim, "each run has its own claim");
        let ends = lines.iter().filter(|l| l.what == "end").count();
        assert_eq!(ends, 1, "{lines:#?}");
    }
}

/// The ids in one of the report's lists.
fn ids(list: &Value) -> BTreeSet<String> {
    let ids = list["ids"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_job_longer_than_the_grace_period_is_told_to_stop_and_given_back() {
    let place = Place::new(TOLD);
    let process = place.start(FOUR).await;
    let id = process.submit("long").await;
    place.noted("begin", 1).await;

    let since = Instant::now();
    process.signal(Signal::TERM);
    place.noted("told", 1).await;
    let told = since.elapsed();
    let exit = process.exit(since).await;

    assert!(told >= Duration::from_secs(2), "told after {told:?} only");
    assert!(exit.took < GRACE, "{:?}", exit.took);
    let report = exit.assert_clean();
    assert_eq!(report["jobs"]["released"]["ids"], json!([id]));
    assert_eq!(place.living(), []);
    run_again(&place, &[id]).await;
}

#[tokio::test]
async fn a_handler_that_ignores_sigterm_is_killed_with_all_it_started_and_its_job_given_back() {
    let place = Place::new(DEAF);
    let process = place.start(FOUR).await;
    let id = process.submit("deaf").await;
    place.noted("deaf", 1).await;

    let exit = process.terminate().await;

    assert_eq!(place.living(), [], "somebody outlived the drain");
    assert!(exit.took < GRACE, "{:?}", exit.took);
    let report = exit.report();
    assert_eq!(report["outcome"], "cut", "{report:#}");
    assert_eq!(report["jobs"]["released"]["ids"], json!([id]));
    assert_eq!(exit.status.code(), Some(1));
    run_again(&place, &[id]).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_in_a_second_and_an_echo_of_the_first_does_not() {
    let place = Place::new(DEAF);
    let mut process = place.start(&[]).await;
    let mut jobs = Vec::new();
    for n in 0..10 {
        jobs.push(process.submit(&n.to_string()).await);
    }
    place.noted("deaf", 10).await;

    let first = Instant::now();
    process.signal(Signal::TERM);
    let log = process.log().clone();
    log.line("phase", |line| line["phase"] == "draining").await;
    process.signal(Signal::TERM);
    let echo = first.elapsed();
    assert!(echo < Duration::from_secs(1), "this machine is too slow");
    // An echo that counted would have ended it at once.
    sleep(Duration::from_millis(1_100).saturating_sub(first.elapsed())).await;
    assert!(process.is_running(), "an echo is no second signal");
    assert_eq!(process.admin("/livez").await.status, 200);

    let second = Instant::now();
    process.signal(Signal::INT);
    let exit = process.exit(second).await;

    assert_eq!(place.living(), [], "somebody outlived the process");
    assert!(exit.took < Duration::from_millis(1_500), "{:?}", exit.took);
    let report = exit.report();
    assert_eq!(report["hurried"], true, "{report:#}");
    let released = ids(&report["jobs"]["released"]);
    assert_eq!(released, jobs.iter().cloned().collect());
    run_again(&place, &jobs).await;
}

/// An operator's `sqlite3`, a backup: somebody else holds the database's write lock.
#[tokio::test]
async fn a_database_that_takes_no_writes_keeps_no_process_alive_and_the_jobs_are_named() {
    let place = Place::new(r#"until [ -e "$PLACE/again" ]; do sleep 0.02; done"#);
    let process = place.start(FOUR).await;
    let id = process.submit("done, but who will know").await;
    place.noted("begin", 1).await;
    let database = rusqlite::Connection::open(place.path("data").join("lameduck.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    place.touch("again");
    place.noted("end", 1).await;

    let exit = process.terminate().await;

    assert_eq!(place.living(), []);
    assert!(exit.took < GRACE, "{:?}", exit.took);
    assert_eq!(exit.report()["jobs"]["left"]["ids"], json!([id]));
    assert_ne!(exit.status.code(), Some(0));
    drop(database);
    let process = place.start(&[]).await;
    assert_eq!(process.completed(&id).await["attempt"], 1);
}

/// Fills the pipe to its last byte, through a description of its own: a non-blocking one.
fn fill(pipe: &PipeReader) -> File {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut full = OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking)
        .open(path)
        .unwrap();
    for size in [4096, 1] {
        loop {
            match full.write(&vec![b'x'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    full
}

/// Whoever reads the log (a container runtime whose disk hangs) holds up the thread that writes it, and nobody else.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request_and_no_drain() {
    const FAILED: u64 = 60;
    let place = Place::new("exit 1");
    let (read, write) = std::io::pipe().unwrap();
    let mut command = place.command_with_handler(&["--grace", "3s", "--max-attempts", "1"]);
    command.stderr(write);
    let child = command.spawn().unwrap();
    drop(command);
    let reader = Receiver::from_owned_fd(read.try_clone().unwrap().into()).unwrap();
    let log = Log::follow(reader);
    let mut process = Process::started(child, log).await;
    process.log().stop_reading();
    let full = fill(&read);

    for n in 0..FAILED {
        process.submit(&n.to_string()).await;
    }
    // Each says so in the log.
    until("all to have failed", async || {
        let queue = process.get("/v1/queues").await.json()["queues"][0].clone();
        (queue["dead"] == FAILED).then_some(())
    })
    .await;
    assert_eq!(process.admin("/livez").await.status, 200);
    let since = Instant::now();
    process.signal(Signal::TERM);
    until("the process' end", async || {
        (!process.is_running()).then_some(())
    })
    .await;
    let took = since.elapsed();
    drop((full, read));

    assert!(took < Duration::from_secs(3), "{took:?}");
    let exit = process.exit(since).await;
    assert_eq!(exit.status.code(), Some(0));
}
