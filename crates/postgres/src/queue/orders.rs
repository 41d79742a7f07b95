//! Operators' commands: cancel, run again, pause; and a worker's note that a suspect is about to run.

use uuid::Uuid;

use super::{
    super::{
        convert::{Columns, end_number, micros, params, uuid},
        session::{Command, Failure, Turn},
    },
    queue_number,
};
use lameduck_jobs::{
    engine::RUNS_KEPT,
    job::{Cancelled, JobId, QueueName, Revived, RunEnd, State},
};

const FIND: &str = "
    SELECT j.seq, j.state, j.run_at, q.name
    FROM lameduck.jobs j JOIN lameduck.queues q ON q.id = j.queue WHERE j.id = $1 FOR UPDATE OF j";

const CANCEL: &str = "
    UPDATE lameduck.jobs SET state = 4, ended_at = $2, process = NULL, claim = NULL WHERE seq = $1";

const ADD_RUN: &str = "
    WITH ran AS (
        UPDATE lameduck.jobs SET runs = runs + 1 WHERE seq = $1
        RETURNING seq, runs - 1 AS number, attempt, process, started_at
    ), told AS (
        INSERT INTO lameduck.runs (job, number, attempt, process, started_at, ended_at, how)
        SELECT seq, number, attempt, process, started_at, $2, $3 FROM ran
    )
    DELETE FROM lameduck.runs r USING ran WHERE r.job = ran.seq AND r.number <= ran.number - $4";

const REQUEST: &str = "UPDATE lameduck.jobs SET cancel_requested = true WHERE seq = $1";

const REVIVE: &str = "
    UPDATE lameduck.jobs
    SET state = 0, run_at = $2, ended_at = NULL, attempt = 0, crashes = 0, cancel_requested = false
    WHERE seq = $1";

