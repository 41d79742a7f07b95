//! What probes say, word by word, and what `/drain` says beside them.

use axum::{Router, body::Body};
use http_body_util::BodyExt;
use hyper::Request;
use lameduck::{
    Drain, Lifecycle,
    http::{drain_state, probes},
    lifecycle::{JobGuard, Moment, Phase, Signals, Trigger},
};
use serde_json::Value;
use tower::ServiceExt;

/// A program that serves, with a job that keeps its drain from ending.
struct Program {
    drain: Drain,
    router: Router,
    trigger: Trigger,
    job: JobGuard,
}

impl Program {
    fn starting() -> (Self, Lifecycle) {
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder().signals(signals);
        let drain = lifecycle.drain().clone();
        let mut job = drain.work("resize").hold();
        job.name("job-1".to_owned());
        let program = Self {
            router: probes(drain.clone()).merge(drain_state(drain.clone())),
            drain,
            trigger,
            job,
        };
        (program, lifecycle)
    }

    async fn serving() -> Self {
        let (program, lifecycle) = Self::starting();
        tokio::spawn(lifecycle.run());
        let mut phases = program.drain.phase_changes();
        let serving = |all: &Vec<(Phase, _)>| all.iter().any(|(phase, _)| *phase == Phase::Serving);
        phases.wait_for(serving).await.unwrap();
        program
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn state(&self) -> Value {
        let (status, body) = self.get("/drain").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_succeeds_says_ok_and_names_its_checks_when_asked() {
    let program = Program::serving().await;
    let storage = program.drain.readiness_check("storage");

    for path in ["/livez", "/readyz", "/startupz", "/readyz?verbos"] {
        assert_eq!(program.get(path).await, (200, "ok\n".to_owned()), "{path}");
    }
    let verbose = "[+]started ok\n[+]drain ok\n[+]storage ok\nreadyz check passed\n";
    for path in ["/readyz?verbose", "/readyz?a=b&verbose=1"] {
        assert_eq!(program.get(path).await, (200, verbose.to_owned()), "{path}");
    }
    storage.note("slow,\nbut it answers");
    let noted =
        "[+]started ok\n[+]drain ok\n[+]storage ok: slow, but it answers\nreadyz check passed\n";
    let said = program.get("/readyz?verbose").await;
    assert_eq!(said, (200, noted.to_owned()));
    assert_eq!(program.get("/readyz").await, (200, "ok\n".to_owned()));
    let (_, live) = program.get("/livez?verbose").await;
    assert_eq!(live, "[+]ping ok\nlivez check passed\n");
    let (_, started) = program.get("/startupz?verbose").await;
    assert_eq!(started, "[+]started ok\nstartupz check passed\n");
    drop(storage);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_names_what_fails_whether_asked_or_not() {
    let (program, _lifecycle) = Program::starting();
    let failed = "[-]started failed: starting\nstartupz check failed\n";
    assert_eq!(program.get("/startupz").await, (503, failed.to_owned()));
    assert_eq!(program.get("/readyz").await.0, 503);
    assert_eq!(program.get("/livez").await.0, 200);

    let program = Program::serving().await;
    let storage = program.drain.readiness_check("storage");
    storage.fail("no answer\nfor 3 s");

    let failed =
        "[+]started ok\n[+]drain ok\n[-]storage failed: no answer for 3 s\nreadyz check failed\n";
    assert_eq!(program.get("/readyz").await, (503, failed.to_owned()));
    assert_eq!(program.get("/livez").await.0, 200);
    assert_eq!(program.get("/startupz").await.0, 200);
    storage.pass();
    assert_eq!(program.get("/readyz").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_readiness_names_it_and_liveness_stays() {
    let program = Program::serving().await;

    program.trigger.fire();
    program.drain.readiness_failed().await;

    let (status, said) = program.get("/readyz").await;
    assert_eq!(status, 503);
    let id = program.drain.id();
    let drain = format!("\n[-]drain failed: drain {id} began (signal), phase ");
    assert!(said.contains(&drain), "{said}");
    assert!(said.ends_with("readyz check failed\n"), "{said}");
    let (status, said) = program.get("/livez?verbose").await;
    assert_eq!((status, &*said), (200, "[+]ping ok\nlivez check passed\n"));
    assert_eq!(program.get("/startupz").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_state_of_the_drain_is_told_before_it_and_while_it_lasts() {
    let program = Program::serving().await;

    let before = program.state().await;
    program.trigger.fire();
    program.drain.reached(Moment::Began).await;
    let during = program.state().await;
    drop(program.job);

    assert_eq!(before["drain_id"], program.drain.id());
    assert_eq!(before["drain_id"], during["drain_id"]);
    assert_eq!(
        (&before["phase"], &before["ready"]),
        (&"serving".into(), &true.into())
    );
    for nothing_yet in [
        "cause",
        "began_at",
        "seconds",
        "seconds_left",
        "deadline_source",
    ] {
        assert_eq!(before[nothing_yet], Value::Null, "{nothing_yet}");
        assert_ne!(during[nothing_yet], Value::Null, "{nothing_yet}");
    }
    assert_eq!(
        (&during["ready"], &during["cause"]),
        (&false.into(), &"signal".into())
    );
    assert_eq!(during["jobs_in_flight"], 1);
    assert_eq!(during["jobs"], serde_json::json!(["job-1"]));
    assert_eq!(during["moments"]["began"], 0.0);
}
