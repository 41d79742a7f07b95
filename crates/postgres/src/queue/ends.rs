//! The end of a process: its jobs become free again, and a crash is charged to those that may have caused it.
//!
//! ```text
//!   ran in a crash ─▶ again ─▶ suspect: waits, runs alone ─▶ crashes alone ─▶ waits longer … ─▶ dead
//!                       └── any outcome that is written clears it of all suspicion
//! ```
//!
//! A process that was killed during its drain, or whose machine is known to have rebooted, was not crashed by
//! its jobs. Usually a dead machine can't be told from a dead process; in doubt the jobs are charged: it
//! takes two such ends in a row to make a job a suspect, and a suspect merely runs alone.

use std::time::Duration;

use uuid::Uuid;

use super::super::{
    convert::{Columns, end_number, micros, micros_after, params, process_uuid},
    drains,
    session::{Command, Failure, Turn},
};
use lameduck_jobs::{
    engine::{RUNS_KEPT, common::SUSPECT},
    job::{JobId, ProcessId, RunEnd},
};

pub(in super::super) const RELEASE_HELD: &str = "
    WITH held AS MATERIALIZED (
        SELECT seq, runs, attempt, process, started_at FROM lameduck.jobs
        WHERE state = 1 AND process = $1 AND ($5::uuid[] IS NULL OR claim = ANY ($5))
        ORDER BY seq FOR UPDATE SKIP LOCKED
    ), told AS (
        INSERT INTO lameduck.runs (job, number, attempt, process, started_at, ended_at, how)
        SELECT seq, runs, attempt, process, started_at, $4, $6 FROM held
    ), forgotten AS (
        DELETE FROM lameduck.runs r USING held h WHERE r.job = h.seq AND r.number <= h.runs - $7 AND h.runs >= $7
    )
    UPDATE lameduck.jobs j
    SET state = CASE WHEN cancel_requested THEN 4 ELSE 0 END, ended_at = CASE WHEN cancel_requested THEN $4::bigint END,
        run_at = CASE WHEN $3 THEN least(run_at, $2) ELSE $2 END, attempt = j.attempt - 1, releases = releases + 1,
        process = NULL, claim = NULL, crashes = 0, runs = j.runs + 1
    FROM held h WHERE j.seq = h.seq
    RETURNING j.id, (SELECT name FROM lameduck.queues q WHERE q.id = j.queue), j.state";

const STILL_HELD: &str = "
    SELECT count(*) FROM lameduck.jobs
    WHERE state = 1 AND process = $1 AND ($2::uuid[] IS NULL OR claim = ANY ($2))";

// The jobs of a process that nobody has locked, and how many it has in all.
pub(in super::super) const FREE_TO_TAKE: &str = "
    WITH free AS MATERIALIZED (
        SELECT seq FROM lameduck.jobs WHERE state = 1 AND process = $1 ORDER BY seq FOR UPDATE SKIP LOCKED
    )
    SELECT coalesce(array_agg(seq), '{}'), (SELECT count(*) FROM lameduck.jobs WHERE state = 1 AND process = $1)
    FROM free";

// While the row is locked like this, nobody can reserve for the process.
const LOCK: &str = "
    SELECT beat, outcome IS NULL AND drain_at IS NULL AND NOT EXISTS (
        SELECT FROM lameduck.processes later
        WHERE later.node = p.node AND later.boot_id <> p.boot_id AND later.seq > p.seq
    )
    FROM lameduck.processes p WHERE id = $1 AND left_at IS NULL FOR UPDATE";

const BURY: &str = "
    UPDATE lameduck.processes
    SET left_at = $2, outcome = coalesce(outcome, 'killed'), closed_at = coalesce(closed_at, $2)
    WHERE id = $1";

