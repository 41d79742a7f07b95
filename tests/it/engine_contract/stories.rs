//! The stories; each is one promise.

use std::collections::BTreeSet;

use lameduck::jobs::{
    engine::Event,
    job::{QueueStats, Rejected},
    ledger::Figures,
};

use super::*;

// === submit and reserve ===

pub async fn a_submitted_job_survives_a_restart<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("hello")).await;

    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    let record = record(&*engine, id).await;
    assert_eq!(record.id, id);
    assert_eq!(record.queue, mail());
    assert_eq!(record.state, State::Pending);
    assert_eq!(
        (record.attempt, record.max_attempts, record.releases),
        (0, 5, 0)
    );
    assert_eq!(record.submitted_at, store.clock().now());
    assert_eq!(record.content_type, "text/plain");
    let reserved = reserve_one(&*engine).await;
    assert_eq!(reserved.job.payload, "hello");
    assert_eq!(reserved.job.content_type, "text/plain");
    assert_eq!(reserved.job.attempt, 1);
    assert_eq!(reserved.claim.job(), id);
}

pub async fn a_batch_is_answered_in_its_order<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();

    let answers = engine
        .submit(vec![a_job("a"), a_job("b"), a_job("c")])
        .await
        .unwrap();

    let submitted: Vec<_> = answers.into_iter().map(|a| a.unwrap().id).collect();
    let reserved = reserve(&*engine, 10).await;
    assert_eq!(payloads(&reserved), ["a", "b", "c"]);
    let ids: Vec<_> = reserved.iter().map(|r| r.job.id).collect();
    assert_eq!(ids, submitted);
}

pub async fn a_payload_can_be_read_as_long_as_there_is_the_job<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let job = NewJob {
        payload: Bytes::from_static(&[0, 0xff, b'x']),
        content_type: "image/x".to_owned(),
        ..a_job("")
    };
    let id = submit(&*engine, job).await;
    let empty = submit(&*engine, a_job("")).await;
    let kept = ("image/x".to_owned(), Bytes::from_static(&[0, 0xff, b'x']));

    assert_eq!(engine.payload(id).await.unwrap(), Some(kept.clone()));
    let claim = reserve(&*engine, 1).await.remove(0).claim;
    settle(&*engine, claim.settle(dead())).await;
    assert_eq!(engine.payload(id).await.unwrap(), Some(kept));
    let nothing = ("text/plain".to_owned(), Bytes::new());
    assert_eq!(engine.payload(empty).await.unwrap(), Some(nothing));
    assert_eq!(engine.payload(JobId::random()).await.unwrap(), None);
}

pub async fn a_job_that_nobody_knows_is_none<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();

    assert!(engine.job(JobId::random()).await.unwrap().is_none());
    assert!(reserve(&*engine, 1).await.is_empty());
    assert!(engine.queues().await.unwrap().is_empty());
    assert!(engine.next_run_in(&mail()).await.unwrap().is_none());
}

pub async fn jobs_come_by_run_at_and_then_by_submission<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for (payload, seconds) in [("late", 9), ("first", 3), ("second", 3), ("early", 1)] {
        let mut job = a_job(payload);
        job.run_at = Some(store.clock().at(seconds).into());
        submit(&*engine, job).await;
    }

    store.clock().advance(10);

    let reserved = reserve(&*engine, 10).await;
    assert_eq!(payloads(&reserved), ["early", "first", "second", "late"]);
}

pub async fn an_instant_in_the_past_overtakes_nobody<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    submit(&*engine, a_job("first")).await;

    let mut pushy = a_job("pushy");
    pushy.run_at = Some(Timestamp::UNIX_EPOCH.into());
    let id = submit(&*engine, pushy).await;

    assert_eq!(record(&*engine, id).await.run_at, store.clock().now());
    assert_eq!(payloads(&reserve(&*engine, 10).await), ["first", "pushy"]);
}

