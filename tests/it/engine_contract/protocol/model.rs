//! What may happen, and what it does: the protocol of claims, leases and releases, as the engines keep it.
//!
//! Time is in it only where something waits for it: a lease is over when its process could not beat for so long, what
//! is to run later is due once somebody has waited. That a living process which reaches the database beats within
//! its lease is taken for granted.

use super::{
    checker::Model,
    rules,
    state::{
        Claim, Job, Key, MAX_ATTEMPTS, MOST_JOBS, MOST_PROCESSES, Outcome, Owner, Phase, Process,
        RUNS, Run, SUSPECT, Sent, Stage, State, Status,
    },
};

/// One thing that happens. A run is named by its process, its job and its place there.
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

    fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Everything that may happen next.
    pub fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        self.of_the_world(state, actions);
        for process in 0..self.processes {
            match state.processes[process].status {
                Status::Down => self.of_the_absent(state, process, actions),
                Status::Frozen => self.of_the_frozen(state, process, actions),
                Status::Up => {
                    self.of_the_living(state, process, actions);
                    self.of_its_lease(state, process, actions);
                    self.of_its_jobs(state, process, actions);
                }
            }
            if !state.away && state.processes[process].sent.is_some() {
                actions.push(Action::Take(process));
                let unheard = self.losses && self.unheard;
                if unheard && self.taken(state, process).is_some() {
                    actions.push(Action::TakeUnheard(process));
                }
            }
        }
    }

    fn of_the_world(&self, state: &State, actions: &mut Vec<Action>) {
        let jobs = &state.jobs[..self.jobs];
        if state.away {
            actions.push(Action::Back);
            return;
        }
        if self.outages {
            actions.push(Action::Away);
        }
        if jobs.iter().any(|job| job.phase == Phase::Later) {
            actions.push(Action::Wait);
        }
        if self.embedded && !state.processes[0].is_up() {
            return;
        }
        for (n, job) in jobs.iter().enumerate() {
            match job.phase {
                Phase::Unknown => actions.push(Action::Submit(n)),
                Phase::Dead => actions.push(Action::Revive(n)),
                _ => {}
            }
        }
    }

    fn of_the_absent(&self, state: &State, p: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[p];
        // Of one that was killed the row has to go first: a place is a row. The embedded engine sees to that itself.
        if !state.away && process.sent.is_none() && (!process.row || self.embedded) {
            actions.push(Action::Start(p));
        }
    }

    fn of_the_frozen(&self, state: &State, p: usize, actions: &mut Vec<Action>) {
        actions.push(Action::Thaw(p));
        if self.kills && self.may_be_killed(state, p) {
            actions.push(Action::Kill(p));
        }
        for place in self.places(p) {
            self.landings(state, place, actions);
        }
    }

    fn of_the_living(&self, state: &State, p: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[p];
        if self.freezes {
            actions.push(Action::Freeze(p));
        }
        if self.kills && self.may_be_killed(state, p) {
            actions.push(Action::Kill(p));
        }
        if !process.draining && self.drains {
            actions.push(Action::T0(p));
        }
        if process.draining && !state.away {
            if process.row && state.jobs.iter().any(|job| job.belongs_to(p)) {
                actions.push(Action::ReleaseHeld(p));
            }
            if process.sent.is_none() {
                actions.push(Action::Exit(p));
            }
        }
        let reserves = !process.draining || self.has(Mutation::ReserveAfterT0);
        if reserves && process.sent.is_none() && !state.away {
            for job in 0..self.jobs {
                let room = process.runs[job].iter().any(Option::is_none);
                let ended = state.jobs[job].phase.has_ended();
                let wanted = !ended || self.has(Mutation::ReserveOfWhatHasEnded);
                if room && wanted && state.jobs[job].phase != Phase::Unknown {
                    actions.push(Action::Send(p, job));
                }
            }
        }
    }

    /// Somebody has to be left who finds out.
    fn may_be_killed(&self, state: &State, p: usize) -> bool {
        let others = (0..self.processes).filter(|other| *other != p);
        let mut others = others.map(|other| &state.processes[other]);
        self.embedded || others.any(|other| other.status != Status::Down || !other.row)
    }

    fn of_its_lease(&self, state: &State, p: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[p];
        if self.embedded {
            return;
        }
        if !state.away {
            if process.quiet && process.row {
                actions.push(Action::Beat(p));
            }
            if !process.row && !self.has(Mutation::NoNewId) {
                actions.push(Action::NewId(p));
            }
        }
        for q in (0..self.processes).filter(|q| *q != p && state.processes[*q].row) {
            let still = state.processes[q].status != Status::Up;
            let outage = state.away && self.has(Mutation::OutageCountsAsStandingStill);
            if !process.seen_still[q] && (still && !state.away || outage) {
                actions.push(Action::SeenStill(p, q));
            }
            let watched = process.seen_still[q] || self.has(Mutation::ReapWithoutHavingWatched);
            if watched && !state.away {
                actions.push(Action::Reap(p, q));
            }
        }
    }

    fn places(&self, process: usize) -> impl Iterator<Item = Place> + use<> {
        let places = (0..self.jobs).flat_map(|job| (0..RUNS).map(move |slot| (job, slot)));
        places.map(move |(job, slot)| Place { process, job, slot })
    }

    fn of_its_jobs(&self, state: &State, p: usize, actions: &mut Vec<Action>) {
        for place in self.places(p) {
            let Some(run) = place.run(state) else {
                continue;
            };
            match run.stage {
                Stage::Unheard if state.away => {}
                Stage::Unheard => actions.push(Action::GiveBack(place)),
                Stage::Reserved if self.may_begin(state, p, run) => {
                    actions.push(Action::Begin(place));
                }
                _ => {}
            }
            if !state.away {
                let outcomes = outcomes(&state.processes[p], run);
                actions.extend(outcomes.iter().map(|o| Action::Settle(place, *o)));
            }
            self.landings(state, place, actions);
        }
    }

    fn may_begin(&self, state: &State, p: usize, run: Run) -> bool {
        let process = &state.processes[p];
        let drained = process.draining && !self.has(Mutation::BeginAfterT0);
        let mut at_work = process.runs().filter(|run| run.stage == Stage::Runs);
        let floor = match run.suspect {
            true => !state.away && at_work.next().is_none(),
            false => at_work.all(|other| !other.suspect),
        };
        !drained && (floor || self.has(Mutation::SuspectRunsBesideOthers))
    }

    /// Outcomes on their way, also of a process that stands still.
    fn landings(&self, state: &State, place: Place, actions: &mut Vec<Action>) {
        let Some(run) = place.run(state) else { return };
        if !self.losses || state.away || run.claim != Claim::Current {
            return;
        }
        let outcomes = outcomes(&state.processes[place.process], run);
        actions.extend(outcomes.iter().map(|o| Action::Land(place, *o)));
    }
}

