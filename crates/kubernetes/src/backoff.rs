//! The waits between failed requests.
//!
//! A drain is short, and when an API server is in trouble, a whole cluster asks it at once. Retries therefore
//! start soon, are at most two seconds apart, and have random jitter. A wait that the server asks for is
//! honoured up to a limit: a drain of half a minute can't wait the minute that a server may ask for.

use std::time::Duration;

use super::api::ApiError;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
const LONGEST_ASKED: Duration = Duration::from_secs(5);

/// The waits between failed attempts; to be reset when one succeeds.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { next: FIRST }
    }

    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Returns how long to wait after this error.
    pub(super) fn after(&mut self, error: &ApiError) -> Duration {
        let own = self.next;
        self.next = (own * 2).min(LONGEST);
        match error.retry_after() {
            // Never before the time that the server asked for, and not all clients at the same moment.
            Some(asked) => asked
                .clamp(own, LONGEST_ASKED)
                .mul_f64(1.0 + chance() / 4.0),
            None => own.mul_f64(0.5 + chance() / 2.0),
        }
    }
}

/// Returns a random number from 0 to 1.
fn chance() -> f64 {
    fastrand::f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttled(seconds: Option<u64>) -> ApiError {
        ApiError::Status {
            code: 429,
            message: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_grow_up_to_two_seconds_and_are_never_nothing() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            let wait = backoff.after(&ApiError::Timeout);
            assert!(wait >= FIRST / 2 && wait <= LONGEST, "{wait:?}");
        }
        assert!(backoff.after(&ApiError::Timeout) >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.after(&ApiError::Timeout) <= FIRST);
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let two = Backoff::new().after(&throttled(Some(2)));
        assert!((2.0..=2.5).contains(&two.as_secs_f64()), "{two:?}");
        let hour = Backoff::new().after(&throttled(Some(3_600)));
        assert!(hour <= LONGEST_ASKED.mul_f64(1.25), "{hour:?}");
        let zero = Backoff::new().after(&throttled(Some(0)));
        assert!(zero >= FIRST, "{zero:?}");
    }
}
