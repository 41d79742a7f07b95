//! A server: it serves a listener, from its first connection to its last.
//!
//! The listener stays open through the whole drain: connections that still come are late, but served. It closes at
//! [`Moment::Close`], after its backlog has been swept: closing a listening socket resets every connection
//! that the kernel has accepted and we have not.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use lameduck_lifecycle::{Drain, ListenerGuard, LogThrottle, Moment, Traffic};

use super::{
    bounds::HttpService,
    connection::Connection,
    late::LateLog,
    listener::{Acceptor, Listener, Peer},
    metrics::Meter,
    room::{For, Place, Room},
    settings::HttpSettings,
    stream::Socket,
};

/// Serves a listener until the drain has emptied it.
pub(super) struct Server<S> {
    listener: Listener,
    /// Counts the listener as open, even before the program runs.
    open: ListenerGuard,
    service: S,
    drain: Drain,
    /// The drain that handlers see.
    shown: Drain,
    whom: For,
    traffic: Arc<Traffic>,
    settings: HttpSettings,
}

/// The first and the longest wait after an error of `accept` that does not go away by itself (no descriptors
/// left). A connection that ends frees a descriptor at any time.
const ACCEPT_BACKOFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

// === impl Server ===

impl<S> Server<S> {
    pub(super) fn new(
        listener: Listener,
        name: &str,
        service: S,
        drain: Drain,
        settings: HttpSettings,
    ) -> Self {
        let traffic = drain.traffic(name);
        Self {
            listener,
            open: traffic.listener(),
            service,
            shown: drain.clone(),
            whom: For::Traffic,
            drain,
            traffic,
            settings,
        }
    }

    /// Makes this an admin server: its handlers see `drain`, which is not the one that the server itself
    /// follows.
    pub(super) fn for_admins_of(mut self, drain: Drain) -> Self {
        self.shown = drain;
        self.whom = For::Admin;
        self
    }

    /// Runs until the listener is closed and every connection has ended.
    pub(super) async fn run(self) -> io::Result<()>
    where
        S: HttpService,
    {
        let Self {
            listener,
            open,
            service,
            drain,
            shown,
            whom,
            traffic,
            settings,
        } = self;
        let room = Room::new(whom, settings.max_connections);
        let late = Arc::new(LateLog::default());
        let meter = Meter::new(&drain, traffic.server());
        let connections = TaskTracker::new();
        let tracker = connections.clone();
        let connection = Connection {
            drain: drain.clone(),
            shown,
            traffic: traffic.clone(),
            meter: meter.clone(),
            late: late.clone(),
            settings: Arc::new(settings),
            #[cfg(feature = "tls")]
            tls: listener.tls,
        };
        // The closure owns its captures, so that no service has to be `Sync`.
        let mut serve = move |socket: Socket, peer: Peer, place: Option<Place>| {
            let serving = connection.clone().accepted(socket, peer, service.clone());
            let tasks = tracker.clone();
            tracker.spawn(async move {
                if let Some(upgraded) = serving.await {
                    // A separate task, because it is much smaller than this one.
                    tasks.spawn(async move {
                        upgraded.ended().await;
                        drop(place);
                    });
                }
            });
        };
        accept(
            &listener.accept,
            &room,
            &drain,
            traffic.server(),
            &mut serve,
        )
        .await;
        let swept = listener
            .accept
            .sweep(|socket, peer| serve(socket, peer, None))?;
        drop(open);
        late.tell(traffic.server());
        tracing::debug!(server = traffic.server(), swept, "listener closed");
        connections.close();
        connections.wait().await;
        if let Some(plan) = drain.plan() {
            meter.empty_after(Instant::now() - plan.t0);
        }
        Ok(())
    }
}

/// Accepts connections until it is time to close the listener.
async fn accept(
    acceptor: &Acceptor,
    room: &Room,
    drain: &Drain,
    server: &str,
    serve: &mut impl FnMut(Socket, Peer, Option<Place>),
) {
    let mut back_off = BackOff::new(server);
    loop {
        let next = async {
            let place = match room.try_place() {
                Some(place) => Some(place),
                None => {
                    back_off.full();
                    room.place().await
                }
            };
            match acceptor.accept().await {
                Ok((socket, peer)) => {
                    back_off.reset();
                    serve(socket, peer, place);
                }
                Err(error) => back_off.wait(error).await,
            }
        };
        tokio::select! {
            biased;
            () = drain.reached(Moment::Close) => return,
            () = next => {}
        }
    }
}

/// The interval between log lines about connections that can't be accepted. A client that holds many connections
/// can bring that about whenever one of them ends.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The waiting and logging while no connection can be accepted.
struct BackOff<'a> {
    server: &'a str,
    next: Duration,
    full: LogThrottle,
    failed: LogThrottle,
}

impl<'a> BackOff<'a> {
    fn new(server: &'a str) -> Self {
        Self {
            server,
            next: ACCEPT_BACKOFF[0],
            full: LogThrottle::every(SAY_AGAIN),
            failed: LogThrottle::every(SAY_AGAIN),
        }
    }

    fn reset(&mut self) {
        self.next = ACCEPT_BACKOFF[0];
    }

    fn full(&mut self) {
        if let Some(left_out) = self.full.admit() {
            tracing::warn!(
                server = self.server,
                left_out,
                "there are as many connections as there may be (`max_connections`, or the limit of open files, \
                 ulimit -n); new ones wait in the backlog"
            );
        }
    }

    async fn wait(&mut self, error: io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // The peer gave up before we accepted it.
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionReset | Interrupted
        ) {
            return;
        }
        if let Some(left_out) = self.failed.admit() {
            tracing::warn!(
                server = self.server,
                %error,
                left_out,
                "cannot accept connections; if the limit of open files is too low (ulimit -n), raise it"
            );
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(ACCEPT_BACKOFF[1]);
    }
}
