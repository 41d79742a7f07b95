//! What it does.

use super::{
    model::{Action, Mutation, Place, Protocol},
    state::{
        Claim, Job, MAX_ATTEMPTS, MAX_CRASHES, MOST_JOBS, MOST_PROCESSES, Outcome, Owner, Phase,
        Process, RUNS, Run, SUSPECT, Sent, Stage, State, Status,
    },
};

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
    pub fn taken(&self, state: &State, p: usize) -> Option<usize> {
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
            if condemns && job.alone && job.crashes >= MAX_CRASHES {
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
