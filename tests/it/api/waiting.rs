//! Who waits for a job: by a long poll or by an event stream, also across a drain.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use super::stage::{BOUND, Stage, completed, deferred};
use crate::{
    clients,
    process::harness::{Place, until},
};

/// An event stream as a client reads it.
struct Events {
    response: reqwest::Response,
    read: String,
}

#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    retry: Option<u64>,
    data: String,
}

impl Events {
    async fn follow(base: impl std::fmt::Display, id: &str) -> Self {
        let url = format!("http://{base}/v1/jobs/{id}/events");
        let response = clients::reqwest()
            .build()
            .unwrap()
            .get(url)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self {
            response,
            read: String::new(),
        }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        let next = async {
            loop {
                if let Some((event, rest)) = self.read.split_once("\n\n") {
                    let event = Event::parse(event);
                    self.read = rest.to_owned();
                    return Some(event);
                }
                let chunk = self.response.chunk().await.unwrap()?;
                self.read += std::str::from_utf8(&chunk).unwrap();
            }
        };
        timeout(BOUND, next).await.expect("an event or the end")
    }

    /// The next event, which tells a state; the job.
    async fn state(&mut self, state: &str) -> (Event, Value) {
        let event = self.next().await.expect("an event");
        assert_eq!(event.name, "state");
        let job: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(job["state"], state, "{job}");
        (event, job)
    }
}

impl Event {
    fn parse(text: &str) -> Self {
        let mut event = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap();
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event.name = value.to_owned(),
                "id" => event.id = value.to_owned(),
                "retry" => event.retry = Some(value.parse().unwrap()),
                "data" => event.data += value,
                _ => {}
            }
        }
        event
    }
}

#[tokio::test]
async fn who_waits_is_answered_when_the_job_has_ended() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;
    let path = format!("/v1/jobs/{id}?wait=30s");

    let since = Instant::now();
    let end = async {
        let claim = stage.reserve().await;
        stage.settle(claim, completed("42")).await;
    };
    let (job, ()) = tokio::join!(stage.get(&path), end);

    assert_eq!(job.json()["state"], "completed");
    assert_eq!(job.json()["result"], "42");
    assert!(!job.headers.contains_key("retry-after"));
    assert!(since.elapsed() < Duration::from_secs(10));
    // Nobody waits for what has ended.
    assert_eq!(stage.get(&path).await.json(), job.json());
}

#[tokio::test]
async fn who_has_waited_long_enough_gets_the_job_as_it_stands() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;

    let job = stage.get(&format!("/v1/jobs/{id}?wait=50ms")).await;

    assert_eq!(job.json()["state"], "pending");
    assert!(!job.headers.contains_key("content-location"));
    for (wait, word) in [("soon", "duration"), ("61s", "60s"), ("-1s", "duration")] {
        let path = format!("/v1/jobs/{id}?wait={wait}");
        let detail = stage.get(&path).await.problem(400);
        assert!(detail.contains(word), "{detail}");
    }
}

#[tokio::test]
async fn many_wait_for_many_and_each_hears_of_its_own() {
    let stage = Stage::start().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(stage.submit(&n.to_string()).await);
    }
    let paths: Vec<String> = ids
        .iter()
        .flat_map(|id| std::iter::repeat_n(format!("/v1/jobs/{id}?wait=30s"), 3))
        .collect();
    let waiting = futures_util::future::join_all(paths.iter().map(|path| stage.get(path)));

    let work = async {
        for _ in &ids {
            let (claim, payload) = stage.reserve_payload().await;
            stage.settle(claim, completed(&payload)).await;
        }
    };
    let (answers, ()) = tokio::join!(waiting, work);

    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.json()["result"], (n / 3).to_string());
    }
}

