//! Group commit: whatever comes while one transaction is under way goes into the next one together.
//!
//! The throughput of a durable queue is the number of commits a second times what shares one. So there is one
//! transaction at a time for what is submitted, and one for outcomes.
//!
//! When PostgreSQL takes offence at something in a batch, nothing of it has happened, and each call is tried
//! alone: what is wrong with one of them is none of its neighbours' business.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::session::Undone;
use lameduck_jobs::engine::{EngineError, vital::Vitals};

/// Calls that may wait for their batch; whoever comes then waits to be let in.
const BACKLOG: usize = 4096;

/// So much of payloads or results counts as one item more: what goes to PostgreSQL in one piece has to fit into
/// memory, twice, and into a gigabyte.
const HEAVY: usize = 64 << 10;

/// What can be put into a batch.
pub(super) trait Item: Clone + Send + Sync + 'static {
    /// Bytes that it brings, of those that may be many.
    fn bytes(&self) -> usize;
}

/// Does the work of a batch: an answer for each item, in their order.
type Work<I, A> =
    Box<dyn Fn(Arc<Vec<I>>) -> BoxFuture<'static, Result<Vec<A>, Undone>> + Send + Sync>;

/// The way into the next batch.
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
    /// Batches of about `most` items, fewer of heavy ones, until `close`: then what was asked before is finished.
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

    /// Has these done in the next batch; returns when they are durable.
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

    /// Why nobody answers: it was closed, or else it has panicked.
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
        // Nothing has been done for these yet, and nobody would know of it.
        batch.retain(|call| !call.reply.is_closed());
        settle(batch, &work).await;
    }
}

/// Runs a batch to its answers.
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
                // A caller that went away meanwhile is no concern: what it asked for is durable.
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

/// The error once more, which is said to everybody.
fn same(error: &EngineError) -> EngineError {
    match error {
        EngineError::Closed => EngineError::Closed,
        EngineError::Storage(why) => EngineError::Storage(why.clone()),
        EngineError::Locked(why) => EngineError::Locked(why.clone()),
        other => EngineError::Storage(other.to_string()),
    }
}
