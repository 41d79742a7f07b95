//! Keys and queues locked by somebody else's open transaction: submissions that need one are batched separately.
//!
//! ```text
//!   submission ──▶ the common batch ── its key is in use ──▶ noted here
//!       next with that key ──▶ a batch of such ones alone, again and again ──▶ stored, the first job's id, or refused
//! ```
//!
//! Finding out that a key is in use costs the batch that meets it some milliseconds. That is paid once, and
//! not by everybody each time a client tries again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use lameduck_jobs::job::{NewJob, QueueName};

/// How long a key or queue that was in use is assumed to be so still.
const BELIEVED: Duration = Duration::from_secs(10);

/// Maximum number of keys remembered; beyond that the common batch finds out anew.
const MOST: usize = 10_000;

/// A key in its queue; without a key, the queue itself, which is new.
type Name = (QueueName, Option<String>);

/// The keys and queues that were in use when they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Contended(Mutex<HashMap<Name, Instant>>);

// === impl Contended ===

impl Contended {
    /// Whether a job needs something that was in use just now.
    pub fn concerns(&self, job: &NewJob) -> bool {
        let known = self.known();
        if known.is_empty() {
            return false;
        }
        let recent = |name: &Name| known.get(name).is_some_and(|at| at.elapsed() < BELIEVED);
        recent(&(job.queue.clone(), None)) || (job.idempotency_key.is_some() && recent(&name(job)))
    }

    /// Notes whether what a job needs is in use.
    pub fn note(&self, job: &NewJob, in_use: bool) {
        let mut known = self.known();
        if !in_use {
            if !known.is_empty() {
                known.remove(&name(job));
                known.remove(&(job.queue.clone(), None));
            }
            return;
        }
        if known.len() >= MOST {
            known.retain(|_, at| at.elapsed() < BELIEVED);
        }
        if known.len() < MOST {
            known.insert(name(job), Instant::now());
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(job: &NewJob) -> Name {
    (job.queue.clone(), job.idempotency_key.clone())
}