/// What may be written of a run now. One that has been written is only repeated; of one that is stale it is not known
/// any more how far it had come.
fn outcomes(process: &Process, run: Run) -> &'static [Outcome] {
    if run.claim == Claim::Stale {
        return &[Outcome::Complete, Outcome::Fail, Outcome::Release];
    }
    match run.stage {
        Stage::Unheard => &[],
        Stage::Reserved if process.draining => &[Outcome::Release],
        Stage::Reserved => &[],
        Stage::Runs if process.draining => &[Outcome::Complete, Outcome::Fail, Outcome::Release],
        Stage::Runs => &[Outcome::Complete, Outcome::Fail],
        Stage::Over(Outcome::Complete) => &[Outcome::Complete],
        Stage::Over(Outcome::Fail) => &[Outcome::Fail],
        Stage::Over(Outcome::Release) => &[Outcome::Release],
    }
}

// === what it does ===

impl Protocol {
    pub fn after(&self, state: &State, action: Action) -> State {
        let mut next = *state;
        match action {
            Action::Submit(job) | Action::Revive(job) => {
                let releases = next.jobs[job].releases;
                next.jobs[job] = Job {
                    phase: Phase::Waiting,
                    releases,
                    ..Job::UNKNOWN
                };
            }
            Action::Wait => {
                let later = next.jobs.iter_mut().filter(|j| j.phase == Phase::Later);
                later.for_each(|job| job.phase = Phase::Waiting);
            }
            Action::Start(p) => {
                if next.processes[p].row {
                    self.reap(&mut next, p);
                }
                next.processes[p] = Process {
                    status: Status::Up,
                    row: true,
                    ..Process::ABSENT
                };
            }
            Action::Send(p, job) => {
                let old_id = false;
                next.processes[p].sent = Some(Sent { job, old_id });
            }
            Action::Take(p) => self.take(&mut next, p, Stage::Reserved),
            Action::TakeUnheard(p) => self.take(&mut next, p, Stage::Unheard),
            Action::GiveBack(place) => {
                if place.run(state).is_some_and(|r| r.claim == Claim::Current) {
                    self.release(&mut next, place.job, Phase::Waiting);
                }
                *place.run_mut(&mut next) = None;
            }
            Action::Begin(place) => self.begin(&mut next, place),
            Action::Settle(place, outcome) => {
                self.settle(&mut next, place, outcome);
                *place.run_mut(&mut next) = None;
            }
            Action::Land(place, outcome) => self.settle(&mut next, place, outcome),
            Action::T0(p) => {
                let process = &mut next.processes[p];
                process.draining = true;
                process.marked = process.row && !state.away;
            }
            Action::ReleaseHeld(p) => self.release_held(&mut next, p),
            Action::Exit(p) => {
                if state.processes[p].row && !self.has(Mutation::ExitFreesNothing) {
                    self.release_held(&mut next, p);
                }
                next.orphan(p);
                next.leave(p);
                next.processes[p] = Process::ABSENT;
            }
            Action::Kill(p) => {
                next.kill(p);
                if self.embedded {
                    next.processes[p].sent = None;
                }
            }
            Action::Freeze(p) => next.processes[p].status = Status::Frozen,
            Action::Thaw(p) => {
                let slept = self.has(Mutation::OwnSleepCountsAsStandingStill);
                let process = &mut next.processes[p];
                process.status = Status::Up;
                for (q, still) in process.seen_still.iter_mut().enumerate() {
                    *still = slept && q != p && state.processes[q].row;
                }
            }
            Action::Away => next.know_nothing(),
            Action::Back => next.away = false,
            Action::SeenStill(p, q) => {
                next.processes[p].seen_still[q] = true;
                next.processes[q].quiet |= !state.away;
            }
            Action::Beat(p) => {
                next.processes[p].quiet = false;
                if !self.has(Mutation::ReapThoughTheBeatMoved) {
                    next.forget(p);
                }
            }
            Action::Reap(_, q) => {
                self.reap(&mut next, q);
                next.leave(q);
            }
            Action::NewId(p) => {
                let process = &mut next.processes[p];
                process.row = true;
                process.marked = false;
                if let Some(sent) = &mut process.sent {
                    sent.old_id = true;
                }
            }
        }
        next.tidy();
        next
    }

