//! The payload as a request's body, which tracks whether sending has begun.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Whether the target may have received anything. The body is polled before the first byte of the head is
/// flushed, over HTTP/1.1 and HTTP/2 alike: as long as it has not been polled, nothing was sent.
#[derive(Clone, Debug)]
pub(super) struct Begun(Arc<AtomicBool>);

/// A request's body.
pub(super) struct Payload {
    bytes: Bytes,
    begun: Begun,
}

// === impl Begun ===

impl Begun {
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, begun: bool) {
        self.0.store(begun, Ordering::SeqCst);
    }
}

// === impl Payload ===

impl Payload {
    /// Makes a payload that does not count as sent yet, unless it is empty: an empty body is never polled, so
    /// its request has to count as sent from here on.
    pub fn new(bytes: Bytes, begun: &Begun) -> Self {
        begun.set(bytes.is_empty());
        let begun = begun.clone();
        Self { bytes, begun }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.begun.set(true);
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
