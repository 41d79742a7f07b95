//! Read-only commands: jobs, their runs, the queues in numbers, the next instant of a queue.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    convert::{Columns, between, micros, params, process_uuid, uuid},
    failure::{self, in_words},
    session::{Command, Failure, Turn, Way},
};
use lameduck_jobs::{
    engine::{Details, EngineError, Glance},
    job::{
        Cursor, JobId, JobRecord, Listing, Page, Priority, ProcessId, QueueName, QueueStats, Run,
        State, Unreadable,
    },
};

/// How long an answer to [`Ping`] may take. A connection that gives none is thrown away, so that the next
/// question goes out on a fresh one.
const PING_PATIENCE: Duration = Duration::from_secs(2);

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
    " FROM lameduck.jobs j JOIN lameduck.queues q ON q.id = j.queue WHERE j.id = $1"
);

pub(super) const JOBS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM lameduck.jobs j JOIN lameduck.queues q ON q.id = j.queue WHERE j.id = ANY($1)"
);

pub(super) const GLANCE: &str = "
    SELECT id, state, run_at, ended_at, attempt, releases, crashes, cancel_requested FROM lameduck.jobs
    WHERE id = ANY($1)";

const PAYLOAD: &str = "SELECT content_type, payload FROM lameduck.jobs WHERE id = $1";

// After a failover the old address may lead to a server that answers everything and accepts no writes.
const STANDBY: &str = "SELECT 1 WHERE pg_is_in_recovery()";

const RUNS: &str = "
    SELECT r.attempt, r.process, r.started_at, r.ended_at, r.how, r.error
    FROM lameduck.jobs j JOIN lameduck.runs r ON r.job = j.seq WHERE j.id = $1 ORDER BY r.number";

pub(super) const RUNS_OF_JOBS: &str = "
    SELECT r.attempt, r.process, r.started_at, r.ended_at, r.how, r.error, j.id
    FROM lameduck.jobs j JOIN lameduck.runs r ON r.job = j.seq WHERE j.id = ANY($1) ORDER BY j.id, r.number";

const CANCEL_REQUESTS: &str = "
    SELECT id FROM lameduck.jobs WHERE state = 1 AND process = $1 AND cancel_requested";

// Each count walks a partial index. Completed jobs are only in the last one, where the state is a range.
pub(super) const QUEUES: &str = "
    SELECT q.name, q.paused,
           (SELECT coalesce(sum(n), 0)::bigint FROM generate_series(-9, 9) AS p (priority) CROSS JOIN LATERAL (
                SELECT count(*) AS n FROM lameduck.jobs
                WHERE state = 0 AND queue = q.id AND priority = p.priority AND run_at > $1) AS scheduled),
           (SELECT coalesce(sum(waiting), 0)::bigint FROM lameduck.queue_counts c WHERE c.queue = q.id),
           (SELECT count(*) FROM lameduck.jobs WHERE state = 1 AND queue = q.id),
           (SELECT count(*) FROM lameduck.jobs WHERE state = 5 AND queue = q.id),
           (SELECT count(*) FROM lameduck.jobs WHERE state = 3 AND ended_at IS NOT NULL AND queue = q.id),
           (SELECT min(first.run_at) FROM generate_series(-9, 9) AS p (priority) CROSS JOIN LATERAL (
                SELECT run_at FROM lameduck.jobs WHERE state = 0 AND queue = q.id AND priority = p.priority
                ORDER BY run_at, seq LIMIT 1) AS first)
    FROM lameduck.queues q WHERE $2 IS NULL OR q.name = $2 ORDER BY q.name COLLATE \"C\"";

pub(super) const NEXT_RUN_AT: &str = "
    SELECT min(first.run_at) FROM lameduck.queues q CROSS JOIN generate_series(-9, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT run_at FROM lameduck.jobs WHERE state = 0 AND queue = q.id AND priority = p.priority
        ORDER BY run_at, seq LIMIT 1
    ) AS first WHERE q.name = $1 AND NOT q.paused";

