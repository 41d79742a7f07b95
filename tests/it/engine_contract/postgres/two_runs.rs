//! Two runs of one job in one process: it was taken for dead, went on, and reserved the job again.

use lameduck::prelude::*;
use lameduck::{
    Lifecycle,
    jobs::{
        handler::{Context, Failure, function},
        workers::Pool,
    },
    lifecycle::Signals,
};
use tokio::sync::mpsc;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_run_is_told_to_stop_and_its_end_takes_nothing_from_the_new_one() {
    let database = shared().database().await;
    let (mine, other) = (open(quick(&database)).await, open(quick(&database)).await);
    let mine = Arc::new(mine);
    let (begun, mut runs) = mpsc::unbounded_channel();
    let handler = move |_: String, context: Context| {
        let begun = begun.clone();
        async move {
            let (end, ends) = tokio::sync::oneshot::channel::<()>();
            let _ = begun.send((context, end));
            // The test ends it, whatever it is told.
            let _ = ends.await;
            Ok::<_, Failure>("done")
        }
    };
    let (signals, trigger) = Signals::manual();
    let lifecycle = Lifecycle::builder().signals(signals).workers(
        mine.clone(),
        vec![Pool::new(mail(), Arc::new(function(handler)))],
    );
    let drain = lifecycle.drain().clone();
    let running = tokio::spawn(lifecycle.run());
    let id = submit(&other, a_job("\"x\"")).await;
    let (first, end_first) = next(&mut runs).await;

    let was = mine.process();
    assert!(other.reap(was).await.unwrap());
    let (second, end_second) = next(&mut runs).await;
    assert_ne!(first.claim, second.claim);
    assert_ne!(mine.process(), was);

    within("the old run to be told", first.stop.cancelled()).await;
    assert!(!second.stop.is_cancelled(), "the new one is none of that");
    assert_eq!(drain.held(9).len(), 2);
    drop(end_first);
    until("the end of the old run", async || drain.held(9).len() == 1).await;
    assert_eq!(drain.held(9)[0].id, id.to_string());

    other.cancel(id).await.unwrap();
    within("the new run to be told", second.stop.cancelled()).await;
    drop(end_second);
    trigger.fire();
    let report = running.await.unwrap().unwrap();
    assert_eq!(report.jobs.left.count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_lost_is_not_reported_as_left_behind() {
    let database = shared().database().await;
    let (mine, other) = (open(quick(&database)).await, open(quick(&database)).await);
    let mine = Arc::new(mine);
    let (begun, mut runs) = mpsc::unbounded_channel();
    let handler = move |_: String, context: Context| {
        let begun = begun.clone();
        async move {
            let _ = begun.send((context, ()));
            std::future::pending::<Result<(), Failure>>().await
        }
    };
    let (signals, trigger) = Signals::manual();
    let mut pool = Pool::new(mail(), Arc::new(function(handler)));
    // The other one shall get it.
    pool.workers = 1;
    let lifecycle = Lifecycle::builder()
        .signals(signals)
        .grace(Duration::from_secs(4))
        .workers(mine.clone(), vec![pool]);
    let running = tokio::spawn(lifecycle.run());
    let id = submit(&other, a_job("\"x\"")).await;
    let (first, ()) = next(&mut runs).await;
    assert!(other.reap(mine.process()).await.unwrap());
    let reserved = reserve_one(&other).await;
    assert_eq!(reserved.job.id, id);
    within("the old run to be told", first.stop.cancelled()).await;

    trigger.fire();
    let ended = running.await.unwrap();

    let report = match &ended {
        Ok(report) => report,
        Err(error) => error.report().unwrap(),
    };
    assert_eq!(report.jobs.left.count, 0, "{:?}", report.jobs.left);
    assert_eq!(report.jobs.released.count, 0);
    drop(reserved.claim);
}

async fn next<T>(runs: &mut mpsc::UnboundedReceiver<T>) -> T {
    within("a run", runs.recv()).await.unwrap()
}

async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), it).await {
        Ok(done) => done,
        Err(_) => panic!("it did not come to {what}"),
    }
}
