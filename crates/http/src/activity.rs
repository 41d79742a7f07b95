//! What a connection is doing: the one thing that its stream, its driver and its requests all know.

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
    /// HTTP/1: the request in flight came with a body, and its answer has not begun.
    has_upload: AtomicBool,
    /// HTTP/1: there is room for more of a body, and nothing has come since.
    awaits_body: AtomicBool,
    /// HTTP/2: unanswered requests whose client is to send more of a body, and how much has come of all bodies.
    awaited_bodies: AtomicUsize,
    body_progress: AtomicUsize,
    /// The rest of a body is waited for no longer.
    body_given_up: AtomicBool,
    /// HTTP/2: the answers that are on their way.
    answers: Mutex<Vec<Watched>>,
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
    /// Nothing is being done but to wait for the rest of a request's body, since so much of it has come.
    Uploading(usize),
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
    sending: Sending,
}

/// A request of HTTP/1 with a body, until its answer begins.
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
        // HTTP/2 has frames that are no part of any request, both ways and at any time: what it has received
        // and written says nothing, where in a frame it is does.
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

    /// How much has come of the request bodies, where the rest of them is all there is to wait for. Where an answer has
    /// begun, its handler and its client talk with each other, and may pause.
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

    /// Bytes received since the last request ended.
    pub(super) fn received_so_far(&self) -> usize {
        self.received.load(Relaxed)
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

    /// HTTP/1: a request has a body, which may still be under way.
    pub(super) fn upload(self: &Arc<Self>) -> Upload {
        self.has_upload.store(true, Relaxed);
        Upload(self.clone())
    }

    /// The rest of the body is waited for no longer: its request is answered. False where that was said before.
    pub(super) fn give_up_body(&self) -> bool {
        !self.body_given_up.swap(true, Relaxed)
    }

    pub(super) fn body_is_given_up(&self) -> bool {
        self.body_given_up.load(Relaxed)
    }

    /// An answer of HTTP/2 is on its way.
    pub(super) fn answers(&self, answer: &Arc<InFlight>) {
        let mut answers = self.watched();
        if answers.len() == answers.capacity() {
            answers.retain(|answer| !answer.is_gone());
        }
        answers.push(Watched::new(Arc::downgrade(answer)));
    }

    /// Looks at the answers of HTTP/2 that are on their way, and resets the streams of those of which nothing has left
    /// for so long. Says how many stand still beyond that.
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
        self.awaits_body.store(false, Relaxed);
    }

    /// Somebody wants more than has come. While a request of HTTP/1 is in flight, that is more of its body.
    pub(super) fn wants_more(&self) {
        if self.in_flight.load(Relaxed) > 0 {
            self.awaits_body.store(true, Relaxed);
        }
    }

    pub(super) fn set_uploads(&self, uploads: &Uploads) {
        self.awaited_bodies.store(uploads.awaited(), Relaxed);
        self.body_progress.store(uploads.progress(), Relaxed);
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

impl InFlight {
    /// How far its answer has left; of HTTP/2 alone.
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
            // It may have been upgraded meanwhile: then it stays active.
            let protocol = activity.protocol();
            activity.state_gauge(protocol, true).dec();
            activity.state_gauge(protocol, false).inc();
        }
    }
}
