//! The conductor: a drain as a pure state machine. Inputs are facts, outputs are [`Action`]s, and time is an
//! argument. It does no I/O, spawns nothing and reads no clock, so that a test can run thousands of drains
//! through it in a second (`tests/it/contract.rs`).
//!
//! ```text
//!              signal              settled, half quiet       all gone and quiet, or share spent
//!   Serving ──────────▶ Routing ──────────────────────▶ Leaving ──────────────────────▶ Emptying
//!      │                 │ endpoints, settle              clients are asked to go        │ requests, jobs
//!      │ no listener     └───── share spent ─────────────────────────────────────────────┤
//!      └─────────────────────────────────────────────────────────────────────────────────┤
//!                                                                     hard deadline      │ nothing left
//!                                                           Cutting ◀────────────────────┤
//!                                                              │ gone, or bound          ▼
//!                                              Reporting ◀── Hooks ◀──────────────── Closing (the listener)
//! ```
//!
//! Every step ends as soon as its condition holds, and at the latest at an instant of the
//! [`Budget`]. An input only records a fact; `advance` then looks at all facts and
//! takes as many steps as they allow. The order in which facts arrive therefore does not matter, and a fact
//! that comes twice does no harm.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    budget::{Budget, later},
    observation::{Cause, DeadlineSource, Endpoints, Kill, Load, Peers, Unobservable},
    phase::{Moment, Phase},
    settings::{DrainSettings, ReadinessPolicy},
};

/// A second signal within this time after the first counts as a duplicate by a terminal or supervisor.
pub const SIGNAL_ECHO: Duration = Duration::from_secs(1);

/// How long the readiness policy `auto` waits to learn about other endpoints before it acts without that knowledge.
const PEERS_WAIT: Duration = Duration::from_secs(1);

/// The facts about a process that its conductor needs before the first input.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Whether there is a listener that traffic is routed to.
    pub serves: bool,
    /// Whether somebody observes the endpoints and will report them; otherwise there is nothing to wait for.
    pub observed: bool,
    /// The bound of each teardown hook, in the order of registration.
    pub hooks: Vec<Duration>,
}

/// A fact that the conductor learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input {
    /// Everything is bound and served.
    Started,
    /// SIGTERM or SIGINT came at this instant, which may lie a little in the past.
    Signal(Instant),
    /// The program itself wants to end, for this reason.
    Shutdown(Cause),
    /// The process must end for this reason, which replaces any earlier one.
    Cause(Cause),
    /// SIGKILL comes at this instant, which replaces any earlier one.
    Kill(Kill),
    /// The state of this process's endpoints.
    Endpoints(Endpoints),
    /// The state of other endpoints, which could take the traffic.
    Peers(Peers),
    /// A hook has ended.
    HookEnded {
        /// Its place in [`Shape::hooks`].
        index: usize,
        /// Whether it ended without an error.
        ok: bool,
    },
    /// All reports are written.
    Reported,
    /// Time has passed.
    Tick,
}

/// An instruction to the shell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Enter this phase.
    Enter(Phase),
    /// Announce this moment to the rooms.
    Raise(Moment),
    /// Make `/readyz` fail from now on, for good.
    FailReadiness,
    /// Use these instants until the next such action: arm the watchdog, tell the rooms.
    Plan(Budget),
    /// Run a hook; one that has not ended at this instant is abandoned and reported as an error.
    RunHook {
        /// Its place in [`Shape::hooks`].
        index: usize,
        /// Its deadline.
        until: Instant,
    },
    /// Write all reports.
    Report {
        /// Their deadline.
        until: Instant,
    },
    /// End the process.
    Exit,
}

