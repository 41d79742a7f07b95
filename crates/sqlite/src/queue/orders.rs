//! Operators' commands: cancel, run again, pause; and a worker's note that a suspect is about to run.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    super::{
        convert::{job_id, micros, queue_name, state},
        writer::Turn,
    },
    queue_number,
    settle::add_run,
};
use lameduck_jobs::job::{Cancelled, JobId, QueueName, Revived, RunEnd, State};

const FIND: &str = "
    SELECT j.seq, j.state, j.run_at, j.runs, q.name
    FROM jobs j JOIN queues q ON q.id = j.queue WHERE j.id = ?1";

const CANCEL: &str = "
    UPDATE jobs SET state = 4, ended_at = ?2, process = NULL, claim = NULL, runs = runs + ?3 WHERE seq = ?1";

const REQUEST: &str = "UPDATE jobs SET cancel_requested = 1 WHERE seq = ?1";

const REVIVE: &str = "
    UPDATE jobs SET state = 0, run_at = ?2, ended_at = NULL, attempt = 0, crashes = 0, cancel_requested = 0
    WHERE seq = ?1";

pub(super) const FIND_DEAD: &str = "
    SELECT seq, id FROM jobs WHERE queue = ?1 AND state = 3 AND ended_at IS NOT NULL ORDER BY ended_at, seq LIMIT ?2";

const PAUSE: &str = "UPDATE queues SET paused = ?2 WHERE id = ?1";

const ALONE: &str = "UPDATE jobs SET alone = 1 WHERE id = ?1 AND claim = ?2";

/// A job, whatever its state.
struct Found {
    seq: i64,
    state: State,
    runs: i64,
    /// `None` if the name is not one that our programs have written.
    queue: Option<QueueName>,
}

/// Cancels a job that is waiting, deferred or dead, or requests the end of a running one.
pub(in super::super) fn cancel(turn: &mut Turn<'_>, id: JobId) -> Result<Option<Cancelled>> {
    let Some(job) = find(turn, id)? else {
        return Ok(None);
    };
    let now = micros(turn.now);
    let mut ran = 0;
    match job.state {
        State::Completed | State::Cancelled => {
            return Ok(Some(Cancelled::TooLate(job.state)));
        }
        State::Running => {
            turn.connection
                .prepare_cached(REQUEST)?
                .execute([job.seq])?;
            turn.effects.cancel_requested.push(id);
            return Ok(Some(Cancelled::Requested));
        }
        State::Deferred => {
            add_run(
                turn.connection,
                job.seq,
                job.runs,
                now,
                RunEnd::Cancelled,
                None,
            )?;
            ran = 1;
        }
        State::Pending | State::Scheduled | State::Dead => {}
    }
    end(turn, job.seq, id, ran)?;
    Ok(Some(Cancelled::Now))
}

/// Cancels dead jobs of a queue, those that died first before the others.
pub(in super::super) fn cancel_dead(
    turn: &mut Turn<'_>,
    queue: &QueueName,
    limit: usize,
) -> Result<u64> {
    let dead = find_dead(turn, queue, limit)?;
    for (seq, id) in &dead {
        end(turn, *seq, *id, 0)?;
    }
    Ok(dead.len() as u64)
}

fn end(turn: &mut Turn<'_>, seq: i64, id: JobId, ran: i64) -> Result<()> {
    let now = micros(turn.now);
    turn.connection
        .prepare_cached(CANCEL)?
        .execute(params![seq, now, ran])?;
    turn.effects.ended.push(id);
    Ok(())
}

/// Runs a dead job again.
pub(in super::super) fn revive(turn: &mut Turn<'_>, id: JobId) -> Result<Option<Revived>> {
    let Some(job) = find(turn, id)? else {
        return Ok(None);
    };
    if job.state != State::Dead {
        return Ok(Some(Revived::NotDead(job.state)));
    }
    wake(turn, job.seq, id)?;
    turn.effects.runnable.extend(job.queue);
    Ok(Some(Revived::Now))
}

/// Runs dead jobs of a queue again, those that died first before the others.
pub(in super::super) fn revive_all(
    turn: &mut Turn<'_>,
    queue: &QueueName,
    limit: usize,
) -> Result<u64> {
    let dead = find_dead(turn, queue, limit)?;
    for (seq, id) in &dead {
        wake(turn, *seq, *id)?;
    }
    turn.effects.runnable.insert(queue.clone());
    Ok(dead.len() as u64)
}

fn find_dead(turn: &Turn<'_>, queue: &QueueName, limit: usize) -> Result<Vec<(i64, JobId)>> {
    let number = queue_number(turn.connection, queue)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut find = turn.connection.prepare_cached(FIND_DEAD)?;
    find.query_map(params![number, limit], |r| Ok((r.get(0)?, job_id(r, 1)?)))?
        .collect()
}

fn wake(turn: &mut Turn<'_>, seq: i64, id: JobId) -> Result<()> {
    let now = micros(turn.now);
    turn.connection
        .prepare_cached(REVIVE)?
        .execute(params![seq, now])?;
    turn.effects.changed.push(id);
    Ok(())
}

/// Pauses a queue or resumes it.
pub(in super::super) fn set_paused(
    turn: &mut Turn<'_>,
    queue: &QueueName,
    paused: bool,
) -> Result<()> {
    let number = queue_number(turn.connection, queue)?;
    turn.connection
        .prepare_cached(PAUSE)?
        .execute(params![number, paused])?;
    turn.effects.runnable.insert(queue.clone());
    Ok(())
}

/// Notes that this job runs alone: from now on a crash of the process is charged to this job.
pub(in super::super) fn runs_alone(
    connection: &Connection,
    claim: &(JobId, [u8; 16]),
) -> Result<()> {
    let (job, token) = claim;
    connection
        .prepare_cached(ALONE)?
        .execute(params![job.as_bytes(), token])
        .map(drop)
}

fn find(turn: &Turn<'_>, id: JobId) -> Result<Option<Found>> {
    turn.connection
        .prepare_cached(FIND)?
        .query_row([id.as_bytes()], |r| {
            Ok(Found {
                seq: r.get(0)?,
                state: state(r, 1, 2, turn.now)?,
                runs: r.get(3)?,
                queue: queue_name(r, 4).ok(),
            })
        })
        .optional()
}
