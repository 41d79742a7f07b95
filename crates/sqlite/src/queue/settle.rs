//! Settle: writes the outcome of a run under its claim.

use rusqlite::{Connection, Error, ErrorCode, OptionalExtension, Result, params};

use super::super::{
    convert::{micros, queue_name},
    time::Shift,
    writer::Turn,
};
use lameduck_jobs::{
    engine::{
        RUNS_KEPT,
        common::{kept_error, short_error},
    },
    job::{AfterFailure, Outcome, QueueName, RunEnd, Settled, Settlement, When},
};

pub(super) const FIND_CLAIMED: &str = "
    SELECT j.seq, j.cancel_requested, j.runs, q.name FROM jobs j JOIN queues q ON q.id = j.queue
    WHERE j.id = ?1 AND j.claim = ?2";

pub(super) const WAS_SETTLED_BY: &str = "SELECT 1 FROM jobs WHERE id = ?1 AND settled_claim = ?2";

const END: &str = "
    UPDATE jobs SET state = ?3, ended_at = ?4, result = ?5, last_error = coalesce(?6, last_error),
                    process = NULL, claim = NULL, settled_claim = ?2, crashes = 0, runs = runs + 1
    WHERE seq = ?1";

const RETRY: &str = "
    UPDATE jobs SET state = 0, run_at = ?3, last_error = ?4,
                    process = NULL, claim = NULL, settled_claim = ?2, crashes = 0, runs = runs + 1
    WHERE seq = ?1";

const POSTPONE: &str = "
    UPDATE jobs SET state = 0, run_at = ?3, last_error = ?4, attempt = attempt - 1, releases = releases + 1,
                    process = NULL, claim = NULL, settled_claim = ?2, crashes = 0, runs = runs + 1
    WHERE seq = ?1";

// A released job keeps its place. `min`, because the clock may have been set back meanwhile.
const RELEASE: &str = "
    UPDATE jobs SET state = 0, run_at = min(run_at, ?3), attempt = attempt - 1, releases = releases + 1,
                    process = NULL, claim = NULL, settled_claim = ?2, crashes = 0, runs = runs + 1
    WHERE seq = ?1";

// The claim stays, and so does the process, for the history.
const DEFER: &str = "UPDATE jobs SET state = 5, run_at = ?2, crashes = 0 WHERE seq = ?1";

const ADD_RUN: &str = "
    INSERT INTO runs (job, number, attempt, process, started_at, ended_at, end, error)
    SELECT seq, runs, attempt, process, started_at, ?2, ?3, ?4 FROM jobs WHERE seq = ?1";

const FORGET_RUNS: &str = "DELETE FROM runs WHERE job = ?1 AND number <= ?2";

/// A job that is still under the settlement's claim.
struct Claimed {
    seq: i64,
    cancel_requested: bool,
    runs: i64,
    /// `None` if the name is not one that our programs have written.
    queue: Option<QueueName>,
}

/// Writes outcomes; returns one answer for each.
pub(in super::super) fn settle(
    turn: &mut Turn<'_>,
    shift: Shift,
    settlements: &[Settlement],
) -> Result<Vec<Settled>> {
    settlements
        .iter()
        .map(|settlement| settle_one(turn, shift, settlement))
        .collect()
}

fn settle_one(turn: &mut Turn<'_>, shift: Shift, settlement: &Settlement) -> Result<Settled> {
    let (job, token) = (settlement.job(), settlement.token());
    let key = [&job.as_bytes()[..], &token[..]];
    let mut find = turn.connection.prepare_cached(FIND_CLAIMED)?;
    let claimed = find
        .query_row(key, |r| {
            Ok(Claimed {
                seq: r.get(0)?,
                cancel_requested: r.get(1)?,
                runs: r.get(2)?,
                queue: queue_name(r, 3).ok(),
            })
        })
        .optional()?;
    if let Some(claimed) = claimed {
        let (job, outcome) = (settlement.job(), settlement.outcome());
        let save = |sql| turn.connection.prepare_cached(sql)?.execute([]);
        save("SAVEPOINT outcome")?;
        match write_outcome(turn, shift, settlement, outcome, &claimed) {
            Err(error) if by_content(&error) => {
                let save = |sql| turn.connection.prepare_cached(sql)?.execute([]);
                save("ROLLBACK TO outcome")?;
                tracing::warn!(%job, %error, "an outcome's text could not be stored; it is written without");
                let without = without_text(outcome, &error.to_string());
                write_outcome(turn, shift, settlement, &without, &claimed)?;
            }
            written => written?,
        }
        turn.connection
            .prepare_cached("RELEASE outcome")?
            .execute([])?;
        return Ok(Settled::Written);
    }
    let mut was = turn.connection.prepare_cached(WAS_SETTLED_BY)?;
    if was.exists(key)? {
        return Ok(Settled::Repeated);
    }
    turn.effects.stale += 1;
    Ok(Settled::Stale)
}

