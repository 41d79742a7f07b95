//! One pool: reserves as many jobs as it has workers free, until T0.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    time::sleep,
};

use super::{Pool, Shared};
use crate::{
    engine::Event,
    handler::Verdict,
    job::{Outcome, Reserved},
    metrics::Meter,
};
use lameduck_lifecycle::{JobGuard, Moment, Work};

/// How often an empty queue is looked at though no event came: the floor under all wake-ups.
const POLL: Duration = Duration::from_secs(1);

/// Jobs reserved in one statement.
const BATCH: usize = 64;

/// One pool at work.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Pool,
    pub(super) work: Arc<Work>,
    pub(super) meter: Arc<Meter>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, pool: Pool, meter: Arc<Meter>) -> Self {
        Self {
            shared,
            pool,
            work: meter.work().clone(),
            meter,
        }
    }

    pub(super) async fn reserve_until_t0(self: Arc<Self>) {
        self.shared.engine.prepare(&self.pool.queue);
        let slots = Arc::new(Semaphore::new(self.pool.workers));
        let mut events = self.shared.engine.events();
        while !self.shared.drain.has(Moment::Began) {
            let began = self.shared.drain.reached(Moment::Began);
            let free = tokio::select! {
                () = began => break,
                free = free_slots(&slots) => free,
            };
            let wanted = free.len();
            let taken = self.reserve(free).await;
            if taken < wanted.min(BATCH) {
                self.wait_for_jobs(&mut events).await;
            }
        }
    }

    /// Reserves a job for each slot; returns how many there were.
    async fn reserve(self: &Arc<Self>, slots: Vec<OwnedSemaphorePermit>) -> usize {
        // First counted, then looked at T0: either we see it, or the conductor sees us.
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
                tracing::error!(queue = %self.pool.queue, %error, "cannot reserve jobs");
                return 0;
            }
        };
        let count = reserved.len();
        holds.truncate(count);
        let late = self.shared.drain.has(Moment::Began);
        for ((reserved, slot), mut hold) in reserved.into_iter().zip(slots).zip(holds) {
            hold.name(reserved.job.id.to_string());
            let worker = self.clone();
            let mut busy = self.meter.reserved(&reserved);
            self.shared.running.spawn(async move {
                let Reserved {
                    job,
                    claim,
                    process,
                    ..
                } = reserved;
                let outcome = if late {
                    Outcome::Released
                } else {
                    let ended = worker.run(&job, &claim, process).await;
                    if let Some(took) = ended.took
                        && ended.verdict != Verdict::Released
                    {
                        worker.work.ran(took);
                    }
                    busy.ended(ended.took, ended.timed_out, ended.cancelled);
                    worker.judge(&job, ended)
                };
                let _writing = worker.shared.writing.token();
                worker.settle(claim, outcome, &busy).await;
                drop((busy, hold, slot));
            });
        }
        count
    }

    /// Waits until it is worth looking again.
    async fn wait_for_jobs(&self, events: &mut broadcast::Receiver<Event>) {
        let due = match self.shared.engine.next_run_in(&self.pool.queue).await {
            Ok(Some(due)) => due.min(POLL),
            Ok(None) => POLL,
            Err(error) => {
                tracing::warn!(queue = %self.pool.queue, %error, "cannot look at the queue");
                POLL
            }
        };
        let runnable = async {
            loop {
                match events.recv().await {
                    Ok(Event::Runnable(queue)) if queue != self.pool.queue => {}
                    Ok(Event::Changed(_) | Event::Ended(_) | Event::CancelRequested(_)) => {}
                    // Events were missed, or the engine is gone: look.
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

/// Waits for one free slot, then takes all that are free, up to a batch.
async fn free_slots(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let mut free = Vec::new();
    if let Ok(slot) = slots.clone().acquire_owned().await {
        free.push(slot);
    }
    while free.len() < BATCH {
        match slots.clone().try_acquire_owned() {
            Ok(slot) => free.push(slot),
            Err(_) => break,
        }
    }
    free
}
