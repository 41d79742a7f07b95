//! The current state of a drain, and of the process before there is one: the report's figures as they stand now.
//!
//! The report is for people who look afterwards; the state is for people who watch the drain.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    conductor::RoutingEnd,
    drain::Drain,
    observation::{Cause, DeadlineSource},
    phase::{Moment, Phase},
    report::{phase_seconds, rounded},
};

/// Maximum number of held jobs that a state names; the others are only counted.
const JOBS_NAMED: usize = 100;

/// How far a drain has come. All durations are seconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DrainState {
    /// The id of this drain, the same in every log line and report, even before it begins.
    pub drain_id: String,
    /// The current phase of the process.
    pub phase: Phase,
    /// Whether the process is ready, as `/readyz` reports.
    pub ready: bool,
    /// The cause of the drain, as far as it is known yet; none before T0.
    pub cause: Option<Cause>,
    /// T0 by the wall clock.
    pub began_at: Option<Timestamp>,
    /// Time since T0.
    pub seconds: Option<f64>,
    /// Time until the deadline, which may still move.
    pub seconds_left: Option<f64>,
    /// The source of the deadline.
    pub deadline_source: Option<DeadlineSource>,
    /// How long each phase took; for the current one, how long it has taken so far.
    pub phases: BTreeMap<&'static str, f64>,
    /// When each moment came, relative to T0.
    pub moments: BTreeMap<&'static str, f64>,
    /// How the wait for the end of routing ended.
    pub routing: Option<RoutingEnd>,
    /// Requests in flight now, each until the last byte of its answer.
    pub requests_in_flight: usize,
    /// Connections that are open now.
    pub connections: usize,
    /// Jobs held now, including reservations under way.
    pub jobs_in_flight: usize,
    /// The ids of held jobs, the oldest first; a hundred at most.
    pub jobs: Vec<String>,
    /// How long the oldest of them has been held.
    pub oldest_job_seconds: Option<f64>,
    /// Jobs that ended well since T0.
    pub jobs_finished: u64,
    /// Attempts that failed since T0.
    pub jobs_failed: u64,
    /// Jobs that were given back.
    pub jobs_released: u64,
}

/// A job that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The job's id.
    pub id: String,
    /// The pool that holds it.
    pub pool: String,
    /// When it was reserved.
    pub since: Instant,
}

// === impl Drain ===

impl Drain {
    /// Returns how far the drain has come, and what is still in flight. Before T0 it shows what a drain would have to
    /// wait for.
    pub fn state(&self) -> DrainState {
        let now = Instant::now();
        let plan = self.plan();
        let load = self.load();
        let known = self.known();
        let since_t0 =
            |at: Instant| plan.map(|plan| rounded(at.saturating_duration_since(plan.t0)));
        let moments = Moment::ALL.into_iter().filter_map(|moment| {
            let seconds = since_t0(self.raised_at(moment)?)?;
            Some((moment.as_str(), seconds))
        });
        let held = self.held(JOBS_NAMED);
        let mut state = DrainState {
            drain_id: self.id().to_owned(),
            phase: self.phase(),
            ready: self.is_ready(),
            cause: *self.causes().borrow(),
            began_at: self.began_at(),
            seconds: since_t0(now),
            seconds_left: plan.map(|plan| rounded(plan.deadline.saturating_duration_since(now))),
            deadline_source: known.source,
            phases: phase_seconds(&self.phases(), now),
            moments: moments.collect(),
            routing: known.routing,
            requests_in_flight: load.all_requests(),
            connections: load.all_connections(),
            jobs_in_flight: load.jobs,
            oldest_job_seconds: held.first().map(|job| rounded(job.age(now))),
            jobs: held.into_iter().map(|job| job.id).collect(),
            jobs_finished: 0,
            jobs_failed: 0,
            jobs_released: 0,
        };
        for work in self.all_work() {
            state.jobs_finished += work.finished_counts().1;
            state.jobs_failed += work.failed_counts().1;
            state.jobs_released += work.released_count();
        }
        state
    }

