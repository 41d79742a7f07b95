//! A crowd of readers: what it costs the database, and whom it can't hold up.
//!
//! The router over the real engine and a real PostgreSQL, whose statements a proxy counts; without sockets, of which
//! two thousand clients would need more than a test may have.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use lameduck::{
    Lifecycle,
    api::{self, Api, ApiQueue},
    jobs::{
        engine::{
            Engine, Event,
            postgres::{PostgresEngine, PostgresOptions},
            sqlite::{SqliteEngine, SqliteOptions},
        },
        job::{JobId, NewJob, Order, Priority, When},
        ledger::Ledger,
    },
    lifecycle::Signals,
};
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tower::ServiceExt;

use super::stage::{BOUND, completed, queue};
use crate::{postgres_proxy::Proxy, postgres_server::server, process::harness::until};

/// Clients that wait at the same time.
const CROWD: usize = 2_000;

/// The engine, and nothing that asks it by itself: no worker, and a lease that is renewed every few minutes.
async fn engine(url: String) -> Arc<PostgresEngine> {
    let options = PostgresOptions {
        lease: Duration::from_secs(3600),
        ..PostgresOptions::new(url)
    };
    Arc::new(PostgresEngine::connect(options).await.unwrap())
}

fn router(engine: Arc<dyn Engine>) -> Router {
    let (signals, _trigger) = Signals::manual();
    let drain = Lifecycle::builder().signals(signals).drain().clone();
    let queues = vec![ApiQueue::new(queue("mail"))];
    api::router(Api::new(engine, queues, drain))
}

fn a_job(n: usize) -> NewJob {
    NewJob {
        queue: queue("mail"),
        payload: Bytes::from(n.to_string()),
        content_type: "text/plain".to_owned(),
        run_at: None,
        priority: Priority::default(),
        timeout: None,
        traceparent: None,
        max_attempts: 5,
        idempotency_key: None,
    }
}

async fn submit(engine: &dyn Engine, jobs: usize) -> Vec<JobId> {
    let submitted = engine.submit((0..jobs).map(a_job).collect()).await.unwrap();
    submitted.into_iter().map(|job| job.unwrap().id).collect()
}

