//! Instructions a request, counted by callgrind: the difference between a run with many requests and one
//! with few, so that start and end do not count.

use std::process::Command;

use super::{
    client::{Sender, VERSIONS, Version, runtime},
    server::{ALL, Kind, Process},
};

const FEW: u64 = 500;
const MANY: u64 = 2_500;

pub fn run() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions: valgrind is not installed (Debian: apt-get install valgrind)");
        return;
    }
    println!("instructions a request (POST of 11 bytes, echoed; one connection, one thread)");
    for (version, name) in VERSIONS {
        let counts = ALL.map(|kind| per_request(kind, version));
        let axum = counts[1];
        for (kind, count) in ALL.iter().zip(counts) {
            println!(
                "  {name:<9} {:<9} {count:>8.0}  {:+5.1} % of axum",
                kind.name(),
                (count / axum - 1.0) * 100.0
            );
        }
    }
}

fn per_request(kind: Kind, version: Version) -> f64 {
    let difference = instructions(kind, version, MANY) - instructions(kind, version, FEW);
    difference as f64 / (MANY - FEW) as f64
}

fn instructions(kind: Kind, version: Version, requests: u64) -> u64 {
    let file = std::env::temp_dir().join(format!("lameduck-callgrind-{}", std::process::id()));
    let out = format!("--callgrind-out-file={}", file.display());
    let valgrind = ["valgrind", "--tool=callgrind", "--quiet", &out];
    let mut server = Process::start(&valgrind, kind, 1);
    runtime().block_on(async {
        let mut sender = Sender::connect(server.address, version).await;
        for _ in 0..requests {
            sender
                .post("/echo", "hello world")
                .await
                .expect("an answer");
        }
    });
    server.signal(rustix::process::Signal::TERM);
    server.child.wait().expect("it ends");
    let profile = std::fs::read_to_string(&file).expect("callgrind has written");
    let _ = std::fs::remove_file(&file);
    let total = profile.lines().find_map(|line| {
        line.strip_prefix("totals: ")
            .or_else(|| line.strip_prefix("summary: "))
    });
    total.expect("a total").trim().parse().expect("a number")
}
