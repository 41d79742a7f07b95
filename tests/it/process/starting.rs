//! A start that has to wait: probes and metrics answer from the first moment, and a signal ends it at once.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::{net::TcpListener, process::Command};

use super::harness::{Exit, Log, Place, Process, until};
use crate::postgres_server::server;

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

/// A process whose listeners answer, and which waits for something.
async fn starting(mut command: Command) -> Process {
    let mut child = command.spawn().unwrap();
    let log = Log::follow(child.stderr.take().unwrap());
    Process::listening(child, log).await
}

/// One on this database.
async fn starting_on(place: &Place, url: &str) -> Process {
    let mut command = place.command_with_handler(&[]);
    command.env("LAMEDUCK_DATABASE", url);
    starting(command).await
}

/// Everything that asks is answered, and told that the process waits for this.
async fn is_told_to_wait_for(process: &Process, what: &str) {
    assert_eq!(process.admin("/livez").await.status, 200);
    for probe in ["/startupz", "/readyz"] {
        let said = until(what, async || {
            let answer = process.admin(probe).await;
            assert_eq!(answer.status, 503, "{answer:?}");
            let said = String::from_utf8(answer.body.to_vec()).unwrap();
            said.contains(what).then_some(said)
        })
        .await;
        assert!(said.contains("[-]started failed: "), "{said}");
    }
    let starting = r#"lameduck_phase{phase="starting"}"#;
    assert_eq!(process.metric(starting).await, Some(1.0));
    assert_eq!(process.metric("lameduck_ready").await, Some(0.0));
    for answer in [
        process.post("x", &[]).await,
        process.get("/v1/queues").await,
    ] {
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        let detail = answer.problem(503);
        assert!(
            detail.contains("starting") && detail.contains("/readyz"),
            "{detail}"
        );
    }
}

/// SIGTERM ends it at once, with a report and status 0.
async fn ends_at_once(process: Process) -> Exit {
    let since = Instant::now();
    process.signal(Signal::TERM);
    let exit = process.exit(since).await;
    let report = exit.assert_clean();
    assert_eq!(report["routing"], "not_applicable", "{report:#}");
    assert!(exit.took < Duration::from_secs(3), "{:?}", exit.took);
    exit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_answer_while_the_database_is_away_and_it_serves_once_that_is_back() {
    let database = server().database().await;
    let place = Place::new("");
    database.away().await;

    let process = starting_on(&place, &database.url()).await;
    is_told_to_wait_for(&process, "is away (").await;
    database.back().await;

    let log = process.log().clone();
    log.line("phase", |line| line["phase"] == "serving").await;
    assert_eq!(process.admin("/readyz").await.status, 200);
    assert_eq!(process.admin("/startupz").await.status, 200);
    let id = process.submit("x").await;
    process.completed(&id).await;
    process.terminate().await.assert_clean();
}

#[tokio::test]
async fn a_database_that_never_answers_keeps_nobody_waiting_for_an_answer_or_an_end() {
    // The kernel accepts for it, and nobody ever reads.
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "postgres://me:swordfish@{}/jobs",
        hole.local_addr().unwrap()
    );
    let place = Place::new("");

    let process = starting_on(&place, &url).await;
    is_told_to_wait_for(&process, "opening the queue in the database").await;
    is_told_to_wait_for(&process, "has not answered yet").await;

    let exit = ends_at_once(process).await;
    assert!(!exit.text().contains("swordfish"), "{}", exit.text());
}

#[tokio::test]
async fn a_data_directory_that_another_process_has_is_waited_for_with_probes_that_say_so() {
    let place = Place::new(GATED);
    let first = place.start(&[]).await;
    let id = first.submit("runs on").await;
    place.noted("begin", 1).await;

    let second = starting(place.command_with_handler(&[])).await;
    is_told_to_wait_for(&second, "is in use by another process").await;
    ends_at_once(second).await;

    let third = starting(place.command_with_handler(&[])).await;
    is_told_to_wait_for(&third, "is in use by another process").await;
    place.touch("go");
    first.completed(&id).await;
    first.terminate().await.assert_clean();
    let log = third.log().clone();
    log.line("phase", |line| line["phase"] == "serving").await;
    let drains = third.get("/v1/drains").await.json();
    let outcomes: Vec<_> = drains["drains"]
        .as_array()
        .unwrap()
        .iter()
        .map(|drain| drain["outcome"].as_str().unwrap_or("living"))
        .collect();
    // Who never had the queue is not in its ledger.
    assert_eq!(outcomes, ["living", "clean"], "{drains:#}");
    third.terminate().await.assert_clean();
}

#[tokio::test]
async fn a_start_that_can_not_succeed_is_told_in_one_line_that_names_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new("");

    let (status, said) =
        super::harness::output(place.command_at("127.0.0.1:0", &address, &[])).await;

    assert_eq!(status, Some(1), "{said}");
    let wanted = format!("cannot listen on {address} (setting 'admin')");
    let lines: Vec<_> = said.lines().filter(|line| line.contains(&wanted)).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("another program listens there"), "{said}");
}
