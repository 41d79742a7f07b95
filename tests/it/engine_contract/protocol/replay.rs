//! Ways through the model, gone on the real engines: after each step they say of every job what the model says.
//!
//! | in the model | on the engine |
//! | --- | --- |
//! | a reserve on its way arrives | `reserve`, by the engine that had sent it, whatever became of its process |
//! | an answer is lost | the outcome is written, and written again as it is |
//! | a process stands still, the database is away | it is not asked for anything |
//! | a beat, a lease seen standing still | nothing: leases of an hour, so that nobody finds out by himself |
//! | a process reaps another | `PostgresEngine::reap`, which vouches for the death |
//! | a process takes a new id | a new engine, and the claims of the old one |
//! | time passes | the clock that the engines were given moves |
//!
//! Leases that really run out, and ids that are really taken anew, are in `replay/leases.rs`.
//!
//! Left out: a reservation whose answer is lost. An engine whose caller went away gives it back by itself, and nobody
//! can say when; that it does has its story in `postgres/trouble.rs`.

use std::collections::BTreeSet;

use lameduck::jobs::job::{ProcessId, Revived};

use super::{
    super::*,
    model::{Action, Place, Protocol},
    state::{
        self, Job, MAX_ATTEMPTS, MOST_JOBS, MOST_PROCESSES, Phase, RUNS, Run, Stage, State as Told,
        Status,
    },
};

mod leases;
mod sides;
mod ways;

use sides::Side;

/// Longer than anybody waits who runs later.
const A_WHILE: u64 = 61;

/// A way that is gone on the model and on an engine.
struct Replay<'s, S> {
    side: &'s mut S,
    protocol: Protocol,
    told: Told,
    jobs: [Option<JobId>; MOST_JOBS],
    queues: [QueueName; MOST_JOBS],
    processes: [Process; MOST_PROCESSES],
    steps: Vec<Action>,
}

/// What the test has of a process.
#[derive(Default)]
struct Process {
    engine: Option<Arc<dyn Engine>>,
    /// Whose row it is that has not left, where it was killed.
    id: Option<ProcessId>,
    /// Which engine a reserve is on its way from.
    sent: Option<Arc<dyn Engine>>,
    /// Of each job, by what its claim is.
    held: [[Option<Held>; 3]; MOST_JOBS],
}

/// The right to write an outcome, or one that has been written.
enum Held {
    Claim { claim: Claim, attempt: u32 },
    Settlement(Arc<Vec<Settlement>>),
}

impl Process {
    fn known(&mut self, engine: Arc<dyn Engine>) {
        self.id = Some(engine.process());
        self.engine = Some(engine);
    }
}

impl<'s, S: Side> Replay<'s, S> {
    /// On queues that nobody has used, named after this number.
    fn new(side: &'s mut S, protocol: Protocol, number: usize) -> Self {
        Self {
            side,
            protocol,
            told: Told::INITIAL,
            jobs: [None; MOST_JOBS],
            queues: std::array::from_fn(|job| queue(&format!("way-{number}-{job}"))),
            processes: Default::default(),
            steps: Vec::new(),
        }
    }

    /// All of a way, and then whoever still has a claim tries to use it.
    async fn go(mut self, way: &[Action]) {
        for &action in way {
            self.step(action).await;
        }
        while let Some((place, outcome)) = self.somebody_holds() {
            self.step(Action::Settle(place, outcome)).await;
        }
        for (p, process) in self.processes.into_iter().enumerate() {
            if let Some(engine) = process.engine {
                self.side.over(p, engine).await;
            }
        }
    }

    fn somebody_holds(&self) -> Option<(Place, state::Outcome)> {
        for process in 0..MOST_PROCESSES {
            for (job, slot) in (0..MOST_JOBS).flat_map(|j| (0..RUNS).map(move |s| (j, s))) {
                let place = Place { process, job, slot };
                match place.run(&self.told).map(|run| run.stage) {
                    Some(Stage::Over(outcome)) => return Some((place, outcome)),
                    Some(_) => return Some((place, state::Outcome::Complete)),
                    None => {}
                }
            }
        }
        None
    }

    async fn step(&mut self, action: Action) {
        self.steps.push(action);
        let next = self.protocol.after(&self.told, action);
        self.act(action, &next).await;
        self.told = next;
        self.sort_claims();
        // Of what no engine hears it need not be asked.
        if !matches!(
            action,
            Action::Send(..)
                | Action::Freeze(_)
                | Action::Thaw(_)
                | Action::Away
                | Action::Back
                | Action::SeenStill(..)
                | Action::Beat(_)
        ) {
            self.compare().await;
        }
    }

