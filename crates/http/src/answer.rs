//! The body of an answer while it is sent, counted to its last byte.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::activity::InFlight;

pin_project! {
    /// An answer's body, counted to its end.
    pub(super) struct CountedBody<B>
    where
        B: Body,
    {
        #[pin]
        body: AnswerBody<B>,
        // Whether the body has ended; then only `last` is still to come.
        ended: bool,
        last: Option<Frame<AnswerData<B::Data>>>,
        in_flight: Arc<InFlight>,
    }
}

pin_project! {
    /// The body of an answer: the service's, or a refusal instead.
    #[project = AnswerBodyProjection]
    pub(super) enum AnswerBody<B> {
        Service {
            #[pin]
            body: B,
        },
        Refusal {
            words: Option<Bytes>,
        },
    }
}

/// A part of an answer, counted until it has left: HTTP/2 keeps data that does not fit into its peer's window, long
/// after the body has ended.
pub(super) struct CountedData<D: Buf> {
    data: AnswerData<D>,
    in_flight: Arc<InFlight>,
}

/// A part of an [`AnswerBody`].
pub(super) enum AnswerData<D> {
    Service(D),
    Refusal(Bytes),
}

// === impl CountedBody ===

impl<B: Body> CountedBody<B> {
    pub(super) fn new(body: AnswerBody<B>, in_flight: Arc<InFlight>) -> Self {
        Self {
            body,
            ended: false,
            last: None,
            in_flight,
        }
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = CountedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if !*this.ended {
            match ready!(this.body.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let data = CountedData::new(data, this.in_flight);
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(trailers) => *this.last = Some(trailers),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {}
            }
            *this.ended = true;
        }
        // At its end hyper lets go of a stream, and then nobody can reset it any more.
        if this.in_flight.is_stream() && this.in_flight.sending().must_wait(cx.waker()) {
            return Poll::Pending;
        }
        let last = this.last.take();
        let counted = |data| CountedData::new(data, this.in_flight);
        Poll::Ready(last.map(|frame| Ok(frame.map_data(counted))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = self.ended && self.last.is_none() || self.body.is_end_stream();
        ended && !(self.in_flight.is_stream() && self.in_flight.sending().is_behind())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The next frame of an answer's body.
type AnswerFrame<B> = Result<Frame<AnswerData<<B as Body>::Data>>, <B as Body>::Error>;

// === impl AnswerBody ===

impl<B: Body> AnswerBody<B> {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AnswerFrame<B>>> {
        match self.project() {
            AnswerBodyProjection::Service { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(
                    frame.map(|frame| frame.map(|frame| frame.map_data(AnswerData::Service))),
                )
            }
            AnswerBodyProjection::Refusal { words } => {
                let words = words
                    .take()
                    .map(|words| Ok(Frame::data(AnswerData::Refusal(words))));
                Poll::Ready(words)
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Service { body } => body.is_end_stream(),
            Self::Refusal { words } => words.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Service { body } => body.size_hint(),
            Self::Refusal { words } => {
                let length = words.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length as u64)
            }
        }
    }
}

// === impl CountedData ===

impl<D: Buf> CountedData<D> {
    fn new(data: AnswerData<D>, in_flight: &Arc<InFlight>) -> Self {
        if in_flight.is_stream() {
            in_flight.sending().hands_over(data.remaining());
        }
        Self {
            data,
            in_flight: in_flight.clone(),
        }
    }

    fn left(&self, bytes: usize) {
        if self.in_flight.is_stream() {
            self.in_flight.sending().sent(bytes);
        }
    }
}

impl<D: Buf> Drop for CountedData<D> {
    fn drop(&mut self) {
        if self.in_flight.is_stream() {
            // The remaining bytes will not be sent any more.
            self.left(self.data.remaining());
            self.in_flight.sending().wake();
        }
    }
}

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
        self.left(n);
    }

    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        let bytes = self.data.copy_to_bytes(n);
        self.left(n);
        bytes
    }
}

// === impl AnswerData ===

impl<D: Buf> Buf for AnswerData<D> {
    fn remaining(&self) -> usize {
        match self {
            Self::Service(data) => data.remaining(),
            Self::Refusal(words) => words.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Service(data) => data.chunk(),
            Self::Refusal(words) => words.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Service(data) => data.chunks_vectored(slices),
            Self::Refusal(words) => words.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, n: usize) {
        match self {
            Self::Service(data) => data.advance(n),
            Self::Refusal(words) => words.advance(n),
        }
    }

    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        match self {
            Self::Service(data) => data.copy_to_bytes(n),
            Self::Refusal(words) => words.copy_to_bytes(n),
        }
    }
}
