//! Tracks how much of an HTTP/2 answer has left: data for which its peer grants no window stays here.
//!
//! HTTP/1 does not need this, because the socket itself shows that the peer does not read. Over HTTP/2 a peer can
//! read on, and yet grant no window to a stream or to all of them.

use std::{
    sync::{
        Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::{activity::InFlight, streams::StreamTask};

/// How many bytes of an answer may be left when its stream's task ends. If more are left, the task waits, so that it
/// can still be ended if the peer takes no more of them; fewer are not worth a frame of their own.
const LEFT_ALONE: usize = 16 << 10;

/// The progress of one answer, in bytes.
#[derive(Debug, Default)]
pub(super) struct Sending {
    handed: AtomicUsize,
    sent: AtomicUsize,
    /// The task that waits until enough has left.
    waiting: AtomicWaker,
    /// The stream's task. If it is not known, only the whole connection can be closed.
    pub(super) task: Option<StreamTask>,
}

/// An answer that is checked now and then.
#[derive(Debug)]
pub(super) struct Watched {
    answer: Weak<InFlight>,
    sent: usize,
    /// Since when no byte of it has left although some are waiting.
    still_since: Option<Instant>,
}

/// The result of checking an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It has left, or has been given up.
    Gone,
    /// It makes progress, or has nothing to send now.
    Fine,
    /// Its stream has been reset.
    Reset,
    /// It stands still, and its stream can't be reset any more.
    Stuck,
}

// === impl Sending ===

impl Sending {
    pub(super) fn hands_over(&self, bytes: usize) {
        self.handed.fetch_add(bytes, Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Wakes the waiting task: a part that was handed over has left, or never will.
    pub(super) fn wake(&self) {
        self.waiting.wake();
    }

    /// Whether so much is left that the end of the answer must wait. Wakes the task when that may have changed.
    pub(super) fn must_wait(&self, waker: &Waker) -> bool {
        self.is_behind() && {
            self.waiting.register(waker);
            self.is_behind()
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.left() > LEFT_ALONE
    }

    fn left(&self) -> usize {
        let sent = self.sent.load(Relaxed);
        self.handed.load(Relaxed).saturating_sub(sent)
    }
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(answer: Weak<InFlight>) -> Self {
        Self {
            answer,
            sent: 0,
            still_since: None,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.answer.strong_count() == 0
    }

    /// Checks the answer, and resets its stream if nothing of it has left for `patience`.
    pub(super) fn look(&mut self, now: Instant, patience: Duration) -> Look {
        let Some(answer) = self.answer.upgrade() else {
            return Look::Gone;
        };
        let sending = answer.sending();
        let sent = sending.sent.load(Relaxed);
        if sending.left() == 0 {
            self.still_since = None;
            return Look::Fine;
        }
        if sent != std::mem::replace(&mut self.sent, sent) {
            self.still_since = None;
        }
        let since = *self.still_since.get_or_insert(now);
        if now.saturating_duration_since(since) < patience {
            return Look::Fine;
        }
        match &sending.task {
            Some(task) if task.reset() => {
                // It takes a moment until h2 lets go of it.
                self.still_since = Some(now);
                Look::Reset
            }
            _ => Look::Stuck,
        }
    }
}