pub(in super::super) const REVIVE_ALL: &str = "
    WITH dead AS MATERIALIZED (
        SELECT seq FROM lameduck.jobs WHERE queue = $1 AND state = 3 AND ended_at IS NOT NULL
        ORDER BY ended_at, seq LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    UPDATE lameduck.jobs j
    SET state = 0, run_at = $2, ended_at = NULL, attempt = 0, crashes = 0, cancel_requested = false
    FROM dead WHERE j.seq = dead.seq RETURNING j.id";

pub(in super::super) const CANCEL_DEAD: &str = "
    WITH dead AS MATERIALIZED (
        SELECT seq FROM lameduck.jobs WHERE queue = $1 AND state = 3 AND ended_at IS NOT NULL
        ORDER BY ended_at, seq LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    UPDATE lameduck.jobs j SET state = 4, ended_at = $2 FROM dead WHERE j.seq = dead.seq RETURNING j.id";

const PAUSE: &str = "UPDATE lameduck.queues SET paused = $2 WHERE id = $1";

const ALONE: &str = "UPDATE lameduck.jobs SET alone = true WHERE id = $1 AND claim = $2";

/// Cancels a job that is waiting, deferred or dead, or requests the end of a running one.
pub(in super::super) struct Cancel(pub JobId);

/// Cancels dead jobs of a queue, those that died first before the others.
pub(in super::super) struct CancelDead {
    pub queue: QueueName,
    pub limit: usize,
}

/// Runs a dead job again.
pub(in super::super) struct Revive(pub JobId);

/// Runs dead jobs of a queue again, those that died first before the others.
pub(in super::super) struct ReviveAll {
    pub queue: QueueName,
    pub limit: usize,
}

/// Pauses a queue or resumes it.
pub(in super::super) struct SetPaused {
    pub queue: QueueName,
    pub paused: bool,
}

/// Notes that this job runs alone: from now on a crash of the process is charged to this job.
pub(in super::super) struct RunsAlone {
    pub job: JobId,
    pub token: [u8; 16],
}

/// A job, whatever its state, locked.
struct Found {
    seq: i64,
    state: State,
    /// `None` if the name is not one that our programs have written.
    queue: Option<QueueName>,
}

async fn find(turn: &Turn, id: JobId) -> Result<Option<Found>, Failure> {
    let Some(row) = turn.find(FIND, params![uuid(id) => UUID]).await? else {
        return Ok(None);
    };
    Ok(Some(Found {
        seq: row.try_get(0)?,
        state: row.state(1, 2, turn.now)?,
        queue: row.queue_name(3).ok(),
    }))
}

// === impl Cancel ===

impl Command for Cancel {
    type Answer = Option<Cancelled>;

    async fn run(&self, turn: &mut Turn) -> Result<Option<Cancelled>, Failure> {
        let Some(job) = find(turn, self.0).await? else {
            return Ok(None);
        };
        let now = micros(turn.now);
        match job.state {
            State::Completed | State::Cancelled => {
                return Ok(Some(Cancelled::TooLate(job.state)));
            }
            State::Running => {
                turn.execute(REQUEST, params![job.seq => INT8]).await?;
                turn.effects.cancel_requested.push(self.0);
                return Ok(Some(Cancelled::Requested));
            }
            State::Deferred => {
                let end = end_number(RunEnd::Cancelled);
                let run =
                    params![job.seq => INT8, now => INT8, end => INT2, RUNS_KEPT as i32 => INT4];
                turn.execute(ADD_RUN, run).await?;
            }
            State::Pending | State::Scheduled | State::Dead => {}
        }
        turn.execute(CANCEL, params![job.seq => INT8, now => INT8])
            .await?;
        turn.effects.ended.push(self.0);
        Ok(Some(Cancelled::Now))
    }
}

// === impl CancelDead ===

impl Command for CancelDead {
    type Answer = u64;

    async fn run(&self, turn: &mut Turn) -> Result<u64, Failure> {
        let queue = queue_number(turn, &self.queue).await?;
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let dead = params![queue => INT4, micros(turn.now) => INT8, limit => INT8];
        let cancelled = turn.query(CANCEL_DEAD, dead).await?;
        for row in &cancelled {
            turn.effects.ended.push(row.job_id(0)?);
        }
        Ok(cancelled.len() as u64)
    }
}

// === impl Revive ===

impl Command for Revive {
    type Answer = Option<Revived>;

    async fn run(&self, turn: &mut Turn) -> Result<Option<Revived>, Failure> {
        let Some(job) = find(turn, self.0).await? else {
            return Ok(None);
        };
        if job.state != State::Dead {
            return Ok(Some(Revived::NotDead(job.state)));
        }
        turn.execute(REVIVE, params![job.seq => INT8, micros(turn.now) => INT8])
            .await?;
        turn.effects.changed.push(self.0);
        turn.effects.runnable.extend(job.queue);
        Ok(Some(Revived::Now))
    }
}

// === impl ReviveAll ===

impl Command for ReviveAll {
    type Answer = u64;

    async fn run(&self, turn: &mut Turn) -> Result<u64, Failure> {
        let queue = queue_number(turn, &self.queue).await?;
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let dead = params![queue => INT4, micros(turn.now) => INT8, limit => INT8];
        let revived = turn.query(REVIVE_ALL, dead).await?;
        for row in &revived {
            turn.effects.changed.push(row.job_id(0)?);
        }
        turn.effects.runnable.insert(self.queue.clone());
        Ok(revived.len() as u64)
    }
}

// === impl SetPaused ===

impl Command for SetPaused {
    type Answer = ();

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        let queue = queue_number(turn, &self.queue).await?;
        turn.execute(PAUSE, params![queue => INT4, self.paused => BOOL])
            .await?;
        turn.effects.runnable.insert(self.queue.clone());
        Ok(())
    }
}

// === impl RunsAlone ===

impl Command for RunsAlone {
    type Answer = ();

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        let claim = params![uuid(self.job) => UUID, Uuid::from_bytes(self.token) => UUID];
        turn.execute(ALONE, claim).await.map(drop)
    }
}
