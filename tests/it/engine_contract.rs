//! What every engine promises, told once and run against each.
//!
//! A new engine implements [`Store`] and adds one line of `contract!` beside its own tests.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use lameduck::jobs::{
    engine::{Clock, Engine, EngineError, Glance},
    job::{
        AfterFailure, Claim, JobId, JobRecord, NewJob, Order, Outcome, Priority, QueueName,
        Reserved, Settled, Settlement, State, When,
    },
    ledger::LastWord,
};

mod cancelling;
mod crashes;
mod deferral;
mod limits;
mod model;
mod order;
mod postgres;
mod protocol;
mod sqlite;
mod stories;

/// One place where jobs are kept, and the process runs that use it one after the other.
trait Store: Sized {
    /// Random histories that are played on it.
    const HISTORIES: u32 = 128;

    /// A fresh one with these limits.
    async fn with(limits: Limits) -> Self;

    /// A fresh one.
    async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    /// The time that its engines see.
    fn clock(&self) -> &TestClock;

    /// A new process run.
    async fn open(&self) -> Result<Arc<dyn Engine>, EngineError>;

    /// The end of a process run that was given the time to close.
    async fn close(&mut self, engine: Arc<dyn Engine>);

    /// What SIGKILL does to one; returns when the engine may know that it is dead.
    async fn kill(&mut self, engine: Arc<dyn Engine>);

    /// From now on the machine is one that has been started anew.
    fn reboot(&mut self);
}

/// What an engine can be told to keep to.
#[derive(Clone)]
struct Limits {
    ledger_rows: u32,
    max_waiting: u64,
    max_bytes: u64,
    min_free: u64,
    max_crashes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ledger_rows: 1_000,
            max_waiting: 1_000,
            max_bytes: u64::MAX,
            min_free: 0,
            max_crashes: 3,
        }
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Clone)]
struct TestClock(Arc<Mutex<Timestamp>>);

impl TestClock {
    fn new() -> Self {
        let start = "2026-11-02T12:00:00Z".parse().unwrap();
        Self(Arc::new(Mutex::new(start)))
    }

    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn at(&self, seconds: u64) -> Timestamp {
        self.now() + Duration::from_secs(seconds)
    }

    fn advance(&self, seconds: u64) {
        *self.0.lock().unwrap() += Duration::from_secs(seconds);
    }

