//! Marks busy pods, so that a scale-down removes idle ones first.
//!
//! A ReplicaSet deletes pods with a low `controller.kubernetes.io/pod-deletion-cost` first (KEP-2255). This is
//! best effort, and every change is a write to the API server, so only the transitions between busy and idle
//! are written, at most once every few seconds.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    observe::{Meaning, Room},
    permissions::PATCH_PODS,
};
use lameduck_lifecycle::Moment;

const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Deletion cost of a busy pod; the cost of an idle one is 0.
const BUSY: &str = "1000";

/// How often the load is checked; this needs no request.
const LOOK: Duration = Duration::from_secs(1);

/// Minimum time between two writes.
const WRITE: Duration = Duration::from_secs(10);

/// Maintains the annotation until a drain begins, because by then the pod to delete has been chosen.
pub(super) async fn follow(room: &Room) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = None;
    loop {
        tokio::select! {
            () = room.drain.reached(Moment::Began) => return,
            _ = looks.tick() => {}
        }
        let load = room.drain.load();
        let busy = load.jobs + load.all_requests() > 0;
        if written == Some(busy) {
            continue;
        }
        let cost = if busy { BUSY } else { "0" };
        let patch = json!({"metadata": {"annotations": {ANNOTATION: cost}}});
        match room.api.patch_pod(&room.identity.name, &patch).await {
            Ok(()) => written = Some(busy),
            Err(error) => match room.understand(PATCH_PODS, &error).await {
                Meaning::Passing => {}
                Meaning::Denied | Meaning::PodGone => return,
            },
        }
        tokio::select! {
            () = room.drain.reached(Moment::Began) => return,
            () = sleep_until(Instant::now() + WRITE) => {}
        }
    }
}
