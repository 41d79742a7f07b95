//! One job: what is said about it, and what is refused.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lameduck::jobs::job::{Priority, State};

use super::stage::{MAIL, NOBODY, Stage, dead, id_of, queue};

#[tokio::test]
async fn a_job_that_was_answered_with_202_is_there_after_a_restart() {
    let stage = Stage::start().await;

    let answer = stage
        .post(MAIL, &[("content-type", "text/plain")], "hello")
        .await;

    assert_eq!(answer.status, 202);
    let accepted = answer.json();
    let id = id_of(&accepted);
    assert_eq!(answer.headers["location"], format!("/v1/jobs/{id}"));
    assert_eq!(
        (&accepted["queue"], &accepted["repeated"]),
        (&"mail".into(), &false.into())
    );
    let stage = stage.restart().await;
    let job = stage.job(&id).await;
    assert_eq!(job["state"], "pending");
    assert_eq!(job["content_type"], "text/plain");
    assert_eq!(
        (&job["attempt"], &job["max_attempts"]),
        (&0.into(), &5.into())
    );
    assert_eq!(job["history"], serde_json::json!([]));
    assert_eq!(stage.reserve_payload().await.1, "hello");
}

#[tokio::test]
async fn options_are_the_same_in_the_query_and_in_headers() {
    let stage = Stage::start().await;
    let query = "?delay=0d%201h30m&priority=-3&timeout=90s&max_attempts=2";
    let headers = [
        ("lameduck-delay", "90m"),
        ("lameduck-priority", "-3"),
        ("lameduck-timeout", "1m30s"),
        ("lameduck-max-attempts", "2"),
    ];
    let path = format!("{MAIL}{query}");

    // In the query, in headers, and in both, in other words for the same.
    let asked = [
        (path.as_str(), &[][..]),
        (MAIL, &headers[..]),
        (&path, &headers[..]),
    ];
    for (path, headers) in asked {
        let answer = stage.post(path, headers, "x").await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = id_of(&answer.json()).parse().unwrap();
        let job = stage.engine.job(id).await.unwrap().unwrap();
        let delay = job.run_at.duration_since(job.submitted_at);
        let asked = SignedDuration::from_mins(90);
        assert!(
            (asked - delay).abs() < SignedDuration::from_secs(10),
            "{delay}"
        );
        assert_eq!(job.state, State::Scheduled);
        assert_eq!(job.priority, Priority::try_from(-3).unwrap());
        assert_eq!(job.timeout, Some(Duration::from_secs(90)));
        assert_eq!(job.max_attempts, 2);
        assert_eq!(stage.job(&id.to_string()).await["timeout"], "1m 30s");
    }
}

