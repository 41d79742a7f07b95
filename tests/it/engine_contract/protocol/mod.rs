//! The protocol of claims, leases and releases as a model: all that it can do is looked at, and what it does is done
//! on both engines.
//!
//! | file | is |
//! | --- | --- |
//! | `state.rs` | what there is: rows, and what processes remember |
//! | `model.rs` | its actions, its sizes, and the rules that can be broken on purpose |
//! | `possible.rs`, `effects.rs` | what may happen, and what it does |
//! | `rules.rs` | what must hold |
//! | `checker.rs` | the search through everything |
//! | `mutations.rs` | each rule of the protocol broken once: the search finds it |
//! | `replay.rs` | ways through the model, gone on SQLite and PostgreSQL |
//!
//! Left to the random histories in `model.rs` beside this folder, which every engine is compared with: the order of
//! a queue, several jobs in one reserve, cancelling, pausing, deferring, keys, housekeeping.

use checker::check;
use model::Protocol;

mod checker;
mod effects;
mod model;
mod mutations;
mod possible;
mod replay;
mod rules;
mod state;

const PAGE: &str = include_str!("../../../../docs/protocol.md");

/// Looks at all of it, and compares with what the page says.
fn holds(name: &str, protocol: Protocol) {
    let checked = check(&protocol);
    if let Some(broken) = checked.counterexample {
        // Once more, so that each process keeps its name on the way.
        let symmetric = false;
        let again = check(&Protocol {
            symmetric,
            ..protocol
        });
        let way = again.counterexample.map(|broken| broken.way);
        panic!("{name}: not so: {}: {way:#?}", broken.rule);
    }
    let (states, transitions) = (
        with_commas(checked.states),
        with_commas(checked.transitions),
    );
    let depth = checked.depth;
    println!("{name}: {states} states, {transitions} transitions, at most {depth} steps away");
    let row = format!("| {name} | {states} | {transitions} |");
    assert!(PAGE.contains(&row), "docs/protocol.md does not say: {row}");
}

fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

// Each in a test of its own, so that they share the processors.

#[test]
fn one_embedded_process_and_two_jobs_keep_every_rule() {
    holds(
        "embedded, 2 jobs: kills, drains, lost answers",
        Protocol::embedded(2),
    );
}

#[test]
fn two_processes_that_are_killed_and_drained_keep_every_rule() {
    let protocol = Protocol {
        freezes: false,
        ..Protocol::shared(2, 1)
    };
    holds(
        "2 processes, 1 job: kills, drains, outages, lost answers",
        protocol,
    );
}

#[test]
fn two_processes_that_stand_still_and_are_killed_keep_every_rule() {
    let protocol = Protocol {
        drains: false,
        losses: false,
        ..Protocol::shared(2, 1)
    };
    holds("2 processes, 1 job: kills, freezes, outages", protocol);
}

#[test]
fn two_processes_that_stand_still_and_lose_answers_keep_every_rule() {
    let protocol = Protocol {
        drains: false,
        kills: false,
        outages: false,
        ..Protocol::shared(2, 1)
    };
    holds("2 processes, 1 job: freezes, lost answers", protocol);
}

#[test]
#[ignore = "a minute: run by `make model`"]
fn two_processes_that_meet_everything_keep_every_rule() {
    holds("2 processes, 1 job: everything", Protocol::shared(2, 1));
}

#[test]
#[ignore = "15 s: run by `make model`"]
fn one_embedded_process_and_three_jobs_keep_every_rule() {
    holds(
        "embedded, 3 jobs: kills, drains, lost answers",
        Protocol::embedded(3),
    );
}

#[test]
#[ignore = "half a minute: run by `make model`"]
fn two_processes_and_two_jobs_keep_every_rule() {
    let protocol = Protocol {
        freezes: false,
        losses: false,
        ..Protocol::shared(2, 2)
    };
    holds("2 processes, 2 jobs: kills, drains, outages", protocol);
}

#[test]
#[ignore = "ten seconds: run by `make model`"]
fn three_processes_that_are_killed_and_drained_keep_every_rule() {
    let protocol = Protocol {
        freezes: false,
        losses: false,
        ..Protocol::shared(3, 1)
    };
    holds("3 processes, 1 job: kills, drains, outages", protocol);
}

#[test]
#[ignore = "four minutes: run by `make model`"]
fn three_processes_that_stand_still_and_are_killed_keep_every_rule() {
    let protocol = Protocol {
        drains: false,
        losses: false,
        outages: false,
        ..Protocol::shared(3, 1)
    };
    holds("3 processes, 1 job: kills, freezes", protocol);
}
