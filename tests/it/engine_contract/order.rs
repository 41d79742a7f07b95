//! In which order jobs are reserved.

use lameduck::jobs::job::Order;

use super::*;

fn urgent(payload: &str, priority: i64) -> NewJob {
    NewJob {
        priority: Priority::try_from(priority).unwrap(),
        ..a_job(payload)
    }
}

pub async fn a_higher_priority_comes_first<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for (payload, priority) in [("low", -9), ("usual", 0), ("high", 9), ("usual, too", 0)] {
        submit(&*engine, urgent(payload, priority)).await;
    }

    assert_eq!(payloads(&reserve(&*engine, 1).await), ["high"]);
    assert_eq!(
        payloads(&reserve(&*engine, 9).await),
        ["usual", "usual, too", "low"]
    );
}

pub async fn a_step_of_priority_is_worth_a_minute_of_waiting<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    submit(&*engine, urgent("waits long", 0)).await;
    store.clock().advance(61);
    submit(&*engine, urgent("one step", 1)).await;
    submit(&*engine, urgent("two steps", 2)).await;

    assert_eq!(
        payloads(&reserve(&*engine, 9).await),
        ["two steps", "waits long", "one step"],
        "nobody is starved: after a minute one step less is as good"
    );
}

pub async fn a_queue_may_go_by_time_alone<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for (payload, priority) in [("first", -9), ("second", 9), ("third", 0)] {
        submit(&*engine, urgent(payload, priority)).await;
    }

    let reserved = engine.reserve(&mail(), Order::RunAt, 9).await.unwrap();

    assert_eq!(payloads(&reserved), ["first", "second", "third"]);
}

pub async fn each_priority_keeps_its_own_order<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    for n in 0..5 {
        submit(&*engine, urgent(&format!("high {n}"), 3)).await;
        submit(&*engine, urgent(&format!("low {n}"), -3)).await;
    }

    let mut order = Vec::new();
    while let some @ [_, ..] = &reserve(&*engine, 3).await[..] {
        order.extend(payloads(some));
    }

    let expected: Vec<_> = (0..5)
        .map(|n| format!("high {n}"))
        .chain((0..5).map(|n| format!("low {n}")))
        .collect();
    assert_eq!(order, expected);
}

pub async fn a_priority_that_nobody_has_any_more_costs_nothing<S: Store>() {
    let store = S::start().await;
    let engine = store.open().await.unwrap();
    submit(&*engine, urgent("high", 9)).await;
    let mut later = urgent("later", 9);
    later.run_at = Some(store.clock().at(60).into());
    submit(&*engine, later).await;
    submit(&*engine, urgent("low", -1)).await;

    assert_eq!(payloads(&reserve(&*engine, 1).await), ["high"]);
    assert_eq!(payloads(&reserve(&*engine, 1).await), ["low"]);
    assert!(reserve(&*engine, 1).await.is_empty());
    assert_eq!(
        engine.next_run_in(&mail()).await.unwrap(),
        Some(Duration::from_secs(60))
    );
}
