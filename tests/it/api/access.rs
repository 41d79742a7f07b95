//! Tokens.

use std::{fs, path::PathBuf};

use lameduck::api::{Access, AccessError, Tokens};
use tempfile::TempDir;

use crate::process::harness::until;

use super::stage::{MAIL, Stage, call, deferred};

const OLD: &str = "0123456789abcdef-old";
const NEW: &str = "0123456789abcdef-new";

/// A stage that asks for the tokens of a file.
async fn guarded(text: &str) -> (Stage, TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tokens");
    fs::write(&file, text).unwrap();
    let tokens = Tokens::from_file(&file).unwrap();
    let stage = Stage::with(|_, changes| changes.access = Access::Tokens(tokens)).await;
    (stage, directory, file)
}

async fn status(stage: &Stage, authorization: &str) -> u16 {
    let headers = [("authorization", authorization)];
    let answer = call(stage.address, "GET", "/v1/queues", &headers, "").await;
    answer.unwrap().status
}

#[tokio::test]
async fn who_has_a_token_may_ask_and_nobody_else() {
    let (stage, _directory, _file) = guarded(&format!("# clients\n\n  {OLD}\n{NEW}\n")).await;

    for good in [
        format!("Bearer {OLD}"),
        format!("bearer {NEW}"),
        format!("BEARER  {NEW} "),
    ] {
        assert_eq!(status(&stage, &good).await, 200, "{good}");
    }
    for bad in [
        "Bearer # clients".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {OLD}x"),
        format!("Bearer {}", &OLD[..OLD.len() - 1]),
        format!("Basic {OLD}"),
        OLD.to_owned(),
        String::new(),
    ] {
        assert_eq!(status(&stage, &bad).await, 401, "{bad}");
    }
    let job = "/v1/jobs/0198c0de-0000-7000-8000-000000000000";
    let result = format!("{job}/result");
    let payload = format!("{job}/payload");
    for (method, path) in [
        ("POST", MAIL),
        ("GET", MAIL),
        ("POST", "/v1/queues/mail/jobs:batch"),
        ("GET", "/v1/queues"),
        ("POST", "/v1/queues/mail/pause"),
        ("GET", job),
        ("GET", &result),
        ("GET", &payload),
        ("POST", "/v1/queues/mail/dead/cancel"),
    ] {
        let answer = call(stage.address, method, path, &[], "x").await.unwrap();
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let detail = answer.problem(401);
        assert!(detail.contains("Authorization"), "{detail}");
    }
}

#[tokio::test]
async fn an_outcome_needs_its_claim_and_no_token() {
    let (stage, _directory, _file) = guarded(OLD).await;
    let bearer = format!("Bearer {OLD}");
    let submitted = stage.post(MAIL, &[("authorization", &bearer)], "x").await;
    let claim = stage.reserve().await;
    let token = claim.to_token_string();
    stage.settle(claim, deferred()).await;
    let path = format!(
        "{}/outcome",
        submitted.headers["location"].to_str().unwrap()
    );

    let done = r#"{"outcome": "completed"}"#;
    let told = stage.post(&path, &[("lameduck-claim", &token)], done).await;

    assert_eq!(told.status, 200);
    assert_eq!(stage.get("/v1/openapi.json").await.status, 200);
}

#[tokio::test]
async fn tokens_are_exchanged_while_it_runs() {
    let (stage, directory, file) = guarded(OLD).await;
    assert_eq!(status(&stage, &format!("Bearer {NEW}")).await, 401);

    // As Kubernetes exchanges a mounted file: another one under the same name.
    let next = directory.path().join("next");
    fs::write(&next, NEW).unwrap();
    fs::rename(&next, &file).unwrap();

    until("the new token is known", async || {
        (status(&stage, &format!("Bearer {NEW}")).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&stage, &format!("Bearer {OLD}")).await, 401);
}

#[test]
fn a_file_without_tokens_is_refused_with_its_name_and_line() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("tokens");
    let missing = Tokens::from_file(&file).unwrap_err();
    assert!(
        matches!(missing, AccessError::Unreadable { .. }),
        "{missing}"
    );
    for (text, word) in [
        ("# nothing\n\n", "no token"),
        ("# short\nsecret\n", "line 2"),
        ("0123456789 abcdefghij\n", "line 1"),
    ] {
        fs::write(&file, text).unwrap();
        let error = Tokens::from_file(&file).unwrap_err().to_string();
        let path = file.display().to_string();
        assert!(error.contains(word) && error.contains(&path), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
