//! Bodies on their way through: passed on as they come, and never held as a whole in either direction.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{gate::Inside, upstream::Lent};

/// The body that is sent to the program.
#[derive(Debug, Default)]
pub(crate) enum ToProgram {
    /// An empty body.
    #[default]
    Empty,
    /// The client's body.
    Streamed(Incoming),
}

/// The body that is sent to the client.
#[derive(Debug)]
pub struct ToClient(Source);

#[derive(Debug)]
enum Source {
    /// A text of the proxy itself.
    Own(Full<Bytes>),
    /// The program's answer.
    Streamed {
        body: Incoming,
        /// Given back when the body has been read to its end, and closed otherwise.
        connection: Option<Lent>,
        /// Keeps the request inside the gate until the last byte of its answer.
        inside: Option<Inside>,
    },
}

// === impl ToProgram ===

impl Body for ToProgram {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}

// === impl ToClient ===

impl ToClient {
    /// Returns a text of the proxy's own.
    pub(crate) fn own(text: String) -> Self {
        Self(Source::Own(Full::from(text)))
    }

    /// Returns the program's answer, which comes by this connection.
    pub(crate) fn streamed(body: Incoming, connection: Lent, inside: Inside) -> Self {
        let mut this = Self(Source::Streamed {
            body,
            connection: Some(connection),
            inside: Some(inside),
        });
        if this.is_end_stream() {
            this.ended(true);
        }
        this
    }

    fn ended(&mut self, well: bool) {
        if let Source::Streamed {
            connection, inside, ..
        } = &mut self.0
        {
            if let Some(connection) = connection.take()
                && well
            {
                connection.give_back();
            }
            inside.take();
        }
    }
}

impl Body for ToClient {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match &mut this.0 {
            Source::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Source::Streamed { body, .. } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                match &frame {
                    None => this.ended(true),
                    Some(Err(_)) => this.ended(false),
                    // The server asks for no more frames if it knows that there are none.
                    Some(Ok(_)) if this.is_end_stream() => this.ended(true),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(body) => body.is_end_stream(),
            Source::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(body) => body.size_hint(),
            Source::Streamed { body, .. } => body.size_hint(),
        }
    }
}
