//! [`LogThrottle`]: limits log lines that somebody outside can cause as often as they like.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A throttle that lets one log line through per interval and counts those that it holds back.
#[derive(Debug)]
pub struct LogThrottle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

// === impl LogThrottle ===

impl LogThrottle {
    /// Returns a throttle that lets one line through per `interval`.
    pub const fn every(interval: Duration) -> Self {
        Self {
            interval,
            state: Mutex::new(State {
                last: None,
                left_out: 0,
            }),
        }
    }

    /// Returns how many lines were held back since the last one if a line may be written now, and `None` if it may
    /// not.
    pub fn admit(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |last| now.saturating_duration_since(last) >= self.interval;
        if state.last.is_none_or(is_due) {
            state.last = Some(now);
            Some(std::mem::take(&mut state.left_out))
        } else {
            state.left_out += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_passes_per_interval_and_says_how_many_did_not() {
        let minute = Duration::from_secs(60);
        let throttle = LogThrottle::every(minute);

        assert_eq!(throttle.admit(), Some(0));
        for _ in 0..1_000 {
            assert_eq!(throttle.admit(), None);
        }
        tokio::time::advance(minute).await;
        assert_eq!(throttle.admit(), Some(1_000));
        assert_eq!(throttle.admit(), None);
    }
}
