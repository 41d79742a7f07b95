//! What must hold, whatever happens: each rule looks at one step.

use super::{
    model::Action,
    state::{Claim, Job, MAX_ATTEMPTS, MAX_CRASHES, Phase, Run, Stage, State},
};

pub type Rule = (
    &'static str,
    fn(before: &State, action: Action, after: &State) -> bool,
);

/// All of them but that every job can still end, which no single step shows.
pub const RULES: [Rule; 12] = [
    ("no job is ever lost", never_lost),
    ("what has ended has ended", ended_is_final),
    ("a job that runs belongs to a row that lives", has_an_owner),
    ("a job has one live claim, while it runs", one_claim),
    ("a stale outcome writes nothing", stale_writes_nothing),
    (
        "nobody's job is taken while its lease is renewed",
        not_stolen,
    ),
    ("nothing is reserved or begun after T0", nothing_after_t0),
    ("who has exited holds nothing", exit_holds_nothing),
    ("only a failure costs an attempt", attempts_are_failures),
    (
        "only a crash is charged, and to who ran alone",
        charged_fairly,
    ),
    ("a suspect runs alone", suspects_run_alone),
    ("what may still run is not runnable at once", released_late),
];

/// The rules that this step breaks.
pub fn broken(before: &State, action: Action, after: &State) -> impl Iterator<Item = &'static str> {
    let broken = RULES
        .iter()
        .filter(move |(_, holds)| !holds(before, action, after));
    broken.map(|(name, _)| *name)
}

/// Each job before and after.
fn jobs<'a>(before: &'a State, after: &'a State) -> impl Iterator<Item = (&'a Job, &'a Job)> {
    before.jobs.iter().zip(&after.jobs)
}

fn never_lost(before: &State, _: Action, after: &State) -> bool {
    jobs(before, after).all(|(b, a)| b.phase == Phase::Unknown || a.phase != Phase::Unknown)
}

fn ended_is_final(before: &State, action: Action, after: &State) -> bool {
    let revived = match action {
        Action::Revive(job) => Some(job),
        _ => None,
    };
    let mut all = jobs(before, after).enumerate();
    all.all(|(n, (b, a))| !b.phase.has_ended() || b == a || revived == Some(n))
}

/// Else it would never be found that nobody runs it.
fn has_an_owner(_: &State, _: Action, after: &State) -> bool {
    after.jobs.iter().all(|job| match job.owner {
        None => job.phase != Phase::Running,
        Some(owner) => {
            job.phase == Phase::Running && !owner.gone && after.processes[owner.process].row
        }
    })
}

fn one_claim(_: &State, _: Action, after: &State) -> bool {
    after.jobs.iter().enumerate().all(|(n, job)| {
        let mut holders = 0;
        for (p, process) in after.processes.iter().enumerate() {
            let runs = process.runs[n].iter().flatten();
            let current = runs.filter(|run| run.claim == Claim::Current).count();
            if current > 0 && !job.belongs_to(p) {
                return false;
            }
            holders += current;
        }
        holders <= usize::from(job.phase == Phase::Running)
    })
}

fn stale_writes_nothing(before: &State, action: Action, after: &State) -> bool {
    let (Action::Settle(place, _) | Action::Land(place, _)) = action else {
        return true;
    };
    let current = place.run(before).is_some_and(|r| r.claim == Claim::Current);
    current || before.jobs == after.jobs
}

fn not_stolen(before: &State, action: Action, after: &State) -> bool {
    let by_itself = match action {
        Action::Settle(place, _) | Action::Land(place, _) | Action::GiveBack(place) => {
            Some(place.process)
        }
        Action::ReleaseHeld(p) | Action::Exit(p) | Action::Start(p) => Some(p),
        Action::Reap(_, q) => return before.processes[q].quiet,
        _ => None,
    };
    jobs(before, after).all(|(b, a)| match b.owner {
        Some(owner) => a.owner == b.owner || by_itself == Some(owner.process),
        None => true,
    })
}

fn nothing_after_t0(before: &State, action: Action, _: &State) -> bool {
    match action {
        Action::Send(p, _) => !before.processes[p].draining,
        Action::Begin(place) => !before.processes[place.process].draining,
        _ => true,
    }
}

fn exit_holds_nothing(_: &State, action: Action, after: &State) -> bool {
    let Action::Exit(p) = action else { return true };
    let mut owners = after.jobs.iter().filter_map(|job| job.owner);
    owners.all(|owner| owner.process != p)
}

fn attempts_are_failures(_: &State, _: Action, after: &State) -> bool {
    after.jobs.iter().all(|job| {
        let counted = match job.phase {
            Phase::Unknown | Phase::Waiting | Phase::Later => job.attempt == job.failures,
            Phase::Running | Phase::Completed => job.attempt == job.failures + 1,
            // By its last failure, or by the crashes of a run that has no outcome.
            Phase::Dead => {
                job.attempt == MAX_ATTEMPTS.min(job.failures + u32::from(job.crashes > 0))
            }
        };
        counted && job.attempt <= MAX_ATTEMPTS
    })
}

/// Who ran alone crashed the process, else all who ran; and a kill in a drain is nobody's fault.
fn charged_fairly(before: &State, action: Action, after: &State) -> bool {
    let (Action::Reap(_, p) | Action::Start(p)) = action else {
        return jobs(before, after).all(|(b, a)| a.crashes == b.crashes || a.crashes == 0);
    };
    let mine = |job: &Job| job.belongs_to(p);
    let some_alone = before.jobs.iter().any(|job| mine(job) && job.alone);
    let crashed = !before.processes[p].marked;
    jobs(before, after).filter(|(b, _)| mine(b)).all(|(b, a)| {
        let charged = a.crashes > b.crashes;
        let at_fault = crashed && (b.alone || !some_alone);
        let condemned = a.phase == Phase::Dead;
        let alone_too_often = b.alone && a.crashes >= MAX_CRASHES && charged;
        charged == at_fault && condemned == alone_too_often
    })
}

fn suspects_run_alone(_: &State, _: Action, after: &State) -> bool {
    after.processes.iter().all(|process| {
        let at_work = |run: &&Run| run.stage == Stage::Runs;
        let suspects = process.runs().filter(at_work).any(|run| run.suspect);
        !suspects || process.runs().filter(at_work).count() == 1
    })
}

fn released_late(before: &State, action: Action, after: &State) -> bool {
    let (Action::ReleaseHeld(p) | Action::Exit(p)) = action else {
        return true;
    };
    let works = |runs: &[Option<Run>]| {
        let mut runs = runs.iter().flatten();
        runs.any(|run| run.stage == Stage::Runs && run.claim == Claim::Current)
    };
    let mut jobs = before.processes[p].runs.iter().zip(&after.jobs);
    jobs.all(|(runs, job)| !works(runs) || job.phase != Phase::Waiting)
}
