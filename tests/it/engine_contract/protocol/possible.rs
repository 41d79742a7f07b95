//! What may happen next.

use super::{
    model::{Action, Mutation, Place, Protocol},
    state::{Claim, Outcome, Phase, Process, RUNS, Run, Stage, State, Status},
};

impl Protocol {
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
        // What can't begin at once is given back; a suspect waits.
        Stage::Reserved if process.draining || !run.suspect => &[Outcome::Release],
        Stage::Reserved => &[],
        Stage::Runs if process.draining => &[Outcome::Complete, Outcome::Fail, Outcome::Release],
        Stage::Runs => &[Outcome::Complete, Outcome::Fail],
        Stage::Over(Outcome::Complete) => &[Outcome::Complete],
        Stage::Over(Outcome::Fail) => &[Outcome::Fail],
        Stage::Over(Outcome::Release) => &[Outcome::Release],
    }
}
