//! One run of one job: told to stop when it must, and heard out to its end.
//!
//! ```text
//!   waits for the floor ─▶ runs ──┬── ends by itself
//!   (a suspect for all of it)     ├── its timeout, or somebody cancels it ─▶ stop ─▶ notice ─▶ cut ─▶ ends
//!                                 ├── this process was taken for dead ─▶ the same
//!                                 └── a drain: soft deadline ─▶ stop, hard deadline ─▶ cut ─▶ ends
//! ```

use std::{panic::AssertUnwindSafe, pin::pin, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Cancel, Shared, pool::Worker};
use crate::{
    handler::{Context, Retry, Verdict},
    job::{Claim, Job, JobId, ProcessId},
};
use lameduck_lifecycle::Moment;

/// How long after its time was over a handler has to ignore it before the log says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a run came to its end.
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    /// Whether the handler was told to stop because the job's own time was over.
    pub(super) timed_out: bool,
    /// Whether it was because somebody wanted the job to end.
    pub(super) cancelled: bool,
    /// What the handler took; nothing where it was not even begun.
    pub(super) took: Option<Duration>,
}

/// A job that can be cancelled as long as this lives.
struct Cancellable<'a> {
    shared: &'a Shared,
    id: JobId,
    asked: CancellationToken,
}

// === impl Worker ===

impl Worker {
    /// Runs a job of this process run, once the floor is free for it.
    pub(super) async fn run(&self, job: &Job, claim: &Claim, process: ProcessId) -> Ended {
        let floor = self.shared.floor.clone();
        let began = self.shared.drain.reached(Moment::Began);
        // In a drain nothing is begun any more.
        if job.suspect {
            let _alone = tokio::select! {
                biased;
                () = began => return Ended::not_begun(),
                alone = floor.write_owned() => alone,
            };
            tracing::warn!(job = %job.id, queue = %job.queue, "runs alone: its process crashed when it ran");
            if let Err(error) = self.shared.engine.runs_alone(claim).await {
                tracing::error!(job = %job.id, %error, "cannot say that the job runs alone");
                return Ended::not_begun();
            }
            self.run_now(job, claim, process).await
        } else {
            let _together = tokio::select! {
                biased;
                () = began => return Ended::not_begun(),
                together = floor.read_owned() => together,
            };
            self.run_now(job, claim, process).await
        }
    }

    async fn run_now(&self, job: &Job, claim: &Claim, process: ProcessId) -> Ended {
        let drain = &self.shared.drain;
        let begin = Instant::now();
        let timeout_at = begin + job.timeout.unwrap_or(self.pool.timeout);
        let mut context = Context::new(claim.to_token_string());
        context.stop = drain.token(Moment::Stop).child_token();
        context.cut = drain.token(Moment::Cut).child_token();
        context.timeout_at = Some(timeout_at);
        context.drain = Some(drain.clone());
        let (stop, cut) = (context.stop.clone(), context.cut.clone());
        let cancellable = Cancellable::new(&self.shared, job.id, process);

        let run = AssertUnwindSafe(self.pool.handler.run(job, context)).catch_unwind();
        let mut run = pin!(async {
            run.await.unwrap_or_else(|_| Verdict::Failed {
                error: "the handler panicked".to_owned(),
                retry: Retry::Backoff,
            })
        });
        let ended = |verdict, timed_out| Ended {
            verdict,
            timed_out,
            cancelled: cancellable.asked.is_cancelled(),
            took: Some(begin.elapsed()),
        };
        let timed_out = tokio::select! {
            biased;
            verdict = &mut run => return ended(verdict, false),
            () = cancellable.asked.cancelled() => false,
            // Whom a drain has told to stop is not late.
            () = sleep_until(timeout_at) => !stop.is_cancelled(),
        };
        stop.cancel();
        tokio::select! {
            biased;
            verdict = &mut run => return ended(verdict, timed_out),
            () = sleep(self.shared.stop_notice) => cut.cancel(),
        }
        tokio::select! {
            biased;
            verdict = &mut run => return ended(verdict, timed_out),
            () = sleep(PATIENCE) => tracing::error!(
                job = %job.id, queue = %job.queue,
                "the handler ignores that its time is over; its worker is not free until it ends"
            ),
        }
        ended(run.await, timed_out)
    }
}

// === impl Ended ===

impl Ended {
    fn not_begun() -> Self {
        Self {
            verdict: Verdict::Released,
            timed_out: false,
            cancelled: false,
            took: None,
        }
    }
}

// === impl Cancellable ===

impl<'a> Cancellable<'a> {
    fn new(shared: &'a Shared, id: JobId, process: ProcessId) -> Self {
        let asked = CancellationToken::new();
        let cancel = Cancel {
            process,
            asked: asked.clone(),
        };
        shared.cancels().insert(id, cancel);
        Self { shared, id, asked }
    }
}

impl Drop for Cancellable<'_> {
    fn drop(&mut self) {
        self.shared.cancels().remove(&self.id);
    }
}
