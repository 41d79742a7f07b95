//! What a target gets to see.

use std::{process::Command, time::Duration};

use axum::response::IntoResponse;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use lameduck::jobs::handler::{Handler, Verdict, http::Http};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    context, done, job,
    target::{Seen, Target},
};

const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn target() -> Target {
    Target::start(|| "ok".into_response()).await
}

#[tokio::test]
async fn the_target_gets_the_payload_and_all_that_is_known_of_the_job() {
    let mut target = target().await;
    let payload: Vec<u8> = (0..=255).collect();
    let mut job = job(payload.clone());
    job.content_type = "image/png; q=\"é\"".to_owned();
    job.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let mut context = context();
    context.timeout_at = Some(Instant::now() + Duration::from_secs(60));

    done(target.http().run(&job, context).await);

    let seen = target.seen();
    let id = job.id.to_string();
    assert_eq!((&seen.method, seen.path.as_str()), (&Method::POST, "/jobs"));
    assert_eq!(seen.body, payload);
    assert_eq!(seen.headers["content-type"], job.content_type.as_bytes());
    let headers = [
        ("content-length", "256"),
        ("idempotency-key", &id),
        ("lameduck-job-id", &id),
        ("lameduck-queue", "mail"),
        ("lameduck-attempt", "2"),
        ("lameduck-max-attempts", "5"),
        ("lameduck-claim", "the-claim"),
        ("traceparent", job.traceparent.as_deref().unwrap()),
        (
            "user-agent",
            concat!("lameduck/", env!("CARGO_PKG_VERSION")),
        ),
    ];
    for (name, value) in headers {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    let deadline: Timestamp = seen.header("lameduck-deadline").unwrap().parse().unwrap();
    let left = deadline.duration_since(Timestamp::now()).as_secs();
    assert!((50..=60).contains(&left), "{left}");
}

#[tokio::test]
async fn what_is_not_known_is_not_said() {
    let mut target = target().await;
    let mut job = job("");
    job.traceparent = Some("no\ntrace context".to_owned());

    done(target.http().run(&job, context()).await);

    let seen = target.seen();
    assert_eq!(seen.body, "");
    assert_eq!(seen.header("content-length"), Some("0"));
    for name in [
        "lameduck-deadline",
        "traceparent",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "transfer-encoding",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn user_and_password_of_the_url_are_sent_as_basic_authentication() {
    let mut target = target().await;
    let url = format!("http://me:p%40ss@{}/jobs?for=me", target.address);

    done(Http::new(&url).unwrap().run(&job("hello"), context()).await);

    let seen = target.seen();
    let expected = format!("Basic {}", STANDARD.encode("me:p@ss"));
    assert_eq!(seen.header("authorization"), Some(expected.as_str()));
    assert_eq!(seen.path, "/jobs?for=me");
}

#[tokio::test]
async fn no_error_repeats_a_password_or_a_query() {
    let url = "http://me:secret@127.77.0.2:1/jobs?token=secret";
    match Http::new(url).unwrap().run(&job("hello"), context()).await {
        Verdict::Postponed { error, .. } => {
            assert!(error.contains("http://127.77.0.2:1/jobs"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_request_is_signed_with_each_secret() {
    let mut target = target().await;
    let secrets = [NEW, OLD].map(|secret| secret.parse().unwrap()).to_vec();
    // Not UTF-8: a payload is bytes.
    let job = job(vec![0, 159, 146, 150]);

    done(target.http().secrets(secrets).run(&job, context()).await);

    let seen = target.seen();
    assert_eq!(seen.header("webhook-id"), Some(job.id.to_string().as_str()));
    let sent: i64 = seen.header("webhook-timestamp").unwrap().parse().unwrap();
    assert!((Timestamp::now().as_second() - sent).abs() <= 5, "{sent}");
    let expected = format!("{} {}", signed(NEW, &seen), signed(OLD, &seen));
    assert_eq!(seen.header("webhook-signature"), Some(expected.as_str()));
}

#[tokio::test]
async fn the_documented_python_verifies_a_signature_and_nothing_else() {
    let mut target = target().await;
    let secrets = [NEW, OLD].map(|secret| secret.parse().unwrap()).to_vec();
    done(
        target
            .http()
            .secrets(secrets)
            .run(&job("hello"), context())
            .await,
    );
    let seen = target.seen();
    let header = |name| seen.header(name).unwrap();
    let documented = include_str!("../../../docs/handlers.md");
    let python = documented
        .split("```")
        .find_map(|block| block.strip_prefix("python\n"));
    let script = format!(
        "{}\nheaders = {{'webhook-id': '{}', 'webhook-timestamp': '{}', 'webhook-signature': '{}'}}
for secret in '{NEW}', '{OLD}':
    assert is_genuine(headers, b'hello', secret)
    assert not is_genuine(headers, b'hallo', secret)
    assert not is_genuine(headers | {{'webhook-id': 'another'}}, b'hello', secret)
    assert not is_genuine(headers | {{'webhook-timestamp': '1649367553'}}, b'hello', secret)
assert not is_genuine(headers, b'hello', 'whsec_AAAABBBBCCCCDDDDEEEEFFFFGGGGHHHH')
",
        python.unwrap(),
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    );

    // `cargo test` asks for nothing but Rust; CI has Python.
    let Ok(ran) = Command::new("python3").args(["-c", &script]).output() else {
        return;
    };

    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[tokio::test]
async fn connections_are_used_again() {
    let mut target = target().await;
    let http = target.http();

    for _ in 0..3 {
        done(http.run(&job("hello"), context()).await);
    }

    let first = target.seen().from;
    assert_eq!([target.seen().from, target.seen().from], [first, first]);
}

/// What the specification says that a request's signature is, worked out without the code under test.
fn signed(secret: &str, seen: &Seen) -> String {
    let key = STANDARD.decode(&secret["whsec_".len()..]).unwrap();
    let id = seen.header("webhook-id").unwrap();
    let timestamp = seen.header("webhook-timestamp").unwrap();
    let message = [format!("{id}.{timestamp}.").as_bytes(), &seen.body].concat();
    format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &message)))
}

/// RFC 2104, for keys that are not longer than a block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Bytes {
    let pad = |with: u8| -> Vec<u8> {
        let mut block = key.to_vec();
        block.resize(64, 0);
        block.iter().map(|byte| byte ^ with).collect()
    };
    let inner = Sha256::digest([pad(0x36).as_slice(), message].concat());
    let outer = Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat());
    Bytes::copy_from_slice(&outer)
}
