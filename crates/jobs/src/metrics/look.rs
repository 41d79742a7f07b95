//! What only a look now and then can tell: how many jobs are where, whether the workers are enough, and whether
//! the grace period is long enough for the jobs.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Meter, demand::Demand, families::Families};
use crate::{
    engine::Engine,
    job::{QueueName, QueueStats},
};
use lameduck_lifecycle::{BoxError, Budget, Drain, DrainSettings, LogThrottle, Moment};

/// Where no pool says how often.
const EVERY: Duration = Duration::from_secs(5);

/// How often to say that it can't be done.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A pool and what is known of it from looking.
struct Watched {
    meter: Arc<Meter>,
    demand: Demand,
    /// The grace period that was told to be needed; zero where none was.
    told_grace: Duration,
}

/// Looks for as long as the process lives, at once and then as often as the shortest demand window wants it.
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
                // Those that nobody works on here are shown as well: jobs wait in them for ever.
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

    /// So many of this pool's jobs were running before the engine was asked.
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
        // In a drain, and of a paused queue, nothing is reserved on purpose.
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
        // Told again when it has doubled, since nobody would repair it for each second that it grows.
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
