//! Between hyper and the user's service: counts each request to the last byte of its answer, and lets
//! answers say `Connection: close` once clients are to leave.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use crate::lifecycle::{Drain, Moment, RequestGuard};

use super::io::Activity;

/// One connection's view of the user's service.
#[derive(Clone)]
pub(super) struct Counted<S> {
    service: S,
    drain: Drain,
    activity: Arc<Activity>,
}

/// Counts a request while it lives.
struct InFlight {
    _guard: RequestGuard,
    activity: Arc<Activity>,
}

pin_project! {
    pub(super) struct Answering<F> {
        #[pin]
        answer: F,
        in_flight: Option<InFlight>,
        drain: Drain,
        version: Version,
        connect: bool,
    }
}

pin_project! {
    /// An answer's body, counted to its end.
    pub(super) struct CountedBody<B> {
        #[pin]
        body: B,
        in_flight: InFlight,
    }
}

// === impl InFlight ===

impl InFlight {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.request_began();
        Self {
            _guard: activity.guard.request(),
            activity: activity.clone(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.request_ended();
    }
}

// === impl Counted ===

impl<S> Counted<S> {
    pub(super) fn new(service: S, drain: Drain, activity: Arc<Activity>) -> Self {
        Self {
            service,
            drain,
            activity,
        }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Counted<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Answering<Oneshot<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = InFlight::new(&self.activity);
        request.extensions_mut().insert(self.drain.clone());
        Answering {
            in_flight: Some(in_flight),
            drain: self.drain.clone(),
            version: request.version(),
            connect: request.method() == Method::CONNECT,
            answer: self.service.clone().oneshot(request),
        }
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = std::task::ready!(this.answer.poll(cx))?;
        if this.drain.has(Moment::Leave) && may_close(&response, *this.version, *this.connect) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let in_flight = this.in_flight.take().expect("polled after completion");
        Poll::Ready(Ok(response.map(|body| CountedBody { body, in_flight })))
    }
}

/// `Connection` is a header of HTTP/1 (RFC 9113, section 8.2.2, forbids it in HTTP/2), and an upgraded
/// connection is not HTTP any more.
fn may_close<B>(response: &Response<B>, version: Version, connect: bool) -> bool {
    version < Version::HTTP_2
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
        && !(connect && response.status().is_success())
}

// === impl CountedBody ===

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
