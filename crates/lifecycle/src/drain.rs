//! [`Drain`]: the handle by which every part of a program knows how far a drain has come.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    budget::Budget,
    conductor::{Input, Record, RoutingEnd},
    inflight::{Traffic, Work},
    metrics,
    observation::{Cause, DeadlineSource, Endpoints, Kill, Load, Peers},
    phase::{Moment, Phase},
    readiness::{Check, CheckResult, Readiness},
    timeline::Timeline,
};

/// The handle that tells how far a drain has come; cheap to clone, handed to every room, handler and hook.
///
/// ```
/// # use lameduck_lifecycle::{Drain, Moment};
/// # async fn example(drain: Drain) {
/// tokio::select! {
///     _ = drain.reached(Moment::Stop) => { /* come to an end */ }
///     _ = async { /* the work */ } => {}
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Drain(Arc<Shared>);

/// A weak handle to a [`Drain`], for values that the drain itself holds.
#[derive(Clone)]
pub(crate) struct WeakDrain(Weak<Shared>);

/// The shared state of a drain. Nothing in here may hold a [`Drain`]: it would never be freed.
struct Shared {
    id: String,
    timeline: Arc<Timeline>,
    /// T0 by the wall clock, read only once because that clock may be changed during the drain.
    began_at: OnceLock<Timestamp>,
    plan: watch::Sender<Option<Budget>>,
    cause: watch::Sender<Option<Cause>>,
    phases: watch::Sender<Vec<(Phase, Instant)>>,
    readiness: Readiness,
    /// A description of what the start is waiting for.
    starting: Mutex<String>,
    inputs: mpsc::UnboundedSender<Input>,
    traffic: Mutex<Vec<Arc<Traffic>>>,
    work: Mutex<Vec<Arc<Work>>>,
    known: Mutex<Known>,
    place: Mutex<Place>,
    registry: prometheus::Registry,
    kept: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// The place where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The Pod's name, in a cluster.
    pub pod: Option<String>,
    /// The node's name, if it is known.
    pub node: Option<String>,
}

/// The conductor's knowledge of the drain, apart from its plan and its [cause](Drain::causes).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) source: Option<DeadlineSource>,
    pub(super) routing: Option<RoutingEnd>,
}

// === impl Drain ===