pub async fn a_job_does_not_run_before_its_time<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut job = a_job("later");
    job.run_at = Some(store.clock().at(60).into());
    let id = submit(&*engine, job).await;

    store.clock().advance(59);
    assert!(reserve(&*engine, 1).await.is_empty());
    assert_eq!(state(&*engine, id).await, State::Scheduled);

    store.clock().advance(1);
    assert_eq!(state(&*engine, id).await, State::Pending);
    assert_eq!(reserve_one(&*engine).await.job.id, id);
    assert_eq!(state(&*engine, id).await, State::Running);
}

pub async fn a_reserve_takes_its_limit_of_its_queue<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut other = a_job("other");
    other.queue = queue("other");
    engine
        .submit(vec![other, a_job("a"), a_job("b"), a_job("c")])
        .await
        .unwrap();

    assert!(reserve(&*engine, 0).await.is_empty());
    assert_eq!(payloads(&reserve(&*engine, 2).await), ["a", "b"]);
    assert_eq!(payloads(&reserve(&*engine, 2).await), ["c"]);
    assert!(reserve(&*engine, 2).await.is_empty());
}

pub async fn every_job_is_reserved_once_however_many_ask<S: Store>() {
    const JOBS: usize = 300;
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let jobs = (0..JOBS).map(|n| a_job(&n.to_string())).collect();
    engine.submit(jobs).await.unwrap();

    let workers = (0..20).map(|limit| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let some = reserve(&*engine, 1 + limit % 4).await;
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some);
            }
        })
    });
    let reserved: Vec<Reserved> = futures_util::future::join_all(workers)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();

    let ids: BTreeSet<_> = reserved.iter().map(|r| r.job.id).collect();
    let claims: BTreeSet<_> = reserved.iter().map(|r| r.claim.to_token_string()).collect();
    assert_eq!(
        (reserved.len(), ids.len(), claims.len()),
        (JOBS, JOBS, JOBS)
    );
}

// === outcomes ===

pub async fn a_completed_job_keeps_its_result<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("sum")).await;
    let reserved = reserve_one(&*engine).await;
    store.clock().advance(2);

    let settled = settle(&*engine, reserved.claim.settle(completed("42"))).await;

    assert_eq!(settled, Settled::Written);
    store.kill(engine).await;
    let engine = store.open().await.unwrap();
    let record = record(&*engine, id).await;
    assert_eq!(record.state, State::Completed);
    assert_eq!(record.result.as_deref(), Some(b"42".as_slice()));
    assert_eq!(record.ended_at, Some(store.clock().now()));
    assert_eq!((record.attempt, record.last_error), (1, None));
    store.clock().advance(1_000_000);
    assert!(reserve(&*engine, 1).await.is_empty());
}

pub async fn a_failure_costs_an_attempt_and_waits<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("flaky")).await;
    let reserved = reserve_one(&*engine).await;

    let again = store.clock().at(30);
    settle(&*engine, reserved.claim.settle(retry_at(again))).await;

    let waiting = record(&*engine, id).await;
    assert_eq!(waiting.state, State::Scheduled);
    assert_eq!(waiting.run_at, again);
    assert_eq!((waiting.attempt, waiting.releases), (1, 0));
    assert_eq!(waiting.last_error.as_deref(), Some("broken"));
    assert_eq!(waiting.ended_at, None);
    store.clock().advance(29);
    assert!(reserve(&*engine, 1).await.is_empty());
    store.clock().advance(1);
    assert_eq!(reserve_one(&*engine).await.job.attempt, 2);
    assert_eq!(record(&*engine, id).await.attempt, 2);
}

pub async fn a_dead_job_keeps_its_error_and_never_runs_again<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("poison")).await;
    let reserved = reserve_one(&*engine).await;

    settle(&*engine, reserved.claim.settle(dead())).await;

    let record = record(&*engine, id).await;
    assert_eq!(record.state, State::Dead);
    assert_eq!(record.last_error.as_deref(), Some("hopeless"));
    assert_eq!(record.ended_at, Some(store.clock().now()));
    assert_eq!(record.result, None);
    store.clock().advance(1_000_000);
    assert!(reserve(&*engine, 1).await.is_empty());
}

