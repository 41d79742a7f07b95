//! Follows the own Pod from T0 on: reads it, watches it, then reads it again.
//!
//! The watch is needed because a second delete with a shorter grace period must be seen before that period has
//! passed. Each watch is preceded by a quorum read, because only that proves what was *not* the case: the kubelet
//! acts on a committed deletion, but a watch may be served from a cache that has not seen it yet.
//! If watching is not allowed, the Pod is read every two seconds instead.
//!
//! A Pod that was deleted by force shows up as 404, as another uid under the same name, as the last event of a
//! watch, or as 401 to everything ([`refusal`](super::refusal)).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::core::WatchEvent;
use tokio::time::{Instant, sleep};

use super::{
    super::{
        api::{Answer, ApiError, Clock},
        backoff::Backoff,
        pod::{Judge, PodFacts, Sighting},
    },
    GET_PODS, Meaning, Room, WATCH_PODS,
};
use lameduck_lifecycle::Moment;

/// Time between two reads if watching is not allowed.
const POLL: Duration = Duration::from_secs(2);

/// A watch that ends sooner than this is not restarted at once, whatever it brought.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// Reports the cause and the deadline until the teardown.
pub(super) async fn follow(room: &Room) {
    let Some(plan) = room.drain.plan() else {
        return;
    };
    let mut follower = Follower {
        room,
        judge: Judge::new(plan.t0, room.no_deletion_cap),
        backoff: Backoff::new(),
    };
    tokio::select! {
        () = room.drain.reached(Moment::GiveBack) => {}
        () = follower.follow() => {}
    }
}

struct Follower<'a> {
    room: &'a Room,
    judge: Judge,
    backoff: Backoff,
}

/// Error when there is nothing left to follow.
struct Over;

impl Follower<'_> {
    async fn follow(&mut self) {
        let gone = self.room.gone.clone();
        loop {
            let round = tokio::select! {
                biased;
                round = self.round() => round,
                // Another part of the observer learned first that the Pod is gone.
                () = gone.cancelled() => self.gone(false),
            };
            if round.is_err() {
                self.room.settle();
                return;
            }
        }
    }

    async fn round(&mut self) -> Result<(), Over> {
        match self.room.api.get::<Pod>(&self.room.identity.name).await {
            Ok(answer) => self.read(answer).await,
            Err(error) => self.not_read(&error).await,
        }
    }

    async fn read(&mut self, answer: Answer<Pod>) -> Result<(), Over> {
        self.see(Some(&answer.object), answer.clock, false)?;
        let version = answer.object.metadata.resource_version.unwrap_or_default();
        let watched = self.watch(&version).await?;
        let wait = match watched {
            Ok(()) => {
                self.backoff.reset();
                return Ok(());
            }
            Err(error) => match self.room.understand(WATCH_PODS, &error).await {
                Meaning::PodGone => return self.gone(false),
                Meaning::Denied => POLL,
                // The version is too old: read again, but do not spin if it always is.
                Meaning::Passing => self.backoff.after(&error),
            },
        };
        sleep(wait).await;
        Ok(())
    }

    async fn not_read(&mut self, error: &ApiError) -> Result<(), Over> {
        let known = self.room.me.borrow().clone();
        if error.is_missing() && (known.seen || !self.room.identity.guessed) {
            return self.gone(false);
        }
        match self.room.understand(GET_PODS, error).await {
            Meaning::PodGone => self.gone(false),
            Meaning::Denied => Err(Over),
            Meaning::Passing => {
                sleep(self.backoff.after(error)).await;
                Ok(())
            }
        }
    }

    /// Records that the Pod no longer exists.
    fn gone(&mut self, watched: bool) -> Result<(), Over> {
        let clock = Clock {
            local: Instant::now(),
            server: 0,
        };
        self.see(None, clock, watched)
    }

    /// Watches until the watch ends.
    async fn watch(&mut self, version: &str) -> Result<Result<(), ApiError>, Over> {
        let opened = self
            .room
            .api
            .watch::<Pod>(&self.room.identity.name, version);
        let mut watch = match opened.await {
            Ok(watch) => watch,
            Err(error) => return Ok(Err(error)),
        };
        let clock = watch.clock();
        while let Some(event) = watch.next().await {
            match event {
                Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                    self.see(Some(&pod), clock, true)?;
                }
                Ok(WatchEvent::Deleted(pod)) => self.deleted(&pod, clock)?,
                Ok(WatchEvent::Bookmark(_) | WatchEvent::Error(_)) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(match watch.age() < SHORTEST_WATCH {
            true => Err(ApiError::closed_at_once()),
            false => Ok(()),
        })
    }

    /// Handles the last event of a Pod. It is ours unless its uid shows that it is another Pod of the same name.
    fn deleted(&mut self, pod: &Pod, clock: Clock) -> Result<(), Over> {
        let own = self.room.me.borrow().me.uid.clone();
        match (&pod.metadata.uid, own) {
            (Some(uid), Some(own)) if *uid != own => Ok(()),
            _ => self.see(None, clock, true),
        }
    }

    fn see(&mut self, pod: Option<&Pod>, clock: Clock, watched: bool) -> Result<(), Over> {
        let container = self.room.identity.container.as_deref();
        let pod = pod
            .map(|pod| PodFacts::read(pod, container))
            .filter(|pod| self.room.learn(pod));
        let gone = pod.is_none();
        let sighting = Sighting {
            pod,
            clock,
            seen: Instant::now(),
            watched,
        };
        if let Some((cause, kill)) = self.judge.judge(&sighting) {
            tracing::info!(
                drain_id = self.room.drain.id(),
                cause = cause.as_str(),
                deadline_source = kill.source.as_str(),
                seconds_left = kill
                    .at
                    .saturating_duration_since(sighting.seen)
                    .as_secs_f64(),
                "why this process must end, and until when"
            );
            self.room.drain.observe_cause(cause);
            self.room.drain.observe_kill(kill);
        }
        match gone {
            true => {
                self.room.pod_is_gone();
                Err(Over)
            }
            false => Ok(()),
        }
    }
}
