//! The byte stream of one connection, between the socket and hyper.
//!
//! It knows what hyper does not tell: whether a request, or part of one, has been received; whether every
//! byte of the last answer has left; and how to close without destroying what the peer has not read yet.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::lifecycle::ConnectionGuard;

/// What both the stream and the connection's driver know.
#[derive(Debug)]
pub(super) struct Activity {
    /// Counts the connection; lives as long as the stream, through an upgrade too.
    pub(super) guard: ConnectionGuard,
    in_flight: AtomicUsize,
    begun: AtomicUsize,
    /// Bytes received since the last request ended.
    received: AtomicUsize,
    /// Nothing is left in hyper's write buffer.
    flushed: AtomicBool,
}

/// What a connection is doing, as far as closing it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing received since the last answer left.
    Idle,
    /// Part of a request has been received.
    Receiving,
    /// A request is being served, or its answer has not left yet.
    Serving,
}

pin_project! {
    /// A socket with a memory.
    pub(super) struct Io<T> {
        #[pin]
        inner: T,
        // Read before, by the protocol sniffer or an earlier hyper connection; delivered first.
        prefix: Bytes,
        activity: Arc<Activity>,
        linger_for: Duration,
        linger: Option<Pin<Box<Sleep>>>,
        peer_closed: bool,
    }
}

// === impl Activity ===

impl Activity {
    pub(super) fn new(guard: ConnectionGuard) -> Arc<Self> {
        Arc::new(Self {
            guard,
            in_flight: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            flushed: AtomicBool::new(true),
        })
    }

    pub(super) fn doing(&self) -> Doing {
        if self.in_flight.load(Relaxed) > 0 || !self.flushed.load(Relaxed) {
            Doing::Serving
        } else if self.received.load(Relaxed) > 0 {
            Doing::Receiving
        } else {
            Doing::Idle
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests so far.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    pub(super) fn request_began(&self) {
        self.begun.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn request_ended(&self) {
        self.received.store(0, Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

// === impl Io ===

impl<T> Io<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>, linger_for: Duration) -> Self {
        Self {
            inner,
            prefix: Bytes::new(),
            activity,
            linger_for,
            linger: None,
            peer_closed: false,
        }
    }

    /// Delivers these bytes before anything else. They count as received.
    pub(super) fn rewind(mut self, prefix: Bytes) -> Self {
        debug_assert!(self.prefix.is_empty(), "one rewind at a time");
        self.activity.received.fetch_add(prefix.len(), Relaxed);
        self.prefix = prefix;
        self
    }
}

impl<T: AsyncRead> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if !this.prefix.is_empty() {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..n]);
            this.prefix.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(this.inner.poll_read(cx, buf))?;
        match buf.filled().len() - before {
            0 => *this.peer_closed = true,
            n => {
                this.activity.received.fetch_add(n, Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        this.activity.flushed.store(false, Relaxed);
        this.inner.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        this.activity.flushed.store(false, Relaxed);
        this.inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes the stream only when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        ready!(this.inner.poll_flush(cx))?;
        this.activity.flushed.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Sends FIN, then reads and forgets until the peer's FIN, within a bound. Closing a socket with
    /// unread bytes sends a reset, and a reset makes the peer's kernel drop what it has not delivered yet:
    /// our last answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if this.linger.is_none() {
            ready!(this.inner.as_mut().poll_shutdown(cx))?;
            *this.linger = Some(Box::pin(sleep(*this.linger_for)));
        }
        let mut scratch = [0; 4096];
        while !*this.peer_closed {
            let mut buf = ReadBuf::new(&mut scratch);
            match this.inner.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => *this.peer_closed = true,
                Poll::Pending => {
                    let over = this.linger.as_mut().map(|timer| timer.as_mut().poll(cx));
                    ready!(over.unwrap_or(Poll::Ready(())));
                    break;
                }
            }
            // A peer that never stops sending must not keep us.
            if this
                .linger
                .as_ref()
                .is_some_and(|timer| timer.deadline() <= Instant::now())
            {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
