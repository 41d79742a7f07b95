//! One pool, which reserves as many jobs as it has free workers, until T0.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    time::{sleep, sleep_until},
};

use super::{
    Pool, Shared,
    outage::{Pace, Try},
    target::Target,
};
use crate::{
    engine::Event,
    handler::Verdict,
    job::{Outcome, Reserved},
    metrics::Meter,
};
use lameduck_lifecycle::{BoxError, JobGuard, LogThrottle, Moment, Work};

/// Interval at which an empty queue is polled if no event comes: the lower bound of all wake-ups.
const POLL: Duration = Duration::from_secs(1);

/// Minimum interval between two errors that nothing can be reserved.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Maximum number of jobs reserved in one statement.
const BATCH: usize = 64;

/// A pool at work.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    pub(super) work: Arc<Work>,
    pub(super) meter: Arc<Meter>,
    pub(super) target: Target,
    reserve_fails: LogThrottle,
}

/// How many jobs may be reserved.
struct Turn {
    most: usize,
    /// The permission for the one job that is tried in an outage.
    attempt: Option<Try>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, pool: Pool, meter: Arc<Meter>) -> Self {
        Self {
            target: Target::new(&shared.drain, &pool, meter.clone()),
            shared,
            pool,
            work: meter.work().clone(),
            meter,
            reserve_fails: LogThrottle::every(TELL_AGAIN),
        }
    }

    pub(super) async fn reserve_until_t0(self: Arc<Self>) -> Result<(), BoxError> {
        self.shared.engine.prepare(&self.pool.queue);
        let slots = Arc::new(Semaphore::new(self.pool.workers));
        let mut events = self.shared.engine.events();
        while !self.shared.drain.has(Moment::Began) {
            let ready = async {
                let slot = slots.clone().acquire_owned().await.ok();
                (slot, self.turn().await)
            };
            let (slot, Turn { most, attempt }) = tokio::select! {
                () = self.shared.drain.reached(Moment::Began) => break,
                ready = ready => ready,
            };
            let mut free: Vec<_> = slot.into_iter().collect();
            add_free_slots(&mut free, &slots, most);
            let wanted = free.len();
            // The reservation sees everything that has happened until now. If these events were kept, each would
            // cause another one.
            forget(&mut events);
            let taken = self.reserve(free, attempt).await;
            if taken < wanted {
                self.wait_for_jobs(&mut events).await;
            }
        }
        Ok(())
    }

    /// Waits until jobs may be reserved: none beside a suspect, and in an outage only one now and then.
    async fn turn(&self) -> Turn {
        loop {
            self.shared.floor.opened().await;
            let outage = self.target.outage();
            // Subscribe before looking, so that no change is missed.
            let changed = outage.changed();
            match self.target.pace() {
                Pace::Full => {
                    return Turn {
                        most: BATCH,
                        attempt: None,
                    };
                }
                Pace::One => {
                    if let Some(attempt) = outage.begin_try() {
                        return Turn {
                            most: 1,
                            attempt: Some(attempt),
                        };
                    }
                }
                Pace::NotBefore(at) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
                Pace::Trying => changed.await,
            }
        }
    }

    /// Reserves a job for each slot; returns how many there were.
    async fn reserve(
        self: &Arc<Self>,
        slots: Vec<OwnedSemaphorePermit>,
        attempt: Option<Try>,
    ) -> usize {
        // Count first, then check for T0: either we see it, or the conductor sees us.
        let mut holds: Vec<JobGuard> = slots.iter().map(|_| self.work.hold()).collect();
        if self.shared.drain.has(Moment::Began) {
            return 0;
        }
        self.meter.reserve_sent(&self.shared.drain);
        let reserved = match self
            .shared
            .engine
            .reserve(&self.pool.queue, self.pool.order, slots.len())
            .await
        {
            Ok(reserved) => reserved,
            Err(error) => {
                if let Some(left_out) = self.reserve_fails.admit() {
                    tracing::error!(queue = %self.pool.queue, %error, left_out, "cannot reserve jobs");
                }
                return 0;
            }
        };
        let count = reserved.len();
        holds.truncate(count);
        let late = self.shared.drain.has(Moment::Began);
        let mut attempt = attempt;
        for ((reserved, slot), mut hold) in reserved.into_iter().zip(slots).zip(holds) {
            hold.name(reserved.job.id.to_string());
            let run = self
                .clone()
                .see_through(reserved, hold, attempt.take(), late);
            self.shared.running.spawn(async move {
                run.await;
                drop(slot);
            });
        }
        count
    }

    /// Takes one job from its reservation to its durable outcome.
    async fn see_through(
        self: Arc<Self>,
        reserved: Reserved,
        hold: JobGuard,
        attempt: Option<Try>,
        late: bool,
    ) {
        let mut busy = self.meter.reserved(&reserved);
        let Reserved {
            job,
            claim,
            process,
            ..
        } = reserved;
        let running = self.shared.runs.add(&claim, process, hold);
        let outcome = if late {
            Outcome::Released
        } else {
            let ended = self.run(&job, &claim, &running, attempt.is_some()).await;
            if let Some(took) = ended.took
                && ended.verdict != Verdict::Released
            {
                self.work.ran(took);
            }
            busy.ended(ended.took, ended.timed_out, ended.cancelled);
            self.judge(&job, ended)
        };
        // The next job may be tried while this one's outcome is written.
        drop(attempt);
        let _writing = self.shared.writing.token();
        self.settle(claim, outcome, &busy, running.hold()).await;
    }

    /// Waits until it is worth looking again.
    async fn wait_for_jobs(&self, events: &mut broadcast::Receiver<Event>) {
        let due = match self.shared.engine.next_run_in(&self.pool.queue).await {
            Ok(Some(due)) => due.min(POLL),
            Ok(None) => POLL,
            Err(error) => {
                // A failed reserve has been logged, and the next one will be.
                tracing::debug!(queue = %self.pool.queue, %error, "cannot look at the queue");
                POLL
            }
        };
        let runnable = async {
            loop {
                match events.recv().await {
                    Ok(Event::Runnable(queue)) if queue != self.pool.queue => {}
                    Ok(Event::Changed(_) | Event::Ended(_) | Event::CancelRequested(_)) => {}
                    // There may be a job, or events were missed: look.
                    Ok(Event::Runnable(_)) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = self.shared.drain.reached(Moment::Began) => {}
            () = runnable => {}
            () = sleep(due) => {}
        }
    }
}

/// Drops the events that have come so far, even if some were missed.
fn forget(events: &mut broadcast::Receiver<Event>) {
    *events = events.resubscribe();
}

/// Adds free slots to those that are there, up to `most` in all.
fn add_free_slots(free: &mut Vec<OwnedSemaphorePermit>, slots: &Arc<Semaphore>, most: usize) {
    while free.len() < most
        && let Ok(slot) = slots.clone().try_acquire_owned()
    {
        free.push(slot);
    }
}
