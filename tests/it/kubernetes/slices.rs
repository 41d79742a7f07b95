//! Who routes here is the union of all slices of all Services, however they are moved about.

use std::{future::Future, pin::Pin, time::Duration};

use lameduck::lifecycle::RoutingEnd;
use serde_json::json;

use super::stage::{Draining, Ended, ME, PEER, SERVICE, SETTLE, SLICE, SOON, Stage, each, metrics};
use crate::fake_api::{Fault, NAMESPACE, On, Resource, Verb};

const GONE: [bool; 3] = [false, true, true];

async fn deleted(stage: &Stage, slices: usize) -> Draining {
    let process = stage.start().await;
    let draining = stage.delete(process, 30);
    stage.watched(slices).await;
    draining
}

#[tokio::test]
async fn every_slice_of_every_service_and_family_counts() {
    let stage = Stage::set().await;
    stage.api.place("web-v6", SERVICE, &[ME, PEER]);
    stage.api.place("admin-a", "admin", &[ME]);
    stage.api.place("other-a", "other", &[PEER]);
    let draining = deleted(&stage, 3).await;
    for slice in [SLICE, "admin-a"] {
        stage.api.set_endpoint(slice, ME, GONE);
        draining.stays().await;
    }
    stage.api.set_endpoint("web-v6", ME, GONE);
    let drain = draining.drain().clone();
    let ended = draining.ends().await;
    ended.ended_at_removal();
    let lags = metrics(&drain, "lameduck_endpoint_removal_seconds");
    assert_eq!(lags.keys().collect::<Vec<_>>(), ["admin", SERVICE]);
    assert!(
        0.0 < lags["admin"] && lags["admin"] < lags[SERVICE],
        "{lags:?}"
    );
    // The last Service ends it; the report is rounded to milliseconds.
    let last = ended.report.removal_seconds.unwrap();
    assert!((lags[SERVICE] - last).abs() < 0.1, "{lags:?} and {last}");
    assert_eq!(metrics(&drain, "lameduck_endpoints")["removed"], 1.0);
    assert_eq!(
        stage.api.count(Verb::List, Resource::EndpointSlices),
        2,
        "at start, at T0"
    );
}

type Story = fn(Stage) -> Pin<Box<dyn Future<Output = ()>>>;

#[test]
fn a_slice_that_vanishes_is_looked_for() {
    let rows: [(&str, Story); 7] = [
        ("the entry moves to another slice", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                stage.api.remove_endpoint(SLICE, ME);
                put_ready(&stage, "web-b");
                stage
                    .api
                    .asked(Verb::Watch, Resource::EndpointSlices, 2)
                    .await;
                draining.stays().await;
                stage.api.set_endpoint("web-b", ME, GONE);
                draining.ends().await.ended_at_removal();
                assert_eq!(
                    stage.api.count(Verb::List, Resource::EndpointSlices),
                    3,
                    "one more"
                );
            })
        }),
        ("the slice is deleted and another made", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                stage.api.remove(Resource::EndpointSlices, SLICE);
                put_ready(&stage, "web-b");
                stage
                    .api
                    .asked(Verb::Watch, Resource::EndpointSlices, 2)
                    .await;
                draining.stays().await;
                stage.api.set_endpoint("web-b", ME, GONE);
                draining.ends().await.ended_at_removal();
            })
        }),
        ("the slice is deleted and made again", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                stage.api.remove(Resource::EndpointSlices, SLICE);
                draining.stays().await;
                put_ready(&stage, SLICE);
                // Past the list that it would have been looked for in.
                let past =
                    tokio::time::timeout(SOON, draining.drain().reached(lameduck::Moment::Leave));
                assert!(past.await.is_err(), "it is back");
                stage.api.set_endpoint(SLICE, ME, GONE);
                draining.ends().await.ended_at_removal();
            })
        }),
        ("the Service is deleted, and its slices", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                stage.api.remove(Resource::Services, SERVICE);
                stage.api.remove(Resource::EndpointSlices, SLICE);
                draining.ends().await.ended_at_removal();
            })
        }),
        ("the pod no longer matches the selector", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                stage.api.remove_endpoint(SLICE, ME);
                draining.ends().await.ended_at_removal();
            })
        }),
        ("a server that has not come so far yet", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                let lists = On::verb(Verb::List, Resource::EndpointSlices);
                stage.api.fail_times(lists, Fault::Status(504), 2);
                stage.api.remove_endpoint(SLICE, ME);
                draining.ends().await.ended_at_removal();
            })
        }),
        ("a watch that tells while lists fail", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                let lists = On::verb(Verb::List, Resource::EndpointSlices);
                stage.api.fail(lists, Fault::Status(500));
                stage.api.remove_endpoint(SLICE, ME);
                stage
                    .api
                    .asked(Verb::List, Resource::EndpointSlices, 3)
                    .await;
                put_ready(&stage, SLICE);
                stage.api.set_endpoint(SLICE, ME, GONE);
                draining.ends().await.ended_at_removal();
            })
        }),
    ];
    each(rows, |story| async move {
        let stage = Stage::set().await.fallback_wait(Duration::from_secs(8));
        story(stage).await;
    });
}