    /// Which job a reserve gets that is on its way.
    fn taken(&self, state: &State, p: usize) -> Option<usize> {
        let process = &state.processes[p];
        let sent = process.sent?;
        let leased = process.row && !sent.old_id || self.has(Mutation::ReserveWithoutTheLease);
        let runnable = match state.jobs[sent.job].phase {
            Phase::Waiting => true,
            Phase::Running => self.has(Mutation::ReserveOfWhatRuns),
            Phase::Completed | Phase::Dead => self.has(Mutation::ReserveOfWhatHasEnded),
            Phase::Unknown | Phase::Later => false,
        };
        (leased && runnable).then_some(sent.job)
    }

    fn take(&self, next: &mut State, p: usize, stage: Stage) {
        let taken = self.taken(next, p);
        let process = &mut next.processes[p];
        let sent = process.sent.take();
        let Some(n) = taken else { return };
        let gone = !process.row || sent.is_some_and(|sent| sent.old_id);
        let job = &mut next.jobs[n];
        job.phase = Phase::Running;
        job.attempt += 1;
        job.alone = false;
        job.owner = Some(Owner { process: p, gone });
        let suspect = job.crashes >= SUSPECT;
        self.void(next, n);
        // Of one that was killed nobody remembers it.
        if next.processes[p].status != Status::Down {
            let free = next.processes[p].runs[n].iter_mut().find(|r| r.is_none());
            let run = Run {
                stage,
                claim: Claim::Current,
                suspect,
            };
            *free.expect("room was left when it was sent") = Some(run);
        }
    }

    fn begin(&self, next: &mut State, place: Place) {
        let Some(run) = place.run_mut(next) else {
            return;
        };
        run.stage = Stage::Runs;
        if run.suspect && run.claim == Claim::Current {
            next.jobs[place.job].alone = true;
        }
    }

    /// Written under the job's claim only, once.
    fn settle(&self, next: &mut State, place: Place, outcome: Outcome) {
        let Some(run) = place.run(next) else { return };
        let running = next.jobs[place.job].phase == Phase::Running;
        let good = match run.claim {
            Claim::Current => true,
            Claim::Stale => running && self.has(Mutation::StaleOutcomeIsWritten),
            Claim::Settled => self.has(Mutation::RepeatedOutcomeIsWritten),
        };
        if !good {
            return;
        }
        self.write(&mut next.jobs[place.job], outcome);
        next.void(place.job, Claim::Settled);
        next.void(place.job, Claim::Current);
        *place.run_mut(next) = Some(Run {
            stage: Stage::Over(outcome),
            claim: Claim::Settled,
            suspect: false,
        });
    }

    fn write(&self, job: &mut Job, outcome: Outcome) {
        match outcome {
            Outcome::Complete => job.phase = Phase::Completed,
            Outcome::Fail => {
                job.failures += 1;
                if self.has(Mutation::FailureCountsNone) {
                    job.attempt -= 1;
                }
                job.phase = match job.attempt >= MAX_ATTEMPTS {
                    true => Phase::Dead,
                    false => Phase::Later,
                };
            }
            Outcome::Release => self.uncounted(job, Phase::Waiting),
        }
        job.crashes = 0;
        job.owner = None;
        job.alone = false;
    }

