//! Settle: writes the outcomes of runs under their claims, a whole batch in one statement.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::super::{
    batch::Item,
    convert::{Columns, end_number, micros, micros_of, params, text, uuid},
    session::{Command, Failure, Turn},
};
use lameduck_jobs::{
    engine::{
        RUNS_KEPT,
        common::{kept_error, short_error},
    },
    job::{AfterFailure, Outcome, RunEnd, Settled, Settlement},
};

// The outcomes by number.
const COMPLETE: i16 = 0;
const DIE: i16 = 1;
const RETRY: i16 = 2;
const POSTPONE: i16 = 3;
const RELEASE: i16 = 4;
const DEFER: i16 = 5;

// `what` is one of the numbers above, `becomes` the resulting state. A released job keeps its place, because
// it has waited already. `least`, because the clock may have been set back meanwhile. Jobs that somebody has
// locked are left out, so that they hold up no outcome but their own.
pub(in super::super) const SETTLE: &str = "
    WITH asked AS (
        SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)
                      AS asked (id, claim, what, until, error, short_error, result)
    ), held AS MATERIALIZED (
        SELECT j.seq, j.attempt, j.runs, j.process, j.started_at, a.*,
               CASE WHEN a.what = 0 THEN 2 WHEN j.cancel_requested THEN 4 WHEN a.what = 1 THEN 3 WHEN a.what = 5 THEN 5
                    ELSE 0 END AS becomes
        FROM asked a JOIN lameduck.jobs j ON j.id = a.id AND j.claim = a.claim
        ORDER BY j.seq FOR UPDATE OF j SKIP LOCKED
    ), written AS (
        UPDATE lameduck.jobs j SET
            state = h.becomes,
            run_at = CASE WHEN h.becomes IN (2, 3, 4) THEN j.run_at
                          WHEN h.what = 4 THEN least(j.run_at, $8)
                          ELSE greatest(h.until, $8) END,
            ended_at = CASE WHEN h.becomes IN (2, 3, 4) THEN $8 END,
            result = CASE WHEN h.what = 0 THEN h.result END,
            last_error = coalesce(h.error, j.last_error),
            attempt = CASE WHEN h.becomes = 0 AND h.what IN (3, 4) THEN j.attempt - 1 ELSE j.attempt END,
            releases = CASE WHEN h.becomes = 0 AND h.what IN (3, 4) THEN j.releases + 1 ELSE j.releases END,
            process = CASE WHEN h.becomes = 5 THEN j.process END,
            claim = CASE WHEN h.becomes = 5 THEN j.claim END,
            settled_claim = CASE WHEN h.becomes = 5 THEN j.settled_claim ELSE h.claim END,
            runs = CASE WHEN h.becomes = 5 THEN j.runs ELSE j.runs + 1 END,
            crashes = 0
        FROM held h WHERE j.seq = h.seq
        RETURNING j.seq, j.queue
    ), told AS (
        INSERT INTO lameduck.runs (job, number, attempt, process, started_at, ended_at, how, error)
        SELECT seq, runs, attempt, process, started_at, $8,
               CASE WHEN becomes = 4 THEN 4 ELSE ($9)[what + 1] END, short_error
        FROM held WHERE becomes <> 5
    ), forgotten AS (
        DELETE FROM lameduck.runs r USING held h
        WHERE r.job = h.seq AND r.number <= h.runs - $10 AND h.becomes <> 5 AND h.runs >= $10
    )
    SELECT h.id, h.becomes, q.name
    FROM written w JOIN held h ON h.seq = w.seq JOIN lameduck.queues q ON q.id = w.queue";

pub(in super::super) const WERE_SETTLED: &str = "
    SELECT asked.id, j.claim = asked.claim IS TRUE FROM unnest($1, $2) AS asked (id, claim)
    JOIN lameduck.jobs j ON j.id = asked.id AND (j.settled_claim = asked.claim OR j.claim = asked.claim)";

/// One outcome out of a shared list.
#[derive(Clone)]
pub(in super::super) struct One {
    pub all: Arc<Vec<Settlement>>,
    pub number: usize,
}

/// Writes outcomes; returns one answer for each.
pub(in super::super) struct Settle {
    pub outcomes: Arc<Vec<One>>,
    /// The text stored instead of the outcomes' own texts and results, which the database rejected; nothing
    /// is stored if this is empty.
    pub instead: Option<String>,
}

/// The result of writing one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Written {
    /// The claim was checked, with this result.
    Settled(Settled),
    /// Nothing was written yet: somebody has locked the job.
    Locked,
}

// === impl One ===

impl One {
    fn get(&self) -> &Settlement {
        &self.all[self.number]
    }
}

impl Item for One {
    fn bytes(&self) -> usize {
        result(self.get().outcome()).map_or(0, <[u8]>::len)
    }
}

// === impl Settle ===

