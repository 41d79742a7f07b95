//! One connection, from its first byte to its last.
//!
//! ```text
//!   Idle ──byte──▶ Receiving ──head complete──▶ Serving ──last byte of the answer──▶ Idle
//! ```
//!
//! | moment | idle | receiving | serving |
//! | --- | --- | --- | --- |
//! | serving | closed after the idle timeout | closed after the header timeout | |
//! | `Leave` | HTTP/1 may speak once more; HTTP/2 gets GOAWAY | served, then closed | answer says close, GOAWAY |
//! | `CloseIdle` | closed, longest idle first | served, then closed | served, then closed |
//! | `Cut` | cut | cut and counted | cut and counted |
//!
//! hyper closes an HTTP/1 connection by itself after an answer that says `Connection: close`. What it can't
//! do is close an *idle* one: its `graceful_shutdown` closes a reused connection on which half a request
//! head has been received, and waits for ever for a fresh one. So an idle connection is taken apart here,
//! looked at once more, and put together again where there is anything to read.

use std::{future::poll_fn, io, pin::Pin, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tower::Service;

use crate::lifecycle::{BoxError, Drain, Traffic};

use super::{
    io::{Activity, Io},
    patience::{Interrupt, Patience},
    service::Counted,
    settings::HttpSettings,
    sniff::{Protocol, Sniffer},
};

/// What a connection needs to know.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) drain: Drain,
    pub(super) traffic: Arc<Traffic>,
    pub(super) settings: Arc<HttpSettings>,
}

// === impl Connection ===

impl Connection {
    /// Serves a connection to its end.
    pub(super) async fn serve<T, S, B>(self, stream: T, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let activity = Activity::new(self.traffic.connection());
        let io = Io::new(stream, activity.clone(), self.settings.linger);
        let mut patience = Patience::new(&self.drain, &self.settings, &activity);
        let service = Counted::new(service, self.drain.clone(), activity.clone());
        let result = match self.sniff(io, &mut patience).await {
            Ok(Some((Protocol::Http1, io))) => {
                self.http1(io, service, &activity, &mut patience).await
            }
            Ok(Some((Protocol::Http2, io))) => {
                self.http2(io, service, &activity, &mut patience).await
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(server = self.traffic.server(), error, "connection ended");
        }
    }

    /// Which protocol; `None` where the connection ended before it said.
    async fn sniff<T>(
        &self,
        mut io: Io<T>,
        patience: &mut Patience,
    ) -> Result<Option<(Protocol, Io<T>)>, BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let mut sniffer = Sniffer::default();
            let interrupt = {
                let sniff = sniffer.sniff(&mut io);
                tokio::pin!(sniff);
                poll_fn(|cx| match sniff.as_mut().poll(cx) {
                    Poll::Ready(result) => Poll::Ready(Ok(result)),
                    Poll::Pending => patience.poll(cx).map(Err),
                })
                .await
            };
            match interrupt {
                Ok(result) => {
                    return Ok(result?.map(|protocol| (protocol, io.rewind(sniffer.into_read()))));
                }
                Err(Interrupt::CloseIdle) => match close_idle(io, Bytes::new(), self).await? {
                    // It spoke at the last instant.
                    Some(again) => io = again,
                    None => return Ok(None),
                },
                Err(interrupt) => {
                    self.count_cut(interrupt, 0);
                    return Ok(None);
                }
            }
        }
    }

    async fn http1<T, S, B>(
        &self,
        mut io: Io<T>,
        service: Counted<S>,
        activity: &Arc<Activity>,
        patience: &mut Patience,
    ) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        loop {
            let mut connection = http1::Builder::new()
                // A client that half-closes after its request still gets its answer.
                .half_close(true)
                .max_buf_size(self.settings.max_head)
                .serve_connection(TokioIo::new(io), service.clone())
                .with_upgrades();
            let interrupt = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
                Poll::Ready(result) => Poll::Ready(Ok(result)),
                Poll::Pending => patience.poll(cx).map(Err),
            })
            .await;
            match interrupt {
                Ok(result) => return Ok(result?),
                Err(Interrupt::CloseIdle) => {
                    let Some(parts) = connection.into_parts() else {
                        return Ok(());
                    };
                    match close_idle(parts.io.into_inner(), parts.read_buf, self).await? {
                        Some(again) => io = again,
                        None => return Ok(()),
                    }
                }
                Err(interrupt) => {
                    self.count_cut(interrupt, activity.in_flight());
                    return Ok(());
                }
            }
        }
    }

    async fn http2<T, S, B>(
        &self,
        io: Io<T>,
        service: Counted<S>,
        activity: &Arc<Activity>,
        patience: &mut Patience,
    ) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        patience.streams();
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.settings.max_streams)
            .max_header_list_size(u32::try_from(self.settings.max_head).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let mut told = false;
        let interrupt = poll_fn(|cx| {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            let interrupt = patience.poll(cx).map(Err);
            if patience.must_go_away() && !told {
                told = true;
                // GOAWAY with the highest id, a PING, then GOAWAY with the last one (RFC 9113, 6.8).
                connection.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            interrupt
        })
        .await;
        match interrupt {
            Ok(result) => result?,
            Err(Interrupt::CloseIdle) => {}
            Err(interrupt) => self.count_cut(interrupt, activity.in_flight()),
        }
        Ok(())
    }

    fn count_cut(&self, interrupt: Interrupt, requests: usize) {
        use std::sync::atomic::Ordering::SeqCst;
        if interrupt == Interrupt::Cut {
            let totals = self.traffic.totals();
            totals.connections_cut.fetch_add(1, SeqCst);
            totals.requests_cut.fetch_add(requests as u64, SeqCst);
        }
    }
}

/// Closes a connection that was taken apart, unless there is something to read after all: then it comes
/// back, to be served.
async fn close_idle<T>(
    mut io: Io<T>,
    read: Bytes,
    connection: &Connection,
) -> io::Result<Option<Io<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = BytesMut::from(&read[..]);
    if read.is_empty() && !read_what_is_there(&mut io, &mut read).await? {
        return Ok(None);
    }
    if !read.is_empty() {
        return Ok(Some(io.rewind(read.freeze())));
    }
    let totals = connection.traffic.totals();
    totals
        .idle_closed
        .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    io.shutdown().await?;
    Ok(None)
}

/// Reads what the kernel has, without waiting; false where the peer has closed.
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
