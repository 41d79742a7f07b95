//! A drain as people see it: while it lasts, as a file, and afterwards in the ledger.

use std::{fs, time::Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::harness::{Place, Process, output, until};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

/// What `lameduck drains` prints, where there is nothing but the program: no certificate authorities either.
async fn drains(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
    command
        .arg("drains")
        .args(arguments)
        .env_clear()
        .env("SSL_CERT_FILE", "/nowhere")
        .env("SSL_CERT_DIR", "/nowhere")
        .env("TZ", "UTC");
    let output = command.output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same as JSON.
async fn drains_json(arguments: &[&str]) -> Vec<Value> {
    let arguments = [arguments, &["--json"]].concat();
    let mut told: Value = serde_json::from_str(&drains(&arguments).await).unwrap();
    match told["drains"].take() {
        Value::Array(drains) => drains,
        other => panic!("not a list: {other}"),
    }
}

async fn leave_a_gated_job(place: &Place, process: &Process) -> String {
    let id = process.submit("gated").await;
    place.noted("begin", 1).await;
    id
}

#[tokio::test]
async fn the_admin_listener_tells_the_state_of_a_drain_and_the_api_does_not() {
    let place = Place::new(GATED);
    let process = place.start(&[]).await;
    let id = leave_a_gated_job(&place, &process).await;
    let before = process.admin("/drain").await.json();

    let since = Instant::now();
    process.signal(Signal::TERM);
    let during = until("a state in the phase draining", async || {
        let state = process.admin("/drain").await.json();
        (state["phase"] == "draining").then_some(state)
    })
    .await;
    process.get("/drain").await.problem(404);
    place.touch("go");
    let exit = process.exit(since).await;

    assert_eq!(
        (&before["phase"], &before["cause"]),
        (&"serving".into(), &Value::Null)
    );
    assert_eq!(
        (&during["ready"], &during["cause"]),
        (&false.into(), &"signal".into())
    );
    assert_eq!(during["jobs"], serde_json::json!([id]));
    assert!(during["seconds_left"].as_f64().unwrap() > 10.0, "{during}");
    let report = exit.assert_clean();
    assert_eq!(during["drain_id"], report["drain_id"]);
    assert_eq!(during["began_at"], report["began_at"]);
}

#[tokio::test]
async fn the_report_is_left_as_a_file_where_it_is_asked_for() {
    let place = Place::new("");
    let file = place.path("drain.json");
    let process = place.start(&["--report", file.to_str().unwrap()]).await;
    assert!(!file.exists());

    let exit = process.terminate().await;

    let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let logged = exit.assert_clean();
    for (name, value) in written.as_object().unwrap() {
        assert_eq!(value, &logged[name], "{name}");
    }
    assert_eq!(written["outcome"], "clean");
}

#[tokio::test]
async fn a_report_that_could_never_be_written_is_refused_at_the_start() {
    let place = Place::new("");
    let file = place.path("nowhere").join("drain.json");
    let arguments = ["--report", file.to_str().unwrap()];

    let (status, said) = output(place.command_with_handler(&arguments)).await;

    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("'report'") && said.contains("make its folder"),
        "{said}"
    );
}

#[tokio::test]
async fn the_ledger_is_told_beside_the_running_process_by_it_and_of_the_dead() {
    let place = Place::new(GATED);
    let data = place.path("data");
    let files = ["--data", data.to_str().unwrap()];
    let first = place.start(&[]).await;
    let drain_id = first.terminate().await.assert_clean()["drain_id"].clone();
    let second = place.start(&[]).await;

    let url = format!("http://{}/", second.api);
    let asked = drains_json(&["--url", &url]).await;
    assert_eq!(asked, drains_json(&files).await);
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (&asked[0]["outcome"], &asked[0]["report"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(asked[1]["drain_id"], drain_id);
    assert_eq!(asked[1]["report"]["drain_id"], drain_id);
    assert_eq!(drains_json(&["--url", &url, "--limit", "1"]).await.len(), 1);
    second.get("/v1/drains?limit=0").await.problem(400);
    let living = drains(&files).await;
    assert!(
        living.lines().nth(1).unwrap().contains(" serving "),
        "{living}"
    );

    leave_a_gated_job(&place, &second).await;
    second.signal(Signal::TERM);
    until("a drain in the ledger", async || {
        let told = drains(&files).await;
        told.lines()
            .nth(1)
            .unwrap()
            .contains(" draining ")
            .then_some(())
    })
    .await;
    second.kill().await;
    place.kill_living().await;

    let dead = drains(&files).await;
    let lines: Vec<&str> = dead.lines().collect();
    assert_eq!(lines.len(), 3, "{dead}");
    assert!(
        lines[1].contains(" signal ") && lines[1].contains(" killed "),
        "{dead}"
    );
    assert!(lines[2].contains(" clean "), "{dead}");
    // Nobody has changed anything: the next process is the one to find out.
    place.touch("go");
    let third = place.start(&[]).await;
    let found = third.get("/v1/drains").await.json();
    assert_eq!(found["drains"][1]["outcome"], "killed");
    assert_eq!(found["drains"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_service_that_asks_for_tokens_tells_whoever_has_one() {
    let place = Place::new("");
    std::fs::write(
        place.path("tokens"),
        "# of the deployer\nopen-sesame-and-close-it-again\n",
    )
    .unwrap();
    let tokens = place.path("tokens");
    let tokens = tokens.to_str().unwrap();
    let process = place.start(&["--tokens", tokens]).await;
    let url = format!("http://{}", process.api);

    let told = drains_json(&["--url", &url, "--tokens", tokens]).await;

    assert_eq!(told.len(), 1);
    let unknown = place.path("unknown");
    std::fs::write(&unknown, "of-somebody-elses-service\n").unwrap();
    for tokens in [None, unknown.to_str()] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        command.args(["drains", "--url", &url]).env_clear();
        command.args(tokens.into_iter().flat_map(|file| ["--tokens", file]));
        let (status, said) = output(command).await;
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("401") && said.contains("--tokens"), "{said}");
    }
}

#[tokio::test]
async fn where_there_is_no_ledger_it_says_what_to_name() {
    let place = Place::new("");
    let process = place.start(&[]).await;
    let admin = format!("http://{}", process.admin);
    let nowhere = place.path("nowhere");

    for (arguments, words) in [
        (["--data", nowhere.to_str().unwrap()], "--data"),
        (["--url", &admin], "--url"),
        (
            ["--url", "http://127.0.0.1:1"],
            "http://127.0.0.1:1/v1/drains",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        command.arg("drains").args(arguments).env_clear();
        let (status, said) = output(command).await;
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
