//! A zoo of clients: what people have in front of a pod, each through two rollouts under load, and without
//! an error. `make zoo` runs it and prints a row for each; `docs/http.md` has the table, and what can't be
//! promised to whom.
//!
//! None of them repeats a request that has left it, or it is counted where it does: a retry would hide what
//! is looked for here.

mod proxy;
mod script;
mod with_reqwest;

use std::{collections::BTreeSet, time::Duration};

use self::{
    proxy::{Proxied, Upstream},
    script::Script,
    with_reqwest::{Protocol, Reqwest},
};
use crate::stage::{Crowd, GRACE, Outcome, Scene, Stage};

const SCENE: Scene = Scene {
    server: "lameduck",
    tls: false,
    wire: Duration::from_millis(5),
    lag: Duration::from_millis(600),
    rollouts: 2,
    patience: Duration::from_secs(GRACE.unsigned_abs()),
    may_cut: false,
};

const WITH_TLS: Scene = Scene { tls: true, ..SCENE };

/// Rolls pods under a crowd of one kind, and prints its row.
async fn roll<C: Crowd>(name: &str, scene: Scene, start: impl AsyncFnOnce(&Stage) -> C) -> Outcome {
    let outcome = Stage::play(scene, start).await;
    println!("{name:<26} {outcome}");
    outcome
}

/// The documentation has a row for each of them.
#[test]
fn every_client_of_the_zoo_is_in_the_documentation() {
    // Each test names its client before any other string.
    let tried: BTreeSet<&str> = include_str!("mod.rs")
        .split("`make zoo`\"]\nasync fn ")
        .skip(1)
        .filter_map(|test| test.split('"').nth(1))
        .collect();
    let table = include_str!("../../../docs/http.md")
        .split("| client |")
        .nth(1)
        .expect("a table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let documented: BTreeSet<&str> = rows
        .map(|row| row.split('|').nth(1).unwrap().trim())
        .collect();
    assert_eq!(documented, tried);
}

fn no_error(outcome: &Outcome) {
    assert_eq!(outcome.seen.failed, 0, "{:#?}", outcome.seen.failures);
}

/// A client that has no HTTP/2, so that nothing can have been refused.
async fn roll_script(name: &str, script: Script) {
    let outcome = roll(name, SCENE, async |stage: &Stage| {
        script.start(&format!("http://{}/echo", stage.address()))
    })
    .await;
    no_error(&outcome);
    assert_eq!(outcome.seen.refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn curl_http1() {
    roll_script("curl, HTTP/1.1", Script::shell("curl.sh")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn curl_h2c() {
    let outcome = roll("curl, h2c", SCENE, async |stage: &Stage| {
        let url = format!("http://{}/echo", stage.address());
        Script::shell("curl.sh").start_with(&url, &["--http2-prior-knowledge"])
    })
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn curl_h2_over_tls() {
    let outcome = roll("curl, HTTP/2 over TLS", WITH_TLS, async |stage: &Stage| {
        let url = format!("https://{}/echo", stage.address());
        let authority = stage.authority().to_str().unwrap();
        Script::shell("curl.sh").start_with(&url, &["--http2", "--cacert", authority])
    })
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn curl_http1_over_tls() {
    let outcome = roll(
        "curl, HTTP/1.1 over TLS",
        WITH_TLS,
        async |stage: &Stage| {
            let url = format!("https://{}/echo", stage.address());
            let authority = stage.authority().to_str().unwrap();
            Script::shell("curl.sh").start_with(&url, &["--no-alpn", "--cacert", authority])
        },
    )
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn reqwest_http1() {
    let outcome = roll("reqwest, HTTP/1.1", SCENE, async |stage: &Stage| {
        Reqwest::start(stage.address(), Protocol::Http1)
    })
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn reqwest_h2c() {
    let outcome = roll("reqwest, h2c", SCENE, async |stage: &Stage| {
        Reqwest::start(stage.address(), Protocol::Http2)
    })
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn python_http_client() {
    roll_script("Python http.client", Script::python("with_http_client.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn python_requests() {
    roll_script("Python requests", Script::python("with_requests.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn python_urllib3() {
    roll_script("Python urllib3", Script::python("with_urllib3.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn python_aiohttp() {
    roll_script("Python aiohttp", Script::python("with_aiohttp.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn python_httpx() {
    roll_script("Python httpx, HTTP/1.1", Script::python("with_httpx.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn python_httpx_h2c() {
    // python-h2 knows no connection that is going away: with GOAWAY it is closed, and whatever comes then is an
    // error, the answers to open streams included. httpx leaves such a connection open, with half a request on it.
    let scene = Scene {
        rollouts: 1,
        may_cut: true,
        ..SCENE
    };
    let outcome = roll("Python httpx, h2c", scene, async |stage: &Stage| {
        let url = format!("http://{}/echo", stage.address());
        Script::python("with_httpx.py").start_with(&url, &["http2"])
    })
    .await;
    // So what each of its workers had under way is lost, once; the next connection is a good one.
    let seen = &outcome.seen;
    assert!(seen.failed <= 16, "{:#?}", seen.failures);
    for failure in &seen.failures {
        let known = [
            "ConnectionState.CLOSED",
            "ConnectionTerminated",
            "Server disconnected",
            "ReadTimeout",
        ];
        assert!(
            known.iter().any(|error| failure.contains(error)),
            "{failure}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn node_keep_alive_agent() {
    roll_script("Node http.Agent keepAlive", Script::node("with_agent.mjs")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn node_fetch() {
    roll_script("Node fetch (undici)", Script::node("with_fetch.mjs")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn behind_nginx() {
    let outcome = roll("nginx", SCENE, async |stage: &Stage| {
        Proxied::by_nginx(stage.address()).await
    })
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn behind_haproxy() {
    let outcome = roll("HAProxy, HTTP/1.1", SCENE, async |stage: &Stage| {
        Proxied::by_haproxy(stage.address(), Upstream::Http1).await
    })
    .await;
    no_error(&outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by `make zoo`"]
async fn behind_haproxy_h2c() {
    let outcome = roll("HAProxy, h2c", SCENE, async |stage: &Stage| {
        Proxied::by_haproxy(stage.address(), Upstream::Http2).await
    })
    .await;
    no_error(&outcome);
}
