//! Periodic sampling of the queues: how many jobs are in which state, whether there are enough workers, and whether
//! the grace period is long enough for the jobs.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Meter, demand::Demand, families::Families};
use crate::{
    engine::Engine,
    job::{QueueName, QueueStats},
};
use lameduck_lifecycle::{BoxError, Budget, Drain, DrainSettings, LogThrottle, Moment};

/// Interval between two looks if no pool sets one.
const EVERY: Duration = Duration::from_secs(5);

/// Minimum interval between two warnings that the queues can't be read.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A pool, and what the samples have shown about it.
struct Watched {
    meter: Arc<Meter>,
    demand: Demand,
    /// The needed grace period that the last warning named; zero if there was none.
    told_grace: Duration,
}

/// Samples for as long as the process lives: immediately, and then as often as the shortest demand window requires.
pub(crate) async fn now_and_then(
    engine: Arc<dyn Engine>,
    drain: Drain,
    settings: DrainSettings,
    meters: Vec<Arc<Meter>>,
) -> Result<(), BoxError> {
    let families = Families::of(&drain);
    families.grace_configured.set(settings.grace.as_secs_f64());
    let mut watched: Vec<Watched> = meters.into_iter().map(Watched::new).collect();
    let every = watched.iter().map(|pool| pool.demand.every()).min();
    let every = every.unwrap_or(EVERY);
    let limit = LogThrottle::every(TELL_AGAIN);
    loop {
        let running: Vec<u64> = watched.iter().map(Watched::running).collect();
        match engine.queues().await {
            Ok(queues) => {
                // Queues without workers here are shown as well: jobs may wait in them forever.
                for stats in &queues {
                    families.show(stats);
                }
                for (pool, running) in watched.iter_mut().zip(running) {
                    pool.look(&queues, running, &drain, &settings);
                }
            }
            Err(error) if error.is_final() => return Ok(()),
            Err(error) => {
                if let Some(left_out) = limit.admit() {
                    tracing::warn!(
                        %error, left_out,
                        "the queues can't be looked at; their figures are old"
                    );
                }
            }
        }
        sleep(every).await;
    }
}

// === impl Watched ===

impl Watched {
    fn new(meter: Arc<Meter>) -> Self {
        Self {
            demand: Demand::new(meter.window),
            meter,
            told_grace: Duration::ZERO,
        }
    }

    fn running(&self) -> u64 {
        self.meter.with_tally(|tally| tally.running())
    }

    /// Takes a sample; `ran` of this pool's jobs were running before the engine was asked.
    fn look(&mut self, queues: &[QueueStats], ran: u64, drain: &Drain, settings: &DrainSettings) {
        let stats = of(queues, &self.meter.queue);
        let share = match stats.running {
            0 => 1.0,
            all => (ran.max(self.running()) as f64 / all as f64).min(1.0),
        };
        let tally = self.meter.with_tally(|tally| *tally);
        self.demand
            .look(Instant::now(), &tally, stats.pending, share);
        if let Some(arithmetic) = self.demand.arithmetic() {
            self.meter.needed.set(arithmetic.needed());
        }
        // In a drain, and from a paused queue, nothing is reserved on purpose.
        if !drain.has(Moment::Began) && !stats.paused {
            self.tell_of_too_few_workers();
        }
        self.look_at_grace(settings);
    }

    fn tell_of_too_few_workers(&mut self) {
        let workers = self.meter.workers;
        if let Some(sum) = self.demand.complaint(workers) {
            let queue = &self.meter.queue;
            tracing::warn!(
                %queue, workers, needed = sum.needed().round(),
                "queue {queue}: {sum}, there are {workers}; the backlog grows by {:.1} a second (setting \
                 'workers', or more replicas)",
                sum.growing,
            );
        }
    }

    fn look_at_grace(&mut self, settings: &DrainSettings) {
        let longest = self.meter.work.longest_run();
        if longest.is_zero() {
            return;
        }
        let needed = Budget::grace_for(longest, settings);
        self.meter.grace.set(needed.as_secs_f64());
        // The warning is repeated when the need has doubled, since nobody would fix it for each second that it grows.
        if needed > settings.grace && needed >= self.told_grace * 2 {
            self.told_grace = needed;
            let queue = &self.meter.queue;
            tracing::warn!(
                %queue, longest_run = longest.as_secs_f64(), needed = needed.as_secs(),
                "queue {queue}: a run took {longest:.1?}, and with a grace period of {:?} a drain tells it to \
                 stop before that; set terminationGracePeriodSeconds, and the setting 'grace', to {} or more",
                settings.grace, needed.as_secs(),
            );
        }
    }
}

fn of(queues: &[QueueStats], queue: &QueueName) -> QueueStats {
    let known = queues.iter().find(|stats| stats.queue == *queue);
    let stats = known.cloned();
    stats.unwrap_or_else(|| QueueStats::empty(queue.clone()))
}
