//! What a connection is doing: the one thing that its stream, its driver and its requests all know.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU8, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use tokio_util::sync::CancellationToken;

use lameduck_lifecycle::{ConnectionGuard, RequestGuard};

use super::metrics::{Meter, Protocol, Reason};

/// Lives as long as the socket, through an upgrade too, and counts the connection meanwhile.
#[derive(Debug)]
pub(super) struct Activity {
    guard: ConnectionGuard,
    meter: Arc<Meter>,
    protocol: AtomicU8,
    reason: AtomicU8,
    in_flight: AtomicUsize,
    begun: AtomicUsize,
    /// Bytes received since the last request ended.
    received: AtomicUsize,
    /// Part of a TLS record has been received, which no read has delivered.
    half_record: AtomicBool,
    /// Part of an HTTP/2 frame or header block has been received.
    half_frame: AtomicBool,
    /// We have closed our side, and read on only so that the peer gets our last answer.
    closing: AtomicBool,
    /// Nothing is left in hyper's write buffer.
    flushed: AtomicBool,
    /// The socket takes no more bytes: the peer does not read.
    stuck: AtomicBool,
    written: AtomicUsize,
    peer_closed: AtomicBool,
    gone: CancellationToken,
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
    /// An answer does not leave: the peer has not read on since it had read so many bytes.
    Stuck(usize),
    /// Our side is closed, after its last answer. Nothing that still comes will be begun.
    Closing,
}

/// Counts a request while it lives, to the last byte of its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    protocol: Protocol,
    /// None for probes and scrapes: they are served, but no drain waits for them.
    _guard: Option<RequestGuard>,
}

// === impl Activity ===

impl Activity {
    pub(super) fn new(guard: ConnectionGuard, meter: Arc<Meter>) -> Arc<Self> {
        meter.of(Protocol::Unknown).idle.inc();
        Arc::new(Self {
            guard,
            meter,
            protocol: AtomicU8::new(Protocol::Unknown as u8),
            reason: AtomicU8::new(NO_REASON),
            in_flight: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            half_record: AtomicBool::new(false),
            half_frame: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            flushed: AtomicBool::new(true),
            stuck: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            peer_closed: AtomicBool::new(false),
            gone: CancellationToken::new(),
        })
    }

    pub(super) fn doing(&self) -> Doing {
        // HTTP/2 has frames that are no part of any request, both ways and at any time: what it has received
        // and written says nothing, where in a frame it is does.
        let streams = self.protocol() == Protocol::Http2;
        let unsent = !streams && !self.flushed.load(Relaxed);
        let received = !streams && self.received.load(Relaxed) > 0;
        if self.closing.load(Relaxed) {
            Doing::Closing
        } else if self.stuck.load(Relaxed) {
            Doing::Stuck(self.written.load(Relaxed))
        } else if self.in_flight.load(Relaxed) > 0 || unsent {
            Doing::Serving
        } else if received || self.half_record.load(Relaxed) || self.half_frame.load(Relaxed) {
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

    /// It came after the endpoints were gone.
    pub(super) fn is_late(&self) -> bool {
        self.guard.is_late()
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from_u8(self.protocol.load(Relaxed))
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// From here on it speaks this.
    pub(super) fn speaks(&self, protocol: Protocol) {
        let before = self.protocol();
        let active = self.in_flight() > 0;
        self.state_gauge(before, active).dec();
        self.state_gauge(protocol, active).inc();
        self.protocol.store(protocol as u8, Relaxed);
    }

    /// A request has begun. A probe or a scrape counts as no traffic: neither it nor its connection is
    /// waited for.
    pub(super) fn request(self: &Arc<Self>, is_probe: bool) -> InFlight {
        let protocol = self.protocol();
        let meter = self.meter.of(protocol);
        meter.requests.inc();
        meter.requests_total.inc();
        self.begun.fetch_add(1, Relaxed);
        if self.in_flight.fetch_add(1, Relaxed) == 0 {
            meter.idle.dec();
            meter.active.inc();
        }
        let guard = if is_probe {
            if self.begun() == 1 {
                self.guard.disregard();
            }
            None
        } else {
            Some(self.guard.request())
        };
        InFlight {
            activity: self.clone(),
            protocol,
            _guard: guard,
        }
    }

    /// How it ended, unless that was said before; whether it was not.
    pub(super) fn ends(&self, reason: Reason) -> bool {
        self.reason
            .compare_exchange(NO_REASON, reason as u8, Relaxed, Relaxed)
            .is_ok()
    }

    /// The hard deadline finds it upgraded. Whoever sees that first counts it: the stream, when the user's code
    /// reads or writes, or who waits for its end.
    pub(super) fn cut_upgraded(&self) {
        if self.ends(Reason::Cut) {
            let totals = self.guard.traffic().totals();
            totals.cut(Protocol::Upgraded.as_str());
            totals.connections_cut.fetch_add(1, SeqCst);
        }
    }

    /// Cancelled when the socket is closed.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    pub(super) fn peer_has_closed(&self) -> bool {
        self.peer_closed.load(Relaxed)
    }

    // --- told by the stream ---

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// The TLS handshake is done, and nothing of a request was in it.
    #[cfg(feature = "tls")]
    pub(super) fn handshaken(&self) {
        self.received.store(0, Relaxed);
    }

    #[cfg(feature = "tls")]
    pub(super) fn set_half_record(&self, half: bool) {
        self.half_record.store(half, Relaxed);
    }

    pub(super) fn set_half_frame(&self, half: bool) {
        self.half_frame.store(half, Relaxed);
    }

    pub(super) fn closes(&self) {
        self.closing.store(true, Relaxed);
    }

    pub(super) fn peer_closed(&self) {
        self.peer_closed.store(true, Relaxed);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes, Relaxed);
        self.stuck.store(false, Relaxed);
        self.flushed.store(false, Relaxed);
    }

    pub(super) fn cannot_write(&self) {
        self.stuck.store(true, Relaxed);
        self.flushed.store(false, Relaxed);
    }

    pub(super) fn flushed(&self) {
        self.stuck.store(false, Relaxed);
        self.flushed.store(true, Relaxed);
    }

    fn state_gauge(&self, protocol: Protocol, active: bool) -> &prometheus::IntGauge {
        let meter = self.meter.of(protocol);
        match active || protocol == Protocol::Upgraded {
            true => &meter.active,
            false => &meter.idle,
        }
    }

    fn final_reason(&self) -> Reason {
        Reason::from_u8(self.reason.load(Relaxed)).unwrap_or_else(|| {
            if self.peer_has_closed() {
                Reason::Peer
            } else {
                Reason::Answered
            }
        })
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        let protocol = self.protocol();
        self.state_gauge(protocol, self.in_flight() > 0).dec();
        self.meter.of(protocol).closed(self.final_reason());
        self.gone.cancel();
    }
}

/// No connection has ended yet for this reason.
const NO_REASON: u8 = u8::MAX;

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.received.store(0, Relaxed);
        activity.meter.of(self.protocol).requests.dec();
        if activity.in_flight.fetch_sub(1, Relaxed) == 1 {
            // It may have been upgraded meanwhile: then it stays active.
            let protocol = activity.protocol();
            activity.state_gauge(protocol, true).dec();
            activity.state_gauge(protocol, false).inc();
        }
    }
}
