//! Several processes on one database: who owns what, and what becomes of it when one dies or stands still.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use lameduck::jobs::{engine::Event, ledger::Ledger};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_replicas_may_start_at_once() {
    let database = shared().database().await;

    let started = (0..10).map(|_| PostgresEngine::connect(quick(&database)));
    let engines = futures_util::future::join_all(started).await;

    let engines: Vec<_> = engines.into_iter().map(Result::unwrap).collect();
    let id = submit(&engines[0], a_job("x")).await;
    for engine in &engines {
        assert_eq!(state(engine, id).await, State::Pending);
    }
    let rows = engines[0].drains(99).await.unwrap();
    assert_eq!(rows.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_goes_to_one_of_many_processes() {
    const JOBS: usize = 400;
    let database = shared().database().await;
    let engines: Vec<_> = {
        let started = (0..4).map(|_| PostgresEngine::connect(quick(&database)));
        let started = futures_util::future::join_all(started).await;
        started.into_iter().map(|e| Arc::new(e.unwrap())).collect()
    };
    let jobs = (0..JOBS).map(|n| a_job(&n.to_string())).collect();
    engines[0].submit(jobs).await.unwrap();

    let workers = (0..16).map(|n| {
        let engine = engines[n % 4].clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let some = reserve(&*engine, 1 + n % 3).await;
                if some.is_empty() {
                    return mine;
                }
                for reserved in some {
                    mine.push(reserved.job.id);
                    let settled = settle(&*engine, reserved.claim.settle(completed(""))).await;
                    assert_eq!(settled, Settled::Written);
                }
            }
        })
    });
    let done = futures_util::future::join_all(workers).await;

    let mut done: Vec<_> = done.into_iter().flat_map(Result::unwrap).collect();
    done.sort();
    done.dedup();
    assert_eq!(done.len(), JOBS);
    let stats = &engines[0].queues().await.unwrap()[0];
    assert_eq!((stats.pending, stats.running), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_does_the_others_hear() {
    let database = shared().database().await;
    let (one, other) = (open(quick(&database)).await, open(quick(&database)).await);
    listening(&database, 2).await;
    let mut events = other.events();

    let id = submit(&one, a_job("x")).await;
    assert_eq!(events.recv().await.unwrap(), Event::Runnable(mail()));

    let claim = reserve_one(&other).await.claim;
    assert_eq!(events.recv().await.unwrap(), Event::Changed(id));
    one.cancel(id).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::CancelRequested(id));
    assert_eq!(other.cancel_requests().await.unwrap(), [id]);
    assert!(one.cancel_requests().await.unwrap().is_empty());

    let mut elsewhere = one.events();
    settle(&other, claim.settle(completed(""))).await;
    until("the end", async || {
        elsewhere.recv().await.unwrap() == Event::Ended(id)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_longer_than_the_lease_costs_nobody_a_job() {
    let database = shared().database().await;
    let (one, other) = (open(quick(&database)).await, open(quick(&database)).await);
    let id = submit(&one, a_job("x")).await;
    let claim = reserve_one(&one).await.claim;

    database.away().await;
    let error = other.job(id).await.unwrap_err();
    assert!(matches!(error, EngineError::Storage(_)), "{error:?}");
    // That it is long is the story.
    tokio::time::sleep(LEASE * 2).await;
    database.back().await;
    // Both have had the time to look at the other, and more than once.
    let client = database.connect().await;
    let beats = async || {
        let least = client
            .query_one("SELECT min(beat) FROM lameduck.processes", &[])
            .await;
        least.unwrap().get::<_, i64>(0)
    };
    let before = beats().await;
    until("a beat", async || beats().await > before + 2).await;

    assert_eq!(state(&other, id).await, State::Running);
    let settled = settle(&one, claim.settle(completed(""))).await;
    assert_eq!(settled, Settled::Written);
}

// === real signals ===

const CHILD: &str = "engine_contract::postgres::processes::the_process_that_is_signalled";
const CHILD_DATABASE: &str = "LAMEDUCK_TEST_DATABASE";

/// A process of its own, which does what it is told.
struct Other {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Other {
    fn start(database: &Database) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--ignored", "--nocapture"])
            .env(CHILD_DATABASE, database.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// Returns what it says to it.
    fn ask(&mut self, what: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        let answers = self.said.by_ref().map(Result::unwrap);
        let answer = answers
            .filter_map(|line| Some(line.strip_prefix("answer: ")?.to_owned()))
            .next();
        answer.expect("it should still be there")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_killed_process_are_free_after_its_lease() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let id = submit(&engine, a_job("x")).await;
    let mut other = Other::start(&database);
    assert_eq!(other.ask("reserve"), id.to_string());
    let dead: String = other.ask("who");
    let mut events = engine.events();

    other.signal("-KILL");
    let killed = std::time::Instant::now();

    until("its job", async || {
        events.recv().await.unwrap() == Event::Runnable(mail())
    })
    .await;
    let took = killed.elapsed();
    assert!(took >= LEASE / 2, "it might have lived: {took:?}");
    // A look later, and what a busy machine takes.
    assert!(took < LEASE * 3, "{took:?}");
    let reserved = reserve_one(&engine).await;
    assert_eq!((reserved.job.id, reserved.job.attempt), (id, 1));
    assert_eq!(record(&engine, id).await.crashes, 1);
    let row = engine.drains(9).await.unwrap().remove(0);
    assert_eq!(row.process.to_string(), dead);
    assert_eq!(row.outcome.as_deref(), Some("killed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_overwrites_nothing_and_goes_on_as_another() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let id = submit(&engine, a_job("x")).await;
    let mut other = Other::start(&database);
    assert_eq!(other.ask("reserve"), id.to_string());
    let was = other.ask("who");
    let mut events = engine.events();

    other.signal("-STOP");
    until("its job", async || {
        events.recv().await.unwrap() == Event::Runnable(mail())
    })
    .await;
    let claim = reserve_one(&engine).await.claim;
    other.signal("-CONT");

    assert_eq!(other.ask("settle"), "Stale");
    assert_eq!(state(&engine, id).await, State::Running);
    until("its new id", async || other.ask("who") != was).await;
    let settled = settle(&engine, claim.settle(completed("mine"))).await;
    assert_eq!(settled, Settled::Written);
    let next = submit(&engine, a_job("y")).await;
    assert_eq!(other.ask("reserve"), next.to_string());
    assert_eq!(other.ask("settle"), "Written");
}

/// Not a test: reserves and settles as it is told, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the stories above run it as a process of its own"]
async fn the_process_that_is_signalled() {
    let Ok(url) = std::env::var(CHILD_DATABASE) else {
        return;
    };
    let engine = open(PostgresOptions {
        lease: LEASE,
        ..PostgresOptions::new(url)
    })
    .await;
    let mut held = None;
    for line in std::io::stdin().lines() {
        let answer = match line.unwrap().as_str() {
            "reserve" => {
                let reserved = reserve_one(&engine).await;
                held = Some(reserved.claim);
                reserved.job.id.to_string()
            }
            "settle" => {
                let claim = held.take().unwrap();
                let settled = settle(&engine, claim.settle(completed("theirs"))).await;
                format!("{settled:?}")
            }
            _ => engine.process().to_string(),
        };
        println!("answer: {answer}");
    }
}
