//! What is kept, for how long, and how much of it.

use std::collections::BTreeSet;

use lameduck::jobs::{
    engine::RUNS_KEPT,
    job::{Listing, Rejected, RunEnd},
    ledger::KILLED,
};

use super::*;

pub async fn what_was_asked_for_comes_back<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let asked = NewJob {
        priority: Priority::try_from(-4).unwrap(),
        timeout: Some(Duration::from_millis(1_500)),
        traceparent: Some(trace.to_owned()),
        ..a_job("x")
    };
    let id = submit(&*engine, asked).await;
    store.kill(engine).await;
    let engine = store.open().await.unwrap();

    let record = record(&*engine, id).await;
    assert_eq!(record.priority.get(), -4);
    assert_eq!(record.timeout, Some(Duration::from_millis(1_500)));
    assert_eq!(record.traceparent.as_deref(), Some(trace));
    let job = reserve_one(&*engine).await.job;
    assert_eq!(job.timeout, Some(Duration::from_millis(1_500)));
    assert_eq!(job.traceparent.as_deref(), Some(trace));
    assert_eq!(job.run_at, store.clock().now());
}

async fn tiny<S: Store>() -> S {
    S::with(Limits {
        max_waiting: 2,
        ..Limits::default()
    })
    .await
}

pub async fn a_full_queue_refuses_and_says_so<S: Store>() {
    let store = tiny::<S>().await;
    let engine = store.open().await.unwrap();
    let mut other = a_job("elsewhere");
    other.queue = queue("other");

    let answers = engine
        .submit(vec![a_job("a"), a_job("b"), a_job("c"), other])
        .await
        .unwrap();

    assert!(answers[0].is_ok() && answers[1].is_ok() && answers[3].is_ok());
    assert_eq!(answers[2], Err(Rejected::QueueFull { waiting: 2 }));
    // Whoever runs waits no more; who comes back does.
    let claim = reserve(&*engine, 1).await.remove(0).claim;
    submit(&*engine, a_job("d")).await;
    settle(&*engine, claim.settle(Outcome::Released)).await;
    let answer = engine.submit(vec![a_job("e")]).await.unwrap();
    assert_eq!(answer[0], Err(Rejected::QueueFull { waiting: 3 }));
}

pub async fn a_key_is_answered_however_full_it_is<S: Store>() {
    let store = tiny::<S>().await;
    let engine = store.open().await.unwrap();
    let keyed = || NewJob {
        idempotency_key: Some("order-7".to_owned()),
        ..a_job("x")
    };
    let first = submit(&*engine, keyed()).await;
    submit(&*engine, a_job("y")).await;

    let again = engine.submit(vec![keyed(), a_job("z")]).await.unwrap();

    assert_eq!(again[0].as_ref().unwrap().id, first);
    assert!(again[1].is_err());
}

pub async fn a_full_storage_refuses_and_still_takes_outcomes<S: Store>() {
    let store = S::with(Limits {
        max_bytes: 256 << 10,
        ..Limits::default()
    })
    .await;
    let engine = store.open().await.unwrap();
    let large = "x".repeat(64 << 10);
    let mut taken = 0;
    let full = loop {
        match &engine.submit(vec![a_job(&large)]).await.unwrap()[0] {
            Ok(_) => taken += 1,
            Err(full) => break full.clone(),
        }
    };

    assert!((1..=4).contains(&taken), "{taken} of 64 KiB in 256 KiB");
    let Rejected::StorageFull(why) = full else {
        panic!("{full:?}");
    };
    assert!(why.contains("max-disk"), "{why}");
    for reserved in reserve(&*engine, 9).await {
        let settled = settle(&*engine, reserved.claim.settle(completed("done"))).await;
        assert_eq!(settled, Settled::Written);
    }
    // What they took is free again once they are gone.
    store.clock().advance(24 * 60 * 60);
    assert_eq!(engine.maintain().await.unwrap().pruned, taken);
    submit(&*engine, a_job(&large)).await;
}

