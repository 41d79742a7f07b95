//! The bounds of a service that can be served.

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower::Service;

use lameduck_lifecycle::BoxError;

/// Any tower service that answers HTTP requests: an axum `Router`, tonic's `Routes`, or your own. This is only a name
/// for the bounds, implemented for every type that fulfils them.
pub trait HttpService:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// The body of its answers.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Body = B;
}
