//! Read-only queries: jobs, their runs, the queues in numbers, the next instant of a queue.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::convert::{
    between, count, instant, instant_if_any, job_id, micros, queue_name, read_duration, state,
};
use lameduck_jobs::{
    engine::{Details, EngineError, Glance},
    job::{
        Cursor, JobId, JobRecord, Listing, Page, Priority, ProcessId, QueueName, QueueStats, Run,
        RunEnd, State, Unreadable,
    },
};

/// The columns that [`record`] reads, in its order.
macro_rules! columns {
    () => {
        "j.id, q.name, j.state, j.attempt, j.max_attempts, j.releases, j.submitted_at, j.run_at, j.ended_at, \
         j.last_error, j.result, j.content_type, j.priority, j.timeout, j.crashes, j.cancel_requested, j.traceparent"
    };
}

const JOB: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM jobs j JOIN queues q ON q.id = j.queue WHERE j.id = ?1"
);

const GLANCE: &str = "
    SELECT state, run_at, attempt, releases, crashes, cancel_requested, ended_at FROM jobs WHERE id = ?1";

const PAYLOAD: &str = "
    SELECT j.content_type, p.body FROM jobs j JOIN payloads p ON p.seq = j.seq WHERE j.id = ?1";

const PING: &str = "SELECT count(*) FROM sqlite_schema";

const RUNS: &str = "
    SELECT attempt, process, started_at, ended_at, end, error FROM runs
    WHERE job = (SELECT seq FROM jobs WHERE id = ?1) ORDER BY number";

const CANCEL_REQUESTS: &str = "
    SELECT id FROM jobs INDEXED BY jobs_running WHERE state = 1 AND process = ?1 AND cancel_requested";

// Each count walks a partial index and touches no row. Completed jobs are only in the last one, where the
// state is a range.
const QUEUES: &str = "
    SELECT q.name, q.paused,
           (SELECT count(*) FROM jobs WHERE state = 0 AND queue = q.id AND run_at > ?1),
           q.waiting,
           (SELECT count(*) FROM jobs WHERE state = 1 AND queue = q.id),
           (SELECT count(*) FROM jobs WHERE state = 5 AND queue = q.id),
           (SELECT count(*) FROM jobs WHERE state = 3 AND ended_at IS NOT NULL AND queue = q.id),
           (WITH RECURSIVE steps (priority) AS (
                SELECT max(priority) FROM jobs WHERE state = 0 AND queue = q.id
                UNION ALL
                SELECT (SELECT max(priority) FROM jobs
                        WHERE state = 0 AND queue = q.id AND priority < steps.priority)
                FROM steps WHERE steps.priority IS NOT NULL
            ) SELECT min((SELECT min(run_at) FROM jobs
                          WHERE state = 0 AND queue = q.id AND priority = steps.priority))
              FROM steps)
    FROM queues q WHERE ?2 IS NULL OR q.name = ?2 ORDER BY q.name";

const NEXT_RUN_AT: &str = "
    WITH RECURSIVE q (id) AS (SELECT id FROM queues WHERE name = ?1 AND NOT paused),
    steps (priority) AS (
        SELECT max(priority) FROM jobs WHERE state = 0 AND queue = (SELECT id FROM q)
        UNION ALL
        SELECT (SELECT max(priority) FROM jobs
                WHERE state = 0 AND queue = (SELECT id FROM q) AND priority < steps.priority)
        FROM steps WHERE steps.priority IS NOT NULL
    ) SELECT min((SELECT min(run_at) FROM jobs
                  WHERE state = 0 AND queue = (SELECT id FROM q) AND priority = steps.priority))
      FROM steps";

/// Checks that the file can be read.
pub(super) fn ping(connection: &Connection) -> Result<()> {
    connection.query_row(PING, [], |_| Ok(()))
}

/// Returns a job, as it stands at `now`.
pub(super) fn job(
    connection: &Connection,
    id: JobId,
    now: Timestamp,
) -> Result<Option<std::result::Result<JobRecord, Unreadable>>> {
    connection
        .prepare_cached(JOB)?
        .query_row([id.as_bytes()], |r| Ok(readable(r, now)))
        .optional()
}

/// Returns a job, or why its row can't be read, which must not fail the other jobs that were asked for.
fn readable(row: &Row<'_>, now: Timestamp) -> std::result::Result<JobRecord, Unreadable> {
    record(row, now).map_err(|error| Unreadable {
        id: job_id(row, 0).ok(),
        why: error.to_string(),
    })
}

fn record(row: &Row<'_>, now: Timestamp) -> Result<JobRecord> {
    Ok(JobRecord {
        id: job_id(row, 0)?,
        queue: queue_name(row, 1)?,
        state: state(row, 2, 7, now)?,
        attempt: row.get(3)?,
        max_attempts: row.get(4)?,
        releases: row.get(5)?,
        submitted_at: instant(row, 6)?,
        run_at: instant(row, 7)?,
        ended_at: instant_if_any(row, 8)?,
        last_error: row.get(9)?,
        result: row.get::<_, Option<Vec<u8>>>(10)?.map(Into::into),
        content_type: row.get(11)?,
        priority: Priority::try_from(row.get::<_, i64>(12)?).unwrap_or_default(),
        timeout: read_duration(row, 13)?,
        crashes: row.get(14)?,
        cancel_requested: row.get(15)?,
        traceparent: row.get(16)?,
    })
}

