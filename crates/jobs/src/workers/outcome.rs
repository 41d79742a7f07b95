//! The path from a run's end to a durable outcome.

use std::{sync::Arc, time::Duration};

use super::{Done, pool::Worker, retry, run::Ended};
use crate::{
    bounds::MAX_DELAY,
    handler::{Retry, Verdict},
    job::{AfterFailure, Claim, Job, JobId, Outcome, Settled, Settlement, State, When},
    metrics::{Busy, Ending},
};
use lameduck_lifecycle::{JobGuard, Moment};

/// Exponential backoff with jitter.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure. Default 1 s.
    pub first: Duration,
    /// The longest wait; a wait that a handler asks for is clamped to it, too. Default 5 min.
    pub max: Duration,
}

// === impl Worker ===

impl Worker {
    /// Returns the outcome of a job whose run has ended.
    pub(super) fn judge(&self, job: &Job, ended: Ended) -> Outcome {
        let Ended {
            verdict,
            timed_out,
            back,
            ..
        } = ended;
        match verdict {
            Verdict::Done { result } => Outcome::Completed { result },
            Verdict::Released if !timed_out => Outcome::Released,
            Verdict::Released => self.failed(job, self.timed_out(job), Retry::Backoff),
            Verdict::Failed { error, retry } if timed_out => {
                let error = format!("{}: {error}", self.timed_out(job));
                self.failed(job, error, retry)
            }
            Verdict::Failed { error, retry } => self.failed(job, error, retry),
            Verdict::Postponed { error, .. }
                if back.as_ref().is_some_and(|back| back.out_of_patience) =>
            {
                self.failed(job, error, Retry::Backoff)
            }
            Verdict::Postponed { error, wait } => {
                let wait = back.map_or(wait, |back| wait.max(back.wait));
                let wait = wait.min(self.pool.backoff.max);
                // The queue has already logged it, for all its jobs.
                tracing::debug!(
                    job = %job.id, queue = %job.queue, error, retry_seconds = wait.as_secs_f64(),
                    "job could not be begun"
                );
                let until = after(wait);
                Outcome::Postponed { error, until }
            }
            Verdict::Deferred { within } => Outcome::Deferred {
                until: after(within),
            },
        }
    }

    fn failed(&self, job: &Job, error: String, retry: Retry) -> Outcome {
        let then = self
            .pool
            .backoff
            .after_failure(job.attempt, job.max_attempts, retry);
        tracing::warn!(
            job = %job.id, queue = %job.queue, attempt = job.attempt, error,
            dead = then == AfterFailure::Dead, "job failed"
        );
        Outcome::Failed { error, then }
    }

    fn timed_out(&self, job: &Job) -> String {
        let timeout = job.timeout.unwrap_or(self.pool.timeout);
        format!("it ran longer than its timeout of {timeout:?}")
    }

    /// Writes an outcome, repeatedly until it is durable or the deadline comes.
    pub(super) async fn settle(
        &self,
        claim: Claim,
        outcome: Outcome,
        busy: &Busy,
        hold: &JobGuard,
    ) {
        let job = claim.job();
        let released = outcome == Outcome::Released;
        let failed = matches!(outcome, Outcome::Failed { .. });
        let completed = matches!(outcome, Outcome::Completed { .. });
        let ending = busy.ending(&outcome);
        let settlement = Arc::new(vec![claim.settle(outcome)]);
        let settled = match self.write(&settlement).await {
            // We have not written it under this claim before, so somebody with the claim did, through the API.
            Some(Done {
                answer: Settled::Repeated,
                again: false,
            }) => return self.ended_elsewhere(job, busy).await,
            Some(done) => Some(done.answer),
            None => None,
        };
        if let Some(Settled::Written | Settled::Repeated) = settled {
            busy.settled(ending);
        }
        match settled {
            Some(Settled::Written | Settled::Repeated) if released => {
                hold.released();
            }
            Some(Settled::Written | Settled::Repeated) if failed => self.work.failed(),
            Some(Settled::Written | Settled::Repeated) if completed => self.work.finished(),
            Some(Settled::Written | Settled::Repeated) => {}
            Some(Settled::Stale) => {
                self.meter.stale();
                hold.disowned();
                tracing::warn!(job = %job, "the job belongs to somebody else by now; outcome dropped");
            }
            None => hold.left_behind(),
        }
    }

    /// Handles an outcome that came from outside, with the job's claim, while its handler still ran.
    async fn ended_elsewhere(&self, job: JobId, busy: &Busy) {
        tracing::info!(%job, "its outcome had come from outside before its handler ended");
        let completed = self.shared.engine.job(job).await;
        match completed.map(|job| job.map(|job| job.state)) {
            Ok(Some(State::Completed)) => {
                busy.settled(Ending::Completed);
                self.work.finished();
            }
            _ => {
                busy.settled(Ending::Failed);
                self.work.failed();
            }
        }
    }

    async fn write(&self, settlement: &Arc<Vec<Settlement>>) -> Option<Done<Settled>> {
        let landed = retry("write an outcome", || self.shared.engine.settle(settlement));
        let given_up = async {
            self.shared.drain.reached(Moment::GiveBack).await;
            match self.shared.drain.plan() {
                Some(plan) => tokio::time::sleep_until(plan.teardown_end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            landed = landed => landed.and_then(|Done { answer, again }| {
                let answer = answer.first().copied()?;
                Some(Done { answer, again })
            }),
            () = given_up => None,
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// Returns the consequence of the failure of this attempt.
    pub fn after_failure(&self, attempt: u32, max_attempts: u32, retry: Retry) -> AfterFailure {
        let wait = match retry {
            Retry::Never => return AfterFailure::Dead,
            _ if attempt >= max_attempts => return AfterFailure::Dead,
            Retry::Backoff => self.after(attempt),
            Retry::After(wait) => wait.min(self.max),
        };
        AfterFailure::RetryAt(after(wait))
    }

    /// Returns the wait after the failure of this attempt, the first being 1. It is doubled each time, and then reduced
    /// at random to no less than half, so that jobs that failed together do not come back together.
    fn after(&self, attempt: u32) -> Duration {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1).min(30));
        let whole = self.first.saturating_mul(doubled).min(self.max);
        // `max` may be as long as a `Duration` can be, which can't be multiplied.
        let whole = whole.min(MAX_DELAY);
        whole.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// Returns the instant after this wait, clamped to what storage takes, however long a setting or handler makes it.
fn after(wait: Duration) -> When {
    When::After(wait.min(MAX_DELAY))
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_backoff_is_too_long_to_wait() {
        let backoff = Backoff {
            first: Duration::MAX,
            max: Duration::MAX,
        };
        for attempt in [0, 1, 2, 31, u32::MAX - 1] {
            for retry in [Retry::Backoff, Retry::After(Duration::MAX)] {
                let then = backoff.after_failure(attempt, u32::MAX, retry);
                let AfterFailure::RetryAt(When::After(wait)) = then else {
                    panic!("attempt {attempt} is not retried: {then:?}");
                };
                assert!(wait >= MAX_DELAY / 2 && wait <= MAX_DELAY, "{wait:?}");
            }
        }
    }
}
