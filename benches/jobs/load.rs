//! What a process does in a bench: submits, or runs jobs to their end, as fast as its engine lets it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use lameduck::jobs::{
    engine::Engine,
    job::{NewJob, Order, Outcome, Priority, QueueName},
};

/// How long each row is measured.
pub const SPAN: Duration = Duration::from_secs(3);

/// Jobs that one worker takes at a time, as a pool with that many free workers does.
const BATCH: usize = 20;

/// Each submits one job, waits until it is durable, and submits the next. So many in all.
pub async fn submit(engine: &Arc<dyn Engine>, at_once: usize) -> u64 {
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
    sum(submitters).await
}

/// Jobs that wait, so that nobody runs out of them: in pieces, as batches come.
pub async fn fill(engine: &Arc<dyn Engine>, jobs: usize) {
    for _ in 0..jobs / 500 {
        let jobs = (0..500).map(|_| a_job()).collect();
        engine.submit(jobs).await.expect("a durable commit");
    }
}

/// Each reserves a few jobs, does nothing, and writes each outcome by itself. So many in all.
pub async fn run_to_the_end(engine: &Arc<dyn Engine>, at_once: usize) -> u64 {
    let ended = Arc::new(AtomicU64::new(0));
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
    ended.load(Relaxed)
}

async fn sum(tasks: impl Iterator<Item = tokio::task::JoinHandle<u64>>) -> u64 {
    let tasks: Vec<_> = tasks.collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("no panic");
    }
    sum
}

pub fn queue() -> QueueName {
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
