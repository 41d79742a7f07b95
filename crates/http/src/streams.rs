//! The tasks of HTTP/2 streams, each of which can be ended on its own.
//!
//! hyper runs each stream in a task of its own, which waits without a limit for the peer to grant a window.
//! When the task is dropped, h2 resets the stream and discards its unsent data; the other streams of the
//! connection go on.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
};

use tokio::task::AbortHandle;

tokio::task_local! {
    /// The task of the stream that is being polled.
    static STREAM: StreamTask;
}

/// The task of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamTask(Arc<OnceLock<AbortHandle>>);

/// The executor that runs hyper's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

// === impl StreamTask ===

impl StreamTask {
    /// Returns the stream task that the caller runs in, if any.
    pub(super) fn current() -> Option<Self> {
        STREAM.try_with(Self::clone).ok()
    }

    /// Ends the task, which resets its stream; returns false if it has already ended.
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
        // Nobody else sets it.
        let _ = task.0.set(running.abort_handle());
    }
}
