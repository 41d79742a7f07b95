//! Tracks whether a pool's handler reaches its target, and slows the pool down while it does not.
//!
//! ```text
//!             a job could not be begun, or every worker was pushed back
//!   full speed ─────────────────────────────────────────────▶ waits, longer each time ◀──┐
//!       ▲                                                         │                      │ neither can it
//!       │                 another one can be begun                ▼                      │
//!       └──────────────────────────────────────────────── tries one job ─────────────────┘
//! ```
//!
//! A pool has one outage for all its jobs, because they share their target: 10,000 jobs for a program that is missing
//! are tried one at a time, not all again and again. One job that cannot be begun for a reason of its own does not stop
//! the others: the next try takes another job, a tenth of a second later, and its success ends the outage.
//!
//! A long outage is tested rarely: the wait is about as long as the outage has lasted so far, so it doubles
//! from one try to the next.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// The first wait: one job with a problem of its own does not hold up the others for longer.
const FIRST: Duration = Duration::from_millis(100);

/// The first wait of an outage that follows another. Otherwise, a target that takes some jobs and refuses others would
/// be tried again as quickly as it refuses.
const FIRST_AGAIN: Duration = Duration::from_secs(1);

/// Time after an outage within which another one counts as following it.
const CALM: Duration = Duration::from_secs(10);

/// The longest wait: a queue may be back this much later than its target.
const LONGEST: Duration = Duration::from_secs(30);

/// How long a failure is remembered if nothing has been tried since and the patience is not longer.
const MEMORY: Duration = Duration::from_secs(300);

/// A pool's view of its target.
#[derive(Debug)]
pub(super) struct Outage {
    /// How long jobs are postponed before the attempts of those that are tried count; `None` means forever.
    patience: Option<Duration>,
    /// Number of pushed-back jobs in a row that make an outage.
    pushback_limit: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    away: Option<Away>,
    /// When the last outage ended.
    ended: Option<Instant>,
    /// Number of jobs pushed back since the last one that was not.
    pushed_back: usize,
    /// Number of tries so far.
    tries: u64,
}

#[derive(Debug)]
struct Away {
    now: Unavailable,
    first: Instant,
    /// The instant since which it has been of its present kind, unreachable or overloaded.
    first_of_its_kind: Instant,
    /// The latest start of a run that came back. That the target was reached before this proves nothing.
    last_begun: Instant,
    /// When the latest run came back.
    last: Instant,
    /// When the next try is due.
    next: Instant,
    /// The number of the try that is under way.
    trying: Option<u64>,
}

/// An outage, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The kind of outage.
    pub reason: Reason,
    /// When it began.
    pub since: Timestamp,
    /// The error of the latest try.
    pub error: String,
    /// Number of jobs that came back because of it.
    pub jobs: u64,
}

/// The kind of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No job can be begun: there is no such program, nobody answers.
    Unreachable,
    /// The target answers that it has too much to do, as HTTP's 429 and 503 say.
    Overloaded,
}

/// How many jobs may be reserved now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As many jobs as there are workers may be reserved.
    Full,
    /// One job may be reserved.
    One,
    /// No job may be reserved before this instant.
    NotBefore(Instant),
    /// No job may be reserved before the result of the job that is being tried is known.
    Trying,
}

/// The consequences of a job that came back.
#[derive(Debug, PartialEq)]
pub(super) struct Back {
    /// Minimum wait of the job: a little longer than the pool's, so that another job is tried next.
    pub(super) wait: Duration,
    /// How long the outage has lasted.
    pub(super) lasted: Duration,
    /// Whether attempts count by now.
    pub(super) out_of_patience: bool,
}

/// The permission to try one job. When it is dropped, the next job may be tried.
#[derive(Debug)]
#[must_use = "another job is tried when this is dropped"]
pub(super) struct Try {
    outage: Arc<Outage>,
    number: u64,
}

// === impl Outage ===

