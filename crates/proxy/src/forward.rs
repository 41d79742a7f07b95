//! The service that passes requests on to the program.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{
    Request, Response, StatusCode,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use http_body::Body as _;
use hyper::body::Incoming;
use lameduck_lifecycle::{Drain, LogThrottle};
use tower::Service;

use crate::{
    body::{ToClient, ToProgram},
    gate::{Gate, Inside},
    headers::{self, Onward},
    metrics::Metrics,
    tunnel,
    upstream::{Answer, Unanswered, Upstream},
};

/// Time between two log lines about a program that does not answer.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Passes requests through a gate on to a program. It is a tower service, for `lameduck-http` to serve.
///
/// | answer of its own | when |
/// | --- | --- |
/// | 502 | the program can't be reached, or the connection to it ended before the head of an answer |
/// | 503, `Connection: close`, `Retry-After: 1` | the gate is closed: the program is about to stop |
/// | 501 | CONNECT |
/// | 200 | OPTIONS or TRACE whose `Max-Forwards` is 0 |
///
/// If the program's connection ends in the middle of an answer, the client's is cut, so that the client notices.
#[derive(Clone, Debug)]
pub struct Proxy {
    upstream: Upstream,
    gate: Gate,
    metrics: Metrics,
}

// === impl Proxy ===

impl Proxy {
    /// Passes requests on to this program through this gate. Its metrics go to the drain's registry.
    pub fn new(upstream: Upstream, gate: Gate, drain: &Drain) -> Self {
        Self {
            upstream,
            gate,
            metrics: Metrics::of(drain),
        }
    }

    async fn forward(self, request: Request<Incoming>) -> Response<ToClient> {
        let since = Instant::now();
        let Some(inside) = self.gate.enter() else {
            self.metrics.refused();
            return refused();
        };
        let response = self.pass_on(request, inside).await;
        self.metrics.answered(response.status(), since.elapsed());
        response
    }

    async fn pass_on(&self, mut request: Request<Incoming>, inside: Inside) -> Response<ToClient> {
        let client = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let upgrade = match headers::to_program(&mut parts) {
            Onward::Forward { upgrade } => upgrade,
            Onward::LastHop => return last_hop(),
            Onward::Connect => {
                let said = "this proxy is in front of one program and opens no tunnels";
                return own(StatusCode::NOT_IMPLEMENTED, said.to_owned());
            }
        };
        // The extensions are the server's, and mean nothing to the client's side.
        parts.extensions.clear();
        let body = match body.is_end_stream() {
            true => ToProgram::Empty,
            false => ToProgram::Streamed(body),
        };
        match self.upstream.send(Request::from_parts(parts, body)).await {
            Ok(answer) => self.answer(answer, upgrade.then_some(client), inside),
            Err(unanswered) => self.unanswered(&unanswered),
        }
    }

    fn answer(
        &self,
        answer: Answer,
        client: Option<hyper::upgrade::OnUpgrade>,
        inside: Inside,
    ) -> Response<ToClient> {
        let Answer {
            mut response,
            connection,
            reused,
        } = answer;
        self.metrics.connected(reused);
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if upgraded {
            let Some(client) = client else {
                let said = "the program changed to another protocol that nobody had asked for";
                return own(StatusCode::BAD_GATEWAY, said.to_owned());
            };
            let program = hyper::upgrade::on(&mut response);
            tunnel::open(client, program, inside);
            let (mut parts, _) = response.into_parts();
            headers::to_client(&mut parts, true);
            return Response::from_parts(parts, ToClient::own(String::new()));
        }
        let (mut parts, body) = response.into_parts();
        headers::to_client(&mut parts, false);
        parts.extensions.clear();
        Response::from_parts(parts, ToClient::streamed(body, connection, inside))
    }

    fn unanswered(&self, unanswered: &Unanswered) -> Response<ToClient> {
        static TOLD: LogThrottle = LogThrottle::every(TELL_AGAIN);
        self.metrics.unanswered(unanswered);
        if let Some(left_out) = TOLD.admit() {
            tracing::warn!(error = %unanswered, left_out, "the program gave no answer; the client gets 502");
        }
        own(
            StatusCode::BAD_GATEWAY,
            format!("the program gave no answer: {unanswered}"),
        )
    }
}

impl Service<Request<Incoming>> for Proxy {
    type Response = Response<ToClient>;
    type Error = Infallible;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<ToClient>, Infallible>> + Send + 'static>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let proxy = self.clone();
        Box::pin(async move { Ok(proxy.forward(request).await) })
    }
}

fn refused() -> Response<ToClient> {
    let said = "this instance is about to stop; repeat the request, and another one takes it";
    let mut response = own(StatusCode::SERVICE_UNAVAILABLE, said.to_owned());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Answers as the last recipient of the message (RFC 9110, section 7.6.2).
fn last_hop() -> Response<ToClient> {
    let mut response = own(StatusCode::OK, String::new());
    let methods = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE";
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn own(status: StatusCode, text: String) -> Response<ToClient> {
    let mut response = Response::new(ToClient::own(text));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