#[tokio::test]
async fn an_event_stream_tells_each_change_and_ends_with_the_job() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;
    let mut events = Events::follow(stage.address, &id).await;
    let (first, _) = events.state("pending").await;

    let claim = stage.reserve().await;
    let (second, job) = events.state("running").await;
    assert_eq!(job["attempt"], 1);
    let token = claim.to_token_string();
    stage.settle(claim, deferred()).await;
    let (third, _) = events.state("deferred").await;
    let path = format!("/v1/jobs/{id}/outcome");
    let done = r#"{"outcome": "completed", "result": "42"}"#;
    stage.post(&path, &[("lameduck-claim", &token)], done).await;
    let (last, job) = events.state("completed").await;

    assert_eq!([first.id, second.id, third.id], ["1", "2", "3"]);
    assert_eq!(last.id, "end");
    assert_eq!(job["history"][0]["end"], "completed");
    assert_eq!(job, stage.job(&id).await);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_browser_that_comes_back_after_the_end_is_told_to_stop() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;
    stage.order(&id, "cancel").await;
    let mut events = Events::follow(stage.address, &id).await;
    let (last, _) = events.state("cancelled").await;
    assert!(events.next().await.is_none());

    let path = format!("/v1/jobs/{id}/events");
    let headers = [("last-event-id", last.id.as_str())];
    let again = super::stage::call(stage.address, "GET", &path, &headers, "").await;

    assert_eq!(again.unwrap().status, 204);
}

#[tokio::test]
async fn in_a_drain_who_waits_is_told_where_to_go_on() {
    let stage = Stage::start().await;
    let id = stage.submit("x").await;
    let mut events = Events::follow(stage.address, &id).await;
    events.state("pending").await;
    let path = format!("/v1/jobs/{id}?wait=60s");

    let begin = async {
        // The event stream's request, and the long poll's.
        let traffic = &stage.drain.all_traffic()[0];
        until("the long poll waits", async || {
            (traffic.requests() == 2).then_some(())
        })
        .await;
        stage.terminate();
    };
    let (job, ()) = tokio::join!(stage.get(&path), begin);

    assert_eq!(job.status, 200);
    assert_eq!(job.json()["state"], "pending");
    assert_eq!(job.headers["retry-after"], "0");
    assert_eq!(job.headers["content-location"], format!("/v1/jobs/{id}"));
    assert_eq!(job.headers["connection"], "close");
    let goodbye = events.next().await.unwrap();
    assert_eq!(goodbye.name, "reconnect");
    let url: Value = serde_json::from_str(&goodbye.data).unwrap();
    assert_eq!(url["url"], format!("/v1/jobs/{id}/events"));
    assert!((100..=1000).contains(&goodbye.retry.unwrap()));
    assert!(events.next().await.is_none());
    stage.ended().await;
}

/// The real program, a real SIGTERM, and clients that do what they are told.
#[tokio::test]
async fn across_a_restart_who_waits_hears_of_the_end() {
    let place = Place::new(r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#);
    let process = place.start(&["--workers", "1"]).await;
    process.submit("first").await;
    let id = process.submit("second").await;
    place.noted("begin", 1).await;
    let mut events = Events::follow(process.api, &id).await;
    events.state("pending").await;
    let path = format!("/v1/jobs/{id}?wait=60s");
    let api = process.api;
    let poll = tokio::spawn(async move {
        super::stage::call(api, "GET", &path, &[], "")
            .await
            .unwrap()
    });
    until("both wait", async || {
        let series = "lameduck_requests_in_flight{protocol=\"http/1.1\",server=\"api\"}";
        (process.metric(series).await? >= 2.0).then_some(())
    })
    .await;

    process.signal(rustix::process::Signal::TERM);

    let poll = poll.await.unwrap();
    assert_eq!(poll.headers["retry-after"], "0");
    assert_eq!(events.next().await.unwrap().name, "reconnect");
    assert!(events.next().await.is_none());
    place.touch("go");
    process.exit(Instant::now()).await.assert_clean();
    let process = place.start(&["--workers", "1"]).await;
    let go_on = poll.headers["content-location"].to_str().unwrap();
    let job = process.get(&format!("{go_on}?wait=30s")).await.json();
    assert_eq!(job["state"], "completed");
    let mut events = Events::follow(process.api, &id).await;
    assert_eq!(events.state("completed").await.1, job);
    process.terminate().await.assert_clean();
}
