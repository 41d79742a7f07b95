//! Why SIGTERM came, and until when there is time.

use std::{ops::RangeInclusive, time::Duration};

use lameduck::lifecycle::{Cause, DeadlineSource, Outcome, ReadinessPolicy, RoutingEnd};
use serde_json::{Value, json};

use super::stage::{ME, SERVICE, SLICE, SOON, Stage, each, until};
use crate::fake_api::{FakeApi, Resource, pod};

/// What the setting says; whatever the own Pod says is something else.
const SETTING: Duration = Duration::from_secs(25);

struct Row {
    /// What becomes of the Pod before SIGTERM.
    given: fn(&FakeApi),
    cap: Option<u64>,
    cause: Cause,
    source: DeadlineSource,
    /// From T0 to the deadline.
    budget: RangeInclusive<f64>,
}

fn exactly(seconds: f64) -> RangeInclusive<f64> {
    seconds..=seconds
}

fn spec(api: &FakeApi, key: &str, value: Value) {
    api.modify(Resource::Pods, ME, |pod| pod["spec"][key] = value);
}

fn app(more: Value) -> Value {
    let mut app = json!({"name": "app", "image": "app"});
    app.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    app
}

fn hook() -> Value {
    json!({"lifecycle": {"preStop": {"exec": {"command": ["sleep", "4"]}}}})
}

/// So many seconds of ten are left by the API server's clock, which is wrong by so many.
fn stamped(api: &FakeApi, left: i64, skew: i64) {
    api.set_skew(skew);
    let now = jiff::Timestamp::now().as_second() + skew;
    let stamp = jiff::Timestamp::from_second(now + left).unwrap();
    api.modify(Resource::Pods, ME, |pod| {
        pod["metadata"]["deletionTimestamp"] = json!(stamp.to_string());
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(10);
    });
}

fn hooked(api: &FakeApi, left: i64, skew: i64) {
    spec(api, "containers", json!([app(hook())]));
    stamped(api, left, skew);
}

#[test]
fn the_own_pod_says_why_and_until_when() {
    use Cause::{ContainerStopped, Disrupted, PodDeleted};
    use DeadlineSource::{Cap, DeletionGracePeriod, DeletionTimestamp, PodSpec};
    let row = |cause, source, budget, given| Row {
        given,
        cap: Some(30),
        cause,
        source,
        budget,
    };
    // A margin of a tenth, and at most of a second.
    let rows = [
        (
            "deleted",
            row(PodDeleted, DeletionGracePeriod, exactly(9.0), |api| {
                api.delete_pod(ME, 10)
            }),
        ),
        (
            "deleted, with a second to go",
            row(PodDeleted, DeletionGracePeriod, exactly(1.8), |api| {
                api.delete_pod(ME, 1)
            }),
        ),
        (
            "evicted",
            row(Disrupted, DeletionGracePeriod, exactly(9.0), |api| {
                api.modify(Resource::Pods, ME, |pod| {
                let mark = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"});
                pod["status"]["conditions"].as_array_mut().unwrap().push(mark);
            });
                api.delete_pod(ME, 10);
            }),
        ),
        // Two seconds from SIGTERM, where the answer comes within the first one.
        (
            "deleted by force",
            row(PodDeleted, DeletionGracePeriod, 1.8..=2.2, |api| {
                api.delete_pod(ME, 0)
            }),
        ),
        (
            "another pod of this name",
            row(PodDeleted, DeletionGracePeriod, 1.8..=2.2, |api| {
                api.put(Resource::Pods, pod(ME, "u9", "10.0.0.9"));
            }),
        ),
        (
            "restarted",
            row(ContainerStopped, PodSpec, exactly(19.0), |api| {
                spec(api, "terminationGracePeriodSeconds", json!(20));
            }),
        ),
        (
            "restarted by a probe with a period of its own",
            row(ContainerStopped, PodSpec, exactly(6.3), |api| {
                spec(
                    api,
                    "containers",
                    json!([app(
                        json!({"livenessProbe": {"terminationGracePeriodSeconds": 7}})
                    )]),
                );
            }),
        ),
        (
            "restarted, with ten minutes in its spec",
            row(ContainerStopped, Cap, exactly(29.0), |api| {
                spec(api, "terminationGracePeriodSeconds", json!(600));
            }),
        ),
        (
            "restarted, with a cap of five seconds",
            Row {
                cap: Some(5),
                ..row(ContainerStopped, Cap, exactly(4.5), |_| ())
            },
        ),
        (
            "restarted, without a cap",
            Row {
                cap: None,
                ..row(ContainerStopped, PodSpec, exactly(59.0), |api| {
                    spec(api, "terminationGracePeriodSeconds", json!(60));
                })
            },
        ),
        // Of ten seconds six are left; two may be lost to whole seconds, one more to a stamp in the past.
        (
            "a hook",
            row(PodDeleted, DeletionTimestamp, 2.7..=5.4, |api| {
                hooked(api, 6, 0)
            }),
        ),
        (
            "a hook, the server's clock ahead",
            row(PodDeleted, DeletionTimestamp, 2.7..=5.4, |api| {
                hooked(api, 6, 300)
            }),
        ),
        (
            "a hook, the server's clock behind",
            row(PodDeleted, DeletionTimestamp, 2.7..=5.4, |api| {
                hooked(api, 6, -300)
            }),
        ),
        (
            "a hook that took it all",
            row(PodDeleted, DeletionTimestamp, exactly(1.8), |api| {
                hooked(api, -30, 300)
            }),
        ),
        (
            "no hook, the server's clock ahead",
            row(PodDeleted, DeletionGracePeriod, exactly(9.0), |api| {
                stamped(api, 10, 300)
            }),
        ),
        (
            "no hook, the server's clock behind",
            row(PodDeleted, DeletionGracePeriod, exactly(9.0), |api| {
                stamped(api, 10, -300)
            }),
        ),
        (
            "no hook, a stamp from before a partition",
            row(PodDeleted, DeletionGracePeriod, exactly(9.0), |api| {
                stamped(api, -600, 0)
            }),
        ),
        (
            "a hook of another container",
            row(PodDeleted, DeletionGracePeriod, exactly(9.0), |api| {
                let mut other = app(hook());
                other["name"] = json!("other");
                spec(api, "containers", json!([app(json!({})), other]));
                stamped(api, 6, 0);
            }),
        ),
    ];
    each(rows, |row| async move {
        let mut stage = Stage::set().await;
        stage.settings.grace = SETTING;
        stage.cap = row.cap.map(Duration::from_secs);
        let process = stage.start().await;
        (row.given)(&stage.api);
        let draining = process.terminate();
        until("somebody knows better than the setting", || {
            let plan = draining.drain().plan();
            plan.is_some_and(|plan| plan.kill - plan.t0 != SETTING)
        })
        .await;
        stage.api.set_endpoint(SLICE, ME, [false, false, true]);
        let ended = draining.ends().await;
        let report = &ended.report;
        assert_eq!(report.cause, row.cause);
        assert_eq!(report.deadline_source, row.source);
        let budget = report.budget_seconds;
        assert!(row.budget.contains(&budget), "{budget} in {:?}", row.budget);
        ended.in_time();
    });
}