async fn get(router: Router, path: String) -> Value {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = router.oneshot(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn wait_for(router: &Router, ids: &[JobId]) -> Vec<JoinHandle<Value>> {
    let wait = |id: &JobId| tokio::spawn(get(router.clone(), format!("/v1/jobs/{id}?wait=60s")));
    ids.iter().map(wait).collect()
}

/// Reads a stream of events until this is in it.
async fn read_until(body: &mut Body, wanted: &str) {
    let mut told = String::new();
    while !told.contains(wanted) {
        let frame = body.frame().await.expect("a stream that goes on").unwrap();
        told += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
}

/// Completes every job, each with its payload as the result.
async fn complete_all(engine: &dyn Engine) {
    loop {
        let reserved = engine.reserve(&queue("mail"), Order::Priority, 64).await;
        let reserved = reserved.unwrap();
        if reserved.is_empty() {
            return;
        }
        let settle = |r: lameduck::jobs::job::Reserved| {
            let result = std::str::from_utf8(&r.job.payload).unwrap().to_owned();
            r.claim.settle(completed(&result))
        };
        let settlements = Arc::new(reserved.into_iter().map(settle).collect());
        engine.settle(&settlements).await.unwrap();
    }
}

async fn each_hears_of_its_own(waiting: Vec<JoinHandle<Value>>) {
    let answers = timeout(BOUND, join_all(waiting)).await;
    for (n, answer) in answers.expect("all are answered").into_iter().enumerate() {
        let job = answer.unwrap();
        assert_eq!(
            (&job["state"], &job["result"]),
            (&"completed".into(), &n.to_string().into())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_waits_asks_the_database_next_to_nothing() {
    let database = server().database().await;
    let proxy = Proxy::in_front_of(&database).await;
    let engine = engine(proxy.url()).await;
    let worker = self::engine(database.url()).await;
    until("events of others", async || {
        engine.hears_others().then_some(())
    })
    .await;
    let ids = submit(&*worker, CROWD).await;
    let router = router(engine.clone());

    // A rate is promised, so it takes its time: each client asked once a second, three statements each.
    let before = proxy.statements();
    let waiting = wait_for(&router, &ids);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = proxy.statements() - before;
    complete_all(&*worker).await;
    each_hears_of_its_own(waiting).await;
    let all = proxy.statements() - before;

    println!("{CROWD} clients: {idle} statements while they waited, {all} until all were answered");
    assert!(
        idle <= CROWD / 4,
        "{idle} statements while {CROWD} clients waited for 3 s"
    );
    assert!(all <= CROWD, "{all} statements to answer {CROWD} clients");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_waits_for_one_job_has_it_read_once() {
    let database = server().database().await;
    let proxy = Proxy::in_front_of(&database).await;
    let engine = engine(proxy.url()).await;
    let ids = vec![submit(&*engine, 1).await[0]; CROWD];
    let router = router(engine.clone());
    let before = proxy.statements();

    let waiting = wait_for(&router, &ids);
    tokio::task::yield_now().await;
    complete_all(&*engine).await;
    for answer in timeout(BOUND, join_all(waiting)).await.unwrap() {
        assert_eq!(answer.unwrap()["state"], "completed");
    }

    let all = proxy.statements() - before;
    println!("{CROWD} clients of one job: {all} statements");
    assert!(
        all <= CROWD,
        "{all} statements for {CROWD} clients of one job"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_job_becomes_pending_by_the_clock_of_the_storage() {
    let database = server().database().await;
    let options = PostgresOptions {
        clock: Some(Arc::new(|| {
            Timestamp::now() + SignedDuration::from_hours(1)
        })),
        ..PostgresOptions::new(database.url())
    };
    let engine = Arc::new(PostgresEngine::connect(options).await.unwrap());
    let job = NewJob {
        run_at: Some(When::After(Duration::from_secs(1))),
        ..a_job(1)
    };
    let submitted = engine.submit(vec![job]).await.unwrap().remove(0);
    let path = format!("/v1/jobs/{}/events", submitted.unwrap().id);
    let request = Request::get(path).body(Body::empty()).unwrap();
    let mut events = router(engine).oneshot(request).await.unwrap().into_body();
    read_until(&mut events, r#""state":"scheduled""#).await;

    // By this machine's clock it is not for an hour, and the next sweep is seconds later than this.
    let due = read_until(&mut events, r#""state":"pending""#);
    timeout(Duration::from_secs(5), due).await.expect("told of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_answered_by_the_embedded_engine_too() {
    let directory = tempfile::tempdir().unwrap();
    let engine = SqliteEngine::open(directory.path(), SqliteOptions::default()).unwrap();
    let engine = Arc::new(engine);
    let ids = submit(&*engine, CROWD).await;
    let router = router(engine.clone());

    let waiting = wait_for(&router, &ids);
    complete_all(&*engine).await;

    each_hears_of_its_own(waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_hang_hold_up_neither_readiness_nor_the_ledger_nor_work() {
    let database = server().database().await;
    let engine = engine(database.url()).await;
    let id = submit(&*engine, 1).await[0];
    let router = router(engine.clone());
    let mut blocker = database.connect().await;
    let held = blocker.transaction().await.unwrap();
    let lock = "LOCK TABLE lameduck.jobs IN ACCESS EXCLUSIVE MODE";
    held.batch_execute(lock).await.unwrap();

    let readers: Vec<_> = (0..200)
        .map(|_| tokio::spawn(get(router.clone(), format!("/v1/jobs/{id}"))))
        .collect();
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let looking = database.connect().await;
    until("all readers that may be at work", async || {
        let blocked: i64 = looking.query_one(waits, &[]).await.unwrap().get(0);
        (blocked >= 3).then_some(())
    })
    .await;

    // Statements may take 10 s; these do not wait for any.
    let soon = Duration::from_secs(5);
    timeout(soon, engine.ping())
        .await
        .expect("readiness")
        .unwrap();
    timeout(soon, engine.drain_totals())
        .await
        .expect("the ledger")
        .unwrap();
    let marked = engine.mark_drain("d", "signal", Duration::ZERO);
    timeout(soon, marked).await.expect("the ledger").unwrap();
    let mail = queue("mail");
    let paused = engine.set_paused(&mail, true);
    timeout(soon, paused).await.expect("work").unwrap();
    held.commit().await.unwrap();
    for reader in readers {
        assert_eq!(reader.await.unwrap()["state"], "pending");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_submissions_wakes_the_pools_of_others_once_in_a_while() {
    let database = server().database().await;
    let (here, there) = (engine(database.url()).await, engine(database.url()).await);
    until("events of others", async || {
        (here.hears_others() && there.hears_others()).then_some(())
    })
    .await;
    let mut events = [here.events(), there.events()];

    let since = Instant::now();
    for n in 0..500 {
        here.submit(vec![a_job(n)]).await.unwrap();
    }
    let burst = since.elapsed();

    let runnable = Event::Runnable(queue("mail"));
    let mut woken = [0_u32; 2];
    for (events, woken) in events.iter_mut().zip(&mut woken) {
        let first = timeout(BOUND, events.recv())
            .await
            .expect("a wake")
            .unwrap();
        assert_eq!(first, runnable);
        *woken = 1;
        // The last wake comes when its interval is over; an interval of silence is the end of them.
        while let Ok(event) = timeout(Duration::from_millis(300), events.recv()).await {
            *woken += u32::from(event.unwrap() == runnable);
        }
    }
    println!("500 submissions in {burst:?}: {woken:?} wakes here and elsewhere");
    let at_most = |interval: u32| burst.as_millis() as u32 / interval + 3;
    assert!(woken[0] <= at_most(5), "{woken:?} wakes in {burst:?}");
    assert!(woken[1] <= at_most(50), "{woken:?} wakes in {burst:?}");
}
