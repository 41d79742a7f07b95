//! Who waits for a job to change.
//!
//! ```text
//!   engine's events ──▶ one follower ──▶ those who watch this job
//! ```
//!
//! Every event would wake everybody if each of them followed the engine: a thousand who wait and a thousand
//! jobs a second are millions of wake-ups. So one task follows, and wakes whom it concerns. Events are hints:
//! whoever waits looks from time to time all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        broadcast::{self, error::RecvError},
        watch,
    },
    time::timeout,
};

use super::Problem;
use lameduck_jobs::{
    engine::{Engine, Event},
    job::JobId,
};

/// How often to look although no event came.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Knows who watches which job.
pub(super) struct Lookout {
    engine: Arc<dyn Engine>,
    watched: Mutex<HashMap<JobId, watch::Sender<()>>>,
    room: Arc<Semaphore>,
    follow: Once,
}

/// Watches a job, as long as it lives.
pub(super) struct Watch {
    lookout: Arc<Lookout>,
    job: JobId,
    changed: watch::Receiver<()>,
    _room: OwnedSemaphorePermit,
}

// === impl Lookout ===

impl Lookout {
    /// With room for so many.
    pub(super) fn new(engine: Arc<dyn Engine>, room: usize) -> Arc<Self> {
        Arc::new(Self {
            engine,
            watched: Mutex::default(),
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            follow: Once::new(),
        })
    }

    /// Watches a job; what changes from now on is not missed.
    pub(super) fn watch(self: &Arc<Self>, job: JobId) -> Result<Watch, Problem> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| {
            Problem::overloaded(
                "too many requests wait for jobs already; ask again, or without waiting (setting 'max-waiting')",
            )
        })?;
        // Subscribed to before anybody looks, whoever is the first.
        self.follow.call_once(|| self.spawn_follower());
        let changed = self
            .watched()
            .entry(job)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Ok(Watch {
            lookout: self.clone(),
            job,
            changed,
            _room: room,
        })
    }

    fn spawn_follower(self: &Arc<Self>) {
        let events = self.engine.events();
        let lookout = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut events: broadcast::Receiver<Event> = events;
            loop {
                let event = events.recv().await;
                // The last request and the router are gone.
                let Some(lookout) = lookout.upgrade() else {
                    return;
                };
                match event {
                    Ok(Event::Changed(job) | Event::Ended(job) | Event::CancelRequested(job)) => {
                        lookout.wake(job);
                    }
                    Ok(Event::Runnable(_)) => {}
                    Err(RecvError::Lagged(_)) => lookout.wake_all(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    fn wake(&self, job: JobId) {
        if let Some(changed) = self.watched().get(&job) {
            changed.send_replace(());
        }
    }

    fn wake_all(&self) {
        for changed in self.watched().values() {
            changed.send_replace(());
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watch ===

impl Watch {
    /// Waits until it is worth looking again.
    pub(super) async fn changed(&mut self) {
        // The sender lives as long as anybody watches, and being told nothing is a reason to look, too.
        let _ = timeout(LOOK_AGAIN, self.changed.changed()).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.lookout.watched();
        // This one's own receiver still counts.
        if watched
            .get(&self.job)
            .is_some_and(|changed| changed.receiver_count() <= 1)
        {
            watched.remove(&self.job);
        }
    }
}
