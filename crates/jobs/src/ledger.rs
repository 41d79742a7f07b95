//! The drain ledger records how every process run ended; the processes that are alive export it.
//!
//! A scrape comes every 15 to 60 s, a drain takes 5, and then the process is gone: no scrape ever sees
//! how it ended. So each process opens a row at start, marks T0 in it, and closes it with its report. If
//! a row is not closed although its process is gone, the process was killed, whether or not a drain had
//! begun. Every living process exports the totals.

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
    /// Marks T0, which was `ago`, in this process's row. A repeated call with the same id only corrects the
    /// cause; one with another id, or after the row was closed, changes nothing.
    async fn mark_drain(
        &self,
        drain_id: &str,
        cause: &str,
        ago: Duration,
    ) -> Result<(), EngineError>;

    /// Closes this process's row with its report. It is a compare-and-set: a closed row stays as it is.
    async fn close_drain(&self, last: &LastWord) -> Result<(), EngineError>;

    /// Returns how many drains ended in which way, over all processes that ever used this database.
    async fn drain_totals(&self) -> Result<Vec<DrainTotal>, EngineError>;

    /// Returns at most `limit` process runs, the latest first. Older ones are only in the totals.
    async fn drains(&self, limit: usize) -> Result<Vec<DrainRow>, EngineError>;
}

/// The report of a process about its drain, when the drain is over.
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
    /// The figures that are summed up over all drains.
    pub figures: Figures,
    /// The whole report as JSON.
    pub report: String,
}

/// Sums by name. The names are those of [`DrainReport::figures`]; an engine keeps whatever names it is given, so that
/// processes of two versions can have different ones.
///
/// [`DrainReport::figures`]: lameduck_lifecycle::DrainReport::figures
pub type Figures = BTreeMap<String, f64>;

/// One process run.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainRow {
    /// The id of the process run.
    pub process: ProcessId,
    /// The name of its machine (in a cluster, of its Pod), if the engine keeps it.
    pub host: Option<String>,
    /// When it opened its row.
    pub started_at: Timestamp,
    /// T0, once a drain has begun.
    pub began_at: Option<Timestamp>,
    /// The drain's id, the same as in its log lines.
    pub drain_id: Option<String>,
    /// Why it was asked to stop, as far as it knew.
    pub cause: Option<String>,
    /// When its row was closed: by the process itself or, if it was killed, by the process that found out.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it lives.
    pub outcome: Option<String>,
    /// How long the drain took, if the process could report it.
    pub seconds: Option<f64>,
    /// The whole report as JSON, if there is one.
    pub report: Option<String>,
}

/// A line of the totals, for one cause and outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrainTotal {
    /// Why the process was asked to stop; `unknown` for one that was killed before it knew.
    pub cause: String,
    /// How the drain ended: `clean`, `cut`, … from the report; [`KILLED`] for a process that never closed its row.
    pub outcome: String,
    /// Number of processes.
    pub count: u64,
    /// The sum of their drains' durations, as far as they were reported.
    pub seconds: f64,
    /// The sums of the other figures of their drains.
    pub figures: Figures,
}
