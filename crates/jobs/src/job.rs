//! The types of the queue: jobs, claims, outcomes.
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
//! Cancelled jobs were cancelled while they waited or were dead, or were to be cancelled and did not complete.
//!
//! There is exactly one [`Claim`] for every reservation, and the outcome written under it consumes it: the
//! compiler refuses a second outcome. The resulting [`Settlement`] may be *written* as often as
//! needed, because a COMMIT whose answer was lost must be repeatable.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bounds::OutOfBounds;

/// Identifies a job forever. It is a UUIDv7, so that ids sort roughly by submission; it is never used as a
/// cursor, because ids are not in commit order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

/// Identifies one run of one process. A restarted pod is a new process; an id is never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(Uuid);

/// The name of a queue: 1 to 63 characters of `a-z`, `0-9`, `-` and `_`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct QueueName(String);

/// Error for a string that is not a queue name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is not a queue name: use 1 to 63 characters of a-z, 0-9, '-' and '_', beginning with a letter or a digit"
)]
pub struct InvalidQueueName(String);

/// How urgent a job is: -9 to 9, higher first, 0 by default.
///
/// No priority starves another. In a queue with [`Order::Priority`], each step is worth
/// [`STEP`](Priority::STEP) of waiting: a job overtakes a job of one step less only if that job became runnable
/// less than that long before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Priority(i8);

/// Error for a number that is not a priority.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a priority: use a whole number from -9 to 9, higher first")]
pub struct InvalidPriority(String);

/// The order in which a queue's runnable jobs are reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Ordered by the instant from which each job could run, and by its [`Priority`].
    #[default]
    Priority,
    /// Ordered by that instant alone.
    RunAt,
}

/// When something may happen, by the storage's clock and no other.
///
/// The clocks of machines differ. A span of time is therefore passed on as a span, and the storage adds it to its own
/// time; an instant is passed on only if a person gave one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This long after the storage has accepted it.
    After(Duration),
    /// Not before this instant.
    At(Timestamp),
}

/// A job as a submitter asks for it.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The queue that the job goes to.
    pub queue: QueueName,
    /// The payload, passed to the handler unchanged.
    pub payload: Bytes,
    /// The payload's media type; `application/octet-stream` if the submitter gave none.
    pub content_type: String,
    /// The earliest time to run; `None` means now, and so does an instant in the past: it overtakes no other job.
    pub run_at: Option<When>,
    /// How urgent the job is.
    pub priority: Priority,
    /// How long a run may take; `None` leaves it to the queue's settings at that time.
    pub timeout: Option<Duration>,
    /// Total number of attempts before the job is dead; at least 1.
    pub max_attempts: u32,
    /// Makes a repeated submission harmless: the same key and payload are answered with the first job again.
    /// The scope of a key is its queue.
    pub idempotency_key: Option<String>,
    /// The submitter's trace context (W3C `traceparent`), handed on to the handler.
    pub traceparent: Option<String>,
}

/// A job as its handler sees it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job's id, the same for all attempts.
    pub id: JobId,
    /// The queue that the job came from.
    pub queue: QueueName,
    /// The number of this attempt, starting at 1. A release does not count, so the next run may have the same number.
    pub attempt: u32,
    /// Total number of attempts before the job is dead.
    pub max_attempts: u32,
    /// The payload as submitted.
    pub payload: Bytes,
    /// The payload's media type as submitted.
    pub content_type: String,
    /// The timeout of a run as submitted.
    pub timeout: Option<Duration>,
    /// The trace context as submitted.
    pub traceparent: Option<String>,
    /// The instant from which the job could have run.
    pub run_at: Timestamp,
    /// Whether its process has crashed so often while it ran that it has to run alone.
    pub suspect: bool,
}

/// The right to write one outcome for one reservation.
///
/// It is deliberately neither `Clone` nor `Copy`: only its holder may end the job, and only
/// once. It fences rows in the database; it cannot fence a handler's side effects.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is dropped leaves its job running until the process ends"]
pub struct Claim {
    job: JobId,
    token: Uuid,
}

/// A reserved job, and the claim under which it runs.
#[derive(Debug)]
pub struct Reserved {
    /// The job, for the handler.
    pub job: Job,
    /// The claim, for the outcome.
    pub claim: Claim,
    /// The process run that it belongs to: the engine's own at that instant. Once the engine has another one, the job
    /// belongs to somebody else.
    pub process: ProcessId,
    /// How long ago it became runnable, by the storage's clock.
    pub waited: Duration,
}

