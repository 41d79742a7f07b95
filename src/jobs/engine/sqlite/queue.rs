//! What changes jobs: submit, reserve, settle, release.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result, params};
use sha2::{Digest, Sha256};

use super::{
    convert::{job_id, micros, micros_after, queue_name},
    writer::Turn,
};
use crate::jobs::job::{
    AfterFailure, Claim, Job, JobId, NewJob, Outcome, ProcessId, QueueName, Rejected, Reserved,
    Settled, Settlement, Submitted,
};

const ADD_QUEUE: &str = "INSERT INTO queues (name) VALUES (?1) ON CONFLICT DO NOTHING";

const FIND_QUEUE: &str = "SELECT id FROM queues WHERE name = ?1";

const FIND_KEY: &str = "SELECT job, digest FROM idempotency_keys WHERE queue = ?1 AND key = ?2";

const ADD_KEY: &str = "
    INSERT INTO idempotency_keys (queue, key, job, digest, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";

const ADD_JOB: &str = "
    INSERT INTO jobs (id, queue, state, run_at, max_attempts, submitted_at, content_type)
    VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6)";

const ADD_PAYLOAD: &str = "INSERT INTO payloads (seq, body) VALUES (?1, ?2)";

// A range of the index and nothing to sort. CROSS JOIN keeps the jobs outside, whatever the planner thinks.
const FIND_RUNNABLE: &str = "
    SELECT j.seq, j.id, j.attempt + 1, j.max_attempts, j.content_type, p.body
    FROM jobs j INDEXED BY jobs_pending CROSS JOIN payloads p ON p.seq = j.seq
    WHERE j.state = 0 AND j.queue = (SELECT id FROM queues WHERE name = ?1) AND j.run_at <= ?2
    ORDER BY j.run_at, j.seq LIMIT ?3";

const TAKE: &str = "
    UPDATE jobs SET state = 1, attempt = attempt + 1, process = ?2, claim = ?3 WHERE seq = ?1";

const COMPLETE: &str = "
    UPDATE jobs SET state = 2, ended_at = ?3, result = ?4, process = NULL, claim = NULL, settled_claim = ?2
    WHERE id = ?1 AND claim = ?2";

const BURY: &str = "
    UPDATE jobs SET state = 3, ended_at = ?3, last_error = ?4, process = NULL, claim = NULL, settled_claim = ?2
    WHERE id = ?1 AND claim = ?2";

const RETRY: &str = "
    UPDATE jobs SET state = 0, run_at = ?3, last_error = ?4, process = NULL, claim = NULL, settled_claim = ?2
    WHERE id = ?1 AND claim = ?2";

// It keeps its place: it has waited already. `min`, because the clock may have been set back meanwhile.
const RELEASE: &str = "
    UPDATE jobs SET state = 0, run_at = min(run_at, ?3), attempt = attempt - 1, releases = releases + 1,
                    process = NULL, claim = NULL, settled_claim = ?2
    WHERE id = ?1 AND claim = ?2";

const WAS_SETTLED_BY: &str = "SELECT 1 FROM jobs WHERE id = ?1 AND settled_claim = ?2";

const QUEUE_OF: &str = "SELECT q.name FROM jobs j JOIN queues q ON q.id = j.queue WHERE j.id = ?1";

const RELEASE_HELD: &str = "
    UPDATE jobs INDEXED BY jobs_running
    SET state = 0, run_at = CASE WHEN ?3 THEN min(run_at, ?2) ELSE ?2 END, attempt = attempt - 1,
        releases = releases + 1, process = NULL, claim = NULL
    WHERE state = 1 AND process = ?1
    RETURNING id, (SELECT name FROM queues WHERE queues.id = jobs.queue)";

const RELEASE_ALL: &str = "
    UPDATE jobs INDEXED BY jobs_running
    SET state = 0, run_at = min(run_at, ?1), attempt = attempt - 1, releases = releases + 1,
        process = NULL, claim = NULL
    WHERE state = 1";

