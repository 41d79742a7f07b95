//! Housekeeping, in pieces small enough to block nobody: overdue jobs, those past their retention, unused pages.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Result, params};

use super::{
    super::{
        convert::{job_id, micros, queue_name, stored_duration},
        writer::Turn,
    },
    settle::add_run,
};
use lameduck_jobs::{
    engine::common::OVERDUE,
    job::{JobId, Maintained, QueueName, Retention, RunEnd},
};

/// Maximum number of rows in one piece.
const PIECE: i64 = 500;

/// Maximum number of pages that one piece gives back to the file system.
const PAGES: i64 = 256;

pub(super) const FIND_OVERDUE: &str = "
    SELECT j.seq, j.id, j.runs, j.attempt >= j.max_attempts, q.name
    FROM queues q CROSS JOIN jobs j INDEXED BY jobs_deferred ON j.queue = q.id
    WHERE j.state = 5 AND j.run_at <= ?1 LIMIT ?2";

const FAIL: &str = "
    UPDATE jobs SET state = iif(?3, 3, 0), ended_at = iif(?3, ?2, NULL), run_at = ?2, last_error = ?4,
                    process = NULL, claim = NULL, runs = runs + 1
    WHERE seq = ?1";

pub(super) const FIND_OUTLIVED: &str = "
    SELECT seq FROM queues q CROSS JOIN jobs j INDEXED BY jobs_ended ON j.queue = q.id
    WHERE j.state = ?1 AND j.ended_at IS NOT NULL AND j.ended_at < ?2 LIMIT ?3";

const FORGET: [&str; 3] = [
    "DELETE FROM payloads WHERE seq = ?1",
    "DELETE FROM runs WHERE job = ?1",
    "DELETE FROM jobs WHERE seq = ?1",
];

// A key lives at least as long as its job.
pub(super) const FORGET_KEYS: &str = "
    DELETE FROM idempotency_keys WHERE (queue, key) IN (
        SELECT queue, key FROM idempotency_keys k INDEXED BY idempotency_keys_by_age
        WHERE created_at < ?1 AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = k.job) LIMIT ?2
    )";

/// Does one piece of housekeeping.
pub(in super::super) fn maintain(turn: &mut Turn<'_>, retention: &Retention) -> Result<Maintained> {
    let expired = expire(turn)?;
    let connection = turn.connection;
    let mut pruned = 0;
    for (state, kept) in [
        (2, retention.completed),
        (4, retention.completed),
        (3, retention.dead),
    ] {
        pruned += prune(connection, state, before(turn.now, kept))?;
    }
    let keys = connection
        .prepare_cached(FORGET_KEYS)?
        .execute(params![before(turn.now, retention.keys), PIECE])?;
    give_pages_back(connection)?;
    let piece = PIECE.unsigned_abs();
    Ok(Maintained {
        expired,
        pruned,
        more: expired == piece || pruned >= piece || keys as u64 == piece,
    })
}

fn before(now: Timestamp, kept: Duration) -> i64 {
    micros(now).saturating_sub(stored_duration(kept))
}

/// Fails deferred jobs that are overdue.
fn expire(turn: &mut Turn<'_>) -> Result<u64> {
    let now = micros(turn.now);
    let mut find = turn.connection.prepare_cached(FIND_OVERDUE)?;
    let overdue: Vec<(i64, JobId, i64, bool, Option<QueueName>)> = find
        .query_map([now, PIECE], |r| {
            Ok((
                r.get(0)?,
                job_id(r, 1)?,
                r.get(2)?,
                r.get(3)?,
                queue_name(r, 4).ok(),
            ))
        })?
        .collect::<Result<_>>()?;
    for (seq, id, runs, last, queue) in &overdue {
        add_run(
            turn.connection,
            *seq,
            *runs,
            now,
            RunEnd::Failed,
            Some(OVERDUE),
        )?;
        turn.connection
            .prepare_cached(FAIL)?
            .execute(params![seq, now, last, OVERDUE])?;
        if *last {
            turn.effects.ended.push(*id);
        } else {
            turn.effects.changed.push(*id);
            turn.effects.runnable.extend(queue.clone());
        }
    }
    Ok(overdue.len() as u64)
}

fn prune(connection: &Connection, state: i64, before: i64) -> Result<u64> {
    let mut find = connection.prepare_cached(FIND_OUTLIVED)?;
    let outlived: Vec<i64> = find
        .query_map([state, before, PIECE], |r| r.get(0))?
        .collect::<Result<_>>()?;
    for seq in &outlived {
        for forget in FORGET {
            connection.prepare_cached(forget)?.execute([seq])?;
        }
    }
    Ok(outlived.len() as u64)
}

/// Gives empty pages, which removed rows leave, back to the file system if they will not be filled again soon.
fn give_pages_back(connection: &Connection) -> Result<()> {
    let pragma = |name: &str| {
        let mut statement = connection.prepare_cached(&format!("PRAGMA {name}"))?;
        statement.query_row([], |r| r.get::<_, i64>(0))
    };
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    if free > PAGES && free > all / 4 {
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
