//! Somebody else's transaction that stays open: nobody waits for it but who needs what it holds, and not for long.

use std::time::Instant;

use futures_util::future::join_all;
use lameduck::jobs::job::Rejected;

use super::*;

/// Less than the patience with a lock, and much more than a submission takes.
const SOON: Duration = Duration::from_millis(1500);

fn keyed(queue: &str, key: &str) -> NewJob {
    NewJob {
        queue: super::queue(queue),
        idempotency_key: Some(key.to_owned()),
        ..a_job("x")
    }
}

async fn one(engine: &PostgresEngine, job: NewJob) -> Result<JobId, Rejected> {
    let answer = engine.submit(vec![job]).await.unwrap().remove(0);
    answer.map(|submitted| submitted.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_an_open_transaction_holds_up_nobody_else() {
    let database = shared().database().await;
    let engine = Arc::new(open(quick(&database)).await);
    submit(&*engine, a_job("first")).await;
    let mut application = database.connect().await;
    let long = application.transaction().await.unwrap();
    let call = "SELECT lameduck.enqueue('mail', 'x', content_type => 'text/plain', idempotency_key => 'k')::text";
    let id: String = long.query_one(call, &[]).await.unwrap().get(0);

    // More than there are connections, again and again.
    let stuck = (0..20).map(|_| {
        tokio::spawn({
            let engine = engine.clone();
            async move {
                let begun = Instant::now();
                (one(&engine, keyed("mail", "k")).await, begun.elapsed())
            }
        })
    });
    let stuck: Vec<_> = stuck.collect();
    for n in 0..50 {
        let begun = Instant::now();
        let (plain, other) = (a_job("y"), keyed("mail", &format!("other-{n}")));
        let answers = join_all([one(&engine, plain), one(&engine, other)]).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    for answer in join_all(stuck).await {
        let (answer, took) = answer.unwrap();
        let error = answer.unwrap_err();
        assert!(matches!(error, Rejected::InUse { .. }), "{error:?}");
        assert!(error.to_string().contains("Idempotency-Key 'k'"), "{error}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    }

    long.commit().await.unwrap();
    let first = one(&engine, keyed("mail", "k")).await.unwrap();
    assert_eq!(first.to_string(), id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_a_new_job() {
    let database = shared().database().await;
    let engine = Arc::new(open(quick(&database)).await);
    submit(&*engine, a_job("first")).await;
    let mut application = database.connect().await;
    let long = application.transaction().await.unwrap();
    let call = "SELECT lameduck.enqueue('mail', 'x', idempotency_key => 'k')";
    long.query_one(call, &[]).await.unwrap();

    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { one(&engine, keyed("mail", "k")).await }
    });
    tokio::task::yield_now().await;
    long.rollback().await.unwrap();

    assert_eq!(
        state(&*engine, waiting.await.unwrap().unwrap()).await,
        State::Pending
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_queue_in_an_open_transaction_holds_up_only_its_own() {
    let database = shared().database().await;
    let engine = Arc::new(open(quick(&database)).await);
    submit(&*engine, a_job("first")).await;
    let mut application = database.connect().await;
    let long = application.transaction().await.unwrap();
    let call = "SELECT lameduck.enqueue('fresh', 'x')";
    long.query_one(call, &[]).await.unwrap();

    let stuck = tokio::spawn({
        let engine = engine.clone();
        async move {
            one(
                &engine,
                NewJob {
                    queue: super::queue("fresh"),
                    ..a_job("x")
                },
            )
            .await
        }
    });
    for _ in 0..20 {
        let begun = Instant::now();
        one(&engine, a_job("y")).await.unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    let error = stuck.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the new queue 'fresh'"), "{error}");
    let paused = engine.set_paused(&super::queue("fresh"), true).await;
    assert!(matches!(paused, Err(EngineError::Locked(_))), "{paused:?}");
    long.commit().await.unwrap();
    one(
        &engine,
        NewJob {
            queue: super::queue("fresh"),
            ..a_job("x")
        },
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_job_holds_up_no_outcome_but_its_own() {
    let database = shared().database().await;
    let engine = Arc::new(open(quick(&database)).await);
    for n in 0..8 {
        submit(&*engine, a_job(&n.to_string())).await;
    }
    let mut reserved = reserve(&*engine, 8).await;
    let locked = reserved.remove(0);
    let mut admin = database.connect().await;
    let held = admin.transaction().await.unwrap();
    // It counts in a row of its queue's as well, and keeps that locked.
    let lock = format!(
        "UPDATE lameduck.jobs SET result = 'x' WHERE id = '{}'",
        locked.job.id
    );
    held.batch_execute(&lock).await.unwrap();

    let id = locked.job.id;
    let outcome = Arc::new(vec![locked.claim.settle(completed("late"))]);
    let own = tokio::spawn({
        let (engine, outcome) = (engine.clone(), outcome.clone());
        async move { engine.settle(&outcome).await }
    });
    for other in reserved.drain(..4) {
        let begun = Instant::now();
        let settled = settle(&*engine, other.claim.settle(completed("done"))).await;
        assert_eq!(settled, Settled::Written);
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    for _ in 0..20 {
        let begun = Instant::now();
        submit(&*engine, a_job("y")).await;
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    let own = own.await.unwrap();
    assert!(matches!(own, Err(EngineError::Locked(_))), "{own:?}");
    let cancelled = engine.cancel(id).await;
    assert!(
        matches!(cancelled, Err(EngineError::Locked(_))),
        "{cancelled:?}"
    );
    let given_back = engine.release_held(Duration::ZERO).await.unwrap();
    assert_eq!(given_back.len(), 3, "all but the one that is locked");
    engine.maintain().await.unwrap();

    held.rollback().await.unwrap();
    assert_eq!(settle_again(&*engine, &outcome).await, Settled::Written);
    assert_eq!(state(&*engine, id).await, State::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_job_of_a_dead_process_keeps_the_others_from_nobody() {
    let database = shared().database().await;
    let slow = || PostgresOptions {
        lease: Duration::from_secs(3600),
        ..quick(&database)
    };
    let dead = open(slow()).await;
    for n in 0..3 {
        submit(&dead, a_job(&n.to_string())).await;
    }
    let held = reserve(&dead, 3).await;
    let (process, locked) = (dead.process(), held[0].job.id);
    drop(dead);
    let engine = open(slow()).await;
    let mut admin = database.connect().await;
    let holds = admin.transaction().await.unwrap();
    let lock = format!("SELECT FROM lameduck.jobs WHERE id = '{locked}' FOR UPDATE");
    holds.batch_execute(&lock).await.unwrap();

    assert!(engine.reap(process).await.unwrap());
    assert_eq!(reserve(&engine, 9).await.len(), 2);

    holds.rollback().await.unwrap();
    assert!(engine.reap(process).await.unwrap(), "it is come back for");
    assert_eq!(reserve_one(&engine).await.job.id, locked);
    assert!(!engine.reap(process).await.unwrap(), "it has left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_waits_for_an_open_transaction_and_has_nobody_wait_behind_it() {
    let database = shared().database().await;
    let mut application = database.connect().await;
    let steps = [
        include_str!("../../../../crates/postgres/src/schema/1.sql"),
        include_str!("../../../../crates/postgres/src/schema/2.sql"),
    ];
    let old = format!(
        "CREATE SCHEMA lameduck; {} {} INSERT INTO lameduck.schema_version VALUES (2, 1)",
        steps[0], steps[1]
    );
    application.batch_execute(&old).await.unwrap();
    let long = application.transaction().await.unwrap();
    let call = "SELECT lameduck.enqueue('mail', 'x')";
    long.query_one(call, &[]).await.unwrap();

    let options = quick(&database);
    let opening = tokio::spawn(async move { open(options).await });
    let other = database.connect().await;
    for _ in 0..20 {
        let begun = Instant::now();
        other
            .query_one("SELECT lameduck.enqueue('other', 'x')", &[])
            .await
            .unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    assert!(!opening.is_finished());
    long.commit().await.unwrap();

    let engine = opening.await.unwrap();
    assert_eq!(engine.queues().await.unwrap()[0].pending, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_somebody_works_on_is_there_before_its_first_job() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    engine.prepare(&mail());
    until("the queue", async || {
        !engine.queues().await.unwrap().is_empty()
    })
    .await;
    let mut application = database.connect().await;
    let long = application.transaction().await.unwrap();
    let call = "SELECT lameduck.enqueue('mail', 'x')";
    long.query_one(call, &[]).await.unwrap();

    let begun = Instant::now();
    submit(&engine, a_job("x")).await;

    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