/// The conductor's record of a drain, for the report.
#[derive(Clone, Debug)]
pub struct Record {
    /// T0.
    pub t0: Instant,
    /// The cause of the drain.
    pub cause: Cause,
    /// The source of the deadline.
    pub deadline_source: DeadlineSource,
    /// The plan in force.
    pub budget: Budget,
    /// Each phase entered since T0, and when it was entered.
    pub phases: Vec<(Phase, Instant)>,
    /// Each moment raised, and when it was raised.
    pub moments: Vec<(Moment, Instant)>,
    /// How the wait for the end of routing ended.
    pub routing: Option<RoutingEnd>,
    /// When the endpoints were seen to be gone, unless they came back.
    pub removed_at: Option<Instant>,
    /// Whether a second signal came.
    pub hurried: bool,
    /// The load that was still there at the end of the teardown.
    pub left: Load,
    /// The load at the hard deadline.
    pub cut: Load,
    /// The number of hooks that failed or were abandoned.
    pub hooks_failed: usize,
}

impl Record {
    /// Whether a moment was raised.
    pub(super) fn has(&self, moment: Moment) -> bool {
        self.raised_at(moment).is_some()
    }

    fn raised_at(&self, moment: Moment) -> Option<Instant> {
        let raised = self.moments.iter().find(|(raised, _)| *raised == moment);
        raised.map(|(_, at)| *at)
    }

    /// Whether the program itself began this drain, and not a signal.
    fn is_own_idea(&self) -> bool {
        matches!(self.cause, Cause::Requested | Cause::Failed)
    }
}

/// How the wait for the end of routing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutingEnd {
    /// The endpoints were seen to be gone.
    Removed,
    /// There was nothing to wait for: no listener, no Service, or no cluster.
    NotApplicable,
    /// The endpoints could not be read for lack of permission; the drain waited by the clock.
    NoPermission,
    /// The API server did not answer; the drain waited by the clock.
    Unavailable,
    /// The process was still routed to when the time was spent: an endpoint was ready, or requests still came over
    /// new connections after settle and quiet could both have passed.
    TimedOut,
    /// Nobody was seen to route here any more, but the time was too short for settle and quiet, or for any answer: a
    /// short grace period, or a deletion by force.
    CutShort,
}

impl RoutingEnd {
    /// All variants.
    pub const ALL: [Self; 6] = [
        Self::Removed,
        Self::NotApplicable,
        Self::NoPermission,
        Self::Unavailable,
        Self::TimedOut,
        Self::CutShort,
    ];

    /// Returns the word used in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::NotApplicable => "not_applicable",
            Self::NoPermission => "no_permission",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::CutShort => "cut_short",
        }
    }
}

impl From<Unobservable> for RoutingEnd {
    fn from(why: Unobservable) -> Self {
        match why {
            Unobservable::NoPermission => Self::NoPermission,
            Unobservable::Unavailable => Self::Unavailable,
            Unobservable::PodGone => Self::CutShort,
        }
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Conductor {
    settings: DrainSettings,
    shape: Shape,
    phase: Phase,
    step: Step,
    // Facts.
    started: bool,
    ready: bool,
    endpoints: Endpoints,
    peers: Peers,
    load: Load,
    reported: bool,
    running_hook: Option<(usize, Instant)>,
    first_signal: Option<Instant>,
    /// Whether T0 came with the last input, and nothing has been decided since.
    announcing: bool,
    // The drain, once there is one.
    record: Option<Record>,
    actions: Vec<Action>,
}

/// A step of the picture above.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Starting,
    Serving,
    Routing {
        removed: Option<Instant>,
    },
    Leaving,
    Emptying,
    Cutting,
    Closing,
    /// `left` hooks are still to run, the last registered first.
    Hooks {
        left: usize,
    },
    Reporting,
    Stopped,
}

// === impl Conductor ===

impl Conductor {
    /// Returns the conductor of a process that is starting.
    pub fn new(settings: DrainSettings, shape: Shape) -> Self {
        Self {
            settings,
            shape,
            phase: Phase::Starting,
            step: Step::Starting,
            started: false,
            ready: true,
            endpoints: Endpoints::Unknown,
            peers: Peers::Unknown,
            load: Load::default(),
            reported: false,
            running_hook: None,
            first_signal: None,
            announcing: false,
            record: None,
            actions: Vec::new(),
        }
    }

    /// Takes note of parts that were added while the process was starting.
    pub fn extend(&mut self, shape: Shape) {
        self.shape.serves |= shape.serves;
        self.shape.observed |= shape.observed;
        self.shape.hooks.extend(shape.hooks);
    }