/// The outcome of one reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job is done; its result is kept for anyone who asks.
    Completed {
        /// The handler's answer, already limited in size by the handler.
        result: Bytes,
    },
    /// The attempt failed, and counts.
    Failed {
        /// The error, for people; the last one is kept with the job.
        error: String,
        /// Whether and when the job is tried again.
        then: AfterFailure,
    },
    /// The job is given back. The attempt does not count, the release does. Only for a handler that has provably
    /// ended: the job is runnable at once.
    Released,
    /// The job could not be begun. The attempt does not count, the release does.
    Postponed {
        /// The error, for people; the last one is kept with the job.
        error: String,
        /// The earliest time to try again.
        until: When,
    },
    /// The job goes on outside of this process, under the same claim, which may settle it once more. Writing this
    /// again moves the instant.
    Deferred {
        /// The attempt has failed if no outcome has arrived by then.
        until: When,
    },
}

/// The consequence of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The job is tried again, not before then; an instant in the past means now.
    RetryAt(When),
    /// No attempt is left, or none would help.
    Dead,
}

/// An outcome under its claim. It may be written any number of times, and takes effect once.
#[derive(Debug)]
#[must_use = "an outcome that is not written is a job that runs again"]
pub struct Settlement {
    job: JobId,
    token: Uuid,
    outcome: Outcome,
}

/// The effect of writing a [`Settlement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The outcome is now durably written.
    Written,
    /// The same claim had already ended the job: a repeated COMMIT. Nothing was written.
    Repeated,
    /// The claim is no longer the job's: somebody else owns the job or ended it. Nothing was written.
    Stale,
}

/// The answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job's id.
    pub id: JobId,
    /// Whether the idempotency key had been seen before: then `id` is the first submission's, and nothing was stored.
    pub repeated: bool,
}

/// Why a submission was rejected; nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The key was used before, with another payload or content type.
    #[error(
        "this Idempotency-Key was used for job {first} with another payload; use a new key for a new job"
    )]
    KeyReused {
        /// The job that the key belongs to.
        first: JobId,
    },
    /// As many jobs as allowed are already waiting in the queue.
    #[error("the queue has {waiting} jobs waiting, as many as it may (setting 'max-queue-length')")]
    QueueFull {
        /// How many jobs wait.
        waiting: u64,
    },
    /// The disk, or the share of it that the queue may use, has reached its limit.
    #[error("{0}")]
    StorageFull(String),
    /// Something about the job is out of bounds.
    #[error("{0}")]
    OutOfBounds(#[from] OutOfBounds),
    /// Somebody else's transaction in the database has used the key, or the new queue, and has not ended. Only its end
    /// will show whether this job is a new one.
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

/// Error for a word that is not a state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is not a state; there are pending, scheduled, running, deferred, completed, dead and cancelled"
)]
pub struct InvalidState(String);

/// Error for a string that is not a place in a list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not a place in a list; use 'next' of the page before as it is")]
pub struct InvalidCursor;

/// Everything that is known about a job.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// The job's id.
    pub id: JobId,
    /// The queue that the job is in.
    pub queue: QueueName,
    /// The state of the job.
    pub state: State,
    /// How urgent the job is.
    pub priority: Priority,
    /// How long a run may take, if the submitter set a timeout.
    pub timeout: Option<Duration>,
    /// Attempts that counted so far, the running one included.
    pub attempt: u32,
    /// Total number of attempts before it is dead.
    pub max_attempts: u32,
    /// How often it was given back without an attempt counted.
    pub releases: u32,
    /// How many times in a row its process crashed while it ran.
    pub crashes: u32,
    /// Whether a cancellation was requested while it ran.
    pub cancel_requested: bool,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// The earliest time to run; for a deferred job, the time until which its outcome is waited for.
    pub run_at: Timestamp,
    /// When it completed, died or was cancelled.
    pub ended_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// The handler's answer.
    pub result: Option<Bytes>,
    /// The payload's media type.
    pub content_type: String,
    /// The submitter's trace context.
    pub traceparent: Option<String>,
}

/// One run of a job, for its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The number of the attempt; a release does not count as one.
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
    /// Ended by a cancellation.
    Cancelled,
    /// Its process ended without a word: killed in or out of a drain, or crashed.
    Lost,
}

