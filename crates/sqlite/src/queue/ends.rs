//! The end of a process: its jobs become free again, and a crash is charged to those that may have caused it.
//!
//! ```text
//!   ran in a crash ─▶ again ─▶ suspect: waits, runs alone ─▶ crashes alone ─▶ waits longer … ─▶ dead
//!                       └── any outcome that is written clears it of all suspicion
//! ```
//!
//! A suspect waits a second before it runs again, and twice as long after each further crash, up to a minute:
//! between its crashes the other jobs get their work done.
//!
//! A process that was killed during its drain, or that went down with its machine, was not crashed by its jobs.

use std::{collections::BTreeSet, time::Duration};

use rusqlite::{Connection, Result, params};

use super::{
    super::{
        convert::{job_id, micros, micros_after, queue_name},
        writer::Turn,
    },
    settle::{add_run, end_number},
};
use lameduck_jobs::{
    engine::common::SUSPECT,
    job::{JobId, ProcessId, RunEnd},
};

const HELD: &str = "
    SELECT seq, runs FROM jobs INDEXED BY jobs_running WHERE state = 1 AND process = ?1";

pub(super) const RELEASE_HELD: &str = "
    UPDATE jobs INDEXED BY jobs_running
    SET state = iif(cancel_requested, 4, 0), ended_at = iif(cancel_requested, ?4, NULL),
        run_at = iif(?3, min(run_at, ?2), ?2), attempt = attempt - 1, releases = releases + 1,
        process = NULL, claim = NULL, crashes = 0, runs = runs + 1
    WHERE state = 1 AND process = ?1
    RETURNING id, (SELECT name FROM queues WHERE queues.id = jobs.queue), state";

// If one job ran alone, the others had not begun.
const CHARGE: &str = "
    UPDATE jobs INDEXED BY jobs_running
    SET crashes = crashes + 1,
        run_at = iif(crashes + 1 < ?3, run_at, ?2 + 1000000 * min(60, 1 << min(crashes + 1 - ?3, 6)))
    WHERE state = 1 AND process IN (
        SELECT id FROM processes WHERE outcome IS NULL AND drain_at IS NULL AND boot_id = ?1
    ) AND alone = (SELECT max(alone) FROM jobs INDEXED BY jobs_running WHERE state = 1)";

const ADD_LOST: &str = "
    INSERT INTO runs (job, number, attempt, process, started_at, ended_at, end)
    SELECT seq, runs, attempt, process, started_at, ?1, ?2 FROM jobs INDEXED BY jobs_running WHERE state = 1";

const CONDEMN: &str = "
    UPDATE jobs INDEXED BY jobs_running
    SET state = 3, ended_at = ?1, process = NULL, claim = NULL, runs = runs + 1,
        last_error = 'its process crashed ' || crashes || ' times in a row while it ran, the last time alone'
    WHERE state = 1 AND alone AND crashes >= ?2 AND process IN (
        SELECT id FROM processes WHERE outcome IS NULL AND drain_at IS NULL AND boot_id = ?3
    )";

pub(super) const FREE: &str = "
    UPDATE jobs INDEXED BY jobs_running
    SET state = iif(cancel_requested, 4, 0), ended_at = iif(cancel_requested, ?1, NULL),
        run_at = iif(crashes < ?2, min(run_at, ?1), run_at), attempt = attempt - 1, releases = releases + 1,
        process = NULL, claim = NULL, runs = runs + 1
    WHERE state = 1";

/// Gives back everything that `process` holds, runnable after `delay`.
pub(in super::super) fn release_held(
    turn: &mut Turn<'_>,
    process: ProcessId,
    delay: Duration,
) -> Result<Vec<JobId>> {
    let now = micros(turn.now);
    let mut held = turn.connection.prepare_cached(HELD)?;
    let held: Vec<(i64, i64)> = held
        .query_map([process.as_bytes()], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_>>()?;
    for (seq, runs) in held {
        add_run(turn.connection, seq, runs, now, RunEnd::Released, None)?;
    }
    let at = micros_after(turn.now, delay);
    let mut release = turn.connection.prepare_cached(RELEASE_HELD)?;
    let released = params![process.as_bytes(), at, delay.is_zero(), now];
    let released: Vec<(JobId, _, i64)> = release
        .query_map(released, |r| {
            Ok((job_id(r, 0)?, queue_name(r, 1).ok(), r.get(2)?))
        })?
        .collect::<Result<_>>()?;
    let (mut ids, mut queues) = (Vec::new(), BTreeSet::new());
    for (id, queue, state) in released {
        match state {
            0 => turn.effects.changed.push(id),
            _ => turn.effects.ended.push(id),
        }
        queues.extend(queue);
        ids.push(id);
    }
    turn.effects.runnable.append(&mut queues);
    Ok(ids)
}

/// At start, before the dead processes' rows are closed: puts the jobs that crashed with them under suspicion.
pub(in super::super) fn charge_crashes(
    connection: &Connection,
    boot_id: Option<&str>,
    now: jiff::Timestamp,
) -> Result<usize> {
    connection
        .prepare_cached(CHARGE)?
        .execute(params![boot_id, micros(now), SUSPECT])
}

/// At start: frees every running job, which is a dead predecessor's, since this process has not reserved any.
/// Returns how many are free, and how many are dead because they crashed too often. Also called before the
/// rows are closed: no job may be dead because of an end that was no crash.
pub(in super::super) fn take_from_the_dead(
    connection: &Connection,
    boot_id: Option<&str>,
    now: jiff::Timestamp,
    max_crashes: u32,
) -> Result<(usize, usize)> {
    let now = micros(now);
    let statement = |sql| connection.prepare_cached(sql);
    statement(ADD_LOST)?.execute(params![now, end_number(RunEnd::Lost)])?;
    let cap = match max_crashes {
        0 => u32::MAX,
        cap => cap,
    };
    let condemned = statement(CONDEMN)?.execute(params![now, cap, boot_id])?;
    let freed = statement(FREE)?.execute(params![now, SUSPECT])?;
    Ok((freed, condemned))
}
