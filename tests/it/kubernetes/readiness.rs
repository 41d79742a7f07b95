//! When `/readyz` fails: never so that the last one to serve is taken out before another is there.

use lameduck::{Moment, lifecycle::ReadinessPolicy};
use serde_json::json;
use tokio::time::Instant;

use super::stage::{Draining, ME, PEER, SERVICE, SLICE, SOON, Stage, each};
use crate::fake_api::{Fault, On, Resource, Verb, pod};

/// Who else is there.
#[derive(Clone, Copy, Debug)]
enum Others {
    Ready,
    Unready,
    Nobody,
    /// Nobody, and nobody will come before this one is gone.
    StatefulSetOfOne,
    /// Ready, on another node.
    Elsewhere,
    /// The same, and traffic stays on its node.
    ElsewhereLocal,
}

fn set(stage: &Stage, others: Others) {
    let api = &stage.api;
    match others {
        Others::Ready => {}
        Others::Unready => api.set_ready(PEER, false),
        Others::Nobody => {}
        Others::StatefulSetOfOne => api.modify(Resource::Pods, ME, |pod| {
            pod["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet");
        }),
        Others::Elsewhere | Others::ElsewhereLocal => api.modify(Resource::Pods, PEER, |pod| {
            pod["spec"]["nodeName"] = json!("n2");
        }),
    }
    if let Others::ElsewhereLocal = others {
        api.modify(Resource::Services, SERVICE, |service| {
            service["spec"]["internalTrafficPolicy"] = json!("Local");
        });
    }
    let pods: &[&str] = match others {
        Others::Nobody | Others::StatefulSetOfOne => &[ME],
        _ => &[ME, PEER],
    };
    api.place(SLICE, SERVICE, pods);
}

async fn deleted(stage: &Stage, others: Others, grace: i64) -> Draining {
    set(stage, others);
    let process = stage.start().await;
    assert!(process.drain.is_ready());
    let draining = stage.delete(process, grace);
    stage.watched(1).await;
    draining
}

#[test]
fn readiness_fails_at_once_where_somebody_else_serves_or_nobody_ever_will() {
    use ReadinessPolicy::{Auto, Immediate};
    let rows = [
        ("immediate, alone", (Immediate, Others::Nobody)),
        ("auto, a peer is ready", (Auto, Others::Ready)),
        (
            "auto, a peer is ready on another node",
            (Auto, Others::Elsewhere),
        ),
        (
            "auto, a StatefulSet of one",
            (Auto, Others::StatefulSetOfOne),
        ),
    ];
    each(rows, |(policy, others)| async move {
        let stage = Stage::set().await.readiness(policy);
        let draining = deleted(&stage, others, 30).await;
        draining.fails_readiness().await;
        let after = draining.t0().elapsed();
        assert!(after < SOON, "{after:?}");
        assert!(!draining.drain().has(Moment::Removed), "before the removal");
        stage.sync();
        draining.ends().await.ended_at_removal();
    });
}

#[tokio::test]
async fn a_statefulset_of_one_is_known_as_such_even_where_the_read_at_start_has_no_answer() {
    let stage = Stage::set().await;
    set(&stage, Others::StatefulSetOfOne);
    stage
        .api
        .fail_times(On::verb(Verb::Get, Resource::Pods), Fault::Mute, 1);
    let process = stage.start_in_haste().await;
    stage.api.asked(Verb::Get, Resource::Pods, 1).await;
    let draining = stage.delete(process, 30);
    draining.fails_readiness().await;
    assert!(
        draining.t0().elapsed() < SOON,
        "{:?}",
        draining.t0().elapsed()
    );
    stage.sync();
    draining.ends().await.ended_at_removal();
}

#[test]
fn readiness_is_held_while_nobody_else_could_serve() {
    use ReadinessPolicy::{AfterRemoval, Auto};
    let rows = [
        ("auto, the peer is not ready", (Auto, Others::Unready)),
        ("auto, a Deployment of one", (Auto, Others::Nobody)),
        (
            "auto, local traffic, no peer on this node",
            (Auto, Others::ElsewhereLocal),
        ),
        (
            "after removal, whoever is ready",
            (AfterRemoval, Others::Ready),
        ),
    ];
    each(rows, |(policy, others)| async move {
        let stage = Stage::set().await.readiness(policy);
        let draining = deleted(&stage, others, 30).await;
        // Longer than `auto` waits to learn about others.
        let leave = draining.drain().reached(Moment::Leave);
        assert!(tokio::time::timeout(SOON, leave).await.is_err());
        assert!(draining.drain().is_ready(), "held");
        if policy == Auto {
            stage
                .api
                .put(Resource::Pods, pod("web-3", "u3", "10.0.0.3"));
            stage.api.place(SLICE, SERVICE, &[ME, PEER, "web-3"]);
        } else {
            stage.sync();
        }
        draining.fails_readiness().await;
        stage.sync();
        draining.ends().await.ended_at_removal();
    });
}

#[tokio::test]
async fn readiness_is_not_held_beyond_the_lame_duck_share() {
    let stage = Stage::set().await;
    set(&stage, Others::Unready);
    let process = stage.start().await;
    // An idle connection that never speaks again makes the lame-duck phase as long as it may be.
    let _idle = tokio::net::TcpStream::connect(process.address)
        .await
        .unwrap();
    let draining = stage.delete(process, 4);
    stage.watched(1).await;
    stage.sync();
    draining.drain().reached(Moment::Leave).await;
    assert!(draining.drain().is_ready(), "still the only one");
    draining.fails_readiness().await;
    let plan = draining.drain().plan().unwrap();
    assert!(Instant::now() >= plan.lame_duck_end);
    draining.ends().await.in_time();
}
