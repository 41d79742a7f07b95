//! What all engines do alike.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::Event;
use crate::{
    job::{JobId, NewJob, QueueName},
    ledger::{DrainTotal, Figures},
};

/// How many events a slow receiver may be behind before it misses some; they are hints.
pub const EVENTS: usize = 4096;

/// In so many crashes in a row it was there: from now on it waits, and runs alone, so that the next one is its
/// own.
pub const SUSPECT: u32 = 2;

/// What was never answered, for people.
pub const OVERDUE: &str = "the handler answered 202 and no outcome came in time";

/// Bytes of an error that the history keeps.
const ERROR_IN_HISTORY: usize = 1024;

/// Bytes of the last error that the job itself keeps, whatever its handler had to say.
const ERROR_KEPT: usize = 64 << 10;

/// What the world is told after a commit.
#[derive(Default)]
pub struct Effects {
    /// Queues in which a job became pending or scheduled.
    pub runnable: BTreeSet<QueueName>,
    /// Jobs that were reserved, given back, deferred or failed.
    pub changed: Vec<JobId>,
    /// Jobs that completed, died or were cancelled.
    pub ended: Vec<JobId>,
    /// Running jobs that somebody wants to end.
    pub cancel_requested: Vec<JobId>,
    /// Outcomes that came under a claim which was no longer the job's.
    pub stale: u64,
}

// === impl Effects ===

impl Effects {
    /// Those of another command in the same commit.
    pub fn merge(&mut self, mut other: Self) {
        self.runnable.append(&mut other.runnable);
        self.changed.append(&mut other.changed);
        self.ended.append(&mut other.ended);
        self.cancel_requested.append(&mut other.cancel_requested);
        self.stale += other.stale;
    }

    /// In the order in which they are told.
    pub fn into_events(self) -> impl Iterator<Item = Event> {
        let runnable = self.runnable.into_iter().map(Event::Runnable);
        let changed = self.changed.into_iter().map(Event::Changed);
        let ended = self.ended.into_iter().map(Event::Ended);
        let asked = self.cancel_requested.into_iter();
        let asked = asked.map(Event::CancelRequested);
        runnable.chain(changed).chain(ended).chain(asked)
    }
}

/// What has to be the same for a repetition: the content type, its length before it so that no byte can
/// move over to the payload, and the payload.
pub fn digest(job: &NewJob) -> [u8; 32] {
    Sha256::new()
        .chain_update((job.content_type.len() as u64).to_le_bytes())
        .chain_update(&job.content_type)
        .chain_update(&job.payload)
        .finalize()
        .into()
}

/// As they are stored: a JSON object. What is no number is left out.
pub fn figures_text(figures: &Figures) -> String {
    let finite = figures.iter().filter(|(_, figure)| figure.is_finite());
    let object: serde_json::Map<_, _> = finite
        .map(|(name, figure)| (name.clone(), (*figure).into()))
        .collect();
    serde_json::Value::from(object).to_string()
}

/// One more sum of those who ended so.
pub fn add_figure(totals: &mut [DrainTotal], cause: &str, outcome: &str, name: String, sum: f64) {
    let total = totals
        .iter_mut()
        .find(|total| total.cause == cause && total.outcome == outcome);
    if let Some(total) = total {
        total.figures.insert(name, sum);
    }
}

/// What the history keeps of an error.
pub fn short_error(error: &str) -> &str {
    first_bytes(error, ERROR_IN_HISTORY)
}

/// What the job keeps of an error.
pub fn kept_error(error: &str) -> &str {
    first_bytes(error, ERROR_KEPT)
}

/// The first bytes of a text, no character torn.
fn first_bytes(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
