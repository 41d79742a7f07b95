//! The program on PostgreSQL: replicas that share a queue.

use std::time::Instant;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use super::harness::{Log, Place, Process, output, pid, until};
use crate::postgres_server::server;

/// Held up until the place says so.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

/// A replica on this database.
async fn replica(place: &Place, url: &str) -> Process {
    replica_with(place, url, "3s").await
}

/// One with this grace period.
async fn replica_with(place: &Place, url: &str, grace: &str) -> Process {
    let arguments = ["--workers", "4", "--grace", grace, "--database-lease", "1s"];
    let mut command = place.command_with_handler(&arguments);
    command.env("LAMEDUCK_DATABASE", url);
    Process::start(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replicas_jobs_run_elsewhere_and_a_rolled_ones_at_once() {
    let database = server().database().await;
    let (first_place, second_place) = (Place::new(GATED), Place::new(""));
    let first = replica(&first_place, &database.url()).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(first.submit(&n.to_string()).await);
    }
    first_place.noted("begin", 4).await;
    let second = replica(&second_place, &database.url()).await;

    first.kill().await;
    first_place.kill_living().await;

    for id in &ids {
        let job = second.completed(id).await;
        assert_eq!(
            (&job["attempt"], &job["crashes"]),
            (&1.into(), &0.into()),
            "{job}"
        );
        assert_eq!(job["history"][0]["end"], "lost", "{job}");
    }
    let third = replica(&second_place, &database.url()).await;
    second.terminate().await.assert_clean();
    let id = third.submit("5").await;
    third.completed(&id).await;
    let drains = third.get("/v1/drains").await.json();
    let outcomes: Vec<_> = drains["drains"]
        .as_array()
        .unwrap()
        .iter()
        .map(|drain| drain["outcome"].as_str().unwrap_or("living"))
        .collect();
    assert_eq!(outcomes, ["living", "clean", "killed"]);
    third.terminate().await.assert_clean();
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for_and_named_without_its_password() {
    let place = Place::new("");
    let mut command = place.command_with_handler(&[]);
    let url = "postgres://me:swordfish@127.0.0.1:1/jobs";
    command.env("LAMEDUCK_DATABASE", url);
    let mut child = command.spawn().unwrap();
    let log = Log::follow(child.stderr.take().unwrap());

    let said = log
        .line("the database is away; waiting for it", |_| true)
        .await;

    let said = said.to_string();
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(!said.contains("swordfish"), "{said}");
    kill_process(pid(&child), Signal::TERM).unwrap();
    let status = child.wait().await.unwrap();
    assert_eq!(status.code(), Some(0), "it was told to end, and ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_starts_in_an_outage_serves_after_it() {
    let database = server().database().await;
    let place = Place::new("");
    database.away().await;
    let mut command = place.command_with_handler(&[]);
    command.env("LAMEDUCK_DATABASE", database.url());
    let mut child = command.spawn().unwrap();
    let log = Log::follow(child.stderr.take().unwrap());
    log.line("the database is away; waiting for it", |_| true)
        .await;

    database.back().await;

    let process = Process::started(child, log).await;
    let id = process.submit("x").await;
    process.completed(&id).await;
    process.terminate().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_outage_jobs_go_on_readiness_fails_and_liveness_does_not() {
    let database = server().database().await;
    let place = Place::new(GATED);
    let process = replica(&place, &database.url()).await;
    let id = process.submit("x").await;
    place.noted("begin", 1).await;

    database.away().await;
    let refused = process.post("y", &[]).await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    refused.problem(503);
    place.touch("go");
    place.noted("end", 1).await;
    ready(&process, false).await;
    let said = process.admin("/readyz").await.body;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("[-]storage failed"), "{said}");
    assert_eq!(process.admin("/livez").await.status, 200);
    assert_eq!(process.metric("lameduck_storage_answers").await, Some(0.0));
    database.back().await;

    let job = process.completed(&id).await;
    assert_eq!((&job["attempt"], &job["releases"]), (&1.into(), &0.into()));
    ready(&process, true).await;
    assert_eq!(process.metric("lameduck_storage_answers").await, Some(1.0));
    process.terminate().await.assert_clean();
}

/// As PostgreSQL says it when there is no room for a row: SQLSTATE 53100.
const FULL: &str = "
    CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE disk_full USING MESSAGE = 'could not extend file: No space left on device'; END $$;
    CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON lameduck.jobs EXECUTE FUNCTION no_room()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_full_takes_no_jobs_and_gets_the_outcomes_when_there_is_room() {
    let database = server().database().await;
    let place = Place::new(GATED);
    let process = replica(&place, &database.url()).await;
    let id = process.submit("x").await;
    place.noted("begin", 1).await;
    let admin = database.connect().await;

    admin.batch_execute(FULL).await.unwrap();
    let refused = process.post("y", &[]).await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    refused.problem(503);
    place.touch("go");
    process
        .log()
        .line("the storage failed; trying again until it works", |line| {
            line["error"]
                .as_str()
                .is_some_and(|said| said.contains("free some space or enlarge it"))
        })
        .await;
    let freed = "DROP TRIGGER no_room ON lameduck.jobs";
    admin.batch_execute(freed).await.unwrap();

    let job = process.completed(&id).await;
    assert_eq!((&job["attempt"], &job["releases"]), (&1.into(), &0.into()));
    process.terminate().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_back_in_the_last_second_gets_every_outcome() {
    let database = server().database().await;
    let place = Place::new(GATED);
    let process = replica_with(&place, &database.url(), "8s").await;
    let id = process.submit("x").await;
    place.noted("begin", 1).await;
    database.away().await;
    place.touch("go");
    place.noted("end", 1).await;

    let since = Instant::now();
    process.signal(Signal::TERM);
    process
        .log()
        .line("phase", |line| line["phase"] == "teardown")
        .await;
    database.back().await;

    let exit = process.exit(since).await;
    let report = exit.report();
    let count = |what: &str| report["jobs"][what]["count"].as_u64();
    assert_eq!(
        (count("left"), count("released")),
        (Some(0), Some(0)),
        "{report:#}"
    );
    let next = replica(&place, &database.url()).await;
    let job = next.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(
        (&job["state"], &job["attempt"]),
        (&"completed".into(), &1.into())
    );
    next.terminate().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_for_dead_stops_what_others_run_by_now() {
    let database = server().database().await;
    let told = r#"trap 'note told; exit 75' TERM; until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;
    let (first_place, second_place) = (Place::new(told), Place::new(""));
    let first = replica(&first_place, &database.url()).await;
    let id = first.submit("x").await;
    first_place.noted("begin", 1).await;
    let second = replica(&second_place, &database.url()).await;

    first.signal(Signal::STOP);
    second.completed(&id).await;
    first.signal(Signal::CONT);

    first_place.noted("told", 1).await;
    let stale = r#"lameduck_stale_outcomes_total{queue="default"}"#;
    until("a stale outcome", async || {
        (first.metric(stale).await == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(second.completed(&id).await["attempt"], 1, "not overwritten");
    // It goes on as another process.
    first_place.touch("go");
    second.terminate().await.assert_clean();
    let id = first.submit("y").await;
    first.completed(&id).await;
    first.terminate().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_made_and_the_ledger_told_without_a_service() {
    let database = server().database().await;
    let place = Place::new("");
    let program = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lameduck"));
        command.args(arguments).env_clear();
        command.env("LAMEDUCK_DATABASE", database.url());
        let output = command.output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let mut careful = place.command_with_handler(&["--database-migrate", "false"]);
    careful.env("LAMEDUCK_DATABASE", database.url());
    let (status, said) = output(careful).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("lameduck migrate"), "{said}");

    let (status, said, _) = program(&["migrate"]).await;
    assert_eq!(status, Some(0));
    assert!(said.ends_with(": made\n"), "{said}");
    let (_, said, _) = program(&["migrate"]).await;
    assert!(said.ends_with(": nothing to do\n"), "{said}");

    replica(&place, &database.url())
        .await
        .terminate()
        .await
        .assert_clean();
    let (status, said, error) = program(&["drains", "--json"]).await;
    assert_eq!(status, Some(0), "{error}");
    let drains: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(drains["drains"][0]["outcome"], "clean", "{said}");
    assert_eq!(drains["drains"].as_array().unwrap().len(), 1);
}

/// Waits until `/readyz` says so.
async fn ready(process: &Process, ready: bool) {
    let what = format!("/readyz to say {ready}");
    until(&what, async || {
        let answer = process.admin("/readyz").await;
        ((answer.status == 200) == ready).then_some(())
    })
    .await;
}
