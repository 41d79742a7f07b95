//! Streams and websockets that end properly when clients are asked to leave.
//!
//! What has no end of its own must be given one: a client whose event stream is cut reports an error, one
//! whose stream has ended connects again, and by then reaches somebody who stays. All of them at once would
//! be a stampede on those who stay, so each takes a moment of its own.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use pin_project_lite::pin_project;

use lameduck_lifecycle::{Drain, Moment};

/// Over which time streams and websockets are ended.
const SPREAD: Duration = Duration::from_secs(1);

pin_project! {
    /// A stream that ends when clients are asked to leave. See [`until_leave`].
    #[must_use = "a stream does nothing unless it is polled"]
    pub struct UntilLeave<S> {
        #[pin]
        stream: S,
        leave: Pin<Box<dyn Future<Output = ()> + Send>>,
    }
}

/// Ends a stream when clients are asked to leave, between two of its items, each stream at a moment of its
/// own within a second. For event streams, and for any body that would go on for ever.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use axum::response::sse::{Event, Sse};
/// use futures_util::{Stream, stream};
/// use lameduck_http::until_leave;
/// use lameduck_lifecycle::Drain;
///
/// async fn ticks(drain: Drain) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
///     let ticks = stream::unfold((), |()| async {
///         tokio::time::sleep(Duration::from_secs(1)).await;
///         Some((Ok(Event::default().data("tick")), ()))
///     });
///     Sse::new(until_leave(&drain, ticks))
/// }
/// ```
pub fn until_leave<S: Stream>(drain: &Drain, stream: S) -> UntilLeave<S> {
    UntilLeave {
        stream,
        leave: Box::pin(leave(drain.clone())),
    }
}

/// Waits until clients are asked to leave, and then for a moment that differs from caller to caller.
pub async fn leave(drain: Drain) {
    drain.reached(Moment::Leave).await;
    tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
}

impl<S: Stream> Stream for UntilLeave<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        if this.leave.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        this.stream.poll_next(cx)
    }
}
