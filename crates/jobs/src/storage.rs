//! Readiness follows whether the queue's storage answers.
//!
//! ```text
//!   asked every second
//!   ready ─── no answer for 5 s ──▶ not ready: clients are sent to whoever has a storage that answers
//!     ▲                                  │
//!     └──────── answers for 3 s ─────────┘
//! ```
//!
//! There are two figures, so that a storage that comes and goes does not take the process in and out of its
//! Services. Five seconds, because requests themselves bridge the time that a failover of PostgreSQL or a hiccup of a
//! disk takes: they wait, or are answered with 503 and `Retry-After`. Three, because a server that has just come back
//! is immediately queried by everybody who waited.
//!
//! Liveness does not follow: a restart repairs no database, and costs every running job its work.
//!
//! A panic in a part of the engine is another matter. The part does not come back in this process, so readiness fails
//! at once, and the process drains because of it.

use std::{sync::Arc, time::Duration};

use prometheus::IntGauge;
use tokio::time::{Instant, sleep_until, timeout};

use super::engine::{Engine, EngineError};
use lameduck_lifecycle::{BoxError, Check, Drain};

/// Interval between two pings.
const EVERY: Duration = Duration::from_secs(1);

/// Maximum time for an answer. A later one does not count.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the storage has to be silent before readiness fails.
const SILENT: Duration = Duration::from_secs(5);

/// How long the storage has to answer before readiness passes again.
const STEADY: Duration = Duration::from_secs(3);

/// The conclusion from the answers so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    passing: bool,
    /// The instant since which the answers say the opposite.
    doubted: Option<Instant>,
}

/// The check of a storage that does not come back in this process.
struct Failed {
    _check: Check,
}

/// Pings the storage for as long as the process lives, and sets readiness accordingly.
pub(super) async fn watch(engine: Arc<dyn Engine>, drain: Drain) -> Result<(), BoxError> {
    let check = drain.readiness_check("storage");
    let answers = IntGauge::new(
        "lameduck_storage_answers",
        "1 while the queue's storage answers, as of the last second or two.",
    )?;
    drain.registry().register(Box::new(answers.clone()))?;
    answers.set(1);
    let failed = tokio::select! {
        biased;
        failed = engine.failed() => failed,
        closed = ask(&*engine, &check, &answers) => closed,
    };
    if matches!(failed, EngineError::Closed) {
        return Ok(());
    }
    answers.set(0);
    check.fail(failed.to_string());
    // Without this, readiness would pass again, because dropping the check withdraws its failure.
    drain.kept(|| Failed { _check: check });
    Err(failed.into())
}

/// Pings until the engine has closed or failed for good.
async fn ask(engine: &dyn Engine, check: &Check, answers: &IntGauge) -> EngineError {
    let mut verdict = Verdict::PASSING;
    loop {
        let asked = Instant::now();
        let answer = match timeout(PATIENCE, engine.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.is_final() => return error,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        answers.set(i64::from(answer.is_ok()));
        let now = Instant::now();
        // A silence begins with the ping that was not answered.
        let since = if answer.is_ok() { now } else { asked };
        verdict = verdict.told(answer.is_ok(), since, now);
        match answer {
            _ if verdict.passing => check.pass(),
            Err(why) => check.fail(why),
            // It has not answered for long enough yet: the check keeps failing for the reason that was given.
            Ok(()) => {}
        }
        sleep_until(asked + EVERY).await;
    }
}

// === impl Verdict ===

impl Verdict {
    const PASSING: Self = Self {
        passing: true,
        doubted: None,
    };

    /// Returns the verdict after one more answer or silence, which has lasted from `since` until `now`.
    fn told(self, answers: bool, since: Instant, now: Instant) -> Self {
        if answers == self.passing {
            return Self {
                doubted: None,
                ..self
            };
        }
        let since = self.doubted.unwrap_or(since);
        let enough = if self.passing { SILENT } else { STEADY };
        match now.saturating_duration_since(since) >= enough {
            true => Self {
                passing: answers,
                doubted: None,
            },
            false => Self {
                doubted: Some(since),
                ..self
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the readiness after each of these seconds: `+` for an answer, `-` for none.
    fn told(seconds: &str) -> String {
        let begin = Instant::now();
        let mut verdict = Verdict::PASSING;
        let said = (0..).zip(seconds.chars()).map(|(second, answer)| {
            let now = begin + EVERY * second;
            verdict = verdict.told(answer == '+', now, now);
            if verdict.passing { '+' } else { '-' }
        });
        said.collect()
    }

    #[test]
    fn a_short_silence_is_bridged_and_a_long_one_is_not() {
        assert_eq!(told("+----+++"), "++++++++");
        assert_eq!(told("+-----++"), "++++++++");
        assert_eq!(told("+------+"), "++++++--");
    }

    #[test]
    fn who_has_failed_has_to_answer_for_a_while() {
        assert_eq!(told("------+++++"), "+++++----++");
        assert_eq!(told("------+++-+++-++++"), "+++++------------+");
    }

    #[test]
    fn a_storage_that_comes_and_goes_takes_nobody_in_and_out() {
        assert_eq!(told("+---+----+---+"), "++++++++++++++");
        assert_eq!(told("------+--++-+-"), "+++++---------");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_counts_from_when_it_was_put() {
        let asked = Instant::now();
        let now = asked + PATIENCE;

        let verdict = Verdict::PASSING.told(false, asked, now);

        assert_eq!(verdict.doubted, Some(asked));
    }
}