// If one job ran alone, the others had not begun.
const CHARGE: &str = "
    UPDATE lameduck.jobs
    SET crashes = crashes + 1,
        run_at = CASE WHEN crashes + 1 < $3 THEN run_at
                 ELSE $2::bigint + 1000000 * least(60, 1 << least(crashes + 1 - $3, 6)) END
    WHERE state = 1 AND process = $1 AND seq = ANY ($4)
      AND alone = (SELECT bool_or(alone) FROM lameduck.jobs WHERE state = 1 AND process = $1)";

const CONDEMN: &str = "
    UPDATE lameduck.jobs
    SET state = 3, ended_at = $2, process = NULL, claim = NULL, runs = runs + 1,
        last_error = 'its process crashed ' || crashes || ' times in a row while it ran, the last time alone'
    WHERE state = 1 AND process = $1 AND alone AND crashes >= $3 AND seq = ANY ($4)
    RETURNING id";

const ADD_LOST: &str = "
    WITH told AS (
        INSERT INTO lameduck.runs (job, number, attempt, process, started_at, ended_at, how)
        SELECT seq, runs, attempt, process, started_at, $2, $3 FROM lameduck.jobs
        WHERE state = 1 AND process = $1 AND seq = ANY ($5)
        RETURNING job, number
    )
    DELETE FROM lameduck.runs r USING told t WHERE r.job = t.job AND r.number <= t.number - $4";

pub(in super::super) const FREE: &str = "
    UPDATE lameduck.jobs j
    SET state = CASE WHEN cancel_requested THEN 4 ELSE 0 END, ended_at = CASE WHEN cancel_requested THEN $2::bigint END,
        run_at = CASE WHEN crashes < $3 THEN least(run_at, $2) ELSE run_at END, attempt = attempt - 1,
        releases = releases + 1, process = NULL, claim = NULL, runs = runs + 1
    WHERE state = 1 AND process = $1 AND seq = ANY ($4)
    RETURNING id, (SELECT name FROM lameduck.queues q WHERE q.id = j.queue), state";

/// Gives back everything that a process holds, runnable after `delay`.
pub(in super::super) struct ReleaseHeld {
    pub process: ProcessId,
    pub delay: Duration,
}

/// The jobs that were given back.
#[derive(Debug)]
pub(in super::super) struct Released {
    pub jobs: Vec<JobId>,
    /// Number of jobs that could not be given back, because somebody has locked them.
    pub left: u64,
}

/// Gives back jobs that were reserved under these claims and never begun.
pub(in super::super) struct GiveBack {
    pub process: ProcessId,
    pub tokens: Vec<Uuid>,
}

/// Ends the lease of a process and frees its jobs.
pub(in super::super) struct Reap {
    pub process: ProcessId,
    pub why: Why,
    pub max_crashes: u32,
    pub ledger_rows: u32,
}

/// Reason why a lease ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Why {
    /// The process itself gives it up.
    Closed,
    /// Its beat has stayed at this number for the whole lease.
    StoodStill(i64),
    /// A caller vouches that it is dead.
    KnownDead,
}

/// The result of ending a lease.
#[derive(Debug, Default, PartialEq)]
pub(in super::super) struct Reaped {
    /// Number of jobs that were freed.
    pub freed: usize,
    /// Number of jobs that are dead because they crashed too often.
    pub condemned: usize,
    /// Number of jobs that somebody has locked: the lease stays open until they are free as well.
    pub locked: usize,
}

// === impl ReleaseHeld ===

impl Command for ReleaseHeld {
    type Answer = Released;

    async fn run(&self, turn: &mut Turn) -> Result<Released, Failure> {
        release(turn, self.process, self.delay, None).await
    }
}

// === impl GiveBack ===

impl Command for GiveBack {
    type Answer = Released;

    async fn run(&self, turn: &mut Turn) -> Result<Released, Failure> {
        release(turn, self.process, Duration::ZERO, Some(&self.tokens)).await
    }
}