/// Checks that a server answers and accepts writes.
pub(super) struct Ping;

/// One job.
pub(super) struct OneJob(pub JobId);

/// The payload of a job, and its media type.
pub(super) struct Payload(pub JobId);

/// The runs of a job that have ended.
pub(super) struct Runs(pub JobId);

/// Jobs with their histories; one answer for each, in the same order.
pub(super) struct WithRuns(pub Vec<JobId>);

/// A short summary of some jobs.
pub(super) struct AtAGlance(pub Vec<JobId>);

/// A page of jobs.
pub(super) struct List(pub Listing);

/// The jobs of a process that somebody has asked to cancel.
pub(super) struct CancelRequests(pub ProcessId);

/// Every queue, or only the one with this name.
pub(super) struct Queues(pub Option<QueueName>);

/// The time until the next job of a queue is runnable.
pub(super) struct NextRunIn(pub QueueName);

// === impl Ping ===

impl Command for Ping {
    type Answer = ();

    const LOOKS: bool = true;
    const WAY: Way = Way::Reserved;
    const PATIENCE: Option<Duration> = Some(PING_PATIENCE);

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        match turn.find(STANDBY, &[]).await? {
            Some(_) => Err(Failure::Unreadable(
                "this server is a standby: the URL has to lead to the primary".to_owned(),
            )),
            None => Ok(()),
        }
    }
}

// === impl OneJob ===

impl Command for OneJob {
    type Answer = Option<Result<JobRecord, Unreadable>>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Self::Answer, Failure> {
        let found = turn.find(JOB, params![uuid(self.0) => UUID]).await?;
        Ok(found.map(|row| readable(&row, turn.now)))
    }
}

/// Returns a job, or why its row can't be read, which must not fail the other jobs that were asked for.
fn readable(row: &Row, now: Timestamp) -> Result<JobRecord, Unreadable> {
    record(row, now).map_err(|failure| Unreadable {
        id: row.job_id(0).ok(),
        why: in_words(&failure),
    })
}

fn record(row: &Row, now: Timestamp) -> Result<JobRecord, Failure> {
    Ok(JobRecord {
        id: row.job_id(0)?,
        queue: row.queue_name(1)?,
        state: row.state(2, 7, now)?,
        attempt: row.small(3)?,
        max_attempts: u32::try_from(row.count(4)?).unwrap_or(u32::MAX),
        releases: row.small(5)?,
        submitted_at: row.instant(6)?,
        run_at: row.instant(7)?,
        ended_at: row.instant_if_any(8)?,
        last_error: row.try_get(9)?,
        result: row.try_get::<_, Option<Vec<u8>>>(10)?.map(Into::into),
        content_type: row.try_get(11)?,
        priority: Priority::try_from(i64::from(row.try_get::<_, i16>(12)?)).unwrap_or_default(),
        timeout: row.duration(13)?,
        crashes: row.small(14)?,
        cancel_requested: row.try_get(15)?,
        traceparent: row.try_get(16)?,
    })
}

// === impl Payload ===

impl Command for Payload {
    type Answer = Option<(String, Bytes)>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Self::Answer, Failure> {
        let Some(row) = turn.find(PAYLOAD, params![uuid(self.0) => UUID]).await? else {
            return Ok(None);
        };
        let body: Vec<u8> = row.try_get(1)?;
        Ok(Some((row.try_get(0)?, body.into())))
    }
}

// === impl Runs ===

impl Command for Runs {
    type Answer = Vec<Run>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<Run>, Failure> {
        let rows = turn.query(RUNS, params![uuid(self.0) => UUID]).await?;
        rows.iter().map(run).collect()
    }
}

fn run(row: &Row) -> Result<Run, Failure> {
    Ok(Run {
        attempt: row.small(0)?,
        process: row.process_id(1)?,
        started_at: row.instant(2)?,
        ended_at: row.instant(3)?,
        end: row.run_end(4)?,
        error: row.try_get(5)?,
    })
}

