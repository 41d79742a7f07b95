//! What the program says to people and to clients.

use std::time::{Duration, Instant};

use super::harness::{Place, output, write};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

#[tokio::test]
async fn without_a_handler_it_says_how_to_give_one() {
    let place = Place::new("");

    let (status, said) = output(place.command(&[])).await;

    assert_eq!(status, Some(2), "{said}");
    for way in ["--exec", "LAMEDUCK_EXEC", "exec = ["] {
        assert!(said.contains(way), "{said}");
    }
}

#[tokio::test]
async fn a_mistake_in_the_configuration_file_is_named_with_file_and_line() {
    let place = Place::new("");
    let file = place.path("lameduck.toml");
    write(&file, "exec = 'cat'\nworkres = 3\n");
    let file = file.to_str().unwrap();

    let (status, said) = output(place.command(&["--config", file])).await;

    assert_eq!(status, Some(2), "{said}");
    for word in [file, "line 2", "workres", "workers"] {
        assert!(said.contains(word), "'{word}' is missing: {said}");
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused_and_the_first_goes_on() {
    let place = Place::new("");
    let first = place.start(&[]).await;

    // It waits for twice as long as a predecessor would take.
    let (status, said) = output(place.command_with_handler(&["--grace", "1s"])).await;

    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert!(said.contains("--data"), "{said}");
    let id = first.submit("still there").await;
    first.completed(&id).await;
}

#[tokio::test]
async fn the_demo_handler_does_a_job() {
    let place = Place::new("");
    let mut command = place.command(&[]);
    let demo = format!("{} demo --duration 10ms", env!("CARGO_BIN_EXE_lameduck"));
    command.args(["--exec", &demo]);
    let process = super::harness::Process::start(command).await;

    let id = process.submit("tea").await;

    let job = process.completed(&id).await;
    assert_eq!(job["result"], "did 'tea' in attempt 1\n");
    let result = process.get(&format!("/v1/jobs/{id}/result")).await;
    assert_eq!(result.body, "did 'tea' in attempt 1\n");
    assert_eq!(result.headers["content-type"], "application/octet-stream");
}

#[tokio::test]
async fn a_result_that_was_cut_is_said_to_be() {
    const KEPT: usize = 64 << 10;
    let place = Place::new("yes ab\u{fc} | head -c 70000");
    let process = place.start(&[]).await;
    let id = process.submit("x").await;

    let job = process.completed(&id).await;

    assert_eq!(
        (&job["result_bytes"], &job["result_cut"]),
        (&KEPT.into(), &true.into())
    );
    let shown = job["result"].as_str().unwrap();
    assert!(shown.starts_with("abü\nabü\n"));
    // Five bytes a line, of which the last is cut within its third character.
    assert!((KEPT - 3..=KEPT).contains(&shown.len()), "{}", shown.len());
    let url = job["result_url"].as_str().unwrap();
    assert_eq!(process.get(url).await.body.len(), KEPT);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_a_problem_that_says_why() {
    let place = Place::new("");
    let process = place.start(&["--max-body", "1000"]).await;

    let elsewhere =
        super::harness::call(process.api, "POST", "/v1/queues/mail/jobs", &[], "x").await;
    let detail = elsewhere.unwrap().problem(404);
    assert!(
        detail.contains("'mail'") && detail.contains("default"),
        "{detail}"
    );

    let detail = process.post(&"x".repeat(1_001), &[]).await.problem(413);
    assert!(
        detail.contains("1000") && detail.contains("max-body"),
        "{detail}"
    );
    assert_eq!(process.post(&"x".repeat(1_000), &[]).await.status, 202);

    let detail = process
        .post("x", &[("idempotency-key", "")])
        .await
        .problem(400);
    assert!(detail.contains("Idempotency-Key"), "{detail}");
    process.get("/v1/jobs/17").await.problem(404);
    process.get("/nowhere").await.problem(404);
    let path = "/v1/jobs/0198c0de-0000-7000-8000-000000000000?wait=soon";
    process.get(path).await.problem(400);
}

#[tokio::test]
async fn an_idempotency_key_answers_with_the_first_job_also_after_a_restart() {
    let place = Place::new("");
    let process = place.start(&[]).await;
    let key = [("idempotency-key", "order-7")];
    let first = process.post("one", &key).await;
    let id = first.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(first.status, 202);
    assert_eq!(first.headers["location"], format!("/v1/jobs/{id}"));
    process.completed(&id).await;
    process.terminate().await.assert_clean();
    let process = place.start(&[]).await;

    let again = process.post("one", &key).await;
    let other = process.post("two", &key).await;

    assert_eq!(again.json()["id"], id.as_str());
    assert!(other.problem(422).contains(&id));
    process.terminate().await.assert_clean();
    assert_eq!(place.outside_by_job().len(), 1);
}

#[tokio::test]
async fn who_waits_for_a_job_is_answered_when_it_has_ended() {
    let place = Place::new(GATED);
    let process = place.start(&[]).await;
    let id = process.submit("gated").await;
    place.noted("begin", 1).await;
    let path = |wait| format!("/v1/jobs/{id}?wait={wait}");

    let early = process.get(&path("50ms")).await.json();
    let since = Instant::now();
    let wait = path("20s");
    let (job, ()) = tokio::join!(process.get(&wait), async { place.touch("go") });

    assert_eq!(early["state"], "running");
    assert_eq!(early["ended_at"], serde_json::Value::Null);
    assert_eq!(job.json()["state"], "completed");
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn queues_are_told_in_numbers() {
    let place = Place::new(GATED);
    let process = place.start(&["--workers", "1"]).await;
    let numbers = async || process.get("/v1/queues").await.json()["queues"][0].clone();
    assert_eq!(numbers().await["pending"], 0);
    let mut ids = Vec::new();
    for payload in ["a", "b", "c"] {
        ids.push(process.submit(payload).await);
    }
    place.noted("begin", 1).await;

    let busy = numbers().await;
    place.touch("go");
    for id in &ids {
        process.completed(id).await;
    }
    let idle = numbers().await;

    assert_eq!(busy["queue"], "default");
    assert_eq!((&busy["running"], &busy["pending"]), (&1.into(), &2.into()));
    assert!(busy["oldest_age_seconds"].as_f64().unwrap() > 0.0, "{busy}");
    assert_eq!((&idle["running"], &idle["pending"]), (&0.into(), &0.into()));
    assert_eq!(idle["oldest_age_seconds"], serde_json::Value::Null);
}