/// Returns the payload of a job, and its media type.
pub(super) fn payload(connection: &Connection, id: JobId) -> Result<Option<(String, Bytes)>> {
    connection
        .prepare_cached(PAYLOAD)?
        .query_row([id.as_bytes()], |r| {
            Ok((r.get(0)?, r.get::<_, Vec<u8>>(1)?.into()))
        })
        .optional()
}

/// Returns the runs of a job that have ended.
pub(super) fn runs(connection: &Connection, id: JobId) -> Result<Vec<Run>> {
    connection
        .prepare_cached(RUNS)?
        .query_map([id.as_bytes()], |r| {
            Ok(Run {
                attempt: r.get(0)?,
                process: ProcessId::from_bytes(r.get(1)?),
                started_at: instant(r, 2)?,
                ended_at: instant(r, 3)?,
                end: end(r, 4)?,
                error: r.get(5)?,
            })
        })?
        .collect()
}

/// Returns a job with its history.
pub(super) fn details(
    connection: &Connection,
    id: JobId,
    now: Timestamp,
) -> std::result::Result<Option<Details>, EngineError> {
    let failed = |error: rusqlite::Error| EngineError::Storage(error.to_string());
    let Some(record) = job(connection, id, now).map_err(failed)? else {
        return Ok(None);
    };
    Ok(Some(Details {
        record: record.map_err(|row| EngineError::Unreadable(row.to_string()))?,
        runs: runs(connection, id).map_err(failed)?,
        read_at: now,
    }))
}

/// Returns a short summary of these jobs at `now`, without those that are unknown.
pub(super) fn glance(
    connection: &Connection,
    ids: &[JobId],
    now: Timestamp,
) -> Result<Vec<Glance>> {
    let mut statement = connection.prepare_cached(GLANCE)?;
    let mut seen = Vec::with_capacity(ids.len());
    for id in ids {
        let found = statement.query_row([id.as_bytes()], |r| {
            Ok(Glance {
                id: *id,
                state: state(r, 0, 1, now)?,
                run_at: instant(r, 1)?,
                attempt: r.get(2)?,
                releases: r.get(3)?,
                crashes: r.get(4)?,
                cancel_requested: r.get(5)?,
                ended_at: instant_if_any(r, 6)?,
            })
        });
        // A job that can't be read is reported when it is read as a whole.
        seen.extend(found.ok());
    }
    Ok(seen)
}

fn end(row: &Row<'_>, column: usize) -> Result<RunEnd> {
    Ok(match row.get(column)? {
        0 => RunEnd::Completed,
        1 => RunEnd::Failed,
        2 => RunEnd::Released,
        3 => RunEnd::Postponed,
        4 => RunEnd::Cancelled,
        5 => RunEnd::Lost,
        unknown => return Err(rusqlite::Error::IntegralValueOutOfRange(column, unknown)),
    })
}

/// Returns a page of jobs.
pub(super) fn list(connection: &Connection, listing: &Listing, now: Timestamp) -> Result<Page> {
    let Some(queue) = queue_number(connection, &listing.queue)? else {
        return Ok(Page {
            jobs: Vec::new(),
            unreadable: Vec::new(),
            next: None,
        });
    };
    let place = Place::of(listing.state);
    let start = if place.forward { i64::MIN } else { i64::MAX };
    let after = listing.after.unwrap_or(Cursor {
        micros: start,
        seq: start,
    });
    // One more than asked for, to see whether there is a next page.
    let limit = i64::try_from(listing.limit).unwrap_or(i64::MAX - 1) + 1;
    let mut found: Vec<(Cursor, std::result::Result<JobRecord, Unreadable>)> = Vec::new();
    // Each part is a range of an index in its order, so that a page costs its own rows and not all waiting ones.
    for priority in place.priorities() {
        let asked = params![queue, micros(now), after.micros, after.seq, limit, priority];
        let mut page = connection.prepare_cached(&place.sql())?;
        let page = page.query_map(asked, |r| {
            let place = Cursor {
                micros: r.get(17)?,
                seq: r.get(18)?,
            };
            Ok((place, readable(r, now)))
        })?;
        for job in page {
            found.push(job?);
        }
    }
    if place.by_priority {
        found.sort_by_key(|(place, _)| (place.micros, place.seq));
    }
    let more = found.len() > listing.limit;
    found.truncate(listing.limit);
    let next = found.last().map(|(place, _)| *place).filter(|_| more);
    let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
    for (_, row) in found {
        match row {
            Ok(job) => jobs.push(job),
            Err(row) => unreadable.push(row),
        }
    }
    Ok(Page {
        jobs,
        unreadable,
        next,
    })
}

fn queue_number(connection: &Connection, name: &QueueName) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM queues WHERE name = ?1")?
        .query_row([name.as_str()], |r| r.get(0))
        .optional()
}

