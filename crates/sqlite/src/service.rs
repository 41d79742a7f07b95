//! A thread that owns something which can't be shared, and a bounded inbox in front of it.

use std::{io, thread};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use lameduck_jobs::engine::EngineError;

/// The handle on such a thread. Dropped, it lets the thread finish what it was sent and joins it.
pub(super) struct Service<M> {
    // Taken by `drop`, which is what ends the thread.
    sender: Option<mpsc::Sender<Message<M>>>,
    thread: Option<thread::JoinHandle<()>>,
    finished: CancellationToken,
}

/// The thread's end of it.
pub(super) struct Inbox<M>(mpsc::Receiver<Message<M>>);

enum Message<M> {
    Work(M),
    Close,
}

// === impl Service ===

impl<M: Send + 'static> Service<M> {
    /// Runs `serve` on a thread of its own. It has to return once its inbox has ended.
    pub fn spawn(
        name: &str,
        backlog: usize,
        serve: impl FnOnce(Inbox<M>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(backlog);
        let finished = CancellationToken::new();
        let guard = finished.clone().drop_guard();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Dropped after everything that `serve` owned, even when it panics.
                let _guard = guard;
                serve(Inbox(receiver));
            })?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            finished,
        })
    }

    /// Waits for room in the inbox and puts `work` into it.
    pub async fn send(&self, work: M) -> Result<(), EngineError> {
        self.post(Message::Work(work)).await
    }

    /// Lets the thread finish what it was sent, and returns when it and all that it owned is gone.
    pub async fn close(&self) {
        // An error means that it is closing already.
        let _ = self.post(Message::Close).await;
        self.finished.cancelled().await;
    }

    async fn post(&self, message: Message<M>) -> Result<(), EngineError> {
        let sender = self.sender.as_ref().ok_or(EngineError::Closed)?;
        sender.send(message).await.map_err(|_| EngineError::Closed)
    }
}

impl<M> Drop for Service<M> {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported over there.
            let _ = thread.join();
        }
    }
}

// === impl Inbox ===

impl<M> Inbox<M> {
    /// Waits for work; `None` when none will come any more.
    pub fn next(&mut self) -> Option<M> {
        loop {
            match self.0.blocking_recv()? {
                Message::Work(work) => return Some(work),
                Message::Close => self.0.close(),
            }
        }
    }

    /// Work that waits already.
    pub fn next_waiting(&mut self) -> Option<M> {
        loop {
            match self.0.try_recv().ok()? {
                Message::Work(work) => return Some(work),
                Message::Close => self.0.close(),
            }
        }
    }
}
