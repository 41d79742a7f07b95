//! A listener, from its first connection to its last.
//!
//! The listener stays open through the whole drain: who still comes is late, and served. It closes at
//! [`Moment::Close`], after its backlog has been swept: closing a listening socket resets every connection
//! that the kernel has accepted and we have not.

use std::{io, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::lifecycle::{BoxError, Drain, ListenerGuard, Moment, Traffic};

use super::{connection::Connection, settings::HttpSettings};

/// Serves a listener until the drain has emptied it.
pub(super) struct Server<S> {
    pub(super) listener: TcpListener,
    /// Counts as open from before the program runs.
    pub(super) open: ListenerGuard,
    pub(super) service: S,
    pub(super) drain: Drain,
    pub(super) traffic: Arc<Traffic>,
    pub(super) settings: Arc<HttpSettings>,
}

/// After an error of `accept` that does not go away by itself (no descriptors left), how long to wait.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

// === impl Server ===

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Runs until the listener is closed and every connection has ended.
    pub(super) async fn run(self) -> io::Result<()> {
        let Self {
            listener,
            open,
            service,
            drain,
            traffic,
            settings,
        } = self;
        let connections = TaskTracker::new();
        let tracker = connections.clone();
        let connection = Connection {
            drain: drain.clone(),
            traffic: traffic.clone(),
            settings,
        };
        // Owns what it needs, so that nobody's service has to be `Sync`.
        let serve = move |stream: TcpStream| {
            // Fails on a socket that is gone already.
            let _ = stream.set_nodelay(true);
            tracker.spawn(connection.clone().serve(stream, service.clone()));
        };
        loop {
            tokio::select! {
                biased;
                () = drain.reached(Moment::Close) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => serve(stream),
                    Err(error) => back_off(&traffic, error).await,
                },
            }
        }
        let swept = sweep(listener, serve)?;
        drop(open);
        tracing::debug!(server = traffic.server(), swept, "listener closed");
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

/// Accepts everything that the kernel has accepted for us, then closes the listener. Between the last
/// accept and the close lie a few microseconds in which a connection can still come, and be reset.
fn sweep(listener: TcpListener, mut serve: impl FnMut(TcpStream)) -> io::Result<usize> {
    // Not by tokio's `accept`, which believes that nothing is there until epoll says otherwise.
    let listener = listener.into_std()?;
    let mut swept = 0;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        serve(TcpStream::from_std(stream)?);
        swept += 1;
    }
    Ok(swept)
}

async fn back_off(traffic: &Traffic, error: io::Error) {
    match error.kind() {
        // The peer gave up before we came to it.
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(server = traffic.server(), %error, "cannot accept; is the limit of open files too low?");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
}
