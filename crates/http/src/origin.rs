//! The origin of a request and the progress of the drain, for handlers.

use std::{convert::Infallible, sync::Arc};

use axum::extract::FromRequestParts;
use http::{StatusCode, request::Parts};

use lameduck_lifecycle::Drain;

use super::listener::Peer;

/// The server's knowledge of a request's connection. It is in the extensions of every request, for any tower
/// service, and is an extractor for axum's handlers.
#[derive(Clone, Debug)]
pub struct Origin(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    drain: Drain,
    peer: Peer,
    late: bool,
}

// === impl Origin ===

impl Origin {
    pub(super) fn new(drain: Drain, peer: Peer, late: bool) -> Self {
        Self(Arc::new(Facts { drain, peer, late }))
    }

    /// Returns the drain, which tells how far it has come.
    pub fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// Returns the other end of the connection.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Whether the connection was made after the endpoints were gone: somebody still routes here. The request is
    /// served like any other, but a handler may want to log this.
    pub fn is_late(&self) -> bool {
        self.0.late
    }
}

/// The drain, for a handler that has no end of its own or wants to end early.
///
/// A request that did not come through this server (for example, when a test calls a router directly) gets a
/// drain that never begins.
///
/// ```
/// # use lameduck_http::CurrentDrain;
/// # use lameduck_lifecycle::Moment;
/// async fn poll(CurrentDrain(drain): CurrentDrain) -> &'static str {
///     tokio::select! {
///         () = drain.reached(Moment::Leave) => "nothing new; ask again",
///         news = next_news() => news,
///     }
/// }
/// # async fn next_news() -> &'static str { "news" }
/// ```
#[derive(Clone, Debug)]
pub struct CurrentDrain(pub Drain);

impl<S: Sync> FromRequestParts<S> for CurrentDrain {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let origin = parts.extensions.get::<Origin>();
        let drain = origin.map_or_else(|| Drain::shared_detached(), Origin::drain);
        Ok(Self(drain.clone()))
    }
}

/// Fails with 500 if the request did not come through this server.
impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let origin = parts.extensions.get::<Self>().cloned();
        origin.ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "this router is not served by lameduck: no request has an origin",
        ))
    }
}
