//! What others see of a drain while it lasts.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::Signal;

use super::harness::{Place, call, until};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

#[tokio::test]
async fn an_idle_process_outside_of_a_cluster_goes_at_once() {
    let place = Place::new("");
    let process = place.start(&[]).await;

    let exit = process.terminate().await;

    let report = exit.assert_clean();
    assert_eq!(report["cause"], "signal");
    assert!(report["seconds"].as_f64().unwrap() < 0.5, "{report:#}");
    assert!(exit.took < Duration::from_secs(1), "{:?}", exit.took);
}

#[tokio::test]
async fn a_signal_during_the_start_is_obeyed_at_once_and_leaves_nobody_killed() {
    let place = Place::new("");
    let mut command = place.command_with_handler(&[]);
    let mut child = command.spawn().unwrap();
    let log = super::harness::Log::follow(child.stderr.take().unwrap());
    log.line("listening", |_| true).await;

    let since = Instant::now();
    rustix::process::kill_process(super::harness::pid(&child), Signal::TERM).unwrap();

    let process = super::harness::Process::listening(child, log).await;
    process.exit(since).await.assert_clean();
    let next = place.start(&[]).await;
    let drains = next.get("/v1/drains").await.json();
    let killed = |drain: &serde_json::Value| drain["outcome"] == "killed";
    assert!(
        !drains["drains"].as_array().unwrap().iter().any(killed),
        "{drains:#}"
    );
}

#[tokio::test]
async fn who_waits_for_a_job_in_a_drain_is_answered_early_and_properly() {
    let place = Place::new(GATED);
    let process = place.start(&[]).await;
    let id = process.submit("gated").await;
    place.noted("begin", 1).await;
    let (api, path) = (process.api, format!("/v1/jobs/{id}?wait=30s"));
    let waiter = tokio::spawn(async move { call(api, "GET", &path, &[], "").await });
    until("a request in flight", async || {
        let requests = "lameduck_requests_in_flight{protocol=\"http/1.1\",server=\"api\"}";
        (process.metric(requests).await == Some(1.0)).then_some(())
    })
    .await;

    let since = Instant::now();
    process.signal(Signal::TERM);
    let answer = waiter.await.unwrap().expect("an answer that is not cut");
    let waited = since.elapsed();

    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(answer.json()["state"], "running");
    // Who asks again is still answered, and so is who submits.
    let late = process.submit("late").await;
    assert_eq!(
        process.get(&format!("/v1/jobs/{late}")).await.json()["state"],
        "pending"
    );
    place.touch("go");
    let exit = process.exit(since).await;
    let report = exit.assert_clean();
    assert_eq!(report["jobs"]["finished"], 1, "{report:#}");
    assert_eq!(report["requests"]["cut"], 0);
    let process = place.start(&[]).await;
    assert_eq!(process.completed(&late).await["attempt"], 1);
    assert_eq!(process.completed(&id).await["releases"], 0);
}

#[tokio::test]
async fn probes_and_metrics_answer_until_the_last_report_is_written() {
    let place = Place::new(GATED);
    let process = place.start(&[]).await;
    assert_eq!(process.admin("/readyz").await.status, 200);
    process.submit("gated").await;
    place.noted("begin", 1).await;

    let since = Instant::now();
    process.signal(Signal::TERM);

    let log = process.log().clone();
    log.line("phase", |line| line["phase"] == "draining").await;
    assert_eq!(process.admin("/livez").await.status, 200);
    assert_eq!(process.admin("/readyz").await.status, 503);
    let draining = "lameduck_phase{phase=\"draining\"}";
    assert_eq!(process.metric(draining).await, Some(1.0));
    assert_eq!(process.metric("lameduck_ready").await, Some(0.0));
    assert_eq!(
        process
            .metric("lameduck_jobs_in_flight{pool=\"default\"}")
            .await,
        Some(1.0)
    );

    place.touch("go");
    let admin = process.admin;
    let unanswered = until("the end of the probes", async || {
        for path in ["/livez", "/metrics"] {
            match call(admin, "GET", path, &[], "").await {
                Ok(answer) => assert_eq!(answer.status, 200),
                Err(_) => return Some(Timestamp::now()),
            }
        }
        None
    })
    .await;
    let exit = process.exit(since).await;
    exit.assert_clean();
    let report = exit
        .log
        .iter()
        .find(|l| l["message"] == "drain report")
        .unwrap();
    let written: Timestamp = report["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(
        unanswered >= written,
        "unanswered {unanswered}, written {written}"
    );
}

/// A container runtime that is restarted closes its end of the pipe.
#[tokio::test]
async fn a_log_that_nobody_takes_any_more_spoils_no_drain() {
    let place = Place::new(GATED);
    let mut process = place.start(&[]).await;
    let id = process.submit("gated").await;
    place.noted("begin", 1).await;
    process.log().stop_reading();
    until("the pipe to be closed", async || {
        process.log().is_closed().then_some(())
    })
    .await;

    let since = Instant::now();
    process.signal(Signal::TERM);
    until("a failing probe", async || {
        (process.admin("/readyz").await.status == 503).then_some(())
    })
    .await;
    assert!(process.is_running(), "it has a job to end");
    place.touch("go");
    let exit = process.exit(since).await;

    assert_eq!(exit.status.code(), Some(0));
    assert_eq!(place.living(), []);
    let process = place.start(&[]).await;
    let job = process.completed(&id).await;
    assert_eq!((&job["attempt"], &job["releases"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn a_final_scrape_sees_the_end_where_it_is_asked_for() {
    let place = Place::new(GATED);
    let process = place.start(&["--final-scrape"]).await;
    let scrape = [("x-prometheus-scrape-timeout-seconds", "10")];
    let first = call(process.admin, "GET", "/metrics", &scrape, "").await;
    assert_eq!(first.unwrap().status, 200);

    let since = Instant::now();
    process.signal(Signal::TERM);
    // Somebody who looks is no scraper: the process stays.
    until("the phase reporting", async || {
        let phase = process.metric("lameduck_phase{phase=\"reporting\"}").await;
        (phase == Some(1.0)).then_some(())
    })
    .await;
    let last = call(process.admin, "GET", "/metrics", &scrape, "").await;

    let last = last.expect("an answer that is not cut");
    let last = str::from_utf8(&last.body).unwrap();
    assert!(
        last.contains("lameduck_phase{phase=\"reporting\"} 1"),
        "{last}"
    );
    assert!(
        last.contains("lameduck_drain_cause{cause=\"signal\"} 1"),
        "{last}"
    );
    let exit = process.exit(since).await;
    exit.assert_clean();
}