    fn as_clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

// === words for the stories ===

fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

fn mail() -> QueueName {
    queue("mail")
}

/// A job for `mail`, with five attempts.
fn a_job(payload: &str) -> NewJob {
    NewJob {
        queue: mail(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        content_type: "text/plain".to_owned(),
        run_at: None,
        priority: Priority::default(),
        timeout: None,
        traceparent: None,
        max_attempts: 5,
        idempotency_key: None,
    }
}

async fn submit(engine: &dyn Engine, job: NewJob) -> JobId {
    let answers = engine.submit(vec![job]).await.unwrap();
    assert_eq!(answers.len(), 1);
    let submitted = answers[0].as_ref().unwrap();
    assert!(!submitted.repeated);
    submitted.id
}

/// What `mail` has to do now, at most `limit`.
async fn reserve(engine: &dyn Engine, limit: usize) -> Vec<Reserved> {
    engine
        .reserve(&mail(), Order::Priority, limit)
        .await
        .unwrap()
}

/// The one job that `mail` has to do now.
async fn reserve_one(engine: &dyn Engine) -> Reserved {
    let mut reserved = reserve(engine, 2).await;
    assert_eq!(
        reserved.len(),
        1,
        "one job should be runnable: {reserved:?}"
    );
    reserved.remove(0)
}

fn payloads(reserved: &[Reserved]) -> Vec<String> {
    reserved
        .iter()
        .map(|r| String::from_utf8(r.job.payload.to_vec()).unwrap())
        .collect()
}

async fn settle(engine: &dyn Engine, settlement: Settlement) -> Settled {
    settle_again(engine, &Arc::new(vec![settlement])).await
}

async fn settle_again(engine: &dyn Engine, settlements: &Arc<Vec<Settlement>>) -> Settled {
    let answers = engine.settle(settlements).await.unwrap();
    assert_eq!(answers.len(), 1);
    answers[0]
}

async fn record(engine: &dyn Engine, id: JobId) -> JobRecord {
    engine
        .job(id)
        .await
        .unwrap()
        .expect("the job should be known")
}

async fn state(engine: &dyn Engine, id: JobId) -> State {
    record(engine, id).await.state
}

/// What a process says at its end.
fn last_word(drain_id: &str, cause: &str, outcome: &str) -> LastWord {
    LastWord {
        drain_id: drain_id.to_owned(),
        cause: cause.to_owned(),
        outcome: outcome.to_owned(),
        seconds: 1.0,
        report: "{}".to_owned(),
        ..LastWord::default()
    }
}

fn completed(result: &'static str) -> Outcome {
    Outcome::Completed {
        result: Bytes::from_static(result.as_bytes()),
    }
}

fn retry_at(at: Timestamp) -> Outcome {
    Outcome::Failed {
        error: "broken".to_owned(),
        then: AfterFailure::RetryAt(at.into()),
    }
}

fn dead() -> Outcome {
    Outcome::Failed {
        error: "hopeless".to_owned(),
        then: AfterFailure::Dead,
    }
}

/// Instantiates every story for one kind of [`Store`].
macro_rules! contract {
    ($store:ty) => {
        crate::engine_contract::contract! { $store: order:
            a_higher_priority_comes_first
            a_step_of_priority_is_worth_a_minute_of_waiting
            a_queue_may_go_by_time_alone
            each_priority_keeps_its_own_order
            a_priority_that_nobody_has_any_more_costs_nothing
        }
        crate::engine_contract::contract! { $store: deferral:
            a_postponed_job_costs_no_attempt_and_waits
            what_is_deferred_lives_on_without_its_process
            an_outcome_may_come_before_the_deferral
            a_deferral_can_be_prolonged
            what_is_deferred_and_overdue_has_failed
            the_last_attempt_that_is_overdue_is_dead
        }
        crate::engine_contract::contract! { $store: cancelling:
            a_job_that_waits_is_cancelled_at_once
            a_job_that_runs_is_asked_to_end
            a_cancelled_job_is_not_run_again_however_its_run_ends
            who_completes_in_spite_of_it_has_completed
            a_cancelled_job_of_a_killed_process_stays_cancelled
            what_is_deferred_is_cancelled_and_its_outcome_is_stale
            what_has_completed_can_not_be_cancelled
            a_dead_job_is_given_up
            all_the_dead_of_a_queue_are_given_up_in_pieces
            a_dead_job_runs_again_with_all_its_attempts
            all_the_dead_of_a_queue_run_again_in_pieces
            nothing_is_reserved_of_a_paused_queue
        }
        crate::engine_contract::contract! { $store: crashes:
            what_ran_in_two_crashes_is_a_suspect
            who_crashes_alone_too_often_is_dead
            a_suspect_waits_longer_after_each_crash
            only_who_ran_alone_is_charged
            any_outcome_clears_a_suspect
            a_kill_in_a_drain_is_no_crash
            a_kill_in_a_drain_condemns_nobody
            the_end_of_the_machine_is_no_crash
        }
        crate::engine_contract::contract! { $store: limits:
            what_was_asked_for_comes_back
            a_full_queue_refuses_and_says_so
            a_key_is_answered_however_full_it_is
            a_full_storage_refuses_and_still_takes_outcomes
            a_history_tells_each_run
            a_history_keeps_the_latest
            pages_show_each_job_once
            what_ended_long_ago_is_removed
            a_key_lives_as_long_as_its_job_and_its_time
            the_latest_process_runs_are_told
        }
        crate::engine_contract::contract! { $store: stories:
            a_submitted_job_survives_a_restart
            a_batch_is_answered_in_its_order
            a_job_that_nobody_knows_is_none
            a_payload_can_be_read_as_long_as_there_is_the_job
            jobs_come_by_run_at_and_then_by_submission
            an_instant_in_the_past_overtakes_nobody
            a_job_does_not_run_before_its_time
            a_reserve_takes_its_limit_of_its_queue
            every_job_is_reserved_once_however_many_ask
            a_completed_job_keeps_its_result
            a_failure_costs_an_attempt_and_waits
            a_dead_job_keeps_its_error_and_never_runs_again
            a_release_costs_no_attempt_and_keeps_its_place
            a_repeated_settlement_changes_nothing
            a_repetition_is_known_even_while_the_next_attempt_runs
            an_outcome_under_an_old_claim_is_stale
            a_batch_of_outcomes_answers_each_for_itself
            what_a_process_holds_is_released_without_its_claims
            what_is_released_with_a_delay_waits
            what_a_killed_process_held_is_free_again
            what_a_closed_process_still_held_is_free_again
            a_key_makes_a_repeated_submission_harmless
            a_key_with_another_payload_is_refused
            a_key_belongs_to_its_queue
            a_key_counts_inside_one_batch
            a_closed_engine_says_so
            a_process_that_never_closed_its_row_was_killed
            a_process_killed_in_its_drain_keeps_its_cause
            a_cause_that_becomes_known_later_is_the_one_that_is_kept
            a_drain_is_closed_once
            totals_never_fall_however_many_rows_are_pruned
            queues_are_told_in_numbers
            a_queue_says_when_it_has_work_next
            a_waiter_hears_of_runnable_jobs
            a_waiter_hears_of_ended_jobs
        }

        #[test]
        fn any_history_goes_as_the_model_says() {
            crate::engine_contract::model::any_history::<$store>();
        }
    };
    ($store:ty: $subject:ident: $($story:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $story() {
            crate::engine_contract::$subject::$story::<$store>().await;
        }
    )*};
}
use contract;
