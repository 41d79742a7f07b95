//! A process that starts while its predecessor still drains, as supervisors and forced replacements have it.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tokio::process::{Child, Command};

use super::harness::{Log, Place, Process, pid};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

const WAITS: &str = "the data directory is in use by another process; waiting for its end";

/// A second process that has found the directory in use.
async fn waiting(mut command: Command) -> (Child, Log) {
    let mut child = command.spawn().unwrap();
    let log = Log::follow(child.stderr.take().unwrap());
    log.line(WAITS, |_| true).await;
    (child, log)
}

#[tokio::test]
async fn the_next_process_waits_for_the_one_that_drains_and_takes_over_addresses_and_jobs() {
    let place = Place::new(GATED);
    let first = place.start(&["--workers", "1"]).await;
    let running = first.submit("runs to its end").await;
    place.noted("begin", 1).await;
    let left = first.submit("left for the next").await;
    let (api, admin) = (first.api.to_string(), first.admin.to_string());
    first.signal(Signal::TERM);

    let (child, log) = waiting(place.command_at(&api, &admin, &[])).await;
    let since = Instant::now();
    place.touch("go");
    first.exit(since).await.assert_clean();
    let second = Process::started(child, log).await;

    for id in [running, left] {
        assert_eq!(second.completed(&id).await["attempt"], 1);
    }
    assert_eq!(
        (second.api.to_string(), second.admin.to_string()),
        (api, admin)
    );
    let outside = place.outside();
    assert_eq!(outside.iter().filter(|l| l.what == "begin").count(), 2);
}

#[tokio::test]
async fn who_is_told_to_end_while_it_waits_ends_at_once() {
    let place = Place::new(GATED);
    let first = place.start(&[]).await;
    let (mut child, _log) = waiting(place.command_with_handler(&[])).await;

    let since = Instant::now();
    kill_process(pid(&child), Signal::TERM).unwrap();
    let status = child.wait().await.unwrap();

    assert_eq!(status.code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(5));
    // The first did not notice.
    place.touch("go");
    let id = first.submit("still there").await;
    first.completed(&id).await;
}
