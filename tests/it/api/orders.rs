//! Cancel, run again, pause.

use lameduck::jobs::job::Outcome;
use serde_json::json;

use super::stage::{MAIL, NOBODY, Stage, completed, dead, deferred, queue};

#[tokio::test]
async fn a_job_that_waits_is_cancelled_at_once_and_that_may_be_repeated() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;

    let first = stage.order(&id, "cancel").await;
    let again = stage.order(&id, "cancel").await;

    assert_eq!(first.status, 200);
    assert_eq!(first.json(), json!({"id": id, "state": "cancelled"}));
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert_eq!(stage.state(&id).await, "cancelled");
}

#[tokio::test]
async fn a_job_that_runs_is_asked_to_end() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;
    let claim = stage.reserve().await;

    let asked = stage.order(&id, "cancel").await;

    assert_eq!(asked.status, 202);
    assert_eq!(asked.json(), json!({"id": id, "state": "running"}));
    assert_eq!(stage.job(&id).await["cancel_requested"], true);
    stage.settle(claim, Outcome::Released).await;
    assert_eq!(stage.state(&id).await, "cancelled");
}

#[tokio::test]
async fn a_job_that_has_completed_is_not_cancelled() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;
    let claim = stage.reserve().await;
    stage.settle(claim, completed("")).await;

    let detail = stage.order(&id, "cancel").await.problem(409);
    assert!(detail.contains("completed"), "{detail}");
    stage.order(NOBODY, "cancel").await.problem(404);
}

#[tokio::test]
async fn a_dead_job_is_given_up_and_keeps_its_history() {
    let stage = Stage::start().await;
    let id = stage.a_dead_job().await;

    let given_up = stage.order(&id, "cancel").await;

    assert_eq!(given_up.status, 200);
    assert_eq!(given_up.json(), json!({"id": id, "state": "cancelled"}));
    let job = stage.job(&id).await;
    assert_eq!(job["last_error"], "broken");
    assert_eq!(job["history"][0]["end"], "failed");
    assert_eq!(stage.get("/v1/queues/mail").await.json()["dead"], 0);
    stage.order(&id, "retry").await.problem(409);
}

#[tokio::test]
async fn a_dead_job_runs_again_and_keeps_its_history() {
    let stage = Stage::start().await;
    let id = stage.a_dead_job().await;

    let again = stage.order(&id, "retry").await;

    assert_eq!(again.json(), json!({"id": id, "state": "pending"}));
    let job = stage.job(&id).await;
    assert_eq!(
        (&job["attempt"], &job["state"]),
        (&0.into(), &"pending".into())
    );
    assert_eq!(job["last_error"], "broken");
    let run = &job["history"][0];
    assert_eq!(
        (&run["attempt"], &run["end"]),
        (&1.into(), &"failed".into())
    );
    assert_eq!(run["error"], "broken");
    assert_eq!(run["process"], stage.engine.process().to_string());
    let detail = stage.order(&id, "retry").await.problem(409);
    assert!(detail.contains("pending"), "{detail}");
    stage.order(NOBODY, "retry").await.problem(404);
}

/// More of them than fit into one commit of what is asked for.
const DEAD: u64 = 1_100;

async fn many_dead_jobs(stage: &Stage) {
    let body = "{\"payload\":1}\n".repeat(550);
    for _ in 0..2 {
        stage.post(&format!("{MAIL}:batch"), &[], &body).await;
    }
    let mail = queue("mail");
    let reserved = stage.engine.reserve(&mail, Default::default(), 2_000);
    let reserved = reserved.await.unwrap();
    let dead = reserved.into_iter().map(|r| r.claim.settle(dead()));
    stage
        .engine
        .settle(&std::sync::Arc::new(dead.collect()))
        .await
        .unwrap();
}

#[tokio::test]
async fn all_dead_jobs_of_a_queue_are_given_up_however_many() {
    let stage = Stage::start().await;
    many_dead_jobs(&stage).await;
    let waits = stage.submit("waits").await;
    let path = "/v1/queues/mail/dead/cancel";

    let first = stage.post(path, &[], "").await.json();
    let again = stage.post(path, &[], "").await.json();

    assert_eq!(
        (first, again),
        (json!({"cancelled": DEAD}), json!({"cancelled": 0}))
    );
    assert_eq!(stage.get("/v1/queues/mail").await.json()["dead"], 0);
    assert_eq!(stage.state(&waits).await, "pending");
    stage
        .post("/v1/queues/fax/dead/cancel", &[], "")
        .await
        .problem(404);
}

#[tokio::test]
async fn all_dead_jobs_of_a_queue_run_again_however_many() {
    let stage = Stage::start().await;
    many_dead_jobs(&stage).await;
    let path = "/v1/queues/mail/dead/retry";

    let first = stage.post(path, &[], "").await.json();
    let again = stage.post(path, &[], "").await.json();

    assert_eq!(
        (first, again),
        (json!({"retried": DEAD}), json!({"retried": 0}))
    );
    let mail = stage.get("/v1/queues/mail").await.json();
    assert_eq!((&mail["pending"], &mail["dead"]), (&DEAD.into(), &0.into()));
    stage
        .post("/v1/queues/fax/dead/retry", &[], "")
        .await
        .problem(404);
}

#[tokio::test]
async fn a_queue_is_paused_also_after_a_restart_until_it_is_resumed() {
    let stage = Stage::start().await;
    let id = stage.submit("before").await;

    let paused = stage.post("/v1/queues/mail/pause", &[], "").await;

    assert_eq!(paused.json()["paused"], true);
    let stage = stage.restart().await;
    stage.submit("meanwhile").await;
    assert!(
        stage
            .engine
            .reserve(&queue("mail"), Default::default(), 9)
            .await
            .unwrap()
            .is_empty()
    );
    let resumed = stage.post("/v1/queues/mail/resume", &[], "").await.json();
    assert_eq!(
        (&resumed["paused"], &resumed["pending"]),
        (&false.into(), &2.into())
    );
    assert_eq!(stage.reserve().await.job().to_string(), id);
    stage
        .post("/v1/queues/fax/pause", &[], "")
        .await
        .problem(404);
    assert_eq!(
        stage.get("/v1/queues").await.json()["queues"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn a_queue_is_told_in_numbers() {
    let stage = Stage::start().await;
    let unused = stage.get("/v1/queues/mail").await.json();
    for _ in 0..2 {
        stage.submit("x").await;
    }
    stage.settle(stage.reserve().await, deferred()).await;
    let _running = stage.reserve().await;
    stage.submit("waits").await;
    stage.post(&format!("{MAIL}?delay=1h"), &[], "x").await;
    let job = stage.post(&format!("{MAIL}?priority=9"), &[], "x").await;
    assert_eq!(job.status, 202);
    stage.settle(stage.reserve().await, dead()).await;

    let used = stage.get("/v1/queues/mail").await.json();

    assert_eq!(unused["oldest_age_seconds"], json!(null));
    assert!(used["oldest_age_seconds"].as_f64().unwrap() >= 0.0);
    for state in ["pending", "scheduled", "running", "deferred", "dead"] {
        assert_eq!(
            (&unused[state], &used[state]),
            (&0.into(), &1.into()),
            "{state}"
        );
    }
    let all = stage.get("/v1/queues").await.json();
    let names: Vec<_> = all["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|q| &q["queue"])
        .collect();
    assert_eq!(names, ["mail", "resize"]);
}
