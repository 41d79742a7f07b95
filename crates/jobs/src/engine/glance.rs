//! The part of a job that is read for clients that wait for it.
//!
//! A thousand clients may wait for a thousand jobs. A [`Glance`] of a few bytes shows whether something happened to one
//! of them. Only a job to which something happened is read as a whole, with its history, as [`Details`].

use jiff::Timestamp;

use crate::job::{JobId, JobRecord, Run, State};

/// A job at a glance: equal to an earlier glance as long as nothing happened to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The job.
    pub id: JobId,
    /// The state of the job.
    pub state: State,
    /// How often it has been begun so far.
    pub attempt: u32,
    /// How often it was given back without an attempt counted.
    pub releases: u32,
    /// How often in a row its process crashed while it ran.
    pub crashes: u32,
    /// Whether a cancellation was requested while it ran.
    pub cancel_requested: bool,
    /// The instant before which it does not run.
    pub run_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A job with its history.
#[derive(Clone, Debug)]
pub struct Details {
    /// The job.
    pub record: JobRecord,
    /// Its runs that have ended, as [`Engine::runs`](super::Engine::runs) returns them.
    pub runs: Vec<Run>,
    /// When it was read, by the storage's clock, as are all instants in here.
    pub read_at: Timestamp,
}

// === impl Glance ===

impl From<&JobRecord> for Glance {
    fn from(record: &JobRecord) -> Self {
        Self {
            id: record.id,
            state: record.state,
            attempt: record.attempt,
            releases: record.releases,
            crashes: record.crashes,
            cancel_requested: record.cancel_requested,
            run_at: record.run_at,
            ended_at: record.ended_at,
        }
    }
}