pub async fn a_release_costs_no_attempt_and_keeps_its_place<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("first")).await;
    store.clock().advance(1);
    submit(&*engine, a_job("second")).await;
    let reserved = reserve(&*engine, 1).await.remove(0);

    settle(&*engine, reserved.claim.settle(Outcome::Released)).await;

    let released = record(&*engine, id).await;
    assert_eq!(released.state, State::Pending);
    assert_eq!((released.attempt, released.releases), (0, 1));
    let again = reserve(&*engine, 2).await;
    assert_eq!(payloads(&again), ["first", "second"]);
    assert_eq!(again[0].job.attempt, 1);
}

// === claims ===

pub async fn a_repeated_settlement_changes_nothing<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for outcome in [
        completed("x"),
        dead(),
        retry_at(store.clock().at(60)),
        Outcome::Released,
    ] {
        let id = submit(&*engine, a_job("x")).await;
        let claim = reserve(&*engine, 9).await.pop().unwrap().claim;
        let settlement = Arc::new(vec![claim.settle(outcome)]);
        assert_eq!(settle_again(&*engine, &settlement).await, Settled::Written);
        let before = record(&*engine, id).await;
        store.clock().advance(1);

        for _ in 0..2 {
            assert_eq!(settle_again(&*engine, &settlement).await, Settled::Repeated);
        }

        let after = record(&*engine, id).await;
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
}

pub async fn a_repetition_is_known_even_while_the_next_attempt_runs<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let first = reserve_one(&*engine).await;
    let first = Arc::new(vec![first.claim.settle(Outcome::Released)]);
    settle_again(&*engine, &first).await;
    let second = reserve_one(&*engine).await;

    assert_eq!(settle_again(&*engine, &first).await, Settled::Repeated);

    assert_eq!(state(&*engine, id).await, State::Running);
    let settled = settle(&*engine, second.claim.settle(completed("y"))).await;
    assert_eq!(settled, Settled::Written);
}

pub async fn an_outcome_under_an_old_claim_is_stale<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let old = reserve_one(&*engine).await;
    engine.release_held(Duration::ZERO).await.unwrap();

    let idle = settle(&*engine, old.claim.settle(completed("too late"))).await;
    assert_eq!(idle, Settled::Stale);
    assert_eq!(state(&*engine, id).await, State::Pending);

    let old = reserve_one(&*engine).await;
    engine.release_held(Duration::ZERO).await.unwrap();
    let current = reserve_one(&*engine).await;
    let running = settle(&*engine, old.claim.settle(dead())).await;
    assert_eq!(running, Settled::Stale);
    assert_eq!(state(&*engine, id).await, State::Running);

    let settled = settle(&*engine, current.claim.settle(completed("mine"))).await;
    assert_eq!(settled, Settled::Written);
    let result = record(&*engine, id).await.result;
    assert_eq!(result.as_deref(), Some(b"mine".as_slice()));
}

pub async fn a_batch_of_outcomes_answers_each_for_itself<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let stale = submit(&*engine, a_job("stale")).await;
    let stale_claim = reserve_one(&*engine).await.claim;
    engine.release_held(Duration::ZERO).await.unwrap();
    let _held_anew = reserve_one(&*engine).await;
    let repeated = submit(&*engine, a_job("repeated")).await;
    let repeated_claim = reserve_one(&*engine).await.claim;
    let fresh = submit(&*engine, a_job("fresh")).await;
    let fresh_claim = reserve_one(&*engine).await.claim;

    let batch = Arc::new(vec![
        stale_claim.settle(dead()),
        repeated_claim.settle(completed("a")),
        fresh_claim.settle(completed("b")),
    ]);
    use Settled::{Repeated, Stale, Written};
    assert_eq!(
        engine.settle(&batch).await.unwrap(),
        [Stale, Written, Written]
    );
    assert_eq!(
        engine.settle(&batch).await.unwrap(),
        [Stale, Repeated, Repeated]
    );

    assert_eq!(state(&*engine, stale).await, State::Running);
    assert_eq!(state(&*engine, repeated).await, State::Completed);
    assert_eq!(state(&*engine, fresh).await, State::Completed);
    assert!(engine.settle(&Arc::default()).await.unwrap().is_empty());
}

// === what a process holds ===