    fn engine(&self, process: usize) -> Arc<dyn Engine> {
        let engine = self.processes[process].engine.clone();
        engine.unwrap_or_else(|| panic!("a process that is up: {:?}", self.steps))
    }

    async fn act(&mut self, action: Action, next: &Told) {
        match action {
            Action::Submit(job) => self.submit(job).await,
            Action::Revive(job) => {
                let revived = self.anybody().revive(self.jobs[job].unwrap()).await;
                assert_eq!(revived.unwrap(), Some(Revived::Now));
            }
            Action::Wait => self.side.clock().advance(A_WHILE),
            Action::Start(p) => {
                let engine = self.side.start(p).await;
                self.processes[p].known(engine);
            }
            Action::NewId(p) => {
                let was = self.processes[p].id.unwrap();
                let engine = self.side.new_id(p, was).await;
                self.processes[p].known(engine);
            }
            Action::Send(p, _) => self.processes[p].sent = Some(self.engine(p)),
            Action::Take(p) => self.take(p, next).await,
            Action::Begin(place) => self.begin(place).await,
            Action::Settle(place, outcome) => self.settle(place, outcome, next).await,
            Action::Land(place, outcome) => self.settle(place, outcome, next).await,
            Action::T0(p) if self.told.away || !self.told.processes[p].row => {}
            Action::T0(p) => self
                .engine(p)
                .mark_drain("d", "signal", Duration::ZERO)
                .await
                .unwrap(),
            Action::ReleaseHeld(p) => self.release_held(p).await,
            Action::Exit(p) => self.exit(p).await,
            Action::Kill(p) => {
                let killed = &mut self.processes[p];
                killed.held = Default::default();
                let engine = killed.engine.take().unwrap();
                self.side.kill(p, engine).await;
            }
            Action::Reap(p, q) => {
                let dead = self.processes[q].id.unwrap();
                self.side.reap(p, dead).await;
            }
            Action::Freeze(p) => self.side.freeze(p).await,
            Action::Thaw(p) => self.side.thaw(p).await,
            Action::Away | Action::Back | Action::SeenStill(..) | Action::Beat(_) => {}
            Action::TakeUnheard(_) | Action::GiveBack(_) => unreachable!("left out"),
        }
    }

    /// Who can be asked about jobs.
    fn anybody(&self) -> Arc<dyn Engine> {
        let mut engines = self.processes.iter().filter_map(|p| p.engine.clone());
        let observer = self.side.observer();
        observer.or_else(|| engines.next()).expect("somebody")
    }

    async fn submit(&mut self, n: usize) {
        let job = NewJob {
            queue: self.queues[n].clone(),
            max_attempts: MAX_ATTEMPTS,
            idempotency_key: Some("once".to_owned()),
            ..a_job("x")
        };
        let engine = self.anybody();
        self.jobs[n] = Some(submit(&*engine, job.clone()).await);
        // Who did not hear the answer.
        let again = engine.submit(vec![job]).await.unwrap().remove(0).unwrap();
        assert_eq!((Some(again.id), again.repeated), (self.jobs[n], true));
    }

    async fn take(&mut self, p: usize, next: &Told) {
        let engine = self.processes[p].sent.take().unwrap();
        let n = self.told.processes[p].sent.unwrap().job;
        let taken = self.told.jobs[n].phase != Phase::Running && next.jobs[n].belongs_to(p);
        let reserved = engine.reserve(&self.queues[n], Order::RunAt, 1).await;
        let reserved = reserved.unwrap().pop();
        assert_eq!(reserved.is_some(), taken, "{:?}", self.steps);
        let Some(Reserved {
            job,
            claim,
            process,
            ..
        }) = reserved
        else {
            return;
        };
        assert_eq!(process, engine.process());
        assert_eq!(Some(job.id), self.jobs[n]);
        assert_eq!(job.attempt, next.jobs[n].attempt);
        assert_eq!(job.suspect, next.jobs[n].crashes >= state::SUSPECT);
        if self.told.processes[p].status != Status::Down {
            let attempt = job.attempt;
            let held = Held::Claim { claim, attempt };
            self.processes[p].held[n][state::Claim::Current as usize] = Some(held);
        }
    }

