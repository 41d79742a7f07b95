//! A rule that is missing is named once, while somebody can still add it; the service goes on without.

use std::time::Duration;

use lameduck::{
    kubernetes::Identity,
    lifecycle::{Cause, DeadlineSource, RoutingEnd},
};
use serde_json::json;

use super::stage::{Log, ME, PEER, SERVICE, SLICE, SOON, Stage, each, until};
use crate::fake_api::{Fault, Gone, NAMESPACE, On, Resource, Verb};

const FALLBACK: Duration = Duration::from_millis(400);

/// What is refused, and how the warning names the rule.
const RULES: [(Verb, Resource, &str); 6] = [
    (
        Verb::Get,
        Resource::Pods,
        "may not get pods in API group ''",
    ),
    (
        Verb::Watch,
        Resource::Pods,
        "may not watch pods in API group ''",
    ),
    (
        Verb::List,
        Resource::EndpointSlices,
        "may not list endpointslices in API group 'discovery.k8s.io'",
    ),
    (
        Verb::Watch,
        Resource::EndpointSlices,
        "may not watch endpointslices in API group 'discovery.k8s.io'",
    ),
    (
        Verb::Get,
        Resource::Services,
        "may not get services in API group ''",
    ),
    (
        Verb::Create,
        Resource::Events,
        "may not create events in API group 'events.k8s.io'",
    ),
];

#[test]
fn each_missing_rule_costs_only_what_it_was_for_and_is_named_once() {
    let refusals = [
        ("401", Fault::Status(401)),
        ("403", Fault::Forbidden),
        ("404", Fault::Status(404)),
    ];
    let rows = RULES.into_iter().flat_map(|rule| {
        let (verb, resource, _) = rule;
        refusals.clone().map(move |(code, fault)| {
            let name = format!("{code} for {verb:?} {resource:?}");
            (&*name.leak(), (rule, fault))
        })
    });
    each(rows, |((verb, resource, rule), refusal)| async move {
        let (log, _recording) = Log::record();
        let stage = Stage::set().await.fallback_wait(FALLBACK);
        // So that the Service's traffic policy matters.
        stage.api.modify(Resource::Pods, PEER, |pod| {
            pod["spec"]["nodeName"] = json!("n2")
        });
        stage.api.place(SLICE, SERVICE, &[ME, PEER]);
        let missing = verb == Verb::Get
            && resource == Resource::Pods
            && matches!(refusal, Fault::Status(404));
        stage.api.fail(On::verb(verb, resource), refusal);

        let process = stage.start().await;
        let warned = || log.lines(rule).len();
        match (verb, resource) {
            _ if missing => {
                until("a word at start", || {
                    log.lines("not there under this name").len() == 1
                })
                .await;
            }
            (Verb::Get, Resource::Pods) | (Verb::List, _) => {
                until("a warning at start", || warned() == 1).await;
            }
            _ => assert_eq!(warned(), 0, "not asked for yet"),
        }
        assert!(process.ask().await.expect("served").contains("200 OK"));

        let draining = stage.delete(process, 30);
        assert!(draining.ask().await.expect("served").contains("200 OK"));
        match resource {
            Resource::EndpointSlices => {
                let ended = draining.ends().await;
                assert_eq!(ended.routing(), RoutingEnd::NoPermission);
                assert!(ended.took >= FALLBACK, "{:?}", ended.took);
                assert!(ended.took <= FALLBACK + SOON, "{:?}", ended.took);
                assert_eq!(ended.report.removal_seconds, None, "nobody has seen it");
                assert_eq!(ended.report.cause, Cause::PodDeleted);
            }
            _ if missing => {
                // It was deleted by force, as far as anybody can see.
                let ended = draining.ends().await;
                assert_eq!(ended.report.cause, Cause::PodDeleted);
                ended.in_time();
            }
            _ => {
                stage
                    .api
                    .asked(Verb::Watch, Resource::EndpointSlices, 1)
                    .await;
                draining.fails_readiness().await;
                draining.stays().await;
                stage.sync();
                let ended = draining.ends().await;
                ended.ended_at_removal();
                let unread = (verb, resource) == (Verb::Get, Resource::Pods);
                let (cause, source) = match unread {
                    true => (Cause::Unknown, DeadlineSource::Settings),
                    false => (Cause::PodDeleted, DeadlineSource::DeletionGracePeriod),
                };
                assert_eq!(
                    (ended.report.cause, ended.report.deadline_source),
                    (cause, source)
                );
            }
        }
        let warnings = log.lines("missing permission");
        assert_eq!(warnings.len(), usize::from(!missing), "{warnings:#?}");
        assert_eq!(warned(), warnings.len(), "it names the rule: {warnings:#?}");
    });
}

