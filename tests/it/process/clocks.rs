//! Machines whose clocks are wrong, or are put right.

use std::{path::PathBuf, time::Instant};

use tokio::process::Command;

use super::harness::{Place, Process, until};
use crate::postgres_server::server;

/// The library that tells a program another time.
fn library() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = places
        .map(|place| place.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists());
    found.expect("the package faketime should be installed")
}

/// Lies about what time it is, and not about how time passes.
fn with_clock(command: &mut Command, offset: &str) {
    command
        .env("LD_PRELOAD", library())
        .env("FAKETIME", offset)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_NO_CACHE", "1");
}

/// How long after its submission a job with this delay has begun.
async fn begins_after(place: &Place, process: &Process, delay: &str) -> f64 {
    let before = place
        .outside()
        .iter()
        .filter(|line| line.what == "begin")
        .count();
    let since = Instant::now();
    let answer = process.post("x", &[("lameduck-delay", delay)]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    place.noted("begin", before + 1).await;
    since.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_clocks_are_wrong_wait_as_long_as_they_should() {
    for offset in ["-180s", "+300s"] {
        let database = server().database().await;
        let place =
            Place::new(r#"[ "$LAMEDUCK_ATTEMPT" != 1 ] || [ ! -e "$PLACE/fails" ] || exit 1"#);
        let mut command = place.command_with_handler(&["--backoff-first", "3s"]);
        command.env("LAMEDUCK_DATABASE", database.url());
        with_clock(&mut command, offset);
        let process = Process::start(command).await;

        let took = begins_after(&place, &process, "2s").await;
        assert!(
            (1.9..20.0).contains(&took),
            "{offset}: begun after {took} s"
        );

        place.touch("fails");
        let since = Instant::now();
        let answer = process.post("y", &[]).await.json();
        let id = answer["id"].as_str().unwrap().to_owned();
        let job = process.completed(&id).await;
        let took = since.elapsed().as_secs_f64();
        assert!(
            (1.4..20.0).contains(&took),
            "{offset}: backed off {took} s, {job}"
        );
        assert_eq!(job["attempt"], 2, "{offset}: {job}");

        let later = process.post("z", &[("lameduck-delay", "1h")]).await.json();
        let path = format!("/v1/jobs/{}", later["id"].as_str().unwrap());
        let shown = process.get(&path).await.json();
        let run_at: jiff::Timestamp = shown["run_at"].as_str().unwrap().parse().unwrap();
        let ahead = run_at.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((3500..3601).contains(&ahead), "{offset}: {shown}");
        let metric = process
            .metric("lameduck_job_wait_seconds_sum{queue=\"default\"}")
            .await;
        assert!(metric.is_none_or(|sum| sum < 60.0), "{offset}: {metric:?}");
        process.terminate().await.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_put_right_hides_no_job() {
    for (wrong, right) in [("+3600s", "+0s"), ("+0s", "+3600s")] {
        let place = Place::new("");
        let file = place.path("clock");
        std::fs::write(&file, wrong).unwrap();
        let mut command = place.command_with_handler(&[]);
        with_clock(&mut command, wrong);
        command
            .env_remove("FAKETIME")
            .env("FAKETIME_TIMESTAMP_FILE", &file);
        let process = Process::start(command).await;
        let first = begins_after(&place, &process, "0s").await;
        assert!(first < 20.0, "{wrong}: {first} s");
        let since = Instant::now();
        let id = process.post("x", &[("lameduck-delay", "4s")]).await.json();
        let id = id["id"].as_str().unwrap().to_owned();

        std::fs::write(&file, right).unwrap();

        until("the job", async || {
            let shown = process.get(&format!("/v1/jobs/{id}")).await.json();
            (shown["state"] == "completed").then_some(())
        })
        .await;
        let took = since.elapsed().as_secs_f64();
        assert!(
            (3.9..20.0).contains(&took),
            "{wrong} to {right}: after {took} s"
        );
        process.terminate().await.assert_clean();
    }
}
