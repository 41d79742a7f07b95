//! What is not the job's fault costs it no attempt.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use super::harness::{Caller, JOBS, Place, until};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

#[tokio::test]
async fn a_job_for_which_no_process_can_be_had_waits_and_loses_no_attempt() {
    let place = Place::new(GATED);
    let process = place.start(&["--workers", "12"]).await;
    // Over a connection that is there already: the next one might not be had either.
    let mut caller = Caller::new(true);
    let mut call = async |method: &str, path: &str| {
        let answer = caller.call(process.api, method, path, &[], "x").await;
        answer.unwrap().json()
    };
    call("GET", "/v1/queues").await;
    let open = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let open = fs::read_dir(open).unwrap().count() as u64;
    let few = Rlimit {
        current: Some(open + 24),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(Some(process.pid()), Resource::Nofile, few).unwrap();

    let mut ids = Vec::new();
    for _ in 0..12 {
        let id = call("POST", JOBS).await["id"].clone();
        ids.push(id.as_str().unwrap().to_owned());
    }
    let message = "jobs cannot be started; they are tried one at a time until one can";
    let said = process.log().line(message, |_| true).await;

    let error = said["error"].as_str().unwrap();
    assert!(error.contains("ulimit -n"), "{said}");
    place.touch("go");
    for id in ids {
        let job = until("a job that is done", async || {
            let job = call("GET", &format!("/v1/jobs/{id}")).await;
            (job["state"] == "completed").then_some(job)
        })
        .await;
        assert_eq!(job["attempt"], 1, "{job}");
    }
}
