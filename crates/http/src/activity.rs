//! The activity of a connection: the state that its stream, its driver and its requests share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU8, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use lameduck_lifecycle::{ConnectionGuard, RequestGuard};

use super::{
    metrics::{Meter, Protocol, Reason},
    sending::{Look, Sending, Watched},
    uploads::Uploads,
};

/// The activity of a connection. It lives as long as the socket, even after an upgrade, and counts the connection.
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
    /// Whether part of a TLS record has been received that no read has delivered.
    half_record: AtomicBool,
    /// Whether part of an HTTP/2 frame or header block has been received.
    half_frame: AtomicBool,
    /// HTTP/1: whether the request in flight came with a body, and its answer has not begun.
    has_upload: AtomicBool,
    /// HTTP/1: whether there is room for more of a body, and nothing has come since.
    awaits_body: AtomicBool,
    /// HTTP/2: unanswered requests whose client must send more of a body, and the bytes of all bodies so far.
    awaited_bodies: AtomicUsize,
    body_progress: AtomicUsize,
    /// Whether the connection no longer waits for the rest of a body.
    body_given_up: AtomicBool,
    /// HTTP/2: the answers that are being sent.
    answers: Mutex<Vec<Watched>>,
    /// Whether we have closed our side, and read on only so that the peer gets our last answer.
    closing: AtomicBool,
    /// Whether hyper's write buffer is empty.
    flushed: AtomicBool,
    /// Whether the socket takes no more bytes, because the peer does not read.
    stuck: AtomicBool,
    written: AtomicUsize,
    peer_closed: AtomicBool,
    gone: CancellationToken,
}

/// The activity of a connection, as far as closing it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing has been received since the last answer left.
    Idle,
    /// Part of a request has been received.
    Receiving,
    /// A request is being served, or its answer has not left yet.
    Serving,
    /// It only waits for the rest of a request's body, of which so many bytes have come.
    Uploading(usize),
    /// An answer does not leave: the peer has read nothing since so many bytes were written.
    Stuck(usize),
    /// Our side is closed, after its last answer. No further request will be begun.
    Closing,
}

/// A guard that counts a request to the last byte of its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    protocol: Protocol,
    /// `None` for probes and scrapes: they are served, but no drain waits for them.
    _guard: Option<RequestGuard>,
    sending: Sending,
}

