//! Answers in a content coding that nobody asked for.

use axum::response::IntoResponse;
use http::StatusCode;

use super::{done, error, run, target::Target};
use crate::api::gzipped;

/// A target that answers gzip's bytes, and says that they are in this coding.
async fn target(status: u16, coding: &'static str) -> Target {
    let body = gzipped("a secret of the trade");
    Target::start(move || {
        let status = StatusCode::from_u16(status).unwrap();
        (status, [("content-encoding", coding)], body.clone()).into_response()
    })
    .await
}

#[tokio::test]
async fn a_target_is_asked_for_no_coding() {
    let mut target = Target::start(|| "ok".into_response()).await;

    done(run(&target.http()).await);

    assert_eq!(target.seen().header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_compressed_answer_is_the_result_that_was_compressed() {
    let target = target(200, "GZip").await;

    let result = done(run(&target.http()).await);

    assert_eq!(result, "a secret of the trade");
}

#[tokio::test]
async fn a_result_whose_coding_is_not_known_is_kept_byte_for_byte() {
    for coding in ["x-own", "gzip, gzip", "br"] {
        let target = target(200, coding).await;

        let result = done(run(&target.http()).await);

        assert_eq!(result, gzipped("a secret of the trade"), "{coding}");
    }
}

#[tokio::test]
async fn a_compressed_failure_is_shown_as_text() {
    let said = error(run(&target(500, "gzip").await.http()).await);

    assert!(said.contains("500"), "{said}");
    assert!(said.ends_with(": a secret of the trade"), "{said}");
}

#[tokio::test]
async fn of_a_failure_in_an_unknown_coding_the_error_names_the_coding_and_has_no_bytes() {
    let said = error(run(&target(500, "x-own").await.http()).await);

    assert!(said.contains("500"), "{said}");
    assert!(said.contains("content coding 'x-own'"), "{said}");
    assert!(!said.contains('\u{fffd}'), "{said}");
}