#[tokio::test]
async fn a_job_can_be_given_an_instant() {
    let stage = Stage::start().await;
    let later = Timestamp::now() + SignedDuration::from_hours(24 * 300);

    let answer = stage
        .post(&format!("{MAIL}?run_at={later}"), &[], "x")
        .await;

    let job = stage.job(&id_of(&answer.json())).await;
    assert_eq!(job["state"], "scheduled");
    let run_at: Timestamp = job["run_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(run_at.as_microsecond(), later.as_microsecond());
}

#[tokio::test]
async fn days_are_durations_too() {
    let stage = Stage::start().await;

    let answer = stage
        .post(&format!("{MAIL}?delay=365d&timeout=7d"), &[], "x")
        .await;

    let id = id_of(&answer.json()).parse().unwrap();
    let job = stage.engine.job(id).await.unwrap().unwrap();
    assert_eq!(job.timeout, Some(Duration::from_secs(7 * 24 * 60 * 60)));
    let delay = job.run_at.duration_since(job.submitted_at);
    assert!(delay > SignedDuration::from_hours(24 * 365 - 1), "{delay}");
}

#[tokio::test]
async fn a_payload_can_be_read_also_of_a_dead_job() {
    let stage = Stage::start().await;
    let page = [("content-type", "text/html")];
    let answer = stage.post(MAIL, &page, "<script>").await;
    let path = format!("{}/payload", answer.headers["location"].to_str().unwrap());
    stage.settle(stage.reserve().await, dead()).await;

    let payload = stage.get(&path).await;

    assert_eq!((payload.status, &payload.body[..]), (200, &b"<script>"[..]));
    assert_eq!(payload.headers["content-type"], "text/html");
    assert_eq!(payload.headers["x-content-type-options"], "nosniff");
    assert_eq!(payload.headers["content-disposition"], "attachment");
}

#[tokio::test]
async fn what_is_unknown_out_of_bounds_or_contradicts_itself_is_refused_by_name() {
    let stage = Stage::start().await;
    let far = Timestamp::now() + SignedDuration::from_hours(24 * 366);
    let far = format!("run_at={far}");
    let queries = [
        ("dealy=3s", "dealy"),
        ("delay=soon", "delay"),
        ("delay=-3s", "delay"),
        ("delay=8761h", "365 days"),
        ("delay=366d", "365 days"),
        ("delay=1month", "delay"),
        ("delay=1s&delay=2s", "delay"),
        ("delay=1s&run_at=2027-01-01T00:00:00Z", "run_at"),
        ("run_at=tomorrow", "run_at"),
        ("run_at=2027-01-01T00:00:00+01:00", "%2B"),
        (&far, "365 days"),
        ("priority=10", "-9 to 9"),
        ("priority=high", "-9 to 9"),
        ("timeout=0s", "1ms"),
        ("timeout=169h", "7 days"),
        ("timeout=8d", "7 days"),
        ("max_attempts=0", "1 to 100"),
        ("max_attempts=101", "1 to 100"),
        ("max_attempts=many", "1 to 100"),
    ];
    for (query, word) in queries {
        let detail = stage
            .post(&format!("{MAIL}?{query}"), &[], "x")
            .await
            .problem(400);
        assert!(detail.contains(word), "{query}: {detail}");
    }
    let long = "k".repeat(256);
    let headers = [
        ("lameduck-dealy", "3s", "Lameduck-Delay"),
        ("lameduck-delay", "3 apples", "delay"),
        ("lameduck-run-at", "tomorrow", "run_at"),
        ("idempotency-key", "", "Idempotency-Key"),
        ("idempotency-key", &long, "255"),
        ("content-type", &long, "255"),
    ];
    for (name, value, word) in headers {
        let detail = stage.post(MAIL, &[(name, value)], "x").await.problem(400);
        assert!(detail.contains(word), "{name}: {value}: {detail}");
    }
    let both = format!("{MAIL}?delay=3s");
    let detail = stage.post(&both, &[("lameduck-delay", "4s")], "x").await;
    assert!(detail.problem(400).contains("'delay'"));
    let twice = [("lameduck-delay", "3s"), ("lameduck-delay", "3s")];
    let detail = stage.post(MAIL, &twice, "x").await.problem(400);
    assert!(detail.contains("more than once"), "{detail}");
    assert!(stage.engine.queues().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_repetition_is_the_first_job_again_also_after_a_restart() {
    let stage = Stage::start().await;
    let key = [("idempotency-key", "order-17")];
    let first = stage.post(MAIL, &key, "one").await.json();
    let stage = stage.restart().await;

    let again = stage.post(MAIL, &key, "one").await;
    let other = stage.post(MAIL, &key, "two").await;
    let elsewhere = stage.post("/v1/queues/resize/jobs", &key, "two").await;

    assert_eq!((again.status, &again.json()["id"]), (202, &first["id"]));
    let location = format!("/v1/jobs/{}", id_of(&first));
    assert_eq!(again.headers["location"], location);
    assert_eq!(again.json()["repeated"], true);
    assert!(other.problem(422).contains(&id_of(&first)));
    assert_eq!(elsewhere.status, 202);
    assert_eq!(elsewhere.json()["repeated"], false);
}

#[tokio::test]
async fn the_trace_context_is_handed_on_where_it_is_one() {
    let stage = Stage::start().await;
    let traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (sent, kept) in [
        (traced, Some(traced)),
        (
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            None,
        ),
        (
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            None,
        ),
        ("me", None),
    ] {
        let answer = stage.post(MAIL, &[("traceparent", sent)], "x").await;
        let job = stage.job(&id_of(&answer.json())).await;
        assert_eq!(job["traceparent"].as_str(), kept);
    }
}

#[tokio::test]
async fn a_full_queue_says_so_and_when_to_come_again_but_knows_its_repetitions() {
    let stage = Stage::with(|options, _| options.max_waiting = 1).await;
    let key = [("idempotency-key", "a")];
    stage.post(MAIL, &key, "x").await;

    let full = stage.post(MAIL, &[], "x").await;
    let repeated = stage.post(MAIL, &key, "x").await;
    let elsewhere = stage.post("/v1/queues/resize/jobs", &[], "x").await;

    assert!(full.headers.contains_key("retry-after"));
    assert!(full.problem(429).contains("max-queue-length"));
    assert_eq!((repeated.status, elsewhere.status), (202, 202));
}

#[tokio::test]
async fn a_full_disk_says_so_and_when_to_come_again() {
    let stage = Stage::with(|options, _| options.min_free = u64::MAX).await;

    let full = stage.post(MAIL, &[], "x").await;

    assert!(full.headers.contains_key("retry-after"));
    assert!(full.problem(503).contains("min-free-disk"));
}

#[tokio::test]
async fn a_storage_that_is_gone_says_so_and_when_to_come_again() {
    let stage = Stage::start().await;
    stage.engine.close().await;

    for (method, path) in [("POST", MAIL), ("GET", "/v1/queues")] {
        let answer = super::stage::call(stage.address, method, path, &[], "x");
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers["retry-after"], "1");
        answer.problem(503);
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let stage = Stage::start().await;
    let detail = stage
        .post("/v1/queues/fax/jobs", &[], "x")
        .await
        .problem(404);
    assert!(detail.contains("mail, resize"), "{detail}");
    stage
        .post("/v1/queues/Fax!/jobs", &[], "x")
        .await
        .problem(404);
    stage.get("/v1/queues/fax").await.problem(404);
    stage.get("/v1/queues/fax/jobs").await.problem(404);
    stage.get("/v1/jobs/17").await.problem(404);
    stage.get("/v1/jobs/%ff").await.problem(400);
    for end in ["", "/result", "/payload", "/events", "?wait=1s"] {
        stage
            .get(&format!("/v1/jobs/{NOBODY}{end}"))
            .await
            .problem(404);
    }
    stage.get("/nowhere").await.problem(404);
    let put = super::stage::call(stage.address, "PUT", MAIL, &[], "").await;
    let put = put.unwrap();
    let allowed = put.headers["allow"].to_str().unwrap();
    assert!(
        allowed.contains("GET") && allowed.contains("POST"),
        "{allowed}"
    );
    put.problem(405);
    stage
        .get(&format!("/v1/jobs/{NOBODY}?wiat=1s"))
        .await
        .problem(400);
}

#[tokio::test]
async fn what_was_stored_is_counted_once() {
    let stage = Stage::start().await;
    for _ in 0..3 {
        stage.post(MAIL, &[("idempotency-key", "a")], "x").await;
    }
    stage.submit("y").await;

    let figures = stage.drain.registry().gather();
    let family = figures
        .iter()
        .find(|family| family.name() == "lameduck_jobs_submitted_total")
        .unwrap();
    let counted: Vec<(String, f64)> = family
        .get_metric()
        .iter()
        .map(|m| {
            let label = m.get_label()[0].value().to_owned();
            (label, m.get_counter().get_value())
        })
        .collect();
    let expected = [("mail".to_owned(), 2.0), ("resize".to_owned(), 0.0)];
    assert_eq!(counted, expected);
    assert!(
        stage
            .engine
            .next_run_in(&queue("mail"))
            .await
            .unwrap()
            .is_some()
    );
}
