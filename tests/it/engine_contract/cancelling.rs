//! What people ask for: cancel, run again, pause.

use lameduck::jobs::{
    engine::Event,
    job::{Cancelled, Revived},
};

use super::*;

pub async fn a_job_that_waits_is_cancelled_at_once<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let mut events = engine.events();

    assert_eq!(engine.cancel(id).await.unwrap(), Some(Cancelled::Now));

    assert_eq!(events.recv().await.unwrap(), Event::Ended(id));
    let record = record(&*engine, id).await;
    assert_eq!(record.state, State::Cancelled);
    assert_eq!(record.ended_at, Some(store.clock().now()));
    assert!(reserve(&*engine, 1).await.is_empty());
    assert_eq!(engine.queues().await.unwrap()[0].pending, 0);
    assert_eq!(engine.cancel(JobId::random()).await.unwrap(), None);
}

pub async fn a_job_that_runs_is_asked_to_end<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let _held = reserve_one(&*engine).await;
    assert!(engine.cancel_requests().await.unwrap().is_empty());
    let mut events = engine.events();

    assert_eq!(engine.cancel(id).await.unwrap(), Some(Cancelled::Requested));

    assert_eq!(events.recv().await.unwrap(), Event::CancelRequested(id));
    assert_eq!(engine.cancel_requests().await.unwrap(), [id]);
    let record = record(&*engine, id).await;
    assert_eq!(record.state, State::Running);
    assert!(record.cancel_requested);
}

pub async fn a_cancelled_job_is_not_run_again_however_its_run_ends<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let now = store.clock().now();
    let postponed = Outcome::Postponed {
        error: "refused".to_owned(),
        until: now.into(),
    };
    let deferred = Outcome::Deferred { until: now.into() };
    for outcome in [
        Outcome::Released,
        retry_at(now),
        dead(),
        postponed,
        deferred,
    ] {
        let id = submit(&*engine, a_job("x")).await;
        let claim = reserve_one(&*engine).await.claim;
        engine.cancel(id).await.unwrap();

        settle(&*engine, claim.settle(outcome)).await;

        assert_eq!(state(&*engine, id).await, State::Cancelled);
        assert!(reserve(&*engine, 1).await.is_empty());
    }
    let id = submit(&*engine, a_job("x")).await;
    let _held = reserve_one(&*engine).await;
    engine.cancel(id).await.unwrap();

    assert_eq!(engine.release_held(Duration::ZERO).await.unwrap(), [id]);

    assert_eq!(state(&*engine, id).await, State::Cancelled);
}

pub async fn who_completes_in_spite_of_it_has_completed<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let claim = reserve_one(&*engine).await.claim;
    engine.cancel(id).await.unwrap();

    settle(&*engine, claim.settle(completed("done"))).await;

    assert_eq!(state(&*engine, id).await, State::Completed);
}

pub async fn a_cancelled_job_of_a_killed_process_stays_cancelled<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let _held = reserve_one(&*engine).await;
    engine.cancel(id).await.unwrap();

    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    let record = record(&*engine, id).await;
    assert_eq!(record.state, State::Cancelled);
    assert!(record.ended_at.is_some());
}

pub async fn what_is_deferred_is_cancelled_and_its_outcome_is_stale<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let claim = reserve_one(&*engine).await.claim;
    let token = claim.to_token_string();
    let until = store.clock().at(60).into();
    settle(&*engine, claim.settle(Outcome::Deferred { until })).await;

    assert_eq!(engine.cancel(id).await.unwrap(), Some(Cancelled::Now));

    let claim = Claim::from_token(id, &token).unwrap();
    let late = settle(&*engine, claim.settle(completed("late"))).await;
    assert_eq!(late, Settled::Stale);
    assert_eq!(state(&*engine, id).await, State::Cancelled);
}

pub async fn what_has_completed_can_not_be_cancelled<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(completed(""))).await;

    let answer = engine.cancel(id).await.unwrap();

    assert_eq!(answer, Some(Cancelled::TooLate(State::Completed)));
}

