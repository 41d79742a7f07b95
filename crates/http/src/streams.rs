//! The tasks of HTTP/2's streams, each of which can be ended by itself.
//!
//! hyper runs each stream in a task of its own and waits in it, without an end, for a peer to grant its window.
//! When the task is dropped, h2 resets the stream and forgets what was to be sent; the other streams of the
//! connection go on.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use tokio::task::AbortHandle;

tokio::task_local! {
    /// The task of the stream that is polled now.
    static STREAM: StreamTask;
}

/// The task of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamTask(Arc<OnceLock<AbortHandle>>);

/// Runs hyper's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

// === impl StreamTask ===

impl StreamTask {
    /// The one that the caller runs in, where it does in one.
    pub(super) fn current() -> Option<Self> {
        STREAM.try_with(Self::clone).ok()
    }

    /// Ends it; false where it has ended.
    pub(super) fn reset(&self) -> bool {
        match self.0.get() {
            Some(task) if !task.is_finished() => {
                task.abort();
                true
            }
            _ => false,
        }
    }
}

// === impl Streams ===

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let task = StreamTask::default();
        let running = tokio::spawn(STREAM.scope(task.clone(), stream));
        // Set by nobody else.
        let _ = task.0.set(running.abort_handle());
    }
}