pub async fn what_a_process_holds_is_released_without_its_claims<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut other = a_job("other");
    other.queue = queue("other");
    let other = submit(&*engine, other).await;
    let lost = submit(&*engine, a_job("lost")).await;
    let done = submit(&*engine, a_job("done")).await;
    engine
        .reserve(&queue("other"), Order::Priority, 1)
        .await
        .unwrap();
    drop(reserve(&*engine, 1).await);
    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(completed(""))).await;

    let released = engine.release_held(Duration::ZERO).await.unwrap();

    assert_eq!(BTreeSet::from_iter(released), BTreeSet::from([other, lost]));
    assert_eq!(state(&*engine, done).await, State::Completed);
    let record = record(&*engine, lost).await;
    assert_eq!(record.state, State::Pending);
    assert_eq!((record.attempt, record.releases), (0, 1));
    assert!(
        engine
            .release_held(Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(reserve_one(&*engine).await.job.attempt, 1);
}

pub async fn what_is_released_with_a_delay_waits<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    drop(reserve_one(&*engine).await);

    engine.release_held(Duration::from_secs(5)).await.unwrap();

    let record = record(&*engine, id).await;
    assert_eq!(record.state, State::Scheduled);
    assert_eq!(record.run_at, store.clock().at(5));
    store.clock().advance(5);
    assert_eq!(reserve_one(&*engine).await.job.id, id);
    // Longer than time itself: it must not wrap around to now.
    engine.release_held(Duration::MAX).await.unwrap();
    assert!(reserve(&*engine, 1).await.is_empty());
}

pub async fn what_a_killed_process_held_is_free_again<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let old = reserve_one(&*engine).await;
    let dead = engine.process();

    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    assert_ne!(engine.process(), dead);
    let freed = record(&*engine, id).await;
    assert_eq!(freed.state, State::Pending);
    assert_eq!((freed.attempt, freed.releases), (0, 1));
    let again = reserve_one(&*engine).await;
    assert_eq!(again.job.attempt, 1);
    let late = settle(&*engine, old.claim.settle(completed("late"))).await;
    assert_eq!(late, Settled::Stale);
}

pub async fn what_a_closed_process_still_held_is_free_again<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    submit(&*engine, a_job("x")).await;
    drop(reserve_one(&*engine).await);

    store.close(engine).await;
    let engine = store.open().await.unwrap();

    assert_eq!(reserve_one(&*engine).await.job.attempt, 1);
}

pub async fn a_closed_engine_says_so<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;

    store.close(engine.clone()).await;

    let submitted = engine.submit(vec![a_job("y")]).await;
    assert!(matches!(submitted, Err(EngineError::Closed)));
    assert!(matches!(engine.job(id).await, Err(EngineError::Closed)));
    let marked = engine.mark_drain("d", "c", Duration::ZERO).await;
    assert!(matches!(marked, Err(EngineError::Closed)));
}

// === idempotency keys ===

fn a_job_with_key(payload: &str) -> NewJob {
    NewJob {
        idempotency_key: Some("order-7".to_owned()),
        ..a_job(payload)
    }
}

pub async fn a_key_makes_a_repeated_submission_harmless<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let first = submit(&*engine, a_job_with_key("x")).await;
    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(completed(""))).await;
    store.close(engine).await;
    let engine = store.open().await.unwrap();

    let again = engine.submit(vec![a_job_with_key("x")]).await.unwrap();

    let again = again[0].as_ref().unwrap();
    assert_eq!((again.id, again.repeated), (first, true));
    assert!(reserve(&*engine, 1).await.is_empty());
}

pub async fn a_key_with_another_payload_is_refused<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let first = submit(&*engine, a_job_with_key("x")).await;
    let mut other_type = a_job_with_key("x");
    other_type.content_type = "text/html".to_owned();
    // A byte that moved from the type to the payload must not look the same.
    let mut moved = a_job_with_key("nx");
    moved.content_type = "text/plai".to_owned();

    let refused = engine
        .submit(vec![a_job_with_key("y"), other_type, moved, a_job("fine")])
        .await
        .unwrap();

    for answer in &refused[..3] {
        assert_eq!(*answer, Err(Rejected::KeyReused { first }));
    }
    assert!(refused[3].is_ok());
    assert_eq!(payloads(&reserve(&*engine, 9).await), ["x", "fine"]);
}

