//! Runs that end without an outcome: not begun, or going on elsewhere.

use super::*;

fn deferred(until: Timestamp) -> Outcome {
    Outcome::Deferred {
        until: until.into(),
    }
}

pub async fn a_postponed_job_costs_no_attempt_and_waits<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let claim = reserve_one(&*engine).await.claim;

    let refused = Outcome::Postponed {
        error: "connection refused".to_owned(),
        until: store.clock().at(7).into(),
    };
    settle(&*engine, claim.settle(refused)).await;

    let waiting = record(&*engine, id).await;
    assert_eq!(waiting.state, State::Scheduled);
    assert_eq!(waiting.run_at, store.clock().at(7));
    assert_eq!((waiting.attempt, waiting.releases), (0, 1));
    assert_eq!(waiting.last_error.as_deref(), Some("connection refused"));
    store.clock().advance(7);
    assert_eq!(reserve_one(&*engine).await.job.attempt, 1);
}

pub async fn what_is_deferred_lives_on_without_its_process<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("long")).await;
    let claim = reserve_one(&*engine).await.claim;
    let token = claim.to_token_string();
    settle(&*engine, claim.settle(deferred(store.clock().at(600)))).await;
    assert_eq!(state(&*engine, id).await, State::Deferred);

    assert!(
        engine
            .release_held(Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    assert_eq!(state(&*engine, id).await, State::Deferred);
    assert_eq!(engine.queues().await.unwrap()[0].deferred, 1);
    store.clock().advance(500);
    let claim = Claim::from_token(id, &token).unwrap();
    let told = settle(&*engine, claim.settle(completed("done elsewhere"))).await;
    assert_eq!(told, Settled::Written);
    let record = record(&*engine, id).await;
    assert_eq!((record.state, record.attempt), (State::Completed, 1));
    assert_eq!(record.result.unwrap(), "done elsewhere");
}

pub async fn an_outcome_may_come_before_the_deferral<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("quick")).await;
    let claim = reserve_one(&*engine).await.claim;
    let from_outside = Claim::from_token(id, &claim.to_token_string()).unwrap();

    let told = settle(&*engine, from_outside.settle(completed("already"))).await;
    let late = settle(&*engine, claim.settle(deferred(store.clock().at(600)))).await;

    assert_eq!((told, late), (Settled::Written, Settled::Repeated));
    assert_eq!(state(&*engine, id).await, State::Completed);
}

pub async fn a_deferral_can_be_prolonged<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("long")).await;
    let claim = reserve_one(&*engine).await.claim;
    let token = claim.to_token_string();
    settle(&*engine, claim.settle(deferred(store.clock().at(10)))).await;
    let again = || Claim::from_token(id, &token).unwrap();

    let prolonged = again().settle(deferred(store.clock().at(100)));
    assert_eq!(settle(&*engine, prolonged).await, Settled::Written);

    store.clock().advance(50);
    engine.maintain().await.unwrap();
    assert_eq!(state(&*engine, id).await, State::Deferred);
    assert_eq!(
        settle(&*engine, again().settle(dead())).await,
        Settled::Written
    );
    assert_eq!(state(&*engine, id).await, State::Dead);
}

pub async fn what_is_deferred_and_overdue_has_failed<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("silent")).await;
    let claim = reserve_one(&*engine).await.claim;
    let token = claim.to_token_string();
    settle(&*engine, claim.settle(deferred(store.clock().at(10)))).await;

    store.clock().advance(11);
    assert_eq!(engine.maintain().await.unwrap().expired, 1);

    let waiting = record(&*engine, id).await;
    assert_eq!((waiting.state, waiting.attempt), (State::Pending, 1));
    assert!(waiting.last_error.unwrap().contains("no outcome came"));
    let late = Claim::from_token(id, &token).unwrap();
    let late = settle(&*engine, late.settle(completed("late"))).await;
    assert_eq!(late, Settled::Stale);
    assert_eq!(reserve_one(&*engine).await.job.attempt, 2);
}

pub async fn the_last_attempt_that_is_overdue_is_dead<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut once = a_job("silent");
    once.max_attempts = 1;
    let id = submit(&*engine, once).await;
    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(deferred(store.clock().at(10)))).await;

    store.clock().advance(11);
    engine.maintain().await.unwrap();

    let dead = record(&*engine, id).await;
    assert_eq!(dead.state, State::Dead);
    assert_eq!(dead.ended_at, Some(store.clock().now()));
}
