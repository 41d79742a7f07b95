//! The code that all engines share.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::Event;
use crate::{
    job::{JobId, NewJob, QueueName},
    ledger::{DrainTotal, Figures},
};

/// Number of events that a slow receiver may be behind before it misses some; events are only hints.
pub const EVENTS: usize = 4096;

/// Number of crashes in a row after which a job that was running in each is a suspect: it waits to run alone, so that
/// the next crash is certainly its own.
pub const SUSPECT: u32 = 2;

/// The error of a deferred job whose outcome never came, for people.
pub const OVERDUE: &str = "the handler answered 202 and no outcome came in time";

/// Number of bytes of an error that the history keeps.
const ERROR_IN_HISTORY: usize = 1024;

/// Number of bytes of the last error that the job itself keeps, however much its handler wrote.
const ERROR_KEPT: usize = 64 << 10;

/// The changes that are published as events after a commit.
#[derive(Default)]
pub struct Effects {
    /// Queues in which a job became pending or scheduled.
    pub runnable: BTreeSet<QueueName>,
    /// Jobs that were reserved, given back, deferred or failed.
    pub changed: Vec<JobId>,
    /// Jobs that completed, died or were cancelled.
    pub ended: Vec<JobId>,
    /// Running jobs for which a cancellation was requested.
    pub cancel_requested: Vec<JobId>,
    /// Number of outcomes under a claim that was no longer the job's.
    pub stale: u64,
}

// === impl Effects ===

impl Effects {
    /// Adds the effects of another command in the same commit.
    pub fn merge(&mut self, mut other: Self) {
        self.runnable.append(&mut other.runnable);
        self.changed.append(&mut other.changed);
        self.ended.append(&mut other.ended);
        self.cancel_requested.append(&mut other.cancel_requested);
        self.stale += other.stale;
    }

    /// Returns the events in the order in which they are published.
    pub fn into_events(self) -> impl Iterator<Item = Event> {
        let runnable = self.runnable.into_iter().map(Event::Runnable);
        let changed = self.changed.into_iter().map(Event::Changed);
        let ended = self.ended.into_iter().map(Event::Ended);
        let asked = self.cancel_requested.into_iter();
        let asked = asked.map(Event::CancelRequested);
        runnable.chain(changed).chain(ended).chain(asked)
    }
}

/// Returns the digest that must match for a repeated submission: of the content type, preceded by its length so
/// that no byte of it can pass for a part of the payload, and of the payload.
pub fn digest(job: &NewJob) -> [u8; 32] {
    Sha256::new()
        .chain_update((job.content_type.len() as u64).to_le_bytes())
        .chain_update(&job.content_type)
        .chain_update(&job.payload)
        .finalize()
        .into()
}

/// Returns the figures as they are stored: as a JSON object, without those that are not finite.
pub fn figures_text(figures: &Figures) -> String {
    let finite = figures.iter().filter(|(_, figure)| figure.is_finite());
    let object: serde_json::Map<_, _> = finite
        .map(|(name, figure)| (name.clone(), (*figure).into()))
        .collect();
    serde_json::Value::from(object).to_string()
}

/// Adds one more sum to the total of the processes with this cause and outcome.
pub fn add_figure(totals: &mut [DrainTotal], cause: &str, outcome: &str, name: String, sum: f64) {
    let total = totals
        .iter_mut()
        .find(|total| total.cause == cause && total.outcome == outcome);
    if let Some(total) = total {
        total.figures.insert(name, sum);
    }
}

/// Returns the part of an error that the history keeps.
pub fn short_error(error: &str) -> &str {
    first_bytes(error, ERROR_IN_HISTORY)
}

/// Returns the part of an error that the job keeps.
pub fn kept_error(error: &str) -> &str {
    first_bytes(error, ERROR_KEPT)
}

/// Returns the first bytes of a text, without splitting a character.
fn first_bytes(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
