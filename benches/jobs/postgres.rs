//! The same on PostgreSQL with 1 to 8 processes, as multiples of what the same server commits a second for pgbench.
//!
//! Durable is `synchronous_commit = on`: each submission and each outcome is on the server's disk before it is
//! answered. With `off` a crash of the server loses the last fraction of a second; it shows what durability costs.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use lameduck::jobs::engine::{
    Engine,
    postgres::{PostgresEngine, PostgresOptions},
};

use crate::{
    load::{self, SPAN},
    postgres_server::{Database, Programs, Server},
};

/// Submitters or workers of each process.
const AT_ONCE: usize = 20;

/// Jobs that wait for each process that runs them.
const WAITING: usize = 60_000;

pub fn run() {
    let disk = crate::a_directory();
    let server = Server::on_disk(disk.path());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for durability in ["on", "off"] {
        println!("\nsynchronous_commit = {durability}");
        let database = runtime.block_on(server.database());
        let [one, many] =
            [1, AT_ONCE].map(|clients| pgbench(&database, disk.path(), clients, durability));
        println!(
            "pgbench, an insert of one row a transaction: {one:.0} a second by 1 client, {many:.0} by {AT_ONCE}\n"
        );
        println!(
            "processes | submitted a second | × pgbench by {AT_ONCE} | run to the end a second | × pgbench by {AT_ONCE}"
        );
        println!(
            "--------- | ------------------ | --------------- | ----------------------- | ---------------"
        );
        for processes in [1, 2, 4, 8] {
            let url = with_commit(&database.url(), durability);
            let submitted = all(processes, &url, "submit");
            let ended = all(processes, &url, "end");
            println!(
                "{processes:>9} | {submitted:>18.0} | {:>15.1} | {ended:>23.0} | {:>15.1}",
                submitted / many,
                ended / many
            );
        }
    }
    server.end();
}

fn with_commit(url: &str, durability: &str) -> String {
    format!("{url}&options=-c%20synchronous_commit%3D{durability}")
}

/// Transactions a second.
fn pgbench(database: &Database, directory: &Path, clients: usize, durability: &str) -> f64 {
    let client = |sql: &str| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let client = database.connect().await;
            client.batch_execute(sql).await.expect("a table");
        });
    };
    client("CREATE TABLE IF NOT EXISTS raw (payload bytea)");
    let script = directory.join("insert.sql");
    std::fs::write(
        &script,
        "INSERT INTO raw VALUES (decode(repeat('78', 512), 'hex'));\n",
    )
    .expect("a script");
    let output = Programs::find()
        .command("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={clients}"))
        .arg(format!("--time={}", SPAN.as_secs()))
        .arg("--file")
        .arg(&script)
        .arg(with_commit(&database.url(), durability))
        .output()
        .expect("pgbench");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    tps.split(' ')
        .next()
        .and_then(|tps| tps.parse().ok())
        .expect("a number")
}

/// All processes at the same time; what they did a second, together.
fn all(processes: usize, url: &str, what: &str) -> f64 {
    let mut all: Vec<Child> = (0..processes).map(|_| start(url, what)).collect();
    // Each is ready when it says so, and begins when it hears of it.
    let mut said: Vec<_> = all
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().expect("its words")).lines())
        .collect();
    let mut next = || -> Vec<String> {
        let lines = said.iter_mut();
        lines
            .map(|lines| lines.next().expect("a word").expect("a line"))
            .collect()
    };
    next();
    for child in &mut all {
        writeln!(child.stdin.as_mut().expect("its ear"), "go").expect("somebody there");
    }
    let done: u64 = next()
        .iter()
        .map(|done| done.parse::<u64>().expect("a number"))
        .sum();
    for mut child in all {
        assert!(child.wait().expect("its end").success());
    }
    done as f64 / SPAN.as_secs_f64()
}

fn start(url: &str, what: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["process", url, what])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process")
}

/// One of the processes.
pub fn process(url: &str, what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let engine = PostgresEngine::connect(PostgresOptions::new(url)).await;
        let engine: Arc<dyn Engine> = Arc::new(engine.expect("a queue"));
        if what == "end" {
            load::fill(&engine, WAITING).await;
        }
        println!("ready");
        std::io::stdin().lines().next();
        let done = match what {
            "submit" => load::submit(&engine, AT_ONCE).await,
            _ => load::run_to_the_end(&engine, AT_ONCE).await,
        };
        println!("{done}");
        engine.close().await;
    });
}
