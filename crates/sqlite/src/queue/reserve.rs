//! Reserve: takes the runnable jobs of a queue in order.
//!
//! Each priority's jobs are a range of one index, already in order. So the first few of each are read, and
//! merged by the instant from which each could run, moved back by what its priority is worth.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::super::{
    convert::{between, instant, job_id, micros, read_duration},
    time::{QueueTime, catch_up},
    writer::Turn,
};
use lameduck_jobs::{
    engine::common::SUSPECT,
    job::{Claim, Job, JobId, Order, Priority, ProcessId, QueueName, Reserved},
};

pub(super) const FIND_QUEUE: &str = "SELECT id FROM queues WHERE name = ?1 AND NOT paused";

/// The priorities in use, found by a seek for each: ?1 is the queue's number.
pub(in super::super) const PRIORITIES: &str = "
    WITH RECURSIVE steps (priority) AS (
        SELECT max(priority) FROM jobs WHERE state = 0 AND queue = ?1
        UNION ALL
        SELECT (SELECT max(priority) FROM jobs WHERE state = 0 AND queue = ?1 AND priority < steps.priority)
        FROM steps WHERE steps.priority IS NOT NULL
    )
    SELECT priority FROM steps WHERE priority IS NOT NULL";

pub(super) const FIND_RUNNABLE: &str = "
    SELECT seq, run_at FROM jobs INDEXED BY jobs_waiting
    WHERE state = 0 AND queue = ?1 AND priority = ?2 AND run_at <= ?3
    ORDER BY run_at, seq LIMIT ?4";

pub(super) const TAKE: &str = "
    UPDATE jobs SET state = 1, attempt = attempt + 1, process = ?2, claim = ?3, started_at = ?4, alone = 0, by_clock = 0
    WHERE seq = ?1
    RETURNING id, attempt, max_attempts, content_type, timeout, traceparent, run_at, crashes,
              (SELECT body FROM payloads WHERE payloads.seq = jobs.seq)";

const CONDEMN: &str = "
    UPDATE jobs SET state = 3, ended_at = ?2, attempt = 0, process = NULL, claim = NULL, last_error = ?3
    WHERE seq = ?1";

/// Takes runnable jobs, each under a fresh claim.
pub(in super::super) fn reserve(
    turn: &mut Turn<'_>,
    time: &QueueTime,
    process: ProcessId,
    queue: &QueueName,
    order: Order,
    limit: usize,
) -> Result<Vec<Reserved>> {
    let shift = catch_up(turn, time)?;
    let runnable = runnable(turn, queue, order, limit)?;
    let mut take = turn.connection.prepare_cached(TAKE)?;
    let now = micros(turn.now);
    let mut reserved = Vec::new();
    for seq in runnable {
        let token = Claim::fresh_token();
        let taken = params![seq, process.as_bytes(), token, now];
        let (id, job) = take.query_row(taken, |r| Ok((job_id(r, 0), read(r, queue))))?;
        match (id, job) {
            (Ok(id), Ok(mut job)) => {
                turn.effects.changed.push(id);
                let waited = between(micros(job.run_at), now);
                job.run_at = shift.shown(job.run_at);
                reserved.push(Reserved {
                    claim: Claim::from_bytes(id, token),
                    process,
                    waited,
                    job,
                });
            }
            (id, job) => {
                let why = job.err().map(|error| error.to_string()).unwrap_or_default();
                condemn(turn, seq, id.ok(), queue, &why)?;
            }
        }
    }
    Ok(reserved)
}

fn read(row: &Row<'_>, queue: &QueueName) -> Result<Job> {
    Ok(Job {
        id: job_id(row, 0)?,
        queue: queue.clone(),
        attempt: row.get(1)?,
        max_attempts: row.get(2)?,
        content_type: row.get(3)?,
        timeout: read_duration(row, 4)?,
        traceparent: row.get(5)?,
        run_at: instant(row, 6)?,
        suspect: row.get::<_, u32>(7)? >= SUSPECT,
        payload: row.get::<_, Vec<u8>>(8)?.into(),
    })
}

/// Marks a job as dead, with the reason: one that can't be read can't be run, and must not block the others.
fn condemn(
    turn: &mut Turn<'_>,
    seq: i64,
    job: Option<JobId>,
    queue: &QueueName,
    why: &str,
) -> Result<()> {
    let error = format!("this job can't be read and was not run: {why}");
    tracing::error!(?job, %queue, error, "a job is dead because it can't be read");
    let mut condemn = turn.connection.prepare_cached(CONDEMN)?;
    condemn.execute(params![seq, micros(turn.now), error])?;
    turn.effects.ended.extend(job);
    Ok(())
}

/// Returns the first runnable jobs in this order.
fn runnable(turn: &Turn<'_>, queue: &QueueName, order: Order, limit: usize) -> Result<Vec<i64>> {
    let mut find = turn.connection.prepare_cached(FIND_QUEUE)?;
    let Some(queue) = find
        .query_row([queue.as_str()], |r| r.get::<_, i64>(0))
        .optional()?
    else {
        return Ok(Vec::new());
    };
    let step = i64::try_from(order.step().as_micros()).unwrap_or(i64::MAX);
    let limit_of_each = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut runnable: Vec<(i64, i64)> = Vec::new();
    for priority in priorities(turn.connection, queue)? {
        let mut find = turn.connection.prepare_cached(FIND_RUNNABLE)?;
        let range = params![queue, priority, micros(turn.now), limit_of_each];
        let found = find.query_map(range, |r| {
            let (seq, run_at): (i64, i64) = (r.get(0)?, r.get(1)?);
            let worth = i64::from(priority).saturating_mul(step);
            Ok((run_at.saturating_sub(worth), seq))
        })?;
        for rank in found {
            runnable.push(rank?);
        }
    }
    runnable.sort_unstable();
    runnable.truncate(limit);
    Ok(runnable.into_iter().map(|(_, seq)| seq).collect())
}

fn priorities(connection: &Connection, queue: i64) -> Result<Vec<i8>> {
    let mut find = connection.prepare_cached(PRIORITIES)?;
    let found = find.query_map([queue], |r| r.get(0))?;
    let found: Vec<i8> = found.collect::<Result<_>>()?;
    debug_assert!(found.len() <= Priority::RANGE.count());
    Ok(found)
}
