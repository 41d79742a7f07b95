//! Submit: stores jobs and their idempotency keys, or says why not; a whole batch in a handful of statements.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    super::{
        batch::Item,
        convert::{Columns, micros, micros_of, params, stored_duration, text, uuid},
        session::{Command, Failure, Turn},
    },
    make_queues,
};
use lameduck_jobs::{
    bounds,
    engine::common::digest,
    job::{JobId, NewJob, Rejected, Submitted},
};

const LOOK: &str = "
    SELECT q.name, q.id, coalesce(sum(c.waiting), 0)::bigint
    FROM lameduck.queues q LEFT JOIN lameduck.queue_counts c ON c.queue = q.id
    WHERE q.name = ANY ($1) GROUP BY q.name, q.id";

const BYTES: &str = "SELECT coalesce(sum(bytes), 0)::bigint FROM lameduck.queue_counts";

const FIND_KEYS: &str = "
    SELECT k.queue, k.key, k.job, k.digest
    FROM unnest($1, $2) AS asked (queue, key)
    JOIN lameduck.idempotency_keys k ON k.queue = asked.queue AND k.key = asked.key";

// Waits no longer than a commit takes for keys that others have taken and may still give back, and returns those keys.
const TAKE_KEYS: &str = "SELECT added, busy FROM lameduck.take_keys($1, $2, $3, $4, $5)";

const ADD_JOBS: &str = "
    INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, timeout, max_attempts, submitted_at, content_type,
                               traceparent, payload)
    SELECT id, queue, 0, priority, run_at, timeout, max_attempts, $10, content_type, traceparent, payload
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) WITH ORDINALITY
         AS new (id, queue, priority, run_at, timeout, max_attempts, content_type, traceparent, payload, place)
    ORDER BY place";

pub(in super::super) type Answer = Result<Submitted, Rejected>;

/// The quotas for stored jobs.
#[derive(Clone, Debug)]
pub(in super::super) struct Room {
    /// Maximum number of jobs that may wait in one queue.
    pub max_waiting: u64,
    /// Maximum number of bytes that all jobs together may hold.
    pub max_bytes: u64,
}

/// Stores jobs; returns one answer for each.
pub(in super::super) struct Submit {
    pub jobs: Arc<Vec<NewJob>>,
    pub room: Room,
}

/// A key and the queue that it belongs to.
type Key = (i32, String);

/// The job that holds a key.
struct Seen {
    job: JobId,
    digest: [u8; 32],
}

/// The state of a queue while jobs are stored in it.
struct Queue {
    id: i32,
    waiting: u64,
}

/// A job that is about to be stored.
struct Taken<'a> {
    id: JobId,
    queue: i32,
    job: &'a NewJob,
}

impl Item for NewJob {
    fn bytes(&self) -> usize {
        self.payload.len()
    }
}

// === impl Submit ===

