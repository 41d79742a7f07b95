//! Who was there in crash after crash runs alone.

use lameduck::jobs::{handler::Context, job::Order};

use super::*;

/// Runs beside each other are seen.
#[derive(Default)]
struct Watched {
    running: Mutex<Vec<u32>>,
    together: Mutex<Vec<Vec<u32>>>,
}

#[tokio::test]
async fn a_suspect_runs_while_nobody_else_does() {
    let directory = a_directory();
    let open = || Arc::new(SqliteEngine::open(directory.path(), SqliteOptions::default()).unwrap());
    let engine = open();
    let suspects = engine.submit(vec![a_job("0"), a_job("1")]).await.unwrap();
    // Two crashes: the rows are left open.
    for _ in 0..2 {
        let crashing = engine_after(&engine, &open).await;
        drop(
            crashing
                .reserve(&queue(), Order::Priority, 9)
                .await
                .unwrap(),
        );
        crashing.close().await;
    }
    let engine = open();
    engine
        .submit((2..8).map(|n| a_job(&n.to_string())).collect())
        .await
        .unwrap();

    let watched = Arc::new(Watched::default());
    let watch = watched.clone();
    let handler = move |n: u32, _: Context| {
        let watched = watch.clone();
        async move {
            let now = {
                let mut running = watched.running.lock().unwrap();
                running.push(n);
                running.clone()
            };
            watched.together.lock().unwrap().push(now);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            watched.running.lock().unwrap().retain(|other| *other != n);
            Ok::<_, Failure>(())
        }
    };
    let program = Program::start_with(engine.clone(), vec![pool(function(handler))]);
    let last = program.submit(a_job("8")).await;
    program.ended(last).await;
    for suspect in suspects {
        program.ended(suspect.unwrap().id).await;
    }
    program.drain().await.unwrap();

    let together = watched.together.lock().unwrap();
    assert_eq!(together.len(), 9, "each ran once: {together:?}");
    for suspect in [0, 1] {
        for seen in together.iter().filter(|seen| seen.contains(&suspect)) {
            assert_eq!(seen.len(), 1, "{together:?}");
        }
    }
}

/// The next process run on the same data, the last one closed without a report.
async fn engine_after(
    last: &Arc<SqliteEngine>,
    open: &impl Fn() -> Arc<SqliteEngine>,
) -> Arc<SqliteEngine> {
    last.close().await;
    open()
}

#[tokio::test]
async fn behind_a_suspect_that_waits_nobody_holds_a_job_that_waits() {
    let directory = a_directory();
    let open = || Arc::new(SqliteEngine::open(directory.path(), SqliteOptions::default()).unwrap());
    let engine = open();
    engine.submit(vec![a_job("0")]).await.unwrap();
    for _ in 0..2 {
        let crashing = engine_after(&engine, &open).await;
        drop(
            crashing
                .reserve(&queue(), Order::Priority, 9)
                .await
                .unwrap(),
        );
        crashing.close().await;
    }
    let engine = open();
    let gate = Arc::new(Semaphore::new(0));
    let (opens, begun) = (gate.clone(), Arc::new(Notify::new()));
    let begins = begun.clone();
    let handler = move |n: u32, _: Context| {
        let (gate, begun) = (opens.clone(), begins.clone());
        async move {
            if n == 1 {
                begun.notify_one();
                gate.acquire().await?.forget();
            }
            Ok::<_, Failure>(())
        }
    };
    // One that takes long, begun before the suspect's second is over.
    let long = engine
        .submit(vec![a_job("1")])
        .await
        .unwrap()
        .remove(0)
        .unwrap()
        .id;
    let program = Program::start_with(engine.clone(), vec![pool(function(handler))]);
    begun.notified().await;
    let stats = async || engine.queues().await.unwrap().remove(0);
    let waits = async {
        while stats().await.running < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, waits)
        .await
        .expect("the suspect is reserved");

    let others = (2..40).map(|n| a_job(&n.to_string())).collect();
    let others = engine.submit(others).await.unwrap();

    // Each of them is looked for again and again; nobody may hold one until the suspect has had its turn.
    for _ in 0..50 {
        let stats = stats().await;
        assert_eq!((stats.running, stats.pending), (2, 38), "{stats:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.add_permits(1);
    program.ended(long).await;
    for other in others {
        let job = program.ended(other.unwrap().id).await;
        assert_eq!(job.releases, 0, "nobody gave it back");
    }
    program.drain().await.unwrap();
}
