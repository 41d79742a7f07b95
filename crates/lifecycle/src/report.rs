//! The drain report: one value that describes a drain for the log, the ledger and the termination message.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    conductor::{Record, RoutingEnd},
    drain::Drain,
    inflight::Ids,
    observation::{Cause, DeadlineSource},
    phase::{Moment, Phase},
};

/// The report of a drain. All durations are in seconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DrainReport {
    /// The id of this drain, the same in every log line and report.
    pub drain_id: String,
    /// The Pod that drained, in a cluster.
    pub pod: Option<String>,
    /// The node that it ran on, if that is known.
    pub node: Option<String>,
    /// How the drain ended, in one word.
    pub outcome: Outcome,
    /// Why the drain began.
    pub cause: Cause,
    /// T0 by the wall clock.
    pub began_at: Timestamp,
    /// Time from T0 to this report.
    pub seconds: f64,
    /// Time from T0 to the deadline.
    pub budget_seconds: f64,
    /// The source of the deadline.
    pub deadline_source: DeadlineSource,
    /// Whether a second signal came.
    pub hurried: bool,
    /// Whether the drain reached the soft deadline, when everything that still ran was told to stop.
    pub told_to_stop: bool,
    /// How long each phase took.
    pub phases: BTreeMap<&'static str, f64>,
    /// How the wait for the end of routing ended.
    pub routing: Option<RoutingEnd>,
    /// Time from T0 until no endpoint of this process was routed to, if that was seen.
    pub removal_seconds: Option<f64>,
    /// Requests since T0.
    pub requests: Requests,
    /// Connections since T0.
    pub connections: Connections,
    /// Jobs since T0.
    pub jobs: Jobs,
    /// The teardown hooks, in the order in which they ran.
    pub hooks: Vec<HookReport>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Everything ended by itself, or was given back by a handler that ended in time.
    Clean,
    /// Requests were cut, or jobs given back, at the hard deadline.
    Cut,
    /// Nothing was cut; a hook failed or did not end in time.
    HookFailed,
    /// Nothing was cut; the drain began because a part of the program failed.
    Failed,
}

/// Requests since T0.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Requests {
    /// Requests begun since T0.
    pub served: u64,
    /// The part of them on connections that came after the endpoints were gone.
    pub late: u64,
    /// Requests in flight at the hard deadline.
    pub cut: u64,
}

/// Connections since T0.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connections {
    /// Connections that we closed because they stayed idle.
    pub idle_closed: u64,
    /// Connections that were cut at the hard deadline with a request or a websocket on them.
    pub cut: u64,
    /// All connections that were cut, by protocol and activity: `http/1.1 serving`, `upgraded`.
    pub cut_by: BTreeMap<String, u64>,
}

/// Jobs since T0.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Jobs {
    /// Jobs that ended well.
    pub finished: u64,
    /// Attempts that failed: their jobs are retried, or dead.
    pub failed: u64,
    /// Jobs that were given back without counting the attempt.
    pub released: Ids,
    /// Jobs that could not be given back; their lease frees them.
    pub left: Ids,
}

/// The report of one hook.
#[derive(Clone, Debug, Serialize)]
pub struct HookReport {
    /// The name of the hook.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

// === impl DrainReport ===

impl DrainReport {
    pub(super) fn new(
        drain: &Drain,
        record: &Record,
        failed: bool,
        hooks: Vec<HookReport>,
        now: Instant,
    ) -> Self {
        let seconds = now - record.t0;
        let place = drain.place();
        let mut report = Self {
            drain_id: drain.id().to_owned(),
            pod: place.pod,
            node: place.node,
            outcome: Outcome::Clean,
            cause: record.cause,
            began_at: drain.began_at().unwrap_or_else(Timestamp::now),
            seconds: rounded(seconds),
            budget_seconds: rounded(record.budget.deadline - record.t0),
            deadline_source: record.deadline_source,
            hurried: record.hurried,
            told_to_stop: record.has(Moment::Stop),
            phases: phase_seconds(&record.phases, now),
            routing: record.routing,
            removal_seconds: removal(record),
            requests: Requests::default(),
            connections: Connections::default(),
            jobs: Jobs::default(),
            hooks,
        };
        report.count(drain);
        // A starved connection has not had the chance to count its losses.
        let left = record.left.all_requests() as u64;
        report.requests.cut = report.requests.cut.max(left);
        report.outcome = report.judge(record, failed);
        report
    }

