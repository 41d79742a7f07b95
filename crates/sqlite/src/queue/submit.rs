//! Submit: stores a job, its payload and its idempotency key, or says why not.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    super::{
        convert::{job_id, micros, stored_duration},
        time::{QueueTime, Shift, catch_up},
        writer::Turn,
    },
    queue_number,
};
use lameduck_jobs::{
    bounds,
    engine::common::digest,
    job::{JobId, NewJob, Rejected, Submitted, When},
};

const FIND_KEY: &str = "SELECT job, digest FROM idempotency_keys WHERE queue = ?1 AND key = ?2";

const ADD_KEY: &str = "
    INSERT INTO idempotency_keys (queue, key, job, digest, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";

const ADD_JOB: &str = "
    INSERT INTO jobs (id, queue, state, priority, run_at, timeout, max_attempts, submitted_at, content_type,
                      traceparent, by_clock)
    VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

const ADD_PAYLOAD: &str = "INSERT INTO payloads (seq, body) VALUES (?1, ?2)";

const WAITING: &str = "SELECT waiting FROM queues WHERE id = ?1";

type Answer = std::result::Result<Submitted, Rejected>;

/// The quotas for stored jobs.
#[derive(Clone, Debug)]
pub(in super::super) struct Room {
    /// Maximum number of jobs that may wait in one queue.
    pub max_waiting: u64,
    /// Maximum size of the database in bytes.
    pub max_bytes: u64,
    /// Bytes that are left free on its file system, so that outcomes can be written when it fills up.
    pub min_free: u64,
    /// The directory of the database.
    pub directory: std::path::PathBuf,
}

/// Stores jobs; returns one answer for each.
pub(in super::super) fn submit(
    turn: &mut Turn<'_>,
    time: &QueueTime,
    room: &Room,
    jobs: &[NewJob],
) -> Result<Vec<Answer>> {
    let shift = catch_up(turn, time)?;
    let full = room.storage(turn.connection)?;
    jobs.iter()
        .map(|job| submit_one(turn, shift, room, full.as_ref(), job))
        .collect()
}

fn submit_one(
    turn: &mut Turn<'_>,
    shift: Shift,
    room: &Room,
    full: Option<&Rejected>,
    job: &NewJob,
) -> Result<Answer> {
    let connection = turn.connection;
    if let Err(error) = bounds::check(job, shift.shown(turn.now)) {
        return Ok(Err(error.into()));
    }
    let queue = queue_number(connection, &job.queue)?;
    let id = JobId::random();
    // This check comes first: a repeated submission gets its first answer even if there is no room any more.
    if let Some(key) = &job.idempotency_key
        && let Some(answer) = seen_before(connection, queue, key, job)?
    {
        return Ok(answer);
    }
    if let Some(full) = full {
        return Ok(Err(full.clone()));
    }
    if let Some(full) = room.queue(connection, queue)? {
        return Ok(Err(full));
    }
    if let Some(key) = &job.idempotency_key {
        connection.prepare_cached(ADD_KEY)?.execute(params![
            queue,
            key,
            id.as_bytes(),
            digest(job),
            micros(turn.now)
        ])?;
    }
    // Clamped, because an instant in the past would overtake every waiting job.
    let run_at = job.run_at.map(|when| shift.when(when, turn.now));
    let run_at = run_at.map_or(turn.now, |at| at.max(turn.now));
    let by_clock = matches!(job.run_at, Some(When::At(_))) && run_at > turn.now;
    let seq = connection.prepare_cached(ADD_JOB)?.insert(params![
        id.as_bytes(),
        queue,
        job.priority.get(),
        micros(run_at),
        job.timeout.map(stored_duration),
        job.max_attempts.max(1),
        micros(turn.now),
        job.content_type,
        job.traceparent
            .as_deref()
            .filter(|text| bounds::is_traceparent(text)),
        by_clock,
    ])?;
    connection
        .prepare_cached(ADD_PAYLOAD)?
        .execute(params![seq, job.payload.as_ref()])?;
    turn.effects.runnable.insert(job.queue.clone());
    Ok(Ok(Submitted {
        id,
        repeated: false,
    }))
}

fn seen_before(
    connection: &Connection,
    queue: i64,
    key: &str,
    job: &NewJob,
) -> Result<Option<Answer>> {
    let seen = connection
        .prepare_cached(FIND_KEY)?
        .query_row(params![queue, key], |r| {
            Ok((job_id(r, 0)?, r.get::<_, [u8; 32]>(1)?))
        })
        .optional()?;
    Ok(seen.map(|(first, seen)| {
        if seen == digest(job) {
            Ok(Submitted {
                id: first,
                repeated: true,
            })
        } else {
            Err(Rejected::KeyReused { first })
        }
    }))
}

// === impl Room ===

impl Room {
    /// Returns why the database can take no more jobs.
    fn storage(&self, connection: &Connection) -> Result<Option<Rejected>> {
        let pragma = |name: &str| {
            let mut statement = connection.prepare_cached(&format!("PRAGMA {name}"))?;
            statement.query_row([], |r| r.get::<_, i64>(0))
        };
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        let used = (pages * pragma("page_size")?).unsigned_abs();
        if used >= self.max_bytes {
            return Ok(Some(Rejected::StorageFull(format!(
                "the database holds {used} bytes, and may hold {} (setting 'max-disk')",
                self.max_bytes
            ))));
        }
        // If the system does not say, the write itself will fail.
        let free = rustix::fs::statvfs(&self.directory).map(|fs| fs.f_bavail * fs.f_frsize);
        Ok(free.ok().filter(|free| *free < self.min_free).map(|free| {
            Rejected::StorageFull(format!(
                "the disk has {free} bytes left, and {} are kept for outcomes (setting 'min-free-disk')",
                self.min_free
            ))
        }))
    }

    /// Returns why the queue can take no more jobs.
    fn queue(&self, connection: &Connection, queue: i64) -> Result<Option<Rejected>> {
        let mut find = connection.prepare_cached(WAITING)?;
        let waiting = find
            .query_row([queue], |r| r.get::<_, i64>(0))?
            .unsigned_abs();
        Ok((waiting >= self.max_waiting).then_some(Rejected::QueueFull { waiting }))
    }
}
