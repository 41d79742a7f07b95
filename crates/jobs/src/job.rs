//! The words of the queue: jobs, claims, outcomes.
//!
//! ```text
//!                 submit                reserve                      settle
//!   submitter ───────────▶  pending  ──────────▶  running  ──┬─ complete ─▶ completed
//!                              ▲                  (a claim)  ├─ fail ─────▶ pending (attempt counted) or dead
//!                              ├─────────────────────────────┼─ release, postpone ─▶ pending (none counted)
//!                              │                             └─ defer ──▶ deferred (the claim lives on)
//!                              └── its time is over ◀─────────────────────────┘ ──▶ completed, dead, …
//! ```
//!
//! Cancelled is a job that was cancelled while it waited or was dead, or that did not complete after it was cancelled.
//!
//! A [`Claim`] exists once for every reservation and is consumed by the outcome written under it: the
//! compiler refuses a second outcome. The [`Settlement`] that comes out of it may be *written* as often as
//! needed, because a COMMIT whose answer was lost must be repeatable.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bounds::OutOfBounds;

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

/// How urgent a job is: -9 to 9, higher first, 0 where nobody says.
///
/// No priority starves another. In a queue that goes by [`Order::Priority`] each step is worth
/// [`STEP`](Priority::STEP) of waiting: a job overtakes those of one step less that became runnable less than
/// that before it, and nobody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Priority(i8);

/// Why a number is not a priority.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a priority: use a whole number from -9 to 9, higher first")]
pub struct InvalidPriority(String);

/// In which order a queue's runnable jobs are reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// By the instant from which each could run, and its [`Priority`].
    #[default]
    Priority,
    /// By that instant alone.
    RunAt,
}

/// When something may happen, by the clock of the storage and by no other.
///
/// Clocks of machines differ. So a span of time is handed on as a span, and the storage adds it to its own time; only
/// who is given an instant by a person hands on an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after the storage has taken it.
    After(Duration),
    /// Not before this instant.
    At(Timestamp),
}

/// What a submitter asks for.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The queue that it goes to.
    pub queue: QueueName,
    /// Handed to the handler as it is.
    pub payload: Bytes,
    /// The payload's media type; `application/octet-stream` where the submitter gave none.
    pub content_type: String,
    /// Not before then; `None` means now, and so does an instant in the past: it overtakes nobody.
    pub run_at: Option<When>,
    /// How urgent it is.
    pub priority: Priority,
    /// How long a run may take; `None` leaves it to the queue's settings at that time.
    pub timeout: Option<Duration>,
    /// Attempts in all before the job is dead; at least 1.
    pub max_attempts: u32,
    /// Makes a repeated submission harmless: the same key and payload answer with the first job again.
    /// The scope of a key is its queue.
    pub idempotency_key: Option<String>,
    /// The submitter's trace context (W3C `traceparent`), handed on to the handler.
    pub traceparent: Option<String>,
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
    /// As submitted.
    pub timeout: Option<Duration>,
    /// As submitted.
    pub traceparent: Option<String>,
    /// Since when it could have run.
    pub run_at: Timestamp,
    /// Its process has crashed so often while it ran that it has to run alone.
    pub suspect: bool,
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
    /// Which process run it belongs to: the engine's own at that instant. Once the engine has another one, it is
    /// somebody else's.
    pub process: ProcessId,
    /// For how long it could have run, by the storage's clock.
    pub waited: Duration,
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
    /// Could not be begun. The attempt does not count, the release does.
    Postponed {
        /// For people: the last error is kept with the job.
        error: String,
        /// Not before then.
        until: When,
    },
    /// Goes on outside of this process, under the same claim, which may settle it once more. Written again,
    /// it moves the instant.
    Deferred {
        /// When no word has come by then, the attempt has failed.
        until: When,
    },
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Try again, not before then; an instant in the past means now.
    RetryAt(When),
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
    /// As many jobs wait in the queue as may.
    #[error("the queue has {waiting} jobs waiting, as many as it may (setting 'max-queue-length')")]
    QueueFull {
        /// How many wait.
        waiting: u64,
    },
    /// The disk, or the share of it that the queue may use, is as full as it may get.
    #[error("{0}")]
    StorageFull(String),
    /// Something about the job is out of bounds.
    #[error("{0}")]
    OutOfBounds(#[from] OutOfBounds),
    /// Somebody else's transaction in the database has used the key, or the new queue, and has not ended: whether this
    /// job is a new one will only be known then.
    #[error(
        "another transaction in the database has used {what} and has not ended yet, so it can't be said whether this \
         job is a new one; repeat the request"
    )]
    InUse {
        /// The key or the queue, in words.
        what: String,
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
    /// Under way elsewhere; its handler answered that the outcome will be told.
    Deferred,
    /// Ended well.
    Completed,
    /// Ended badly: no attempt left.
    Dead,
    /// Ended by a cancellation.
    Cancelled,
}

