//! Limits how long we wait for a connection, given what it is doing and how far the drain has come.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use lameduck_lifecycle::{Drain, Moment, later};

use super::{
    activity::{Activity, Doing},
    metrics::Reason,
    settings::HttpSettings,
};

/// How many times HTTP/2 answers are checked within the time for which they may stand still.
const LOOKS: u32 = 4;

/// The reason to end a connection although its protocol could go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The connection is idle, and it is time to close it.
    CloseIdle,
    /// A request head has been incomplete for too long.
    TooSlow,
    /// The rest of a request's body does not come, and a drain waits for it.
    Stalled,
    /// The peer has stopped reading.
    Stuck,
    /// The peer has not acknowledged our GOAWAY.
    Unacknowledged,
    /// The hard deadline has come.
    Cut,
}

/// The timers of one connection. Its driver polls them whenever the protocol is pending.
pub(super) struct Patience {
    drain: Drain,
    settings: Arc<HttpSettings>,
    activity: Arc<Activity>,
    accepted: Instant,
    /// Whether it came after clients were asked to leave.
    late: bool,
    /// When this connection saw that clients are asked to leave.
    leave_since: Option<Instant>,
    stage: Stage,
    stage_since: Instant,
    next_stage: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The waker that is registered with the next stage and the timer.
    waker: Option<Waker>,
    stage_registered: bool,
    timer_registered: bool,
    /// The current activity, when it began, and how many requests had begun by then.
    doing: (Doing, Instant, usize),
    /// In a drain: how much of a request has been received, and when the last of it came.
    heard: (usize, Instant),
    timer: Pin<Box<Sleep>>,
    /// Whether it speaks HTTP/2, which is asked to leave by GOAWAY.
    streams: bool,
    /// When GOAWAY was sent.
    gone_away: Option<Instant>,
    /// When to check the HTTP/2 answers again that are being sent.
    next_look: Option<Instant>,
    /// Whether one of them stands still and its stream can't be reset.
    unread: bool,
    /// A random number between 0 and 1, so that not all connections act at the same instant.
    jitter: f64,
}

/// The stage of the drain, as far as connections are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Leave,
    CloseIdle,
    Cut,
}

// === impl Stage ===

impl Stage {
    /// Returns the moment at which the next stage begins.
    fn end(self) -> Moment {
        match self {
            Self::Serving => Moment::Leave,
            Self::Leave => Moment::CloseIdle,
            Self::CloseIdle | Self::Cut => Moment::Cut,
        }
    }
}

// === impl Interrupt ===

impl Interrupt {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::CloseIdle => Reason::Idle,
            Self::TooSlow => Reason::HeaderTimeout,
            Self::Stalled => Reason::BodyTimeout,
            Self::Stuck => Reason::WriteTimeout,
            Self::Unacknowledged => Reason::GoAway,
            Self::Cut => Reason::Cut,
        }
    }
}

// === impl Patience ===

impl Patience {
    pub(super) fn new(
        drain: &Drain,
        settings: &Arc<HttpSettings>,
        activity: &Arc<Activity>,
    ) -> Self {
        let now = Instant::now();
        Self {
            drain: drain.clone(),
            settings: settings.clone(),
            activity: activity.clone(),
            accepted: now,
            late: drain.has(Moment::Leave),
            leave_since: None,
            stage: Stage::Serving,
            stage_since: now,
            next_stage: Box::pin(drain.token(Moment::Leave).clone().cancelled_owned()),
            waker: None,
            stage_registered: false,
            timer_registered: false,
            doing: (Doing::Idle, now, 0),
            heard: (0, now),
            timer: Box::pin(sleep_until(later(now, settings.idle_timeout))),
            streams: false,
            gone_away: None,
            next_look: None,
            unread: false,
            jitter: fastrand::f64(),
        }
    }

    /// Notes that the connection speaks HTTP/2 from here on.
    pub(super) fn streams(&mut self) {
        self.streams = true;
    }

    /// Whether it is time to send GOAWAY. This is spread over a while for connections that were there before, and
    /// follows the first request on one that came later: otherwise, a client that waits for our SETTINGS before it
    /// sends would be told to leave before it could send a request.
    pub(super) fn must_go_away(&self) -> bool {
        let unread = self.unread && self.gone_away.is_none();
        unread || self.go_away_at().is_some_and(|at| at <= Instant::now())
    }

    /// Notes that GOAWAY is being sent.
    pub(super) fn goes_away(&mut self) {
        self.gone_away = Some(Instant::now());
    }

    pub(super) fn has_gone_away(&self) -> bool {
        self.gone_away.is_some()
    }

