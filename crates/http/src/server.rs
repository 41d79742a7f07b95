//! A listener, from its first connection to its last.
//!
//! The listener stays open through the whole drain: who still comes is late, and served. It closes at
//! [`Moment::Close`], after its backlog has been swept: closing a listening socket resets every connection
//! that the kernel has accepted and we have not.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use lameduck_lifecycle::{Drain, ListenerGuard, Moment, Traffic};

use super::{
    bounds::HttpService,
    connection::Connection,
    late::LateLog,
    listener::{Acceptor, Listener, Peer},
    metrics::Meter,
    settings::HttpSettings,
    stream::Socket,
};

/// Serves a listener until the drain has emptied it.
pub(super) struct Server<S> {
    listener: Listener,
    /// Counts as open from before the program runs.
    open: ListenerGuard,
    service: S,
    drain: Drain,
    /// The one that handlers see.
    shown: Drain,
    traffic: Arc<Traffic>,
    settings: HttpSettings,
}

/// After an error of `accept` that does not go away by itself (no descriptors left), how long to wait: first,
/// and at the most. A connection that ends frees a descriptor at any time.
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
            drain,
            traffic,
            settings,
        }
    }

    /// Shows handlers another drain than the one that this server follows itself.
    pub(super) fn showing(mut self, drain: Drain) -> Self {
        self.shown = drain;
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
            traffic,
            settings,
        } = self;
        let slots = Arc::new(Semaphore::new(settings.connection_limit()));
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
        // Owns what it needs, so that nobody's service has to be `Sync`.
        let mut serve = move |socket: Socket, peer: Peer, slot: Option<OwnedSemaphorePermit>| {
            let serving = connection.clone().accepted(socket, peer, service.clone());
            let tasks = tracker.clone();
            tracker.spawn(async move {
                if let Some(upgraded) = serving.await {
                    // In a task of its own, which is much smaller.
                    tasks.spawn(async move {
                        upgraded.ended().await;
                        drop(slot);
                    });
                }
            });
        };
        accept(
            &listener.accept,
            &slots,
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

/// Accepts until the listener is to close.
async fn accept(
    acceptor: &Acceptor,
    slots: &Arc<Semaphore>,
    drain: &Drain,
    server: &str,
    serve: &mut impl FnMut(Socket, Peer, Option<OwnedSemaphorePermit>),
) {
    let mut back_off = BackOff::new(server);
    loop {
        let next = async {
            // Closed by nobody.
            let slot = match slots.clone().try_acquire_owned() {
                Ok(slot) => Some(slot),
                Err(_) => {
                    back_off.full();
                    slots.clone().acquire_owned().await.ok()
                }
            };
            match acceptor.accept().await {
                Ok((socket, peer)) => {
                    back_off.reset();
                    serve(socket, peer, slot);
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

/// What to do when nobody can be accepted; says so once, until somebody can be again.
struct BackOff<'a> {
    server: &'a str,
    next: Duration,
    said: bool,
}

impl<'a> BackOff<'a> {
    fn new(server: &'a str) -> Self {
        Self {
            server,
            next: ACCEPT_BACKOFF[0],
            said: false,
        }
    }

    fn reset(&mut self) {
        self.next = ACCEPT_BACKOFF[0];
        self.said = false;
    }

    fn full(&mut self) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                server = self.server,
                "as many connections as may be (`max_connections`); new ones wait in the backlog"
            );
        }
    }

    async fn wait(&mut self, error: io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // The peer gave up before we came to it.
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionReset | Interrupted
        ) {
            return;
        }
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                server = self.server,
                %error,
                "cannot accept connections; if the limit of open files is too low (ulimit -n), raise it"
            );
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(ACCEPT_BACKOFF[1]);
    }
}