/// Why a word is not a state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is not a state; there are pending, scheduled, running, deferred, completed, dead and cancelled"
)]
pub struct InvalidState(String);

/// Why a string is not a place in a list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not a place in a list; use 'next' of the page before as it is")]
pub struct InvalidCursor;

/// Everything that is known about a job.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Where it stands.
    pub state: State,
    /// How urgent it is.
    pub priority: Priority,
    /// How long a run may take, where the submitter said so.
    pub timeout: Option<Duration>,
    /// Attempts that counted so far, the running one included.
    pub attempt: u32,
    /// Attempts in all before it is dead.
    pub max_attempts: u32,
    /// How often it was given back without an attempt counted.
    pub releases: u32,
    /// How often in a row its process crashed while it ran.
    pub crashes: u32,
    /// Somebody asked for its end while it ran.
    pub cancel_requested: bool,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// Not before; of a deferred job, until when its outcome is waited for.
    pub run_at: Timestamp,
    /// When it completed, died or was cancelled.
    pub ended_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// What the handler answered.
    pub result: Option<Bytes>,
    /// The payload's media type.
    pub content_type: String,
    /// The submitter's trace context.
    pub traceparent: Option<String>,
}

/// One run of a job, for its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The attempt, which a release leaves uncounted.
    pub attempt: u32,
    /// The process that ran it.
    pub process: ProcessId,
    /// When it was reserved.
    pub started_at: Timestamp,
    /// When its end was written.
    pub ended_at: Timestamp,
    /// How it ended.
    pub end: RunEnd,
    /// Why it failed or was postponed.
    pub error: Option<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// Well.
    Completed,
    /// The attempt counted.
    Failed,
    /// Given back by its process.
    Released,
    /// Not begun.
    Postponed,
    /// By a cancellation.
    Cancelled,
    /// Its process ended without a word: killed in or out of a drain, or crashed.
    Lost,
}

/// Which jobs to list.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Of this queue.
    pub queue: QueueName,
    /// In this state.
    pub state: State,
    /// Behind this place: the last page's [`next`](Page::next).
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
}

/// A page of a list: what waits by its instant, what runs by its order of submission, what ended latest
/// first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobRecord>,
    /// Those that are on this page and can't be read: something that no program of ours writes is in their rows. They
    /// hide none of the others.
    pub unreadable: Vec<Unreadable>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// A job whose row can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Which one; `None` where not even that can be read.
    pub id: Option<JobId>,
    /// What is wrong with it.
    pub why: String,
}

/// A place in a list; opaque to whoever asks for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The instant that the list is ordered by, as microseconds since 1970.
    pub micros: i64,
    /// The place of a job among those of the same instant.
    pub seq: i64,
}

/// What a request to cancel a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled: it did not run, or was dead and is given up.
    Now,
    /// It runs; its handler will be told to stop.
    Requested,
    /// It had ended before.
    TooLate(State),
}

/// What a request to run a dead job again did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revived {
    /// It is pending again, with all its attempts.
    Now,
    /// It was not dead.
    NotDead(State),
}

/// How long what ended is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Completed and cancelled jobs, after their end. Default 1 hour: at 20 a second that is 72,000 rows.
    pub completed: Duration,
    /// Dead ones. Default 30 days.
    pub dead: Duration,
    /// Idempotency keys, after their submission, but never shorter than their job. Default 1 day.
    pub keys: Duration,
}

/// What one piece of housekeeping did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Deferred jobs whose time was over.
    pub expired: u64,
    /// Ended jobs that were removed.
    pub pruned: u64,
    /// There may be more of it to do.
    pub more: bool,
}

