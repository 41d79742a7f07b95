//! Every process is told of by the next one, however it ended.

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use rustix::process::Signal;
use tokio::process::Command;

use super::harness::{Place, Process, until};
use crate::fake_api::{FakeApi, NAMESPACE, Resource, pod};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

fn series(metric: &str, cause: &str, outcome: &str) -> String {
    format!("lameduck_{metric}{{cause=\"{cause}\",outcome=\"{outcome}\"}}")
}

/// What the ledger says as metrics, once it has been read.
async fn drains(process: &Process, cause: &str, outcome: &str) -> f64 {
    let series = series("drains_total", cause, outcome);
    until("figures of the ledger", async || {
        process.metric(&series).await
    })
    .await
}

/// Waits until the drain of this place's process is in the database with this cause.
async fn marked(place: &Place, cause: &str) {
    let database = place.path("data").join("lameduck.db");
    let connection =
        Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let row =
        "SELECT 1 FROM processes WHERE outcome IS NULL AND drain_at IS NOT NULL AND cause = ?1";
    until(&format!("a drain marked '{cause}'"), async || {
        let found = connection.query_row(row, [cause], |_| Ok(())).optional();
        // Busy, for a moment.
        found.unwrap_or_default()
    })
    .await;
}

#[tokio::test]
async fn the_next_start_knows_how_the_ones_before_ended() {
    let place = Place::new(GATED);
    let first = place.start(&[]).await;
    assert_eq!(drains(&first, "signal", "clean").await, 0.0);
    let exit = first.terminate().await;
    let seconds = exit.assert_clean()["seconds"].as_f64().unwrap();

    let second = place.start(&[]).await;
    assert_eq!(drains(&second, "signal", "clean").await, 1.0);
    assert_eq!(drains(&second, "unknown", "killed").await, 0.0);
    let summed = second
        .metric(&series("drain_seconds_total", "signal", "clean"))
        .await;
    assert!(
        (summed.unwrap() - seconds).abs() < 1e-9,
        "{summed:?} {seconds}"
    );
    second.kill().await;

    let third = place.start(&[]).await;
    assert_eq!(drains(&third, "unknown", "killed").await, 1.0);
    third.submit("gated").await;
    place.noted("begin", 1).await;
    third.signal(Signal::TERM);
    marked(&place, "signal").await;
    third.kill().await;
    place.kill_living().await;

    place.touch("go");
    let fourth = place.start(&[]).await;
    assert_eq!(drains(&fourth, "signal", "killed").await, 1.0);
    assert_eq!(drains(&fourth, "unknown", "killed").await, 1.0);
    assert_eq!(drains(&fourth, "signal", "clean").await, 1.0);
}

#[tokio::test]
async fn who_is_killed_in_a_drain_whose_cause_was_learned_is_counted_under_that_cause() {
    let place = Place::new(GATED);
    let api = FakeApi::start().await;
    api.write_service_account(&place.path(""), "token");
    api.put(Resource::Pods, pod("worker", "uid-1", "10.0.0.1"));
    let in_cluster = |command: &mut Command| {
        command
            .env("LAMEDUCK_KUBERNETES_API", api.url())
            .env("LAMEDUCK_SERVICE_ACCOUNT_DIR", place.path(""))
            .env("LAMEDUCK_TERMINATION_LOG", place.path("termination-log"))
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", "worker")
            .env("POD_UID", "uid-1");
    };
    let mut command = place.command_with_handler(&[]);
    in_cluster(&mut command);
    let first = Process::start(command).await;
    first.submit("gated").await;
    place.noted("begin", 1).await;
    api.delete_pod("worker", 30);
    first.signal(Signal::TERM);
    marked(&place, "pod_deleted").await;
    first.kill().await;
    place.kill_living().await;

    let second = place.start(&[]).await;

    assert_eq!(drains(&second, "pod_deleted", "killed").await, 1.0);
    assert_eq!(drains(&second, "unknown", "killed").await, 0.0);
    assert_eq!(drains(&second, "pod_deleted", "clean").await, 0.0);
}
