//! Between hyper and the user's service: counts each request to the last byte of its answer, and lets
//! answers say `Connection: close` once clients are to leave.

use std::{
    future::Future,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt, util::Oneshot};

use lameduck_lifecycle::{Drain, Moment};

use super::{
    activity::{Activity, InFlight},
    late::{LateLog, is_probe},
    metrics::{Protocol, Reason},
    origin::Origin,
};

/// Not a header of any RFC in force, but read by many clients (RFC 2068, section 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// One connection's view of the user's service.
#[derive(Clone)]
pub(super) struct Counted<S> {
    pub(super) service: S,
    pub(super) context: Arc<RequestContext>,
}

/// What all requests of a connection share.
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
        in_flight: Option<InFlight>,
        context: Arc<RequestContext>,
        version: Version,
        connect: bool,
        // The client wants it closed after this answer.
        closes: bool,
    }
}

pin_project! {
    /// An answer's body, counted to its end.
    pub(super) struct CountedBody<B> {
        #[pin]
        body: B,
        in_flight: Arc<InFlight>,
    }
}

/// A part of an answer, counted until it has left: HTTP/2 keeps what its peer's window has no room for, long
/// after the body has ended.
pub(super) struct CountedData<D> {
    data: D,
    _in_flight: Arc<InFlight>,
}

// === impl RequestContext ===

impl RequestContext {
    /// Counts a request, and tells its handler where it came from.
    fn begin<B>(&self, request: &mut Request<B>) -> InFlight {
        // A connection shows by its first request whose it is; later ones matter only to a drain.
        let draining = self.drain.has(Moment::Began);
        let probe = (draining || self.activity.begun() == 0) && is_probe(request.headers());
        if draining && self.origin.is_late() && self.drain.is_observed() && !probe {
            self.activity.meter().late.inc();
            self.late.note(self.origin.peer(), request.headers());
        }
        request.extensions_mut().insert(self.origin.clone());
        self.activity.request(probe)
    }

    /// What an HTTP/1 answer says of its connection. `Connection` is no header of HTTP/2 (RFC 9113, section
    /// 8.2.2), and an upgraded connection is not HTTP any more.
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
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            if version == Version::HTTP_10 {
                // Else hyper adds a `keep-alive` to it, for a client of HTTP/1.0 that has asked for that.
                *response.version_mut() = version;
            }
        } else if let Some(hint) = &self.keep_alive
            && version == Version::HTTP_11
            && !closes
            && !says_close(response.headers())
        {
            response.headers_mut().insert(KEEP_ALIVE, hint.clone());
        }
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    let connection = headers.get(header::CONNECTION);
    connection.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

// === impl Counted ===

impl<S, B> hyper::service::Service<Request<Incoming>> for Counted<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Answering<Oneshot<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let in_flight = self.context.begin(&mut request);
        Answering {
            in_flight: Some(in_flight),
            context: self.context.clone(),
            version: request.version(),
            connect: request.method() == Method::CONNECT,
            closes: says_close(request.headers()),
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
        let mut response = ready!(this.answer.poll(cx))?;
        this.context
            .mark(&mut response, *this.version, *this.connect, *this.closes);
        let in_flight = this.in_flight.take().expect("polled after completion");
        let in_flight = Arc::new(in_flight);
        Poll::Ready(Ok(response.map(|body| CountedBody { body, in_flight })))
    }
}

// === impl CountedBody ===

impl<B: Body> Body for CountedBody<B> {
    type Data = CountedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let count = |data| CountedData {
            data,
            _in_flight: this.in_flight.clone(),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(count))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl CountedData ===

impl<D: Buf> Buf for CountedData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, n: usize) {
        self.data.advance(n);
    }

    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        self.data.copy_to_bytes(n)
    }
}
