//! Every cause under every readiness policy with every kind of trouble: one row each, and what must come of it.

use std::time::Duration;

use lameduck::lifecycle::{Cause, ReadinessPolicy, RoutingEnd};
use serde_json::json;

use super::stage::{ME, PEER, SERVICE, SLICE, SOON, Stage, each, until};
use crate::fake_api::{Fault, Gone, On, Resource, Verb};

/// Longer than a busy machine lets an answer wait.
const FALLBACK: Duration = Duration::from_millis(1_500);

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
    /// Everything is refused that was answered before: the token's Pod is gone.
    Unauthorized,
    SlicesMissing,
    Mute,
    Stalled,
    Garbage,
    Down,
    DownMidway,
    Errors,
    Throttled,
    Slow,
    Stale,
    TooOldByStatus,
    TooOldByEvent,
    WatchesEndAtOnce,
    OnlyBookmarks,
    ClockAhead,
    ClockBehind,
}

const FATES: [Fate; 3] = [Fate::Deleted, Fate::Evicted, Fate::Restarted];
const POLICIES: [ReadinessPolicy; 3] = [
    ReadinessPolicy::Immediate,
    ReadinessPolicy::AfterRemoval,
    ReadinessPolicy::Auto,
];
const TROUBLES: [Trouble; 21] = [
    Trouble::None,
    Trouble::PodForbidden,
    Trouble::SlicesForbidden,
    Trouble::AllForbidden,
    Trouble::Unauthorized,
    Trouble::SlicesMissing,
    Trouble::Mute,
    Trouble::Stalled,
    Trouble::Garbage,
    Trouble::Down,
    Trouble::DownMidway,
    Trouble::Errors,
    Trouble::Throttled,
    Trouble::Slow,
    Trouble::Stale,
    Trouble::TooOldByStatus,
    Trouble::TooOldByEvent,
    Trouble::WatchesEndAtOnce,
    Trouble::OnlyBookmarks,
    Trouble::ClockAhead,
    Trouble::ClockBehind,
];

/// What is late, is so by this much.
const LATE: Duration = Duration::from_millis(100);

/// Ten minutes either way.
const SKEW: i64 = 600;

impl Trouble {
    fn begin(self, stage: &Stage) {
        let pods = On::resource(Resource::Pods);
        let slices = On::resource(Resource::EndpointSlices);
        let watches = |fault: Fault| {
            for resource in [Resource::Pods, Resource::EndpointSlices] {
                stage
                    .api
                    .fail(On::verb(Verb::Watch, resource), fault.clone());
            }
        };
        match self {
            Self::None | Self::DownMidway => {}
            Self::PodForbidden => stage.api.fail(pods, Fault::Forbidden),
            Self::SlicesForbidden => stage.api.fail(slices, Fault::Forbidden),
            Self::AllForbidden => stage.api.fail(On::ALL, Fault::Forbidden),
            Self::Unauthorized => stage.api.fail(On::ALL, Fault::Status(401)),
            Self::SlicesMissing => stage.api.fail(slices, Fault::Status(404)),
            Self::Mute => stage.api.fail(On::ALL, Fault::Mute),
            Self::Stalled => stage.api.fail(On::ALL, Fault::Stalled),
            Self::Garbage => stage.api.fail(On::ALL, Fault::Garbage),
            Self::Errors => stage.api.fail(On::ALL, Fault::Status(500)),
            Self::Throttled => stage.api.fail(On::ALL, Fault::Throttled(1)),
            Self::Slow => stage.api.fail(On::ALL, Fault::Delay(LATE)),
            Self::Stale => stage.api.fail(slices, Fault::Stale(LATE)),
            Self::TooOldByStatus => watches(Fault::Gone(Gone::Status)),
            Self::TooOldByEvent => watches(Fault::Gone(Gone::Event)),
            Self::WatchesEndAtOnce => watches(Fault::CloseAtOnce),
            Self::OnlyBookmarks => watches(Fault::BookmarkAndClose),
            Self::ClockAhead => stage.api.set_skew(SKEW),
            Self::ClockBehind => stage.api.set_skew(-SKEW),
            Self::Down => stage.api.refuse(),
        }
    }

    fn pod_is_seen(self) -> bool {
        match self {
            Self::SlicesForbidden | Self::SlicesMissing => true,
            Self::PodForbidden => false,
            _ => self.slices_are_seen(),
        }
    }

    /// At least at first.
    fn slices_are_seen(self) -> bool {
        !matches!(
            self,
            Self::SlicesForbidden
                | Self::AllForbidden
                | Self::Unauthorized
                | Self::SlicesMissing
                | Self::Mute
                | Self::Stalled
                | Self::Garbage
                | Self::Down
                | Self::Errors
                | Self::Throttled
        )
    }

    /// Who can't watch looks again and again, after growing waits: the clock must leave time for that.
    fn fallback(self) -> Duration {
        match self {
            Self::WatchesEndAtOnce | Self::OnlyBookmarks => FALLBACK * 4,
            _ => FALLBACK,
        }
    }

    fn routing(self) -> RoutingEnd {
        match self {
            Self::SlicesForbidden | Self::AllForbidden | Self::SlicesMissing => {
                RoutingEnd::NoPermission
            }
            Self::Unauthorized => RoutingEnd::CutShort,
            Self::DownMidway => RoutingEnd::Unavailable,
            _ if self.slices_are_seen() => RoutingEnd::Removed,
            _ => RoutingEnd::Unavailable,
        }
    }
}

impl Fate {
    fn cause(self, trouble: Trouble) -> Cause {
        match self {
            _ if trouble == Trouble::Unauthorized => Cause::PodDeleted,
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
        let fallback = trouble.fallback();
        let stage = Stage::set().await.fallback_wait(fallback).readiness(policy);
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
            match trouble {
                Trouble::DownMidway => stage.api.refuse(),
                _ => {
                    stage.api.set_ready(ME, false);
                    stage.sync();
                }
            }
        } else if policy != ReadinessPolicy::AfterRemoval {
            draining.fails_readiness().await;
        }
        let drain = draining.drain().clone();
        let ended = draining.ends().await;

        assert!(!drain.is_ready(), "and it never comes back");
        assert_eq!(ended.routing(), trouble.routing());
        assert_eq!(ended.report.cause, fate.cause(trouble));
        ended.in_time();
        match (trouble.slices_are_seen(), trouble) {
            // From when nobody answers any more, the clock rules.
            (_, Trouble::DownMidway) => assert!(ended.took >= FALLBACK, "{:?}", ended.took),
            (true, _) => ended.ended_at_removal(),
            // Of two seconds.
            (_, Trouble::Unauthorized) => assert!(ended.took < Duration::from_secs(2)),
            (false, _) => {
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
