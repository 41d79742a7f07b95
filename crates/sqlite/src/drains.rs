//! The rows of the drain ledger: one for each process run.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    convert::{count, instant, instant_if_any, micros, stored_duration},
    writer::Turn,
};
use lameduck_jobs::{
    engine::common::{add_figure, figures_text},
    job::ProcessId,
    ledger::{DrainRow, DrainTotal, Figures, LastWord},
};

const OPEN: &str = "INSERT INTO processes (id, opened_at, boot_id) VALUES (?1, ?2, ?3)";

const BURY: &str = "UPDATE processes SET outcome = 'killed', closed_at = ?1 WHERE outcome IS NULL";

const MARK: &str = "
    UPDATE processes SET drain_id = ?2, cause = ?3, drain_at = coalesce(drain_at, ?4)
    WHERE id = ?1 AND outcome IS NULL AND (drain_id IS NULL OR drain_id = ?2)";

const CLOSE: &str = "
    UPDATE processes
    SET drain_id = ?2, cause = ?3, outcome = ?4, seconds = ?5, report = ?6, closed_at = ?7, figures = ?8,
        drain_at = coalesce(drain_at, ?7 - CAST(?5 * 1000000 AS INTEGER))
    WHERE id = ?1 AND outcome IS NULL";

const NEWEST_TO_FOLD: &str = "
    SELECT seq FROM processes WHERE outcome IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET ?1";

const FOLD: &str = "
    INSERT INTO drain_totals (cause, outcome, count, seconds)
    SELECT coalesce(cause, 'unknown'), outcome, count(*), total(seconds)
    FROM processes WHERE outcome IS NOT NULL AND seq <= ?1 GROUP BY 1, 2
    ON CONFLICT (cause, outcome) DO UPDATE
    SET count = drain_totals.count + excluded.count, seconds = drain_totals.seconds + excluded.seconds";

const FOLD_FIGURES: &str = "
    INSERT INTO drain_figures (cause, outcome, name, sum)
    SELECT coalesce(cause, 'unknown'), outcome, f.key, total(f.value)
    FROM processes CROSS JOIN json_each(figures) AS f WHERE outcome IS NOT NULL AND seq <= ?1 GROUP BY 1, 2, 3
    ON CONFLICT (cause, outcome, name) DO UPDATE SET sum = drain_figures.sum + excluded.sum";

const FORGET: &str = "DELETE FROM processes WHERE outcome IS NOT NULL AND seq <= ?1";

const TOTALS: &str = "
    SELECT cause, outcome, sum(count), total(seconds) FROM (
        SELECT cause, outcome, count, seconds FROM drain_totals
        UNION ALL
        SELECT coalesce(cause, 'unknown'), outcome, 1, seconds FROM processes WHERE outcome IS NOT NULL
    ) GROUP BY cause, outcome ORDER BY cause, outcome";

const FIGURES: &str = "
    SELECT cause, outcome, name, total(sum) FROM (
        SELECT cause, outcome, name, sum FROM drain_figures
        UNION ALL
        SELECT coalesce(cause, 'unknown'), outcome, f.key, f.value
        FROM processes CROSS JOIN json_each(figures) AS f WHERE outcome IS NOT NULL
    ) GROUP BY cause, outcome, name";

const NEWEST: &str = "
    SELECT id, opened_at, drain_at, drain_id, cause, closed_at, outcome, seconds, report
    FROM processes ORDER BY seq DESC LIMIT ?1";

/// At start: closes every row that is still open, since it is a dead predecessor's. Returns how many.
pub(super) fn bury_predecessors(connection: &Connection, now: Timestamp) -> Result<usize> {
    connection.prepare_cached(BURY)?.execute([micros(now)])
}

/// At start: opens this process's own row.
pub(super) fn open(
    connection: &Connection,
    process: ProcessId,
    boot_id: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    connection
        .prepare_cached(OPEN)?
        .execute(params![process.as_bytes(), micros(now), boot_id])
        .map(drop)
}

/// Keeps the newest `keep` rows of processes that have ended; older ones are only counted in the totals. In
/// one transaction, so that no total ever falls.
pub(super) fn prune(connection: &Connection, keep: u32) -> Result<()> {
    let newest: Option<i64> = connection
        .prepare_cached(NEWEST_TO_FOLD)?
        .query_row([keep], |r| r.get(0))
        .optional()?;
    if let Some(newest) = newest {
        connection.prepare_cached(FOLD)?.execute([newest])?;
        connection.prepare_cached(FOLD_FIGURES)?.execute([newest])?;
        connection.prepare_cached(FORGET)?.execute([newest])?;
    }
    Ok(())
}

/// Records T0, or what has become known since.
pub(super) fn mark(
    turn: &Turn<'_>,
    process: ProcessId,
    drain_id: &str,
    cause: &str,
    ago: Duration,
) -> Result<()> {
    turn.connection
        .prepare_cached(MARK)?
        .execute(params![
            process.as_bytes(),
            drain_id,
            cause,
            micros(turn.now) - stored_duration(ago)
        ])
        .map(drop)
}

/// Records the end, which is written once.
pub(super) fn close(turn: &Turn<'_>, process: ProcessId, last: &LastWord) -> Result<()> {
    turn.connection
        .prepare_cached(CLOSE)?
        .execute(params![
            process.as_bytes(),
            last.drain_id,
            last.cause,
            last.outcome,
            last.seconds,
            last.report,
            micros(turn.now),
            figures_text(&last.figures)
        ])
        .map(drop)
}

/// Returns the number of drains by outcome.
pub(super) fn totals(connection: &Connection) -> Result<Vec<DrainTotal>> {
    let mut totals: Vec<DrainTotal> = connection
        .prepare_cached(TOTALS)?
        .query_map([], |r| {
            Ok(DrainTotal {
                cause: r.get(0)?,
                outcome: r.get(1)?,
                count: count(r, 2)?,
                seconds: r.get(3)?,
                figures: Figures::default(),
            })
        })?
        .collect::<Result<_>>()?;
    let mut figures = connection.prepare_cached(FIGURES)?;
    let mut rows = figures.query([])?;
    while let Some(row) = rows.next()? {
        let (cause, outcome): (String, String) = (row.get(0)?, row.get(1)?);
        add_figure(&mut totals, &cause, &outcome, row.get(2)?, row.get(3)?);
    }
    Ok(totals)
}

/// Returns the latest process runs, the living one first.
pub(super) fn newest(connection: &Connection, limit: usize) -> Result<Vec<DrainRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .prepare_cached(NEWEST)?
        .query_map([limit], |r| {
            Ok(DrainRow {
                process: ProcessId::from_bytes(r.get(0)?),
                // Only one host can have the volume.
                host: None,
                started_at: instant(r, 1)?,
                began_at: instant_if_any(r, 2)?,
                drain_id: r.get(3)?,
                cause: r.get(4)?,
                ended_at: instant_if_any(r, 5)?,
                outcome: r.get(6)?,
                seconds: r.get(7)?,
                report: r.get(8)?,
            })
        })?
        .collect()
}
