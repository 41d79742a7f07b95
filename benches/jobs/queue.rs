//! Submissions and whole lives of jobs a second, as multiples of what the disk syncs a second.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use lameduck::jobs::{
    engine::{
        Engine,
        sqlite::{SqliteEngine, SqliteOptions},
    },
    job::{NewJob, Order, Outcome, Priority, QueueName},
};

/// How long each row is measured.
const SPAN: Duration = Duration::from_secs(3);

/// Jobs that one worker takes at a time, as a pool with that many free workers does.
const BATCH: usize = 20;

pub fn run() {
    let directory = crate::a_directory();
    let syncs = syncs_a_second(directory.path());
    println!("one write of 4 KiB and its fdatasync, one after the other: {syncs:.0} a second\n");
    println!("at once | submitted a second | × fsync | run to the end a second | × fsync");
    println!("------- | ------------------ | ------- | ----------------------- | -------");
    for at_once in [1, 20, 200] {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let submitted = runtime.block_on(submit(at_once));
        let ended = runtime.block_on(run_to_the_end(at_once));
        println!(
            "{at_once:>7} | {submitted:>18.0} | {:>7.1} | {ended:>23.0} | {:>7.1}",
            submitted / syncs,
            ended / syncs
        );
    }
}

fn syncs_a_second(directory: &Path) -> f64 {
    let mut file = File::create(directory.join("raw")).expect("a file");
    let page = [7; 4096];
    let (begin, mut syncs) = (Instant::now(), 0);
    while begin.elapsed() < SPAN {
        file.write_all(&page).expect("room on the disk");
        file.sync_data().expect("a sync");
        syncs += 1;
    }
    f64::from(syncs) / begin.elapsed().as_secs_f64()
}

/// Each submits one job, waits until it is durable, and submits the next.
async fn submit(at_once: usize) -> f64 {
    let directory = crate::a_directory();
    let engine = open(directory.path());
    let begin = Instant::now();
    let submitters = (0..at_once).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while begin.elapsed() < SPAN {
                let answers = engine
                    .submit(vec![a_job()])
                    .await
                    .expect("a durable commit");
                assert!(answers[0].is_ok());
                done += 1;
            }
            done
        })
    });
    let done = sum(submitters).await;
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    engine.close().await;
    rate
}

/// Each reserves a few jobs, does nothing, and writes each outcome by itself.
async fn run_to_the_end(at_once: usize) -> f64 {
    let directory = crate::a_directory();
    let engine = open(directory.path());
    let ended = Arc::new(AtomicU64::new(0));
    for _ in 0..200 {
        let jobs = (0..500).map(|_| a_job()).collect();
        engine.submit(jobs).await.expect("a durable commit");
    }
    let begin = Instant::now();
    let workers = (0..at_once).map(|_| {
        let (engine, ended) = (engine.clone(), ended.clone());
        tokio::spawn(async move {
            while begin.elapsed() < SPAN {
                let some = engine
                    .reserve(&queue(), Order::Priority, BATCH)
                    .await
                    .expect("jobs");
                if some.is_empty() {
                    break;
                }
                let outcomes = some.into_iter().map(|reserved| {
                    let (engine, ended) = (engine.clone(), ended.clone());
                    async move {
                        let done = Outcome::Completed {
                            result: Bytes::from_static(b"done"),
                        };
                        let outcome = Arc::new(vec![reserved.claim.settle(done)]);
                        engine.settle(&outcome).await.expect("a durable outcome");
                        ended.fetch_add(1, Relaxed);
                    }
                });
                futures_util::future::join_all(outcomes).await;
            }
            0
        })
    });
    sum(workers).await;
    let rate = ended.load(Relaxed) as f64 / begin.elapsed().as_secs_f64();
    engine.close().await;
    rate
}

async fn sum(tasks: impl Iterator<Item = tokio::task::JoinHandle<u64>>) -> u64 {
    let tasks: Vec<_> = tasks.collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no panic");
    }
    sum
}

fn open(directory: &Path) -> Arc<SqliteEngine> {
    Arc::new(SqliteEngine::open(directory, SqliteOptions::default()).expect("a queue"))
}

fn queue() -> QueueName {
    "bench".parse().expect("a name")
}

/// Half a kilobyte, as an order or a mail has.
fn a_job() -> NewJob {
    NewJob {
        queue: queue(),
        payload: Bytes::from_static(&[b'x'; 512]),
        content_type: "text/plain".to_owned(),
        run_at: None,
        priority: Priority::default(),
        timeout: None,
        max_attempts: 5,
        idempotency_key: None,
        traceparent: None,
    }
}