// === impl WithRuns ===

impl Command for WithRuns {
    type Answer = Vec<Result<Option<Details>, EngineError>>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Self::Answer, Failure> {
        let ids = uuids(&self.0);
        let jobs = turn.query(JOBS, params![ids => UUID_ARRAY]).await?;
        let runs = turn.query(RUNS_OF_JOBS, params![ids => UUID_ARRAY]).await?;
        let mut histories: HashMap<JobId, Vec<Result<Run, Failure>>> = HashMap::new();
        for row in &runs {
            histories.entry(row.job_id(6)?).or_default().push(run(row));
        }
        let mut found = HashMap::new();
        for row in &jobs {
            let id = row.job_id(0)?;
            let runs = histories.remove(&id).unwrap_or_default();
            // An error in one job does not concern the others.
            let details = readable(row, turn.now)
                .map_err(|row| EngineError::Unreadable(row.to_string()))
                .and_then(|record| {
                    let runs = runs.into_iter().collect::<Result<_, _>>();
                    Ok(Details {
                        record,
                        runs: runs.map_err(|failure| failure::explain(&failure, false))?,
                        read_at: turn.now,
                    })
                });
            found.insert(id, details.map(Some));
        }
        let answers = self.0.iter();
        Ok(answers
            .map(|id| found.remove(id).unwrap_or(Ok(None)))
            .collect())
    }
}

// === impl AtAGlance ===

impl Command for AtAGlance {
    type Answer = Vec<Glance>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<Glance>, Failure> {
        let ids = uuids(&self.0);
        let rows = turn.query(GLANCE, params![ids => UUID_ARRAY]).await?;
        // A job that can't be read is reported when it is read as a whole.
        let readable = rows.iter().filter_map(|row| glance(row, turn.now).ok());
        Ok(readable.collect())
    }
}

fn glance(row: &Row, now: Timestamp) -> Result<Glance, Failure> {
    Ok(Glance {
        id: row.job_id(0)?,
        state: row.state(1, 2, now)?,
        run_at: row.instant(2)?,
        ended_at: row.instant_if_any(3)?,
        attempt: row.small(4)?,
        releases: row.small(5)?,
        crashes: row.small(6)?,
        cancel_requested: row.try_get(7)?,
    })
}

fn uuids(ids: &[JobId]) -> Vec<Uuid> {
    ids.iter().map(|id| uuid(*id)).collect()
}

// === impl List ===

impl Command for List {
    type Answer = Page;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Page, Failure> {
        let listing = &self.0;
        let place = Place::of(listing.state);
        let start = if place.forward { i64::MIN } else { i64::MAX };
        let after = listing.after.unwrap_or(Cursor {
            micros: start,
            seq: start,
        });
        // One more than asked for, to see whether there is a next page.
        let limit = i64::try_from(listing.limit).unwrap_or(i64::MAX - 1) + 1;
        let asked = params![
            listing.queue.as_str() => TEXT, micros(turn.now) => INT8, after.micros => INT8, after.seq => INT8,
            limit => INT8,
        ];
        let rows = turn.query(&place.sql(), asked).await?;
        let more = rows.len() > listing.limit;
        let shown = &rows[..rows.len().min(listing.limit)];
        let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
        for row in shown {
            match readable(row, turn.now) {
                Ok(job) => jobs.push(job),
                Err(row) => unreadable.push(row),
            }
        }
        let next = match shown.last() {
            Some(row) if more => Some(Cursor {
                micros: row.try_get(17)?,
                seq: row.try_get(18)?,
            }),
            _ => None,
        };
        Ok(Page {
            jobs,
            unreadable,
            next,
        })
    }
}

/// Where the jobs of a state are found, and in which order.
struct Place {
    filter: &'static str,
    key: &'static str,
    forward: bool,
    /// Waiting jobs are indexed separately for each priority, each in its own order.
    by_priority: bool,
}

// === impl Place ===

