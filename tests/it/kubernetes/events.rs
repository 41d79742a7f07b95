//! The drain where people look: Events on the Pod; and the rules that it all takes.

use std::time::Duration;

use lameduck::lifecycle::RoutingEnd;
use serde_json::{Value, json};

use super::stage::{Log, ME, Stage, metrics, until};
use crate::fake_api::{Fault, NAMESPACE, On, Resource, Verb};

/// The Event of this part of the drain, once it is there.
async fn event(stage: &Stage, part: &str) -> Value {
    let find = || {
        let events = stage.api.events();
        events.into_iter().find(|event| {
            let name = event["metadata"]["name"].as_str().unwrap_or_default();
            name.ends_with(part)
        })
    };
    until(part, || find().is_some()).await;
    find().expect("just seen")
}

#[tokio::test]
async fn start_and_end_are_told_on_the_pod_under_one_drain_id() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    let draining = stage.delete(process, 20);
    stage.watched(1).await;

    let started = event(&stage, ".started").await;
    stage.sync();
    let ended = draining.ends().await;

    let id = &ended.report.drain_id;
    assert_eq!(started["reason"], "DrainStarted");
    assert_eq!(started["type"], "Normal");
    let note = started["message"].as_str().unwrap();
    assert!(
        note.starts_with(&format!("Drain {id} began (pod_deleted): 1")),
        "{note}"
    );
    let ended = event(&stage, ".ended").await;
    assert_eq!(ended["reason"], "Drained");
    assert_eq!(ended["type"], "Normal");
    let note = ended["message"].as_str().unwrap();
    assert!(
        note.starts_with(&format!("Drain {id} ended well after ")),
        "{note}"
    );
    assert!(note.contains("endpoints gone after"), "{note}");
    for event in [&started, &ended] {
        let regarding = &event["involvedObject"];
        assert_eq!(regarding["kind"], "Pod");
        assert_eq!(regarding["name"], ME);
        assert_eq!(regarding["namespace"], NAMESPACE);
        assert!(regarding["uid"].is_string(), "{regarding}");
    }
}

/// Five seconds leave a second and a half for the end of routing, and settle and quiet want two.
#[tokio::test]
async fn endpoints_that_went_are_not_called_routed_to_because_there_was_no_time_to_settle() {
    let mut stage = Stage::set().await;
    stage.settings.settle = Duration::from_secs(1);
    stage.settings.quiet = Duration::from_secs(2);
    let process = stage.start().await;
    let draining = stage.delete(process, 3);
    stage.watched(1).await;
    stage.sync();
    let drain = draining.drain().clone();
    let ended = draining.ends().await;

    assert_eq!(ended.routing(), RoutingEnd::CutShort);
    assert!(ended.report.removal_seconds.is_some());
    let figures = ended.report.figures();
    assert_eq!(figures.get("routing_cut_short"), Some(&1.0), "{figures:?}");
    assert!(
        !figures.contains_key("routing_timed_out"),
        "what the alert goes by"
    );
    let shown = metrics(&drain, "lameduck_drain_routing_end");
    assert_eq!((shown["cut_short"], shown["timed_out"]), (1.0, 0.0));
    let ended = event(&stage, ".ended").await;
    let note = ended["message"].as_str().unwrap();
    assert!(
        note.contains(" with too little time left for settle and quiet"),
        "{note}"
    );
    assert!(!note.contains("still routed"), "{note}");
}

/// `kubectl get events` is sorted by one or the other.
#[tokio::test]
async fn events_carry_the_times_of_old_and_new_ones_where_that_is_allowed() {
    for allowed in [true, false] {
        let stage = Stage::set().await;
        if !allowed {
            stage.api.refuse_core_events();
        }
        let process = stage.start().await;
        let draining = stage.delete(process, 20);
        stage.watched(1).await;
        stage.sync();
        draining.ends().await;
        for part in [".started", ".ended"] {
            let event = event(&stage, part).await;
            assert!(event["eventTime"].is_string(), "{event}");
            for field in ["firstTimestamp", "lastTimestamp"] {
                assert_eq!(event[field].is_string(), allowed, "{field}: {event}");
            }
        }
    }
}

/// The next Pod has the name, so that nobody finds the Events of this one by it.
#[tokio::test]
async fn the_end_is_told_on_the_stateful_set_too() {
    let stage = Stage::set().await;
    let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set", "controller": true}]);
    stage.api.modify(Resource::Pods, ME, |pod| {
        pod["metadata"]["ownerReferences"] = owner
    });
    let process = stage.start().await;
    let draining = stage.delete(process, 20);
    stage.watched(1).await;
    stage.sync();
    let report = draining.ends().await.report;

    let told = event(&stage, ".ended.owner").await;
    let about = &told["involvedObject"];
    assert_eq!(
        (&about["kind"], &about["name"], &about["uid"]),
        (&json!("StatefulSet"), &json!("web"), &json!("set"))
    );
    let note = told["message"].as_str().unwrap();
    assert!(
        note.starts_with(&format!("Pod {ME}: Drain {} ended well", report.drain_id)),
        "{note}"
    );
    assert_eq!(told["reason"], "Drained");
}

