//! Housekeeping, in pieces small enough to block nobody: overdue jobs, and those past their retention.
//! Replicas share it: each skips what another one has locked.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{
    convert::{Columns, end_number, micros, params, stored_duration},
    drains,
    session::{Command, Failure, Turn},
};
use lameduck_jobs::{
    engine::{RUNS_KEPT, common::OVERDUE},
    job::{Maintained, Retention, RunEnd},
};

/// Maximum number of rows in one piece.
const PIECE: i64 = 500;

pub(in super::super) const EXPIRE: &str = "
    WITH overdue AS MATERIALIZED (
        SELECT j.* FROM lameduck.queues q CROSS JOIN LATERAL (
            SELECT seq, runs, attempt, process, started_at, attempt >= max_attempts AS last FROM lameduck.jobs
            WHERE state = 5 AND queue = q.id AND run_at <= $1 ORDER BY run_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
        ) AS j LIMIT $2
    ), told AS (
        INSERT INTO lameduck.runs (job, number, attempt, process, started_at, ended_at, how, error)
        SELECT seq, runs, attempt, process, started_at, $1, $4, $3 FROM overdue
    ), forgotten AS (
        DELETE FROM lameduck.runs r USING overdue o WHERE r.job = o.seq AND r.number <= o.runs - $5 AND o.runs >= $5
    )
    UPDATE lameduck.jobs j
    SET state = CASE WHEN o.last THEN 3 ELSE 0 END, ended_at = CASE WHEN o.last THEN $1::bigint END, run_at = $1,
        last_error = $3, process = NULL, claim = NULL, runs = j.runs + 1
    FROM overdue o WHERE j.seq = o.seq
    RETURNING j.id, o.last, (SELECT name FROM lameduck.queues q WHERE q.id = j.queue)";

pub(in super::super) const PRUNE: &str = "
    WITH outlived AS MATERIALIZED (
        SELECT j.seq FROM lameduck.queues q CROSS JOIN LATERAL (
            SELECT seq FROM lameduck.jobs WHERE queue = q.id AND state = $1 AND ended_at IS NOT NULL AND ended_at < $2
            ORDER BY ended_at, seq LIMIT $3 FOR UPDATE SKIP LOCKED
        ) AS j LIMIT $3
    ), forgotten AS (
        DELETE FROM lameduck.runs r USING outlived o WHERE r.job = o.seq
    )
    DELETE FROM lameduck.jobs j USING outlived o WHERE j.seq = o.seq";

// A key lives at least as long as its job.
pub(in super::super) const FORGET_KEYS: &str = "
    WITH outlived AS MATERIALIZED (
        SELECT queue, key FROM lameduck.idempotency_keys k
        WHERE created_at < $1 AND NOT EXISTS (SELECT FROM lameduck.jobs j WHERE j.id = k.job)
        LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    DELETE FROM lameduck.idempotency_keys k USING outlived o WHERE k.queue = o.queue AND k.key = o.key";

// Moves counts from the transactions' own rows (schema/3.sql) into a row of the queue that nobody has locked.
pub(in super::super) const FOLD_COUNTS: &str = "
    WITH home AS MATERIALIZED (
        SELECT free.queue, free.shard FROM lameduck.queues q CROSS JOIN LATERAL (
            SELECT queue, shard FROM lameduck.queue_counts
            WHERE queue = q.id AND shard < 16 LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS free
        WHERE EXISTS (SELECT FROM lameduck.queue_counts c WHERE c.queue = q.id AND c.shard >= 16)
    ), own AS MATERIALIZED (
        SELECT c.queue, c.shard FROM home JOIN lameduck.queue_counts c ON c.queue = home.queue
        WHERE c.shard >= 16 LIMIT $1 FOR UPDATE OF c SKIP LOCKED
    ), gone AS (
        DELETE FROM lameduck.queue_counts c USING own WHERE c.queue = own.queue AND c.shard = own.shard
        RETURNING c.queue, c.waiting, c.bytes
    ), summed AS (
        SELECT queue, sum(waiting) AS waiting, sum(bytes) AS bytes FROM gone GROUP BY queue
    )
    UPDATE lameduck.queue_counts c SET waiting = c.waiting + s.waiting, bytes = c.bytes + s.bytes
    FROM summed s JOIN home ON home.queue = s.queue WHERE c.queue = home.queue AND c.shard = home.shard";

/// Does one piece of housekeeping.
pub(in super::super) struct Maintain {
    pub retention: Retention,
}

/// Folds old rows of the ledger into its totals, which others may have locked.
pub(in super::super) struct PruneLedger(pub u32);

// === impl Maintain ===

impl Command for Maintain {
    type Answer = Maintained;

    async fn run(&self, turn: &mut Turn) -> Result<Maintained, Failure> {
        let expired = expire(turn).await?;
        let mut pruned = 0;
        for (state, kept) in [
            (2_i16, self.retention.completed),
            (4, self.retention.completed),
            (3, self.retention.dead),
        ] {
            let outlived = params![state => INT2, before(turn.now, kept) => INT8, PIECE => INT8];
            pruned += turn.execute(PRUNE, outlived).await?;
        }
        let unused = params![before(turn.now, self.retention.keys) => INT8, PIECE => INT8];
        let keys = turn.execute(FORGET_KEYS, unused).await?;
        turn.execute(FOLD_COUNTS, params![PIECE => INT8]).await?;
        let piece = PIECE.unsigned_abs();
        Ok(Maintained {
            expired,
            pruned,
            more: expired == piece || pruned >= piece || keys == piece,
        })
    }
}

// === impl PruneLedger ===

impl Command for PruneLedger {
    type Answer = ();

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        drains::prune(turn, self.0).await
    }
}

fn before(now: Timestamp, kept: Duration) -> i64 {
    micros(now).saturating_sub(stored_duration(kept))
}

/// Fails deferred jobs that are overdue.
async fn expire(turn: &mut Turn) -> Result<u64, Failure> {
    let overdue = params![
        micros(turn.now) => INT8, PIECE => INT8, OVERDUE => TEXT, end_number(RunEnd::Failed) => INT2,
        RUNS_KEPT as i32 => INT4,
    ];
    let rows = turn.query(EXPIRE, overdue).await?;
    for row in &rows {
        let job = row.job_id(0)?;
        match row.try_get(1)? {
            true => turn.effects.ended.push(job),
            false => {
                turn.effects.changed.push(job);
                turn.effects.runnable.extend(row.queue_name(2).ok());
            }
        }
    }
    Ok(rows.len() as u64)
}