    /// Whether the exit status is 0.
    pub fn is_clean(&self) -> bool {
        self.outcome == Outcome::Clean
    }

    /// Returns the figures to sum up over many drains, by name: a process is gone before anybody scrapes it.
    ///
    /// | name | is |
    /// | --- | --- |
    /// | `budget_seconds` | the time that it had; together with the sum of durations, the share that drains use |
    /// | `tight` | 1 if it took more than four fifths of that |
    /// | `requests_late`, `requests_cut`, `connections_cut` | as in the report |
    /// | `jobs_released`, `jobs_left` | as in the report, of a drain that came to the soft deadline: before it hardly anything is given back |
    /// | `routing_…` | 1 for how the wait for the end of routing ended |
    pub fn figures(&self) -> BTreeMap<String, f64> {
        let tight = self.seconds > 0.8 * self.budget_seconds;
        let given_back = |count: u64| if self.told_to_stop { count as f64 } else { 0.0 };
        let figures = [
            ("budget_seconds", self.budget_seconds),
            ("tight", f64::from(u8::from(tight))),
            ("requests_late", self.requests.late as f64),
            ("requests_cut", self.requests.cut as f64),
            ("connections_cut", self.connections.cut as f64),
            ("jobs_released", given_back(self.jobs.released.count)),
            ("jobs_left", self.jobs.left.count as f64),
        ];
        let routing = self.routing.map(|end| format!("routing_{}", end.as_str()));
        let figures = figures.map(|(name, figure)| (name.to_owned(), figure));
        figures
            .into_iter()
            .chain(routing.map(|name| (name, 1.0)))
            .collect()
    }

    fn count(&mut self, drain: &Drain) {
        use std::sync::atomic::Ordering::SeqCst;
        for traffic in drain.all_traffic() {
            let totals = traffic.totals();
            self.requests.served += totals.requests_in_drain.load(SeqCst);
            self.requests.late += totals.late_requests.load(SeqCst);
            self.requests.cut += totals.requests_cut.load(SeqCst);
            self.connections.idle_closed += totals.idle_closed.load(SeqCst);
            self.connections.cut += totals.connections_cut.load(SeqCst);
            for (what, count) in totals.cut_by() {
                *self.connections.cut_by.entry(what).or_default() += count;
            }
        }
        for work in drain.all_work() {
            self.jobs.finished += work.finished_counts().1;
            self.jobs.failed += work.failed_counts().1;
            self.jobs.released.extend(work.released_ids());
            self.jobs.left.extend(work.left_ids());
        }
    }

    fn judge(&self, record: &Record, failed: bool) -> Outcome {
        let cut_jobs = record.cut.jobs > 0 || self.jobs.left.count > 0 || record.left.jobs > 0;
        let cut_requests = self.requests.cut > 0 || record.left.all_requests() > 0;
        if cut_requests || cut_jobs || self.connections.cut > 0 {
            Outcome::Cut
        } else if failed {
            Outcome::Failed
        } else if self.hooks.iter().any(|hook| hook.error.is_some()) {
            Outcome::HookFailed
        } else {
            Outcome::Clean
        }
    }
}

impl Outcome {
    /// Returns the word used in logs, metrics and the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Cut => "cut",
            Self::HookFailed => "hook_failed",
            Self::Failed => "failed",
        }
    }
}

/// Returns how long each of these phases took; the last one until `now`.
pub(super) fn phase_seconds(
    phases: &[(Phase, Instant)],
    now: Instant,
) -> BTreeMap<&'static str, f64> {
    let ends = phases.iter().skip(1).map(|(_, at)| *at).chain([now]);
    phases
        .iter()
        .zip(ends)
        .map(|((phase, begin), end)| {
            (
                phase.as_str(),
                rounded(end.saturating_duration_since(*begin)),
            )
        })
        .collect()
}

/// Returns the time until the endpoints were gone, however the wait ended: clients may connect even after that.
fn removal(record: &Record) -> Option<f64> {
    record.removed_at.map(|at| rounded(at - record.t0))
}

/// Rounds to milliseconds, which is what people read.
pub(super) fn rounded(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}
