//! The drain ledger, which is kept in the rows of the processes.

use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::{
    convert::{Columns, micros, params, process_uuid, stored_duration, text},
    session::{Command, Failure, Turn, Way},
};
use lameduck_jobs::{
    engine::common::{add_figure, figures_text},
    job::ProcessId,
    ledger::{DrainRow, DrainTotal, Figures, LastWord},
};

const MARK: &str = "
    UPDATE lameduck.processes SET drain_id = $2, cause = $3, drain_at = coalesce(drain_at, $4)
    WHERE id = $1 AND outcome IS NULL AND (drain_id IS NULL OR drain_id = $2)";

const CLOSE: &str = "
    UPDATE lameduck.processes
    SET drain_id = $2, cause = $3, outcome = $4, seconds = $5, report = $6, closed_at = $7, figures = $8::text::jsonb,
        drain_at = coalesce(drain_at, $7 - ($5 * 1000000)::bigint)
    WHERE id = $1 AND outcome IS NULL";

// A single statement, so that no total ever falls, and each row is folded by one process.
const FOLD: &str = "
    WITH kept AS (
        SELECT seq FROM lameduck.processes WHERE outcome IS NOT NULL AND left_at IS NOT NULL
        ORDER BY seq DESC LIMIT 1 OFFSET $1
    ), gone AS (
        DELETE FROM lameduck.processes
        WHERE seq IN (
            SELECT seq FROM lameduck.processes
            WHERE outcome IS NOT NULL AND left_at IS NOT NULL AND seq <= (SELECT seq FROM kept)
            ORDER BY seq FOR UPDATE SKIP LOCKED
        )
        RETURNING coalesce(cause, 'unknown') AS cause, outcome, coalesce(seconds, 0) AS seconds, figures
    ), summed AS (
        INSERT INTO lameduck.drain_figures AS t (cause, outcome, name, sum)
        SELECT cause, outcome, key, sum(value::float8) FROM gone CROSS JOIN jsonb_each_text(figures)
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (cause, outcome, name) DO UPDATE SET sum = t.sum + excluded.sum
    )
    INSERT INTO lameduck.drain_totals AS t (cause, outcome, count, seconds)
    SELECT cause, outcome, count(*), sum(seconds) FROM gone GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (cause, outcome) DO UPDATE
    SET count = t.count + excluded.count, seconds = t.seconds + excluded.seconds";

const TOTALS: &str = "
    SELECT cause, outcome, sum(count)::bigint, sum(seconds) FROM (
        SELECT cause, outcome, count, seconds FROM lameduck.drain_totals
        UNION ALL
        SELECT coalesce(cause, 'unknown'), outcome, 1, coalesce(seconds, 0)
        FROM lameduck.processes WHERE outcome IS NOT NULL
    ) AS ended GROUP BY cause, outcome ORDER BY cause COLLATE \"C\", outcome COLLATE \"C\"";

const FIGURES: &str = "
    SELECT cause, outcome, name, sum(sum) FROM (
        SELECT cause, outcome, name, sum FROM lameduck.drain_figures
        UNION ALL
        SELECT coalesce(cause, 'unknown'), outcome, key, value::float8
        FROM lameduck.processes CROSS JOIN jsonb_each_text(figures) WHERE outcome IS NOT NULL
    ) AS ended GROUP BY cause, outcome, name";

const NEWEST: &str = "
    SELECT id, opened_at, drain_at, drain_id, cause, closed_at, outcome, seconds, report, node
    FROM lameduck.processes ORDER BY seq DESC LIMIT $1";

/// Keeps the newest `keep` rows of processes that have ended; older ones are only counted in the totals.
pub(super) async fn prune(turn: &Turn, keep: u32) -> Result<(), Failure> {
    turn.execute(FOLD, params![i64::from(keep) => INT8])
        .await
        .map(drop)
}

/// Records T0, or what has become known since.
pub(super) struct Mark {
    pub process: ProcessId,
    pub drain_id: String,
    pub cause: String,
    pub ago: Duration,
}

/// A process's final entry, written once.
pub(super) struct Close {
    pub process: ProcessId,
    pub last: LastWord,
    /// Leave out the report and the figures, because the database rejected them.
    pub bare: bool,
}

/// The number of drains by outcome.
pub(super) struct Totals;

/// The latest process runs, at most this many.
pub(super) struct Newest(pub usize);

// === impl Mark ===

impl Command for Mark {
    type Answer = ();

    const WAY: Way = Way::Reserved;

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        let mark = params![
            process_uuid(self.process) => UUID, text(&self.drain_id) => TEXT, text(&self.cause) => TEXT,
            micros(turn.now) - stored_duration(self.ago) => INT8,
        ];
        turn.execute(MARK, mark).await.map(drop)
    }
}

// === impl Close ===

impl Command for Close {
    type Answer = ();

    const WAY: Way = Way::Reserved;

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        let last = &self.last;
        let row = params![
            process_uuid(self.process) => UUID, text(&last.drain_id) => TEXT, text(&last.cause) => TEXT,
            text(&last.outcome) => TEXT, last.seconds => FLOAT8,
            (!self.bare).then(|| text(&last.report)) => TEXT, micros(turn.now) => INT8,
            (!self.bare).then(|| figures_text(&last.figures)) => TEXT,
        ];
        turn.execute(CLOSE, row).await.map(drop)
    }
}

// === impl Totals ===

impl Command for Totals {
    type Answer = Vec<DrainTotal>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Reserved;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<DrainTotal>, Failure> {
        let rows = turn.query(TOTALS, &[]).await?;
        let totals = rows.iter().map(|row| -> Result<_, Failure> {
            Ok(DrainTotal {
                cause: row.try_get(0)?,
                outcome: row.try_get(1)?,
                count: row.count(2)?,
                seconds: row.try_get(3)?,
                figures: Figures::default(),
            })
        });
        let mut totals: Vec<DrainTotal> = totals.collect::<Result<_, _>>()?;
        for row in turn.query(FIGURES, &[]).await? {
            let (cause, outcome): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
            let (name, sum) = (row.try_get(2)?, row.try_get(3)?);
            add_figure(&mut totals, cause, outcome, name, sum);
        }
        Ok(totals)
    }
}

// === impl Newest ===

impl Command for Newest {
    type Answer = Vec<DrainRow>;

    const LOOKS: bool = true;
    const WAY: Way = Way::Readers;

    async fn run(&self, turn: &mut Turn) -> Result<Vec<DrainRow>, Failure> {
        let rows = turn.query(NEWEST, params![limit(self.0) => INT8]).await?;
        rows.iter().map(drain).collect()
    }
}

/// Reads the same rows on a connection that nobody else uses.
pub(super) async fn read(client: &Client, most: usize) -> Result<Vec<DrainRow>, Failure> {
    let rows = client
        .query_typed(NEWEST, params![limit(most) => INT8])
        .await?;
    rows.iter().map(drain).collect()
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

fn drain(row: &Row) -> Result<DrainRow, Failure> {
    Ok(DrainRow {
        process: row.process_id(0)?,
        host: row.try_get(9)?,
        started_at: row.instant(1)?,
        began_at: row.instant_if_any(2)?,
        drain_id: row.try_get(3)?,
        cause: row.try_get(4)?,
        ended_at: row.instant_if_any(5)?,
        outcome: row.try_get(6)?,
        seconds: row.try_get(7)?,
        report: row.try_get(8)?,
    })
}
