//! The connection breaks, at every statement there is: before it arrives, and after it was done. A process that goes
//! on as a worker does (asks again until it is answered) loses nothing, and does nothing twice.

use futures_util::StreamExt;
use lameduck::jobs::ledger::Ledger;

use super::*;
use crate::postgres_proxy::{Lost, Proxy};

/// Whether the engine may have done it or not: what a worker does about an error.
async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, EngineError>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(EngineError::Storage(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Reserves this job, however often that gets lost: it is given back, and comes again.
async fn reserve_again(engine: &dyn Engine, id: JobId) -> Reserved {
    let mut reserved = None;
    until("the job", async || {
        reserved = again(async || engine.reserve(&mail(), Order::Priority, 1).await)
            .await
            .pop();
        reserved.is_some()
    })
    .await;
    let reserved = reserved.unwrap();
    assert_eq!(reserved.job.id, id);
    reserved
}

async fn settle_until_it_lands(engine: &dyn Engine, settlement: Settlement) {
    let settlement = Arc::new(vec![settlement]);
    let settled = again(async || engine.settle(&settlement).await).await;
    assert!(
        matches!(settled[0], Settled::Written | Settled::Repeated),
        "{settled:?}"
    );
}

/// The life of two jobs and of their process, over a way that breaks once. Returns how many statements it had.
async fn a_life(database: &Database, lost: Option<(usize, Lost)>) -> usize {
    let proxy = Proxy::in_front_of(database).await;
    if let Some((number, how)) = lost {
        proxy.lose(number, how);
    }
    let options = PostgresOptions {
        // Nobody is taken for dead here; and so few beats that the statements are always the same ones.
        lease: Duration::from_secs(3600),
        ..PostgresOptions::new(proxy.url())
    };
    let engine = again(async || PostgresEngine::connect(options.clone()).await).await;

    let keyed = |key: &str| NewJob {
        idempotency_key: Some(key.to_owned()),
        ..a_job(key)
    };
    let submitted = async |key| {
        let answers = again(async || engine.submit(vec![keyed(key)]).await).await;
        answers[0].as_ref().unwrap().id
    };
    let one = submitted("one").await;
    let failing = reserve_again(&engine, one).await.claim;
    let failed = retry_at(Timestamp::UNIX_EPOCH);
    settle_until_it_lands(&engine, failing.settle(failed)).await;
    let released = reserve_again(&engine, one).await.claim;
    settle_until_it_lands(&engine, released.settle(Outcome::Released)).await;
    let reserved = reserve_again(&engine, one).await;
    assert_eq!(reserved.job.attempt, 2);
    again(async || engine.runs_alone(&reserved.claim).await).await;
    settle_until_it_lands(&engine, reserved.claim.settle(completed("done"))).await;
    let two = submitted("two").await;
    let held = reserve_again(&engine, two).await;
    again(async || engine.maintain().await.map(drop)).await;
    again(async || engine.mark_drain("d1", "signal", Duration::ZERO).await).await;
    again(async || engine.release_held(Duration::ZERO).await).await;
    again(async || {
        engine
            .close_drain(&last_word("d1", "signal", "clean"))
            .await
    })
    .await;
    engine.close().await;
    drop(held);

    let told = format!("{lost:?}");
    let outside = open(PostgresOptions {
        lease: Duration::from_secs(3600),
        ..PostgresOptions::new(database.url())
    })
    .await;
    let (one, two) = (record(&outside, one).await, record(&outside, two).await);
    assert_eq!((one.state, one.attempt), (State::Completed, 2), "{told}");
    assert_eq!(one.result.as_deref(), Some(&b"done"[..]), "{told}");
    assert_eq!((two.state, two.attempt), (State::Pending, 0), "{told}");
    let queue = outside.queues().await.unwrap().remove(0);
    assert_eq!((queue.pending, queue.running), (1, 0), "{told}");
    let drains = outside.drains(9).await.unwrap();
    assert_eq!(drains[1].outcome.as_deref(), Some("clean"), "{told}");
    // A first row that was written without anybody knowing is one more process that never closed its own.
    assert!(drains.len() <= 3, "{told}: {drains:?}");
    outside.close().await;
    proxy.statements()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_is_one_at_which_a_lost_connection_loses_anything() {
    let statements = a_life(&shared().database().await, None).await;
    assert!(statements > 40, "{statements}");

    // The lease and the listener speak when they like, so some lives have a few more.
    let cuts = (1..statements + 5).flat_map(|n| [(n, Lost::Before), (n, Lost::After)]);
    let lives = futures_util::stream::iter(cuts).map(|cut| async move {
        a_life(&shared().database().await, Some(cut)).await;
    });
    lives.buffer_unordered(6).collect::<Vec<_>>().await;

    println!("{statements} statements, each lost before and after it was done");
}
