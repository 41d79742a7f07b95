//! "What must hold" of the design, on the pure conductor: thousands of drains under simulated time, with
//! every input at every instant, peers that never go, handlers that never end and a deadline that moves.

use std::{collections::BTreeMap, time::Duration};

use lameduck::lifecycle::{
    Budget, Cause, DeadlineSource, DrainSettings, Endpoints, HURRY, Kill, Load, Moment, Peers,
    Phase, ReadinessPolicy, Unobservable,
    conductor::{Action, Conductor, Input, RoutingEnd, SIGNAL_ECHO, Shape},
};
use proptest::prelude::*;
use tokio::time::Instant;

/// Milliseconds since the simulation began.
type Millis = u64;

/// How the world behaves, whatever the conductor asks of it.
#[derive(Clone, Debug)]
struct World {
    settings: DrainSettings,
    shape: Shape,
    /// What comes from outside, and when.
    script: Vec<(Millis, Input)>,
    /// The first signal.
    signal: Millis,
    /// How long each client takes to go once it is asked; `None` for one that stays until it is cut.
    clients: Vec<Option<Millis>>,
    /// Clients that come in the drain: when after the signal, how long they stay.
    late: Vec<(Millis, Option<Millis>)>,
    /// How long each job still runs; `None` for ever.
    jobs: Vec<Option<Millis>>,
    /// A reservation that was sent just before T0 was announced, and is counted just after: how long its job
    /// is held.
    raced: Option<Millis>,
    /// How long cutting takes; `None` for what can't be cut.
    cutting: Option<Millis>,
    /// How long the sweep of the backlog takes.
    sweep: Option<Millis>,
    /// How long giving back takes.
    giving_back: Option<Millis>,
    /// How long each hook takes, and whether it ends well.
    hooks: Vec<(Option<Millis>, bool)>,
    /// How long the reports take.
    reporting: Option<Millis>,
}

/// One history: what the conductor did, and what the world looked like when it did.
#[derive(Debug)]
struct History {
    acts: Vec<Act>,
    exit: Option<Millis>,
    routing: Option<RoutingEnd>,
    /// When the endpoints were seen to be gone.
    removed_at: Option<Millis>,
    /// By the last plan.
    deadline: Option<Millis>,
}

#[derive(Clone, Debug)]
struct Act {
    at: Millis,
    action: Action,
    load: Load,
    endpoints: Endpoints,
    plan: Option<Budget>,
}

struct Simulation {
    world: World,
    conductor: Conductor,
    epoch: Instant,
    now: Millis,
    agenda: BTreeMap<(Millis, u64), Event>,
    sequence: u64,
    load: Load,
    endpoints: Endpoints,
    plan: Option<Budget>,
    acts: Vec<Act>,
    exit: Option<Millis>,
    removed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Fact(Input),
    ClientCame { stays: Option<Millis> },
    ClientWent { late: bool },
    JobEnded,
    ListenerClosed,
    PoolClosed,
    CutEnded,
}

// === impl Simulation ===

impl Simulation {
    fn run(world: World) -> History {
        Self::new(world).finish()
    }

    /// Lives through it all; a conductor that spins is stopped, and seen not to have exited.
    fn finish(mut self) -> History {
        for _ in 0..5_000 {
            let wake = self.conductor.wake_at().map(|at| self.millis(at));
            let next = self.agenda.keys().next().map(|(at, _)| *at);
            let (None, Some(at)) = (self.exit, wake.into_iter().chain(next).min()) else {
                break;
            };
            self.now = self.now.max(at);
            match next {
                Some(due) if due <= self.now => self.happen(),
                _ => self.tell(Input::Tick),
            }
        }
        History {
            routing: self.conductor.record().and_then(|record| record.routing),
            removed_at: {
                let removed_at = self.conductor.record().and_then(|record| record.removed_at);
                removed_at.map(|at| self.millis(at))
            },
            deadline: self.plan.map(|plan| self.millis(plan.deadline)),
            acts: self.acts,
            exit: self.exit,
        }
    }