impl Command for Settle {
    type Answer = Vec<Written>;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<Written>, Failure> {
        let mut answers = vec![Written::Settled(Settled::Stale); self.outcomes.len()];
        let mut left: Vec<usize> = (0..self.outcomes.len()).collect();
        // A statement can write a row only once. So of several outcomes for one job the first is written first.
        while !left.is_empty() {
            let mut jobs = HashSet::new();
            let (now, later): (Vec<usize>, Vec<usize>) = left
                .into_iter()
                .partition(|&n| jobs.insert(self.outcomes[n].get().job()));
            self.write(turn, &now, &mut answers).await?;
            left = later;
        }
        let stale = Written::Settled(Settled::Stale);
        let stale = answers.iter().filter(|answer| **answer == stale);
        turn.effects.stale += stale.count() as u64;
        Ok(answers)
    }
}

impl Settle {
    /// Writes these outcomes, at most one for each job.
    async fn write(
        &self,
        turn: &mut Turn,
        these: &[usize],
        answers: &mut [Written],
    ) -> Result<(), Failure> {
        let asked = || these.iter().map(|&n| self.outcomes[n].get());
        let ids: Vec<Uuid> = asked().map(|s| uuid(s.job())).collect();
        let claims: Vec<Uuid> = asked().map(|s| Uuid::from_bytes(*s.token())).collect();
        let what: Vec<i16> = asked().map(|s| what(s.outcome())).collect();
        let until: Vec<_> = asked().map(|s| until(s.outcome(), turn.now)).collect();
        let errors: Vec<_> = asked().map(|s| self.error(s.outcome())).collect();
        let short: Vec<_> = errors
            .iter()
            .map(|error| error.as_deref().map(short_error))
            .collect();
        let results: Vec<Option<&[u8]>> = asked().map(|s| self.result(s.outcome())).collect();
        // In the order of the numbers above; deferred and cancelled outcomes are not among them.
        let ends = [
            RunEnd::Completed,
            RunEnd::Failed,
            RunEnd::Failed,
            RunEnd::Postponed,
            RunEnd::Released,
        ]
        .map(end_number);
        let params = params![
            ids => UUID_ARRAY, claims => UUID_ARRAY, what => INT2_ARRAY, until => INT8_ARRAY, errors => TEXT_ARRAY,
            short => TEXT_ARRAY, results => BYTEA_ARRAY, micros(turn.now) => INT8, &ends[..] => INT2_ARRAY,
            RUNS_KEPT as i32 => INT4,
        ];
        let mut written = HashSet::new();
        for row in turn.query(SETTLE, params).await? {
            let job = row.job_id(0)?;
            written.insert(job);
            match row.try_get::<_, i32>(1)? {
                0 => {
                    turn.effects.changed.push(job);
                    turn.effects.runnable.extend(row.queue_name(2).ok());
                }
                5 => turn.effects.changed.push(job),
                _ => turn.effects.ended.push(job),
            }
        }
        let mut others = HashMap::new();
        if written.len() < these.len() {
            // A separate statement, which sees what was settled while the first one waited for its locks.
            let asked = params![ids => UUID_ARRAY, claims => UUID_ARRAY];
            for row in turn.query(WERE_SETTLED, asked).await? {
                let became = match row.try_get(1)? {
                    true => Written::Locked,
                    false => Written::Settled(Settled::Repeated),
                };
                others.insert(row.job_id(0)?, became);
            }
        }
        for &n in these {
            let job = self.outcomes[n].get().job();
            answers[n] = match others.get(&job) {
                _ if written.contains(&job) => Written::Settled(Settled::Written),
                Some(became) => *became,
                None => Written::Settled(Settled::Stale),
            };
        }
        Ok(())
    }

    /// Returns the error text that the job keeps of an outcome.
    fn error(&self, outcome: &Outcome) -> Option<String> {
        match (&self.instead, outcome) {
            (None, outcome) => Some(text(kept_error(outcome.error()?))),
            // Even the replacement text was rejected.
            (Some(why), _) if why.is_empty() => None,
            (Some(why), Outcome::Completed { result }) if !result.is_empty() => Some(format!(
                "its result of {} bytes could not be stored: {why}",
                result.len()
            )),
            (Some(why), outcome) => {
                let length = outcome.error()?.len();
                Some(format!(
                    "its error of {length} bytes could not be stored: {why}"
                ))
            }
        }
    }

    fn result<'a>(&self, outcome: &'a Outcome) -> Option<&'a [u8]> {
        match self.instead {
            None => result(outcome),
            Some(_) => result(outcome).map(|_| &[][..]),
        }
    }
}

fn what(outcome: &Outcome) -> i16 {
    match outcome {
        Outcome::Completed { .. } => COMPLETE,
        Outcome::Failed {
            then: AfterFailure::Dead,
            ..
        } => DIE,
        Outcome::Failed { .. } => RETRY,
        Outcome::Postponed { .. } => POSTPONE,
        Outcome::Released => RELEASE,
        Outcome::Deferred { .. } => DEFER,
    }
}

fn until(outcome: &Outcome, now: Timestamp) -> Option<i64> {
    match outcome {
        Outcome::Failed {
            then: AfterFailure::RetryAt(at),
            ..
        } => Some(micros_of(*at, now)),
        Outcome::Postponed { until, .. } | Outcome::Deferred { until } => {
            Some(micros_of(*until, now))
        }
        _ => None,
    }
}

fn result(outcome: &Outcome) -> Option<&[u8]> {
    match outcome {
        Outcome::Completed { result } => Some(result),
        _ => None,
    }
}