#[tokio::test]
async fn a_restart_fails_readiness_at_once_and_leaves_when_the_probe_has_seen_it() {
    let stage = Stage::set().await.readiness(ReadinessPolicy::AfterRemoval);
    // Nobody else is ready: a deletion would hold readiness back twice over.
    stage.api.place(SLICE, SERVICE, &[ME]);
    let process = stage.start().await;
    let draining = process.terminate();
    draining.fails_readiness().await;
    assert!(draining.t0().elapsed() < SOON);
    draining.stays().await;

    stage.api.set_ready(ME, false);
    stage.sync();
    let ended = draining.ends().await;
    ended.ended_at_removal();
    assert_eq!(ended.report.cause, Cause::ContainerStopped);
}

#[tokio::test]
async fn a_deletion_that_comes_during_a_restart_is_seen() {
    let mut stage = Stage::set().await;
    stage.cap = Some(Duration::from_secs(20));
    let process = stage.start().await;
    let draining = process.terminate();
    stage.watched(1).await;
    stage.api.delete_pod(ME, 60);
    until("the cap no longer holds", || {
        let plan = draining.drain().plan().expect("a plan");
        plan.kill - plan.t0 == Duration::from_secs(30)
    })
    .await;
    stage.sync();
    let ended = draining.ends().await;
    ended.ended_at_removal();
    assert_eq!(ended.report.cause, Cause::PodDeleted);
    assert_eq!(
        ended.report.budget_seconds, 29.0,
        "not longer than what ran already"
    );
}

#[tokio::test]
async fn a_second_delete_moves_the_deadline_in_and_nothing_moves_it_out() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    let _request = process.ask_for_ever().await;
    let draining = stage.delete(process, 30);
    stage.watched(1).await;

    let again = draining.t0().elapsed();
    stage.api.delete_pod(ME, 4);
    let left = |draining: &super::stage::Draining| {
        let plan = draining.drain().plan().expect("a plan");
        plan.kill - plan.t0
    };
    until("the deadline has moved in", || {
        left(&draining) <= again + Duration::from_secs(4)
    })
    .await;
    let shortened = left(&draining);
    assert!(
        shortened >= again + Duration::from_secs(2),
        "{shortened:?} of {again:?}"
    );

    let events = stage.api.count(crate::fake_api::Verb::Get, Resource::Pods);
    stage.api.modify(Resource::Pods, ME, |pod| {
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(60);
    });
    let ended = draining.ends().await;
    ended.in_time();
    assert!(ended.took <= shortened, "{:?} of {shortened:?}", ended.took);
    assert_eq!(ended.report.outcome, Outcome::Cut);
    assert_eq!(ended.routing(), RoutingEnd::TimedOut);
    let asked = stage.api.count(crate::fake_api::Verb::Get, Resource::Pods) - events;
    assert!(asked <= 2, "a watch brought it, and not {asked} reads");
}
