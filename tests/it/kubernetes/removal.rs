//! What it is all for: a pod that is deleted waits until nobody routes to it, and not longer.

use std::time::Duration;

use lameduck::{
    Moment,
    lifecycle::{Cause, DeadlineSource, Outcome, Phase, RoutingEnd},
};

use super::stage::{ME, SLICE, SOON, Stage, each};
use crate::fake_api::{Fault, Gone, On, Resource, Verb};

#[tokio::test]
async fn nothing_leaves_before_the_endpoint_is_gone_and_the_drain_ends_soon_after() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    let draining = stage.delete(process, 20);
    stage.watched(1).await;

    draining.stays().await;
    assert_eq!(draining.drain().phase(), Phase::LameDuck);
    assert!(!draining.drain().has(Moment::Removed), "still routed");
    let answer = draining.ask().await.expect("served as before");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let routed = draining.t0().elapsed();
    stage.sync();
    let ended = draining.ends().await;
    ended.ended_at_removal();
    let report = &ended.report;
    assert_eq!(report.cause, Cause::PodDeleted);
    assert_eq!(report.deadline_source, DeadlineSource::DeletionGracePeriod);
    assert_eq!(report.budget_seconds, 19.0, "a second of margin");
    let removal = report.removal_seconds.expect("a removal");
    assert!(removal + 0.001 >= routed.as_secs_f64(), "{removal} s");
    assert_eq!(report.outcome, Outcome::Clean);
    assert!(report.phases["lame_duck"] >= routed.as_secs_f64());
}

#[tokio::test]
async fn a_removal_that_precedes_the_signal_is_not_waited_for() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    stage.api.delete_pod(ME, 20);
    stage.sync();
    let ended = process.terminate().ends().await;
    ended.ended_at_removal();
    assert!(ended.took <= SOON, "{:?}", ended.took);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_while_it_settles_is_waited_for_again() {
    let settle = Duration::from_millis(500);
    let mut stage = Stage::set().await;
    stage.settings.settle = settle;
    let process = stage.start().await;
    let draining = stage.delete(process, 30);
    stage.watched(1).await;

    stage.api.set_endpoint(SLICE, ME, [false, true, true]);
    draining.drain().reached(Moment::Removed).await;
    stage.api.set_endpoint(SLICE, ME, [true, true, false]);
    let leave = draining.drain().reached(Moment::Leave);
    let left = tokio::time::timeout(settle * 2, leave).await;
    assert!(left.is_err(), "left though it was routed to again");

    stage.api.set_endpoint(SLICE, ME, [false, true, true]);
    let ended = draining.ends().await;
    assert_eq!(ended.routing(), RoutingEnd::Removed);
}

/// A fault that passes, and the request after which the endpoint goes.
type Passing = (On, Fault, usize, (Verb, usize));

#[test]
fn trouble_that_passes_hides_no_removal() {
    let lists = On::verb(Verb::List, Resource::EndpointSlices);
    let watches = On::verb(Verb::Watch, Resource::EndpointSlices);
    let listed = |times| (Verb::List, times);
    let watched = |times| (Verb::Watch, times);
    let rows: [(&str, Passing); 13] = [
        ("three errors", (lists, Fault::Status(500), 3, listed(5))),
        (
            "an overloaded server",
            (lists, Fault::Throttled(1), 1, listed(3)),
        ),
        (
            "a list that is never answered",
            (lists, Fault::Mute, 1, listed(3)),
        ),
        (
            "a list that is not JSON",
            (lists, Fault::Garbage, 1, listed(3)),
        ),
        (
            "a list that is old when it comes",
            (
                lists,
                Fault::Stale(Duration::from_millis(300)),
                1,
                listed(2),
            ),
        ),
        (
            "a watch that is never answered",
            (watches, Fault::Mute, 1, watched(1)),
        ),
        (
            "a watch that is not JSON",
            (watches, Fault::Garbage, 1, watched(1)),
        ),
        (
            "watches that end at once",
            (watches, Fault::CloseAtOnce, 3, watched(2)),
        ),
        (
            "watches that fail",
            (watches, Fault::Status(500), 3, watched(2)),
        ),
        (
            "a version too old, by status",
            (watches, Fault::Gone(Gone::Status), 1, watched(1)),
        ),
        (
            "a version too old, by event",
            (watches, Fault::Gone(Gone::Event), 1, watched(1)),
        ),
        (
            "every version too old",
            (watches, Fault::Gone(Gone::Event), 99, watched(2)),
        ),
        (
            "a slow server",
            (
                On::ALL,
                Fault::Delay(Duration::from_millis(400)),
                99,
                watched(1),
            ),
        ),
    ];
    each(rows, |(on, fault, times, (verb, asked))| async move {
        // Longer than all of these last, or it would be taken for gone.
        let stage = Stage::set().await.fallback_wait(Duration::from_secs(8));
        let process = stage.start().await;
        stage.api.fail_times(on, fault, times);
        let draining = stage.delete(process, 30);
        stage.api.asked(verb, Resource::EndpointSlices, asked).await;
        stage.sync();
        let ended = draining.ends().await;
        ended.ended_at_removal();
        assert!(ended.took < Duration::from_secs(6), "{:?}", ended.took);
    });
}

#[tokio::test]
async fn an_api_server_that_comes_back_is_believed_again() {
    let stage = Stage::set().await.fallback_wait(Duration::from_secs(8));
    let process = stage.start().await;
    let draining = stage.delete(process, 30);
    stage.watched(1).await;
    stage.api.refuse();
    draining.stays().await;
    stage.sync();
    stage.api.accept().await;
    draining.ends().await.ended_at_removal();
}
