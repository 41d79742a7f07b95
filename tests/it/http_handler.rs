//! The http handler with real sockets: what it sends, and what it makes of whatever comes back.

mod answers;
mod codings;
mod connections;
mod requests;
mod stops;
mod target;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use lameduck::jobs::{
    handler::{Context, Handler, Retry, Verdict, http::Http},
    job::{Job, JobId},
};

fn job(payload: impl Into<Bytes>) -> Job {
    Job {
        id: JobId::random(),
        queue: "mail".parse().unwrap(),
        attempt: 2,
        max_attempts: 5,
        payload: payload.into(),
        content_type: "text/plain".to_owned(),
        timeout: None,
        traceparent: None,
        run_at: Timestamp::now(),
        suspect: false,
    }
}

fn context() -> Context {
    Context::new("the-claim")
}

async fn run(http: &Http) -> Verdict {
    http.run(&job("hello"), context()).await
}

fn done(verdict: Verdict) -> Bytes {
    match verdict {
        Verdict::Done { result } => result,
        other => panic!("it should be done: {other:?}"),
    }
}

fn failed(verdict: Verdict) -> (String, Retry) {
    match verdict {
        Verdict::Failed { error, retry } => (error, retry),
        other => panic!("it should have failed: {other:?}"),
    }
}

/// The error of a failure that leaves its retry to the queue.
fn error(verdict: Verdict) -> String {
    let (error, retry) = failed(verdict);
    assert_eq!(retry, Retry::Backoff, "{error}");
    error
}

fn postponed(verdict: Verdict) -> (String, Duration) {
    match verdict {
        Verdict::Postponed { error, wait } => (error, wait),
        other => panic!("it should be postponed: {other:?}"),
    }
}
