//! A crash is charged to those who may have caused it.

use super::*;

/// Longer than any suspect waits.
const A_WHILE: u64 = 61;

/// The next process, once every suspect may run again: it has to wait from when the crash is found out.
async fn open_and_wait<S: Store>(store: &S) -> Arc<dyn Engine> {
    let engine = store.open().await.unwrap();
    store.clock().advance(A_WHILE);
    engine
}

/// Reserves all there is, and the process crashes. Says who was a suspect.
async fn crash<S: Store>(store: &mut S) -> Vec<(String, bool)> {
    let engine = open_and_wait(store).await;
    let reserved = reserve(&*engine, 9).await;
    let suspects = reserved
        .iter()
        .map(|r| (payloads(std::slice::from_ref(r)).remove(0), r.job.suspect))
        .collect();
    store.kill(engine).await;
    suspects
}

/// The first suspect runs alone, and the process crashes.
async fn crash_alone<S: Store>(store: &mut S) {
    let engine = open_and_wait(store).await;
    let reserved = reserve(&*engine, 1).await.remove(0);
    assert!(reserved.job.suspect);
    engine.runs_alone(&reserved.claim).await.unwrap();
    store.kill(engine).await;
}

async fn submit_to<S: Store>(store: &mut S, payloads: &[&str]) -> Vec<JobId> {
    let engine = store.open().await.unwrap();
    let mut ids = Vec::new();
    for payload in payloads {
        ids.push(submit(&*engine, a_job(payload)).await);
    }
    engine
        .close_drain(&last_word("d", "signal", "clean"))
        .await
        .unwrap();
    store.close(engine).await;
    ids
}

fn no(payload: &str) -> (String, bool) {
    (payload.to_owned(), false)
}

pub async fn what_ran_in_two_crashes_is_a_suspect<S: Store>() {
    let mut store = S::start().await;
    let ids = submit_to(&mut store, &["a", "b"]).await;

    assert_eq!(crash(&mut store).await, [no("a"), no("b")]);
    assert_eq!(
        crash(&mut store).await,
        [no("a"), no("b")],
        "once is chance"
    );
    let engine = store.open().await.unwrap();
    submit(&*engine, a_job("c")).await;

    let record = record(&*engine, ids[0]).await;
    assert_eq!((record.crashes, record.attempt, record.releases), (2, 0, 2));
    store.clock().advance(A_WHILE);
    let reserved = reserve(&*engine, 9).await;
    let suspects: Vec<_> = reserved.iter().map(|r| r.job.suspect).collect();
    assert_eq!(suspects, [false, true, true], "they wait a second");
}

pub async fn who_crashes_alone_too_often_is_dead<S: Store>() {
    let mut store = S::start().await;
    let ids = submit_to(&mut store, &["poison", "innocent"]).await;
    crash(&mut store).await;
    crash(&mut store).await;

    crash_alone(&mut store).await;

    let engine = open_and_wait(&store).await;
    let poison = record(&*engine, ids[0]).await;
    assert_eq!(poison.state, State::Dead);
    let error = poison.last_error.unwrap();
    assert!(error.contains("crashed 3 times in a row"), "{error}");
    assert!(poison.ended_at.is_some());
    assert_eq!(payloads(&reserve(&*engine, 9).await), ["innocent"]);
}

pub async fn a_suspect_waits_longer_after_each_crash<S: Store>() {
    let mut store = S::with(Limits {
        max_crashes: 0,
        ..Limits::default()
    })
    .await;
    let ids = submit_to(&mut store, &["poison"]).await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let engine = store.open().await.unwrap();
        let run_at = record(&*engine, ids[0]).await.run_at;
        waits.push(run_at.duration_since(store.clock().now()).as_secs().max(0));
        store.clock().advance(A_WHILE);
        drop(reserve_one(&*engine).await);
        store.kill(engine).await;
    }
    assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
}

pub async fn only_who_ran_alone_is_charged<S: Store>() {
    let mut store = S::with(Limits {
        max_crashes: 0,
        ..Limits::default()
    })
    .await;
    let ids = submit_to(&mut store, &["poison", "innocent"]).await;
    crash(&mut store).await;
    crash(&mut store).await;

    // The innocent one was reserved, and waited for the other's end.
    let engine = open_and_wait(&store).await;
    let reserved = reserve(&*engine, 9).await;
    engine.runs_alone(&reserved[0].claim).await.unwrap();
    store.kill(engine).await;

    let engine = store.open().await.unwrap();
    assert_eq!(record(&*engine, ids[0]).await.crashes, 3);
    assert_eq!(record(&*engine, ids[1]).await.crashes, 2);
    assert_eq!(
        state(&*engine, ids[0]).await,
        State::Scheduled,
        "without a limit nobody is dead of it"
    );
}

pub async fn any_outcome_clears_a_suspect<S: Store>() {
    let mut store = S::start().await;
    let ids = submit_to(&mut store, &["a"]).await;
    crash(&mut store).await;
    crash(&mut store).await;

    let engine = open_and_wait(&store).await;
    let reserved = reserve_one(&*engine).await;
    assert!(reserved.job.suspect);
    let now = store.clock().now();
    settle(&*engine, reserved.claim.settle(retry_at(now))).await;

    assert_eq!(record(&*engine, ids[0]).await.crashes, 0);
    assert!(!reserve_one(&*engine).await.job.suspect);
}

pub async fn a_kill_in_a_drain_is_no_crash<S: Store>() {
    let mut store = S::start().await;
    let ids = submit_to(&mut store, &["a"]).await;
    for _ in 0..3 {
        let engine = store.open().await.unwrap();
        drop(reserve_one(&*engine).await);
        engine
            .mark_drain("d", "pod_deleted", Duration::ZERO)
            .await
            .unwrap();
        store.kill(engine).await;
    }

    let engine = store.open().await.unwrap();
    let record = record(&*engine, ids[0]).await;
    assert_eq!((record.crashes, record.releases), (0, 3));
}

pub async fn a_kill_in_a_drain_condemns_nobody<S: Store>() {
    let mut store = S::start().await;
    let ids = submit_to(&mut store, &["a"]).await;
    // As often as may be, but never alone.
    for _ in 0..3 {
        crash(&mut store).await;
    }

    let engine = open_and_wait(&store).await;
    let reserved = reserve_one(&*engine).await;
    engine.runs_alone(&reserved.claim).await.unwrap();
    engine
        .mark_drain("d", "pod_deleted", Duration::ZERO)
        .await
        .unwrap();
    store.kill(engine).await;

    let engine = store.open().await.unwrap();
    let record = record(&*engine, ids[0]).await;
    assert_eq!((record.state, record.crashes), (State::Pending, 3));
}

pub async fn the_end_of_the_machine_is_no_crash<S: Store>() {
    let mut store = S::start().await;
    let ids = submit_to(&mut store, &["a"]).await;
    for _ in 0..3 {
        crash(&mut store).await;
        store.reboot();
    }

    let engine = store.open().await.unwrap();
    assert_eq!(record(&*engine, ids[0]).await.crashes, 0);
    assert!(!reserve_one(&*engine).await.job.suspect);
}