/// A guard for an HTTP/1 request with a body, until its answer begins.
#[derive(Debug)]
pub(super) struct Upload(Arc<Activity>);

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
            has_upload: AtomicBool::new(false),
            awaits_body: AtomicBool::new(false),
            awaited_bodies: AtomicUsize::new(0),
            body_progress: AtomicUsize::new(0),
            body_given_up: AtomicBool::new(false),
            answers: Mutex::default(),
            closing: AtomicBool::new(false),
            flushed: AtomicBool::new(true),
            stuck: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            peer_closed: AtomicBool::new(false),
            gone: CancellationToken::new(),
        })
    }

    pub(super) fn doing(&self) -> Doing {
        // HTTP/2 has frames that belong to no request, both ways and at any time: only the position
        // within a frame matters, not the number of bytes received or written.
        let streams = self.protocol() == Protocol::Http2;
        let unsent = !streams && !self.flushed.load(Relaxed);
        let received = !streams && self.received.load(Relaxed) > 0;
        if self.closing.load(Relaxed) {
            Doing::Closing
        } else if self.stuck.load(Relaxed) {
            Doing::Stuck(self.written.load(Relaxed))
        } else if let Some(come) = self.uploading(streams) {
            Doing::Uploading(come)
        } else if self.in_flight.load(Relaxed) > 0 || unsent {
            Doing::Serving
        } else if received || self.half_record.load(Relaxed) || self.half_frame.load(Relaxed) {
            Doing::Receiving
        } else {
            Doing::Idle
        }
    }

    /// Returns how much of the request bodies has come, if the rest of them is all there is to wait for. Once an
    /// answer has begun, its handler and its client talk with each other, and may pause.
    fn uploading(&self, streams: bool) -> Option<usize> {
        if streams {
            let awaited = self.awaited_bodies.load(Relaxed);
            let all = awaited > 0 && awaited >= self.in_flight.load(Relaxed);
            all.then(|| self.body_progress.load(Relaxed))
        } else {
            let awaits = self.has_upload.load(Relaxed) && self.awaits_body.load(Relaxed);
            awaits.then(|| self.received.load(Relaxed))
        }
    }

    /// Returns the bytes received since the last request ended.
    pub(super) fn received_so_far(&self) -> usize {
        self.received.load(Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Returns the number of requests so far.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// Whether it came after the endpoints were gone.
    pub(super) fn is_late(&self) -> bool {
        self.guard.is_late()
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from_u8(self.protocol.load(Relaxed))
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Sets the protocol that the connection speaks from here on.
    pub(super) fn speaks(&self, protocol: Protocol) {
        let before = self.protocol();
        let active = self.in_flight() > 0;
        self.state_gauge(before, active).dec();
        self.state_gauge(protocol, active).inc();
        self.protocol.store(protocol as u8, Relaxed);
    }

    /// Begins a request. A probe or a scrape does not count as traffic: a drain waits neither for it nor for its
    /// connection.
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
        self.awaits_body.store(false, Relaxed);
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
            sending: Sending::default(),
        }
    }

    /// HTTP/1: notes that a request has a body, which may still be under way.
    pub(super) fn upload(self: &Arc<Self>) -> Upload {
        self.has_upload.store(true, Relaxed);
        Upload(self.clone())
    }

    /// Gives up waiting for the rest of the body, so that its request is answered. Returns false if it already has.
    pub(super) fn give_up_body(&self) -> bool {
        !self.body_given_up.swap(true, Relaxed)
    }

    pub(super) fn body_is_given_up(&self) -> bool {
        self.body_given_up.load(Relaxed)
    }

    /// Watches an HTTP/2 answer that is being sent.
    pub(super) fn answers(&self, answer: &Arc<InFlight>) {
        let mut answers = self.watched();
        if answers.len() == answers.capacity() {
            answers.retain(|answer| !answer.is_gone());
        }
        answers.push(Watched::new(Arc::downgrade(answer)));
    }

    /// Looks at the HTTP/2 answers that are being sent, and resets the streams of those of which nothing has left for
    /// `patience`. Returns how many stand still whose streams can't be reset.
    pub(super) fn look_at_answers(&self, now: Instant, patience: Duration) -> usize {
        let mut stuck = 0;
        self.watched().retain_mut(|answer| {
            let look = answer.look(now, patience);
            stuck += usize::from(look == Look::Stuck);
            look != Look::Gone
        });
        stuck
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the connection ended, unless that is already set. Returns whether it was not.
    pub(super) fn ends(&self, reason: Reason) -> bool {
        self.reason
            .compare_exchange(NO_REASON, reason as u8, Relaxed, Relaxed)
            .is_ok()
    }

    /// Counts an upgraded connection as cut at the hard deadline, once. Either the stream calls this, when the user's
    /// code reads or writes, or the task that waits for its end.
    pub(super) fn cut_upgraded(&self) {
        if self.ends(Reason::Cut) {
            let totals = self.guard.traffic().totals();
            totals.cut(Protocol::Upgraded.as_str());
            totals.connections_cut.fetch_add(1, SeqCst);
        }
    }

    /// Returns a token that is cancelled when the socket is closed.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    pub(super) fn peer_has_closed(&self) -> bool {
        self.peer_closed.load(Relaxed)
    }

    // --- reported by the stream ---

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Relaxed);
        self.awaits_body.store(false, Relaxed);
    }

    /// Notes that a reader wants more than has come. While an HTTP/1 request is in flight, that is more of its body.
    pub(super) fn wants_more(&self) {
        if self.in_flight.load(Relaxed) > 0 {
            self.awaits_body.store(true, Relaxed);
        }
    }

    pub(super) fn set_uploads(&self, uploads: &Uploads) {
        self.awaited_bodies.store(uploads.awaited(), Relaxed);
        self.body_progress.store(uploads.progress(), Relaxed);
    }

    /// Notes the end of the TLS handshake, whose bytes belong to no request.
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

/// The value that stands for a connection without a reason to end.
const NO_REASON: u8 = u8::MAX;

// === impl InFlight ===

impl InFlight {
    /// Returns how much of its answer has left; for HTTP/2 only.
    pub(super) fn sending(&self) -> &Sending {
        &self.sending
    }

    pub(super) fn sending_mut(&mut self) -> &mut Sending {
        &mut self.sending
    }

    pub(super) fn is_stream(&self) -> bool {
        self.protocol == Protocol::Http2
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.has_upload.store(false, Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.received.store(0, Relaxed);
        activity.meter.of(self.protocol).requests.dec();
        if activity.in_flight.fetch_sub(1, Relaxed) == 1 {
            // It may have been upgraded in the meantime, and then stays active.
            let protocol = activity.protocol();
            activity.state_gauge(protocol, true).dec();
            activity.state_gauge(protocol, false).inc();
        }
    }
}
