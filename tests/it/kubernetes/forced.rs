//! A Pod that is deleted by force: its token goes with it, so that the API server answers 401 to everything, and the
//! kubelet leaves two seconds. And what else a 401 may mean.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lameduck::{
    Moment,
    lifecycle::{Cause, DeadlineSource, RoutingEnd},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use super::{
    process::Pod,
    stage::{Log, ME, Stage, each, until},
};
use crate::fake_api::{Fault, On, Resource, Verb, pod};

const FALLBACK: Duration = Duration::from_millis(400);

/// A token like the kubelet's: bound to this Pod, and good for so many seconds.
fn token(bound_to: Option<&str>, seconds: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    let pod = bound_to.map(|uid| json!({"name": ME, "uid": uid}));
    let claims = json!({"exp": now + seconds, "kubernetes.io": {"namespace": "shop", "pod": pod}});
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.c2lnbmVk",
        part(json!({"alg": "RS256"})),
        part(claims)
    )
}

async fn submit(api: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(api).await.unwrap();
    let request = "POST /v1/queues/default/jobs HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

/// The whole, as a node would have it: a real process with jobs that take longer than there is time for.
#[tokio::test]
async fn its_process_gives_its_jobs_back_and_reports_within_the_two_seconds_that_it_has() {
    const JOBS: u64 = 3;
    let stage = Stage::set().await;
    let begun = TempDir::new().unwrap();
    let handler = format!("sh -c 'touch {}/$$; exec sleep 60'", begun.path().display());
    let mut pod = Pod::of_one_that_does(&stage, &handler);
    pod.command.env("NODE_NAME", "n1");
    stage
        .api
        .write_service_account(pod.dir.path(), &token(Some("u1"), 3_600));
    let running = pod.start().await;
    for _ in 0..JOBS {
        submit(running.api).await;
    }
    until("all jobs run", || {
        std::fs::read_dir(begun.path()).unwrap().count() == JOBS as usize
    })
    .await;
    stage
        .api
        .asked(Verb::List, Resource::EndpointSlices, 1)
        .await;

    stage.api.delete_pod(ME, 0);
    running.terminate();
    let exited = running.exits().await;

    assert!(
        exited.took < Duration::from_secs(2),
        "{:?} of 2 s",
        exited.took
    );
    let report = &exited.report;
    assert_eq!(report["cause"], "pod_deleted");
    assert_eq!(report["deadline_source"], "deletion_grace_period");
    let budget = report["budget_seconds"].as_f64().unwrap();
    assert!((1.8..2.0).contains(&budget), "{budget}");
    assert_eq!(report["jobs"]["released"]["count"], JOBS, "{report}");
    assert_eq!(report["jobs"]["left"]["count"], 0, "{report}");
    assert_eq!(
        report["routing"], "cut_short",
        "nobody was seen to route here"
    );
    exited.told_twice();
    for words in ["missing permission", "does not accept this pod's token"] {
        assert!(!exited.log.contains(words), "{words}: {}", exited.log);
    }
    // Whoever comes next finds the report in the ledger, and whose it was.
    let listed = Command::new(env!("CARGO_BIN_EXE_lameduck"))
        .args(["drains", "--json", "--data"])
        .arg(exited.dir.path().join("data"))
        .output()
        .await
        .unwrap();
    let ledger: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let row = &ledger["drains"][0];
    // Its handlers ended when they were told to, so that nothing had to be cut.
    assert_eq!(
        (&row["cause"], &row["outcome"]),
        (&json!("pod_deleted"), &json!("clean"))
    );
    assert_eq!(row["report"]["pod"], ME);
    assert_eq!(row["report"]["node"], "n1");
    assert_eq!(row["report"]["jobs"]["released"]["count"], JOBS);
}

/// What is in the token's file, what is refused from T0 on, and what that must be taken for.
struct Row {
    token: Option<String>,
    refused: On,
    cause: Cause,
    routing: RoutingEnd,
    /// What the one warning says, if there is one.
    warning: Option<&'static str>,
}

#[test]
fn a_refused_token_is_taken_for_a_deletion_only_where_nothing_else_explains_it() {
    let pods = On::resource(Resource::Pods);
    let row = |token, refused, cause, routing, warning| Row {
        token,
        refused,
        cause,
        routing,
        warning,
    };
    let gone = (Cause::PodDeleted, RoutingEnd::CutShort);
    let rows = [
        (
            "no file that it could be read from",
            row(None, On::ALL, gone.0, gone.1, None),
        ),
        (
            "opaque",
            row(Some("a token".into()), On::ALL, gone.0, gone.1, None),
        ),
        (
            "of this Pod, and good for an hour",
            row(
                Some(token(Some("u1"), 3_600)),
                On::ALL,
                gone.0,
                gone.1,
                None,
            ),
        ),
        (
            "expired",
            row(
                Some(token(Some("u1"), -5)),
                On::ALL,
                Cause::Unknown,
                RoutingEnd::Unavailable,
                Some("it has expired"),
            ),
        ),
        (
            "bound to no Pod",
            row(
                Some(token(None, 3_600)),
                On::ALL,
                Cause::Unknown,
                RoutingEnd::NoPermission,
                Some("it is bound to no Pod"),
            ),
        ),
        (
            "refused for Pods alone",
            row(
                Some(token(Some("u1"), 3_600)),
                pods,
                Cause::Unknown,
                RoutingEnd::Removed,
                Some("may not get pods"),
            ),
        ),
    ];
    each(rows, |row| async move {
        let (log, _recording) = Log::record();
        let mut stage = Stage::set().await.fallback_wait(FALLBACK);
        let dir = TempDir::new().unwrap();
        if let Some(token) = &row.token {
            stage.api.write_service_account(dir.path(), token);
            stage.token = Some(dir.path().join("token"));
        }
        let process = stage.start().await;
        stage.api.fail(row.refused, Fault::Status(401));
        stage
            .api
            .set_endpoint(super::stage::SLICE, ME, [false, true, true]);
        let ended = stage.delete(process, 30).ends().await;
        assert_eq!(ended.report.cause, row.cause);
        assert_eq!(ended.routing(), row.routing);
        let source = match row.cause {
            Cause::PodDeleted => DeadlineSource::DeletionGracePeriod,
            _ => DeadlineSource::Settings,
        };
        assert_eq!(ended.report.deadline_source, source);
        let warnings = log.lines("WARN");
        let expected = usize::from(row.warning.is_some());
        assert_eq!(warnings.len(), expected, "{warnings:#?}");
        if let Some(words) = row.warning {
            assert!(warnings[0].contains(words), "{warnings:#?}");
        }
    });
}

#[tokio::test]
async fn a_token_that_is_replaced_at_that_moment_is_taken_up_and_the_drain_has_all_its_time() {
    let mut stage = Stage::set().await;
    let dir = TempDir::new().unwrap();
    stage
        .api
        .write_service_account(dir.path(), &token(Some("u1"), 5));
    stage.token = Some(dir.path().join("token"));
    let process = stage.start().await;
    stage
        .api
        .write_service_account(dir.path(), &token(Some("u1"), 3_600));
    let draining = stage.delete(process, 30);
    stage.watched(1).await;
    stage.sync();
    let ended = draining.ends().await;
    ended.ended_at_removal();
    assert_eq!(ended.report.cause, Cause::PodDeleted);
    assert_eq!(ended.report.budget_seconds, 29.0);
}

/// Watches that are open are not asked for the token again: the last one tells, and whoever asks anew is refused.
#[tokio::test]
async fn a_deletion_by_force_in_the_middle_of_a_drain_is_told_by_the_watches_that_are_open() {
    let (log, _recording) = Log::record();
    let stage = Stage::set().await;
    let process = stage.start().await;
    let _request = process.ask_for_ever().await;
    let draining = stage.delete(process, 60);
    stage.watched(1).await;
    let forced = draining.t0().elapsed();
    stage.api.delete_pod(ME, 0);
    stage.sync();
    draining.drain().reached(Moment::Removed).await;
    let ended = draining.ends().await;
    ended.in_time();
    assert!(
        ended.took < forced + Duration::from_secs(2),
        "{:?}",
        ended.took
    );
    assert_eq!(ended.report.cause, Cause::PodDeleted);
    assert!(
        ended.report.removal_seconds.is_some(),
        "its entry was seen to go"
    );
    assert_eq!(log.lines("missing permission"), [""; 0]);
}

/// As a StatefulSet does it: the next Pod has the name at once. What it says of itself is nothing about us.
#[tokio::test]
async fn the_next_pod_of_the_same_name_is_never_taken_for_our_own() {
    let stage = Stage::set().await;
    let process = stage.start().await;
    let _request = process.ask_for_ever().await;
    let draining = process.terminate();
    stage.watched(1).await;
    let forced = draining.t0().elapsed();
    stage.api.delete_pod(ME, 0);
    stage.api.put(Resource::Pods, pod(ME, "u9", "10.0.0.9"));
    stage
        .api
        .place(super::stage::SLICE, super::stage::SERVICE, &[ME]);
    let ended = draining.ends().await;
    assert!(
        ended.took < forced + Duration::from_secs(2),
        "{:?}",
        ended.took
    );
    assert_eq!(ended.report.cause, Cause::PodDeleted);
    assert!(
        ended.report.removal_seconds.is_some(),
        "the entry is the other one's"
    );
}

#[tokio::test]
async fn what_was_refused_for_good_is_not_asked_for_again() {
    let (log, _recording) = Log::record();
    let stage = Stage::set().await;
    let process = stage.start().await;
    let before = stage.api.requests().len();
    let draining = stage.delete(process, 0);
    let drain = draining.drain().clone();
    draining.ends().await;
    // The Pod and a slice for each of the two that follow them; Events fail without being asked for.
    let asked = stage.api.requests().len() - before;
    assert!(asked <= 4, "{:#?}", &stage.api.requests()[before..]);
    assert_eq!(
        log.lines("WARN")
            .iter()
            .filter(|line| !line.contains("drained"))
            .count(),
        0
    );
    assert_eq!(
        super::stage::metrics(&drain, "lameduck_endpoints")["no_permission"],
        0.0
    );
}
