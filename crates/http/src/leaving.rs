//! Streams and websockets that end properly when clients are asked to leave.
//!
//! A stream without an end of its own must be given one: a client whose event stream is cut reports an error,
//! but one whose stream ends connects again, and then reaches a process that stays. If all streams ended at once,
//! their clients would overrun those processes, so each ends at a moment of its own.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream::FusedStream};
use pin_project_lite::pin_project;

use lameduck_lifecycle::{Drain, Moment};

/// The time over which the ends of streams and websockets are spread.
const SPREAD: Duration = Duration::from_secs(1);

pin_project! {
    /// A stream that ends when clients are asked to leave. See [`until_leave`].
    #[must_use = "a stream does nothing unless it is polled"]
    pub struct UntilLeave<S> {
        #[pin]
        stream: S,
        leave: Leave,
        // Whether it has ended, in either way; it stays ended.
        ended: bool,
    }
}

/// A future that is ready when clients are asked to leave, and from then on whenever it is polled.
pub(super) struct Leave(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

/// Ends a stream between two of its items when clients are asked to leave, each stream at a moment of its
/// own within a second. Use it for event streams, and for any body that would go on forever.
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
        leave: Leave::new(drain.clone()),
        ended: false,
    }
}

/// Waits until clients are asked to leave, and then for a moment that differs from caller to caller.
pub async fn leave(drain: Drain) {
    drain.reached(Moment::Leave).await;
    tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
}

// === impl Leave ===

impl Leave {
    pub(super) fn new(drain: Drain) -> Self {
        Self(Some(Box::pin(leave(drain))))
    }
}

impl Future for Leave {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(leave) = &mut self.0 {
            ready!(leave.as_mut().poll(cx));
            // It must not be polled again.
            self.0 = None;
        }
        Poll::Ready(())
    }
}

// === impl UntilLeave ===

impl<S: Stream> Stream for UntilLeave<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let next = match Pin::new(this.leave).poll(cx) {
            Poll::Ready(()) => None,
            Poll::Pending => ready!(this.stream.poll_next(cx)),
        };
        *this.ended = next.is_none();
        Poll::Ready(next)
    }
}

impl<S: Stream> FusedStream for UntilLeave<S> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, poll, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_ended_may_be_polled_again() {
        let drain = Drain::detached();
        // A stream may do anything when it is polled after its end; this one yields more items.
        let mut numbers = 0;
        let some = stream::poll_fn(move |_| {
            numbers += 1;
            Poll::Ready((numbers != 2).then_some(numbers))
        });
        let mut own_end = until_leave(&drain, some);
        let mut told = until_leave(&drain, stream::pending::<()>());

        assert_eq!(own_end.next().await, Some(1));
        for _ in 0..3 {
            assert_eq!(own_end.next().await, None);
        }
        assert!(poll!(told.next()).is_pending());
        drain.token(Moment::Leave).cancel();
        for _ in 0..3 {
            assert_eq!(told.next().await, None);
        }
        assert!(told.is_terminated());
    }
}