    /// Returns at most `limit` jobs, those held the longest, the oldest first.
    pub fn held(&self, limit: usize) -> Vec<Held> {
        let mut oldest: Vec<Held> = self
            .all_work()
            .iter()
            .flat_map(|work| work.oldest(limit))
            .collect();
        oldest.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        oldest.truncate(limit);
        oldest
    }
}

// === impl Held ===

impl Held {
    /// Returns how long the job has been held.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lifecycle, Signals};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_state_names_what_is_still_carried_the_oldest_first() {
        let drain = Lifecycle::builder().drain().clone();
        let work = drain.work("resize");
        let mut first = work.hold();
        first.name("b".to_owned());
        tokio::time::advance(seconds(7)).await;
        let mut second = work.hold();
        second.name("a".to_owned());
        let reserving = work.hold();

        let state = drain.state();

        assert_eq!(state.jobs, ["b", "a"]);
        assert_eq!(state.jobs_in_flight, 3);
        assert_eq!(state.oldest_job_seconds, Some(7.0));
        assert_eq!(drain.held(1)[0].id, "b");
        drop((first, second, reserving));
        assert!(drain.state().jobs.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_names_a_hundred_jobs_and_counts_them_all() {
        let drain = Lifecycle::builder().drain().clone();
        let work = drain.work("resize");
        let mut held = Vec::new();
        for number in 0..250 {
            let mut job = work.hold();
            job.name(format!("{number:03}"));
            held.push(job);
            tokio::time::advance(Duration::from_millis(1)).await;
        }

        let state = drain.state();

        assert_eq!((state.jobs_in_flight, state.jobs.len()), (250, 100));
        assert_eq!(state.jobs[99], "099");
    }

    #[tokio::test(start_paused = true)]
    async fn before_a_drain_there_is_a_state_without_a_cause_and_after_it_one_with_everything() {
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder().signals(signals).grace(seconds(20));
        let drain = lifecycle.drain().clone();
        let work = drain.work("resize");
        let job = work.hold();
        let run = tokio::spawn(lifecycle.run());
        let mut phases = drain.phase_changes();
        let phase = async |phases: &mut tokio::sync::watch::Receiver<Vec<_>>, wanted| {
            let entered = phases.wait_for(|all| all.iter().any(|(phase, _)| *phase == wanted));
            entered.await.unwrap();
        };
        phase(&mut phases, Phase::Serving).await;
        let before = drain.state();
        tokio::time::advance(seconds(5)).await;

        trigger.fire();
        phase(&mut phases, Phase::Draining).await;
        tokio::time::advance(seconds(3)).await;
        let during = drain.state();
        work.finished();
        drop(job);
        let report = run.await.unwrap().unwrap();

        assert_eq!((before.phase, before.ready), (Phase::Serving, true));
        assert_eq!(
            (before.cause, before.began_at, before.seconds),
            (None, None, None)
        );
        assert_eq!((before.seconds_left, before.deadline_source), (None, None));
        assert!(before.moments.is_empty());
        assert_eq!((during.phase, during.ready), (Phase::Draining, false));
        assert_eq!(during.cause, Some(Cause::Signal));
        assert_eq!(during.seconds, Some(3.0));
        assert_eq!(during.seconds_left, Some(16.0));
        assert_eq!(during.deadline_source, Some(DeadlineSource::Settings));
        assert_eq!(during.phases["serving"], 5.0);
        assert_eq!(during.moments["began"], 0.0);
        assert_eq!((during.jobs_in_flight, during.jobs_finished), (1, 0));
        let after = drain.state();
        assert_eq!((after.phase, after.jobs_finished), (Phase::Stopped, 1));
        assert_eq!(after.drain_id, report.drain_id);
        assert_eq!(during.began_at, Some(report.began_at));
    }
}
