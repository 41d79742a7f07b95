//! One job as a stream of events, for browsers' `EventSource` and for `curl -N`.
//!
//! ```text
//!   event: state        the job as it stands now       id: 1
//!   event: state        … after each change            id: 2, 3, …
//!   event: state        … after its end                id: end     and the stream ends
//!   event: reconnect    clients are asked to leave     retry: 100…1000     and the stream ends
//! ```
//!
//! An `EventSource` reconnects whenever a stream has ended. After the job's end it would do so forever; so the
//! last event has an id of its own, and a client that comes back with it is told to stop (HTML, section 9.2.3:
//! 204 ends the reconnecting).

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;

use super::{
    Problem, Service,
    extract::AtJob,
    lookout::{For, Watch},
    view::{JobDetails, JobView},
};
use lameduck_http::leave;
use lameduck_jobs::{engine::Details, job::JobId};

/// The id of a job's last event.
const END: &str = "end";

/// Range of delays, in milliseconds, after which clients reconnect, so that they do not all do so at once.
const RECONNECT: std::ops::RangeInclusive<u64> = 100..=1000;

/// The state of an event stream: what it has sent of its job, and what will end it.
struct Story {
    job: JobId,
    watch: Watch,
    leave: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The job as it was read before the stream began.
    first: Option<Arc<Details>>,
    count: u64,
    said: Option<JobView>,
    over: bool,
}

/// Follow a job.
///
/// An event stream: `state` with the job at first and after each change, and after its end no more. A
/// process that is asked to leave sends `reconnect` with the url, and ends the stream.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", operation_id = "follow_job", tag = "jobs",
    params(("id" = String, Path, format = "uuid", description = "The job")),
    responses(
        (status = 200, description = "The events; the data of `state` is the job", body = String, content_type = "text/event-stream"),
        (status = 204, description = "To a client that comes back after the last event: there is nothing more"),
        (status = 404, description = "There is no such job (any more)", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many wait already, or the storage failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn follow(
    State(service): State<Arc<Service>>,
    AtJob(id): AtJob,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if headers.get("last-event-id").is_some_and(|last| last == END) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut watch = service.lookout.watch(id, For::Changes)?;
    let first = watch.look().await?;
    let story = Story {
        leave: Box::pin(leave(service.drain.clone())),
        job: id,
        watch,
        first: Some(first),
        count: 0,
        said: None,
        over: false,
    };
    let events = stream::unfold(story, |mut story| async {
        let event = story.next().await?;
        Some((Ok::<_, Infallible>(event), story))
    });
    // Without this, nginx would hold events back until its buffer is full.
    let unbuffered = [("x-accel-buffering", "no")];
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok((unbuffered, events).into_response())
}

// === impl Story ===

impl Story {
    /// Returns the next event, or `None` after the last one and when the job is gone or the storage fails: then the
    /// client reconnects and gets the error.
    async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        loop {
            let details = match self.first.take() {
                Some(first) => first,
                None => tokio::select! {
                    () = &mut self.leave => return Some(self.goodbye()),
                    changed = self.watch.changed() => changed.ok()?,
                },
            };
            let news = JobView::from(&details.record);
            if self.said.as_ref() == Some(&news) {
                continue;
            }
            self.said = Some(news);
            self.count += 1;
            self.over = details.record.state.has_ended();
            let id = match self.over {
                true => END.to_owned(),
                false => self.count.to_string(),
            };
            let json = serde_json::to_string(&JobDetails::from(&*details)).ok()?;
            return Some(Event::default().event("state").id(id).data(json));
        }
    }

    fn goodbye(&mut self) -> Event {
        self.over = true;
        let url = serde_json::json!({ "url": format!("/v1/jobs/{}/events", self.job) });
        Event::default()
            .event("reconnect")
            .retry(Duration::from_millis(fastrand::u64(RECONNECT)))
            .data(url.to_string())
    }
}