    /// Takes a fact and returns what to do now. `now` never goes back, and `load` is the load at this very
    /// instant: it is an argument and not an input, so that no decision can rest on an old one.
    #[must_use = "actions must be carried out, in order"]
    pub fn handle(&mut self, now: Instant, load: Load, input: Input) -> Vec<Action> {
        self.load = load;
        let before_t0 = self.record.is_none();
        self.learn(now, input);
        self.announcing = before_t0 && self.record.is_some();
        if self.announcing {
            // The load was counted before T0 was announced, and a room may just have taken something in.
            // The next input follows at once, and decides on the load at that time.
            self.decide_readiness_at_t0(now);
        } else {
            while self.advance(now) {}
        }
        std::mem::take(&mut self.actions)
    }

    /// Returns the phase that was entered last.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the record of the drain, once it has begun.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Returns when to come back with a [`Tick`](Input::Tick), if no other fact comes before.
    pub fn wake_at(&self) -> Option<Instant> {
        let record = self.record.as_ref()?;
        let budget = &record.budget;
        if self.announcing {
            return Some(budget.t0);
        }
        let step = match self.step {
            Step::Starting | Step::Serving | Step::Stopped => return None,
            Step::Routing { removed } => match removed.map(|at| self.settled_at(at)) {
                Some(settled) => settled.min(budget.route_end),
                None => self.assumed_removed_at(record).min(budget.route_end),
            },
            Step::Leaving if self.all_have_left() => {
                self.quiet_at(record).min(budget.lame_duck_end)
            }
            Step::Leaving => budget.lame_duck_end,
            Step::Emptying | Step::Closing => budget.hard,
            Step::Cutting => budget.cut_end,
            Step::Hooks { .. } => match self.running_hook {
                Some((_, until)) => until.min(budget.teardown_end),
                None => budget.teardown_end,
            },
            Step::Reporting => budget.report_end,
        };
        let crossing = [(Moment::Stop, budget.soft), (Moment::Close, budget.close)]
            .into_iter()
            .filter(|(moment, _)| self.step.carries() && !self.raised(*moment))
            .map(|(_, at)| at);
        let readiness = self.ready.then_some(match self.peers {
            Peers::Unknown if self.settings.readiness == ReadinessPolicy::Auto => {
                (record.t0 + PEERS_WAIT).min(budget.lame_duck_end)
            }
            _ => budget.lame_duck_end,
        });
        crossing.chain(readiness).chain([step]).min()
    }

    // --- facts in ---

    fn learn(&mut self, now: Instant, input: Input) {
        match input {
            Input::Started => self.started = true,
            Input::Signal(at) => self.signalled(now, at.min(now)),
            Input::Shutdown(cause) => {
                if self.record.is_none() {
                    self.begin(now, cause);
                }
            }
            Input::Cause(cause) => {
                if let Some(record) = &mut self.record
                    && !record.is_own_idea()
                {
                    record.cause = cause;
                }
            }
            Input::Kill(kill) => self.replan(now, kill),
            Input::Endpoints(endpoints) => self.endpoints = endpoints,
            Input::Peers(peers) => self.peers = peers,
            Input::HookEnded { index, ok } => self.hook_ended(index, ok),
            Input::Reported => self.reported = true,
            Input::Tick => {}
        }
    }

    /// The first signal begins a drain, unless the program has begun one itself; a second one hurries it.
    fn signalled(&mut self, now: Instant, at: Instant) {
        match self.first_signal {
            None => {
                self.first_signal = Some(at);
                if self.record.is_none() {
                    let cause = match self.shape.observed {
                        true => Cause::Unknown,
                        false => Cause::Signal,
                    };
                    self.begin(at, cause);
                }
            }
            Some(first) if at.saturating_duration_since(first) >= SIGNAL_ECHO => self.hurry(now),
            Some(_) => {}
        }
    }

