//! Every cause under every readiness policy with every kind of trouble: one row each, and what must come of it.

use std::time::Duration;

use lameduck::lifecycle::{Cause, ReadinessPolicy, RoutingEnd};
use serde_json::json;

use super::stage::{ME, PEER, SERVICE, SLICE, SOON, Stage, each, until};
use crate::fake_api::{Fault, On, Resource};

const FALLBACK: Duration = Duration::from_millis(400);

/// What happens to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Deleted,
    Evicted,
    Restarted,
}

/// What happens to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    PodForbidden,
    SlicesForbidden,
    AllForbidden,
    Mute,
    Down,
    Errors,
}

const FATES: [Fate; 3] = [Fate::Deleted, Fate::Evicted, Fate::Restarted];
const POLICIES: [ReadinessPolicy; 3] = [
    ReadinessPolicy::Immediate,
    ReadinessPolicy::AfterRemoval,
    ReadinessPolicy::Auto,
];
const TROUBLES: [Trouble; 7] = [
    Trouble::None,
    Trouble::PodForbidden,
    Trouble::SlicesForbidden,
    Trouble::AllForbidden,
    Trouble::Mute,
    Trouble::Down,
    Trouble::Errors,
];

impl Trouble {
    fn begin(self, stage: &Stage) {
        let pods = On::resource(Resource::Pods);
        let slices = On::resource(Resource::EndpointSlices);
        match self {
            Self::None => {}
            Self::PodForbidden => stage.api.fail(pods, Fault::Forbidden),
            Self::SlicesForbidden => stage.api.fail(slices, Fault::Forbidden),
            Self::AllForbidden => stage.api.fail(On::ALL, Fault::Forbidden),
            Self::Mute => stage.api.fail(On::ALL, Fault::Mute),
            Self::Errors => stage.api.fail(On::ALL, Fault::Status(500)),
            Self::Down => stage.api.refuse(),
        }
    }

    fn pod_is_seen(self) -> bool {
        matches!(self, Self::None | Self::SlicesForbidden)
    }

    fn slices_are_seen(self) -> bool {
        matches!(self, Self::None | Self::PodForbidden)
    }

    fn routing(self) -> RoutingEnd {
        match self {
            Self::None | Self::PodForbidden => RoutingEnd::Removed,
            Self::SlicesForbidden | Self::AllForbidden => RoutingEnd::NoPermission,
            Self::Mute | Self::Down | Self::Errors => RoutingEnd::Unavailable,
        }
    }
}

impl Fate {
    fn cause(self, trouble: Trouble) -> Cause {
        match self {
            _ if !trouble.pod_is_seen() => Cause::Unknown,
            Self::Deleted => Cause::PodDeleted,
            Self::Evicted => Cause::Disrupted,
            Self::Restarted => Cause::ContainerStopped,
        }
    }
}

#[test]
fn every_cause_under_every_policy_with_every_trouble_ends_as_the_table_says() {
    let rows = FATES.into_iter().flat_map(|fate| {
        POLICIES.into_iter().flat_map(move |policy| {
            TROUBLES.into_iter().map(move |trouble| {
                let name = format!("{fate:?} {policy:?} {trouble:?}");
                (&*name.leak(), (fate, policy, trouble))
            })
        })
    });
    each(rows, |(fate, policy, trouble)| async move {
        let stage = Stage::set().await.fallback_wait(FALLBACK).readiness(policy);
        stage.api.place(SLICE, SERVICE, &[ME, PEER]);
        let process = stage.start().await;
        if fate == Fate::Evicted {
            stage.api.modify(Resource::Pods, ME, |pod| {
                pod["status"]["conditions"] = json!([
                    {"type": "Ready", "status": "True"},
                    {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
                ]);
            });
        }
        trouble.begin(&stage);
        let draining = match fate {
            Fate::Restarted => process.terminate(),
            Fate::Deleted | Fate::Evicted => stage.delete(process, 20),
        };

        if trouble.slices_are_seen() {
            draining.stays().await;
            // A peer is ready, so only the policy that waits for the removal holds readiness; and never where
            // it is what removes the endpoint.
            let held = policy == ReadinessPolicy::AfterRemoval
                && fate.cause(trouble) != Cause::ContainerStopped;
            if held {
                assert!(draining.drain().is_ready(), "held until the removal");
            } else {
                draining.fails_readiness().await;
            }
            stage.api.set_ready(ME, false);
            stage.sync();
        } else if policy != ReadinessPolicy::AfterRemoval {
            draining.fails_readiness().await;
        }
        let drain = draining.drain().clone();
        let ended = draining.ends().await;

        assert!(!drain.is_ready(), "and it never comes back");
        assert_eq!(ended.routing(), trouble.routing());
        assert_eq!(ended.report.cause, fate.cause(trouble));
        ended.in_time();
        match trouble.slices_are_seen() {
            true => ended.ended_at_removal(),
            false => {
                assert!(ended.took >= FALLBACK, "{:?}", ended.took);
                // A request without an answer is given up after two seconds.
                assert!(ended.took <= FALLBACK + SOON * 2, "{:?}", ended.took);
            }
        }
    });
}

#[tokio::test]
async fn readiness_that_waits_for_the_removal_fails_with_it() {
    let stage = Stage::set().await.readiness(ReadinessPolicy::AfterRemoval);
    let process = stage.start().await;
    let draining = stage.delete(process, 20);
    stage.watched(1).await;
    assert!(draining.drain().is_ready());
    stage.sync();
    until("readiness fails", || !draining.drain().is_ready()).await;
    draining.ends().await.ended_at_removal();
}
