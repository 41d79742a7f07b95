//! Whoever does the work is away: the program is not there, the endpoint refuses or answers 503 to everybody.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, http::StatusCode, routing::post};
use serde_json::Value;

use super::harness::{Place, Process, call, until};

/// More than could be begun by chance, and no more than a busy machine does in its time.
const JOBS: usize = 400;
const CANNOT_START: &str = "jobs cannot be started; they are tried one at a time until one can";
const ASKS_FOR_LESS: &str =
    "the target asks for less; jobs are tried one at a time until one is accepted";
const AGAIN: &str = "jobs are started again, as many at once as there are workers";

async fn start(place: &Place, setting: (&str, &str)) -> Process {
    let mut command = place.command(&["--backoff-max", "1s", "--max-attempts", "99"]);
    command.env(setting.0, setting.1);
    Process::start(command).await
}

async fn submit(process: &Process) {
    let batch = "{\"payload\":\"x\"}\n".repeat(JOBS);
    let path = "/v1/queues/default/jobs:batch";
    let headers = [("content-type", "application/x-ndjson")];
    let answer = call(process.api, "POST", path, &headers, &batch).await;
    let answer = answer.unwrap();
    assert!(answer.status < 300, "{answer:?}");
}

async fn outcomes(process: &Process, outcome: &str) -> f64 {
    let series = format!("lameduck_job_outcomes_total{{outcome=\"{outcome}\",queue=\"default\"}}");
    process.metric(&series).await.unwrap()
}

async fn gauge(process: &Process, name: &str) -> f64 {
    process
        .metric(&format!("{name}{{queue=\"default\"}}"))
        .await
        .unwrap()
}

async fn backoff(process: &Process) -> Value {
    let queue = process.get("/v1/queues/default").await.json();
    let all = process.get("/v1/queues").await.json();
    assert_eq!(
        all["queues"][0]["backoff"]["reason"],
        queue["backoff"]["reason"]
    );
    queue["backoff"].clone()
}

/// What is promised of a target that is away, and of one that is back.
async fn goes_easy(process: Process, bring_back: impl AsyncFnOnce()) {
    submit(&process).await;

    // The workers' first jobs, and some that were tried alone.
    until("tries", async || {
        (outcomes(&process, "postponed").await >= 8.0).then_some(())
    })
    .await;
    until("an outage of two seconds", async || {
        let since = gauge(&process, "lameduck_queue_backoff_start_timestamp_seconds").await;
        let now = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
        (since > 0.0 && now - since > 2.0).then_some(())
    })
    .await;

    let reserved = outcomes(&process, "postponed").await + outcomes(&process, "released").await;
    assert!(reserved < 60.0, "{reserved} jobs were touched");
    let told = process.log().line(CANNOT_START, |_| true).await;
    assert_eq!(told["queue"], "default");
    assert!(told["error"].is_string(), "{told}");
    assert_eq!(
        gauge(&process, "lameduck_queue_target_unreachable").await,
        1.0
    );
    let backoff_now = backoff(&process).await;
    assert_eq!(backoff_now["reason"], "unreachable");
    assert!(backoff_now["since"].is_string(), "{backoff_now}");
    let ready = process.admin("/readyz?verbose").await;
    let text = std::str::from_utf8(&ready.body).unwrap();
    assert_eq!(ready.status, 200, "{text}");
    assert!(
        text.contains("[+]queue default ok: its jobs cannot be started since 2"),
        "{text}"
    );

    bring_back().await;
    until("all of them", async || {
        (outcomes(&process, "completed").await as usize == JOBS).then_some(())
    })
    .await;
    assert_eq!(
        gauge(&process, "lameduck_queue_target_unreachable").await,
        0.0
    );
    assert_eq!(backoff(&process).await, Value::Null);
    process.log().line(AGAIN, |_| true).await;
    let exit = process.terminate().await;
    // Neither a line for each job nor one for each try.
    let told = exit.log.iter().filter(|line| line["level"] == "WARN");
    let about: Vec<_> = told.filter(|line| line["queue"] == "default").collect();
    assert_eq!(about.len(), 1, "{about:?}");
}

#[tokio::test]
async fn jobs_whose_program_is_missing_are_tried_one_at_a_time() {
    let place = Place::new("");
    let program = place.path("program");
    let process = start(&place, ("LAMEDUCK_EXEC", program.to_str().unwrap())).await;

    goes_easy(process, async || {
        // Whole from the first instant on.
        let made = place.path("made");
        fs::copy("/bin/true", &made).unwrap();
        fs::set_permissions(&made, PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(&made, &program).unwrap();
    })
    .await;
}

fn an_address() -> SocketAddr {
    // One of its own, so that nobody else's listener gets it meanwhile.
    TcpListener::bind("127.78.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn serve(address: SocketAddr, router: Router) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
}

#[tokio::test]
async fn jobs_whose_endpoint_refuses_are_tried_one_at_a_time() {
    let place = Place::new("");
    let address = an_address();
    let url = format!("http://{address}/");
    let process = start(&place, ("LAMEDUCK_HTTP", &url)).await;

    goes_easy(process, async || {
        serve(address, Router::new().route("/", post(async || "done"))).await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_answers_503_to_everybody_is_asked_by_one_at_a_time() {
    let place = Place::new("");
    let address = an_address();
    let (busy, asked) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (is_busy, asks) = (busy.clone(), asked.clone());
    let answer = async move || {
        asks.fetch_add(1, SeqCst);
        match is_busy.load(SeqCst) {
            true => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]),
            false => (StatusCode::OK, [("retry-after", "0")]),
        }
    };
    serve(address, Router::new().route("/", post(answer))).await;
    let process = start(&place, ("LAMEDUCK_HTTP", &format!("http://{address}/"))).await;
    submit(&process).await;

    process.log().line(ASKS_FOR_LESS, |_| true).await;
    let first = asked.load(SeqCst);
    until("some tries", async || {
        (asked.load(SeqCst) >= first + 4).then_some(())
    })
    .await;
    assert!(first < 80, "{first}");
    assert_eq!(
        gauge(&process, "lameduck_queue_target_overloaded").await,
        1.0
    );
    assert_eq!(backoff(&process).await["reason"], "overloaded");
    assert_eq!(process.admin("/readyz").await.status, 200);

    busy.store(false, SeqCst);
    until("all of them", async || {
        (outcomes(&process, "completed").await as usize == JOBS).then_some(())
    })
    .await;
    assert_eq!(outcomes(&process, "dead").await, 0.0);
    process.terminate().await.assert_clean();
}