impl Command for Submit {
    type Answer = Vec<Answer>;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<Answer>, Failure> {
        let (mut queues, new_elsewhere) = self.queues(turn).await?;
        let full = self.room.storage(turn).await?;
        let mut seen = self.seen(turn, &queues).await?;
        let mut taken = Vec::new();
        let mut new_keys: Vec<(Key, Seen)> = Vec::new();
        let mut answers = Vec::new();
        for job in self.jobs.iter() {
            if let Err(error) = bounds::check(job, turn.now) {
                answers.push(Err(error.into()));
                continue;
            }
            let Some(queue) = queues.get_mut(job.queue.as_str()) else {
                if !new_elsewhere.contains(job.queue.as_str()) {
                    return Err(Failure::Raced);
                }
                answers.push(Err(Rejected::InUse {
                    what: format!("the new queue '{}'", job.queue),
                }));
                continue;
            };
            let key = key(queue.id, job);
            // This check comes first: a repeated submission gets its first answer even if there is no room any more.
            if let Some(first) = key.as_ref().and_then(|key| seen.get(key)) {
                answers.push(repeated(first, job));
                continue;
            }
            if let Some(full) = full.clone().or_else(|| self.room.queue(queue)) {
                answers.push(Err(full));
                continue;
            }
            let id = JobId::random();
            if let Some(key) = key {
                let first = || Seen {
                    job: id,
                    digest: digest(job),
                };
                seen.insert(key.clone(), first());
                new_keys.push((key, first()));
            }
            queue.waiting += 1;
            taken.push(Taken {
                id,
                queue: queue.id,
                job,
            });
            answers.push(Ok(Submitted {
                id,
                repeated: false,
            }));
        }
        let in_use = take_keys(turn, &new_keys).await?;
        if !in_use.is_empty() {
            let in_use = |job: &NewJob| {
                let queue = queues.get(job.queue.as_str());
                queue.and_then(|queue| in_use.get(&key(queue.id, job)?))
            };
            taken.retain(|taken| in_use(taken.job).is_none());
            for (job, answer) in self.jobs.iter().zip(&mut answers) {
                // This includes jobs that were compared with the first of this batch, which is refused now.
                let counted = matches!(answer, Ok(_) | Err(Rejected::KeyReused { .. }));
                if let Some((_, key)) = in_use(job).filter(|_| counted) {
                    *answer = Err(Rejected::InUse {
                        what: format!("the Idempotency-Key '{key}'"),
                    });
                }
            }
        }
        add_jobs(turn, &taken).await?;
        let runnable = taken.iter().map(|taken| taken.job.queue.clone());
        turn.effects.runnable.extend(runnable);
        Ok(answers)
    }
}

impl Submit {
    /// Returns the queues of the jobs, creating new ones; and those that somebody else is creating just now.
    async fn queues(
        &self,
        turn: &Turn,
    ) -> Result<(HashMap<String, Queue>, HashSet<String>), Failure> {
        let names: BTreeSet<_> = self.jobs.iter().map(|job| job.queue.as_str()).collect();
        let names: Vec<_> = names.into_iter().collect();
        let found = look(turn, &names).await?;
        if found.len() == names.len() {
            return Ok((found, HashSet::new()));
        }
        let new_elsewhere = make_queues(turn, &names).await?;
        let found = look(turn, &names).await?;
        Ok((found, new_elsewhere.into_iter().collect()))
    }

    /// Returns those of the jobs' keys that were submitted before.
    async fn seen(
        &self,
        turn: &Turn,
        queues: &HashMap<String, Queue>,
    ) -> Result<HashMap<Key, Seen>, Failure> {
        let (ids, keys): (Vec<i32>, Vec<String>) = self
            .jobs
            .iter()
            .filter_map(|job| key(queues.get(job.queue.as_str())?.id, job))
            .unzip();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let asked = params![ids => INT4_ARRAY, keys => TEXT_ARRAY];
        let found = turn.query(FIND_KEYS, asked).await?;
        let seen = found.iter().map(|row| {
            let first = Seen {
                job: row.job_id(2)?,
                digest: row.try_get::<_, Vec<u8>>(3)?.try_into().unwrap_or_default(),
            };
            Ok(((row.try_get(0)?, row.try_get(1)?), first))
        });
        seen.collect()
    }
}

async fn look(turn: &Turn, names: &[&str]) -> Result<HashMap<String, Queue>, Failure> {
    let found = turn.query(LOOK, params![names => TEXT_ARRAY]).await?;
    let queues = found.iter().map(|row| {
        let queue = Queue {
            id: row.try_get(1)?,
            waiting: row.count(2)?,
        };
        Ok((row.try_get(0)?, queue))
    });
    queues.collect()
}