/// A queue in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Its name.
    pub queue: QueueName,
    /// Nothing is reserved of it.
    pub paused: bool,
    /// Runnable now.
    pub pending: u64,
    /// Runnable later.
    pub scheduled: u64,
    /// Reserved.
    pub running: u64,
    /// Under way elsewhere.
    pub deferred: u64,
    /// Out of attempts.
    pub dead: u64,
    /// For how long the oldest pending job could have run, by the storage's clock.
    pub oldest_age: Option<Duration>,
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

// === impl Priority ===

impl Priority {
    /// What a step is worth.
    pub const STEP: Duration = Duration::from_secs(60);
    /// The lowest and the highest.
    pub const RANGE: std::ops::RangeInclusive<i8> = -9..=9;

    /// The number.
    pub fn get(self) -> i8 {
        self.0
    }
}

impl TryFrom<i64> for Priority {
    type Error = InvalidPriority;

    fn try_from(number: i64) -> Result<Self, InvalidPriority> {
        i8::try_from(number)
            .ok()
            .filter(|number| Self::RANGE.contains(number))
            .map(Self)
            .ok_or_else(|| InvalidPriority(number.to_string()))
    }
}

impl FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(text: &str) -> Result<Self, InvalidPriority> {
        let shown = || InvalidPriority(text.chars().take(20).collect());
        let number: i64 = text.parse().map_err(|_| shown())?;
        Self::try_from(number)
    }
}

// === impl Order ===

impl Order {
    /// What a step of priority is worth in it.
    pub fn step(self) -> Duration {
        match self {
            Self::Priority => Priority::STEP,
            Self::RunAt => Duration::ZERO,
        }
    }
}

// === impl Unreadable ===

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "job {id} can't be read: {}", self.why),
            None => write!(f, "a job can't be read: {}", self.why),
        }
    }
}

// === impl When ===

impl When {
    /// The instant, for whose clock it is `now`; the end of time where there is none.
    pub fn instant(self, now: Timestamp) -> Timestamp {
        match self {
            Self::After(delay) => now.saturating_add(delay).unwrap_or(Timestamp::MAX),
            Self::At(at) => at,
        }
    }
}

impl From<Timestamp> for When {
    fn from(at: Timestamp) -> Self {
        Self::At(at)
    }
}

impl From<Duration> for When {
    fn from(delay: Duration) -> Self {
        Self::After(delay)
    }
}

// === impl QueueStats ===

impl QueueStats {
    /// Of a queue that has no job.
    pub const fn empty(queue: QueueName) -> Self {
        Self {
            queue,
            paused: false,
            pending: 0,
            scheduled: 0,
            running: 0,
            deferred: 0,
            dead: 0,
            oldest_age: None,
        }
    }
}

// === impl State ===

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Scheduled,
        Self::Running,
        Self::Deferred,
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
    ];

    /// Nothing will happen to the job any more by itself.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled)
    }

    /// The word used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Deferred => "deferred",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for State {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, InvalidState> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == text);
        state.ok_or_else(|| InvalidState(text.chars().take(20).collect()))
    }
}

// === impl Cursor ===

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.micros, self.seq)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (micros, seq) = text.split_once('.').ok_or(InvalidCursor)?;
        let number = |text: &str| text.parse::<i64>().map_err(|_| InvalidCursor);
        Ok(Self {
            micros: number(micros)?,
            seq: number(seq)?,
        })
    }
}

// === impl Retention ===

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            completed: Duration::from_secs(60 * 60),
            dead: 30 * DAY,
            keys: DAY,
        }
    }
}

// === impl Claim ===

impl Claim {
    /// For engines: a fresh token, 16 random bytes.
    pub fn fresh_token() -> [u8; 16] {
        *Uuid::new_v4().as_bytes()
    }

    /// For engines: the claim of a reservation that was written with this token.
    pub fn from_bytes(job: JobId, token: [u8; 16]) -> Self {
        let token = Uuid::from_bytes(token);
        Self { job, token }
    }

    /// The claim that a handler was told, for an outcome that comes from outside.
    ///
    /// # Errors
    /// Where the text is not a token.
    pub fn from_token(job: JobId, token: &str) -> Result<Self, uuid::Error> {
        let token = token.parse()?;
        Ok(Self { job, token })
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

// === impl Outcome ===

impl Outcome {
    /// Why it did not end well, where it did not.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed { error, .. } | Self::Postponed { error, .. } => Some(error),
            Self::Completed { .. } | Self::Released | Self::Deferred { .. } => None,
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
