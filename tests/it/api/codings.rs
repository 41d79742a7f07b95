//! Bodies with a content coding: refused, because what is stored is handed on as it is.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use reqwest::Response;
use serde_json::Value;

use super::stage::{MAIL, NOBODY, Stage};
use crate::clients;

/// The text as the real gzip compresses it.
pub fn gzipped(text: &str) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    gzip.wait_with_output().unwrap().stdout
}

async fn post(stage: &Stage, path: &str, codings: &[&str], body: Vec<u8>) -> Response {
    let url = format!("http://{}{path}", stage.address);
    let client = clients::reqwest().build().unwrap();
    let mut request = client.post(url).header("content-type", "application/json");
    for coding in codings {
        request = request.header("content-encoding", *coding);
    }
    request.body(body).send().await.unwrap()
}

async fn json(answer: Response) -> Value {
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_coded_body_is_refused_and_told_what_is_taken() {
    let stage = Stage::start().await;
    let batch = format!("{MAIL}:batch");
    let outcome = format!("/v1/jobs/{NOBODY}/outcome");
    let body = gzipped(r#"{"payload": 1}"#);

    for path in [MAIL, &batch, &outcome] {
        for codings in [
            &["gzip"][..],
            &["identity, GZIP"],
            &["identity", "br"],
            &["x-own"],
        ] {
            let answer = post(&stage, path, codings, body.clone()).await;

            assert_eq!(answer.status(), 415, "{path} {codings:?}");
            assert_eq!(answer.headers()["accept-encoding"], "identity");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            let problem = json(answer).await;
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("Content-Encoding"), "{detail}");
        }
    }
    assert!(
        stage.engine.queues().await.unwrap().is_empty(),
        "nothing was stored"
    );
}

#[tokio::test]
async fn identity_is_no_coding_and_bytes_may_be_compressed_by_their_type() {
    let stage = Stage::start().await;

    let plain = post(&stage, MAIL, &["identity"], b"1".to_vec()).await;
    let batch = format!("{MAIL}:batch");
    let line = post(
        &stage,
        &batch,
        &["Identity", ""],
        br#"{"payload": 1}"#.to_vec(),
    )
    .await;
    let packed = gzipped("hello");
    let typed = post(&stage, MAIL, &[], packed.clone()).await;

    assert_eq!([plain.status(), line.status(), typed.status()], [202; 3]);
    let id = super::stage::id_of(&json(typed).await);
    let payload = stage.get(&format!("/v1/jobs/{id}/payload")).await;
    assert_eq!(payload.body, packed);
}
