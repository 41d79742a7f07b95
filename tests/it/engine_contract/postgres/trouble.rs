//! Connections that end, locks that others hold, callers that go away: what is told, and that nothing is lost.

use futures_util::{FutureExt, future::join_all};
use lameduck::jobs::engine::Event;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_ended_are_replaced() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let id = submit(&engine, a_job("x")).await;

    for _ in 0..3 {
        database.end_connections().await;
        assert_eq!(state(&engine, id).await, State::Pending);
    }
    let process = engine.process();
    let claim = reserve_one(&engine).await.claim;
    settle(&engine, claim.settle(completed(""))).await;
    assert_eq!(engine.process(), process, "nobody took it for dead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_went_away_leaves_no_job_running() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let id = submit(&engine, a_job("x")).await;
    let mut blocker = database.connect().await;
    let held = blocker.transaction().await.unwrap();
    let lock = "LOCK TABLE lameduck.queues IN ACCESS EXCLUSIVE MODE";
    held.batch_execute(lock).await.unwrap();
    let mut events = engine.events();

    let mails = mail();
    let mut reservation = engine.reserve(&mails, Order::Priority, 1);
    let waiter = database.connect().await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("the reservation", async || {
        assert!((&mut reservation).now_or_never().is_none());
        !waiter.query(waits, &[]).await.unwrap().is_empty()
    })
    .await;
    drop(reservation);
    held.commit().await.unwrap();

    assert_eq!(events.recv().await.unwrap(), Event::Changed(id), "taken");
    assert_eq!(
        events.recv().await.unwrap(),
        Event::Runnable(mail()),
        "and given back"
    );
    assert_eq!(record(&engine, id).await.releases, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_waits_shares_one_commit() {
    let database = shared().database().await;
    let engine = Arc::new(open(quick(&database)).await);
    let before = engine.commits();

    let submissions = (0..100).map(|n| {
        let engine = engine.clone();
        async move { submit(&*engine, a_job(&n.to_string())).await }
    });
    let ids = join_all(submissions).await;

    // The first goes alone, and the others while it is under way.
    let commits = engine.commits() - before;
    assert!(commits <= 10, "{commits} commits");
    for id in ids {
        assert_eq!(state(&*engine, id).await, State::Pending);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_that_fails_costs_its_neighbours_nothing() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let poison = "ALTER TABLE lameduck.jobs ADD CHECK (content_type <> 'poison')";
    database
        .connect()
        .await
        .batch_execute(poison)
        .await
        .unwrap();
    let mut jobs: Vec<_> = (0..20).map(|n| a_job(&n.to_string())).collect();
    jobs[10].content_type = "poison".to_owned();

    let submissions = jobs.into_iter().map(|job| engine.submit(vec![job]));
    let answers = join_all(submissions).await;

    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_err(), n == 10, "{n} got {answer:?}");
    }
    assert_eq!(engine.queues().await.unwrap()[0].pending, 19);
}

#[tokio::test]
async fn what_a_handler_says_may_hold_what_postgresql_can_not() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let id = submit(&engine, a_job("x")).await;
    let claim = reserve_one(&engine).await.claim;

    let failed = Outcome::Failed {
        error: "a\0b".to_owned(),
        then: AfterFailure::Dead,
    };
    settle(&engine, claim.settle(failed)).await;

    let error = record(&engine, id).await.last_error.unwrap();
    assert_eq!(error, "a\u{fffd}b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_somebody_holds_is_not_waited_for_for_ever() {
    let database = shared().database().await;
    let engine = open(PostgresOptions {
        statement_timeout: Duration::from_millis(200),
        ..quick(&database)
    })
    .await;
    let mut blocker = database.connect().await;
    let held = blocker.transaction().await.unwrap();
    let lock = "LOCK TABLE lameduck.jobs IN ACCESS EXCLUSIVE MODE";
    held.batch_execute(lock).await.unwrap();

    let error = engine
        .submit(vec![a_job("x")])
        .await
        .unwrap_err()
        .to_string();

    assert!(error.contains("another transaction"), "{error}");
    assert!(error.contains("nothing was written"), "{error}");
    drop(held);
    submit(&engine, a_job("x")).await;
}
