//! Every rule of the protocol is there for something: without it the search finds what goes wrong.

use super::{
    checker::{STUCK, check},
    model::{
        Mutation::{self, *},
        Protocol,
    },
};

/// What is broken, and what must be found.
const MUTATIONS: [(Mutation, &str); 24] = [
    (
        ReserveWithoutTheLease,
        "a job that runs belongs to a row that lives",
    ),
    (
        ReserveUnderTheSameClaim,
        "a job has one live claim, while it runs",
    ),
    (
        ReserveOfWhatRuns,
        "nobody's job is taken while its lease is renewed",
    ),
    (ReserveOfWhatHasEnded, "what has ended has ended"),
    (ReserveAfterT0, "nothing is reserved or begun after T0"),
    (BeginAfterT0, "nothing is reserved or begun after T0"),
    (StaleOutcomeIsWritten, "a stale outcome writes nothing"),
    (RepeatedOutcomeIsWritten, "a stale outcome writes nothing"),
    (
        ReapWithoutHavingWatched,
        "nobody's job is taken while its lease is renewed",
    ),
    (
        ReapThoughTheBeatMoved,
        "nobody's job is taken while its lease is renewed",
    ),
    (
        OutageCountsAsStandingStill,
        "nobody's job is taken while its lease is renewed",
    ),
    (
        OwnSleepCountsAsStandingStill,
        "nobody's job is taken while its lease is renewed",
    ),
    (
        ReapFreesNothing,
        "a job that runs belongs to a row that lives",
    ),
    (ReapForgetsTheJobs, "no job is ever lost"),
    (NoNewId, STUCK),
    (
        ExitFreesNothing,
        "a job that runs belongs to a row that lives",
    ),
    (ExitFreesNothing, "who has exited holds nothing"),
    (ReleaseCountsAnAttempt, "only a failure costs an attempt"),
    (FailureCountsNone, "only a failure costs an attempt"),
    (
        RunningHandlersAreReleasedAtOnce,
        "what may still run is not runnable at once",
    ),
    (
        AllAreChargedWhoeverRanAlone,
        "only a crash is charged, and to who ran alone",
    ),
    (
        KillInADrainIsCharged,
        "only a crash is charged, and to who ran alone",
    ),
    (
        KillInADrainCondemns,
        "only a crash is charged, and to who ran alone",
    ),
    (SuspectRunsBesideOthers, "a suspect runs alone"),
];

/// The smallest protocol that shows it.
fn shown_in(mutation: Mutation) -> Protocol {
    let everything = Protocol::shared(2, 1);
    match mutation {
        AllAreChargedWhoeverRanAlone | SuspectRunsBesideOthers | KillInADrainCondemns => {
            Protocol::embedded(2)
        }
        NoNewId => Protocol {
            drains: false,
            losses: false,
            outages: false,
            ..everything
        },
        _ => everything,
    }
}

#[test]
fn each_broken_rule_is_found() {
    for (mutation, rule) in MUTATIONS {
        let protocol = Protocol {
            mutation: Some(mutation),
            only: Some(rule),
            symmetric: false,
            ..shown_in(mutation)
        };
        let checked = check(&protocol);
        let Some(broken) = checked.counterexample else {
            panic!("{mutation:?}: all {} states are fine", checked.states);
        };
        println!("{mutation:?}: {} by {:?}", broken.rule, broken.way);
        assert_eq!(broken.rule, rule, "{mutation:?}");
    }
}

#[test]
fn each_rule_is_broken_by_something() {
    for (name, _) in super::rules::RULES {
        let shows = MUTATIONS.iter().any(|(_, rule)| *rule == name);
        assert!(shows, "nothing shows that the search sees: {name}");
    }
}
