//! From the start of a process until it serves, and from SIGTERM to its exit, with nothing to do and nobody who routes to it.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

const ROUNDS: usize = 20;

pub fn run() {
    let (starts, ends): (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| one()).unzip();
    println!();
    tell("start to serving", starts);
    tell("SIGTERM to exit, idle", ends);
}

fn tell(what: &str, mut taken: Vec<f64>) {
    taken.sort_by(f64::total_cmp);
    println!(
        "{what}: {:.1} ms (median of {ROUNDS}; {:.1} to {:.1})",
        taken[ROUNDS / 2],
        taken[0],
        taken[ROUNDS - 1]
    );
}

/// Milliseconds of its start, and of its end.
fn one() -> (f64, f64) {
    let directory = crate::a_directory();
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lameduck"))
        .args([
            "serve",
            "--exec",
            "true",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .arg("--data")
        .arg(directory.path())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let mut line = String::new();
    while !line.contains("\"serving\"") {
        line.clear();
        assert!(
            log.read_line(&mut line).expect("its log") > 0,
            "it ended early"
        );
    }
    let start = started.elapsed();
    let begin = Instant::now();
    let pid = Pid::from_raw(child.id().cast_signed()).expect("its id");
    kill_process(pid, Signal::TERM).expect("a signal");
    // Its last lines fit into the pipe.
    let status = child.wait().expect("its end");
    let taken = begin.elapsed();
    assert!(status.success(), "{status}");
    (start.as_secs_f64() * 1_000.0, taken.as_secs_f64() * 1_000.0)
}