pub async fn a_key_belongs_to_its_queue<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let first = submit(&*engine, a_job_with_key("x")).await;
    let mut elsewhere = a_job_with_key("y");
    elsewhere.queue = queue("other");

    assert_ne!(submit(&*engine, elsewhere).await, first);
}

pub async fn a_key_counts_inside_one_batch<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();

    let answers = engine
        .submit(vec![
            a_job_with_key("x"),
            a_job_with_key("x"),
            a_job_with_key("y"),
        ])
        .await
        .unwrap();

    let first = *answers[0].as_ref().unwrap();
    let second = *answers[1].as_ref().unwrap();
    assert_eq!((first.repeated, second.repeated), (false, true));
    assert_eq!(second.id, first.id);
    assert_eq!(answers[2], Err(Rejected::KeyReused { first: first.id }));
    assert_eq!(reserve(&*engine, 9).await.len(), 1);
}

// === the ledger ===

/// (cause, outcome, count, seconds) of every total.
async fn totals(engine: &dyn Engine) -> Vec<(String, String, u64, f64)> {
    let totals = engine.drain_totals().await.unwrap();
    totals
        .into_iter()
        .map(|t| (t.cause, t.outcome, t.count, t.seconds))
        .collect()
}

fn total(cause: &str, outcome: &str, count: u64, seconds: f64) -> (String, String, u64, f64) {
    (cause.to_owned(), outcome.to_owned(), count, seconds)
}

pub async fn a_process_that_never_closed_its_row_was_killed<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    assert_eq!(totals(&*engine).await, [], "the living are not counted");

    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    assert_eq!(totals(&*engine).await, [total("unknown", "killed", 1, 0.0)]);
}

pub async fn a_process_killed_in_its_drain_keeps_its_cause<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    engine
        .mark_drain("d1", "pod_deleted", Duration::ZERO)
        .await
        .unwrap();
    engine
        .mark_drain("d2", "something_else", Duration::ZERO)
        .await
        .unwrap();

    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    assert_eq!(
        totals(&*engine).await,
        [total("pod_deleted", "killed", 1, 0.0)]
    );
}

pub async fn a_cause_that_becomes_known_later_is_the_one_that_is_kept<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    engine
        .mark_drain("d", "unknown", Duration::ZERO)
        .await
        .unwrap();
    engine
        .mark_drain("d", "pod_deleted", Duration::ZERO)
        .await
        .unwrap();

    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    assert_eq!(
        totals(&*engine).await,
        [total("pod_deleted", "killed", 1, 0.0)]
    );
}

pub async fn a_drain_is_closed_once<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    engine
        .mark_drain("d", "pod_deleted", Duration::ZERO)
        .await
        .unwrap();
    let close = async |outcome| {
        let last = LastWord {
            seconds: 2.5,
            ..last_word("d", "pod_deleted", outcome)
        };
        engine.close_drain(&last).await
    };

    close("clean").await.unwrap();
    close("cut").await.unwrap();

    let expected = [total("pod_deleted", "clean", 1, 2.5)];
    assert_eq!(totals(&*engine).await, expected);
    store.kill(engine).await;
    let engine = store.open().await.unwrap();
    assert_eq!(totals(&*engine).await, expected, "it had closed its row");
}

pub async fn totals_never_fall_however_many_rows_are_pruned<S: Store>() {
    let mut store = S::with(Limits {
        ledger_rows: 2,
        ..Limits::default()
    })
    .await;
    for run in 1..=6 {
        let engine = store.open().await.unwrap();
        let before = if run == 1 {
            vec![]
        } else {
            vec![total("c", "clean", run - 1, (run - 1) as f64)]
        };
        assert_eq!(totals(&*engine).await, before);
        // A later version has another figure.
        let mut figures = Figures::from([("budget_seconds".to_owned(), 30.0)]);
        if run > 3 {
            figures.insert("late".to_owned(), 0.5);
        }
        engine
            .close_drain(&LastWord {
                figures,
                ..last_word("d", "c", "clean")
            })
            .await
            .unwrap();
        let told = &engine.drain_totals().await.unwrap()[0].figures;
        assert_eq!(told["budget_seconds"], 30.0 * run as f64);
        assert_eq!(
            told.get("late").copied().unwrap_or_default(),
            0.5 * run.saturating_sub(3) as f64
        );
        assert_eq!(
            totals(&*engine).await,
            [total("c", "clean", run, run as f64)]
        );
        store.close(engine).await;
    }
    let engine = store.open().await.unwrap();
    store.kill(engine).await;
    let engine = store.open().await.unwrap();
    assert_eq!(
        totals(&*engine).await,
        [
            total("c", "clean", 6, 6.0),
            total("unknown", "killed", 1, 0.0)
        ]
    );
}