    /// Back, its attempt not counted.
    fn uncounted(&self, job: &mut Job, phase: Phase) {
        job.phase = phase;
        job.releases += 1;
        job.owner = None;
        job.alone = false;
        if !self.has(Mutation::ReleaseCountsAnAttempt) {
            job.attempt = job.attempt.saturating_sub(1);
        }
    }

    fn release(&self, next: &mut State, job: usize, phase: Phase) {
        self.uncounted(&mut next.jobs[job], phase);
        next.jobs[job].crashes = 0;
        self.void(next, job);
    }

    /// Whoever has the job's claim has it no more.
    fn void(&self, next: &mut State, job: usize) {
        if !self.has(Mutation::ReserveUnderTheSameClaim) {
            next.void(job, Claim::Current);
        }
    }

    /// Runnable at once where all handlers have ended.
    fn release_held(&self, next: &mut State, p: usize) {
        let at_once = self.has(Mutation::RunningHandlersAreReleasedAtOnce);
        let phase = match next.processes[p].works() && !at_once {
            true => Phase::Later,
            false => Phase::Waiting,
        };
        for job in 0..self.jobs {
            if next.jobs[job].belongs_to(p) {
                self.release(next, job, phase);
            }
        }
    }

    /// What a dead process held is free, and a crash is charged.
    fn reap(&self, next: &mut State, p: usize) {
        if self.has(Mutation::ReapFreesNothing) {
            next.orphan(p);
            return;
        }
        let crashed = !next.processes[p].marked || self.has(Mutation::KillInADrainIsCharged);
        let held = next.jobs.map(|job| job.belongs_to(p));
        let some_alone = (0..self.jobs).any(|job| held[job] && next.jobs[job].alone);
        for n in (0..self.jobs).filter(|n| held[*n]) {
            let job = &mut next.jobs[n];
            let all = self.has(Mutation::AllAreChargedWhoeverRanAlone);
            let charged = crashed && (job.alone == some_alone || all);
            job.crashes += u32::from(charged);
            let condemns = charged || self.has(Mutation::KillInADrainCondemns);
            if condemns && job.alone && job.crashes >= super::state::MAX_CRASHES {
                job.phase = Phase::Dead;
                (job.owner, job.alone) = (None, false);
            } else if charged && job.crashes >= SUSPECT {
                self.uncounted(job, Phase::Later);
            } else {
                self.uncounted(job, Phase::Waiting);
            }
            if self.has(Mutation::ReapForgetsTheJobs) {
                *job = Job::UNKNOWN;
            }
            self.void(next, n);
        }
    }
}

// === impl State ===

impl State {
    /// The row goes, and what is known of it.
    fn leave(&mut self, p: usize) {
        let process = &mut self.processes[p];
        (process.row, process.marked, process.quiet) = (false, false, false);
        self.forget(p);
    }

    /// Whoever has watched it begins anew.
    fn forget(&mut self, p: usize) {
        for other in &mut self.processes {
            other.seen_still[p] = false;
        }
    }

    /// What is still its own belongs to nobody who will ever be found dead.
    fn orphan(&mut self, p: usize) {
        for job in &mut self.jobs {
            if let Some(owner) = job.owner.as_mut().filter(|owner| owner.process == p) {
                owner.gone = true;
            }
        }
    }

    fn know_nothing(&mut self) {
        self.away = true;
        for process in &mut self.processes {
            (process.quiet, process.seen_still) = (false, [false; MOST_PROCESSES]);
        }
    }

    /// What it had on its way may still arrive.
    fn kill(&mut self, p: usize) {
        let process = &mut self.processes[p];
        *process = Process {
            status: Status::Down,
            draining: false,
            seen_still: [false; MOST_PROCESSES],
            runs: [[None; RUNS]; MOST_JOBS],
            ..*process
        };
    }
}

// === impl Place ===

impl Place {
    pub fn run(self, state: &State) -> Option<Run> {
        state.processes[self.process].runs[self.job][self.slot]
    }

    fn run_mut(self, state: &mut State) -> &mut Option<Run> {
        &mut state.processes[self.process].runs[self.job][self.slot]
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
        let orders = |n: usize| [1, 1, 2, 6][n];
        if !self.symmetric {
            return (state, state.pack(&ORDERS[0], &ORDERS[0]));
        }
        let mut least: Option<(Key, usize, usize)> = None;
        for j in 0..orders(self.jobs) {
            for p in 0..orders(self.processes) {
                let key = state.pack(&ORDERS[j], &ORDERS[p]);
                if least.is_none_or(|(least, ..)| key < least) {
                    least = Some((key, j, p));
                }
            }
        }
        let (key, j, p) = least.expect("an order at least");
        match (j, p) {
            (0, 0) => (state, key),
            _ => (state.renamed(&ORDERS[j], &ORDERS[p]), key),
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
