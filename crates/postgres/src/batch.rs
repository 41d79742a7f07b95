//! Group commit: calls that arrive while one transaction is under way share the next one.
//!
//! The throughput of a durable queue is the number of commits per second times the number of calls that share
//! one. So one transaction at a time handles submissions, and one handles outcomes.
//!
//! When PostgreSQL rejects something in a batch, none of the batch has happened, and each call is tried
//! alone: an error in one of them must not fail its neighbours.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::session::Undone;
use lameduck_jobs::engine::{EngineError, vital::Vitals};

/// Maximum number of calls waiting for their batch; further callers wait to be let in.
const BACKLOG: usize = 4096;

/// Bytes of payloads or results that count as one more item: what goes to PostgreSQL in one piece has to fit
/// into memory, twice, and into a gigabyte.
const HEAVY: usize = 64 << 10;

/// An item that can be put into a batch.
pub(super) trait Item: Clone + Send + Sync + 'static {
    /// Returns the size of its payload or result in bytes, the part that may be large.
    fn bytes(&self) -> usize;
}

/// Does the work of a batch: returns an answer for each item, in the same order.
type Work<I, A> =
    Box<dyn Fn(Arc<Vec<I>>) -> BoxFuture<'static, Result<Vec<A>, Undone>> + Send + Sync>;

/// The handle that puts calls into the next batch.
pub(super) struct Batcher<I, A> {
    calls: mpsc::Sender<Call<I, A>>,
    close: CancellationToken,
    vitals: Vitals,
}

struct Call<I, A> {
    items: Vec<I>,
    reply: oneshot::Sender<Result<Vec<A>, EngineError>>,
}

// === impl Call ===

impl<I: Item, A> Call<I, A> {
    fn weight(&self) -> usize {
        let weights = self.items.iter().map(|item| 1 + item.bytes() / HEAVY);
        weights.sum()
    }
}

// === impl Batcher ===

impl<I: Item, A: Send + 'static> Batcher<I, A> {
    /// Starts batching, about `most` items at a time, fewer if large, until `close`; earlier calls are finished.
    pub fn spawn(
        part: &'static str,
        most: usize,
        tasks: &TaskTracker,
        (close, vitals): (CancellationToken, Vitals),
        work: Work<I, A>,
    ) -> Self {
        let (calls, receiver) = mpsc::channel(BACKLOG);
        let serving = serve(most, receiver, close.clone(), work);
        tasks.spawn(vitals.clone().watch(part, serving));
        Self {
            calls,
            close,
            vitals,
        }
    }

    /// Puts these items into the next batch; returns when they are durable.
    pub async fn call(&self, items: Vec<I>) -> Result<Vec<A>, EngineError> {
        let (reply, answer) = oneshot::channel();
        if self.calls.send(Call { items, reply }).await.is_err() {
            return Err(self.gone().await);
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.gone().await),
        }
    }

    /// Returns the error for a call without an answer: the batcher was closed, or else it has panicked.
    async fn gone(&self) -> EngineError {
        tokio::select! {
            () = self.close.cancelled() => self.vitals.gone(),
            failed = self.vitals.failed() => failed,
        }
    }
}

async fn serve<I: Item, A>(
    most: usize,
    mut inbox: mpsc::Receiver<Call<I, A>>,
    close: CancellationToken,
    work: Work<I, A>,
) {
    loop {
        let first = tokio::select! {
            () = close.cancelled(), if !inbox.is_closed() => {
                inbox.close();
                continue;
            }
            first = inbox.recv() => first,
        };
        let Some(first) = first else { return };
        let mut weight = first.weight();
        let mut batch = vec![first];
        while weight < most
            && let Ok(next) = inbox.try_recv()
        {
            weight += next.weight();
            batch.push(next);
        }
        // Nothing has been done for these yet, and nobody is waiting for the answer any more.
        batch.retain(|call| !call.reply.is_closed());
        settle(batch, &work).await;
    }
}

/// Runs a batch and sends the answers.
async fn settle<I: Item, A>(batch: Vec<Call<I, A>>, work: &Work<I, A>) {
    let items: Vec<I> = batch.iter().flat_map(|call| call.items.clone()).collect();
    if batch.is_empty() {
        return;
    }
    match work(Arc::new(items)).await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for call in batch {
                let own = answers.by_ref().take(call.items.len()).collect();
                // It does not matter if the caller went away meanwhile: what it asked for is durable.
                let _ = call.reply.send(Ok(own));
            }
        }
        Err(undone) if undone.by_content && batch.len() > 1 => {
            for call in batch {
                let own = work(Arc::new(call.items)).await;
                let _ = call.reply.send(own.map_err(|undone| undone.error));
            }
        }
        Err(undone) => {
            for call in batch {
                let _ = call.reply.send(Err(same(&undone.error)));
            }
        }
    }
}

/// Copies an error that is sent to every caller of a batch.
fn same(error: &EngineError) -> EngineError {
    match error {
        EngineError::Closed => EngineError::Closed,
        EngineError::Storage(why) => EngineError::Storage(why.clone()),
        EngineError::Locked(why) => EngineError::Locked(why.clone()),
        other => EngineError::Storage(other.to_string()),
    }
}
