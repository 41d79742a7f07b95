//! The table of the module, row by row.

use std::time::{Duration, SystemTime};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http::StatusCode;
use lameduck::jobs::handler::{Retry, Verdict};
use tokio::io::AsyncWriteExt;

use super::{
    context, done, error, failed, job, run,
    target::{Target, Wire},
};
use lameduck::jobs::handler::Handler;

/// What becomes of a job whose target answers this.
async fn answered(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Verdict {
    run(&Target::start(answer).await.http()).await
}

async fn answered_status(status: u16) -> Verdict {
    answered(move || (StatusCode::from_u16(status).unwrap(), "so it goes").into_response()).await
}

async fn answered_with(status: u16, header: &'static str, value: String) -> Verdict {
    answered(move || {
        let status = StatusCode::from_u16(status).unwrap();
        (status, [(header, value.clone())]).into_response()
    })
    .await
}

/// Answers with a body without an end.
fn endless() -> Body {
    let chunk = || Ok::<_, std::io::Error>(vec![b'x'; 16 << 10]);
    Body::from_stream(stream::repeat_with(chunk))
}

// === done ===

#[tokio::test]
async fn a_2xx_is_done_and_its_body_is_the_result() {
    for status in [200, 201, 203, 206] {
        assert_eq!(
            done(answered_status(status).await),
            "so it goes",
            "{status}"
        );
    }
    assert_eq!(
        done(answered(|| StatusCode::NO_CONTENT.into_response()).await),
        ""
    );
}

#[tokio::test]
async fn a_result_is_bytes() {
    let bytes: Vec<u8> = (0..=255).collect();
    let answer = bytes.clone();
    assert_eq!(
        done(answered(move || answer.clone().into_response()).await),
        bytes
    );
}

#[tokio::test]
async fn of_a_body_without_an_end_the_first_bytes_are_the_result() {
    let target = Target::start(|| endless().into_response()).await;

    assert_eq!(done(run(&target.http()).await), vec![b'x'; 64 << 10]);
    let three = target.http().result_limit(3);
    assert_eq!(done(run(&three).await), "xxx");
    let nothing = target.http().result_limit(0);
    assert_eq!(done(run(&nothing).await), "");
}

#[tokio::test]
async fn a_body_without_an_end_is_not_read_for_ever() {
    let wire = Wire::start().await;
    let http = wire.http();
    let target = async {
        let mut stream = wire.request().await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
    };

    let (verdict, ()) = tokio::join!(run(&http), target);

    assert_eq!(done(verdict).len(), 64 << 10);
}

#[tokio::test]
async fn a_result_that_comes_slowly_is_waited_for() {
    let wire = Wire::start().await;
    let http = wire.http();
    let target = async {
        let mut stream = wire.request().await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
            .await
            .unwrap();
        for byte in b"hello" {
            tokio::task::yield_now().await;
            stream.write_all(&[*byte]).await.unwrap();
        }
        stream
    };

    let (verdict, _open) = tokio::join!(run(&http), target);

    assert_eq!(done(verdict), "hello");
}

// === deferred ===

#[tokio::test]
async fn a_202_is_deferred_for_as_long_as_it_says() {
    let hour = Duration::from_secs(3600);
    let week = Duration::from_secs(7 * 24 * 3600);
    let rows = [
        ("1800", hour / 2),
        ("30m", hour / 2),
        ("1h 30m", hour * 3 / 2),
        ("400d", week),
        ("0", hour),
        ("whenever", hour),
    ];
    for (asked, within) in rows {
        let verdict = answered_with(202, "lameduck-deferred", asked.to_owned()).await;
        assert_eq!(verdict, Verdict::Deferred { within }, "{asked}");
    }
    assert_eq!(
        answered_status(202).await,
        Verdict::Deferred { within: hour }
    );
}

#[tokio::test]
async fn only_a_202_can_defer() {
    let verdict = answered_with(200, "lameduck-deferred", "30m".to_owned()).await;
    done(verdict);
}

// === failed ===

#[tokio::test]
async fn what_is_no_2xx_has_failed_and_is_tried_again() {
    let statuses = [
        300, 304, 400, 401, 403, 404, 405, 406, 407, 408, 409, 411, 413, 415, 418, 421, 422, 425,
        429, 451, 499, 500, 501, 502, 503, 504, 505, 507, 599, 999,
    ];
    for status in statuses {
        let error = error(answered_status(status).await);
        assert!(
            error.contains(&format!("/jobs answered {status}")),
            "{error}"
        );
        // A 304 has no body.
        assert!(status == 304 || error.ends_with(": so it goes"), "{error}");
    }
}

#[tokio::test]
async fn a_410_is_never_tried_again() {
    let (error, retry) = failed(answered_status(410).await);
    assert_eq!(retry, Retry::Never);
    assert!(error.ends_with("answered 410 Gone: so it goes"), "{error}");

    let asked = answered_with(410, "retry-after", "10".to_owned()).await;
    assert_eq!(failed(asked).1, Retry::Never);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_where_it_pointed() {
    for status in [301, 302, 303, 307, 308] {
        let mut elsewhere = Target::start(|| "never".into_response()).await;
        let location = format!("http://{}/new", elsewhere.address);

        let error = error(answered_with(status, "location", location.clone()).await);

        assert!(error.contains(&format!("points to {location}")), "{error}");
        assert!(
            error.contains("configure the URL that answers itself"),
            "{error}"
        );
        assert!(elsewhere.saw_nothing());
    }
}

#[tokio::test]
async fn a_retry_after_in_seconds_is_handed_on() {
    for status in [429, 503, 500, 413] {
        let (_, retry) = failed(answered_with(status, "retry-after", "17".to_owned()).await);
        assert_eq!(retry, Retry::After(Duration::from_secs(17)), "{status}");
    }
}

#[tokio::test]
async fn a_retry_after_as_a_date_is_handed_on() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    match failed(answered_with(503, "retry-after", date).await).1 {
        Retry::After(wait) => assert!((50..=60).contains(&wait.as_secs()), "{wait:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_absurd_retry_after_is_clamped_or_ignored() {
    let week = Duration::from_secs(7 * 24 * 3600);
    for long in ["99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let (_, retry) = failed(answered_with(429, "retry-after", long.to_owned()).await);
        assert_eq!(retry, Retry::After(week), "{long}");
    }
    for absurd in ["", "0", "-1", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"] {
        error(answered_with(429, "retry-after", absurd.to_owned()).await);
    }
}

#[tokio::test]
async fn of_a_failures_body_the_first_bytes_are_in_the_error() {
    let error_of_endless =
        error(answered(|| (StatusCode::BAD_GATEWAY, endless()).into_response()).await);
    let said = error_of_endless.split(": ").last().unwrap();
    assert_eq!(said, format!("{}…", "x".repeat(8 << 10)));

    let binary =
        error(answered(|| (StatusCode::BAD_GATEWAY, b"a\0b\xff".as_slice()).into_response()).await);
    assert!(binary.ends_with(": a\u{fffd}b\u{fffd}"), "{binary}");
}

#[tokio::test(start_paused = true)]
async fn a_failures_body_that_never_ends_is_not_waited_for() {
    let wire = Wire::start().await;
    let http = wire.http();
    let target = async {
        let mut stream = wire.request().await;
        let answer = "HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhalf of";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    };

    let (verdict, _open) = tokio::join!(run(&http), target);

    let error = error(verdict);
    assert!(
        error.ends_with("500 Internal Server Error: half of…"),
        "{error}"
    );
}

// === no answer ===

/// What becomes of a job whose target writes this and closes.
async fn written(bytes: &'static str) -> Verdict {
    let wire = Wire::start().await;
    let http = wire.http();
    tokio::join!(run(&http), wire.answer(bytes)).0
}

#[tokio::test]
async fn what_is_no_http_has_failed_and_may_have_run() {
    let bad = [
        "HELLO\r\n\r\n",
        "\0\0\0\0\0\0\0\0",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno header at all\r\n\r\n",
    ];
    for bytes in bad {
        let error = error(written(bytes).await);
        assert!(
            error.contains("may have done the work"),
            "{bytes:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_has_failed() {
    for bytes in ["", "HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\ncontent-"] {
        let error = error(written(bytes).await);
        assert!(
            error.contains("may have done the work"),
            "{bytes:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_the_answer_has_failed() {
    for framing in [
        "content-length: 100\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let wire = Wire::start().await;
        let http = wire.http();
        let answer = wire.answer(format!("HTTP/1.1 200 OK\r\n{framing}"));
        let (verdict, ()) = tokio::join!(run(&http), answer);
        let error = error(verdict);
        assert!(error.contains("before the answer was complete"), "{error}");
    }
}

#[tokio::test]
async fn of_a_broken_failure_its_status_counts() {
    let error = error(written("HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhalf of").await);
    assert!(
        error.ends_with("500 Internal Server Error: half of…"),
        "{error}"
    );
}

#[tokio::test]
async fn a_content_type_that_is_no_header_can_never_be_posted() {
    let target = Target::start(|| "never".into_response()).await;
    let mut odd = job("hello");
    odd.content_type = "text/plain\r\nlameduck-queue: another".to_owned();

    let (error, retry) = failed(target.http().run(&odd, context()).await);

    assert_eq!(retry, Retry::Never);
    assert!(error.contains("content type"), "{error}");
}
