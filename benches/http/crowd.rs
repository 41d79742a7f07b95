//! Ten thousand connections that say nothing, a thousand requests under way, and a SIGTERM.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    client::{Sender, Version, runtime},
    server::{Kind, Process},
};

const REQUESTS: usize = 1_000;

pub fn run() {
    let idle = room_for_idle();
    println!("a drain of {idle} idle connections and {REQUESTS} requests under way");
    let mut server = Process::start(&[], Kind::Lameduck, 2);
    let before = resident(&server);
    runtime().block_on(async {
        let connections = connect(&server, idle).await;
        let each = (resident(&server) - before) * 1024.0 / idle as f64;
        println!("  {each:>8.0} bytes of memory for each idle connection");

        let mut requests = Vec::new();
        for _ in 0..REQUESTS {
            let mut sender = Sender::connect(server.address, Version::Http1).await;
            requests.push(tokio::spawn(async move {
                sender.post("/slow", "hello world").await
            }));
        }
        let cpu = cpu_seconds(&server);
        let begin = Instant::now();
        server.signal(rustix::process::Signal::TERM);

        let mut answered = 0;
        for request in requests {
            answered += usize::from(request.await.expect("no panic").is_ok());
        }
        println!("  {answered:>8} of {REQUESTS} requests answered");
        let mut closed = 0;
        let mut last_cpu = cpu;
        for mut connection in connections {
            let mut byte = [0];
            closed += usize::from(matches!(connection.read(&mut byte).await, Ok(0)));
            last_cpu = cpu_seconds(&server).max(last_cpu);
        }
        println!("  {closed:>8} of {idle} idle connections closed without a reset");
        println!(
            "  {:>8.1} s from SIGTERM to the last one",
            begin.elapsed().as_secs_f64()
        );
        println!("  {:>8.2} s of CPU for it", last_cpu - cpu);
    });
    let status = server.child.wait().expect("it ends");
    let mut report = String::new();
    if let Some(stderr) = &mut server.child.stderr {
        stderr.read_to_string(&mut report).expect("a report");
    }
    println!("  {status}; {}", report.lines().last().unwrap_or_default());
}

/// As many as the limit of open files allows, up to ten thousand.
fn room_for_idle() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = usize::try_from(limit.current.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    // The server keeps a tenth of it to itself.
    let room = (limit / 10 * 9).saturating_sub(REQUESTS + 100).min(10_000);
    if room < 10_000 {
        println!("the limit of open files is {limit}: `ulimit -n 20000` makes room for all");
    }
    room
}

async fn connect(server: &Process, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for n in 0..count {
        match TcpStream::connect(server.address).await {
            Ok(connection) => connections.push(connection),
            Err(error) => panic!("connection {n}: {error}"),
        }
    }
    // One request more has gone all the way: whoever came before it has been accepted.
    let mut sender = Sender::connect(server.address, Version::Http1).await;
    sender
        .post("/echo", "hello world")
        .await
        .expect("an answer");
    tokio::time::sleep(Duration::from_millis(500)).await;
    connections
}

/// In KiB.
fn resident(server: &Process) -> f64 {
    let status = read_proc(server, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or(f64::NAN)
}

/// User and system time; 100 ticks make a second on every Linux that matters.
fn cpu_seconds(server: &Process) -> f64 {
    let stat = read_proc(server, "stat");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn read_proc(server: &Process, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", server.child.id())).unwrap_or_default()
}
