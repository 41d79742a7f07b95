//! Requests a second over 64 connections, the servers by turns, so that whatever else the machine does
//! meets them all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    client::{Sender, VERSIONS, Version, runtime},
    server::{ALL, Kind, Process},
};

const CONNECTIONS: usize = 64;
const TURN: Duration = Duration::from_secs(1);
const TURNS: usize = 5;

pub fn run() {
    println!("requests a second ({CONNECTIONS} connections; client and server share two cores)");
    for (version, name) in VERSIONS {
        let servers = ALL.map(|kind| Process::start(&[], kind, 2));
        let mut rates = [const { Vec::new() }; ALL.len()];
        for _ in 0..TURNS {
            for (server, rates) in servers.iter().zip(&mut rates) {
                rates.push(rate(server, version));
            }
        }
        let medians = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[TURNS / 2]
        });
        let axum = medians[ALL
            .iter()
            .position(|kind| *kind == Kind::Axum)
            .expect("axum")];
        for (kind, median) in ALL.iter().zip(medians) {
            println!(
                "  {name:<9} {:<9} {median:>8.0}/s  {:+5.1} % of axum",
                kind.name(),
                (median / axum - 1.0) * 100.0
            );
        }
    }
}

fn rate(server: &Process, version: Version) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    runtime().block_on(async {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (done, address) = (done.clone(), server.address);
                tokio::spawn(async move {
                    let mut sender = Sender::connect(address, version).await;
                    while begin.elapsed() < TURN {
                        sender
                            .post("/echo", "hello world")
                            .await
                            .expect("an answer");
                        done.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no panic");
        }
    });
    done.load(Relaxed) as f64 / begin.elapsed().as_secs_f64()
}
