//! A single run of a job, which is told to stop when it has to, and is awaited to its end.
//!
//! ```text
//!   may it begin? ─▶ runs ──┬── ends by itself
//!   (a suspect waits        ├── its timeout, or somebody cancels it ─▶ stop ─▶ notice ─▶ cut ─▶ ends
//!    for the others)        ├── this process was taken for dead ─▶ the same
//!                           └── a drain: soft deadline ─▶ stop, hard deadline ─▶ cut ─▶ ends
//! ```

use std::{convert::Infallible, panic::AssertUnwindSafe, pin::pin, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    floor::Waits,
    outage::{Back, Reason},
    pool::Worker,
    retry,
    runs::Running,
};
use crate::{
    handler::{Context, Retry, Said, Verdict},
    job::{Claim, Job},
};
use lameduck_lifecycle::{Moment, later};

/// How long a handler may ignore that its time is over before the log says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time after which a run counts as begun if its handler does not say so: most failures to reach a target come sooner.
const BEGUN_AFTER: Duration = Duration::from_secs(10);

/// How a run ended.
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    /// Whether the handler was told to stop because the job's own time was over.
    pub(super) timed_out: bool,
    /// Whether the handler was told to stop because the job was cancelled.
    pub(super) cancelled: bool,
    /// How long the handler ran; `None` if it was not even begun.
    pub(super) took: Option<Duration>,
    /// The consequences for the pool, if the job could not be begun or was pushed back.
    pub(super) back: Option<Back>,
}

// === impl Worker ===

impl Worker {
    /// Runs a job once it may begin, or returns that it was not begun. Except for a suspect, a job that may not begin at
    /// once does not wait: this process can't run it now, and another one may be able to.
    pub(super) async fn run(
        &self,
        job: &Job,
        claim: &Claim,
        running: &Running<'_>,
        is_try: bool,
    ) -> Ended {
        if running.is_lost(&*self.shared.engine) {
            return Ended::not_begun(false);
        }
        if job.suspect {
            return self.run_alone(job, claim, running).await;
        }
        let Some(_together) = self.shared.floor.join() else {
            return Ended::not_begun(false);
        };
        // In a drain nothing is begun any more, and in an outage only the job that is tried.
        if self.shared.drain.has(Moment::Began) || self.target.is_away() && !is_try {
            return Ended::not_begun(false);
        }
        self.run_now(job, claim, running).await
    }

    /// Runs a suspect after the others have ended. It is not given back meanwhile, which would clear it of suspicion.
    async fn run_alone(&self, job: &Job, claim: &Claim, running: &Running<'_>) -> Ended {
        let _alone = tokio::select! {
            biased;
            () = self.shared.drain.reached(Moment::Began) => return Ended::not_begun(false),
            () = running.asked().cancelled() => return Ended::not_begun(!running.is_lost(&*self.shared.engine)),
            alone = self.shared.floor.alone(|waits| self.tell_of_a_wait(job, waits)) => alone,
        };
        tracing::warn!(job = %job.id, queue = %job.queue, "runs alone: its process crashed when it ran");
        let said = retry("say that a job runs alone", || {
            self.shared.engine.runs_alone(claim)
        });
        let said = tokio::select! {
            biased;
            () = self.shared.drain.reached(Moment::Began) => None,
            said = said => said,
        };
        match said {
            Some(_) => self.run_now(job, claim, running).await,
            None => Ended::not_begun(false),
        }
    }

    fn tell_of_a_wait(&self, job: &Job, waits: Waits) {
        let waited = waits.waited.as_secs();
        let beside = self.shared.running_beside();
        match waits.others_go_on {
            None => tracing::warn!(
                job = %job.id, queue = %job.queue, waited, beside,
                "a suspect waits to run alone until the jobs that run have ended; no other is begun meanwhile"
            ),
            Some(pause) => tracing::warn!(
                job = %job.id, queue = %job.queue, waited, beside, again_seconds = pause.as_secs(),
                "a suspect could not run alone yet; the other jobs go on before it waits again"
            ),
        }
    }

    async fn run_now(&self, job: &Job, claim: &Claim, running: &Running<'_>) -> Ended {
        let drain = &self.shared.drain;
        let begin = Instant::now();
        let timeout_at = later(begin, job.timeout.unwrap_or(self.pool.timeout));
        let mut context = Context::new(claim.to_token_string());
        context.stop = drain.token(Moment::Stop).child_token();
        context.cut = drain.token(Moment::Cut).child_token();
        context.timeout_at = Some(timeout_at);
        context.drain = Some(drain.clone());
        let (stop, cut) = (context.stop.clone(), context.cut.clone());
        let said = context.said.clone();
        let asked = running.begins();

        // The call itself may panic as well.
        let run = async { self.pool.handler.run(job, context).await };
        let run = AssertUnwindSafe(run).catch_unwind();
        let mut run = pin!(async {
            run.await.unwrap_or_else(|_| Verdict::Failed {
                error: "the handler panicked".to_owned(),
                retry: Retry::Backoff,
            })
        });
        let ended = |verdict, timed_out| Ended {
            back: self.weigh(begin, &verdict, &said),
            verdict,
            timed_out,
            cancelled: asked.is_cancelled(),
            took: Some(begin.elapsed()),
        };
        let timed_out = tokio::select! {
            biased;
            verdict = &mut run => return ended(verdict, false),
            never = self.see_it_begin(&said) => match never {},
            () = asked.cancelled() => false,
            // A run that a drain has told to stop is not late.
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

    /// Reports the target as reached when the run has begun, which may be long before its end.
    async fn see_it_begin(&self, said: &Said) -> Infallible {
        let begun_at = tokio::select! {
            () = said.begun() => said.begun_at(),
            () = sleep(BEGUN_AFTER) => None,
        };
        if !said.was_pushed_back() {
            self.target.reached(begun_at.unwrap_or_else(Instant::now));
        }
        std::future::pending().await
    }

    /// Records what the end of a run shows about the target.
    fn weigh(&self, begin: Instant, verdict: &Verdict, said: &Said) -> Option<Back> {
        match verdict {
            Verdict::Postponed { error, .. } => {
                self.target.came_back(begin, Reason::Unreachable, error)
            }
            Verdict::Failed { error, .. } if said.was_pushed_back() => {
                self.target.came_back(begin, Reason::Overloaded, error)
            }
            Verdict::Done { .. } | Verdict::Deferred { .. } | Verdict::Failed { .. } => {
                self.target
                    .reached(said.begun_at().unwrap_or_else(Instant::now));
                None
            }
            // It was told to stop, which shows nothing about the target.
            Verdict::Released => None,
        }
    }
}

// === impl Ended ===

impl Ended {
    fn not_begun(cancelled: bool) -> Self {
        Self {
            verdict: Verdict::Released,
            timed_out: false,
            cancelled,
            took: None,
            back: None,
        }
    }
}
