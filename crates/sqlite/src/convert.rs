//! Conversions between Rust's types and SQLite's.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Error, Result, Row, types::Type};

use lameduck_jobs::{
    bounds::INSTANTS,
    job::{JobId, QueueName, State},
};

/// An instant as it is stored.
pub(super) fn micros(instant: Timestamp) -> i64 {
    instant.as_microsecond()
}

/// Returns an instant some time later, as it is stored; the last one that can be stored if there is none.
pub(super) fn micros_after(instant: Timestamp, delay: Duration) -> i64 {
    let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
    micros(instant).saturating_add(delay).min(*INSTANTS.end())
}

/// Returns the time from one stored instant to another; zero if the second came before the first.
pub(super) fn between(from: i64, to: i64) -> Duration {
    Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// A duration as it is stored; capped at the longest that fits.
pub(super) fn stored_duration(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A stored duration that may be missing.
pub(super) fn read_duration(row: &Row<'_>, column: usize) -> Result<Option<Duration>> {
    let micros = row.get::<_, Option<i64>>(column)?;
    Ok(micros.map(|micros| Duration::from_micros(micros.unsigned_abs())))
}

/// A state, given by its number and by whether its time has come.
pub(super) fn state(row: &Row<'_>, column: usize, run_at: usize, now: Timestamp) -> Result<State> {
    Ok(match row.get(column)? {
        // Compared as numbers: a job can be cancelled even if this is not a valid instant.
        0 if row.get::<_, i64>(run_at)? > micros(now) => State::Scheduled,
        0 => State::Pending,
        1 => State::Running,
        2 => State::Completed,
        3 => State::Dead,
        4 => State::Cancelled,
        5 => State::Deferred,
        unknown => return Err(Error::IntegralValueOutOfRange(column, unknown)),
    })
}

/// A stored instant.
pub(super) fn instant(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    parse_instant(row.get(column)?, column)
}

/// A stored instant that may be missing.
pub(super) fn instant_if_any(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?
        .map(|micros| parse_instant(micros, column))
        .transpose()
}

/// A count, which is never negative.
pub(super) fn count(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

/// A stored job id.
pub(super) fn job_id(row: &Row<'_>, column: usize) -> Result<JobId> {
    row.get(column).map(JobId::from_bytes)
}

/// A stored queue name.
pub(super) fn queue_name(row: &Row<'_>, column: usize) -> Result<QueueName> {
    row.get::<_, String>(column)?
        .parse()
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn parse_instant(micros: i64, column: usize) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros)
        .map_err(|error| Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
}