    /// Begins the drain at T0.
    fn begin(&mut self, t0: Instant, cause: Cause) {
        let budget = Budget::new(t0, later(t0, self.settings.grace), &self.settings);
        self.record = Some(Record {
            t0,
            cause,
            deadline_source: DeadlineSource::Settings,
            budget,
            phases: Vec::new(),
            moments: Vec::new(),
            routing: None,
            removed_at: None,
            hurried: false,
            left: Load::default(),
            cut: Load::default(),
            hooks_failed: 0,
        });
        self.actions.push(Action::Plan(budget));
        self.raise(t0, Moment::Began);
        if self.shape.serves && self.started {
            self.enter(t0, Phase::LameDuck);
            self.step = Step::Routing { removed: None };
        } else {
            self.set_routing(RoutingEnd::NotApplicable);
            if !self.started {
                // It was never ready. Entering the next phase must not make it look as if it had started.
                self.ready = false;
                self.actions.push(Action::FailReadiness);
            }
            if self.shape.serves {
                // No client has been routed here, so there is no need to wait for those that are connected.
                self.raise_all(t0, &[Moment::Removed, Moment::Leave, Moment::CloseIdle]);
            }
            self.enter(t0, Phase::Draining);
            self.step = Step::Emptying;
        }
    }

    /// Moves the deadline to about a second from now, after a second signal.
    fn hurry(&mut self, now: Instant) {
        let Some(record) = &mut self.record else {
            return;
        };
        if !record.hurried {
            record.hurried = true;
            record.budget = record.budget.hurried(now);
            self.actions.push(Action::Plan(record.budget));
        }
    }

    /// Adapts the plan to a new deadline.
    fn replan(&mut self, now: Instant, kill: Kill) {
        let Some(record) = &mut self.record else {
            return;
        };
        // An observer takes an end that the program chose itself for a container restart. But then
        // nobody is waiting to kill it; only a deletion changes anything.
        let restart = matches!(kill.source, DeadlineSource::PodSpec | DeadlineSource::Cap);
        if restart && record.is_own_idea() {
            return;
        }
        let mut budget = Budget::new(record.t0, kill.at, &self.settings);
        if record.hurried {
            // Even a longer grace period does not undo a second signal.
            budget = budget.hurried(now);
            if budget.deadline >= record.budget.deadline {
                return;
            }
        }
        if budget.hard <= now {
            // The deadline is so near that its steps lie in the past: the rest is for giving back, hooks and reports.
            budget = budget.squeezed(now);
        }
        record.budget = budget;
        record.deadline_source = kill.source;
        self.actions.push(Action::Plan(budget));
    }

    fn hook_ended(&mut self, index: usize, ok: bool) {
        if self
            .running_hook
            .is_some_and(|(running, _)| running == index)
        {
            self.running_hook = None;
            self.note_hook(ok);
        }
    }

    // --- steps out ---

    /// Takes one step if the facts allow one.
    fn advance(&mut self, now: Instant) -> bool {
        let Some(budget) = self.record.as_ref().map(|record| record.budget) else {
            return self.start(now);
        };
        self.decide_readiness(now, &budget);
        self.cross_deadlines(now, &budget);
        let next = match self.step {
            Step::Starting | Step::Serving | Step::Stopped => None,
            Step::Routing { removed } => self.route(now, removed, &budget),
            Step::Leaving => self.leave(now, &budget),
            Step::Emptying => self.empty(now, &budget),
            Step::Cutting => self.cut(now, &budget),
            Step::Closing => self.close(now, &budget),
            Step::Hooks { left } => self.hook(now, left, &budget),
            Step::Reporting => self.report(now, &budget),
        };
        match next {
            Some(step) => {
                self.step = step;
                true
            }
            None => false,
        }
    }

    fn start(&mut self, now: Instant) -> bool {
        let may = self.started && self.step == Step::Starting;
        if may {
            self.step = Step::Serving;
            self.enter(now, Phase::Serving);
        }
        may
    }

    /// Decides on readiness alone, which does not depend on the load.
    fn decide_readiness_at_t0(&mut self, now: Instant) {
        if let Some(budget) = self.record.as_ref().map(|record| record.budget) {
            self.decide_readiness(now, &budget);
        }
    }

