//! Follows the own Pod from T0 on: read it, then watch it, then read it again.
//!
//! A watch, because a second delete with a shorter grace period must be seen before that has passed. It is
//! preceded by a read with quorum each time, because only that proves what was *not* the case: the kubelet
//! acts on a deletion that is committed, and a watch may be served from a cache that has not seen it yet.
//! Where watching is not allowed, reading alone does, every two seconds.

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
    GET_PODS, Room, WATCH_PODS,
};
use lameduck_lifecycle::Moment;

/// Between two reads where watching is not allowed.
const POLL: Duration = Duration::from_secs(2);

/// A watch that ends sooner is not started anew at once, whatever it brought.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// Tells cause and deadline, until the teardown.
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

/// There is nothing left to follow.
struct Over;

impl Follower<'_> {
    async fn follow(&mut self) {
        loop {
            let round = match self.room.api.get::<Pod>(&self.room.identity.name).await {
                Ok(answer) => self.read(answer).await,
                Err(error) => self.not_read(&error).await,
            };
            if round.is_err() {
                self.room.settle();
                return;
            }
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
            Err(error) if error.is_denied() => {
                self.room.complain(WATCH_PODS, &error);
                POLL
            }
            // The version is too old: read again, but do not spin where it always is.
            Err(error) => self.backoff.after(&error),
        };
        sleep(wait).await;
        Ok(())
    }

    async fn not_read(&mut self, error: &ApiError) -> Result<(), Over> {
        let known = self.room.me.borrow().clone();
        if error.is_missing() && (known.seen || !self.room.identity.guessed) {
            let clock = Clock {
                local: Instant::now(),
                server: 0,
            };
            return self.see(None, clock, false);
        }
        self.room.complain(GET_PODS, error);
        if error.is_denied() {
            return Err(Over);
        }
        sleep(self.backoff.after(error)).await;
        Ok(())
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
                Ok(WatchEvent::Deleted(_)) => self.see(None, clock, true)?,
                Ok(WatchEvent::Bookmark(_) | WatchEvent::Error(_)) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(match watch.age() < SHORTEST_WATCH {
            true => Err(ApiError::closed_at_once()),
            false => Ok(()),
        })
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
                ?cause,
                source = ?kill.source,
                seconds_left = kill.at.saturating_duration_since(sighting.seen).as_secs_f64(),
                "why this process must end, and until when"
            );
            self.room.drain.observe_cause(cause);
            self.room.drain.observe_kill(kill);
        }
        match gone {
            true => Err(Over),
            false => Ok(()),
        }
    }
}