async fn release(
    turn: &mut Turn,
    process: ProcessId,
    delay: Duration,
    tokens: Option<&[Uuid]>,
) -> Result<Released, Failure> {
    let released = params![
        process_uuid(process) => UUID, micros_after(turn.now, delay) => INT8, delay.is_zero() => BOOL,
        micros(turn.now) => INT8, tokens => UUID_ARRAY, end_number(RunEnd::Released) => INT2,
        RUNS_KEPT as i32 => INT4,
    ];
    let rows = turn.query(RELEASE_HELD, released).await?;
    let jobs = rows.iter().map(|row| freed(turn, row));
    let jobs = jobs.collect::<Result<_, _>>()?;
    let held = params![process_uuid(process) => UUID, tokens => UUID_ARRAY];
    let left = turn.find(STILL_HELD, held).await?;
    let left = left.map_or(Ok(0), |row| row.count(0))?;
    Ok(Released { jobs, left })
}

/// Adds the events about a job that nobody holds any more.
fn freed(turn: &mut Turn, row: &tokio_postgres::Row) -> Result<JobId, Failure> {
    let job = row.job_id(0)?;
    turn.effects.runnable.extend(row.queue_name(1).ok());
    match row.try_get::<_, i16>(2)? {
        0 => turn.effects.changed.push(job),
        _ => turn.effects.ended.push(job),
    }
    Ok(job)
}

// === impl Reap ===

impl Command for Reap {
    /// `None` if there was nothing to reap: the process had left, or it is alive.
    type Answer = Option<Reaped>;

    async fn run(&self, turn: &mut Turn) -> Result<Option<Reaped>, Failure> {
        let (process, now) = (process_uuid(self.process), micros(turn.now));
        // The lock may be held by a process that has stopped in the middle of a reservation.
        turn.execute("SET LOCAL lock_timeout = 5000", &[]).await?;
        let Some(row) = turn.find(LOCK, params![process => UUID]).await? else {
            return Ok(None);
        };
        let (beat, crashed): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        if matches!(self.why, Why::StoodStill(seen) if seen != beat) {
            return Ok(None);
        }
        let mut reaped = Reaped::default();
        let free = turn.find(FREE_TO_TAKE, params![process => UUID]).await?;
        let (free, all): (Vec<i64>, i64) = match free {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => (Vec::new(), 0),
        };
        // A row that somebody has locked must not block the others. While there is one, the process's row
        // stays open, and the next reaper comes back for it.
        reaped.locked = usize::try_from(all).unwrap_or(0).saturating_sub(free.len());
        if reaped.locked == 0 {
            turn.execute(BURY, params![process => UUID, now => INT8])
                .await?;
        }
        if crashed {
            let charged =
                params![process => UUID, now => INT8, SUSPECT as i32 => INT4, free => INT8_ARRAY];
            turn.execute(CHARGE, charged).await?;
        }
        let lost = params![
            process => UUID, now => INT8, end_number(RunEnd::Lost) => INT2, RUNS_KEPT as i32 => INT4,
            free => INT8_ARRAY,
        ];
        turn.execute(ADD_LOST, lost).await?;
        // Only after a crash: a process that ended otherwise makes no job dead, whatever its earlier crashes.
        if crashed && self.max_crashes > 0 {
            let most = i32::try_from(self.max_crashes).unwrap_or(i32::MAX);
            let condemned = params![process => UUID, now => INT8, most => INT4, free => INT8_ARRAY];
            for row in turn.query(CONDEMN, condemned).await? {
                turn.effects.ended.push(row.job_id(0)?);
                reaped.condemned += 1;
            }
        }
        for row in turn
            .query(
                FREE,
                params![process => UUID, now => INT8, SUSPECT as i32 => INT4, free => INT8_ARRAY],
            )
            .await?
        {
            freed(turn, &row)?;
            reaped.freed += 1;
        }
        drains::prune(turn, self.ledger_rows).await?;
        Ok(Some(reaped))
    }
}