/// Whether SQLite rejected a value, and not the state of the database.
fn by_content(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch)
    )
}

/// Returns the same outcome without any content that the database could reject.
fn without_text(outcome: &Outcome, why: &str) -> Outcome {
    let instead = |error: &str| {
        let why: String = why.chars().filter(|c| !c.is_control()).take(300).collect();
        format!(
            "its error of {} bytes could not be stored: {why}",
            error.len()
        )
    };
    match outcome.clone() {
        Outcome::Completed { .. } => Outcome::Completed {
            result: bytes::Bytes::new(),
        },
        Outcome::Failed { error, then } => Outcome::Failed {
            error: instead(&error),
            then,
        },
        Outcome::Postponed { error, until } => Outcome::Postponed {
            error: instead(&error),
            until,
        },
        other => other,
    }
}

fn write_outcome(
    turn: &mut Turn<'_>,
    shift: Shift,
    settlement: &Settlement,
    outcome: &Outcome,
    claimed: &Claimed,
) -> Result<()> {
    let now = micros(turn.now);
    let Claimed { seq, queue, .. } = claimed;
    let at = |when: When| micros(shift.when(when, turn.now).max(turn.now));
    let error = outcome.error().map(kept_error);
    let cancelled = claimed.cancel_requested && !matches!(outcome, Outcome::Completed { .. });
    let end = match outcome {
        Outcome::Deferred { until } if !cancelled => {
            turn.connection
                .prepare_cached(DEFER)?
                .execute(params![seq, at(*until)])?;
            turn.effects.changed.push(settlement.job());
            return Ok(());
        }
        _ if cancelled => RunEnd::Cancelled,
        Outcome::Completed { .. } | Outcome::Deferred { .. } => RunEnd::Completed,
        Outcome::Failed { .. } => RunEnd::Failed,
        Outcome::Released => RunEnd::Released,
        Outcome::Postponed { .. } => RunEnd::Postponed,
    };
    add_run(turn.connection, *seq, claimed.runs, now, end, error)?;
    let statement = |sql| turn.connection.prepare_cached(sql);
    let token = settlement.token();
    let ended = |state: i64, result: Option<&[u8]>| {
        statement(END)?.execute(params![seq, token, state, now, result, error])
    };
    match outcome {
        Outcome::Completed { result } => ended(2, Some(result)),
        _ if cancelled => ended(4, None),
        Outcome::Failed {
            then: AfterFailure::Dead,
            ..
        } => ended(3, None),
        Outcome::Failed {
            then: AfterFailure::RetryAt(when),
            ..
        } => statement(RETRY)?.execute(params![seq, token, at(*when), error]),
        Outcome::Postponed { until, .. } => {
            statement(POSTPONE)?.execute(params![seq, token, at(*until), error])
        }
        Outcome::Released | Outcome::Deferred { .. } => {
            statement(RELEASE)?.execute(params![seq, token, now])
        }
    }?;
    let runs_on = !cancelled
        && !matches!(
            outcome,
            Outcome::Completed { .. }
                | Outcome::Failed {
                    then: AfterFailure::Dead,
                    ..
                }
        );
    if runs_on {
        turn.effects.runnable.extend(queue.clone());
        turn.effects.changed.push(settlement.job());
    } else {
        turn.effects.ended.push(settlement.job());
    }
    Ok(())
}

/// Writes a run into the history, before the job's row changes.
pub(super) fn add_run(
    connection: &Connection,
    seq: i64,
    runs: i64,
    now: i64,
    end: RunEnd,
    error: Option<&str>,
) -> Result<()> {
    let error = error.map(short_error);
    connection
        .prepare_cached(ADD_RUN)?
        .execute(params![seq, now, end_number(end), error])?;
    let kept = RUNS_KEPT as i64;
    if runs >= kept {
        connection
            .prepare_cached(FORGET_RUNS)?
            .execute(params![seq, runs - kept])?;
    }
    Ok(())
}

/// Returns the end of a run as it is stored.
pub(in super::super) const fn end_number(end: RunEnd) -> i64 {
    match end {
        RunEnd::Completed => 0,
        RunEnd::Failed => 1,
        RunEnd::Released => 2,
        RunEnd::Postponed => 3,
        RunEnd::Cancelled => 4,
        RunEnd::Lost => 5,
    }
}