impl Outage {
    /// Makes the state of a target that has always been reached, for a pool of `workers`.
    pub(super) fn new(patience: Option<Duration>, workers: usize) -> Self {
        Self {
            patience,
            pushback_limit: workers.max(1),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Returns how many jobs may be reserved now.
    pub(super) fn pace(&self) -> Pace {
        let mut state = self.state();
        self.forget(&mut state);
        match &state.away {
            None => Pace::Full,
            Some(away) if away.trying.is_some() => Pace::Trying,
            Some(away) if away.next > Instant::now() => Pace::NotBefore(away.next),
            Some(_) => Pace::One,
        }
    }

    /// Returns when the pace may have changed since this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Returns the permission to try one job; `None` if no try is due, or needed any more.
    pub(super) fn begin_try(self: &Arc<Self>) -> Option<Try> {
        let mut state = self.state();
        let number = state.tries + 1;
        let away = state.away.as_mut()?;
        if away.trying.is_some() || away.next > Instant::now() {
            return None;
        }
        away.trying = Some(number);
        state.tries = number;
        Some(Try {
            outage: self.clone(),
            number,
        })
    }

    /// Records that a job whose run started at `begun` could not be begun, or was pushed back.
    pub(super) fn came_back(&self, begun: Instant, reason: Reason, error: &str) -> Option<Back> {
        let now = Instant::now();
        let mut state = self.state();
        self.forget(&mut state);
        if reason == Reason::Overloaded {
            state.pushed_back += 1;
            if state.away.is_none() && state.pushed_back < self.pushback_limit {
                return None;
            }
        }
        let follows = |ended: Instant| now.duration_since(ended) < CALM;
        let shortest = match state.ended.is_some_and(follows) {
            true => FIRST_AGAIN,
            false => FIRST,
        };
        let away = state.away.get_or_insert_with(|| Away {
            now: Unavailable {
                reason,
                since: Timestamp::now(),
                error: String::new(),
                jobs: 0,
            },
            first: now,
            first_of_its_kind: now,
            last_begun: begun,
            last: now,
            next: now,
            trying: None,
        });
        let lasted = now.duration_since(away.first);
        let wait = lasted.clamp(shortest, LONGEST);
        // Between half and the whole of it, so that the replicas do not all try at once.
        let wait = wait.mul_f64(0.5 + 0.5 * fastrand::f64());
        if away.now.reason != reason {
            away.now.reason = reason;
            away.now.since = Timestamp::now();
            away.first_of_its_kind = now;
        }
        error.clone_into(&mut away.now.error);
        away.now.jobs += 1;
        away.last_begun = away.last_begun.max(begun);
        away.last = now;
        away.next = now + wait;
        let patience = self.patience.filter(|_| reason == Reason::Unreachable);
        let silent = now.duration_since(away.first_of_its_kind);
        Some(Back {
            wait: wait + wait / 4,
            lasted,
            out_of_patience: patience.is_some_and(|patience| silent >= patience),
        })
    }

    /// Records that the target had taken a job by this instant, however that job ends. Returns the outage that this
    /// ends, and how long it lasted.
    pub(super) fn reached(&self, at: Instant) -> Option<(Unavailable, Duration)> {
        let mut state = self.state();
        state.pushed_back = 0;
        // A job that reached the target before another one did not proves nothing about the target now.
        if at < state.away.as_ref()?.last_begun {
            return None;
        }
        let away = state.away.take()?;
        let now = Instant::now();
        state.ended = Some(now);
        self.changed.notify_waiters();
        Some((away.now, now.duration_since(away.first)))
    }

    /// Returns the present outage, if there is one.
    pub(super) fn now(&self) -> Option<Unavailable> {
        let mut state = self.state();
        self.forget(&mut state);
        state.away.as_ref().map(|away| away.now.clone())
    }

    /// Forgets an old outage: a failure long ago, with no job since, shows nothing about the target now.
    fn forget(&self, state: &mut State) {
        let memory = self.patience.unwrap_or_default().max(MEMORY);
        let old = |away: &Away| away.trying.is_none() && away.last.elapsed() > memory;
        if state.away.as_ref().is_some_and(old) {
            state.away = None;
            state.pushed_back = 0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reason ===

impl Reason {
    /// The reason's name, as used everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Overloaded => "overloaded",
        }
    }
}

// === impl Try ===

impl Drop for Try {
    fn drop(&mut self) {
        let mut state = self.outage.state();
        let under_way = |away: &&mut Away| away.trying == Some(self.number);
        if let Some(away) = state.away.as_mut().filter(under_way) {
            away.trying = None;
            self.outage.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);

    fn outage() -> Arc<Outage> {
        Arc::new(Outage::new(Some(PATIENCE), 3))
    }

    fn refused(outage: &Outage) -> Back {
        let back = outage.came_back(Instant::now(), Reason::Unreachable, "refused");
        back.expect("one is enough")
    }

    fn pushed_back(outage: &Outage) -> Option<Back> {
        outage.came_back(Instant::now(), Reason::Overloaded, "503")
    }

    /// Waits until a job may be tried, and returns how long that took, in seconds.
    async fn until_due(outage: &Outage) -> f64 {
        let before = Instant::now();
        if let Pace::NotBefore(next) = outage.pace() {
            tokio::time::sleep_until(next).await;
        }
        assert_eq!(outage.pace(), Pace::One);
        before.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_from_a_tenth_of_a_second_to_half_a_minute() {
        let outage = outage();
        let began = Instant::now();

        let mut waits = Vec::new();
        while !refused(&outage).out_of_patience {
            waits.push(until_due(&outage).await);
        }

        assert!((0.05..=0.101).contains(&waits[0]), "{waits:?}");
        assert!((15.0..=30.01).contains(waits.last().unwrap()), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 30.01), "{waits:?}");
        assert!(waits.len() < 40, "{waits:?}");
        let lasted = began.elapsed();
        assert!((300..=330).contains(&lasted.as_secs()), "{lasted:?}");
        assert!(refused(&outage).out_of_patience);
    }

    #[tokio::test(start_paused = true)]
    async fn one_job_is_tried_at_a_time_and_any_that_is_begun_ends_it() {
        let outage = outage();
        assert_eq!(outage.pace(), Pace::Full);
        refused(&outage);
        assert!(outage.begin_try().is_none(), "not yet");
        until_due(&outage).await;

        let first = outage.begin_try().unwrap();
        assert_eq!(outage.pace(), Pace::Trying);
        assert!(outage.begin_try().is_none(), "one at a time");
        refused(&outage);
        drop(first);
        until_due(&outage).await;
        let second = outage.begin_try().unwrap();
        let (ended, _) = outage.reached(Instant::now()).unwrap();
        drop(second);

        assert_eq!(outage.pace(), Pace::Full);
        assert_eq!((ended.jobs, ended.reason), (2, Reason::Unreachable));
        assert_eq!(outage.now(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_waits_longer_than_the_pool_so_that_another_one_is_tried_next() {
        let outage = outage();
        for _ in 0..12 {
            let back = refused(&outage);
            let Pace::NotBefore(next) = outage.pace() else {
                panic!("{:?}", outage.pace());
            };
            assert!(Instant::now() + back.wait > next);
            tokio::time::sleep_until(next).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_reached_before_somebody_was_not_proves_nothing() {
        let outage = outage();
        let before = Instant::now();
        advance(Duration::from_secs(1)).await;
        refused(&outage);

        assert_eq!(outage.reached(before), None);

        assert!(outage.now().is_some());
        assert!(outage.reached(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_follows_upon_another_begins_with_a_longer_wait() {
        let outage = outage();
        refused(&outage);
        outage.reached(Instant::now()).unwrap();
        refused(&outage);
        assert!((0.5..=1.01).contains(&until_due(&outage).await));

        outage.reached(Instant::now()).unwrap();
        advance(CALM).await;
        refused(&outage);
        assert!((0.05..=0.101).contains(&until_due(&outage).await));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_failure_is_not_the_beginning_of_a_new_outage() {
        let outage = outage();
        refused(&outage);
        advance(PATIENCE + Duration::from_millis(1)).await;

        assert_eq!((outage.pace(), outage.now()), (Pace::Full, None));
        assert_eq!(refused(&outage).lasted, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_attempts_count_at_once_and_with_endless_patience_never() {
        let outage = Outage::new(Some(Duration::ZERO), 1);
        assert!(refused(&outage).out_of_patience);

        let outage = Outage::new(None, 1);
        for _ in 0..100 {
            assert!(!refused(&outage).out_of_patience);
            until_due(&outage).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn some_that_are_pushed_back_are_no_outage_but_as_many_as_there_are_workers_are() {
        let outage = outage();
        for _ in 0..10 {
            assert_eq!(pushed_back(&outage), None);
            assert_eq!(pushed_back(&outage), None);
            assert_eq!(outage.reached(Instant::now()), None);
        }

        let answers = [(); 3].map(|()| pushed_back(&outage));
        assert!(answers[2].is_some(), "{answers:?}");
        until_due(&outage).await;
        let (ended, _) = outage.reached(Instant::now()).unwrap();
        assert_eq!(ended.reason, Reason::Overloaded);
        assert_eq!(outage.pace(), Pace::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_with_silence_and_not_with_a_target_that_asks_for_less() {
        let outage = Outage::new(Some(Duration::from_secs(60)), 1);
        refused(&outage);
        advance(Duration::from_secs(59)).await;
        let back = pushed_back(&outage).unwrap();
        assert!(
            !back.out_of_patience && back.lasted.as_secs() == 59,
            "{back:?}"
        );
        assert_eq!(outage.now().unwrap().reason, Reason::Overloaded);

        advance(Duration::from_secs(1)).await;
        assert!(
            !refused(&outage).out_of_patience,
            "it has answered a second ago"
        );
        advance(Duration::from_secs(60)).await;
        assert!(refused(&outage).out_of_patience);
    }
}
