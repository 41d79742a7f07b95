//! Runs that do not end by themselves.

use lameduck::jobs::{
    handler::Context,
    job::{Cancelled, Claim, Outcome, RunEnd, State},
};

use super::*;

/// Ends when it is told to, as a release.
async fn obedient(_: u32, context: Context) -> Result<(), Failure> {
    context.stop.cancelled().await;
    Err(Failure::released())
}

/// Ends only when its time is over.
async fn deaf(_: u32, context: Context) -> Result<(), Failure> {
    context.cut.cancelled().await;
    Err(Failure::retry("cut"))
}

#[tokio::test]
async fn who_runs_longer_than_the_timeout_is_told_to_stop_and_has_failed() {
    let mut mail = pool(function(obedient));
    mail.timeout = Duration::from_millis(30);
    mail.backoff.first = Duration::from_millis(1);
    let program = Program::start(vec![mail]);

    let id = program.submit(a_job("1")).await;

    let job = program.ended(id).await;
    assert_eq!((job.state, job.attempt, job.releases), (State::Dead, 3, 0));
    let error = job.last_error.unwrap();
    assert!(error.contains("longer than its timeout of 30ms"), "{error}");
}

#[tokio::test]
async fn a_jobs_own_timeout_goes_before_the_queues() {
    let program = Program::start(vec![pool(function(deaf))]);
    let mut job = a_job("1");
    (job.timeout, job.max_attempts) = (Some(Duration::from_millis(20)), 1);

    let id = program.submit(job).await;

    let job = program.ended(id).await;
    assert_eq!(job.state, State::Dead);
    let error = job.last_error.unwrap();
    assert!(
        error.contains("20ms") && error.ends_with(": cut"),
        "{error}"
    );
}

#[tokio::test]
async fn a_job_that_runs_is_told_to_stop_when_it_is_cancelled() {
    let program = Program::start(vec![pool(function(obedient))]);
    let id = program.submit(a_job("1")).await;
    program.seen(id, |job| job.state == State::Running).await;

    let answer = program.engine.cancel(id).await.unwrap();

    assert_eq!(answer, Some(Cancelled::Requested));
    let job = program.ended(id).await;
    assert_eq!(job.state, State::Cancelled);
    let runs = program.engine.runs(id).await.unwrap();
    assert_eq!(runs[0].end, RunEnd::Cancelled);
}

#[tokio::test]
async fn a_job_can_be_cancelled_during_a_drain() {
    let program = Program::start(vec![pool(function(obedient))]);
    let id = program.submit(a_job("1")).await;
    program.seen(id, |job| job.state == State::Running).await;
    program.trigger.fire();

    program.engine.cancel(id).await.unwrap();

    assert_eq!(program.ended(id).await.state, State::Cancelled);
    let report = program.drain().await.unwrap();
    assert!(report.is_clean());
    assert!(report.seconds < 10.0, "nothing was left to wait for");
}

#[tokio::test]
async fn what_could_not_be_begun_waits_and_burns_no_attempt() {
    let refusals = Arc::new(Semaphore::new(2));
    let down = refusals.clone();
    let target = move |_: u32, _: Context| {
        let down = down.clone();
        async move {
            match down.try_acquire() {
                Ok(refusal) => {
                    refusal.forget();
                    let wait = Duration::from_millis(5);
                    Err(Failure::postponed("connection refused", wait))
                }
                Err(_) => Ok("up again"),
            }
        }
    };
    let program = Program::start(vec![pool(function(target))]);

    let id = program.submit(a_job("1")).await;

    let job = program.ended(id).await;
    assert_eq!(
        (job.state, job.attempt, job.releases),
        (State::Completed, 1, 2)
    );
}

/// Answers that the work goes on elsewhere.
struct Deferring(Mutex<Option<String>>);

#[async_trait::async_trait]
impl Handler for Deferring {
    async fn run(
        &self,
        _: &lameduck::jobs::job::Job,
        context: Context,
    ) -> lameduck::jobs::handler::Verdict {
        *self.0.lock().unwrap() = Some(context.claim);
        lameduck::jobs::handler::Verdict::Deferred {
            within: Duration::from_secs(60),
        }
    }
}

#[tokio::test]
async fn what_is_deferred_holds_up_neither_its_worker_nor_the_drain() {
    let handler = Arc::new(Deferring(Mutex::default()));
    let mut mail = Pool::new(queue(), handler.clone());
    mail.workers = 1;
    let program = Program::start(vec![mail]);
    let first = program.submit(a_job("1")).await;
    program
        .seen(first, |job| job.state == State::Deferred)
        .await;
    let token = handler.0.lock().unwrap().take().unwrap();
    let second = program.submit(a_job("2")).await;
    program
        .seen(second, |job| job.state == State::Deferred)
        .await;

    let engine = program.engine.clone();
    let report = program.drain().await.expect("a clean drain");

    assert_eq!(report.jobs.released.count, 0);
    let claim = Claim::from_token(first, &token).unwrap();
    let done = claim.settle(Outcome::Completed {
        result: "from outside".into(),
    });
    engine.settle(&Arc::new(vec![done])).await.unwrap();
    let job = engine.job(first).await.unwrap().unwrap();
    assert_eq!(job.state, State::Completed);
}
