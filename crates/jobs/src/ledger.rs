//! The drain ledger: what became of every process run, told by those who live to tell it.
//!
//! A scrape comes every 15 to 60 s, a drain takes 5, and then the process is gone: no scrape ever sees
//! how it ended. So each process opens a row at start, marks T0 in it, and closes it with its report. A
//! row that is not closed though its process is gone was killed, with a drain begun or without. Whoever
//! is alive exports the totals.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use super::{engine::EngineError, job::ProcessId};

/// The outcome of a process that never closed its row.
pub const KILLED: &str = "killed";

/// The ledger, kept in the queue's database.
#[async_trait]
pub trait Ledger {
    /// Marks T0, which was so long ago, in this process' row. Repeated under the same id, it only corrects the
    /// cause; under another id, or once the row is closed, it changes nothing.
    async fn mark_drain(
        &self,
        drain_id: &str,
        cause: &str,
        ago: Duration,
    ) -> Result<(), EngineError>;

    /// Closes this process' row with its report; compare-and-set, a closed row stays as it is.
    async fn close_drain(&self, last: &LastWord) -> Result<(), EngineError>;

    /// How many drains ended how, over all processes that ever used this database.
    async fn drain_totals(&self) -> Result<Vec<DrainTotal>, EngineError>;

    /// The latest process runs, at most so many, the latest first. Older ones are only in the totals.
    async fn drains(&self, limit: usize) -> Result<Vec<DrainRow>, EngineError>;
}

/// What a process has to say of its drain when it is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastWord {
    /// The drain's id, the same as in its log lines.
    pub drain_id: String,
    /// Why it was asked to stop.
    pub cause: String,
    /// How it ended, in one word.
    pub outcome: String,
    /// How long it took.
    pub seconds: f64,
    /// What is summed up over all drains.
    pub figures: Figures,
    /// The whole report as JSON.
    pub report: String,
}

/// Sums by name. The names are those of [`DrainReport::figures`]; an engine keeps whatever it is given, so that
/// processes of two versions can have different ones.
///
/// [`DrainReport::figures`]: lameduck_lifecycle::DrainReport::figures
pub type Figures = BTreeMap<String, f64>;

/// One process run.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainRow {
    /// Which one.
    pub process: ProcessId,
    /// The name of its machine, which in a cluster is that of its Pod; where an engine keeps it.
    pub host: Option<String>,
    /// When it opened its row.
    pub started_at: Timestamp,
    /// T0, once a drain has begun.
    pub began_at: Option<Timestamp>,
    /// The drain's id, the same as in its log lines.
    pub drain_id: Option<String>,
    /// Why it was asked to stop, as far as it knew.
    pub cause: Option<String>,
    /// When its row was closed: by itself, or of one that was killed by whoever found out.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it lives.
    pub outcome: Option<String>,
    /// How long the drain took, where it could say.
    pub seconds: Option<f64>,
    /// The whole report as JSON, where there is one.
    pub report: Option<String>,
}

/// One line of the totals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrainTotal {
    /// Why the process was asked to stop; `unknown` for one that was killed before it knew.
    pub cause: String,
    /// `clean`, `cut`, … as the report says; [`KILLED`] for a process that never closed its row.
    pub outcome: String,
    /// Processes.
    pub count: u64,
    /// The sum of their drains' durations, as far as they were reported.
    pub seconds: f64,
    /// What else their drains add up to.
    pub figures: Figures,
}
