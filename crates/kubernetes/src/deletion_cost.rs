//! Which pod a scale-down takes: an idle one, if it is told which they are.
//!
//! A ReplicaSet deletes pods with a low `controller.kubernetes.io/pod-deletion-cost` first (KEP-2255). It is
//! best effort, and every change is a write to the API server; so only the transitions between busy and idle
//! are written, and not more often than every few seconds.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{
    observe::{Meaning, Room},
    permissions::PATCH_PODS,
};
use lameduck_lifecycle::Moment;

const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What it costs to delete a pod that works; one that does not costs nothing.
const BUSY: &str = "1000";

/// How often it is looked at; nothing is asked of anybody for it.
const LOOK: Duration = Duration::from_secs(1);

/// Between two writes.
const WRITE: Duration = Duration::from_secs(10);

/// Keeps the annotation until a drain begins: by then it has been decided.
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
