//! The layer between hyper and the user's service: it refuses invalid requests, counts each request to the last byte
//! of its answer, and adds `Connection: close` to answers once clients are asked to leave.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use lameduck_lifecycle::{Drain, Moment};

use super::{
    activity::{Activity, InFlight, Upload},
    answer::{AnswerBody, CountedBody},
    head::{self, Refusal},
    late::{LateLog, is_probe},
    metrics::{Protocol, Reason},
    origin::Origin,
    streams::StreamTask,
};

/// The `Keep-Alive` header. No RFC in force defines it, but many clients read it (RFC 2068, section 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// One connection's view of the user's service.
#[derive(Clone)]
pub(super) struct Counted<S> {
    pub(super) service: S,
    pub(super) context: Arc<RequestContext>,
}

/// The context that all requests of a connection share.
pub(super) struct RequestContext {
    pub(super) drain: Drain,
    pub(super) origin: Origin,
    pub(super) activity: Arc<Activity>,
    pub(super) late: Arc<LateLog>,
    pub(super) keep_alive: Option<HeaderValue>,
}

pin_project! {
    pub(super) struct Answering<F> {
        #[pin]
        answer: F,
        // The reason why the service does not see the request.
        refused: Option<Refusal>,
        // Present if the request has a body, which may still be under way.
        upload: Option<Upload>,
        in_flight: Option<InFlight>,
        context: Arc<RequestContext>,
        version: Version,
        method: Method,
        // Whether the client wants the connection closed after this answer.
        closes: bool,
    }
}

// === impl RequestContext ===

impl RequestContext {
    /// Counts a request, and tells its handler where it came from.
    fn begin<B>(&self, request: &mut Request<B>) -> InFlight {
        // The first request shows whether a connection belongs to a probe; later ones matter only to a drain.
        let draining = self.drain.has(Moment::Began);
        let probe = (draining || self.activity.begun() == 0) && is_probe(request.headers());
        if draining && self.origin.is_late() && self.drain.is_observed() && !probe {
            self.activity.meter().late.inc();
            self.late.note(self.origin.peer(), request.headers());
        }
        request.extensions_mut().insert(self.origin.clone());
        self.activity.request(probe)
    }

    /// Begins an answer. An HTTP/2 body is watched until it has left.
    fn answers<B: Body>(&self, mut in_flight: InFlight, body: &AnswerBody<B>) -> Arc<InFlight> {
        let watched = in_flight.is_stream() && !body.is_end_stream();
        if watched {
            in_flight.sending_mut().task = StreamTask::current();
        }
        let in_flight = Arc::new(in_flight);
        if watched {
            self.activity.answers(&in_flight);
        }
        in_flight
    }

    /// Adds the headers about the connection to an HTTP/1 answer. HTTP/2 has no `Connection` header (RFC 9113,
    /// section 8.2.2), and an upgraded connection is no longer HTTP.
    fn mark<B>(&self, response: &mut Response<B>, version: Version, connect: bool, closes: bool) {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (connect && response.status().is_success());
        if version >= Version::HTTP_2 {
            return;
        }
        if upgraded {
            self.activity.speaks(Protocol::Upgraded);
        } else if self.drain.has(Moment::Leave) {
            self.activity.ends(Reason::Leave);
            say_close(response, version);
        } else if let Some(hint) = &self.keep_alive
            && version == Version::HTTP_11
            && !closes
            && !says_close(response.headers())
        {
            response.headers_mut().insert(KEEP_ALIVE, hint.clone());
        }
    }
}

fn say_close<B>(response: &mut Response<B>, version: Version) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    if version == Version::HTTP_10 {
        // Otherwise hyper adds `keep-alive` to it, for an HTTP/1.0 client that has asked for that.
        *response.version_mut() = version;
    }
}

/// Returns an answer instead of the service's. An HTTP/1 connection is closed after it: a client that breaks these
/// rules may disagree with us about where the request ends.
fn refuse<B>(refusal: Refusal, version: Version, method: &Method) -> Response<AnswerBody<B>> {
    let words = (*method != Method::HEAD).then(|| Bytes::from(format!("{refusal}\n")));
    let mut response = Response::new(AnswerBody::Refusal { words });
    *response.status_mut() = refusal.status();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    if version < Version::HTTP_2 {
        say_close(&mut response, version);
    }
    response
}

fn says_close(headers: &HeaderMap) -> bool {
    let connection = headers.get(header::CONNECTION);
    connection.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

// === impl Counted ===

impl<S, B> hyper::service::Service<Request<Incoming>> for Counted<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Answering<Oneshot<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = self.context.begin(&mut request);
        // Bodies of HTTP/2 are tracked by its frames.
        let has_body = !in_flight.is_stream() && !request.body().is_end_stream();
        Answering {
            in_flight: Some(in_flight),
            refused: head::check(&mut request).err(),
            upload: has_body.then(|| self.context.activity.upload()),
            context: self.context.clone(),
            version: request.version(),
            method: request.method().clone(),
            closes: says_close(request.headers()),
            // The service is not called until this is polled.
            answer: self.service.clone().oneshot(request),
        }
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(in_flight) = this.in_flight.take() else {
            // The request has already been answered.
            return Poll::Pending;
        };
        let given_up = this.upload.is_some() && this.context.activity.body_is_given_up();
        let refused = this.refused.or(given_up.then_some(Refusal::Stalled));
        let mut response = match refused {
            Some(refusal) => refuse(refusal, *this.version, this.method),
            None => match this.answer.poll(cx) {
                Poll::Ready(answer) => answer?.map(|body| AnswerBody::Service { body }),
                Poll::Pending => {
                    *this.in_flight = Some(in_flight);
                    return Poll::Pending;
                }
            },
        };
        *this.upload = None;
        let connect = *this.method == Method::CONNECT;
        let closes = *this.closes || refused.is_some();
        this.context
            .mark(&mut response, *this.version, connect, closes);
        let in_flight = this.context.answers(in_flight, response.body());
        Poll::Ready(Ok(response.map(|body| CountedBody::new(body, in_flight))))
    }
}