pub async fn a_history_tells_each_run<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    let first = engine.process();
    let now = store.clock().now();
    let postponed = Outcome::Postponed {
        error: "refused".to_owned(),
        until: now.into(),
    };
    for outcome in [Outcome::Released, retry_at(now), postponed] {
        let claim = reserve_one(&*engine).await.claim;
        settle(&*engine, claim.settle(outcome)).await;
    }
    drop(reserve_one(&*engine).await);
    store.kill(engine).await;
    let engine = store.open().await.unwrap();
    store.clock().advance(5);
    let begun = store.clock().now();
    let claim = reserve_one(&*engine).await.claim;
    store.clock().advance(3);
    settle(&*engine, claim.settle(completed(""))).await;

    let runs = engine.runs(id).await.unwrap();

    let told: Vec<_> = runs
        .iter()
        .map(|run| (run.attempt, run.end, run.error.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (1, RunEnd::Released, None),
            (1, RunEnd::Failed, Some("broken")),
            (2, RunEnd::Postponed, Some("refused")),
            (2, RunEnd::Lost, None),
            (2, RunEnd::Completed, None),
        ]
    );
    assert_eq!(runs[0].process, first);
    let last = &runs[4];
    assert_eq!(last.process, engine.process());
    assert_eq!(
        (last.started_at, last.ended_at),
        (begun, store.clock().now())
    );
    assert!(engine.runs(JobId::random()).await.unwrap().is_empty());
}

pub async fn a_history_keeps_the_latest<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let id = submit(&*engine, a_job("x")).await;
    for n in 0..RUNS_KEPT + 5 {
        let claim = reserve_one(&*engine).await.claim;
        let failed = Outcome::Failed {
            // Longer than a history has room for, with characters of several bytes.
            error: format!("{n} {}", "é".repeat(2_000)),
            then: AfterFailure::RetryAt(store.clock().now().into()),
        };
        settle(&*engine, claim.settle(failed)).await;
    }

    let runs = engine.runs(id).await.unwrap();

    assert_eq!(runs.len(), RUNS_KEPT);
    let first = runs[0].error.as_deref().unwrap();
    assert!(first.starts_with("5 é") && first.len() <= 1_024, "{first}");
}

pub async fn pages_show_each_job_once<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let mut expected = Vec::new();
    for n in 0..7 {
        let mut job = a_job(&n.to_string());
        job.run_at = Some(store.clock().at(10 + n / 2).into());
        expected.push(submit(&*engine, job).await);
    }
    let all = async |state: State| {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let listing = Listing {
                queue: mail(),
                state,
                after,
                limit: 3,
            };
            let page = engine.list(&listing).await.unwrap();
            assert!(page.jobs.len() <= 3);
            assert!(page.jobs.iter().all(|job| job.state == state));
            ids.extend(page.jobs.iter().map(|job| job.id));
            match page.next {
                Some(next) => after = Some(next.to_string().parse().unwrap()),
                None => return ids,
            }
        }
    };
    assert_eq!(all(State::Scheduled).await, expected);
    assert!(all(State::Pending).await.is_empty());
    store.clock().advance(20);
    assert_eq!(all(State::Pending).await, expected);

    let reserved = reserve(&*engine, 9).await;
    assert_eq!(all(State::Running).await, expected);
    for reserved in reserved {
        settle(&*engine, reserved.claim.settle(completed(""))).await;
    }
    expected.reverse();
    assert_eq!(all(State::Completed).await, expected, "the latest first");
    for state in State::ALL {
        if state != State::Completed {
            assert!(all(state).await.is_empty());
        }
    }
}