/// A slice with the own pod in it as it was before it was deleted.
fn put_ready(stage: &Stage, slice: &str) {
    let me = json!({
        "addresses": ["10.0.0.1"],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": ME, "uid": "u1"},
    });
    let labels = json!({"kubernetes.io/service-name": SERVICE});
    stage.api.put(
        Resource::EndpointSlices,
        json!({"metadata": {"name": slice, "labels": labels}, "addressType": "IPv4", "endpoints": [me]}),
    );
}

fn settled(ended: &Ended, routing: RoutingEnd) {
    assert_eq!(ended.routing(), routing);
    assert!(ended.took >= SETTLE, "{:?}", ended.took);
    assert!(ended.took <= SOON, "{:?}", ended.took);
}

#[test]
fn a_pod_in_no_slice_skips_only_the_endpoint_wait() {
    let rows: [(&str, Story); 3] = [
        ("no slice at all", |stage| {
            Box::pin(async move {
                stage.api.remove(Resource::EndpointSlices, SLICE);
                let process = stage.start().await;
                let ended = stage.delete(process, 30).ends().await;
                settled(&ended, RoutingEnd::NotApplicable);
            })
        }),
        ("slices of others", |stage| {
            Box::pin(async move {
                stage.api.place(SLICE, SERVICE, &[PEER]);
                let process = stage.start().await;
                let ended = stage.delete(process, 30).ends().await;
                settled(&ended, RoutingEnd::NotApplicable);
            })
        }),
        ("a pod of the same name and address, before it", |stage| {
            Box::pin(async move {
                stage.api.modify(Resource::EndpointSlices, SLICE, |slice| {
                    slice["endpoints"][0]["targetRef"]["uid"] = json!("u0");
                });
                let process = stage.start().await;
                let ended = stage.delete(process, 30).ends().await;
                settled(&ended, RoutingEnd::NotApplicable);
            })
        }),
    ];
    each(rows, |story| async move { story(Stage::set().await).await });
}

#[test]
fn a_service_that_publishes_unready_addresses_is_not_waited_for() {
    let rows: [(&str, Story); 2] = [
        ("alone", |stage| {
            Box::pin(async move {
                let draining = deleted(&stage, 1).await;
                draining.stays().await;
                stage.sync();
                let ended = draining.ends().await;
                assert_eq!(ended.routing(), RoutingEnd::NotApplicable);
                assert!(ended.took <= SOON, "{:?}", ended.took);
            })
        }),
        ("beside one that does not", |stage| {
            Box::pin(async move {
                stage.api.place("plain-a", "plain", &[ME]);
                let draining = deleted(&stage, 2).await;
                stage.sync();
                draining.stays().await;
                stage.api.sync("plain");
                draining.ends().await.ended_at_removal();
            })
        }),
    ];
    each(rows, |story| async move {
        let stage = Stage::set().await;
        stage.api.modify(Resource::Services, SERVICE, |service| {
            service["spec"]["publishNotReadyAddresses"] = json!(true);
        });
        story(stage).await;
    });
}

#[test]
fn an_endpoint_is_known_by_uid_or_address_and_ready_unless_it_says_otherwise() {
    let rows: [(&str, Story); 3] = [
        ("no conditions", |stage| {
            Box::pin(async move {
                stage.api.modify(Resource::EndpointSlices, SLICE, |slice| {
                    slice["endpoints"][0]["conditions"] = json!({});
                });
                let draining = deleted(&stage, 1).await;
                draining.stays().await;
                stage.sync();
                draining.ends().await.ended_at_removal();
            })
        }),
        ("no reference to a pod", |stage| {
            Box::pin(async move {
                anonymous(&stage, true);
                let draining = deleted(&stage, 1).await;
                draining.stays().await;
                anonymous(&stage, false);
                draining.ends().await.ended_at_removal();
            })
        }),
        ("no reference to a pod, and no answer at start", |stage| {
            Box::pin(async move {
                anonymous(&stage, true);
                stage
                    .api
                    .fail_times(On::resource(Resource::Pods), Fault::Status(500), 1);
                stage.api.fail_times(
                    On::verb(Verb::Get, Resource::Pods),
                    Fault::Delay(Duration::from_millis(200)),
                    1,
                );
                let draining = deleted(&stage, 1).await;
                draining.stays().await;
                anonymous(&stage, false);
                draining.ends().await.ended_at_removal();
            })
        }),
    ];
    each(rows, |story| async move { story(Stage::set().await).await });
}

/// As a slice that somebody else than the controller keeps.
fn anonymous(stage: &Stage, ready: bool) {
    stage.api.modify(Resource::EndpointSlices, SLICE, |slice| {
        slice["endpoints"] = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]);
    });
}