    fn new(world: World) -> Self {
        let mut simulation = Self {
            conductor: Conductor::new(world.settings.clone(), world.shape.clone()),
            epoch: epoch(),
            now: 0,
            agenda: BTreeMap::new(),
            sequence: 0,
            load: Load {
                listeners: usize::from(world.shape.serves),
                connections: world.clients.len(),
                jobs: world.jobs.len(),
                pools: 1,
                ..Load::default()
            },
            endpoints: Endpoints::Unknown,
            plan: None,
            acts: Vec::new(),
            exit: None,
            removed: false,
            world,
        };
        simulation.schedule(0, Event::Fact(Input::Started));
        for (at, input) in simulation.world.script.clone() {
            simulation.schedule(at, Event::Fact(input));
        }
        let signal = Input::Signal(simulation.instant(simulation.world.signal));
        simulation.schedule(simulation.world.signal, Event::Fact(signal));
        if simulation.world.shape.serves {
            for (after, stays) in simulation.world.late.clone() {
                let at = simulation.world.signal + after;
                simulation.schedule(at, Event::ClientCame { stays });
            }
        }
        for runs in simulation.world.jobs.clone().into_iter().flatten() {
            simulation.schedule(simulation.world.signal + runs, Event::JobEnded);
        }
        simulation
    }

    fn instant(&self, at: Millis) -> Instant {
        self.epoch + Duration::from_millis(at)
    }

    fn millis(&self, at: Instant) -> Millis {
        // Never wake before the conductor wants it.
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap()
    }

    fn schedule(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), event);
    }

    fn happen(&mut self) {
        let Some((_, event)) = self.agenda.pop_first() else {
            return;
        };
        match event {
            Event::Fact(input) => return self.tell(input),
            Event::ClientCame { stays } if self.load.listeners > 0 => {
                self.load.last_new = Some(self.instant(self.now));
                let late = self.removed;
                *self.connections(late) += 1;
                if let Some(stays) = stays {
                    self.schedule(self.now + stays, Event::ClientWent { late });
                }
            }
            Event::ClientCame { .. } => {}
            Event::ClientWent { late } => {
                let connections = self.connections(late);
                *connections = connections.saturating_sub(1);
            }
            Event::JobEnded => self.load.jobs = self.load.jobs.saturating_sub(1),
            Event::ListenerClosed => self.load.listeners = 0,
            Event::PoolClosed => (self.load.pools, self.load.jobs) = (0, 0),
            Event::CutEnded => {
                (self.load.connections, self.load.late_connections) = (0, 0);
                (self.load.jobs, self.load.listeners) = (0, 0);
            }
        }
        self.tell(Input::Tick);
    }

    fn connections(&mut self, late: bool) -> &mut usize {
        if late {
            &mut self.load.late_connections
        } else {
            &mut self.load.connections
        }
    }

    fn tell(&mut self, input: Input) {
        if let Input::Endpoints(endpoints) = input {
            self.endpoints = endpoints;
        }
        let now = self.instant(self.now);
        let actions = self.conductor.handle(now, self.load, input);
        let moved = !actions.is_empty();
        for action in actions {
            self.act(action);
        }
        // As the shell does.
        if moved && self.exit.is_none() {
            self.tell(Input::Tick);
        }
    }

    fn act(&mut self, action: Action) {
        if let Action::Plan(plan) = action {
            self.plan = Some(plan);
        }
        self.acts.push(Act {
            at: self.now,
            action,
            load: self.load,
            endpoints: self.endpoints,
            plan: self.plan,
        });
        let now = self.now;
        let after = |delay: Option<Millis>| delay.map(|delay| now + delay);
        match action {
            Action::Raise(Moment::Began) => {
                if let Some(at) = after(self.world.raced) {
                    self.load.jobs += 1;
                    self.schedule(at, Event::JobEnded);
                }
            }
            Action::Raise(Moment::Removed) => self.removed = true,
            Action::Raise(Moment::Leave) => {
                for leaves in self.world.clients.clone() {
                    if let Some(at) = after(leaves) {
                        self.schedule(at, Event::ClientWent { late: false });
                    }
                }
            }
            Action::Raise(Moment::Close) => {
                if let Some(at) = after(self.world.sweep) {
                    self.schedule(at, Event::ListenerClosed);
                }
            }
            Action::Raise(Moment::Cut) => {
                if let Some(at) = after(self.world.cutting) {
                    self.schedule(at, Event::CutEnded);
                }
            }
            Action::Raise(Moment::GiveBack) => {
                if let Some(at) = after(self.world.giving_back) {
                    self.schedule(at, Event::PoolClosed);
                }
            }
            Action::RunHook { index, .. } => {
                let (takes, ok) = self.world.hooks[index];
                if let Some(at) = after(takes) {
                    self.schedule(at, Event::Fact(Input::HookEnded { index, ok }));
                }
            }
            Action::Report { .. } => {
                if let Some(at) = after(self.world.reporting) {
                    self.schedule(at, Event::Fact(Input::Reported));
                }
            }
            Action::Exit => self.exit = Some(now),
            Action::Raise(_) | Action::Enter(_) | Action::FailReadiness | Action::Plan(_) => {}
        }
    }
}