/// Stores jobs; one answer for each.
pub(super) fn submit(
    turn: &mut Turn<'_>,
    jobs: &[NewJob],
) -> Result<Vec<std::result::Result<Submitted, Rejected>>> {
    jobs.iter().map(|job| submit_one(turn, job)).collect()
}

fn submit_one(
    turn: &mut Turn<'_>,
    job: &NewJob,
) -> Result<std::result::Result<Submitted, Rejected>> {
    let connection = turn.connection;
    let queue = queue_number(connection, &job.queue)?;
    let id = JobId::random();
    if let Some(key) = &job.idempotency_key {
        if let Some(answer) = seen_before(connection, queue, key, job)? {
            return Ok(answer);
        }
        connection.prepare_cached(ADD_KEY)?.execute(params![
            queue,
            key,
            id.as_bytes(),
            digest(job),
            micros(turn.now)
        ])?;
    }
    // Clamped, because an instant in the past would overtake everybody who waits.
    let run_at = job.run_at.map_or(turn.now, |at| at.max(turn.now));
    let seq = connection.prepare_cached(ADD_JOB)?.insert(params![
        id.as_bytes(),
        queue,
        micros(run_at),
        job.max_attempts.max(1),
        micros(turn.now),
        job.content_type
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

fn queue_number(connection: &Connection, name: &QueueName) -> Result<i64> {
    let mut find = connection.prepare_cached(FIND_QUEUE)?;
    if let Some(id) = find.query_row([name.as_str()], |r| r.get(0)).optional()? {
        return Ok(id);
    }
    connection
        .prepare_cached(ADD_QUEUE)?
        .insert([name.as_str()])
}

fn seen_before(
    connection: &Connection,
    queue: i64,
    key: &str,
    job: &NewJob,
) -> Result<Option<std::result::Result<Submitted, Rejected>>> {
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

/// What has to be the same for a repetition: the content type, its length before it so that no byte can
/// move over to the payload, and the payload.
fn digest(job: &NewJob) -> [u8; 32] {
    Sha256::new()
        .chain_update((job.content_type.len() as u64).to_le_bytes())
        .chain_update(&job.content_type)
        .chain_update(&job.payload)
        .finalize()
        .into()
}

/// Takes runnable jobs, each under a fresh claim.
pub(super) fn reserve(
    turn: &mut Turn<'_>,
    process: ProcessId,
    queue: &QueueName,
    limit: usize,
) -> Result<Vec<Reserved>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut find = turn.connection.prepare_cached(FIND_RUNNABLE)?;
    let found = find
        .query_map(params![queue.as_str(), micros(turn.now), limit], |r| {
            let job = Job {
                id: job_id(r, 1)?,
                queue: queue.clone(),
                attempt: r.get(2)?,
                max_attempts: r.get(3)?,
                content_type: r.get(4)?,
                payload: r.get::<_, Vec<u8>>(5)?.into(),
            };
            Ok((r.get::<_, i64>(0)?, job))
        })?
        // To the end before the first is taken: an index must not change under its reader.
        .collect::<Result<Vec<_>>>()?;
    let mut take = turn.connection.prepare_cached(TAKE)?;
    found
        .into_iter()
        .map(|(seq, job)| {
            let claim = Claim::new(job.id);
            take.execute(params![seq, process.as_bytes(), claim.token()])?;
            Ok(Reserved { job, claim })
        })
        .collect()
}

/// Writes outcomes; one answer for each.
pub(super) fn settle(turn: &mut Turn<'_>, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    settlements
        .iter()
        .map(|settlement| settle_one(turn, settlement))
        .collect()
}

fn settle_one(turn: &mut Turn<'_>, settlement: &Settlement) -> Result<Settled> {
    let (job, claim) = (settlement.job(), settlement.token());
    if write_outcome(turn, settlement)? {
        match settlement.outcome() {
            Outcome::Completed { .. }
            | Outcome::Failed {
                then: AfterFailure::Dead,
                ..
            } => turn.effects.ended.push(job),
            Outcome::Failed { .. } | Outcome::Released => {
                let mut queue_of = turn.connection.prepare_cached(QUEUE_OF)?;
                let queue = queue_of.query_row([job.as_bytes()], |r| queue_name(r, 0))?;
                turn.effects.runnable.insert(queue);
            }
        }
        return Ok(Settled::Written);
    }
    let repeated = turn
        .connection
        .prepare_cached(WAS_SETTLED_BY)?
        .exists(params![job.as_bytes(), claim])?;
    if repeated {
        return Ok(Settled::Repeated);
    }
    turn.effects.stale += 1;
    Ok(Settled::Stale)
}

/// True if the claim was the job's.
fn write_outcome(turn: &Turn<'_>, settlement: &Settlement) -> Result<bool> {
    let (job, claim) = (settlement.job(), settlement.token());
    let now = micros(turn.now);
    let statement = |sql| turn.connection.prepare_cached(sql);
    let changed = match settlement.outcome() {
        Outcome::Completed { result } => {
            statement(COMPLETE)?.execute(params![job.as_bytes(), claim, now, result.as_ref()])
        }
        Outcome::Failed {
            error,
            then: AfterFailure::Dead,
        } => statement(BURY)?.execute(params![job.as_bytes(), claim, now, error]),
        Outcome::Failed {
            error,
            then: AfterFailure::RetryAt(at),
        } => {
            let at = micros(*at.max(&turn.now));
            statement(RETRY)?.execute(params![job.as_bytes(), claim, at, error])
        }
        Outcome::Released => statement(RELEASE)?.execute(params![job.as_bytes(), claim, now]),
    }?;
    Ok(changed == 1)
}

/// Gives back everything that `process` holds, runnable after `delay`.
pub(super) fn release_held(
    turn: &mut Turn<'_>,
    process: ProcessId,
    delay: Duration,
) -> Result<Vec<JobId>> {
    let at = micros_after(turn.now, delay);
    let mut release = turn.connection.prepare_cached(RELEASE_HELD)?;
    let (ids, queues): (Vec<_>, BTreeSet<_>) = release
        .query_map(params![process.as_bytes(), at, delay.is_zero()], |r| {
            Ok((job_id(r, 0)?, queue_name(r, 1)?))
        })?
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    turn.effects.runnable.extend(queues);
    Ok(ids)
}

/// At start: every job that runs is a dead predecessor's, since this process has not reserved any.
pub(super) fn release_all(connection: &Connection, now: Timestamp) -> Result<usize> {
    connection
        .prepare_cached(RELEASE_ALL)?
        .execute([micros(now)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::engine::sqlite::schema;

    fn plan(sql: &str) -> String {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        for parameter in 1..=statement.parameter_count() {
            statement.raw_bind_parameter(parameter, 0).unwrap();
        }
        let mut rows = statement.raw_query();
        let mut steps = String::new();
        while let Some(row) = rows.next().unwrap() {
            steps += &row.get::<_, String>(3).unwrap();
            steps += "\n";
        }
        steps
    }

    #[test]
    fn a_reserve_reads_a_range_of_an_index_and_sorts_nothing() {
        let plan = plan(FIND_RUNNABLE);
        assert!(
            plan.contains("SEARCH j USING INDEX jobs_pending (queue=? AND run_at<?)"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        assert!(!plan.contains("SCAN"), "{plan}");
    }

    #[test]
    fn no_statement_scans_the_jobs_that_ended() {
        for sql in [
            COMPLETE,
            BURY,
            RETRY,
            RELEASE,
            WAS_SETTLED_BY,
            QUEUE_OF,
            TAKE,
        ] {
            let plan = plan(sql);
            assert!(!plan.contains("SCAN"), "{sql}: {plan}");
        }
        for sql in [RELEASE_HELD, RELEASE_ALL] {
            let plan = plan(sql);
            assert!(plan.contains("jobs_running"), "{sql}: {plan}");
        }
    }
}
