//! An API server that fails, in every way that it can: the drain ends before its deadline, not before it
//! may, and asks no more often than is reasonable.

use std::time::Duration;

use lameduck::lifecycle::{Outcome, RoutingEnd};

use super::stage::{Draining, Stage, each};
use crate::fake_api::{FakeApi, Fault, Gone, On, Resource, Verb};

#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// No trouble: the endpoint just stays.
    None,
    Refused,
    /// Connections are reset in the middle of the drain, and refused from then on.
    RefusedMidway,
    Mute,
    MuteWatches,
    /// Answers that begin and never end.
    Stalled,
    Errors,
    Overloaded(u64),
    Garbage,
    Slow,
    WatchesEndAtOnce,
    OnlyBookmarks,
    TooOld(Gone),
    /// Watches and lists of slices; Pods are read as ever.
    SlicesOnly,
}

use Trouble::*;

const TROUBLES: [(&str, Trouble); 16] = [
    ("none", None),
    ("refused", Refused),
    ("refused midway", RefusedMidway),
    ("mute", Mute),
    ("mute watches", MuteWatches),
    ("stalled", Stalled),
    ("errors", Errors),
    ("overloaded", Overloaded(1)),
    ("overloaded for an hour", Overloaded(3_600)),
    ("garbage", Garbage),
    ("slow", Slow),
    ("watches that end at once", WatchesEndAtOnce),
    ("only bookmarks", OnlyBookmarks),
    ("too old, by status", TooOld(Gone::Status)),
    ("too old, by event", TooOld(Gone::Event)),
    ("no slices", SlicesOnly),
];

impl Trouble {
    /// Before T0.
    fn begin(self, api: &FakeApi) {
        let watches = |fault: Fault| {
            for resource in [Resource::Pods, Resource::EndpointSlices] {
                api.fail(On::verb(Verb::Watch, resource), fault.clone());
            }
        };
        match self {
            None | RefusedMidway => {}
            Refused => api.refuse(),
            Mute => api.fail(On::ALL, Fault::Mute),
            MuteWatches => watches(Fault::Mute),
            Stalled => api.fail(On::ALL, Fault::Stalled),
            Errors => api.fail(On::ALL, Fault::Status(500)),
            Overloaded(seconds) => api.fail(On::ALL, Fault::Throttled(seconds)),
            Garbage => api.fail(On::ALL, Fault::Garbage),
            Slow => api.fail(On::ALL, Fault::Delay(Duration::from_millis(500))),
            WatchesEndAtOnce => watches(Fault::CloseAtOnce),
            OnlyBookmarks => watches(Fault::BookmarkAndClose),
            TooOld(gone) => watches(Fault::Gone(gone)),
            SlicesOnly => api.fail(On::resource(Resource::EndpointSlices), Fault::Status(503)),
        }
    }

    /// After T0.
    async fn go_on(self, stage: &Stage) {
        if let RefusedMidway = self {
            stage.watched(1).await;
            stage.api.refuse();
        }
    }

    /// How the wait ends where nobody sees the endpoint go.
    fn routing(self) -> RoutingEnd {
        match self {
            // It was seen to be still there; where it can't be watched, it was looked at again and again.
            None | Slow | OnlyBookmarks | TooOld(_) | MuteWatches | WatchesEndAtOnce => {
                RoutingEnd::TimedOut
            }
            // Nobody has answered for a while: two seconds, and two more until it is tried again.
            _ => RoutingEnd::Unavailable,
        }
    }
}

async fn deleted(stage: &Stage, trouble: Trouble, grace: i64) -> (Draining, usize) {
    let process = stage.start().await;
    trouble.begin(&stage.api);
    let before = stage.api.requests().len();
    let draining = stage.delete(process, grace);
    trouble.go_on(stage).await;
    (draining, before)
}

/// For each of the two things that are followed: ten attempts with growing waits, each a read and a watch,
/// last longer than any of these drains.
const REASONABLE: usize = 2 * 10 * 2;

#[test]
fn nobody_who_cannot_be_asked_is_waited_for_longer_than_the_clock_says() {
    let fallback = Duration::from_millis(2_500);
    each(TROUBLES, move |trouble| async move {
        let mut stage = Stage::set().await.fallback_wait(fallback);
        stage.settings.grace = Duration::from_secs(16);
        let (draining, before) = deleted(&stage, trouble, 16).await;
        let drain = draining.drain().clone();
        let ended = draining.ends().await;
        ended.in_time();
        assert_eq!(ended.report.outcome, Outcome::Clean);
        assert!(ended.took >= fallback, "{:?}", ended.took);
        assert_eq!(ended.routing(), trouble.routing());
        // Two thirds of the lame-duck share of fifteen seconds: 5.
        let plan = drain.plan().expect("a plan");
        let route_end = plan.route_end - plan.t0;
        let soon = Duration::from_secs(1);
        assert!(ended.took <= route_end + soon, "{:?}", ended.took);
        let asked = stage.api.requests().len() - before;
        assert!(asked <= REASONABLE, "{asked} requests");
    });
}

#[test]
fn the_deadline_holds_whatever_the_api_server_does_while_a_request_never_ends() {
    each(TROUBLES, move |trouble| async move {
        let mut stage = Stage::set().await;
        stage.settings.grace = Duration::from_secs(3);
        let process = stage.start().await;
        let _request = process.ask_for_ever().await;
        trouble.begin(&stage.api);
        let before = stage.api.requests().len();
        let draining = stage.delete(process, 3);
        trouble.go_on(&stage).await;
        let ended = draining.ends().await;
        ended.in_time();
        assert_eq!(ended.report.budget_seconds, 2.7);
        assert_eq!(ended.report.outcome, Outcome::Cut);
        assert_eq!(ended.report.requests.cut, 1);
        let asked = stage.api.requests().len() - before;
        assert!(asked <= REASONABLE, "{asked} requests");
    });
}
