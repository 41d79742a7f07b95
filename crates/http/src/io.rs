//! The byte stream of one connection, between the socket and hyper.
//!
//! It knows what hyper does not report: whether a request, or part of one, has been received; whether every
//! byte of the last answer has left; whether the peer reads at all; and how to close without destroying data that
//! the peer has not read yet. After an upgrade the user's code owns the stream, and then the stream itself
//! ends at the hard deadline.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{activity::Activity, frames::Frames, metrics::Protocol, stream::Waiting};

pin_project! {
    /// A socket that records its activity.
    pub(super) struct Io<T> {
        #[pin]
        inner: T,
        // Bytes read earlier, by the protocol sniffer or a previous hyper connection; they are delivered first.
        prefix: Bytes,
        frames: Option<Frames>,
        activity: Arc<Activity>,
        linger_for: Duration,
        linger: Option<Pin<Box<Sleep>>>,
        fin_sent: bool,
        peer_closed: bool,
        cut: CancellationToken,
        // Created when it is needed, after an upgrade.
        cut_seen: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    }
}

// === impl Io ===

impl<T> Io<T> {
    /// Wraps a socket. `cut` ends the stream once it has been upgraded; until then its driver does.
    pub(super) fn new(
        inner: T,
        activity: Arc<Activity>,
        linger_for: Duration,
        cut: CancellationToken,
    ) -> Self {
        Self {
            inner,
            prefix: Bytes::new(),
            frames: None,
            activity,
            linger_for,
            linger: None,
            fin_sent: false,
            peer_closed: false,
            cut,
            cut_seen: None,
        }
    }

    /// Follows the frames of HTTP/2 from here on, beginning with the client's preface.
    pub(super) fn frames(mut self, stream_window: u32) -> Self {
        self.frames = Some(Frames::new(stream_window));
        self
    }

    /// Delivers these bytes before anything else. They count as received.
    pub(super) fn rewind(mut self, prefix: Bytes) -> Self {
        debug_assert!(self.prefix.is_empty(), "one rewind at a time");
        self.activity.received(prefix.len());
        self.prefix = prefix;
        self
    }
}

impl<T: Waiting> Io<T> {
    /// Whether bytes are available that no read has delivered yet.
    pub(super) fn has_waiting_bytes(&self) -> bool {
        !self.prefix.is_empty() || self.inner.has_waiting_bytes()
    }
}

/// Follows bytes that are delivered to HTTP/2.
fn follow(frames: &mut Option<Frames>, activity: &Activity, bytes: &[u8]) {
    if let Some(frames) = frames {
        frames.received(bytes);
        activity.set_half_frame(frames.is_inside());
        activity.set_uploads(frames.uploads());
    }
}

/// Follows bytes that HTTP/2 has sent: the first `written` ones of these buffers.
fn follow_sent<'a>(
    frames: &mut Option<Frames>,
    activity: &Activity,
    bufs: impl IntoIterator<Item = &'a [u8]>,
    written: &Poll<io::Result<usize>>,
) {
    let (Some(frames), Poll::Ready(Ok(written))) = (frames, written) else {
        return;
    };
    let mut left = *written;
    for buf in bufs {
        let sent = left.min(buf.len());
        frames.sent(&buf[..sent]);
        left -= sent;
        if left == 0 {
            break;
        }
    }
    activity.set_uploads(frames.uploads());
}

/// Fails after the hard deadline if the connection has been upgraded.
fn check_cut(
    activity: &Activity,
    cut: &CancellationToken,
    cut_seen: &mut Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    if activity.protocol() != Protocol::Upgraded {
        return Ok(());
    }
    let seen = cut_seen.get_or_insert_with(|| Box::pin(cut.clone().cancelled_owned()));
    if seen.as_mut().poll(cx).is_pending() {
        return Ok(());
    }
    activity.cut_upgraded();
    Err(io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "cut at the hard deadline of the drain",
    ))
}

impl<T: AsyncRead> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        check_cut(this.activity, this.cut, this.cut_seen, cx)?;
        if !this.prefix.is_empty() {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..n]);
            follow(this.frames, this.activity, &this.prefix[..n]);
            this.prefix.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if this.inner.poll_read(cx, buf)?.is_pending() {
            this.activity.wants_more();
            return Poll::Pending;
        }
        match buf.filled().len() - before {
            0 => {
                *this.peer_closed = true;
                this.activity.peer_closed();
            }
            n => {
                this.activity.received(n);
                follow(this.frames, this.activity, &buf.filled()[before..]);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Notes the outcome of a write.
fn note(activity: &Activity, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    match &written {
        Poll::Ready(Ok(n)) => activity.wrote(*n),
        Poll::Ready(Err(_)) => {}
        Poll::Pending => activity.cannot_write(),
    }
    written
}

impl<T: AsyncRead + AsyncWrite> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        check_cut(this.activity, this.cut, this.cut_seen, cx)?;
        let written = this.inner.poll_write(cx, buf);
        follow_sent(this.frames, this.activity, [buf], &written);
        note(this.activity, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        check_cut(this.activity, this.cut, this.cut_seen, cx)?;
        let written = this.inner.poll_write_vectored(cx, bufs);
        let sent = bufs.iter().map(|buf| &**buf);
        follow_sent(this.frames, this.activity, sent, &written);
        note(this.activity, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Notes that everything has left: hyper flushes the stream only when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        match this.inner.poll_flush(cx) {
            Poll::Ready(Ok(())) => this.activity.flushed(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                this.activity.cannot_write();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends FIN, then reads and discards bytes until the peer's FIN, within a bound. Closing a socket with
    /// unread bytes sends a reset, and a reset makes the peer's kernel drop data that it has not delivered yet:
    /// our last answer (RFC 9112, section 9.6). The bound also applies to the FIN itself, which over TLS waits
    /// for a peer that does not read.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        this.activity.closes();
        let linger = this
            .linger
            .get_or_insert_with(|| Box::pin(sleep(*this.linger_for)));
        if !*this.fin_sent {
            match this.inner.as_mut().poll_shutdown(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return linger.as_mut().poll(cx).map(Ok),
            }
            *this.fin_sent = true;
        }
        let mut scratch = [0; 4096];
        while !*this.peer_closed {
            let mut buf = ReadBuf::new(&mut scratch);
            match this.inner.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => *this.peer_closed = true,
                Poll::Pending => {
                    ready!(linger.as_mut().poll(cx));
                    break;
                }
            }
            // A peer that never stops sending must not hold us up.
            if linger.deadline() <= Instant::now() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
