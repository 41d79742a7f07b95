//! Outcomes that are told from outside.

use jiff::{SignedDuration, Timestamp};
use lameduck::jobs::job::Claim;
use serde_json::{Value, json};

use super::stage::{Answer, MAIL, NOBODY, Stage, deferred, id_of};

/// A job whose handler has deferred it; its id and its claim.
async fn a_deferred_job(stage: &Stage) -> (String, String) {
    let id = stage.submit("long").await;
    let claim = stage.reserve().await;
    let token = claim.to_token_string();
    stage.settle(claim, deferred()).await;
    (id, token)
}

async fn tell(stage: &Stage, id: &str, claim: &str, outcome: Value) -> Answer {
    let path = format!("/v1/jobs/{id}/outcome");
    let headers = [("lameduck-claim", claim)];
    stage.post(&path, &headers, &outcome.to_string()).await
}

#[tokio::test]
async fn deferred_work_completes_by_its_claim_and_that_may_be_repeated() {
    let stage = Stage::start().await;
    let (id, claim) = a_deferred_job(&stage).await;
    let done = json!({"outcome": "completed", "result": "42"});

    let first = tell(&stage, &id, &claim, done.clone()).await;
    let again = tell(&stage, &id, &claim, done).await;

    assert_eq!(first.json(), json!({"id": id, "state": "completed"}));
    assert_eq!((again.status, again.json()), (200, first.json()));
    let job = stage.job(&id).await;
    assert_eq!(
        (&job["state"], &job["result"]),
        (&"completed".into(), &"42".into())
    );
}

#[tokio::test]
async fn a_result_may_be_bytes() {
    let stage = Stage::start().await;
    let (id, claim) = a_deferred_job(&stage).await;
    let path = format!("/v1/jobs/{id}/result");
    let detail = stage.get(&path).await.problem(404);
    assert!(detail.contains("deferred"), "{detail}");

    tell(
        &stage,
        &id,
        &claim,
        json!({"outcome": "completed", "result_base64": "/wAB"}),
    )
    .await;

    let result = stage.get(&path).await;
    assert_eq!(result.body, [0xff, 0, 1].as_slice());
    assert_eq!(result.headers["content-type"], "application/octet-stream");
    let job = stage.job(&id).await;
    assert_eq!(
        (&job["result"], &job["result_bytes"]),
        (&json!(null), &json!(3))
    );
    assert_eq!(
        (&job["result_url"], &job["result_cut"]),
        (&json!(path), &json!(false))
    );
}

#[tokio::test]
async fn a_result_that_ends_within_a_character_is_shown_up_to_it_and_said_to_be_cut() {
    let stage = Stage::start().await;
    let (waits, _) = a_deferred_job(&stage).await;
    for (base64, text, bytes, cut) in [
        // "grü", "gr" and the first byte of "ü", and the same byte where it can't be the last.
        ("Z3LDvA==", json!("grü"), 4, false),
        ("Z3LD", json!("gr"), 3, true),
        ("Z8Ny", json!(null), 3, false),
        ("", json!(""), 0, false),
    ] {
        let (id, claim) = a_deferred_job(&stage).await;
        let told = json!({"outcome": "completed", "result_base64": base64});
        tell(&stage, &id, &claim, told).await;

        let job = stage.job(&id).await;

        assert_eq!(job["result"], text, "{base64}");
        assert_eq!(
            (&job["result_bytes"], &job["result_cut"]),
            (&json!(bytes), &json!(cut))
        );
        assert_eq!(job["result_url"], format!("/v1/jobs/{id}/result"));
    }
    let job = stage.job(&waits).await;
    assert_eq!(
        (&job["result_bytes"], &job["result_url"]),
        (&json!(null), &json!(null))
    );
}

#[tokio::test]
async fn deferred_work_that_failed_is_tried_again_unless_that_is_no_use() {
    let stage = Stage::start().await;
    for (retry, state) in [
        (Some(true), "scheduled"),
        (None, "scheduled"),
        (Some(false), "dead"),
    ] {
        let (id, claim) = a_deferred_job(&stage).await;
        let mut failed = json!({"outcome": "failed", "error": "no paper"});
        if let Some(retry) = retry {
            failed["retry"] = retry.into();
        }

        let told = tell(&stage, &id, &claim, failed).await;

        assert_eq!(told.json()["state"], state);
        let job = stage.job(&id).await;
        assert_eq!(
            (&job["attempt"], &job["last_error"]),
            (&1.into(), &"no paper".into())
        );
    }
}