    /// Waits for a future of the connection, until patience ends.
    pub(super) async fn wait_for<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Interrupt> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }

    /// Returns pending while the connection may go on. Wakes the task when that may have changed, or when it
    /// [must go away](Self::must_go_away), unless it must already.
    ///
    /// It is called whenever the connection has nothing to do, twice with every request; so it registers no waker
    /// twice.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.stage_registered = false;
            self.timer_registered = false;
        }
        while self.stage < Stage::Cut && self.next_stage_has_come(cx) {
            self.enter_next_stage();
        }
        if self.stage == Stage::Cut {
            return Poll::Ready(Interrupt::Cut);
        }
        self.look();
        loop {
            if self.streams && self.is_stuck() {
                return Poll::Ready(Interrupt::Stuck);
            }
            let due = self.due();
            let go_away = self.go_away_at();
            if due.is_none() && go_away.is_none() && self.next_look.is_none() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let due = match due {
                Some((due, interrupt)) if due <= now => return Poll::Ready(interrupt),
                due => due.map(|(due, _)| due),
            };
            let go_away = go_away.filter(|at| *at > now);
            let instants = due.into_iter().chain(go_away).chain(self.next_look);
            let Some(wake) = instants.min() else {
                return Poll::Pending;
            };
            // A timer that fires too early does no harm, and costs less than resetting it with every request.
            if wake < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(wake);
                self.timer_registered = false;
            }
            if self.timer_registered || self.timer.as_mut().poll(cx).is_pending() {
                self.timer_registered = true;
                return Poll::Pending;
            }
        }
    }

    fn next_stage_has_come(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.stage_registered {
            self.stage_registered = true;
            return self.next_stage.as_mut().poll(cx).is_ready();
        }
        self.drain.has(self.stage.end())
    }

    fn enter_next_stage(&mut self) {
        self.stage = match self.stage {
            Stage::Serving => Stage::Leave,
            Stage::Leave => Stage::CloseIdle,
            Stage::CloseIdle | Stage::Cut => Stage::Cut,
        };
        self.stage_since = Instant::now();
        self.leave_since.get_or_insert(self.stage_since);
        let next = self.drain.token(self.stage.end()).clone();
        self.next_stage = Box::pin(next.cancelled_owned());
        self.stage_registered = false;
    }

    fn look(&mut self) {
        let doing = self.activity.doing();
        let begun = self.activity.begun();
        if (doing, begun) != (self.doing.0, self.doing.2) {
            self.doing = (doing, Instant::now(), begun);
        }
        let received = self.activity.received_so_far();
        if self.stage > Stage::Serving && received != self.heard.0 {
            self.heard = (received, Instant::now());
        }
    }

    /// Whether an HTTP/2 connection has nothing left but answers that its peer does not take. Checks them now and
    /// then, and resets the streams of those that stand still. If that is not possible, the connection must
    /// [go away](Self::must_go_away), and its other streams come to their end.
    fn is_stuck(&mut self) -> bool {
        let in_flight = self.activity.in_flight();
        if in_flight == 0 {
            self.next_look = None;
            return false;
        }
        let now = Instant::now();
        let patience = self.settings.write_timeout;
        if self.next_look.is_some_and(|at| at <= now) {
            let stuck = self.activity.look_at_answers(now, patience);
            self.unread |= stuck > 0;
            self.next_look = None;
            if stuck > 0 && stuck >= in_flight {
                return true;
            }
        }
        let soon = (patience / LOOKS).max(Duration::from_millis(1));
        self.next_look.get_or_insert_with(|| later(now, soon));
        false
    }

    /// Returns when patience ends, and with which interrupt.
    fn due(&self) -> Option<(Instant, Interrupt)> {
        let (doing, since, _) = self.doing;
        let settings = &self.settings;
        // In a drain, a silent client must not keep the others waiting.
        let in_drain = self
            .leave_since
            .map(|leave| later(since.max(leave), settings.lame_duck_pause));
        match doing {
            // A connection that is being closed has its own bound, the linger.
            Doing::Serving | Doing::Closing => None,
            Doing::Uploading(_) => Some((in_drain?, Interrupt::Stalled)),
            Doing::Stuck(_) => Some((later(since, settings.write_timeout), Interrupt::Stuck)),
            Doing::Receiving => {
                let at = later(since, settings.header_timeout);
                // A head that arrives slowly does not count as a pause.
                let pause =
                    in_drain.map(|pause| pause.max(later(self.heard.1, settings.lame_duck_pause)));
                Some((pause.map_or(at, |pause| at.min(pause)), Interrupt::TooSlow))
            }
            Doing::Idle if self.gone_away.is_some() => {
                let from = self.gone_away.map_or(since, |at| at.max(since));
                Some((
                    later(from, settings.goaway_timeout),
                    Interrupt::Unacknowledged,
                ))
            }
            Doing::Idle if self.stage < Stage::CloseIdle => {
                Some((later(since, settings.idle_timeout), Interrupt::CloseIdle))
            }
            Doing::Idle => {
                let from = since.max(self.stage_since);
                let idle_before = self.stage_since.saturating_duration_since(since);
                let delay = self.closing_delay(idle_before);
                Some((later(from, delay), Interrupt::CloseIdle))
            }
        }
    }

    /// Returns the delay before closing, which is shorter the longer a connection was idle: recent ones may be reused.
    fn closing_delay(&self, idle_before: Duration) -> Duration {
        let share = 1.0 / (1.0 + idle_before.as_secs_f64());
        self.spread().mul_f64(share * (0.9 + 0.1 * self.jitter))
    }

    /// Returns the time over which clients are told to go. A day is as good as forever, and can be multiplied.
    fn spread(&self) -> Duration {
        self.settings.spread.min(Duration::from_secs(86_400))
    }

    /// Returns when GOAWAY is due, if it has to be sent and has not been.
    fn go_away_at(&self) -> Option<Instant> {
        if !self.streams || self.gone_away.is_some() {
            return None;
        }
        let since = self.leave_since?;
        let spread = self.spread();
        Some(if !self.late {
            since + spread.mul_f64(self.jitter)
        } else if self.activity.begun() > 0 {
            self.accepted
        } else {
            self.accepted + spread
        })
    }
}