impl Drain {
    /// Returns a drain that has not begun, and the receiver of the inputs that the shell gets through it.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Input>) {
        let (inputs, receiver) = mpsc::unbounded_channel();
        let timeline = Arc::new(Timeline::new());
        let epoch = timeline.epoch();
        let drain = Self(Arc::new(Shared {
            // Short enough to be read aloud, random enough for one Deployment's history.
            id: format!("{:010x}", fastrand::u64(..1 << 40)),
            timeline,
            began_at: OnceLock::new(),
            plan: watch::Sender::new(None),
            cause: watch::Sender::new(None),
            phases: watch::Sender::new(vec![(Phase::Starting, epoch)]),
            readiness: Readiness::new(),
            starting: Mutex::new("starting".to_owned()),
            inputs,
            traffic: Mutex::default(),
            work: Mutex::default(),
            known: Mutex::default(),
            place: Mutex::default(),
            registry: prometheus::Registry::new(),
            kept: Mutex::default(),
        }));
        metrics::register(&drain);
        (drain, receiver)
    }

    /// Returns a drain that never begins, for code that takes part in no drain.
    pub fn detached() -> Self {
        Self::new().0
    }

    /// Returns a [detached](Self::detached) drain shared by the whole process, so that asking for it repeatedly
    /// costs nothing.
    pub fn shared_detached() -> &'static Self {
        static DRAIN: OnceLock<Drain> = OnceLock::new();
        DRAIN.get_or_init(Self::detached)
    }

    /// Returns a handle that does not keep the drain alive.
    pub(crate) fn downgrade(&self) -> WeakDrain {
        WeakDrain(Arc::downgrade(&self.0))
    }

    // --- for everyone ---

    /// Waits for a moment; returns at once if it has passed.
    pub async fn reached(&self, moment: Moment) {
        self.token(moment).cancelled().await;
    }

    /// Whether a moment has passed.
    pub fn has(&self, moment: Moment) -> bool {
        self.token(moment).is_cancelled()
    }

    /// Returns a moment as a token, for code that takes one. Cancelling it would announce the moment to everyone:
    /// pass a [child](CancellationToken::child_token) to code that might.
    pub fn token(&self, moment: Moment) -> &CancellationToken {
        self.0.timeline.token(moment)
    }

    /// Returns the instants of the drain as now planned, `None` before T0. A deadline may still move.
    pub fn plan(&self) -> Option<Budget> {
        *self.0.plan.borrow()
    }

    /// Returns a receiver that follows the plan.
    pub fn plans(&self) -> watch::Receiver<Option<Budget>> {
        self.0.plan.subscribe()
    }

    /// Returns a receiver that follows the cause of the drain: `None` before T0, then the best current knowledge,
    /// which may change when more becomes known.
    pub fn causes(&self) -> watch::Receiver<Option<Cause>> {
        self.0.cause.subscribe()
    }

    /// Returns the current phase.
    pub fn phase(&self) -> Phase {
        self.0
            .phases
            .borrow()
            .last()
            .map_or(Phase::Starting, |(phase, _)| *phase)
    }

    /// Returns every phase so far and when it was entered.
    pub fn phases(&self) -> Vec<(Phase, Instant)> {
        self.0.phases.borrow().clone()
    }

    /// Returns a receiver that follows the phases.
    pub fn phase_changes(&self) -> watch::Receiver<Vec<(Phase, Instant)>> {
        self.0.phases.subscribe()
    }

    /// Whether the process is ready, as `/readyz` reports: it has started, no drain has failed readiness, and every
    /// [check](Self::readiness_check) passes. Readiness that a drain has failed never comes back.
    pub fn is_ready(&self) -> bool {
        self.phase() >= Phase::Serving && self.0.readiness.is_ready()
    }

    /// Waits until a drain has failed readiness, for code that reports it in another way than `/readyz`.
    pub async fn readiness_failed(&self) {
        self.0.readiness.failed_by_drain().await;
    }

    /// Returns a receiver that follows readiness, for the same purpose. It considers the drain and the checks, but
    /// not whether the process has started.
    pub fn readiness_changes(&self) -> watch::Receiver<bool> {
        self.0.readiness.changes()
    }

    /// Registers a check with this name; readiness fails while the check fails. Two with the same name are two checks.
    pub fn readiness_check(&self, name: &str) -> Check {
        self.0.readiness.check(name)
    }

    /// Returns everything that readiness consists of: `started`, `drain`, then the rooms' checks.
    pub fn readiness_checks(&self) -> Vec<CheckResult> {
        let started = (self.phase() < Phase::Serving).then(|| lock(&self.0.starting).clone());
        let drained = self.0.readiness.is_failed_by_drain().then(|| {
            let cause = self.causes().borrow().unwrap_or_default().known();
            let why = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            format!("drain {} began{why}, phase {}", self.id(), self.phase())
        });
        let own = [
            CheckResult::new("started", started),
            CheckResult::new("drain", drained),
        ];
        own.into_iter().chain(self.0.readiness.results()).collect()
    }

    /// Sets the description of what the start waits for. `/startupz` and `/readyz` show it until the process serves.
    pub fn starting(&self, waits_for: impl Into<String>) {
        *lock(&self.0.starting) = waits_for.into();
    }

    /// Returns the id of this process's drain, the same in every log line and report.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Begins a drain from inside the program, as a signal would; does nothing if one has begun.
    pub fn begin(&self) {
        self.say(Input::Shutdown(Cause::Requested));
    }

    /// Begins a drain because a part of the program has failed; does nothing if one has begun.
    pub fn fail(&self) {
        self.say(Input::Shutdown(Cause::Failed));
    }

    /// Returns the registry for the metrics of all rooms and of the program.
    pub fn registry(&self) -> &prometheus::Registry {
        &self.0.registry
    }

    // --- for observers ---

    /// Reports why the process must end.
    pub fn observe_cause(&self, cause: Cause) {
        self.say(Input::Cause(cause));
    }

    /// Reports when SIGKILL comes.
    pub fn observe_kill(&self, kill: Kill) {
        self.say(Input::Kill(kill));
    }

    /// Reports whether the endpoints of this process are still routed to.
    pub fn observe_endpoints(&self, endpoints: Endpoints) {
        self.say(Input::Endpoints(endpoints));
    }

    /// Reports whether other endpoints could take the traffic.
    pub fn observe_peers(&self, peers: Peers) {
        self.say(Input::Peers(peers));
    }

    /// Sets where this process runs, for its report.
    pub fn set_place(&self, place: Place) {
        *lock(&self.0.place) = place;
    }

    /// Returns where this process runs, as far as it has been set.
    pub fn place(&self) -> Place {
        lock(&self.0.place).clone()
    }

    // --- for the rooms ---

    /// Creates a gauge of connections and requests for one server; the drain waits for what it counts.
    pub fn traffic(&self, server: &str) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic::new(self.0.timeline.clone(), server));
        lock(&self.0.traffic).push(traffic.clone());
        traffic
    }

    /// Creates a gauge of jobs for one pool; the drain waits for what it counts.
    pub fn work(&self, pool: &str) -> Arc<Work> {
        let work = Arc::new(Work::new(self.0.timeline.clone(), pool));
        lock(&self.0.work).push(work.clone());
        work
    }

    /// Returns all gauges of connections and requests.
    pub fn all_traffic(&self) -> Vec<Arc<Traffic>> {
        lock(&self.0.traffic).clone()
    }

    /// Returns all gauges of jobs.
    pub fn all_work(&self) -> Vec<Arc<Work>> {
        lock(&self.0.work).clone()
    }

    /// Returns a value that a room keeps once for the whole program, such as the metrics of all its servers. The
    /// first call makes it.
    pub fn kept<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut kept = lock(&self.0.kept);
        let entry = kept
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(make()));
        let entry = entry.clone();
        entry
            .downcast()
            .unwrap_or_else(|_| unreachable!("kept under its own type's id"))
    }

    // --- for the shell and the gauges ---

    /// Returns the current load: open connections, requests in flight and held jobs.
    pub fn load(&self) -> Load {
        let mut load = Load::default();
        for traffic in lock(&self.0.traffic).iter() {
            traffic.add_to(&mut load);
        }
        for work in lock(&self.0.work).iter() {
            work.add_to(&mut load);
        }
        load
    }

    pub(super) fn emptied(&self) -> &Notify {
        self.0.timeline.emptied()
    }

    pub(super) fn raise(&self, moment: Moment, at: Instant) {
        self.0.timeline.raise(moment, at);
    }

    pub(super) fn raised_at(&self, moment: Moment) -> Option<Instant> {
        self.0.timeline.raised_at(moment)
    }

    pub(super) fn began_at(&self) -> Option<Timestamp> {
        self.0.began_at.get().copied()
    }

    pub(super) fn set_plan(&self, budget: Budget) {
        self.0
            .began_at
            .get_or_init(|| Timestamp::now() - budget.t0.elapsed());
        self.0.plan.send_replace(Some(budget));
    }

    /// Returns the conductor's knowledge of the drain, for the metrics.
    pub(super) fn known(&self) -> Known {
        *lock(&self.0.known)
    }

    pub(super) fn set_known(&self, record: &Record) {
        *lock(&self.0.known) = Known {
            source: Some(record.deadline_source),
            routing: record.routing,
        };
        self.0
            .cause
            .send_if_modified(|known| known.replace(record.cause) != Some(record.cause));
    }

    pub(super) fn enter(&self, phase: Phase, at: Instant) {
        self.0.phases.send_modify(|phases| phases.push((phase, at)));
    }

    pub(super) fn set_observed(&self) {
        self.0.timeline.set_observed();
    }

    /// Whether somebody observes the endpoints, so that a request can be late.
    pub fn is_observed(&self) -> bool {
        self.0.timeline.is_observed()
    }

    pub(super) fn fail_readiness(&self) {
        self.0.readiness.fail_by_drain();
    }

    pub(super) fn say(&self, input: Input) {
        // Fails only when the shell is gone, and then nobody needs the input.
        let _ = self.0.inputs.send(input);
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

// === impl WeakDrain ===

impl WeakDrain {
    /// Returns the drain, as long as anybody holds it.
    pub(crate) fn upgrade(&self) -> Option<Drain> {
        self.0.upgrade().map(Drain)
    }
}

/// Locks a mutex even if it is poisoned: a panic elsewhere must not break the drain.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lifecycle, Signals};

    /// Uses everything that a drain holds for others.
    fn used(drain: &Drain) -> impl Drop + use<> {
        struct Held<T>(#[allow(dead_code)] T);
        impl<T> Drop for Held<T> {
            fn drop(&mut self) {}
        }
        let traffic = drain.traffic("api");
        let work = drain.work("resize");
        let connection = traffic.connection();
        let request = connection.request();
        let kept = drain.kept(|| drain.registry().clone());
        assert!(!drain.registry().gather().is_empty());
        let check = drain.readiness_check("storage");
        Held((request, connection, work.hold(), work, kept, check))
    }

    #[test]
    fn a_drain_that_nobody_holds_is_freed() {
        let (drain, inputs) = Drain::new();
        let held = used(&drain);
        let weak = drain.downgrade();

        drop((drain, inputs));

        assert!(weak.upgrade().is_none(), "its gauges hold no drain");
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lifecycle_that_has_ended_leaves_no_drain_behind() {
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder().signals(signals);
        let weak = lifecycle.drain().downgrade();
        let held = used(lifecycle.drain());
        drop(held);
        trigger.fire();

        lifecycle.run().await.unwrap();
        tokio::task::yield_now().await;

        assert!(weak.upgrade().is_none());
    }
}