/// The selection of jobs to list.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The queue whose jobs are listed.
    pub queue: QueueName,
    /// The state of the listed jobs.
    pub state: State,
    /// The place after which the list goes on: the last page's [`next`](Page::next).
    pub after: Option<Cursor>,
    /// Maximum number of jobs on the page.
    pub limit: usize,
}

/// A page of a list. Waiting jobs are sorted by their instant, running ones by their order of submission,
/// ended ones latest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobRecord>,
    /// Jobs on this page that can't be read, because their rows contain something that no program of ours writes. They
    /// hide none of the others.
    pub unreadable: Vec<Unreadable>,
    /// The place where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// A job whose row can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The job's id; `None` if not even that can be read.
    pub id: Option<JobId>,
    /// The reason why it can't be read.
    pub why: String,
}

/// A place in a list; opaque to clients that ask for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The instant that the list is ordered by, as microseconds since 1970.
    pub micros: i64,
    /// The place of a job among those of the same instant.
    pub seq: i64,
}

/// The effect of a request to cancel a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The job is cancelled: it did not run, or was dead and is given up.
    Now,
    /// The job is running; its handler will be told to stop.
    Requested,
    /// The job had already ended.
    TooLate(State),
}

/// The effect of a request to run a dead job again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revived {
    /// The job is pending again, with all its attempts.
    Now,
    /// The job was not dead.
    NotDead(State),
}

/// How long ended jobs and their keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long completed and cancelled jobs are kept after their end. Default 1 hour: at 20 a second, 72,000 rows.
    pub completed: Duration,
    /// How long dead jobs are kept. Default 30 days.
    pub dead: Duration,
    /// How long idempotency keys are kept after their submission, but never shorter than their job. Default 1 day.
    pub keys: Duration,
}

/// The result of one piece of housekeeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Number of deferred jobs whose time was over.
    pub expired: u64,
    /// Number of ended jobs that were removed.
    pub pruned: u64,
    /// Whether there may be more to do.
    pub more: bool,
}

/// The figures of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// The queue's name.
    pub queue: QueueName,
    /// Whether the queue is paused: none of its jobs is reserved.
    pub paused: bool,
    /// Number of jobs that are runnable now.
    pub pending: u64,
    /// Number of jobs that are runnable later.
    pub scheduled: u64,
    /// Number of reserved jobs.
    pub running: u64,
    /// Number of jobs that are under way elsewhere.
    pub deferred: u64,
    /// Number of jobs that are out of attempts.
    pub dead: u64,
    /// How long ago the oldest pending job became runnable, by the storage's clock.
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

    /// The id that storage returned as 16 bytes.
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

    /// The id that storage returned as 16 bytes.
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
    /// The waiting time that one step of priority is worth.
    pub const STEP: Duration = Duration::from_secs(60);
    /// The lowest and the highest priority.
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
    /// The waiting time that one step of priority is worth in this order.
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
    /// The instant, on a clock that reads `now`; [`Timestamp::MAX`] if it is beyond that.
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
    /// The figures of a queue that has no job.
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

    /// Whether nothing more will happen to the job by itself.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled)
    }

    /// The state's name, as used everywhere.
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
    /// Makes a fresh token of 16 random bytes, for engines.
    pub fn fresh_token() -> [u8; 16] {
        *Uuid::new_v4().as_bytes()
    }

    /// The claim of a reservation that was written with this token, for engines.
    pub fn from_bytes(job: JobId, token: [u8; 16]) -> Self {
        let token = Uuid::from_bytes(token);
        Self { job, token }
    }

    /// The claim with a token that a handler was given, for an outcome that comes from outside.
    ///
    /// # Errors
    /// Returns an error if the text is not a token.
    pub fn from_token(job: JobId, token: &str) -> Result<Self, uuid::Error> {
        let token = token.parse()?;
        Ok(Self { job, token })
    }

    /// The job that the claim is for.
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

    /// Ends the reservation. It consumes the claim, so that there is one outcome for each.
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
    /// The error, if the run did not end well.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed { error, .. } | Self::Postponed { error, .. } => Some(error),
            Self::Completed { .. } | Self::Released | Self::Deferred { .. } => None,
        }
    }
}

// === impl Settlement ===

impl Settlement {
    /// The job that the settlement is for.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The claim's token.
    pub fn token(&self) -> &[u8; 16] {
        self.token.as_bytes()
    }

    /// The outcome to write.
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