    /// Fails readiness, irrevocably, once the policy says so.
    fn decide_readiness(&mut self, now: Instant, budget: &Budget) {
        if self.ready && self.readiness_must_fail(now, budget) {
            self.ready = false;
            self.actions.push(Action::FailReadiness);
        }
    }

    fn readiness_must_fail(&self, now: Instant, budget: &Budget) -> bool {
        // Without a deletion, only the failing probe takes this process out of its Services.
        let deletion = self.record.as_ref().is_some_and(|record| {
            matches!(
                record.cause,
                Cause::Unknown | Cause::PodDeleted | Cause::Disrupted
            )
        });
        let held_for_nothing = !self.shape.observed || !deletion || self.phase != Phase::LameDuck;
        let gone = !matches!(self.step, Step::Routing { removed: None });
        match self.settings.readiness {
            ReadinessPolicy::Immediate => true,
            _ if held_for_nothing => true,
            ReadinessPolicy::AfterRemoval => gone,
            ReadinessPolicy::Auto => match self.peers {
                Peers::Ready | Peers::NeverAny => true,
                Peers::NoneReady => false,
                Peers::Unknown => now >= budget.t0 + PEERS_WAIT,
            },
        }
    }

    /// Raises the moments of the soft deadline and of closing the listener once they are due, in any step.
    fn cross_deadlines(&mut self, now: Instant, budget: &Budget) {
        if !self.step.carries() {
            return;
        }
        if now >= budget.soft {
            self.raise(now, Moment::Stop);
        }
        if now >= budget.close && !self.raised(Moment::Close) {
            self.raise_all(now, &[Moment::Removed, Moment::Leave, Moment::CloseIdle]);
            self.raise(now, Moment::Close);
        }
    }

    /// Waits until clients that are asked to leave will not come back: endpoints gone, then settled.
    fn route(&mut self, now: Instant, removed: Option<Instant>, budget: &Budget) -> Option<Step> {
        if now >= budget.route_end {
            if removed.is_none() && self.endpoints == Endpoints::Removed {
                self.set_removed_at(Some(now));
            }
            self.set_routing(self.out_of_time(removed));
            return Some(self.ask_to_leave(now));
        }
        let record = self.record.as_ref()?;
        match removed {
            None => {
                let end = self.removal(now, record)?;
                self.set_routing(end);
                self.set_removed_at((end == RoutingEnd::Removed).then_some(now));
                self.raise(now, Moment::Removed);
                Some(Step::Routing { removed: Some(now) })
            }
            // Slices are rebalanced and recreated: an endpoint that was gone may be back.
            Some(_) if self.shape.observed && self.endpoints == Endpoints::Routed => {
                self.set_removed_at(None);
                Some(Step::Routing { removed: None })
            }
            Some(at) if now >= self.settled_at(at) => Some(self.ask_to_leave(now)),
            Some(_) => None,
        }
    }

    /// Returns how the wait has ended, if the endpoints are gone or must be assumed to be gone.
    fn removal(&self, now: Instant, record: &Record) -> Option<RoutingEnd> {
        if !self.shape.observed {
            return Some(RoutingEnd::NotApplicable);
        }
        let waited = now >= self.assumed_removed_at(record);
        match self.endpoints {
            Endpoints::Removed => Some(RoutingEnd::Removed),
            Endpoints::InNone => Some(RoutingEnd::NotApplicable),
            Endpoints::Routed => None,
            Endpoints::Unobservable(why) => waited.then(|| why.into()),
            Endpoints::Unknown => waited.then_some(RoutingEnd::Unavailable),
        }
    }