// === impl History ===

impl History {
    fn moment(&self, moment: Moment) -> Option<&Act> {
        self.acts
            .iter()
            .find(|act| act.action == Action::Raise(moment))
    }

    fn count(&self, wanted: Action) -> usize {
        self.acts.iter().filter(|act| act.action == wanted).count()
    }

    fn position(&self, wanted: Action) -> Option<usize> {
        self.acts.iter().position(|act| act.action == wanted)
    }

    fn hook_until(&self) -> Instant {
        let until = self.acts.iter().find_map(|act| match act.action {
            Action::RunHook { until, .. } => Some(until),
            _ => None,
        });
        until.expect("a hook was run")
    }

    fn last_plan(&self) -> Budget {
        self.acts
            .iter()
            .rev()
            .find_map(|act| act.plan)
            .expect("a drain has a plan")
    }
}

/// One epoch for all simulations, so that what they did can be compared.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

// --- worlds ---

fn maybe(up_to: Millis) -> impl Strategy<Value = Option<Millis>> {
    prop_oneof![6 => (0..up_to).prop_map(Some), 1 => Just(None)]
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    prop_oneof![
        1 => Just(Endpoints::Unknown),
        3 => Just(Endpoints::Routed),
        3 => Just(Endpoints::Removed),
        1 => Just(Endpoints::InNone),
        1 => Just(Endpoints::Unobservable(Unobservable::NoPermission)),
        1 => Just(Endpoints::Unobservable(Unobservable::Unavailable)),
        1 => Just(Endpoints::Unobservable(Unobservable::PodGone)),
    ]
}

fn facts() -> impl Strategy<Value = Input> {
    prop_oneof![
        4 => endpoints().prop_map(Input::Endpoints),
        2 => prop_oneof![
            Just(Peers::Unknown), Just(Peers::Ready), Just(Peers::NoneReady), Just(Peers::NeverAny)
        ].prop_map(Input::Peers),
        1 => prop_oneof![
            Just(Cause::PodDeleted), Just(Cause::ContainerStopped), Just(Cause::Disrupted)
        ].prop_map(Input::Cause),
        1 => Just(Input::Tick),
        1 => Just(Input::Started),
        1 => Just(Input::Reported),
        1 => (0usize..3, any::<bool>()).prop_map(|(index, ok)| Input::HookEnded { index, ok }),
    ]
}

