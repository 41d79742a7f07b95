//! Conversions between Rust's types and PostgreSQL's.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::session::Failure;
use lameduck_jobs::{
    bounds::INSTANTS,
    job::{JobId, ProcessId, QueueName, RunEnd, State, When},
};

/// Parameters with their types, so that PostgreSQL need not be asked for them: that would take a prepared
/// statement, and those do not get through a PgBouncer in transaction mode.
macro_rules! params {
    ($($value:expr => $type:ident),* $(,)?) => {
        &[$((&$value as &(dyn tokio_postgres::types::ToSql + Sync), tokio_postgres::types::Type::$type)),*]
    };
}
pub(super) use params;

/// An instant as it is stored.
pub(super) fn micros(instant: Timestamp) -> i64 {
    instant.as_microsecond()
}

/// Returns an instant some time later, as it is stored; the largest number if there is none.
pub(super) fn micros_after(instant: Timestamp, delay: Duration) -> i64 {
    micros(instant)
        .saturating_add(stored_duration(delay))
        .min(*INSTANTS.end())
}

/// Returns the time from one stored instant to another; zero if the second came before the first.
pub(super) fn between(from: i64, to: i64) -> Duration {
    Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// A duration as it is stored; capped at the longest that fits.
pub(super) fn stored_duration(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A text as PostgreSQL can hold it: without the character U+0000, which a command's output may contain.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// An instant named by an outcome or a submitter, as it is stored: within what can be stored.
pub(super) fn micros_of(when: When, now: Timestamp) -> i64 {
    micros(when.instant(now)).clamp(*INSTANTS.start(), *INSTANTS.end())
}

/// An id as it is stored.
pub(super) fn uuid(id: JobId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// A process as it is stored.
pub(super) fn process_uuid(id: ProcessId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// How a run's end is stored.
pub(super) const fn end_number(end: RunEnd) -> i16 {
    match end {
        RunEnd::Completed => 0,
        RunEnd::Failed => 1,
        RunEnd::Released => 2,
        RunEnd::Postponed => 3,
        RunEnd::Cancelled => 4,
        RunEnd::Lost => 5,
    }
}

/// Columns in our types.
pub(super) trait Columns {
    /// A number that is never negative.
    fn count(&self, column: usize) -> Result<u64, Failure>;
    /// A number that is never negative and small.
    fn small(&self, column: usize) -> Result<u32, Failure>;
    /// An instant.
    fn instant(&self, column: usize) -> Result<Timestamp, Failure>;
    /// An instant that may be missing.
    fn instant_if_any(&self, column: usize) -> Result<Option<Timestamp>, Failure>;
    /// A duration that may be missing.
    fn duration(&self, column: usize) -> Result<Option<Duration>, Failure>;
    /// A job's id.
    fn job_id(&self, column: usize) -> Result<JobId, Failure>;
    /// A process's id.
    fn process_id(&self, column: usize) -> Result<ProcessId, Failure>;
    /// A queue's name.
    fn queue_name(&self, column: usize) -> Result<QueueName, Failure>;
    /// A state, given by its number and by whether its time has come.
    fn state(&self, column: usize, run_at: usize, now: Timestamp) -> Result<State, Failure>;
    /// How a run ended.
    fn run_end(&self, column: usize) -> Result<RunEnd, Failure>;
}

// === impl Columns ===

impl Columns for Row {
    fn count(&self, column: usize) -> Result<u64, Failure> {
        Ok(self.try_get::<_, i64>(column)?.unsigned_abs())
    }

    fn small(&self, column: usize) -> Result<u32, Failure> {
        Ok(self.try_get::<_, i32>(column)?.unsigned_abs())
    }

    fn instant(&self, column: usize) -> Result<Timestamp, Failure> {
        parse_instant(self.try_get(column)?)
    }

    fn instant_if_any(&self, column: usize) -> Result<Option<Timestamp>, Failure> {
        self.try_get::<_, Option<i64>>(column)?
            .map(parse_instant)
            .transpose()
    }

    fn duration(&self, column: usize) -> Result<Option<Duration>, Failure> {
        let micros = self.try_get::<_, Option<i64>>(column)?;
        Ok(micros.map(|micros| Duration::from_micros(micros.unsigned_abs())))
    }

    fn job_id(&self, column: usize) -> Result<JobId, Failure> {
        let id: Uuid = self.try_get(column)?;
        Ok(JobId::from_bytes(id.into_bytes()))
    }

    fn process_id(&self, column: usize) -> Result<ProcessId, Failure> {
        let id: Uuid = self.try_get(column)?;
        Ok(ProcessId::from_bytes(id.into_bytes()))
    }

    fn queue_name(&self, column: usize) -> Result<QueueName, Failure> {
        let name: &str = self.try_get(column)?;
        name.parse().map_err(unreadable)
    }

    fn state(&self, column: usize, run_at: usize, now: Timestamp) -> Result<State, Failure> {
        Ok(match self.try_get::<_, i16>(column)? {
            // Compared as numbers: a job can be cancelled even if this is not a valid instant.
            0 if self.try_get::<_, i64>(run_at)? > micros(now) => State::Scheduled,
            0 => State::Pending,
            1 => State::Running,
            2 => State::Completed,
            3 => State::Dead,
            4 => State::Cancelled,
            5 => State::Deferred,
            unknown => return Err(unreadable(format!("there is no state {unknown}"))),
        })
    }

    fn run_end(&self, column: usize) -> Result<RunEnd, Failure> {
        Ok(match self.try_get::<_, i16>(column)? {
            0 => RunEnd::Completed,
            1 => RunEnd::Failed,
            2 => RunEnd::Released,
            3 => RunEnd::Postponed,
            4 => RunEnd::Cancelled,
            5 => RunEnd::Lost,
            unknown => return Err(unreadable(format!("there is no end of a run {unknown}"))),
        })
    }
}

fn parse_instant(micros: i64) -> Result<Timestamp, Failure> {
    Timestamp::from_microsecond(micros).map_err(unreadable)
}

fn unreadable(why: impl std::fmt::Display) -> Failure {
    Failure::Unreadable(why.to_string())
}
