//! The program on PostgreSQL: replicas that share a queue.

use super::harness::{Place, Process, output};
use crate::postgres_server::server;

/// Held up until the place says so.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

/// A replica on this database.
async fn replica(place: &Place, url: &str) -> Process {
    let arguments = ["--workers", "4", "--grace", "3s", "--database-lease", "1s"];
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
async fn a_database_that_is_not_there_is_named_without_its_password() {
    let place = Place::new("");
    let mut command = place.command_with_handler(&[]);
    let url = "postgres://me:swordfish@127.0.0.1:1/jobs";
    command.env("LAMEDUCK_DATABASE", url);

    let (status, said) = output(command).await;

    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(!said.contains("swordfish"), "{said}");
}