fn worlds() -> impl Strategy<Value = World> {
    let settings = (
        prop_oneof![Just(30_000), 0..2_500u64, 0..120_000u64],
        0.0..1.0f64,
        prop_oneof![
            Just(ReadinessPolicy::Immediate),
            Just(ReadinessPolicy::AfterRemoval),
            Just(ReadinessPolicy::Auto)
        ],
    )
        .prop_map(|(grace, lame_duck_share, readiness)| {
            let mut settings = DrainSettings::default();
            settings.grace = Duration::from_millis(grace);
            settings.lame_duck_share = lame_duck_share;
            settings.readiness = readiness;
            settings
        });
    let script = prop::collection::vec((0..60_000u64, facts()), 0..12);
    // Absolute instants need an epoch, which only the simulation has: see `moved`.
    let hooks = prop::collection::vec((maybe(4_000), any::<bool>()), 0..4);
    let carried = (
        prop::collection::vec(maybe(30_000), 0..6),
        prop::collection::vec((0..60_000u64, maybe(30_000)), 0..12),
        (
            prop::collection::vec(maybe(90_000), 0..6),
            prop::option::of(1..2_000u64),
        ),
        maybe(2_000),
        maybe(2_000),
        maybe(2_000),
        maybe(2_000),
    );
    (
        settings,
        any::<(bool, bool)>(),
        0..5_000u64,
        script,
        hooks,
        carried,
    )
        .prop_map(
            |(settings, (serves, observed), signal, script, hooks, carried)| {
                let (clients, late, (jobs, raced), cutting, sweep, giving_back, reporting) =
                    carried;
                World {
                    settings,
                    shape: Shape {
                        serves,
                        observed,
                        hooks: hooks.iter().map(|_| Duration::from_secs(2)).collect(),
                    },
                    script,
                    signal,
                    clients: if serves { clients } else { Vec::new() },
                    late,
                    jobs,
                    raced,
                    cutting,
                    sweep,
                    giving_back,
                    hooks,
                    reporting,
                }
            },
        )
}