pub async fn a_dead_job_is_given_up<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let died = Arc::new(vec![reserve_one(&*engine).await.claim.settle(dead())]);
    settle_again(&*engine, &died).await;
    store.clock().advance(60);
    let mut events = engine.events();

    assert_eq!(engine.cancel(id).await.unwrap(), Some(Cancelled::Now));

    assert_eq!(events.recv().await.unwrap(), Event::Ended(id));
    let given_up = record(&*engine, id).await;
    assert_eq!(given_up.state, State::Cancelled);
    assert_eq!(given_up.ended_at, Some(store.clock().now()));
    assert_eq!(given_up.last_error.as_deref(), Some("hopeless"));
    assert_eq!(engine.runs(id).await.unwrap().len(), 1);
    assert_eq!(engine.queues().await.unwrap()[0].dead, 0);
    assert_eq!(settle_again(&*engine, &died).await, Settled::Repeated);
    let answer = engine.revive(id).await.unwrap();
    assert_eq!(answer, Some(Revived::NotDead(State::Cancelled)));
}

pub async fn all_the_dead_of_a_queue_are_given_up_in_pieces<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(submit(&*engine, a_job(&n.to_string())).await);
        let claim = reserve_one(&*engine).await.claim;
        settle(&*engine, claim.settle(dead())).await;
        store.clock().advance(1);
    }
    let waits = submit(&*engine, a_job("waits")).await;

    assert_eq!(engine.cancel_dead(&queue("fax"), 3).await.unwrap(), 0);
    assert_eq!(engine.cancel_dead(&mail(), 3).await.unwrap(), 3);
    let given_up = record(&*engine, ids[2]).await;
    assert_eq!(given_up.state, State::Cancelled);
    assert_eq!(given_up.ended_at, Some(store.clock().now()));
    assert_eq!(state(&*engine, ids[3]).await, State::Dead);
    assert_eq!(engine.cancel_dead(&mail(), 3).await.unwrap(), 2);
    assert_eq!(engine.cancel_dead(&mail(), 3).await.unwrap(), 0);
    assert_eq!(state(&*engine, waits).await, State::Pending);
}

pub async fn a_dead_job_runs_again_with_all_its_attempts<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    assert_eq!(
        engine.revive(id).await.unwrap(),
        Some(Revived::NotDead(State::Pending))
    );
    for attempt in 1..=2 {
        let reserved = reserve_one(&*engine).await;
        assert_eq!(reserved.job.attempt, attempt);
        let outcome = match attempt {
            1 => retry_at(store.clock().now()),
            _ => dead(),
        };
        settle(&*engine, reserved.claim.settle(outcome)).await;
    }
    store.clock().advance(60);

    assert_eq!(engine.revive(id).await.unwrap(), Some(Revived::Now));

    let revived = record(&*engine, id).await;
    assert_eq!((revived.state, revived.attempt), (State::Pending, 0));
    assert_eq!(revived.ended_at, None);
    assert_eq!(revived.run_at, store.clock().now(), "it overtakes nobody");
    let reserved = reserve_one(&*engine).await;
    assert_eq!((reserved.job.id, reserved.job.attempt), (id, 1));
    assert_eq!(reserved.job.payload, "x");
    assert_eq!(engine.revive(JobId::random()).await.unwrap(), None);
}

pub async fn all_the_dead_of_a_queue_run_again_in_pieces<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for n in 0..5 {
        submit(&*engine, a_job(&n.to_string())).await;
        let claim = reserve_one(&*engine).await.claim;
        settle(&*engine, claim.settle(dead())).await;
        store.clock().advance(1);
    }

    assert_eq!(engine.revive_all(&mail(), 3).await.unwrap(), 3);
    assert_eq!(payloads(&reserve(&*engine, 9).await), ["0", "1", "2"]);
    assert_eq!(engine.revive_all(&mail(), 3).await.unwrap(), 2);
    assert_eq!(engine.revive_all(&mail(), 3).await.unwrap(), 0);
    assert_eq!(engine.queues().await.unwrap()[0].dead, 0);
}

pub async fn nothing_is_reserved_of_a_paused_queue<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    submit(&*engine, a_job("x")).await;

    engine.set_paused(&mail(), true).await.unwrap();
    store.close(engine).await;
    let engine = store.open().await.unwrap();

    submit(&*engine, a_job("y")).await;
    assert!(reserve(&*engine, 9).await.is_empty());
    assert_eq!(engine.next_run_in(&mail()).await.unwrap(), None);
    let stats = &engine.queues().await.unwrap()[0];
    assert_eq!((stats.paused, stats.pending), (true, 2));

    let mut events = engine.events();
    engine.set_paused(&mail(), false).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::Runnable(mail()));
    assert_eq!(payloads(&reserve(&*engine, 9).await), ["x", "y"]);
}
