//! What only looks: a job, the queues in numbers, the next instant of a queue.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::convert::{count, instant, instant_if_any, job_id, micros, queue_name};
use crate::jobs::job::{JobId, JobRecord, QueueName, QueueStats, State};

const JOB: &str = "
    SELECT j.id, q.name, j.state, j.attempt, j.max_attempts, j.releases, j.submitted_at, j.run_at, j.ended_at,
           j.last_error, j.result, j.content_type
    FROM jobs j JOIN queues q ON q.id = j.queue WHERE j.id = ?1";

// Each count walks a partial index and touches no row. What completed is in none of them.
const QUEUES: &str = "
    SELECT q.name,
           (SELECT count(*) FROM jobs WHERE state = 0 AND queue = q.id AND run_at <= ?1),
           (SELECT count(*) FROM jobs WHERE state = 0 AND queue = q.id AND run_at > ?1),
           (SELECT count(*) FROM jobs WHERE state = 1 AND queue = q.id),
           (SELECT count(*) FROM jobs WHERE state = 3 AND queue = q.id),
           (SELECT min(run_at) FROM jobs WHERE state = 0 AND queue = q.id AND run_at <= ?1)
    FROM queues q ORDER BY q.name";

const NEXT_RUN_AT: &str = "
    SELECT min(run_at) FROM jobs
    WHERE state = 0 AND queue = (SELECT id FROM queues WHERE name = ?1)";

/// One job, as it stands at `now`.
pub(super) fn job(connection: &Connection, id: JobId, now: Timestamp) -> Result<Option<JobRecord>> {
    connection
        .prepare_cached(JOB)?
        .query_row([id.as_bytes()], |r| record(r, now))
        .optional()
}

fn record(row: &Row<'_>, now: Timestamp) -> Result<JobRecord> {
    let run_at = instant(row, 7)?;
    let state = match row.get(2)? {
        0 if run_at > now => State::Scheduled,
        0 => State::Pending,
        1 => State::Running,
        2 => State::Completed,
        3 => State::Dead,
        unknown => return Err(rusqlite::Error::IntegralValueOutOfRange(2, unknown)),
    };
    Ok(JobRecord {
        id: job_id(row, 0)?,
        queue: queue_name(row, 1)?,
        state,
        attempt: row.get(3)?,
        max_attempts: row.get(4)?,
        releases: row.get(5)?,
        submitted_at: instant(row, 6)?,
        run_at,
        ended_at: instant_if_any(row, 8)?,
        last_error: row.get(9)?,
        result: row.get::<_, Option<Vec<u8>>>(10)?.map(Into::into),
        content_type: row.get(11)?,
    })
}

/// Every queue, as it stands at `now`.
pub(super) fn queues(connection: &Connection, now: Timestamp) -> Result<Vec<QueueStats>> {
    connection
        .prepare_cached(QUEUES)?
        .query_map([micros(now)], |r| {
            Ok(QueueStats {
                queue: queue_name(r, 0)?,
                pending: count(r, 1)?,
                scheduled: count(r, 2)?,
                running: count(r, 3)?,
                dead: count(r, 4)?,
                oldest_pending: instant_if_any(r, 5)?,
            })
        })?
        .collect()
}

/// When the next job of a queue is runnable.
pub(super) fn next_run_at(connection: &Connection, queue: &QueueName) -> Result<Option<Timestamp>> {
    connection
        .prepare_cached(NEXT_RUN_AT)?
        .query_row(params![queue.as_str()], |r| instant_if_any(r, 0))
}