#[tokio::test]
async fn these_rules_are_enough_whatever_the_slices_do() {
    let (log, _recording) = Log::record();
    let stage = Stage::set().await.fallback_wait(Duration::from_secs(8));
    stage.api.modify(Resource::Pods, PEER, |pod| {
        pod["spec"]["nodeName"] = json!("n2")
    });
    stage.api.place(SLICE, SERVICE, &[ME, PEER]);
    for resource in Resource::ALL {
        for verb in [Verb::Get, Verb::List, Verb::Watch, Verb::Create] {
            if !RULES.iter().any(|(v, r, _)| (*v, *r) == (verb, resource)) {
                stage.api.fail(On::verb(verb, resource), Fault::Forbidden);
            }
        }
    }
    let watches = On::verb(Verb::Watch, Resource::EndpointSlices);
    stage.api.fail_times(watches, Fault::Gone(Gone::Event), 1);
    let process = stage.start().await;
    let draining = stage.delete(process, 30);
    stage.watched(2).await;
    stage.api.remove_endpoint(SLICE, ME);
    draining.ends().await.ended_at_removal();
    assert_eq!(log.lines(""), [""; 0]);
    for (verb, resource, _) in RULES {
        assert!(
            stage.api.count(verb, resource) > 0,
            "{verb:?} {resource:?} is of no use"
        );
    }
    let requests = stage.api.requests();
    // A Role that names the Pod allows only requests that name it too.
    let by_name = ("fieldSelector".to_owned(), format!("metadata.name={ME}"));
    for request in requests
        .iter()
        .filter(|request| request.resource == Resource::Pods)
    {
        let named = request.name.as_deref() == Some(ME) || request.query.contains(&by_name);
        assert!(named, "{request:?}");
    }
}

#[tokio::test]
async fn no_permission_at_all_is_a_wait_by_the_clock_and_a_warning_for_each_rule() {
    let (log, _recording) = Log::record();
    let stage = Stage::set().await.fallback_wait(FALLBACK);
    stage.api.fail(On::ALL, Fault::Forbidden);
    let process = stage.start().await;
    let ended = stage.delete(process, 30).ends().await;
    assert_eq!(ended.routing(), RoutingEnd::NoPermission);
    assert_eq!(ended.report.cause, Cause::Unknown);
    assert!(
        ended.took >= FALLBACK && ended.took <= FALLBACK + SOON,
        "{:?}",
        ended.took
    );
    assert_eq!(
        log.lines("missing permission").len(),
        3,
        "{:#?}",
        log.lines("")
    );
    assert_eq!(
        stage.api.requests().len(),
        // The own Pod and a slice at start, both again at T0, and the Event of the end, in either group: the other
        // one waits to know why, and the drain is shorter.
        6,
        "what is refused is not asked for again"
    );
}

#[tokio::test]
async fn a_guessed_name_that_is_wrong_says_nothing_about_a_deletion() {
    let mut stage = Stage::set().await;
    stage.identity = Identity::new(NAMESPACE, "host");
    stage.identity.guessed = true;
    let process = stage.start().await;
    let ended = process.terminate().ends().await;
    assert_eq!(ended.report.cause, Cause::Unknown);
    assert_eq!(ended.report.deadline_source, DeadlineSource::Settings);
}

#[tokio::test]
async fn without_watching_a_second_delete_is_seen_two_seconds_late() {
    let stage = Stage::set().await;
    stage
        .api
        .fail(On::verb(Verb::Watch, Resource::Pods), Fault::Forbidden);
    let process = stage.start().await;
    let draining = stage.delete(process, 60);
    stage.watched(1).await;
    stage.api.delete_pod(ME, 30);
    let again = draining.t0().elapsed();
    until("the deadline has moved in", || {
        let plan = draining.drain().plan().expect("a plan");
        plan.kill - plan.t0 <= again + Duration::from_secs(30)
    })
    .await;
    let late = draining.t0().elapsed() - again;
    assert!(late <= Duration::from_secs(2) + SOON, "{late:?}");
    stage.sync();
    let ended = draining.ends().await;
    ended.ended_at_removal();
    assert!(
        stage.api.count(Verb::Get, Resource::Pods) <= 4,
        "every two seconds"
    );
}
