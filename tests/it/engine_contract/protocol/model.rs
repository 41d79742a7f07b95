//! The protocol of claims, leases and releases, as the engines keep it: its actions, its sizes, and the rules of it that
//! can be broken on purpose. What may happen is in `possible.rs`, what it does in `effects.rs`.
//!
//! Time is in it only where something waits for it: a lease is over when its process could not beat for so long, what
//! is to run later is due once somebody has waited. That a living process which reaches the database beats within
//! its lease is taken for granted.

use super::{
    checker::Model,
    rules,
    state::{Job, Key, Outcome, Phase, Process, Run, State},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A job is stored. Who doesn't hear so asks again, and its key finds the first one.
    Submit(usize),
    /// Somebody has a dead job run again.
    Revive(usize),
    /// What was to run later is due.
    Wait,
    /// A process begins.
    Start(usize),
    /// It sends a reserve for a job.
    Send(usize, usize),
    /// The database does what was sent.
    Take(usize),
    /// And the answer to the COMMIT is lost.
    TakeUnheard(usize),
    /// What was reserved unheard goes back.
    GiveBack(Place),
    /// A handler begins.
    Begin(Place),
    /// An outcome is written, and the process hears so. An outcome whose answer was lost is written again.
    Settle(Place, Outcome),
    /// An outcome is written, and the answer to the COMMIT is lost.
    Land(Place, Outcome),
    /// SIGTERM.
    T0(usize),
    /// All that the process holds goes back, by its id.
    ReleaseHeld(usize),
    /// The same, and its lease goes.
    Exit(usize),
    Kill(usize),
    Freeze(usize),
    Thaw(usize),
    /// The database can't be reached.
    Away,
    Back,
    /// The first process has seen the other's beat stand still for a whole lease.
    SeenStill(usize, usize),
    /// A beat comes.
    Beat(usize),
    /// The first process reaps the other.
    Reap(usize, usize),
    /// A process finds that its row has left, and takes a new id.
    NewId(usize),
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub process: usize,
    pub job: usize,
    pub slot: usize,
}

/// A rule of the protocol that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    ReserveWithoutTheLease,
    ReserveOfWhatRuns,
    ReserveUnderTheSameClaim,
    ReserveOfWhatHasEnded,
    ReserveAfterT0,
    BeginAfterT0,
    StaleOutcomeIsWritten,
    RepeatedOutcomeIsWritten,
    ReapWithoutHavingWatched,
    ReapThoughTheBeatMoved,
    OutageCountsAsStandingStill,
    OwnSleepCountsAsStandingStill,
    ReapFreesNothing,
    ReapForgetsTheJobs,
    NoNewId,
    ExitFreesNothing,
    ReleaseCountsAnAttempt,
    FailureCountsNone,
    RunningHandlersAreReleasedAtOnce,
    AllAreChargedWhoeverRanAlone,
    KillInADrainIsCharged,
    KillInADrainCondemns,
    SuspectRunsBesideOthers,
}

/// How large it is, and what may happen in it.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub processes: usize,
    pub jobs: usize,
    /// One process, whose death the next one knows at its start; nothing on the way, nobody who watches.
    pub embedded: bool,
    /// Processes are killed, so often that their jobs are suspects.
    pub kills: bool,
    /// They stand still and go on.
    pub freezes: bool,
    /// The database can't be reached for a while.
    pub outages: bool,
    /// Answers get lost.
    pub losses: bool,
    /// So do those of reservations.
    pub unheard: bool,
    /// They are told to end.
    pub drains: bool,
    /// Names don't matter.
    pub symmetric: bool,
    pub mutation: Option<Mutation>,
    /// Nothing is looked at but this rule.
    pub only: Option<&'static str>,
}

// === impl Protocol ===

impl Protocol {
    /// Everything may happen.
    pub fn shared(processes: usize, jobs: usize) -> Self {
        Self {
            processes,
            jobs,
            embedded: false,
            kills: true,
            freezes: true,
            outages: true,
            losses: true,
            unheard: true,
            drains: true,
            symmetric: true,
            mutation: None,
            only: None,
        }
    }

    /// What an embedded engine can meet.
    pub fn embedded(jobs: usize) -> Self {
        Self {
            embedded: true,
            freezes: false,
            outages: false,
            unheard: false,
            ..Self::shared(1, jobs)
        }
    }

    /// Whether this rule is broken.
    pub fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Model for Protocol {
    type State = State;
    type Key = Key;
    type Action = Action;

    fn initial(&self) -> State {
        State::INITIAL
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next(&self, state: &State, action: Action) -> State {
        self.after(state, action)
    }

    fn key(&self, state: State) -> (State, Key) {
        const ORDERS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [1, 0, 2],
            [0, 2, 1],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        // Those that leave in place what there is not.
        let orders = |n: usize| &ORDERS[..[1, 1, 2, 6][n]];
        let (mut least, mut names) = (state.pack(&ORDERS[0], &ORDERS[0]), None);
        if !self.symmetric {
            return (state, least);
        }
        for jobs in orders(self.jobs) {
            for processes in orders(self.processes) {
                let key = state.pack(jobs, processes);
                if key < least {
                    (least, names) = (key, Some((jobs, processes)));
                }
            }
        }
        match names {
            None => (state, least),
            Some((jobs, processes)) => (state.renamed(jobs, processes), least),
        }
    }

    fn broken(&self, before: &State, action: Action, after: &State) -> Option<&'static str> {
        rules::broken(before, action, after).find(|rule| self.only.is_none_or(|only| only == *rule))
    }

    /// What was submitted has ended.
    fn is_well(&self, state: &State) -> bool {
        let ended = |job: &Job| job.phase == Phase::Unknown || job.phase.has_ended();
        !state.away && state.jobs.iter().all(ended)
    }

    /// No fault, no drain and no new work; and nobody comes to help as long as somebody is there who could do it.
    fn is_well_meant(&self, state: &State, action: Action) -> bool {
        let able = |process: &Process| process.is_up() && !process.draining;
        match action {
            Action::Start(_) | Action::Thaw(_) => !state.processes.iter().any(able),
            Action::Kill(_) | Action::Freeze(_) | Action::Away | Action::T0(_) => false,
            Action::Submit(_) | Action::Revive(_) => false,
            Action::TakeUnheard(_) | Action::Land(..) => false,
            _ => true,
        }
    }
}

// === impl Place ===

impl Place {
    pub fn run(self, state: &State) -> Option<Run> {
        state.processes[self.process].runs[self.job][self.slot]
    }

    pub fn run_mut(self, state: &mut State) -> &mut Option<Run> {
        &mut state.processes[self.process].runs[self.job][self.slot]
    }
}
