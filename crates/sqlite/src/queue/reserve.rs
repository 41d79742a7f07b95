//! Reserve: the runnable jobs of a queue in their order.
//!
//! Each priority's jobs are a range of one index, already in their order. So the first few of each are
//! read, and merged by the instant from which each could run, moved back by what its priority is worth.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::super::{
    convert::{instant, job_id, micros, read_duration},
    writer::Turn,
};
use lameduck_jobs::{
    engine::common::SUSPECT,
    job::{Claim, Job, Order, Priority, ProcessId, QueueName, Reserved},
};

pub(super) const FIND_QUEUE: &str = "SELECT id FROM queues WHERE name = ?1 AND NOT paused";

/// The priorities that there are, by a seek for each: ?1 is the queue's number.
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
    UPDATE jobs SET state = 1, attempt = attempt + 1, process = ?2, claim = ?3, started_at = ?4, alone = 0
    WHERE seq = ?1
    RETURNING id, attempt, max_attempts, content_type, timeout, traceparent, run_at, crashes,
              (SELECT body FROM payloads WHERE payloads.seq = jobs.seq)";

/// Takes runnable jobs, each under a fresh claim.
pub(in super::super) fn reserve(
    turn: &mut Turn<'_>,
    process: ProcessId,
    queue: &QueueName,
    order: Order,
    limit: usize,
) -> Result<Vec<Reserved>> {
    let runnable = runnable(turn, queue, order, limit)?;
    let mut take = turn.connection.prepare_cached(TAKE)?;
    runnable
        .into_iter()
        .map(|seq| {
            let token = Claim::fresh_token();
            let taken = params![seq, process.as_bytes(), token, micros(turn.now)];
            let job = take.query_row(taken, |r| {
                Ok(Job {
                    id: job_id(r, 0)?,
                    queue: queue.clone(),
                    attempt: r.get(1)?,
                    max_attempts: r.get(2)?,
                    content_type: r.get(3)?,
                    timeout: read_duration(r, 4)?,
                    traceparent: r.get(5)?,
                    run_at: instant(r, 6)?,
                    suspect: r.get::<_, u32>(7)? >= SUSPECT,
                    payload: r.get::<_, Vec<u8>>(8)?.into(),
                })
            })?;
            turn.effects.changed.push(job.id);
            let claim = Claim::from_bytes(job.id, token);
            Ok(Reserved {
                job,
                claim,
                process,
            })
        })
        .collect()
}

/// The first ones, as they come by the order.
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
            Ok((run_at - i64::from(priority) * step, seq))
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
