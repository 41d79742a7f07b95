//! How long nobody has answered, over all jobs of a handler.
//!
//! ```text
//!   an answer     no connection: postponed, no attempt counted                     failed, attempts count
//!   ────┬─────────┬─┬───┬───────┬──────────────┬──────────────┬──────────────┬─────┬──────────▶
//!       │         1 s 2 s  4 s …  30 s at the most, with jitter                    patience is over
//! ```
//!
//! What goes on for long is looked at rarely: a job waits about as long as the outage has lasted. So the wait
//! doubles from one look to the next, however many workers look.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The first wait.
const SHORTEST: Duration = Duration::from_secs(1);
/// And the longest: so much later than its target a queue is back.
const LONGEST: Duration = Duration::from_secs(30);

/// Since when a target is out of reach, if it is.
#[derive(Debug)]
pub(super) struct Outage {
    patience: Duration,
    seen: Mutex<Option<Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Instant,
    last: Instant,
}

// === impl Outage ===

impl Outage {
    pub fn new(patience: Duration) -> Self {
        let seen = Mutex::new(None);
        Self { patience, seen }
    }

    /// Somebody answered, whatever it was.
    pub fn is_over(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Nobody answered: how long a job should wait, or `None` where patience is over.
    pub fn goes_on(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A failure long ago, and no job since, shows nothing about the time between.
        let before = seen.filter(|seen| now.duration_since(seen.last) <= self.patience);
        let first = before.map_or(now, |seen| seen.first);
        *seen = Some(Seen { first, last: now });
        let lasted = now.duration_since(first);
        let wait = lasted.clamp(SHORTEST, LONGEST);
        // Between half and the whole of it, so that what was postponed together does not come back together.
        (lasted < self.patience).then(|| wait.mul_f64(0.5 + 0.5 * fastrand::f64()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn outage() -> Outage {
        Outage::new(Duration::from_secs(300))
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_from_a_second_to_half_a_minute_until_patience_is_over() {
        let outage = outage();
        let began = Instant::now();

        let mut waits = Vec::new();
        while let Some(wait) = outage.goes_on() {
            waits.push(wait.as_secs_f64());
            advance(wait).await;
        }

        assert!((0.5..=1.0).contains(&waits[0]), "{waits:?}");
        assert!((15.0..=30.0).contains(waits.last().unwrap()), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 30.0), "{waits:?}");
        let lasted = began.elapsed().as_secs();
        assert!((300..=330).contains(&lasted), "{lasted}");
        assert_eq!(outage.goes_on(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_workers_do_not_make_an_outage_longer() {
        let outage = outage();
        for _ in 0..1000 {
            assert!(outage.goes_on().unwrap() <= SHORTEST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_answer_ends_it() {
        let outage = outage();
        while outage.goes_on().is_some() {
            advance(LONGEST).await;
        }

        outage.is_over();

        assert!(outage.goes_on().unwrap() <= SHORTEST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_failure_is_not_the_beginning_of_a_new_outage() {
        let outage = outage();
        outage.goes_on();
        advance(Duration::from_secs(301)).await;
        assert!(outage.goes_on().unwrap() <= SHORTEST);
    }
}
