//! A connection, from its first byte to its last.
//!
//! ```text
//!   Idle ──byte──▶ Receiving ──head complete──▶ Serving ──last byte of the answer──▶ Idle
//! ```
//!
//! | moment | idle | receiving | serving |
//! | --- | --- | --- | --- |
//! | serving | closed after the idle timeout | closed after the header timeout | closed if its peer does not read |
//! | `Leave` | HTTP/1 may speak once more; HTTP/2 gets GOAWAY | served, then closed; closed if its sender pauses | answer says close, GOAWAY; 408 if the sender of its body pauses |
//! | `CloseIdle` | closed, longest idle first | served, then closed | served, then closed |
//! | `Cut` | cut | cut and counted | cut and counted |
//!
//! hyper closes an HTTP/1 connection by itself after an answer that says `Connection: close`. But it can't
//! close an *idle* one properly: its `graceful_shutdown` closes a reused connection on which half a request
//! head has been received, and waits forever for a fresh one. So an idle connection is taken apart here,
//! checked once more, and put together again if there is anything to read.

#[cfg(test)]
mod fuzz;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::sync::CancellationToken;

use lameduck_lifecycle::{BoxError, Drain, Moment, Traffic};

use super::{
    activity::{Activity, Doing},
    bounds::HttpService,
    io::Io,
    late::LateLog,
    listener::Peer,
    metrics::{Meter, Protocol, Reason},
    origin::Origin,
    patience::{Interrupt, Patience},
    service::{Counted, RequestContext},
    settings::HttpSettings,
    sniff::{Sniffed, Sniffer},
    stream::{Socket, Stream, Waiting},
    streams::Streams,
};

/// Number of bytes of request bodies that an HTTP/2 client may send ahead of the handlers, on one stream or on all
/// together: hyper's own default.
const STREAM_WINDOW: u32 = 1 << 20;

/// The context of a connection. Each connection of a server gets a copy.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) drain: Drain,
    pub(super) shown: Drain,
    pub(super) traffic: Arc<Traffic>,
    pub(super) meter: Arc<Meter>,
    pub(super) late: Arc<LateLog>,
    pub(super) settings: Arc<HttpSettings>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::tls::Tls>,
}

/// A connection that has been upgraded: the user's code owns it, and it still counts.
pub(super) struct Upgraded {
    activity: Weak<Activity>,
    gone: CancellationToken,
    drain: Drain,
}

/// The state of one connection while it is served.
struct Driver<S> {
    connection: Connection,
    activity: Arc<Activity>,
    patience: Patience,
    service: Counted<S>,
}

// === impl Connection ===