/// Where the jobs of a state are found, and in which order.
struct Place {
    index: &'static str,
    filter: &'static str,
    key: &'static str,
    forward: bool,
    /// Waiting jobs are indexed separately for each priority, each in its own order.
    by_priority: bool,
}

// === impl Place ===

impl Place {
    fn of(state: State) -> Self {
        let waiting = |filter| Self {
            index: "jobs_waiting",
            filter,
            key: "j.run_at",
            forward: true,
            by_priority: true,
        };
        let ended = |filter| Self {
            index: "jobs_ended",
            filter,
            key: "j.ended_at",
            forward: false,
            by_priority: false,
        };
        match state {
            State::Pending => waiting("j.state = 0 AND j.run_at <= ?2"),
            State::Scheduled => waiting("j.state = 0 AND j.run_at > ?2"),
            State::Deferred => Self {
                index: "jobs_deferred",
                filter: "j.state = 5 AND ?2",
                by_priority: false,
                ..waiting("")
            },
            State::Running => Self {
                index: "jobs_running",
                filter: "j.state = 1 AND ?2",
                key: "0 * j.seq",
                by_priority: false,
                ..waiting("")
            },
            State::Completed => ended("j.state = 2 AND j.ended_at IS NOT NULL AND ?2"),
            State::Dead => ended("j.state = 3 AND j.ended_at IS NOT NULL AND ?2"),
            State::Cancelled => ended("j.state = 4 AND j.ended_at IS NOT NULL AND ?2"),
        }
    }

    /// Returns the parts that a page is merged from.
    fn priorities(&self) -> impl Iterator<Item = Option<i8>> + use<> {
        let by_priority = Priority::RANGE.map(Some).filter({
            let by_priority = self.by_priority;
            move |_| by_priority
        });
        by_priority.chain((!self.by_priority).then_some(None))
    }

    fn sql(&self) -> String {
        let Self {
            index,
            filter,
            key,
            forward,
            by_priority,
        } = *self;
        let (compare, order) = if forward { (">", "ASC") } else { ("<", "DESC") };
        let columns = columns!();
        let priority = if by_priority {
            "j.priority = ?6"
        } else {
            "?6 IS NULL"
        };
        format!(
            "SELECT {columns}, {key}, j.seq FROM jobs j INDEXED BY {index} JOIN queues q ON q.id = j.queue
             WHERE j.queue = ?1 AND {priority} AND {filter} AND ({key}, j.seq) {compare} (?3, ?4)
             ORDER BY {key} {order}, j.seq {order} LIMIT ?5"
        )
    }
}

/// Returns the jobs of a process that somebody has asked to cancel.
pub(super) fn cancel_requests(connection: &Connection, process: ProcessId) -> Result<Vec<JobId>> {
    connection
        .prepare_cached(CANCEL_REQUESTS)?
        .query_map([process.as_bytes()], |r| job_id(r, 0))?
        .collect()
}

/// Returns every queue, or only the one with this name, as it stands at `now`.
pub(super) fn queues(
    connection: &Connection,
    only: Option<&QueueName>,
    now: Timestamp,
) -> Result<Vec<QueueStats>> {
    let (only, now) = (only.map(QueueName::as_str), micros(now));
    let mut find = connection.prepare_cached(QUEUES)?;
    let rows = find.query_map(params![now, only], |r| {
        let queue = match queue_name(r, 0) {
            Ok(queue) => queue,
            Err(error) => {
                tracing::warn!(%error, "a queue in the database can't be shown");
                return Ok(None);
            }
        };
        let (scheduled, waiting) = (count(r, 2)?, count(r, 3)?);
        let oldest: Option<i64> = r.get(7)?;
        Ok(Some(QueueStats {
            queue,
            paused: r.get(1)?,
            pending: waiting.saturating_sub(scheduled),
            scheduled,
            running: count(r, 4)?,
            deferred: count(r, 5)?,
            dead: count(r, 6)?,
            oldest_age: oldest.filter(|at| *at <= now).map(|at| between(at, now)),
        }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// Returns the time until the next job of a queue is runnable.
pub(super) fn next_run_in(
    connection: &Connection,
    queue: &QueueName,
    now: Timestamp,
) -> Result<Option<Duration>> {
    let mut find = connection.prepare_cached(NEXT_RUN_AT)?;
    let at: Option<i64> = find.query_row(params![queue.as_str()], |r| r.get(0))?;
    Ok(at.map(|at| between(micros(now), at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::plans::plan;

    #[test]
    fn a_page_is_a_range_of_an_index_and_sorts_nothing() {
        for state in [
            State::Pending,
            State::Scheduled,
            State::Deferred,
            State::Completed,
            State::Dead,
            State::Cancelled,
        ] {
            let place = Place::of(state);
            let plan = plan(&place.sql());
            assert!(
                plan.contains(&format!("INDEX {} (queue=?", place.index)),
                "{plan}"
            );
            assert!(!plan.contains("TEMP B-TREE"), "{state:?}: {plan}");
        }
    }
}
