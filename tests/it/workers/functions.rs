//! Async functions as handlers.

use lameduck::jobs::{handler::Context, job::State};
use lameduck::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Deserialize)]
struct Add {
    a: u64,
    b: u64,
}

#[derive(Serialize)]
struct Sum {
    sum: u64,
}

async fn add(numbers: Add, context: Context) -> Result<Sum, Failure> {
    assert!(context.deadline().is_some(), "a run has a timeout");
    let sum = numbers.a.checked_add(numbers.b);
    let sum = sum.ok_or_else(|| Failure::dead("more than a number can be"))?;
    Ok(Sum { sum })
}

#[tokio::test]
async fn a_function_gets_its_payload_and_its_result_is_kept() {
    let program = Program::start(vec![pool(function(add))]);

    let id = program.submit(a_job(r#"{"a": 40, "b": 2}"#)).await;

    let job = program.ended(id).await;
    assert_eq!(job.state, State::Completed);
    assert_eq!(job.result.unwrap(), r#"{"sum":42}"#);
    assert!(program.drain().await.is_ok());
}

#[tokio::test]
async fn a_payload_of_another_shape_is_dead_at_once_and_says_why() {
    let program = Program::start(vec![pool(function(add))]);

    let id = program.submit(a_job(r#"{"a": 40}"#)).await;

    let job = program.ended(id).await;
    assert_eq!((job.state, job.attempt), (State::Dead, 1));
    let error = job.last_error.unwrap();
    assert!(error.contains("missing field `b`"), "{error}");
}

#[tokio::test]
async fn any_error_is_tried_again_and_a_panic_is_one() {
    async fn parse(text: String, _: Context) -> Result<u32, Failure> {
        if text == "panic" {
            panic!("as it says");
        }
        Ok(text.parse::<u32>()?)
    }
    let mut mail = pool(function(parse));
    mail.backoff.first = Duration::from_millis(1);
    let program = Program::start(vec![mail]);

    for (text, words) in [("seven", "invalid digit"), ("panic", "panicked")] {
        let id = program.submit(a_job(&format!("{text:?}"))).await;
        let job = program.ended(id).await;
        assert_eq!((job.state, job.attempt), (State::Dead, 3));
        let error = job.last_error.unwrap();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_function_that_gives_its_job_back_in_a_drain_costs_no_attempt() {
    let begun = Arc::new(Notify::new());
    let told = begun.clone();
    let until_stopped = move |_: u32, context: Context| {
        let begun = told.clone();
        async move {
            begun.notify_one();
            context.stop.cancelled().await;
            Err::<(), _>(Failure::released())
        }
    };
    let directory = a_directory();
    let open = || Arc::new(SqliteEngine::open(directory.path(), SqliteOptions::default()).unwrap());
    let engine = open();
    let (signals, trigger) = Signals::manual();
    let mut short = settings();
    short.grace = Duration::from_secs(2);
    let lifecycle = Lifecycle::builder()
        .settings(short)
        .signals(signals)
        .workers(engine.clone(), vec![pool(function(until_stopped))]);
    let running = tokio::spawn(lifecycle.run());
    let id = engine.submit(vec![a_job("1")]).await.unwrap()[0]
        .as_ref()
        .unwrap()
        .id;
    begun.notified().await;

    trigger.fire();

    let report = running.await.unwrap().expect("a clean drain");
    assert_eq!(report.jobs.released.ids, [id.to_string()]);
    let job = engine.job(id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.attempt, job.releases),
        (State::Pending, 0, 1)
    );
}
