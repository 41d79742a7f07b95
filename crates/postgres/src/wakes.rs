//! How often the idle pools of a queue are woken: at once, and then once per interval.
//!
//! ```text
//!   jobs:   ●               ●●●●●●●●●●●●●●●●●●
//!   wakes:  ▲               ▲     ▲     ▲     ▲          the first at once, the last never forgotten
//!                           └─gap─┘
//! ```
//!
//! Each wake makes every idle pool of the queue ask the database for jobs. With one wake per job, all replicas would
//! ask as often as anybody submits, and nearly always find nothing. A single job on an idle queue does not wait.
//!
//! There is no timer in here: the caller waits until [`Wakes::next`] and then takes the queues that are [`Wakes::due`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::broadcast,
    time::{Instant, sleep_until},
};

use lameduck_jobs::{engine::Event, job::QueueName};

/// The wakes of some queues, each at most once per interval.
pub(super) struct Wakes {
    gap: Duration,
    queues: HashMap<QueueName, Wake>,
}

/// Wakes pools of this process by sending events.
#[derive(Clone)]
pub(super) struct Waker {
    wakes: Arc<Mutex<Wakes>>,
    here: broadcast::Sender<Event>,
}

/// A queue whose pools were woken a moment ago.
struct Wake {
    /// When they may be woken again.
    until: Instant,
    /// Whether there is a reason to.
    pending: bool,
}

/// When a wake happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// At this instant: it is the first one that has to wait.
    Later(Instant),
    /// Together with one that is already waiting.
    Together,
}

// === impl Wakes ===

impl Wakes {
    /// Allows at most one wake of each queue in this time.
    pub fn every(gap: Duration) -> Self {
        Self {
            gap,
            queues: HashMap::new(),
        }
    }

    /// Notes that there is a job for this queue.
    pub fn tell(&mut self, queue: &QueueName, now: Instant) -> When {
        match self.queues.get_mut(queue) {
            Some(wake) if wake.pending => When::Together,
            Some(wake) if now < wake.until => {
                wake.pending = true;
                When::Later(wake.until)
            }
            _ => {
                self.woken(queue.clone(), now);
                When::Now
            }
        }
    }

    /// Returns when the next delayed wake is due.
    pub fn next(&self) -> Option<Instant> {
        let pending = self.queues.values().filter(|wake| wake.pending);
        pending.map(|wake| wake.until).min()
    }

    /// Returns the queues whose delayed wakes are due.
    pub fn due(&mut self, now: Instant) -> Vec<QueueName> {
        // Queues that have been quiet since their last wake are forgotten.
        self.queues
            .retain(|_, wake| wake.pending || now < wake.until);
        let due = self.queues.iter();
        let due = due.filter(|(_, wake)| wake.pending && wake.until <= now);
        let due: Vec<_> = due.map(|(queue, _)| queue.clone()).collect();
        for queue in &due {
            self.woken(queue.clone(), now);
        }
        due
    }

    fn woken(&mut self, queue: QueueName, now: Instant) {
        let wake = Wake {
            until: now + self.gap,
            pending: false,
        };
        self.queues.insert(queue, wake);
    }
}

// === impl Waker ===

impl Waker {
    /// Wakes all subscribers, for each queue at most once in this time.
    pub fn new(gap: Duration, here: broadcast::Sender<Event>) -> Self {
        Self {
            wakes: Arc::new(Mutex::new(Wakes::every(gap))),
            here,
        }
    }

    /// Notes that there is a job for this queue. Has to be called within a runtime.
    pub fn tell(&self, queue: QueueName) {
        let when = self.wakes().tell(&queue, Instant::now());
        match when {
            When::Now => self.wake(queue),
            When::Together => {}
            When::Later(at) => {
                let waker = self.clone();
                tokio::spawn(async move {
                    sleep_until(at).await;
                    let due = waker.wakes().due(Instant::now());
                    due.into_iter().for_each(|queue| waker.wake(queue));
                });
            }
        }
    }

    fn wake(&self, queue: QueueName) {
        // It is fine if nobody listens.
        let _ = self.here.send(Event::Runnable(queue));
    }

    fn wakes(&self) -> std::sync::MutexGuard<'_, Wakes> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const GAP: Duration = Duration::from_millis(50);

    fn mail() -> QueueName {
        "mail".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_job_waits_for_nothing_and_a_burst_is_one_wake_per_interval() {
        let mut wakes = Wakes::every(GAP);
        let begin = Instant::now();

        assert_eq!(wakes.tell(&mail(), begin), When::Now);
        assert_eq!(wakes.tell(&mail(), begin), When::Later(begin + GAP));
        for _ in 0..1_000 {
            assert_eq!(wakes.tell(&mail(), begin + GAP / 2), When::Together);
        }

        let other = "resize".parse().unwrap();
        assert_eq!(wakes.tell(&other, begin + GAP / 2), When::Now);
        assert_eq!(wakes.next(), Some(begin + GAP));
        assert_eq!(wakes.due(begin + GAP / 2), []);
        assert_eq!(wakes.due(begin + GAP), [mail()]);
        assert_eq!(wakes.next(), None, "nothing more is told of the burst");
        assert_eq!(wakes.tell(&mail(), begin + GAP * 2), When::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_been_quiet_is_forgotten() {
        let mut wakes = Wakes::every(GAP);
        let begin = Instant::now();
        wakes.tell(&mail(), begin);

        wakes.due(begin + GAP);

        assert!(wakes.queues.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_job_of_a_burst_is_told_of_when_its_interval_is_over() {
        let (here, mut heard) = broadcast::channel(16);
        let waker = Waker::new(GAP, here);
        let runnable = Event::Runnable(mail());

        for _ in 0..100 {
            waker.tell(mail());
        }

        assert_eq!(heard.try_recv().unwrap(), runnable, "at once");
        assert!(heard.try_recv().is_err());
        advance(GAP).await;
        let last = timeout(GAP, heard.recv()).await;
        assert_eq!(last.expect("another wake").unwrap(), runnable);
        assert!(heard.try_recv().is_err(), "and no more of them");
    }
}
