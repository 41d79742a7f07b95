//! Reserve: takes the runnable jobs of a queue in order, each for one process however many ask.
//!
//! ```text
//!   own lease row, locked: a process that was reaped gets nothing, and one that reserves is not reaped meanwhile
//!     the first few of each priority: a range of one index, already in its order
//!       merged by the instant from which each could run, moved back by what its priority is worth
//!         locked in that order, those that others hold skipped, until there are enough
//! ```
//!
//! With 100,000 waiting jobs it looks at a few dozen of them: 20 are taken in 1 to 2 ms.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::{
    convert::{Columns, between, micros, params, process_uuid, text, uuid},
    failure::in_words,
    session::{Command, Failure, Turn},
};
use lameduck_jobs::{
    engine::common::SUSPECT,
    job::{Claim, Job, JobId, Order, ProcessId, QueueName, Reserved},
};

/// Maximum number of jobs reserved in one go.
pub(in super::super) const MOST: usize = 1_000;

/// Number of extra jobs looked at, because other processes take the first ones at the same moment.
const SPARE: i64 = 64;

// `state + 0` keeps the planner from using the index of all waiting jobs to find a job whose number is known,
// whatever it may believe of a table whose statistics are old.
pub(in super::super) const RESERVE: &str = "
    WITH lease AS MATERIALIZED (
        SELECT 1 FROM lameduck.processes WHERE id = $1 AND left_at IS NULL FOR KEY SHARE
    ), candidates AS MATERIALIZED (
        SELECT j.seq, greatest(j.run_at, 0) - p.priority * $4 AS rank
        FROM lameduck.queues q
        CROSS JOIN generate_series(-9, 9) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT seq, run_at FROM lameduck.jobs
            WHERE state = 0 AND queue = q.id AND priority = p.priority AND run_at <= $3
            ORDER BY run_at, seq LIMIT $6
        ) AS j
        WHERE q.name = $2 AND NOT q.paused AND EXISTS (SELECT FROM lease)
        ORDER BY rank, j.seq LIMIT $6
    ), locked AS MATERIALIZED (
        SELECT j.seq FROM candidates c JOIN lameduck.jobs j ON j.seq = c.seq
        WHERE j.state + 0 = 0 AND j.run_at <= $3
        ORDER BY c.rank, c.seq LIMIT $5 FOR UPDATE OF j SKIP LOCKED
    ), numbered AS (
        SELECT seq, row_number() OVER () AS number FROM locked
    ), taken AS (
        UPDATE lameduck.jobs j
        SET state = 1, attempt = attempt + 1, process = $1, claim = ($7)[numbered.number], started_at = $3,
            alone = false
        FROM numbered WHERE j.seq = numbered.seq
        RETURNING j.seq, j.id, j.claim, j.attempt, j.max_attempts, j.content_type, j.timeout, j.traceparent, j.run_at,
                  j.crashes, j.payload, greatest(j.run_at, 0) - j.priority * $4 AS rank
    )
    SELECT (SELECT count(*) FROM candidates), t.id, t.claim, t.attempt, t.max_attempts, t.content_type, t.timeout,
           t.traceparent, t.run_at, t.crashes, t.payload
    FROM (VALUES (1)) AS one LEFT JOIN taken t ON true ORDER BY t.rank, t.seq";

// A job that can't be read can't be run, and must not block the others.
const CONDEMN: &str = "
    UPDATE lameduck.jobs
    SET state = 3, ended_at = $2, attempt = attempt - 1, process = NULL, claim = NULL, last_error = $3
    WHERE id = $1 AND state = 1";

/// Takes runnable jobs under these claims.
pub(in super::super) struct Reserve {
    pub process: ProcessId,
    pub queue: QueueName,
    pub order: Order,
    /// One token for each job wanted; not used by anybody else, so that jobs whose answer was lost can be found.
    pub tokens: Vec<Uuid>,
}

// === impl Reserve ===

impl Command for Reserve {
    type Answer = Vec<Reserved>;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<Reserved>, Failure> {
        let mut reserved = Vec::new();
        let mut spare = SPARE;
        while let Some(tokens) = self.tokens.get(reserved.len()..).filter(|t| !t.is_empty()) {
            let looked = tokens.len() as i64 + spare;
            let candidates = self.take(turn, tokens, looked, &mut reserved).await?;
            // All the jobs that were looked at belong to others, and there may be more behind them.
            if reserved.len() == self.tokens.len() || candidates < looked {
                break;
            }
            spare *= 8;
        }
        let changed = reserved.iter().map(|reserved| reserved.job.id);
        turn.effects.changed.extend(changed);
        Ok(reserved)
    }
}

impl Reserve {
    /// Takes jobs, and says how many candidates there were.
    async fn take(
        &self,
        turn: &mut Turn,
        tokens: &[Uuid],
        looked: i64,
        reserved: &mut Vec<Reserved>,
    ) -> Result<i64, Failure> {
        let step = i64::try_from(self.order.step().as_micros()).unwrap_or(i64::MAX);
        let asked = params![
            process_uuid(self.process) => UUID, self.queue.as_str() => TEXT, micros(turn.now) => INT8, step => INT8,
            tokens.len() as i64 => INT8, looked => INT8, tokens => UUID_ARRAY,
        ];
        let rows = turn.query(RESERVE, asked).await?;
        let mut candidates = 0;
        for row in &rows {
            candidates = row.try_get(0)?;
            if row.try_get::<_, Option<Uuid>>(1)?.is_none() {
                continue;
            }
            let id = row.job_id(1)?;
            match self.read(row, id, turn.now) {
                Ok(one) => reserved.push(one),
                Err(failure) => self.condemn(turn, id, &in_words(&failure)).await?,
            }
        }
        Ok(candidates)
    }

    fn read(&self, row: &Row, id: JobId, now: Timestamp) -> Result<Reserved, Failure> {
        let job = Job {
            id,
            queue: self.queue.clone(),
            attempt: row.small(3)?,
            max_attempts: u32::try_from(row.count(4)?).unwrap_or(u32::MAX),
            content_type: row.try_get(5)?,
            timeout: row.duration(6)?,
            traceparent: row.try_get(7)?,
            run_at: row.instant(8)?,
            suspect: row.small(9)? >= SUSPECT,
            payload: row.try_get::<_, Vec<u8>>(10)?.into(),
        };
        let token: Uuid = row.try_get(2)?;
        Ok(Reserved {
            claim: Claim::from_bytes(id, token.into_bytes()),
            process: self.process,
            waited: between(micros(job.run_at), micros(now)),
            job,
        })
    }

    /// Marks a job as dead, with the reason: somebody has to look at it.
    async fn condemn(&self, turn: &mut Turn, job: JobId, why: &str) -> Result<(), Failure> {
        let error = format!("this job can't be read and was not run: {why}");
        tracing::error!(%job, queue = %self.queue, error, "a job is dead because it can't be read");
        let dead = params![uuid(job) => UUID, micros(turn.now) => INT8, text(&error) => TEXT];
        turn.execute(CONDEMN, dead).await?;
        turn.effects.ended.push(job);
        Ok(())
    }
}