impl Place {
    fn of(state: State) -> Self {
        let (filter, key, forward, by_priority) = match state {
            State::Pending => ("state = 0 AND run_at <= $2", "run_at", true, true),
            State::Scheduled => ("state = 0 AND run_at > $2", "run_at", true, true),
            State::Deferred => ("state = 5", "run_at", true, false),
            State::Running => ("state = 1", "0::bigint", true, false),
            State::Completed => (
                "state = 2 AND ended_at IS NOT NULL",
                "ended_at",
                false,
                false,
            ),
            State::Dead => (
                "state = 3 AND ended_at IS NOT NULL",
                "ended_at",
                false,
                false,
            ),
            State::Cancelled => (
                "state = 4 AND ended_at IS NOT NULL",
                "ended_at",
                false,
                false,
            ),
        };
        Self {
            filter,
            key,
            forward,
            by_priority,
        }
    }

    fn sql(&self) -> String {
        let Self { filter, key, .. } = self;
        let (compare, order) = if self.forward {
            (">", "ASC")
        } else {
            ("<", "DESC")
        };
        let (each, of_each) = match self.by_priority {
            true => (
                "CROSS JOIN generate_series(-9, 9) AS p (priority)",
                "AND priority = p.priority",
            ),
            false => ("", ""),
        };
        let columns = columns!();
        // `$2` is the time, which not every state needs.
        format!(
            "SELECT {columns}, j.place, j.seq FROM lameduck.queues q {each} CROSS JOIN LATERAL (
                 SELECT *, {key} AS place FROM lameduck.jobs
                 WHERE queue = q.id {of_each} AND {filter} AND ({key}, seq) {compare} ($3, $4)
                 ORDER BY {key} {order}, seq {order} LIMIT $5
             ) AS j
             WHERE q.name = $1 AND $2::bigint IS NOT NULL
             ORDER BY j.place {order}, j.seq {order} LIMIT $5"
        )
    }
}

// === impl CancelRequests ===

impl Command for CancelRequests {
    type Answer = Vec<JobId>;

    const LOOKS: bool = true;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<JobId>, Failure> {
        let process = params![process_uuid(self.0) => UUID];
        let rows = turn.query(CANCEL_REQUESTS, process).await?;
        rows.iter().map(|row| row.job_id(0)).collect()
    }
}

// === impl Queues ===

impl Command for Queues {
    type Answer = Vec<QueueStats>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<QueueStats>, Failure> {
        let rows = turn
            .query(
                QUEUES,
                params![micros(turn.now) => INT8, self.0.as_ref().map(QueueName::as_str) => TEXT],
            )
            .await?;
        let mut queues = Vec::new();
        for row in &rows {
            let queue = match row.queue_name(0) {
                Ok(queue) => queue,
                Err(failure) => {
                    tracing::warn!(
                        error = in_words(&failure),
                        "a queue in the database can't be shown"
                    );
                    continue;
                }
            };
            let (scheduled, waiting) = (row.count(2)?, row.count(3)?);
            let now = micros(turn.now);
            let oldest: Option<i64> = row.try_get(7)?;
            queues.push(QueueStats {
                queue,
                paused: row.try_get(1)?,
                pending: waiting.saturating_sub(scheduled),
                scheduled,
                running: row.count(4)?,
                deferred: row.count(5)?,
                dead: row.count(6)?,
                oldest_age: oldest.filter(|at| *at <= now).map(|at| between(at, now)),
            });
        }
        Ok(queues)
    }
}

// === impl NextRunIn ===

impl Command for NextRunIn {
    type Answer = Option<Duration>;

    const LOOKS: bool = true;

    async fn run(&self, turn: &mut Turn) -> Result<Option<Duration>, Failure> {
        let queue = params![self.0.as_str() => TEXT];
        let row = turn.find(NEXT_RUN_AT, queue).await?;
        let at: Option<i64> = row.map_or(Ok(None), |row| row.try_get(0))?;
        Ok(at.map(|at| between(micros(turn.now), at)))
    }
}