pub async fn what_ended_long_ago_is_removed<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let waits = submit(&*engine, a_job("waits")).await;
    engine.set_paused(&mail(), false).await.unwrap();
    let mut ended = Vec::new();
    for outcome in [completed(""), dead(), completed("")] {
        let mut job = a_job("ends");
        job.priority = Priority::try_from(1).unwrap();
        let id = submit(&*engine, job).await;
        let claim = reserve(&*engine, 1).await.remove(0).claim;
        settle(&*engine, claim.settle(outcome)).await;
        ended.push(id);
    }
    let cancelled = submit(&*engine, a_job("cancelled")).await;
    engine.cancel(cancelled).await.unwrap();

    assert_eq!(engine.maintain().await.unwrap().pruned, 0);
    store.clock().advance(60 * 60 + 1);
    assert_eq!(engine.maintain().await.unwrap().pruned, 3);

    assert!(engine.job(ended[0]).await.unwrap().is_none());
    assert!(engine.job(cancelled).await.unwrap().is_none());
    assert_eq!(state(&*engine, ended[1]).await, State::Dead);
    assert_eq!(state(&*engine, waits).await, State::Pending);
    store.clock().advance(30 * 24 * 60 * 60);
    assert_eq!(engine.maintain().await.unwrap().pruned, 1);
    assert!(engine.job(ended[1]).await.unwrap().is_none());
    assert_eq!(state(&*engine, waits).await, State::Pending);
}

pub async fn a_key_lives_as_long_as_its_job_and_its_time<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    let keyed = |payload: &str, key: &str| NewJob {
        idempotency_key: Some(key.to_owned()),
        ..a_job(payload)
    };
    let gone = submit(&*engine, keyed("gone", "a")).await;
    let claim = reserve_one(&*engine).await.claim;
    settle(&*engine, claim.settle(completed(""))).await;
    let mut later = keyed("later", "b");
    later.run_at = Some(store.clock().at(90 * 24 * 60 * 60).into());
    let waits = submit(&*engine, later).await;

    store.clock().advance(60 * 60 + 1);
    engine.maintain().await.unwrap();
    assert!(engine.job(gone).await.unwrap().is_none());
    let again = engine.submit(vec![keyed("gone", "a")]).await.unwrap();
    let again = again[0].as_ref().unwrap();
    assert_eq!(
        (again.id, again.repeated),
        (gone, true),
        "it outlives its job"
    );

    store.clock().advance(23 * 60 * 60 + 1);
    engine.maintain().await.unwrap();
    let anew = submit(&*engine, keyed("gone", "a")).await;
    assert_ne!(anew, gone);
    let again = engine.submit(vec![keyed("later", "b")]).await.unwrap();
    assert_eq!(again[0].as_ref().unwrap().id, waits, "its job still waits");
}

pub async fn the_latest_process_runs_are_told<S: Store>() {
    let mut store = S::start().await;
    let engine = store.open().await.unwrap();
    let killed = engine.process();
    store.kill(engine).await;
    store.clock().advance(1);
    let engine = store.open().await.unwrap();
    engine
        .mark_drain("abc", "pod_deleted", Duration::ZERO)
        .await
        .unwrap();
    store.clock().advance(1);
    engine
        .close_drain(&LastWord {
            seconds: 1.5,
            report: r#"{"a":1}"#.to_owned(),
            ..last_word("abc", "pod_deleted", "clean")
        })
        .await
        .unwrap();
    store.close(engine).await;
    store.clock().advance(1);
    let engine = store.open().await.unwrap();

    let rows = engine.drains(9).await.unwrap();

    assert_eq!(rows.len(), 3);
    assert_eq!(
        (rows[0].process, &rows[0].outcome),
        (engine.process(), &None)
    );
    assert_eq!(rows[1].outcome.as_deref(), Some("clean"));
    assert_eq!(rows[1].drain_id.as_deref(), Some("abc"));
    assert_eq!(rows[1].seconds, Some(1.5));
    assert_eq!(rows[1].report.as_deref(), Some(r#"{"a":1}"#));
    assert!(rows[1].began_at.unwrap() < rows[1].ended_at.unwrap());
    assert_eq!(
        (rows[2].process, rows[2].outcome.as_deref()),
        (killed, Some(KILLED))
    );
    let ids: BTreeSet<_> = rows.iter().map(|row| row.process).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(engine.drains(1).await.unwrap().len(), 1);
}
