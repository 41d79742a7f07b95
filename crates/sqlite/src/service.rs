//! A thread that owns something which can't be shared, with a bounded inbox in front of it.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use lameduck_jobs::engine::{EngineError, vital::Vitals};

/// The handle on such a thread. Dropping it lets the thread finish what it was sent, and joins it.
pub(super) struct Service<M> {
    // Taken by `drop`, which ends the thread that way.
    sender: Option<mpsc::Sender<Message<M>>>,
    thread: Option<thread::JoinHandle<()>>,
    finished: CancellationToken,
    closing: AtomicBool,
    vitals: Vitals,
}

/// The thread's end of the inbox.
pub(super) struct Inbox<M>(mpsc::Receiver<Message<M>>);

enum Message<M> {
    Work(M),
    Close,
}

// === impl Service ===

impl<M: Send + 'static> Service<M> {
    /// Runs `serve` on a separate thread. It has to return once its inbox has ended; if it panics, the engine
    /// reports that it has failed.
    pub fn spawn(
        name: &'static str,
        backlog: usize,
        vitals: Vitals,
        serve: impl FnOnce(Inbox<M>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(backlog);
        let finished = CancellationToken::new();
        let guard = finished.clone().drop_guard();
        let watched = vitals.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Dropped after everything that `serve` owned, and after its panic was noted.
                let _guard = guard;
                watched.run(name, || serve(Inbox(receiver)));
            })?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            finished,
            closing: AtomicBool::new(false),
            vitals,
        })
    }

    /// Waits for room in the inbox and puts `work` into it.
    pub async fn send(&self, work: M) -> Result<(), EngineError> {
        self.post(Message::Work(work)).await
    }

    /// Lets the thread finish what it was sent, and returns when the thread and all that it owned are gone.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        // An error means that it is already closing.
        let _ = self.post(Message::Close).await;
        self.finished.cancelled().await;
    }

    /// Returns the reason why the thread has not answered.
    pub async fn gone(&self) -> EngineError {
        // Only a panic leaves a message unanswered, and it is noted when the thread ends.
        self.finished.cancelled().await;
        self.vitals.gone()
    }

    async fn post(&self, message: Message<M>) -> Result<(), EngineError> {
        let sender = self.sender.as_ref().ok_or(EngineError::Closed)?;
        match sender.send(message).await {
            Ok(()) => Ok(()),
            Err(_) if self.closing.load(Ordering::SeqCst) => Err(self.vitals.gone()),
            Err(_) => Err(self.gone().await),
        }
    }
}

impl<M> Drop for Service<M> {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // The thread has reported its own panic.
            let _ = thread.join();
        }
    }
}

// === impl Inbox ===

impl<M> Inbox<M> {
    /// Waits for work; `None` when there will be no more.
    pub fn next(&mut self) -> Option<M> {
        loop {
            match self.0.blocking_recv()? {
                Message::Work(work) => return Some(work),
                Message::Close => self.0.close(),
            }
        }
    }

    /// Returns work that is already waiting.
    pub fn next_waiting(&mut self) -> Option<M> {
        loop {
            match self.0.try_recv().ok()? {
                Message::Work(work) => return Some(work),
                Message::Close => self.0.close(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(vitals: &Vitals) -> Service<u32> {
        let serve = |mut inbox: Inbox<u32>| {
            while let Some(work) = inbox.next() {
                assert_ne!(work, 13, "not this one");
            }
        };
        Service::spawn("queue-test", 4, vitals.clone(), serve).unwrap()
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_not_taken_for_one_that_was_closed() {
        let vitals = Vitals::default();
        let service = service(&vitals);
        service.send(1).await.unwrap();
        service.send(13).await.unwrap();

        let failed = vitals.failed().await;

        assert!(failed.to_string().contains("'queue-test'"), "{failed}");
        for error in [service.send(2).await.unwrap_err(), service.gone().await] {
            assert!(matches!(error, EngineError::Failed { .. }), "{error}");
        }
        service.close().await;
    }

    #[tokio::test]
    async fn one_that_was_closed_is_closed() {
        let vitals = Vitals::default();
        let service = service(&vitals);
        service.close().await;
        let error = service.send(1).await.unwrap_err();
        assert!(matches!(error, EngineError::Closed), "{error}");
    }
}
