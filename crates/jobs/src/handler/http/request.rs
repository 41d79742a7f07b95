//! The request that presents a job to its target.

use jiff::Timestamp;
use reqwest::{
    Body, Client, RequestBuilder,
    header::{
        ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, InvalidHeaderValue,
    },
};
use tokio::time::Instant;

use super::{
    Http,
    payload::{Begun, Payload},
    signature,
};
use crate::{
    handler::{Context, Retry, Verdict},
    job::Job,
};

// === impl Http ===

impl Http {
    /// Makes the request for this run. It is made anew each time it is sent, because its time is signed.
    pub(super) fn request(
        &self,
        client: &Client,
        job: &Job,
        context: &Context,
        begun: &Begun,
    ) -> Result<RequestBuilder, Verdict> {
        let headers = self
            .headers(job, context)
            .map_err(|_| Verdict::Failed {
                error: format!(
                    "the job can't be posted: its content type {:?} is not a header's value; submit it with another",
                    job.content_type
                ),
                retry: Retry::Never,
            })?;
        let payload = Payload::new(job.payload.clone(), begun);
        let request = client.post(self.target.url()).headers(headers);
        Ok(request.body(Body::wrap(payload)))
    }

    fn headers(&self, job: &Job, context: &Context) -> Result<HeaderMap, InvalidHeaderValue> {
        let id = job.id.to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(&job.content_type)?);
        // Sent even for an empty payload, which hyper would not do: RFC 9110, section 8.6.
        headers.insert(CONTENT_LENGTH, job.payload.len().into());
        // A result is kept as bytes, without a record of their coding.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert("idempotency-key", HeaderValue::from_str(&id)?);
        headers.insert("lameduck-job-id", HeaderValue::from_str(&id)?);
        headers.insert("lameduck-queue", HeaderValue::from_str(job.queue.as_str())?);
        headers.insert("lameduck-attempt", job.attempt.into());
        headers.insert("lameduck-max-attempts", job.max_attempts.into());
        let mut claim = HeaderValue::from_str(&context.claim)?;
        // Anyone who has the claim can end the job: it is kept out of HTTP/2's compression, and of debug output.
        claim.set_sensitive(true);
        headers.insert("lameduck-claim", claim);
        if let Some(deadline) = context.deadline().and_then(by_the_clock) {
            let deadline = HeaderValue::from_str(&format!("{deadline:.3}"))?;
            headers.insert("lameduck-deadline", deadline);
        }
        // A string that is not a valid header value is not a trace context either, and is ignored as such.
        let traceparent = job.traceparent.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(traceparent)) = traceparent {
            headers.insert("traceparent", traceparent);
        }
        if !self.secrets.is_empty() {
            let now = Timestamp::now().as_second();
            let signature = signature::sign(&self.secrets, &id, now, &job.payload);
            headers.insert("webhook-id", HeaderValue::from_str(&id)?);
            headers.insert("webhook-timestamp", now.into());
            headers.insert("webhook-signature", HeaderValue::from_str(&signature)?);
        }
        Ok(headers)
    }
}

/// Returns the wall-clock time at a future instant; `None` if it is beyond the calendar's range.
fn by_the_clock(at: Instant) -> Option<Timestamp> {
    let left = at.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(left).ok()
}