/// Takes the new keys. Returns those that somebody else has taken in a transaction which has not ended.
async fn take_keys(turn: &Turn, new: &[(Key, Seen)]) -> Result<HashSet<Key>, Failure> {
    if new.is_empty() {
        return Ok(HashSet::new());
    }
    let queues: Vec<i32> = new.iter().map(|((queue, _), _)| *queue).collect();
    let keys: Vec<&str> = new.iter().map(|((_, key), _)| key.as_str()).collect();
    let jobs: Vec<Uuid> = new.iter().map(|(_, seen)| uuid(seen.job)).collect();
    let digests: Vec<&[u8]> = new.iter().map(|(_, seen)| &seen.digest[..]).collect();
    let keys = params![
        queues => INT4_ARRAY, keys => TEXT_ARRAY, jobs => UUID_ARRAY, digests => BYTEA_ARRAY,
        micros(turn.now) => INT8,
    ];
    let row = turn.find(TAKE_KEYS, keys).await?.ok_or(Failure::Raced)?;
    let (added, busy): (i64, Vec<i32>) = (row.try_get(0)?, row.try_get(1)?);
    if added.unsigned_abs() as usize + busy.len() != new.len() {
        // Another process submitted one of them at the same time. By now its key is there, and it was first.
        return Err(Failure::Raced);
    }
    let places = busy.iter().map(|place| place.unsigned_abs() as usize - 1);
    let keys = places.filter_map(|place| new.get(place));
    Ok(keys.map(|(key, _)| key.clone()).collect())
}

async fn add_jobs(turn: &Turn, taken: &[Taken<'_>]) -> Result<(), Failure> {
    if taken.is_empty() {
        return Ok(());
    }
    let jobs = || taken.iter().map(|taken| taken.job);
    let ids: Vec<Uuid> = taken.iter().map(|taken| uuid(taken.id)).collect();
    let queues: Vec<i32> = taken.iter().map(|taken| taken.queue).collect();
    let priorities: Vec<i16> = jobs().map(|job| job.priority.get().into()).collect();
    // Clamped, because an instant in the past would overtake every waiting job.
    let now = micros(turn.now);
    let run_at = |job: &NewJob| {
        job.run_at
            .map_or(now, |when| micros_of(when, turn.now).max(now))
    };
    let run_at: Vec<i64> = jobs().map(run_at).collect();
    let timeouts: Vec<_> = jobs().map(|job| job.timeout.map(stored_duration)).collect();
    let attempts: Vec<i64> = jobs().map(|job| job.max_attempts.max(1).into()).collect();
    let types: Vec<&str> = jobs().map(|job| &*job.content_type).collect();
    let traces: Vec<_> = jobs()
        .map(|job| {
            job.traceparent
                .as_deref()
                .filter(|text| bounds::is_traceparent(text))
        })
        .collect();
    let payloads: Vec<&[u8]> = jobs().map(|job| job.payload.as_ref()).collect();
    let jobs = params![
        ids => UUID_ARRAY, queues => INT4_ARRAY, priorities => INT2_ARRAY, run_at => INT8_ARRAY,
        timeouts => INT8_ARRAY, attempts => INT8_ARRAY, types => TEXT_ARRAY, traces => TEXT_ARRAY,
        payloads => BYTEA_ARRAY, micros(turn.now) => INT8,
    ];
    turn.execute(ADD_JOBS, jobs).await.map(drop)
}

fn key(queue: i32, job: &NewJob) -> Option<Key> {
    let key = job.idempotency_key.as_deref()?;
    Some((queue, text(key)))
}

fn repeated(first: &Seen, job: &NewJob) -> Answer {
    if first.digest == digest(job) {
        Ok(Submitted {
            id: first.job,
            repeated: true,
        })
    } else {
        Err(Rejected::KeyReused { first: first.job })
    }
}

// === impl Room ===

impl Room {
    /// Returns why no job at all can be stored.
    async fn storage(&self, turn: &Turn) -> Result<Option<Rejected>, Failure> {
        if self.max_bytes == u64::MAX {
            return Ok(None);
        }
        let found = turn.find(BYTES, &[]).await?;
        let used = found.map_or(Ok(0), |row| row.count(0))?;
        Ok((used >= self.max_bytes).then(|| {
            Rejected::StorageFull(format!(
                "the jobs hold {used} bytes, and may hold {} (setting 'max-disk')",
                self.max_bytes
            ))
        }))
    }

    /// Returns why the queue can take no more jobs.
    fn queue(&self, queue: &Queue) -> Option<Rejected> {
        let waiting = queue.waiting;
        (waiting >= self.max_waiting).then_some(Rejected::QueueFull { waiting })
    }
}
