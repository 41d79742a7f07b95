//! Jobs and queues as the API shows them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use lameduck_jobs::{
    engine::Details,
    job::{
        JobId, JobRecord, Priority, ProcessId, QueueName, QueueStats, Run, RunEnd, State,
        Unreadable,
    },
    workers::{Reason, Unavailable, unavailable},
};
use lameduck_lifecycle::Drain;

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

/// Maximum number of bytes that are kept of a command's or an endpoint's answer. An answer of exactly this length
/// counts as cut, because it is not recorded whether there was more.
const KEPT: usize = 64 << 10;

/// A job with what came of it.
#[derive(Serialize, ToSchema)]
pub(super) struct JobDetails {
    #[serde(flatten)]
    job: JobView,
    /// What the handler answered, where that is text: as far as whole characters go.
    result: Option<String>,
    /// How many bytes are kept of it.
    #[schema(value_type = Option<u64>)]
    result_bytes: Option<usize>,
    /// It is not the whole answer: it fills what is kept of one, 64 KiB, or ends within a character.
    result_cut: bool,
    /// Where it is byte for byte, text or not.
    #[schema(format = "uri-reference")]
    result_url: Option<String>,
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

/// A job whose row in the storage can't be read.
#[derive(Serialize, ToSchema)]
pub(super) struct UnreadableView {
    /// Which one.
    #[schema(value_type = Option<String>, format = "uuid")]
    id: Option<JobId>,
    /// What is wrong with it.
    problem: String,
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
    /// Why the process that answers tries its jobs one at a time; null while it does not. Other processes may
    /// see it otherwise.
    backoff: Option<BackoffView>,
}

/// What keeps the workers of a process from beginning the jobs of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct BackoffView {
    /// `unreachable`: the program is missing or nobody answers. `overloaded`: the endpoint answers that it has too much
    /// to do.
    reason: Reason,
    /// Since when.
    since: Timestamp,
    /// What the latest job that was tried met with.
    error: String,
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

/// Returns a duration as `timeout=` takes it.
fn in_words(duration: Duration) -> String {
    let signed = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    format!("{signed:#}")
}

// === impl JobDetails ===

impl From<&Details> for JobDetails {
    fn from(details: &Details) -> Self {
        let Details { record, runs, .. } = details;
        let result = record.result.as_deref();
        let bytes = result.map(<[u8]>::len);
        let (text, within) = result.map_or((None, false), text);
        Self {
            job: record.into(),
            result: text.map(str::to_owned),
            result_bytes: bytes,
            result_cut: within || bytes == Some(KEPT),
            result_url: result.map(|_| format!("/v1/jobs/{}/result", record.id)),
            history: runs.iter().map(RunView::from).collect(),
        }
    }
}

/// Returns these bytes as text, if they are text; and whether they end within a character.
fn text(bytes: &[u8]) -> (Option<&str>, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), false),
        // The only fault is that the rest of a character is missing.
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            let whole = &bytes[..error.valid_up_to()];
            (std::str::from_utf8(whole).ok(), true)
        }
        Err(_) => (None, false),
    }
}

// === impl UnreadableView ===

impl From<Unreadable> for UnreadableView {
    fn from(row: Unreadable) -> Self {
        Self {
            id: row.id,
            problem: row.why,
        }
    }
}

// === impl RunView ===

impl From<&Run> for RunView {
    fn from(run: &Run) -> Self {
        Self {
            attempt: run.attempt,
            process: run.process,
            started_at: run.started_at,
            ended_at: run.ended_at,
            end: run.end,
            error: run.error.clone(),
        }
    }
}

// === impl BackoffView ===

impl From<Unavailable> for BackoffView {
    fn from(now: Unavailable) -> Self {
        Self {
            reason: now.reason,
            since: now.since,
            error: now.error,
        }
    }
}

// === impl QueueView ===

impl QueueView {
    /// Creates the view of a queue, with what this process knows about it.
    pub(super) fn here(stats: QueueStats, drain: &Drain) -> Self {
        let backoff = unavailable(drain, &stats.queue).map(BackoffView::from);
        Self {
            backoff,
            ..Self::new(stats)
        }
    }

    fn new(stats: QueueStats) -> Self {
        Self {
            queue: stats.queue,
            paused: stats.paused,
            pending: stats.pending,
            scheduled: stats.scheduled,
            running: stats.running,
            deferred: stats.deferred,
            dead: stats.dead,
            oldest_age_seconds: stats.oldest_age.map(|age| age.as_secs_f64()),
            backoff: None,
        }
    }
}
