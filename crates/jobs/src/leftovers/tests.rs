//! Tests of how commands that outlived their process are ended, with real processes.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::*;

/// A sleep long enough that no test waits for its end.
const FOR_EVER: &str = "sleep 1000";

/// A data directory, and the list of running commands in it.
struct Place {
    data: TempDir,
    list: RunningList,
    /// The place's own claim, because tests that run at the same time end the commands with theirs.
    claim: String,
}

/// A command that prints a line once it has done what the test needs.
struct Running {
    leader: Child,
    said: String,
}

impl Place {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let list = RunningList::of(data.path()).unwrap().unwrap();
        let claim = Uuid::new_v4().to_string();
        Self { data, list, claim }
    }

    /// Writes a record as SIGKILL leaves it: nobody removes it.
    fn listed(&self, leader: Option<&Running>) {
        let mut listed = self.list.note(&self.claim).unwrap();
        if let Some(running) = leader {
            listed.started(running.pid()).unwrap();
        }
        std::mem::forget(listed);
    }

    fn write(&self, record: &Record) {
        let text = serde_json::to_vec(record).unwrap();
        fs::write(self.list.folder.join("one"), text).unwrap();
    }

    fn end(&self) -> Ended {
        end(self.data.path())
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.list.folder).unwrap().next().is_none()
    }
}

impl Running {
    fn start(claim: &str, script: &str) -> Self {
        let mut leader = Command::new("sh")
            .args(["-c", script])
            .env("LAMEDUCK_CLAIM", claim)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = leader.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        Self { leader, said }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.leader.id().cast_signed()).unwrap()
    }

    /// Whether each of the processes that it named is alive.
    fn is_alive(&self) -> Vec<bool> {
        let pids = self.said.split_whitespace();
        pids.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
            .map(|pid| Seen::look(pid).is_some_and(|seen| !seen.ended))
            .collect()
    }

    fn leader_ends(&mut self) {
        self.leader.wait().unwrap();
    }

    /// Waits for the leader's end, and returns the signal that killed it.
    fn died_of(mut self) -> Option<i32> {
        self.leader.wait().unwrap().signal()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.pid(), Signal::KILL);
    }
}

const ONE: Ended = Ended { ended: 1, alive: 0 };
const NONE: Ended = Ended { ended: 0, alive: 0 };

#[test]
fn a_command_that_outlived_its_process_is_ended_with_its_group() {
    let place = Place::new();
    let script = format!("trap '' TERM; {FOR_EVER} & echo $! $$; wait");
    let running = Running::start(&place.claim, &script);
    place.listed(Some(&running));

    assert_eq!(place.end(), ONE);

    assert_eq!(running.is_alive(), [false, false]);
    assert!(place.is_empty());
    assert_eq!(place.end(), NONE);
}

#[test]
fn a_leader_that_wiped_its_environment_is_known_by_its_start() {
    let place = Place::new();
    let running = Running::start(&place.claim, "exec env -i sh -c 'echo $$; exec sleep 1000'");
    place.listed(Some(&running));

    assert_eq!(place.end(), ONE);

    assert_eq!(running.died_of(), Some(9));
}

#[test]
fn a_group_without_its_leader_is_known_by_a_member_that_carries_the_claim() {
    let place = Place::new();
    let script = format!("{FOR_EVER} & a=$!; env -i {FOR_EVER} & echo $a $!; wait");
    let mut running = Running::start(&place.claim, &script);
    place.listed(Some(&running));
    rustix::process::kill_process(running.pid(), Signal::KILL).unwrap();
    running.leader_ends();
    assert_eq!(running.is_alive(), [true, true]);

    assert_eq!(place.end(), ONE);

    assert_eq!(running.is_alive(), [false, false]);
}

#[test]
fn who_left_the_group_is_known_by_the_claim() {
    let place = Place::new();
    // Without an exec after it has said who it is: in the middle of one it has no environment to be known by.
    let escape = format!("setsid sh -c 'echo $$; {FOR_EVER}; :' & wait");
    let mut running = Running::start(&place.claim, &escape);
    place.listed(Some(&running));
    rustix::process::kill_process(running.pid(), Signal::KILL).unwrap();
    running.leader_ends();

    assert_eq!(place.end(), ONE);

    assert_eq!(running.is_alive(), [false]);
}

#[test]
fn a_command_whose_start_was_not_written_down_any_more_is_known_by_the_claim() {
    let place = Place::new();
    place.listed(None);
    let running = Running::start(&place.claim, &format!("echo $$; exec {FOR_EVER}"));

    assert_eq!(place.end(), ONE);

    assert_eq!(running.died_of(), Some(9));
    assert!(place.is_empty());
}

#[test]
fn who_got_the_process_id_of_a_command_is_left_alone() {
    let place = Place::new();
    let innocent = Running::start("another", &format!("{FOR_EVER} & echo $! $$; wait"));
    let now = Seen::look(innocent.pid()).unwrap();
    place.write(&Record {
        claim: place.claim.clone(),
        here: place.list.here.clone(),
        leader: Some(Leader {
            group: now.group,
            start: now.start - 1,
        }),
    });

    assert_eq!(place.end(), NONE);

    assert_eq!(innocent.is_alive(), [true, true]);
    assert!(place.is_empty());
}

#[test]
fn a_record_of_another_boot_or_namespace_is_void_and_goes() {
    let place = Place::new();
    let running = Running::start(&place.claim, &format!("echo $$; exec {FOR_EVER}"));
    let now = Seen::look(running.pid()).unwrap();
    let here = place.list.here.clone();
    let elsewhere = [
        Here {
            boot: "another".to_owned(),
            ..here.clone()
        },
        Here {
            namespace: "pid:[1]".to_owned(),
            ..here
        },
    ];
    for here in elsewhere {
        place.write(&Record {
            claim: place.claim.clone(),
            here,
            leader: Some(Leader {
                group: now.group,
                start: now.start,
            }),
        });

        assert_eq!(place.end(), NONE);

        assert_eq!(running.is_alive(), [true]);
        assert!(place.is_empty());
    }
}

#[test]
fn a_record_that_was_not_written_to_its_end_goes() {
    let place = Place::new();
    fs::write(place.list.folder.join("one"), "").unwrap();

    assert_eq!(place.end(), NONE);

    assert!(place.is_empty());
}

#[test]
fn a_command_leaves_the_list_when_it_is_over() {
    let place = Place::new();
    let listed = place.list.note(&place.claim).unwrap();
    assert!(!place.is_empty());

    drop(listed);

    assert!(place.is_empty());
}