impl Connection {
    /// Serves an accepted socket to its end, or until it has been upgraded. It counts from this call on, not
    /// only from the first poll.
    pub(super) fn accepted<S>(
        self,
        socket: Socket,
        peer: Peer,
        service: S,
    ) -> impl Future<Output = Option<Upgraded>> + Send
    where
        S: HttpService,
    {
        let mut driver = self.driver(peer, service);
        async move {
            let result = match driver.handshake(socket).await {
                Ok(Some(stream)) => driver.serve(stream).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            driver.ended(result);
            driver.upgraded()
        }
    }

    fn driver<S>(self, peer: Peer, service: S) -> Driver<S> {
        let activity = Activity::new(self.traffic.connection(), self.meter.clone());
        let hint = self.settings.keep_alive_hint;
        let keep_alive = hint.map(|hint| {
            HeaderValue::try_from(format!("timeout={}", hint.as_secs())).expect("digits")
        });
        let context = RequestContext {
            drain: self.drain.clone(),
            origin: Origin::new(self.shown.clone(), peer, activity.is_late()),
            activity: activity.clone(),
            late: self.late.clone(),
            keep_alive,
        };
        Driver {
            patience: Patience::new(&self.drain, &self.settings, &activity),
            service: Counted {
                service,
                context: Arc::new(context),
            },
            activity,
            connection: self,
        }
    }
}

// === impl Driver ===

impl<S> Driver<S> {
    /// Performs the TLS handshake, if the listener speaks TLS; returns `None` if it did not succeed in time.
    #[cfg(feature = "tls")]
    async fn handshake(&mut self, socket: Socket) -> io::Result<Option<Stream>> {
        use tokio_util::either::Either;
        let Some(tls) = self.connection.tls.clone() else {
            return Ok(Some(Either::Left(socket)));
        };
        let handshake = tls.accept(socket, self.activity.clone());
        match self.patience.wait_for(pin!(handshake)).await {
            Ok(result) => Ok(Some(Either::Right(Box::new(result?)))),
            Err(interrupt) => {
                self.interrupted(interrupt);
                Ok(None)
            }
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn handshake(&mut self, socket: Socket) -> io::Result<Option<Stream>> {
        Ok(Some(socket))
    }

    /// Serves a stream to its end.
    async fn serve<T>(&mut self, stream: T) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Waiting + Unpin + Send + 'static,
        S: HttpService,
    {
        let io = Io::new(
            stream,
            self.activity.clone(),
            self.connection.settings.linger,
            self.connection.drain.token(Moment::Cut).clone(),
        );
        match self.sniff(io).await? {
            Some((Sniffed::Http1, io)) => {
                self.activity.speaks(Protocol::Http1);
                self.http1(io).await
            }
            Some((Sniffed::Http2, io)) => {
                self.activity.speaks(Protocol::Http2);
                self.http2(io).await
            }
            None => Ok(()),
        }
    }

    /// Notes how the connection ended. One that was upgraded has not ended yet.
    fn ended(&self, result: Result<(), BoxError>) {
        let server = self.connection.traffic.server();
        match result {
            Ok(()) => {
                if self.activity.protocol() == Protocol::Http2 && self.patience.has_gone_away() {
                    self.activity.ends(Reason::GoAway);
                }
            }
            Err(error) => {
                tracing::debug!(server, error, "connection ended");
                let reason = match self.activity.peer_has_closed() {
                    true => Reason::Peer,
                    false => Reason::Error,
                };
                self.activity.ends(reason);
            }
        }
    }

    /// Lets go of the connection, and returns it if it has been upgraded and lives on.
    fn upgraded(self) -> Option<Upgraded> {
        (self.activity.protocol() == Protocol::Upgraded).then(|| Upgraded {
            activity: Arc::downgrade(&self.activity),
            gone: self.activity.gone(),
            drain: self.connection.drain.clone(),
        })
    }

    /// Notes and counts why the connection is ended.
    fn interrupted(&self, interrupt: Interrupt) {
        use std::sync::atomic::Ordering::SeqCst;
        self.activity.ends(interrupt.reason());
        let totals = self.connection.traffic.totals();
        match interrupt {
            Interrupt::CloseIdle => {
                totals.idle_closed.fetch_add(1, SeqCst);
            }
            Interrupt::Cut => {
                let doing = match self.activity.doing() {
                    Doing::Idle => "idle",
                    Doing::Receiving => "receiving",
                    Doing::Serving | Doing::Uploading(_) => "serving",
                    Doing::Stuck(_) => "not read by its peer",
                    // Its last answer has left, so nobody loses anything.
                    Doing::Closing => return,
                };
                totals.cut(&format!("{} {doing}", self.activity.protocol().as_str()));
                // A client that has not sent a whole request head by now loses nothing.
                if !matches!(doing, "idle" | "receiving") {
                    totals.connections_cut.fetch_add(1, SeqCst);
                }
                totals
                    .requests_cut
                    .fetch_add(self.activity.in_flight() as u64, SeqCst);
            }
            Interrupt::TooSlow
            | Interrupt::Stalled
            | Interrupt::Stuck
            | Interrupt::Unacknowledged => {
                tracing::debug!(
                    server = self.connection.traffic.server(),
                    peer = %self.service.context.origin.peer(),
                    ?interrupt,
                    "connection closed"
                );
            }
        }
    }

    /// Detects the protocol; returns `None` if the connection ended before that.
    async fn sniff<T>(&mut self, mut io: Io<T>) -> Result<Option<(Sniffed, Io<T>)>, BoxError>
    where
        T: AsyncRead + AsyncWrite + Waiting + Unpin,
    {
        loop {
            let mut sniffer = Sniffer::default();
            let sniffed = self.patience.wait_for(pin!(sniffer.sniff(&mut io))).await;
            match sniffed {
                Ok(result) => {
                    return Ok(result?.map(|protocol| (protocol, io.rewind(sniffer.into_read()))));
                }
                Err(Interrupt::CloseIdle) => match self.close_idle(io, Bytes::new()).await? {
                    // Bytes came at the last instant.
                    Some(again) => io = again,
                    None => return Ok(None),
                },
                Err(interrupt) => {
                    self.interrupted(interrupt);
                    return Ok(None);
                }
            }
        }
    }

    async fn http1<T>(&mut self, mut io: Io<T>) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Waiting + Unpin + Send + 'static,
        S: HttpService,
    {
        loop {
            let mut connection = http1::Builder::new()
                // A client that half-closes after its request still gets an answer.
                .half_close(true)
                .max_buf_size(self.connection.settings.max_head)
                .serve_connection(TokioIo::new(io), self.service.clone())
                .with_upgrades();
            let interrupt = loop {
                match self.patience.wait_for(Pin::new(&mut connection)).await {
                    Ok(result) => return Ok(result?),
                    // Its request is now answered with 408, and then the connection is closed.
                    Err(Interrupt::Stalled) if self.activity.give_up_body() => {
                        self.interrupted(Interrupt::Stalled);
                    }
                    Err(interrupt) => break interrupt,
                }
            };
            match interrupt {
                Interrupt::CloseIdle => {
                    let Some(parts) = connection.into_parts() else {
                        return Ok(());
                    };
                    match self
                        .close_idle(parts.io.into_inner(), parts.read_buf)
                        .await?
                    {
                        Some(again) => io = again,
                        None => return Ok(()),
                    }
                }
                interrupt => {
                    self.interrupted(interrupt);
                    return Ok(());
                }
            }
        }
    }

    async fn http2<T>(&mut self, io: Io<T>) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: HttpService,
    {
        let settings = self.connection.settings.clone();
        let connection = http2::Builder::new(Streams)
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_streams)
            .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW)
            .serve_connection(TokioIo::new(io.frames(STREAM_WINDOW)), self.service.clone());
        let mut connection = pin!(connection);
        self.patience.streams();
        let interrupt = poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Ok(result));
                }
                match self.patience.poll(cx) {
                    // It has been idle for longer than any proxy keeps a connection. A request that is sent at
                    // this very instant is still answered, as with any GOAWAY.
                    Poll::Ready(Interrupt::CloseIdle) => self.interrupted(Interrupt::CloseIdle),
                    Poll::Ready(interrupt) => return Poll::Ready(Err(interrupt)),
                    // This is checked last, because the moment may just have come.
                    Poll::Pending if self.patience.must_go_away() => {}
                    Poll::Pending => return Poll::Pending,
                }
                self.patience.goes_away();
                // GOAWAY with the highest id, a PING, then GOAWAY with the last one (RFC 9113, section 6.8).
                connection.as_mut().graceful_shutdown();
            }
        })
        .await;
        match interrupt {
            Ok(result) => Ok(result?),
            Err(interrupt) => {
                self.interrupted(interrupt);
                Ok(())
            }
        }
    }

    /// Closes a connection that was taken apart, unless there is something to read after all: then it is
    /// returned, to be served.
    async fn close_idle<T>(&mut self, mut io: Io<T>, read: Bytes) -> io::Result<Option<Io<T>>>
    where
        T: AsyncRead + AsyncWrite + Waiting + Unpin,
    {
        if !read.is_empty() {
            return Ok(Some(io.rewind(read)));
        }
        let mut read = BytesMut::with_capacity(4096);
        if !read_what_is_there(&mut io, &mut read).await? {
            return Ok(None);
        }
        if read.is_empty() && io.has_waiting_bytes() {
            // The kernel has the bytes already, or half a TLS record of them: a read will soon deliver them.
            tokio::select! {
                n = io.read_buf(&mut read) => if n? == 0 { return Ok(None) },
                () = tokio::time::sleep(self.connection.settings.header_timeout) => {
                    self.interrupted(Interrupt::TooSlow);
                    return Ok(None);
                }
                () = self.connection.drain.reached(Moment::Cut) => {
                    self.interrupted(Interrupt::Cut);
                    return Ok(None);
                }
            }
        }
        if !read.is_empty() {
            return Ok(Some(io.rewind(read.freeze())));
        }
        self.interrupted(Interrupt::CloseIdle);
        tokio::select! {
            result = io.shutdown() => result?,
            // It waits for its peer no longer than any other connection does.
            () = self.connection.drain.reached(Moment::Cut) => {}
        }
        Ok(None)
    }
}

// === impl Upgraded ===

impl Upgraded {
    /// Waits for its end. After the hard deadline, [`Io`] ends it when the user's code next reads or writes;
    /// it is counted here, because that code may do neither.
    pub(super) async fn ended(self) {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => return,
            () = self.drain.reached(Moment::Cut) => {}
        }
        if let Some(activity) = self.activity.upgrade() {
            activity.cut_upgraded();
        }
        self.gone.cancelled().await;
    }
}

/// Reads the available bytes, without waiting; returns false if the peer has closed.
async fn read_what_is_there<T>(io: &mut Io<T>, read: &mut BytesMut) -> io::Result<bool>
where
    T: AsyncRead + Unpin,
{
    let mut chunk = [0; 4096];
    let n = poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut chunk);
        match Pin::new(&mut *io).poll_read(cx, &mut buf) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| Some(buf.filled().len()))),
            Poll::Pending => Poll::Ready(Ok(None)),
        }
    })
    .await?;
    read.extend_from_slice(&chunk[..n.unwrap_or(0)]);
    Ok(n != Some(0))
}