/// Why is not known at once; until then nothing is said of it.
#[tokio::test]
async fn an_unknown_cause_is_left_out_and_the_known_one_is_said() {
    let (log, _recording) = Log::record_from(tracing::Level::INFO);
    let stage = Stage::set().await;
    let process = stage.start().await;
    let draining = stage.delete(process, 20);
    stage.watched(1).await;
    stage.sync();
    let drain = draining.drain().clone();
    draining.ends().await;
    let first = &log.lines("phase=\"lame_duck\"")[0];
    assert!(!first.contains("cause"), "{first}");
    let known = &log.lines("why this process must end")[0];
    assert!(known.contains("cause=\"pod_deleted\""), "{known}");
    assert!(known.contains(drain.id()), "{known}");
    assert!(
        log.lines("unknown").is_empty(),
        "{:#?}",
        log.lines("unknown")
    );
    assert!(log.lines("phase=\"draining\"")[0].contains("cause=\"pod_deleted\""));
}

#[tokio::test]
async fn a_drain_that_had_to_cut_leaves_a_warning() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    let _held = process.ask_for_ever().await;
    let draining = stage.delete(process, 2);
    stage.sync();

    draining.ends().await;

    let ended = event(&stage, ".ended").await;
    assert_eq!(ended["reason"], "DrainCut");
    assert_eq!(ended["type"], "Warning");
    let note = ended["message"].as_str().unwrap();
    assert!(note.contains("1 cut with 1 connection;"), "{note}");
}

#[tokio::test]
async fn events_that_are_refused_or_not_answered_hold_nobody_up() {
    for fault in [Fault::Forbidden, Fault::Mute, Fault::Status(500)] {
        let (log, _recording) = Log::record();
        let stage = Stage::set().await;
        stage
            .api
            .fail(On::verb(Verb::Create, Resource::Events), fault.clone());
        let process = stage.start().await;
        let draining = stage.delete(process, 20);
        stage.watched(1).await;
        stage.sync();

        let ended = draining.ends().await;

        assert_eq!(ended.routing(), RoutingEnd::Removed, "{fault:?}");
        assert!(ended.took.as_secs() < 5, "{fault:?}: {:?}", ended.took);
        let named = log.lines("may not create events in API group 'events.k8s.io'");
        let refused = matches!(fault, Fault::Forbidden);
        assert_eq!(named.len(), usize::from(refused), "{fault:?}: {named:?}");
    }
}

#[tokio::test]
async fn an_event_that_is_there_already_is_not_written_again() {
    let stage = Stage::set().await;
    // The answer is lost: the first try is an error, though the Event has been written.
    let process = stage.start().await;
    let id = process.drain_id();
    stage.api.put(
        Resource::Events,
        json!({"metadata": {"name": format!("{ME}.{id}.started")}}),
    );
    let draining = stage.delete(process, 20);
    stage.watched(1).await;
    stage.sync();
    draining.ends().await;

    let told = stage.api.requests().into_iter().filter(|asked| {
        let name = asked.name.as_deref().unwrap_or_default();
        asked.verb == Verb::Create && name.ends_with(".started")
    });
    assert_eq!(told.count(), 1);
}

#[tokio::test]
async fn all_missing_rules_are_named_in_one_line_at_start() {
    let (log, _recording) = Log::record();
    let stage = Stage::set().await;
    stage.api.grant(&[
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": [ME]}),
        json!({"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["*"]}),
        json!({"apiGroups": [""], "resources": ["services"], "verbs": ["get"]}),
    ]);
    let watches = On::verb(Verb::Watch, Resource::Pods);
    stage.api.fail(watches, Fault::Forbidden);
    let creates = On::verb(Verb::Create, Resource::Events);
    stage.api.fail(creates, Fault::Forbidden);

    let process = stage.start().await;
    until("a warning", || !log.lines("missing permission").is_empty()).await;
    let draining = stage.delete(process, 20);
    stage.watched(1).await;
    stage.sync();
    draining.ends().await;

    let lines = log.lines("missing permission");
    assert_eq!(lines.len(), 1, "at start, and not once more: {lines:#?}");
    for rule in [
        "resources: [pods], verbs: [watch]",
        "resources: [events], verbs: [create]",
    ] {
        assert!(lines[0].contains(rule), "{rule}: {}", lines[0]);
    }
    assert!(!lines[0].contains("endpointslices"), "{}", lines[0]);
}

#[tokio::test]
async fn a_pod_that_works_costs_more_to_delete_than_one_that_does_not() {
    let mut stage = Stage::set().await;
    stage.deletion_cost = true;
    let cost = |stage: &Stage| {
        let pod = stage.api.read(Resource::Pods, ME).unwrap();
        let annotations = &pod["metadata"]["annotations"];
        annotations["controller.kubernetes.io/pod-deletion-cost"].clone()
    };
    let process = stage.start_in_haste().await;
    until("an idle pod", || cost(&stage) == "0").await;
    let _held = process.ask_for_ever().await;
    until("a busy pod", || cost(&stage) == "1000").await;
    assert_eq!(stage.api.count(Verb::Patch, Resource::Pods), 2);
}