#[tokio::test]
async fn the_last_attempt_is_the_last() {
    let stage = Stage::start().await;
    let job = stage
        .post(&format!("{MAIL}?max_attempts=1"), &[], "x")
        .await;
    let id = id_of(&job.json());
    let claim = stage.reserve().await;
    let token = claim.to_token_string();
    stage.settle(claim, deferred()).await;

    let told = tell(
        &stage,
        &id,
        &token,
        json!({"outcome": "failed", "error": "no paper"}),
    )
    .await;

    assert_eq!(told.json()["state"], "dead");
}

#[tokio::test]
async fn who_still_works_gets_more_time_also_where_the_handler_runs() {
    let stage = Stage::start().await;
    let id = stage.submit("long").await;
    let token = stage.reserve().await.to_token_string();

    for hours in [1, 2] {
        let within = json!({"outcome": "working", "within": format!("{hours}h")});
        let told = tell(&stage, &id, &token, within).await;

        assert_eq!(told.json()["state"], "deferred");
        let until: Timestamp = stage.job(&id).await["run_at"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let left = until.duration_since(Timestamp::now());
        assert!(left > SignedDuration::from_mins(60 * hours - 1), "{left}");
        assert!(left <= SignedDuration::from_mins(60 * hours), "{left}");
    }
}

#[tokio::test]
async fn a_claim_that_is_not_the_jobs_any_more_writes_nothing() {
    let stage = Stage::start().await;
    let (cancelled, claim) = a_deferred_job(&stage).await;
    stage.order(&cancelled, "cancel").await;
    let (other, other_claim) = a_deferred_job(&stage).await;
    let forged = Claim::from_token(NOBODY.parse().unwrap(), NOBODY)
        .unwrap()
        .to_token_string();
    let done = json!({"outcome": "completed", "result": "late"});

    for (id, claim) in [(&cancelled, &claim), (&other, &claim), (&other, &forged)] {
        let detail = tell(&stage, id, claim, done.clone()).await.problem(409);
        assert!(detail.contains("nothing was written"), "{detail}");
    }

    assert_eq!(stage.state(&cancelled).await, "cancelled");
    assert_eq!(stage.state(&other).await, "deferred");
    assert_eq!(tell(&stage, &other, &other_claim, done).await.status, 200);
}

#[tokio::test]
async fn what_is_no_outcome_is_refused() {
    let stage = Stage::start().await;
    let (id, claim) = a_deferred_job(&stage).await;
    for bad in [
        json!({}),
        json!({"outcome": "vanished"}),
        json!({"outcome": "failed"}),
        json!({"outcome": "completed", "reslut": "42"}),
        json!({"outcome": "completed", "result": "a", "result_base64": "YQ=="}),
        json!({"outcome": "completed", "result_base64": "?"}),
        json!({"outcome": "working", "within": "a while"}),
        json!({"outcome": "working", "within": "169h"}),
        json!({"outcome": "working", "within": "8d"}),
        json!({"outcome": "working", "within": "0s"}),
        json!(["working", "30m"]),
        json!({"outcome": "failed", "error": "x".repeat(20_000)}),
    ] {
        tell(&stage, &id, &claim, bad).await.problem(400);
    }
    for (bad, words) in [
        (json!(["completed"]), "a JSON object"),
        (
            json!({"outcome": "vanished"}),
            "\"completed\", \"failed\" or \"working\"",
        ),
        (json!({"outcome": "failed"}), "with 'failed' goes 'error'"),
        (
            json!({"outcome": "working", "within": 30}),
            "with 'working' goes 'within'",
        ),
    ] {
        let detail = tell(&stage, &id, &claim, bad).await.problem(400);
        assert!(detail.contains(words), "{detail}");
        assert!(!detail.contains("variant"), "{detail}");
    }
    let done = json!({"outcome": "completed"});
    tell(&stage, &id, "me", done.clone()).await.problem(400);
    let path = format!("/v1/jobs/{id}/outcome");
    let detail = stage.post(&path, &[], &done.to_string()).await.problem(400);
    assert!(detail.contains("Lameduck-Claim"), "{detail}");
    tell(&stage, NOBODY, &claim, done).await.problem(404);
    assert_eq!(stage.state(&id).await, "deferred");
}