// === looking ===

pub async fn queues_are_told_in_numbers<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let opened = store.clock().now();
    let mut other = a_job("x");
    other.queue = queue("archive");
    submit(&*engine, other).await;
    let claim = engine
        .reserve(&queue("archive"), Order::Priority, 1)
        .await
        .unwrap()
        .remove(0)
        .claim;
    settle(&*engine, claim.settle(completed(""))).await;
    for outcome in [dead(), dead(), completed("")] {
        submit(&*engine, a_job("ends")).await;
        let claim = reserve_one(&*engine).await.claim;
        settle(&*engine, claim.settle(outcome)).await;
    }
    submit(&*engine, a_job("runs")).await;
    let _held = reserve_one(&*engine).await;
    let mut later = a_job("later");
    later.run_at = Some(store.clock().at(100).into());
    submit(&*engine, later).await;
    submit(&*engine, a_job("waits")).await;
    store.clock().advance(1);
    submit(&*engine, a_job("waits, too")).await;

    let stats = engine.queues().await.unwrap();

    let archive = QueueStats {
        queue: queue("archive"),
        paused: false,
        deferred: 0,
        pending: 0,
        scheduled: 0,
        running: 0,
        dead: 0,
        oldest_age: None,
    };
    let mail = QueueStats {
        queue: mail(),
        paused: false,
        deferred: 0,
        pending: 2,
        scheduled: 1,
        running: 1,
        dead: 2,
        oldest_age: Some(Duration::try_from(store.clock().now().duration_since(opened)).unwrap()),
    };
    assert_eq!(stats, [archive, mail]);
}

pub async fn a_queue_says_when_it_has_work_next<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for seconds in [60, 30] {
        let mut job = a_job("later");
        job.run_at = Some(store.clock().at(seconds).into());
        submit(&*engine, job).await;
    }

    let next = engine.next_run_in(&mail()).await.unwrap();

    assert_eq!(next, Some(Duration::from_secs(30)));
    assert_eq!(engine.next_run_in(&queue("other")).await.unwrap(), None);
    store.clock().advance(60);
    drop(reserve(&*engine, 9).await);
    assert_eq!(engine.next_run_in(&mail()).await.unwrap(), None);
}

pub async fn a_waiter_hears_of_runnable_jobs<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut events = engine.events();
    let runnable = Event::Runnable(mail());

    submit(&*engine, a_job("x")).await;
    assert_eq!(heard(&mut events).await, runnable);

    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(retry_at(store.clock().now()))).await;
    assert_eq!(heard(&mut events).await, runnable);

    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(Outcome::Released)).await;
    assert_eq!(heard(&mut events).await, runnable);

    drop(reserve_one(&*engine).await);
    engine.release_held(Duration::ZERO).await.unwrap();
    assert_eq!(heard(&mut events).await, runnable);
}

/// The next event that is not only about one job.
async fn heard(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Event {
    loop {
        match events.recv().await.unwrap() {
            Event::Changed(_) => {}
            event => return event,
        }
    }
}

pub async fn a_waiter_hears_of_ended_jobs<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for outcome in [completed(""), dead()] {
        let id = submit(&*engine, a_job("x")).await;
        let claim = reserve_one(&*engine).await.claim;
        let mut events = engine.events();
        let waiter = tokio::spawn(async move { events.recv().await.unwrap() });

        settle(&*engine, claim.settle(outcome)).await;

        assert_eq!(waiter.await.unwrap(), Event::Ended(id));
    }
}