    /// Returns how a wait ended that ran out of time.
    fn out_of_time(&self, removed: Option<Instant>) -> RoutingEnd {
        if !self.shape.observed {
            return RoutingEnd::NotApplicable;
        }
        // Requests may rightly come for a while: kube-proxy goes on sending to the last pod until its probe fails.
        // A client that comes after settle and quiet could both have passed uses an outdated list of endpoints.
        let while_after = self.settings.settle.saturating_add(self.settings.quiet);
        let comes = removed
            .zip(self.load.last_new)
            .is_some_and(|(removed, last)| last.saturating_duration_since(removed) > while_after);
        if comes || self.endpoints == Endpoints::Routed {
            return RoutingEnd::TimedOut;
        }
        let by_the_clock = self.record.as_ref().and_then(|record| record.routing);
        match (self.endpoints, by_the_clock) {
            (Endpoints::Removed, _) => RoutingEnd::CutShort,
            (Endpoints::InNone, _) => RoutingEnd::NotApplicable,
            (Endpoints::Unobservable(why), _) => why.into(),
            (_, Some(end)) if removed.is_some() && end != RoutingEnd::Removed => end,
            _ => RoutingEnd::CutShort,
        }
    }

    fn assumed_removed_at(&self, record: &Record) -> Instant {
        match self.endpoints {
            Endpoints::Routed => record.budget.route_end,
            _ => later(record.t0, self.settings.fallback_wait),
        }
    }

    /// Returns when clients can be asked to leave a process whose endpoints went at `removed`: the removal has had its
    /// time to settle, and nobody has come for half of the quiet period.
    ///
    /// Half is enough: the drain waits for requests that have just begun in any case, and the rest of the quiet
    /// period [passes meanwhile](Self::quiet_at). If somebody still routes here, clients that were asked to leave
    /// come back once more, and are served.
    fn settled_at(&self, removed: Instant) -> Instant {
        if !self.shape.observed {
            return removed;
        }
        let silence = later(self.silent_since(removed), self.settings.quiet / 2);
        later(removed, self.settings.settle).max(silence)
    }

    /// Returns when the process may go, because nobody seems to route to it any more. If the end of routing was
    /// never seen, silence counts from T0 on.
    fn quiet_at(&self, record: &Record) -> Instant {
        if !self.shape.observed {
            return record.t0;
        }
        let removed = match record.routing {
            Some(RoutingEnd::TimedOut) => None,
            _ => record.raised_at(Moment::Removed),
        };
        let since = self.silent_since(removed.unwrap_or(record.t0));
        later(since, self.settings.quiet)
    }

    /// Returns when the last request came on a new connection, but no earlier than `earliest`.
    fn silent_since(&self, earliest: Instant) -> Instant {
        self.load
            .last_new
            .map_or(earliest, |last| last.max(earliest))
    }

    fn ask_to_leave(&mut self, now: Instant) -> Step {
        self.raise(now, Moment::Removed);
        self.raise(now, Moment::Leave);
        Step::Leaving
    }

    /// Waits until every connection has sent one more request and gone, and nobody has come for the quiet period.
    fn leave(&mut self, now: Instant, budget: &Budget) -> Option<Step> {
        let quiet_at = self.record.as_ref().map(|record| self.quiet_at(record))?;
        let gone = self.all_have_left() && now >= quiet_at;
        if !gone && now < budget.lame_duck_end {
            return None;
        }
        self.raise(now, Moment::CloseIdle);
        self.enter(now, Phase::Draining);
        Some(Step::Emptying)
    }

    /// Whether all connections have ended. A late one shows that a load balancer lags, and it is worth waiting until
    /// that has caught up; but outside of a cluster, nobody will ever route the client elsewhere.
    fn all_have_left(&self) -> bool {
        self.load.connections == 0 && (self.load.late_connections == 0 || !self.shape.observed)
    }

    /// Waits for requests and jobs. Late requests do not delay this step: they are served to their end while
    /// the listener closes.
    fn empty(&mut self, now: Instant, budget: &Budget) -> Option<Step> {
        let load = &self.load;
        if load.connections == 0 && load.requests == 0 && load.jobs == 0 {
            return Some(self.close_listener(now));
        }
        (now >= budget.hard).then(|| self.cut_all(now))
    }

    fn close_listener(&mut self, now: Instant) -> Step {
        self.raise(now, Moment::Close);
        self.raise(now, Moment::GiveBack);
        self.enter(now, Phase::Teardown);
        Step::Closing
    }

