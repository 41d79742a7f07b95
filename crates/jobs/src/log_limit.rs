//! Log lines that say the same again and again: one at once, then one for each interval.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lets one line through for each interval.
#[derive(Debug)]
pub struct LogLimit {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    withheld: u64,
}

// === impl LogLimit ===

impl LogLimit {
    /// One line for each of these intervals.
    pub const fn new(every: Duration) -> Self {
        let state = Mutex::new(State {
            last: None,
            withheld: 0,
        });
        Self { every, state }
    }

    /// Whether a line may be written now, and how many were withheld since the one before.
    pub fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let too_soon = |last: Instant| now.saturating_duration_since(last) < self.every;
        if state.last.is_some_and(too_soon) {
            state.withheld += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_comes_at_once_and_then_one_for_each_interval() {
        let limit = LogLimit::new(Duration::from_secs(10));
        assert_eq!(limit.pass(), Some(0));
        for _ in 0..100 {
            assert_eq!(limit.pass(), None);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(limit.pass(), Some(100));
        assert_eq!(limit.pass(), None);
    }
}