/// A world in which everybody behaves and nothing comes from outside.
fn quiet_world() -> World {
    World {
        settings: DrainSettings::default(),
        shape: Shape {
            serves: true,
            observed: false,
            hooks: Vec::new(),
        },
        script: Vec::new(),
        signal: 1_000,
        clients: Vec::new(),
        late: Vec::new(),
        jobs: Vec::new(),
        raced: None,
        cutting: Some(0),
        sweep: Some(0),
        giving_back: Some(0),
        hooks: Vec::new(),
        reporting: Some(0),
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 3_000,
        max_shrink_iters: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Property 1: the process exits before its deadline, whoever hangs.
    #[test]
    fn it_exits_by_its_deadline(world in worlds()) {
        let history = Simulation::run(world);
        let exit = history.exit.expect("it never exits");
        prop_assert!(exit <= history.deadline.unwrap(), "exit {}, deadline {:?}", exit, history.deadline);
    }

    /// Property 1, where the deadline moves: at any instant, forwards and backwards, even into the past.
    #[test]
    fn a_deadline_that_moves_is_kept(
        world in worlds(), moves in prop::collection::vec((0..40_000u64, 0..90_000u64), 1..4),
    ) {
        let mut simulation = Simulation::new(world.clone());
        for (at, grace) in moves {
            let kill = Kill {
                at: simulation.instant(world.signal + grace),
                source: DeadlineSource::DeletionGracePeriod,
            };
            simulation.schedule(at, Event::Fact(Input::Kill(kill)));
        }
        let history = simulation.finish();
        let exit = history.exit.expect("it never exits");
        let told = history.acts.iter().rev().find(|act| matches!(act.action, Action::Plan(_))).unwrap().at;
        let deadline = history.deadline.unwrap().max(told);
        prop_assert!(exit <= deadline, "exit {}, deadline {}", exit, deadline);
    }

    /// Property 2, as far as the conductor has it in hand: T0 is announced first and at once, and nothing is
    /// given back while a job runs that still has time.
    #[test]
    fn reserving_ends_at_t0_and_giving_back_waits_for_jobs(world in worlds()) {
        let history = Simulation::run(world.clone());
        let began = history.moment(Moment::Began).expect("a drain begins");
        prop_assert_eq!(began.at, world.signal);
        let first = history.acts.iter().position(|act| matches!(act.action, Action::Raise(_)));
        prop_assert_eq!(history.position(Action::Raise(Moment::Began)), first);
        let given_back = history.moment(Moment::GiveBack).expect("jobs are given back before every exit");
        let cut = history.moment(Moment::Cut).is_some_and(|cut| cut.at <= given_back.at);
        prop_assert!(cut || given_back.load.jobs == 0);
    }

    /// Property 3: nothing is cut before the hard deadline, and nobody is discouraged while somebody routes
    /// here and there is time.
    #[test]
    fn nothing_is_cut_early_and_nobody_is_discouraged_early(world in worlds()) {
        let history = Simulation::run(world.clone());
        let since_t0 = |act: &Act| Duration::from_millis(act.at - world.signal + 1);
        for act in &history.acts {
            let Some(plan) = act.plan else { continue };
            match act.action {
                Action::Raise(Moment::Cut) => prop_assert!(since_t0(act) >= plan.hard - plan.t0),
                Action::Raise(Moment::Stop) => prop_assert!(since_t0(act) >= plan.soft - plan.t0),
                Action::Raise(Moment::Leave) if act.endpoints == Endpoints::Routed && world.shape.observed => {
                    prop_assert!(since_t0(act) >= plan.route_end - plan.t0);
                }
                Action::Raise(Moment::CloseIdle) if act.load.connections > 0 => {
                    prop_assert!(since_t0(act) >= plan.lame_duck_end - plan.t0);
                }
                _ => {}
            }
        }
    }

    /// Property 4: the listener closes last: when nothing is carried any more, or when there is just time
    /// enough for what was taken in to end.
    #[test]
    fn the_listener_closes_last(world in worlds()) {
        let history = Simulation::run(world.clone());
        let Some(close) = history.moment(Moment::Close) else { return Ok(()) };
        let plan = close.plan.unwrap();
        let empty = close.load.connections == 0 && close.load.requests == 0 && close.load.jobs == 0;
        let since_t0 = Duration::from_millis(close.at - world.signal + 1);
        prop_assert!(empty || since_t0 >= plan.close - plan.t0);
    }

    /// Property 5, and order: readiness fails once, after T0; phases and moments come once and in order.
    #[test]
    fn everything_happens_once_and_in_order(world in worlds()) {
        let history = Simulation::run(world);
        prop_assert_eq!(history.count(Action::FailReadiness), 1);
        prop_assert!(history.position(Action::FailReadiness) > history.position(Action::Raise(Moment::Began)));
        let phases: Vec<Phase> = history.acts.iter().filter_map(|act| match act.action {
            Action::Enter(phase) => Some(phase),
            _ => None,
        }).collect();
        prop_assert!(phases.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", phases);
        prop_assert_eq!(phases.last(), Some(&Phase::Stopped));
        for moment in Moment::ALL {
            prop_assert!(history.count(Action::Raise(moment)) <= 1);
        }
        let order = [Moment::Began, Moment::Removed, Moment::Leave, Moment::CloseIdle];
        let raised: Vec<_> = order.iter().filter_map(|m| history.position(Action::Raise(*m))).collect();
        prop_assert!(raised.is_sorted());
        if let Some(cut) = history.position(Action::Raise(Moment::Cut)) {
            for moment in [Moment::Leave, Moment::CloseIdle, Moment::Stop, Moment::Close] {
                prop_assert!(history.position(Action::Raise(moment)).is_some_and(|at| at < cut));
            }
        }
        let exit = history.position(Action::Exit).unwrap();
        prop_assert_eq!(exit, history.acts.len() - 1, "something follows the exit");
    }

    /// Property 7: a second signal ends the process in about a second, and jobs are still given back.
    #[test]
    fn a_second_signal_is_a_second(world in worlds(), after in 1_000..60_000u64) {
        let mut simulation = Simulation::new(world.clone());
        let second = world.signal + after;
        let input = Input::Signal(simulation.instant(second));
        simulation.schedule(second, Event::Fact(input));
        let history = simulation.finish();
        let hurry = u64::try_from(HURRY.as_millis()).unwrap();
        prop_assert!(history.exit.expect("it never exits") <= second + hurry);
        prop_assert!(history.moment(Moment::GiveBack).is_some());
    }

    /// A signal that a terminal doubles is one signal.
    #[test]
    fn an_echo_is_no_second_signal(world in worlds(), after in 0..u64::try_from(SIGNAL_ECHO.as_millis()).unwrap()) {
        let mut echoed = Simulation::new(world.clone());
        let echo = Input::Signal(echoed.instant(world.signal + after));
        echoed.schedule(world.signal + after, Event::Fact(echo));
        let actions = |history: History| -> Vec<(Millis, Action)> {
            history.acts.iter().map(|act| (act.at, act.action)).collect()
        };
        prop_assert_eq!(actions(echoed.finish()), actions(Simulation::run(world.clone())));
    }

    /// Hooks run one by one, the last registered first, and each that does not run had no time.
    #[test]
    fn hooks_run_in_reverse_order(world in worlds()) {
        let history = Simulation::run(world.clone());
        let run: Vec<(usize, Millis)> = history.acts.iter().filter_map(|act| match act.action {
            Action::RunHook { index, .. } => Some((index, act.at)),
            _ => None,
        }).collect();
        let expected = (0..world.hooks.len()).rev().take(run.len());
        prop_assert!(run.iter().map(|(index, _)| *index).eq(expected));
        if run.len() < world.hooks.len() {
            let plan = history.last_plan();
            let exit = Duration::from_millis(history.exit.unwrap() - world.signal + 1);
            prop_assert!(exit >= plan.teardown_end - plan.t0);
        }
    }

    /// No step waits out a constant: where everybody is gone, so is the process.
    #[test]
    fn who_has_nothing_to_wait_for_goes_at_once(
        serves in any::<bool>(), job in 0..15_000u64, client in 0..10_000u64,
    ) {
        let mut world = quiet_world();
        world.shape.serves = serves;
        world.jobs = vec![Some(job)];
        if serves { world.clients = vec![Some(client)]; }
        let history = Simulation::run(world.clone());
        let last = if serves { job.max(client) } else { job };
        prop_assert_eq!(history.exit.unwrap(), world.signal + last);
    }
}

/// A drain that the program began itself: the first signal comes later, and is still the first.
#[test]
fn the_first_signal_hurries_nobody_whoever_began_the_drain() {
    let mut world = quiet_world();
    world.signal = 6_000;
    world.script = vec![(1_000, Input::Shutdown(Cause::Requested))];
    world.jobs = vec![Some(4_000)];
    let history = Simulation::run(world.clone());
    assert_eq!(history.moment(Moment::Cut).map(|cut| cut.at), None);
    assert_eq!(history.exit, Some(world.signal + 4_000));
}

/// A second delete leaves two seconds of thirty: jobs are cut, and the rest is for giving them back.
#[test]
fn a_deadline_that_comes_near_leaves_time_to_give_back() {
    let mut world = quiet_world();
    world.jobs = vec![None];
    world.hooks = vec![(Some(100), true)];
    world.shape.hooks = vec![Duration::from_secs(2)];
    world.giving_back = Some(200);
    let mut simulation = Simulation::new(world.clone());
    let second = world.signal + 10_000;
    let kill = Kill {
        at: simulation.instant(second + 2_000),
        source: DeadlineSource::DeletionGracePeriod,
    };
    simulation.schedule(second, Event::Fact(Input::Kill(kill)));
    let history = simulation.finish();
    let cut = history.moment(Moment::Cut).expect("it had to be cut");
    assert_eq!(cut.at, second);
    assert_eq!(
        history.count(Action::RunHook {
            index: 0,
            until: history.hook_until()
        }),
        1
    );
    let exit = history.exit.unwrap();
    // Both go side by side.
    assert_eq!(exit, second + 200, "{history:#?}");
}

/// Seconds 0 to 8 of a drain in a cluster: what a reader of `crates/lifecycle/src/` should be able to tell.
#[test]
fn second_seven_of_a_drain() {
    let mut world = quiet_world();
    world.shape.observed = true;
    world.settings.readiness = ReadinessPolicy::Immediate;
    world.signal = 0;
    world.script = vec![
        (50, Input::Endpoints(Endpoints::Routed)),
        (400, Input::Endpoints(Endpoints::Removed)),
    ];
    // One client goes half a second after it is asked to; a balancer that lags sends one more at second 3; a job
    // runs until second 8.
    world.clients = vec![Some(500)];
    world.late = vec![(3_000, Some(200))];
    world.jobs = vec![Some(8_000)];

    let history = Simulation::run(world);

    let at = |moment| history.moment(moment).map(|act| act.at);
    assert_eq!(
        at(Moment::Began),
        Some(0),
        "readiness fails, no job is reserved"
    );
    assert_eq!(
        at(Moment::Removed),
        Some(400),
        "the endpoint was seen to go"
    );
    assert_eq!(
        at(Moment::Leave),
        Some(1_400),
        "settled, and quiet for a second: clients are asked to leave"
    );
    assert_eq!(
        at(Moment::CloseIdle),
        Some(2_400),
        "the last connection has gone, and it was quiet for two seconds"
    );
    assert_eq!(
        (at(Moment::Stop), at(Moment::Cut)),
        (None, None),
        "at second 7 only the job is waited for, and it has until second 20 before anybody tells it so"
    );
    assert_eq!(at(Moment::Close), Some(8_000), "the job ended");
    assert_eq!(history.exit, Some(8_000));
    assert_eq!(history.routing, Some(RoutingEnd::Removed));
}

/// A balancer that lags is waited for by its traffic, not by a constant.
#[test]
fn the_quiet_period_follows_the_traffic() {
    let mut world = quiet_world();
    world.shape.observed = true;
    world.signal = 0;
    world.script = vec![(100, Input::Endpoints(Endpoints::Removed))];
    world.late = (1..60).map(|n| (n * 100, Some(10))).collect();

    let history = Simulation::run(world);

    let leave = history.moment(Moment::Leave).unwrap().at;
    assert_eq!(leave, 5_900 + 1_000, "a second after the last that came");
    assert_eq!(history.exit, Some(5_900 + 2_000), "two seconds after it");
}

/// Who was asked to leave and comes back shows that somebody still routes here: the process stays for all who do.
#[test]
fn nobody_goes_while_those_who_were_asked_to_leave_come_back() {
    let mut world = quiet_world();
    world.shape.observed = true;
    world.signal = 0;
    world.script = vec![(100, Input::Endpoints(Endpoints::Removed))];
    // Nobody for a second and a half, then one every second: a balancer that lags and connects seldom.
    world.late = (0..5).map(|n| (1_600 + n * 1_000, Some(10))).collect();

    let history = Simulation::run(world);

    assert_eq!(history.moment(Moment::Leave).unwrap().at, 1_100);
    assert_eq!(
        history.exit,
        Some(5_600 + 2_000),
        "the last was served, too"
    );
}

/// A request of three seconds that began when nobody had been asked to leave yet: what is left of the quiet period
/// passes while it is served, and not before.
#[test]
fn the_longest_request_and_the_quiet_period_pass_side_by_side() {
    let mut world = quiet_world();
    world.shape.observed = true;
    world.signal = 0;
    world.script = vec![(100, Input::Endpoints(Endpoints::Removed))];
    world.clients = vec![Some(3_000)];

    let history = Simulation::run(world);

    assert_eq!(history.exit, Some(100 + 1_000 + 3_000));
}

/// Where the end of routing was never seen, what counts is that nobody came.
#[test]
fn who_is_routed_to_for_ever_and_asked_for_nothing_goes_when_the_wait_is_over() {
    let mut world = quiet_world();
    world.shape.observed = true;
    world.signal = 0;
    world.script = vec![(50, Input::Endpoints(Endpoints::Routed))];

    let history = Simulation::run(world);

    assert_eq!(history.routing, Some(RoutingEnd::TimedOut));
    let leave = history.moment(Moment::Leave).unwrap();
    assert_eq!(history.exit, Some(leave.at), "at once");
}

/// Whoever reads "timed out" looks for somebody who still routes here, so that it must not be said of a wait that was
/// only too short.
#[test]
fn a_wait_that_was_too_short_is_told_apart_from_one_in_which_somebody_still_routed_here() {
    use Endpoints::{InNone, Removed, Routed, Unobservable as Hidden};
    use RoutingEnd::{CutShort, NoPermission, NotApplicable, TimedOut, Unavailable};
    const NOBODY: &[Millis] = &[];
    let steady: Vec<Millis> = (1..40).map(|n| n * 500).collect();
    // What is seen of the endpoints and when, of how many seconds of grace; when somebody connects.
    let row = |story, grace, seen: &[(Millis, Endpoints)], comes: &[Millis]| {
        (story, grace, seen.to_vec(), comes.to_vec())
    };
    let by = |why| [(100, Hidden(why))];
    let gone = [(100, Removed)];
    // How it ends, and whether the removal is told.
    let rows = [
        (row("no time to settle", 3, &gone, NOBODY), (CutShort, true)),
        (
            row("just time enough", 5, &gone, NOBODY),
            (RoutingEnd::Removed, true),
        ),
        (
            row("one who had not heard", 5, &gone, &[600]),
            (CutShort, true),
        ),
        (
            row(
                "kube-proxy's last resort until the probe fails",
                9,
                &gone,
                &[600, 1_100, 1_600, 2_100],
            ),
            (CutShort, true),
        ),
        (
            row("one long after", 12, &gone, &[900, 1_800, 2_700, 3_300]),
            (TimedOut, true),
        ),
        (
            row("a balancer that lags", 30, &[(600, Removed)], &steady),
            (TimedOut, true),
        ),
        (
            row("gone in the last moment", 2, &[(599, Removed)], NOBODY),
            (CutShort, true),
        ),
        (
            row("still there", 5, &[(100, Routed)], NOBODY),
            (TimedOut, false),
        ),
        (
            row("back again", 5, &[(100, Removed), (200, Routed)], NOBODY),
            (TimedOut, false),
        ),
        (row("no answer yet", 2, &[], NOBODY), (CutShort, false)),
        (
            row("in no Service", 5, &[(100, InNone)], NOBODY),
            (NotApplicable, false),
        ),
        (
            row("no permission", 5, &by(Unobservable::NoPermission), NOBODY),
            (NoPermission, false),
        ),
        (
            row("no API server", 5, &by(Unobservable::Unavailable), NOBODY),
            (Unavailable, false),
        ),
        (
            row("no Pod", 2, &by(Unobservable::PodGone), NOBODY),
            (CutShort, false),
        ),
    ];
    for ((story, grace, seen, comes), (routing, told)) in rows {
        let mut world = quiet_world();
        world.shape.observed = true;
        world.settings.grace = Duration::from_secs(grace);
        world.signal = 0;
        let seen = seen.into_iter();
        world.script = seen
            .map(|(at, endpoints)| (at, Input::Endpoints(endpoints)))
            .collect();
        world.late = comes.iter().map(|at| (*at, Some(10))).collect();
        let history = Simulation::run(world);
        assert_eq!(history.routing, Some(routing), "{story}");
        assert_eq!(history.removed_at.is_some(), told, "{story}");
    }

    let mut world = quiet_world();
    world.settings.lame_duck_share = 0.0;
    world.shape.observed = false;
    let history = Simulation::run(world);
    assert_eq!(
        history.routing,
        Some(NotApplicable),
        "outside of a cluster nobody routes"
    );
}