    async fn begin(&self, place: Place) {
        let run = place.run(&self.told).unwrap();
        let held = &self.processes[place.process].held[place.job][run.claim as usize];
        let Some(Held::Claim { claim, .. }) = held else {
            panic!("a claim that was not used: {:?}", self.steps)
        };
        if run.suspect {
            self.engine(place.process).runs_alone(claim).await.unwrap();
        }
    }

    async fn settle(&mut self, place: Place, outcome: state::Outcome, next: &Told) {
        let claim = place.run(&self.told).unwrap().claim;
        let process = &mut self.processes[place.process];
        let held = process.held[place.job][claim as usize].take();
        let now = self.side.clock().now();
        let settlement = match held.expect("whoever has a run has its claim") {
            Held::Settlement(settlement) => settlement,
            Held::Claim { claim, attempt } => Arc::new(vec![claim.settle(match outcome {
                state::Outcome::Complete => completed("ok"),
                state::Outcome::Fail if attempt >= MAX_ATTEMPTS => dead(),
                state::Outcome::Fail => retry_at(now + Duration::from_secs(1)),
                state::Outcome::Release => Outcome::Released,
            })]),
        };
        let expected = match claim {
            state::Claim::Current => Settled::Written,
            state::Claim::Settled => Settled::Repeated,
            state::Claim::Stale => Settled::Stale,
        };
        let settled = settle_again(&*self.engine(place.process), &settlement).await;
        assert_eq!(settled, expected, "{:?}", self.steps);
        let runs = next.processes[place.process].runs[place.job];
        let mut runs = runs.iter().flatten();
        // What was stale settles nothing, whatever else is settled.
        if claim != state::Claim::Stale && runs.any(|run| run.claim == state::Claim::Settled) {
            let held = &mut self.processes[place.process].held[place.job];
            let settled = &mut held[state::Claim::Settled as usize];
            if let Some(before) = settled.replace(Held::Settlement(settlement)) {
                held[state::Claim::Stale as usize] = Some(before);
            }
        }
    }

    async fn release_held(&self, p: usize) {
        let delay = u64::from(self.told.processes[p].works());
        let released = self
            .engine(p)
            .release_held(Duration::from_secs(delay))
            .await;
        let released: BTreeSet<_> = released.unwrap().into_iter().collect();
        let held = (0..MOST_JOBS).filter(|job| self.told.jobs[*job].belongs_to(p));
        let held: BTreeSet<_> = held.map(|job| self.jobs[job].unwrap()).collect();
        assert_eq!(released, held, "{:?}", self.steps);
    }

    async fn exit(&mut self, p: usize) {
        self.release_held(p).await;
        let engine = self.processes[p].engine.take().unwrap();
        let last = engine.close_drain(&last_word("d", "signal", "clean")).await;
        last.unwrap();
        self.processes[p] = Process::default();
        self.side.exit(p, engine).await;
    }

    /// What was the job's claim, or settled it, may not be so any more.
    fn sort_claims(&mut self) {
        for (p, process) in self.processes.iter_mut().enumerate() {
            for (n, held) in process.held.iter_mut().enumerate() {
                let runs: Vec<Run> = self.told.processes[p].runs[n]
                    .into_iter()
                    .flatten()
                    .collect();
                let has = |claim: state::Claim| runs.iter().any(|run| run.claim == claim);
                for claim in [state::Claim::Current, state::Claim::Settled] {
                    if let Some(lost) = held[claim as usize].take_if(|_| !has(claim)) {
                        held[state::Claim::Stale as usize] = Some(lost);
                    }
                }
            }
        }
    }

    async fn compare(&self) {
        let mut engines = self.processes.iter().filter_map(|p| p.engine.clone());
        // Of an embedded queue whose process is down nobody says anything.
        let Some(engine) = self.side.observer().or_else(|| engines.next()) else {
            return;
        };
        for (job, id) in self.told.jobs.iter().zip(self.jobs) {
            let Some(id) = id else { continue };
            let found = record(&*engine, id).await;
            let found = (found.state, found.attempt, found.releases, found.crashes);
            assert_eq!(found, expected(job), "{:?}", self.steps);
        }
    }
}

fn expected(job: &Job) -> (State, u32, u32, u32) {
    let state = match job.phase {
        Phase::Unknown => unreachable!("it was submitted"),
        Phase::Waiting => State::Pending,
        Phase::Later => State::Scheduled,
        Phase::Running => State::Running,
        Phase::Completed => State::Completed,
        Phase::Dead => State::Dead,
    };
    (state, job.attempt, job.releases, job.crashes)
}
