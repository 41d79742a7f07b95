//! The example in `examples/`, as a user would run it.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{clients, process::harness::until, stage::example};

#[tokio::test]
async fn the_example_of_a_worker_service_does_a_job_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api");
    let mut child = Command::new(example("worker"))
        .arg(format!("unix:{}", socket.display()))
        .current_dir(directory.path())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stdin(Stdio::null())
        .spawn()
        .expect("examples are built with the tests");
    let client = clients::reqwest()
        .unix_socket(socket.clone())
        .build()
        .unwrap();
    until("it listens", async || socket.exists().then_some(())).await;

    let jobs = "http://worker/v1/queues/greetings/jobs";
    let accepted = client.post(jobs).body("\"world\"").send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let location = accepted.headers()["location"].to_str().unwrap();
    let job = format!("http://worker{location}?wait=20s");
    let answer = client.get(job).send().await.unwrap().bytes().await.unwrap();

    let job: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(job["state"], "completed", "{job}");
    assert_eq!(job["result"], "\"hello world\"", "{job}");
    kill_process(
        Pid::from_raw(child.id().cast_signed()).unwrap(),
        Signal::TERM,
    )
    .unwrap();
    let status = until("it has drained", async || child.try_wait().unwrap()).await;
    assert!(status.success(), "{status}");
}

#[test]
fn the_example_is_short() {
    let lines = include_str!("../../../examples/worker.rs").lines().count();
    assert!(lines < 40, "{lines} lines");
}
