//! The words of the queue: jobs, claims, outcomes.
//!
//! ```text
//!                 submit                reserve                      settle
//!   submitter ───────────▶  pending  ──────────▶  running  ──┬─ complete ─▶ completed
//!                              ▲                  (a claim)  ├─ fail ─────▶ pending (attempt counted) or dead
//!                              └─────────────────────────────┴─ release ──▶ pending (no attempt counted)
//! ```
//!
//! A [`Claim`] exists once for every reservation and is consumed by the outcome written under it: the
//! compiler refuses a second outcome. The [`Settlement`] that comes out of it may be *written* as often as
//! needed, because a COMMIT whose answer was lost must be repeatable.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identifies a job for ever. UUIDv7, so that ids sort roughly by submission; never used as a cursor,
/// because ids are not in commit order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

/// Identifies one run of one process. A restarted pod is a new process; an id never comes back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(Uuid);

/// The name of a queue: 1 to 63 characters of `a-z`, `0-9`, `-` and `_`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct QueueName(String);

/// Why a string is not a queue name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is not a queue name: use 1 to 63 characters of a-z, 0-9, '-' and '_', beginning with a letter or a digit"
)]
pub struct InvalidQueueName(String);

/// What a submitter asks for.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The queue that it goes to.
    pub queue: QueueName,
    /// Handed to the handler as it is.
    pub payload: Bytes,
    /// The payload's media type; `application/octet-stream` where the submitter gave none.
    pub content_type: String,
    /// Not before this instant; `None` means now, and so does an instant in the past: it overtakes nobody.
    pub run_at: Option<Timestamp>,
    /// Attempts in all before the job is dead; at least 1.
    pub max_attempts: u32,
    /// Makes a repeated submission harmless: the same key and payload answer with the first job again.
    /// The scope of a key is its queue.
    pub idempotency_key: Option<String>,
}

/// What a handler gets to see of a job.
#[derive(Clone, Debug)]
pub struct Job {
    /// The same over all attempts.
    pub id: JobId,
    /// Where it came from.
    pub queue: QueueName,
    /// 1 for the first attempt. A release counts none, so the next run may carry the same number.
    pub attempt: u32,
    /// Attempts in all before the job is dead.
    pub max_attempts: u32,
    /// As submitted.
    pub payload: Bytes,
    /// As submitted.
    pub content_type: String,
}

/// The right to write one outcome for one reservation.
///
/// Deliberately neither `Clone` nor `Copy`: whoever holds it is the only one who may end the job, and
/// ends it once. It fences rows in the database; side effects of a handler it cannot fence.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is dropped leaves its job running until the process ends"]
pub struct Claim {
    job: JobId,
    token: Uuid,
}

/// A reserved job, and the claim under which it runs.
#[derive(Debug)]
pub struct Reserved {
    /// For the handler.
    pub job: Job,
    /// For the outcome.
    pub claim: Claim,
}

/// What became of one reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the result is kept for whoever asks.
    Completed {
        /// What the handler answered, already bounded by the handler.
        result: Bytes,
    },
    /// The attempt counts.
    Failed {
        /// For people: the last error is kept with the job.
        error: String,
        /// What now.
        then: AfterFailure,
    },
    /// Given back. The attempt does not count, the release does. Only for a handler that has provably
    /// ended: the job is runnable at once.
    Released,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Try again, not before this instant; one in the past means now.
    RetryAt(Timestamp),
    /// No attempt left, or none would help.
    Dead,
}

/// An outcome under its claim: may be written again and again, takes effect once.
#[derive(Debug)]
#[must_use = "an outcome that is not written is a job that runs again"]
pub struct Settlement {
    job: JobId,
    token: Uuid,
    outcome: Outcome,
}

/// What writing a [`Settlement`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Durably written now.
    Written,
    /// The very same claim had ended the job before: a repeated COMMIT. Nothing was written.
    Repeated,
    /// The claim is no longer the job's: somebody else owns or ended it. Nothing was written.
    Stale,
}

/// The answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job's id.
    pub id: JobId,
    /// True where the idempotency key had been seen: the first submission's id, nothing new was stored.
    pub repeated: bool,
}

/// Why a submission was not taken; nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The key came before, with another payload or content type.
    #[error(
        "this Idempotency-Key was used for job {first} with another payload; use a new key for a new job"
    )]
    KeyReused {
        /// The job that the key belongs to.
        first: JobId,
    },
}

/// Where a job stands, as the API shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Runnable now.
    Pending,
    /// Runnable later: delayed, or waiting for its next attempt.
    Scheduled,
    /// Reserved by a process.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly: no attempt left.
    Dead,
}

/// Everything that is known about a job.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it stands.
    pub state: State,
    /// Attempts that counted so far, the running one included.
    pub attempt: u32,
    /// Attempts in all before it is dead.
    pub max_attempts: u32,
    /// How often it was given back without an attempt counted.
    pub releases: u32,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// Not before.
    pub run_at: Timestamp,
    /// When it completed or died.
    pub ended_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// What the handler answered.
    pub result: Option<Bytes>,
    /// The payload's media type.
    pub content_type: String,
}

/// A queue in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Its name.
    pub queue: QueueName,
    /// Runnable now.
    pub pending: u64,
    /// Runnable later.
    pub scheduled: u64,
    /// Reserved.
    pub running: u64,
    /// Out of attempts.
    pub dead: u64,
    /// Since when the oldest pending job could have run.
    pub oldest_pending: Option<Timestamp>,
}

// === impl JobId ===

impl JobId {
    /// A new id, never seen before.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes that engines store.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Back from storage.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

// === impl ProcessId ===

impl ProcessId {
    /// A new id, never seen before.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes that engines store.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Back from storage.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl QueueName ===

impl QueueName {
    /// The name as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = InvalidQueueName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let valid = (1..=63).contains(&s.len())
            && s.bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            && s.starts_with(|c: char| c.is_ascii_alphanumeric());
        if valid {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidQueueName(s.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Claim ===

impl Claim {
    /// For engines: a fresh token for a reservation.
    pub fn new(job: JobId) -> Self {
        Self {
            job,
            token: Uuid::new_v4(),
        }
    }

    /// The job that it speaks for.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The 16 random bytes that engines store beside the job.
    pub fn token(&self) -> &[u8; 16] {
        self.token.as_bytes()
    }

    /// The token as handlers see it, for their own fencing.
    pub fn to_token_string(&self) -> String {
        self.token.to_string()
    }

    /// Ends the reservation. Consumes the claim: there is one outcome for each.
    pub fn settle(self, outcome: Outcome) -> Settlement {
        Settlement {
            job: self.job,
            token: self.token,
            outcome,
        }
    }
}

// === impl Settlement ===

impl Settlement {
    /// The job that it ends.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The claim's token.
    pub fn token(&self) -> &[u8; 16] {
        self.token.as_bytes()
    }

    /// What to write.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_name_is_what_a_label_and_a_path_can_carry() {
        for good in ["default", "a", "0-9_x", &"q".repeat(63)] {
            assert_eq!(good.parse::<QueueName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "_a", "A", "a/b", "ä", &"q".repeat(64)] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad} was taken");
        }
    }
}
