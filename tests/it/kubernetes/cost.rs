//! What a drain costs the API server, beyond its first list, does not grow with the Service.

use serde_json::{Value, json};

use super::stage::{ME, SERVICE, SLICE, Stage};
use crate::fake_api::{Logged, Resource, Verb};

/// A slice of other pods.
fn slice(name: &str, from: usize, size: usize) -> Value {
    let endpoints: Vec<Value> = (from..from + size)
        .map(|n| {
            json!({
                "addresses": [format!("10.{}.{}.{}", 1 + n / 65_536, n / 256 % 256, n % 256)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("n{n:05}"),
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{n:05}"), "uid": format!("u{n:05}")},
            })
        })
        .collect();
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// The requests of a drain, of a pod whose Service has so many slices of a hundred endpoints beside its own.
async fn requests(slices: usize) -> Vec<Logged> {
    let stage = Stage::set().await;
    for n in 0..slices {
        let name = format!("a-{n:03}");
        stage
            .api
            .put(Resource::EndpointSlices, slice(&name, n * 100, 100));
    }
    let process = stage.start().await;
    let before = stage.api.requests().len();
    let draining = stage.delete(process, 30);
    stage.watched(1).await;
    // A rollout of the rest goes on meanwhile.
    for n in 0..slices {
        let name = format!("a-{n:03}");
        stage.api.put(
            Resource::EndpointSlices,
            slice(&name, 90_000 + n * 100, 100),
        );
    }
    draining.stays().await;
    stage.api.set_endpoint(SLICE, ME, [false, true, true]);
    draining.ends().await.ended_at_removal();
    stage.api.requests().split_off(before)
}

#[tokio::test]
async fn a_drain_costs_no_more_beside_five_thousand_endpoints_than_beside_none() {
    let small = requests(0).await;
    let large = requests(50).await;
    let is_list = |request: &&Logged| request.verb == Verb::List;
    let pages = |requests: &[Logged]| requests.iter().filter(is_list).count();
    assert_eq!(
        (pages(&small), pages(&large)),
        (1, 2),
        "fifty slices a page"
    );

    let rest = |requests: &[Logged]| -> (Vec<String>, usize) {
        let rest = requests.iter().filter(|request| !is_list(request));
        let kinds = rest
            .clone()
            .map(|r| format!("{:?} {:?}", r.verb, r.resource));
        let mut kinds: Vec<String> = kinds.collect();
        kinds.sort();
        (kinds, rest.map(|request| request.bytes).sum())
    };
    let ((small_kinds, small_bytes), (large_kinds, large_bytes)) = (rest(&small), rest(&large));
    assert_eq!(small_kinds, large_kinds);
    assert_eq!(
        large_kinds,
        [
            "Create Events",
            "Create Events",
            "Get Pods",
            "Watch EndpointSlices",
            "Watch Pods"
        ]
    );
    // Versions have more digits.
    assert!(
        large_bytes.abs_diff(small_bytes) < 64,
        "{large_bytes} and {small_bytes} bytes"
    );

    for request in small.iter().chain(&large).filter(|r| r.verb == Verb::Watch) {
        let wanted = match request.resource {
            Resource::Pods => ME,
            _ => SLICE,
        };
        let by_name = (
            "fieldSelector".to_owned(),
            format!("metadata.name={wanted}"),
        );
        assert!(request.query.contains(&by_name), "{request:?}");
    }
}

#[tokio::test]
async fn before_the_drain_one_get_and_one_short_list_are_all() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    let asked = stage.api.requests();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let list = asked
        .iter()
        .find(|request| request.verb == Verb::List)
        .unwrap();
    assert!(
        list.query.contains(&("limit".to_owned(), "1".to_owned())),
        "{list:?}"
    );
    drop(process);
}

#[tokio::test]
#[ignore = "a measurement; run by `make cost`"]
async fn what_a_drain_costs_the_api_server() {
    println!("endpoints    list: requests      bytes    rest: requests      bytes");
    for endpoints in [10, 1_000, 10_000] {
        // A slice of a hundred each, beside the own one.
        let asked = requests(endpoints / 100).await;
        let sum = |list: bool| {
            let of = asked.iter().filter(|r| (r.verb == Verb::List) == list);
            (of.clone().count(), of.map(|r| r.bytes).sum::<usize>())
        };
        let ((lists, list_bytes), (rest, rest_bytes)) = (sum(true), sum(false));
        println!("{endpoints:>9} {lists:>17} {list_bytes:>10} {rest:>17} {rest_bytes:>10}");
    }
}
