//! [`Timeline`]: records when the moments of a drain came.
//!
//! It is the part of a [`Drain`](super::Drain) that the gauges of the rooms need. The drain holds its gauges, so
//! they hold the timeline instead of the drain; otherwise neither would ever be freed.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::phase::Moment;

/// The moments of a drain, and when each came.
#[derive(Debug)]
pub(super) struct Timeline {
    epoch: Instant,
    moments: [CancellationToken; Moment::ALL.len()],
    raised_at: [OnceLock<Instant>; Moment::ALL.len()],
    /// Whether somebody observes the endpoints, so that a request can be late.
    observed: AtomicBool,
    /// Notified when a count that the conductor waits for may have reached zero.
    emptied: Notify,
}

// === impl Timeline ===

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            moments: std::array::from_fn(|_| CancellationToken::new()),
            raised_at: Default::default(),
            observed: AtomicBool::new(false),
            emptied: Notify::new(),
        }
    }

    /// Returns when the drain was created, before anything that it counts.
    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(super) fn has(&self, moment: Moment) -> bool {
        self.token(moment).is_cancelled()
    }

    pub(super) fn token(&self, moment: Moment) -> &CancellationToken {
        &self.moments[moment as usize]
    }

    pub(super) fn raise(&self, moment: Moment, at: Instant) {
        // The time is set first, so that it is there for everyone who sees the moment.
        self.raised_at[moment as usize].get_or_init(|| at);
        self.token(moment).cancel();
    }

    pub(super) fn raised_at(&self, moment: Moment) -> Option<Instant> {
        self.raised_at[moment as usize].get().copied()
    }

    pub(super) fn set_observed(&self) {
        self.observed.store(true, Ordering::Release);
    }

    pub(super) fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Acquire)
    }

    pub(super) fn emptied(&self) -> &Notify {
        &self.emptied
    }
}
