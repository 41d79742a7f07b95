//! Jobs and queues as the API shows them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::jobs::job::{
    JobId, JobRecord, Priority, ProcessId, QueueName, QueueStats, Run, RunEnd, State,
};

/// A job.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct JobView {
    /// The same for ever.
    #[schema(value_type = String, format = "uuid")]
    id: JobId,
    /// Its queue.
    #[schema(value_type = String)]
    queue: QueueName,
    /// Where it stands.
    state: State,
    /// How urgent it is.
    #[schema(value_type = i8)]
    priority: Priority,
    /// How long a run may take, where the submitter said so.
    timeout: Option<String>,
    /// Attempts that counted so far, the running one included.
    attempt: u32,
    /// Attempts in all before it is dead.
    max_attempts: u32,
    /// How often it was given back without an attempt counted.
    releases: u32,
    /// How often in a row its process crashed while it ran.
    crashes: u32,
    /// Somebody asked for its end while it ran.
    cancel_requested: bool,
    /// The payload's media type.
    content_type: String,
    /// When it was accepted.
    submitted_at: Timestamp,
    /// Not before; of a deferred job, until when its outcome is waited for.
    run_at: Timestamp,
    /// When it completed, died or was cancelled.
    ended_at: Option<Timestamp>,
    /// Why the last attempt failed.
    last_error: Option<String>,
    /// The submitter's trace context.
    traceparent: Option<String>,
}

/// A job with what came of it.
#[derive(Serialize, ToSchema)]
pub(super) struct JobDetails {
    #[serde(flatten)]
    job: JobView,
    /// What the handler answered, where that is text; `/result` has it byte for byte.
    result: Option<String>,
    /// Its runs that have ended, the latest 20.
    history: Vec<RunView>,
}

/// One run of a job.
#[derive(Serialize, ToSchema)]
pub(super) struct RunView {
    /// The attempt, which a release leaves uncounted.
    attempt: u32,
    /// The process that ran it.
    #[schema(value_type = String, format = "uuid")]
    process: ProcessId,
    /// When it was reserved.
    started_at: Timestamp,
    /// When its end was written.
    ended_at: Timestamp,
    /// How it ended.
    end: RunEnd,
    /// Why it failed or was postponed.
    error: Option<String>,
}

/// A queue in numbers.
#[derive(Serialize, ToSchema)]
pub(super) struct QueueView {
    /// Its name.
    #[schema(value_type = String)]
    queue: QueueName,
    /// Nothing is begun in it.
    paused: bool,
    /// Runnable now.
    pending: u64,
    /// Runnable later.
    scheduled: u64,
    /// Reserved by a process.
    running: u64,
    /// Under way elsewhere.
    deferred: u64,
    /// Out of attempts.
    dead: u64,
    /// For how long the oldest pending job could have run.
    oldest_age_seconds: Option<f64>,
}

// === impl JobView ===

impl From<&JobRecord> for JobView {
    fn from(record: &JobRecord) -> Self {
        Self {
            id: record.id,
            queue: record.queue.clone(),
            state: record.state,
            priority: record.priority,
            timeout: record.timeout.map(in_words),
            attempt: record.attempt,
            max_attempts: record.max_attempts,
            releases: record.releases,
            crashes: record.crashes,
            cancel_requested: record.cancel_requested,
            content_type: record.content_type.clone(),
            submitted_at: record.submitted_at,
            run_at: record.run_at,
            ended_at: record.ended_at,
            last_error: record.last_error.clone(),
            traceparent: record.traceparent.clone(),
        }
    }
}

/// A duration as `timeout=` takes it.
fn in_words(duration: Duration) -> String {
    let signed = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    format!("{signed:#}")
}

// === impl JobDetails ===

impl JobDetails {
    pub(super) fn new(record: &JobRecord, runs: Vec<Run>) -> Self {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        Self {
            job: record.into(),
            result: record.result.as_deref().and_then(text),
            history: runs.into_iter().map(RunView::from).collect(),
        }
    }
}

// === impl RunView ===

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        Self {
            attempt: run.attempt,
            process: run.process,
            started_at: run.started_at,
            ended_at: run.ended_at,
            end: run.end,
            error: run.error,
        }
    }
}

// === impl QueueView ===

impl QueueView {
    pub(super) fn new(stats: QueueStats, now: Timestamp) -> Self {
        Self {
            queue: stats.queue,
            paused: stats.paused,
            pending: stats.pending,
            scheduled: stats.scheduled,
            running: stats.running,
            deferred: stats.deferred,
            dead: stats.dead,
            oldest_age_seconds: stats
                .oldest_pending
                .map(|since| now.duration_since(since).as_secs_f64().max(0.0)),
        }
    }
}

// === schemas of the queue's own words ===

impl PartialSchema for State {
    fn schema() -> RefOr<Schema> {
        words(Self::ALL.map(Self::as_str))
    }
}

impl ToSchema for State {}

impl PartialSchema for RunEnd {
    fn schema() -> RefOr<Schema> {
        // By a match, so that a new one is not forgotten here.
        let word = |end| match end {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Postponed => "postponed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        };
        words(
            [
                Self::Completed,
                Self::Failed,
                Self::Released,
                Self::Postponed,
                Self::Cancelled,
                Self::Lost,
            ]
            .map(word),
        )
    }
}

impl ToSchema for RunEnd {}

fn words<const N: usize>(words: [&'static str; N]) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .build()
        .into()
}