    /// Waits until the backlog is swept, and the connections from it are served.
    fn close(&mut self, now: Instant, budget: &Budget) -> Option<Step> {
        if self.load.is_empty() && self.load.pools == 0 {
            return Some(self.run_hooks());
        }
        (now >= budget.hard).then(|| self.cut_all(now))
    }

    fn cut_all(&mut self, now: Instant) -> Step {
        self.raise_all(now, &[Moment::Removed, Moment::Leave, Moment::CloseIdle]);
        self.raise_all(now, &[Moment::Stop, Moment::Close, Moment::Cut]);
        let load = self.load;
        if let Some(record) = &mut self.record {
            record.cut = load;
        }
        Step::Cutting
    }

    /// Waits, within a bound, until everything that was cut is gone.
    fn cut(&mut self, now: Instant, budget: &Budget) -> Option<Step> {
        if !self.load.is_empty() && now < budget.cut_end {
            return None;
        }
        self.raise(now, Moment::GiveBack);
        self.enter(now, Phase::Teardown);
        Some(self.run_hooks())
    }

    fn run_hooks(&self) -> Step {
        Step::Hooks {
            left: self.shape.hooks.len(),
        }
    }

    /// Runs the hooks one by one, then waits until all jobs are given back, as long as there is time.
    fn hook(&mut self, now: Instant, left: usize, budget: &Budget) -> Option<Step> {
        if let Some((_, until)) = self.running_hook {
            if now < until.min(budget.teardown_end) {
                return None;
            }
            self.running_hook = None;
            self.note_hook(false);
        }
        if now >= budget.teardown_end {
            (0..left).for_each(|_| self.note_hook(false));
            return Some(self.start_reports(now, budget));
        }
        match left.checked_sub(1) {
            Some(index) => {
                let until = budget.teardown_end.min(later(now, self.shape.hooks[index]));
                self.running_hook = Some((index, until));
                self.actions.push(Action::RunHook { index, until });
                Some(Step::Hooks { left: index })
            }
            None => (self.load.pools == 0).then(|| self.start_reports(now, budget)),
        }
    }

    fn start_reports(&mut self, now: Instant, budget: &Budget) -> Step {
        let load = self.load;
        if let Some(record) = &mut self.record {
            record.left = load;
        }
        self.enter(now, Phase::Reporting);
        self.actions.push(Action::Report {
            until: budget.report_end,
        });
        Step::Reporting
    }

    fn report(&mut self, now: Instant, budget: &Budget) -> Option<Step> {
        if !self.reported && now < budget.report_end {
            return None;
        }
        self.enter(now, Phase::Stopped);
        self.actions.push(Action::Exit);
        Some(Step::Stopped)
    }

    // --- notes ---

    fn enter(&mut self, now: Instant, phase: Phase) {
        if phase <= self.phase {
            return;
        }
        self.phase = phase;
        self.actions.push(Action::Enter(phase));
        if let Some(record) = &mut self.record {
            record.phases.push((phase, now));
        }
    }

    fn raise(&mut self, now: Instant, moment: Moment) {
        if self.raised(moment) {
            return;
        }
        self.actions.push(Action::Raise(moment));
        if let Some(record) = &mut self.record {
            record.moments.push((moment, now));
        }
    }

    fn raise_all(&mut self, now: Instant, moments: &[Moment]) {
        for moment in moments {
            self.raise(now, *moment);
        }
    }

    fn raised(&self, moment: Moment) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.has(moment))
    }

    fn set_routing(&mut self, end: RoutingEnd) {
        if let Some(record) = &mut self.record {
            record.routing = Some(end);
        }
    }

    fn set_removed_at(&mut self, at: Option<Instant>) {
        if let Some(record) = &mut self.record {
            record.removed_at = at;
        }
    }

    fn note_hook(&mut self, ok: bool) {
        if let Some(record) = &mut self.record {
            record.hooks_failed += usize::from(!ok);
        }
    }
}

// === impl Step ===

impl Step {
    /// Whether requests and jobs are still served in this step.
    fn carries(self) -> bool {
        matches!(
            self,
            Self::Routing { .. } | Self::Leaving | Self::Emptying | Self::Closing
        )
    }
}
