//! Which ways are gone: each kind of step from each kind of situation at least once, and random ones.

use super::{
    super::{
        PAGE,
        checker::{Model, cover},
        with_commas,
    },
    sides::{Embedded, Shared},
    *,
};

/// A kind of step: what is done, and all that an engine can know of where it is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    what: std::mem::Discriminant<Action>,
    outcome: Option<u8>,
    job: (u8, u32, u32, bool),
    /// Whether it is the one's that does it, or somebody else's.
    owner: Option<bool>,
    row: (bool, bool, bool),
    /// How a run stands that it is about.
    run: Option<(std::mem::Discriminant<Stage>, u8)>,
    old_id: bool,
    down: bool,
}

/// Of the steps that ask an engine for something; where there is one job.
fn kind(told: &Told, action: Action) -> Option<Kind> {
    let (p, place, outcome) = match action {
        Action::Submit(_) | Action::Revive(_) => (None, None, None),
        Action::Start(p) | Action::NewId(p) | Action::Take(p) | Action::T0(p) => {
            (Some(p), None, None)
        }
        Action::ReleaseHeld(p) | Action::Exit(p) | Action::Kill(p) | Action::Reap(_, p) => {
            (Some(p), None, None)
        }
        Action::Begin(place) => (Some(place.process), Some(place), None),
        Action::Settle(place, outcome) | Action::Land(place, outcome) => {
            (Some(place.process), Some(place), Some(outcome as u8))
        }
        _ => return None,
    };
    let process = p.map(|p| &told.processes[p]);
    let job = &told.jobs[place.map_or(0, |place| place.job)];
    let run = place.and_then(|place| place.run(told));
    Some(Kind {
        what: std::mem::discriminant(&action),
        outcome,
        job: (
            job.phase as u8,
            job.attempt,
            job.crashes.min(state::MAX_CRASHES),
            job.alone,
        ),
        owner: job.owner.map(|owner| Some(owner.process) == p),
        row: process.map_or((false, false, false), |p| (p.row, p.marked, p.works())),
        run: run.map(|run| (std::mem::discriminant(&run.stage), run.claim as u8)),
        old_id: process.is_some_and(|p| p.sent.is_some_and(|sent| sent.old_id)),
        down: process.is_some_and(|p| p.status == Status::Down),
    })
}

/// The same, told apart only by what decides: that much is gone in every test run.
fn rough_kind(told: &Told, action: Action) -> Option<Kind> {
    let kind = kind(told, action)?;
    let (phase, _, crashes, alone) = kind.job;
    let suspect = crashes >= state::SUSPECT;
    let (row, marked, _) = kind.row;
    Some(match action {
        // Of an outcome it decides what became of its claim.
        Action::Settle(..) | Action::Land(..) => Kind {
            job: (phase, 0, 0, false),
            owner: None,
            row: (false, false, false),
            old_id: false,
            ..kind
        },
        _ => Kind {
            job: (phase, 0, u32::from(suspect), alone),
            row: (row, marked, false),
            ..kind
        },
    })
}

/// Goes each way on a queue of its own, and compares with what the page says.
async fn go<S: Side>(name: &str, protocol: Protocol, ways: &[Vec<Action>]) {
    let began = std::time::Instant::now();
    let mut side = S::fresh().await;
    for (number, way) in ways.iter().enumerate() {
        Replay::new(&mut side, protocol, number).go(way).await;
    }
    let steps = with_commas(ways.iter().map(Vec::len).sum());
    let ways = with_commas(ways.len());
    println!(
        "{name}: {ways} ways, {steps} steps in {:?}",
        began.elapsed()
    );
    let row = format!("| {name} | {ways} | {steps} |");
    assert!(PAGE.contains(&row), "docs/protocol.md does not say: {row}");
}

fn on_the_embedded(jobs: usize) -> Protocol {
    Protocol {
        symmetric: false,
        ..Protocol::embedded(jobs)
    }
}

fn on_the_shared(processes: usize, jobs: usize) -> Protocol {
    Protocol {
        symmetric: false,
        unheard: false,
        ..Protocol::shared(processes, jobs)
    }
}

/// Seeded, so that a failing one comes again.
fn random_ways(protocol: Protocol, ways: usize, steps: usize) -> Vec<Vec<Action>> {
    let mut random = fastrand::Rng::with_seed(6);
    let way = |_| {
        let (mut told, mut way, mut actions) = (Told::INITIAL, Vec::new(), Vec::new());
        for _ in 0..steps {
            actions.clear();
            protocol.possible(&told, &mut actions);
            let Some(&action) = random.choice(&actions) else {
                break;
            };
            told = protocol.next(&told, action);
            way.push(action);
        }
        way
    };
    (0..ways).map(way).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_does_every_kind_of_step_as_the_model_says() {
    let protocol = on_the_embedded(1);
    go::<Embedded>(
        "SQLite, 1 job: every kind of step",
        protocol,
        &cover(&protocol, kind),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_goes_random_ways_as_the_model_says() {
    let protocol = on_the_embedded(2);
    go::<Embedded>(
        "SQLite, 2 jobs: random ways",
        protocol,
        &random_ways(protocol, 40, 80),
    )
    .await;
}

/// No process stands still.
fn killed_and_drained() -> Protocol {
    Protocol {
        freezes: false,
        outages: false,
        ..on_the_shared(2, 1)
    }
}

/// None is drained.
fn standing_still() -> Protocol {
    Protocol {
        drains: false,
        outages: false,
        losses: false,
        ..on_the_shared(2, 1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_kills_and_drains_as_the_model_says() {
    let protocol = killed_and_drained();
    go::<Shared>(
        "PostgreSQL, 2 processes, 1 job: every rough kind of step of kills, drains, lost answers",
        protocol,
        &cover(&protocol, rough_kind),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_takes_over_from_who_stands_still_as_the_model_says() {
    let protocol = standing_still();
    go::<Shared>(
        "PostgreSQL, 2 processes, 1 job: every rough kind of step of kills, freezes",
        protocol,
        &cover(&protocol, rough_kind),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_goes_random_ways_as_the_model_says() {
    let protocol = on_the_shared(2, 2);
    go::<Shared>(
        "PostgreSQL, 2 processes, 2 jobs: random ways",
        protocol,
        &random_ways(protocol, 12, 80),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: run by `make model`"]
async fn postgresql_does_every_kind_of_step_as_the_model_says() {
    for (name, protocol) in [
        (
            "PostgreSQL, 2 processes, 1 job: every kind of step of kills, drains, lost answers",
            killed_and_drained(),
        ),
        (
            "PostgreSQL, 2 processes, 1 job: every kind of step of kills, freezes",
            standing_still(),
        ),
    ] {
        go::<Shared>(name, protocol, &cover(&protocol, kind)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: run by `make model`"]
async fn postgresql_goes_many_random_ways_as_the_model_says() {
    let protocol = on_the_shared(3, 3);
    go::<Shared>(
        "PostgreSQL, 3 processes, 3 jobs: random ways",
        protocol,
        &random_ways(protocol, 200, 120),
    )
    .await;
}
