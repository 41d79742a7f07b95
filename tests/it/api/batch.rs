//! Many jobs in one request.

use serde_json::{Value, json};

use super::stage::{Stage, queue};

const BATCH: &str = "/v1/queues/mail/jobs:batch";

fn lines(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn every_line_is_a_job_and_answered_in_its_place() {
    let stage = Stage::start().await;
    let body = concat!(
        r#"{"payload": {"b": 1, "a":  1.50}, "priority": 9}"#,
        "\n",
        r#"{"payload_text": "grüß dich", "priority": 8, "timeout": "5s", "max_attempts": 2}"#,
        "\r\n",
        r#"{"payload_base64": "AAEC", "priority": 7, "content_type": "image/x"}"#,
        "\n",
        r#"{"payload": 0, "payload_text": null, "delay": "1h"}"#,
    );
    let traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    let answer = stage.post(BATCH, &[("traceparent", traced)], body).await;

    assert_eq!(answer.status, 202, "{answer:?}");
    let answers = answer.json();
    let ids: Vec<&str> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| answer["id"].as_str().unwrap())
        .collect();
    let jobs = stage
        .engine
        .reserve(&queue("mail"), Default::default(), 10)
        .await
        .unwrap();
    let seen: Vec<_> = jobs
        .iter()
        .map(|r| {
            (
                r.job.id.to_string(),
                &r.job.payload[..],
                r.job.content_type.as_str(),
            )
        })
        .collect();
    let expected: [(String, &[u8], &str); 3] = [
        (
            ids[0].to_owned(),
            br#"{"b": 1, "a":  1.50}"#,
            "application/json",
        ),
        (
            ids[1].to_owned(),
            "grüß dich".as_bytes(),
            "text/plain; charset=utf-8",
        ),
        (ids[2].to_owned(), &[0, 1, 2], "image/x"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(jobs[1].job.max_attempts, 2);
    assert!(
        jobs.iter()
            .all(|r| r.job.traceparent.as_deref() == Some(traced))
    );
    assert_eq!(stage.state(ids[3]).await, "scheduled");
}

#[tokio::test]
async fn a_line_that_cannot_be_read_refuses_the_batch_and_is_named() {
    let stage = Stage::with(|_, changes| changes.limits.max_body = 100).await;
    let good = json!({"payload": 1}).to_string();
    let long = json!({"payload_text": "x".repeat(101)}).to_string();
    for (status, bad, word) in [
        (400, "{", "the line ends before"),
        (400, "", "the line is empty"),
        (400, " \r", "the line is empty"),
        (400, r#"[{"payload":1}]"#, "a JSON object"),
        (400, r#"[1, null, null]"#, "this is an array"),
        (400, "17", "this is a number"),
        (400, "hello", "a JSON object"),
        (400, r#"{"payload": 1 "delay": "1s"}"#, "not JSON"),
        (400, r#"{"payload": 1, "payload": 2}"#, "duplicate"),
        (
            400,
            r#"{"payload": 1, "delay": 30}"#,
            "'delay' is a text in quotes",
        ),
        (
            400,
            r#"{"payload_text": {"a": 1}}"#,
            "'payload_text' is a text",
        ),
        (
            400,
            r#"{"payload_text": "\ud800"}"#,
            "'payload_text' is a text",
        ),
        (400, r#"{"payload": 1, "priority": "3"}"#, "-9 to 9"),
        (400, r#"{"payload": 1, "max_attempts": -1}"#, "1 to 100"),
        (400, r#"{}"#, "payload_text"),
        (400, r#"{"payload": 1, "payload_text": "1"}"#, "one payload"),
        (400, r#"{"payload": 1, "dealy": "1s"}"#, "dealy"),
        (400, r#"{"payload": 1, "delay": "9000h"}"#, "365 days"),
        (400, r#"{"payload": 1, "priority": 10}"#, "-9 to 9"),
        (400, r#"{"payload": 1, "max_attempts": 101}"#, "1 to 100"),
        (
            400,
            r#"{"payload": 1, "idempotency_key": ""}"#,
            "Idempotency-Key",
        ),
        (
            400,
            r#"{"payload": 1, "content_type": "a\nb"}"#,
            "content type",
        ),
        (400, r#"{"payload_base64": "?"}"#, "payload_base64"),
        (413, &long, "max-body"),
    ] {
        let body = format!("{good}\n{bad}\n{good}\n");
        let answer = stage.post(BATCH, &[], &body).await;
        assert_eq!(answer.json()["line"], 2, "{answer:?}");
        let detail = answer.problem(status);
        assert!(
            detail.contains(word) && detail.contains("line 2"),
            "{bad}: {detail}"
        );
        for jargon in ["struct", "expected a", "i64", "u32", "EOF"] {
            assert!(!detail.contains(jargon), "{bad}: {detail}");
        }
    }
    stage.post(BATCH, &[], "").await.problem(400);
    stage.post(BATCH, &[], "\n").await.problem(400);
    assert!(stage.engine.queues().await.unwrap().is_empty());
}

#[tokio::test]
async fn null_counts_as_absent() {
    let stage = Stage::start().await;
    let nulls = json!({
        "payload": null, "payload_text": "x", "payload_base64": null, "content_type": null, "delay": null,
        "run_at": null, "priority": null, "timeout": null, "max_attempts": null, "idempotency_key": null,
    });

    let taken = stage.post(BATCH, &[], &nulls.to_string()).await;
    let none = stage.post(BATCH, &[], r#"{"payload": null}"#).await;

    assert_eq!(taken.status, 202, "{taken:?}");
    assert_eq!(stage.reserve_payload().await.1, "x");
    let detail = none.problem(400);
    assert!(detail.contains("null counts as absent"), "{detail}");
}

#[tokio::test]
async fn a_batch_may_be_an_array() {
    let stage = Stage::start().await;
    let jobs = json!([{"payload": [1]}, {"payload_text": "b", "priority": 1}]);

    let answer = stage.post(BATCH, &[], &format!("\n {jobs:#} \n")).await;

    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json().as_array().unwrap().len(), 2);
    assert_eq!(stage.reserve_payload().await.1, "b");
    for (body, word) in [
        ("[]", "the batch is empty"),
        (
            r#"[{"payload": 1}, 17]"#,
            "in item 2: a job of a batch is a JSON object",
        ),
        (
            r#"[{"payload": 1}, {"payload": 1, "dealy": "1s"}]"#,
            "dealy",
        ),
        (r#"[{"payload": 1}"#, "is none: EOF"),
        (r#"[{"payload": 1}] {"payload": 2}"#, "is none: trailing"),
    ] {
        let detail = stage.post(BATCH, &[], body).await.problem(400);
        assert!(detail.contains(word), "{body}: {detail}");
    }
    assert_eq!(stage.engine.queues().await.unwrap()[0].pending, 1);
}

#[tokio::test]
async fn empty_lines_after_the_last_job_mean_nothing() {
    let stage = Stage::start().await;

    let answer = stage.post(BATCH, &[], "{\"payload\": 1}\n\n \r\n\n").await;

    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_said_beside_the_lines_is_refused() {
    let stage = Stage::start().await;
    let line = r#"{"payload": 1}"#;

    for (query, headers) in [
        ("?delay=1h", &[][..]),
        ("?dealy=1h", &[]),
        ("", &[("idempotency-key", "order-17")]),
        ("", &[("lameduck-delay", "1h")]),
        ("", &[("lameduck-dealy", "1h")]),
    ] {
        let path = format!("{BATCH}{query}");
        let detail = stage.post(&path, headers, line).await.problem(400);
        assert!(detail.contains("each line says it itself"), "{detail}");
        let said = headers.first().map_or("the query", |(name, _)| *name);
        assert!(detail.contains(said), "{detail}");
    }
    assert!(stage.engine.queues().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_batch_of_which_nothing_is_taken_says_of_each_line_why() {
    let stage = Stage::with(|options, _| options.max_waiting = 0).await;

    let answer = stage
        .post(BATCH, &[], &lines(&[json!({"payload": 1})]))
        .await;

    assert_eq!(answer.status, 207);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(answer.json()[0]["problem"]["status"], 429);
}

#[tokio::test]
async fn what_can_be_taken_is_and_the_rest_says_why_not() {
    let stage = Stage::with(|options, _| options.max_waiting = 2).await;
    let body = lines(&[
        json!({"payload": 1, "idempotency_key": "a"}),
        json!({"payload": 1, "idempotency_key": "a"}),
        json!({"payload": 2, "idempotency_key": "a"}),
        json!({"payload": 3}),
        json!({"payload": 4}),
    ]);

    let answer = stage.post(BATCH, &[], &body).await;

    assert_eq!(answer.status, 207);
    assert!(answer.headers.contains_key("retry-after"));
    let answers = answer.json();
    assert_eq!(answers[1]["id"], answers[0]["id"]);
    let repeated = [&answers[0]["repeated"], &answers[1]["repeated"]];
    assert_eq!(repeated, [false, true]);
    assert_eq!(answers[2]["problem"]["status"], 422);
    assert!(answers[3]["id"].is_string());
    assert_eq!(answers[4]["problem"]["status"], 429);
    let stats = stage.engine.queues().await.unwrap();
    assert_eq!(stats[0].pending, 2);
}

#[tokio::test]
async fn a_batch_has_an_end() {
    let stage = Stage::with(|_, changes| {
        changes.limits.max_batch = 3;
        changes.limits.max_body = 100;
        changes.limits.max_batch_body = 200;
    })
    .await;
    let line = json!({"payload": 1});

    let fits = stage.post(BATCH, &[], &lines(&vec![line.clone(); 3])).await;
    let many = stage.post(BATCH, &[], &lines(&vec![line; 4])).await;
    let array = format!("[{}]", ["1"; 4].join(","));
    let array = stage.post(BATCH, &[], &array).await;
    let long = stage.post(BATCH, &[], &" ".repeat(201)).await;

    assert_eq!(fits.status, 202);
    assert!(many.problem(413).contains("max-batch"));
    assert!(array.problem(413).contains("max-batch"));
    assert!(long.problem(413).contains("max-batch-body"));
}

#[tokio::test]
async fn a_client_that_encodes_the_colon_means_the_same() {
    let stage = Stage::start().await;
    for path in [
        "/v1/queues/mail/jobs%3Abatch",
        "/v1/queues/mail/jobs%3abatch",
    ] {
        let answer = stage.post(path, &[], r#"{"payload": 1}"#).await;
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
    }
}
