//! The drain as an axum extractor.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::lifecycle::Drain;

/// How far the drain has come, for a handler that has no end of its own or wants to end early.
///
/// Services that are not axum's find the same in the request's extensions. A request that did not come
/// through this server (a router called directly, in a test) gets one that never begins.
///
/// ```
/// # use lameduck::{Drain, Moment};
/// async fn poll(drain: Drain) -> &'static str {
///     tokio::select! {
///         () = drain.reached(Moment::Leave) => "nothing new; ask again",
///         news = next_news() => news,
///     }
/// }
/// # async fn next_news() -> &'static str { "news" }
/// ```
impl<S: Sync> FromRequestParts<S> for Drain {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let drain = parts.extensions.get::<Self>();
        Ok(drain.cloned().unwrap_or_else(Self::detached))
    }
}
