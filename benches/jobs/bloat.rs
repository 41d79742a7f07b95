//! What churn leaves behind in PostgreSQL: rounds of jobs that are submitted, run and removed, beside a database that
//! is vacuumed and beside a transaction that somebody forgot to end.
//!
//! A dead row stays as long as any transaction is older than its death. So a forgotten transaction anywhere in the
//! server makes every reserve read past the dead; this says by how much.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lameduck::jobs::{
    engine::{
        Engine,
        postgres::{PostgresEngine, PostgresOptions},
    },
    job::{Order, Retention},
};
use tokio_postgres::Client;

use crate::{
    load,
    postgres_server::{Database, Server},
};

const ROUNDS: usize = 8;
const JOBS: usize = 20_000;

pub fn run() {
    let disk = crate::a_directory();
    let server = Server::on_disk(disk.path());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for forgotten in [false, true] {
        runtime.block_on(rounds(server, forgotten));
    }
    server.end();
}

async fn rounds(server: &'static Server, forgotten: bool) {
    let database = server.database().await;
    let engine = open(&database).await;
    let looker = database.connect().await;
    let what = match forgotten {
        false => "autovacuum as the schema sets it",
        true => "a transaction that was begun before and never ends",
    };
    println!("\n{what}; each round is {JOBS} jobs submitted, run and removed\n");
    println!(
        "round | table, MB | indexes, MB | dead rows | run to the end a second | 20 reserved of 1,000, ms"
    );
    println!(
        "----- | --------- | ----------- | --------- | ----------------------- | ------------------------"
    );
    let holder = database.connect().await;
    if forgotten {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM lameduck.jobs";
        holder.batch_execute(begin).await.expect("a transaction");
    }
    for round in 1..=ROUNDS {
        load::fill(&engine, JOBS).await;
        let begin = Instant::now();
        let done = load::run_to_the_end(&engine, 20).await;
        let rate = done as f64 / begin.elapsed().as_secs_f64();
        while load::run_to_the_end(&engine, 20).await > 0 {}
        while engine.maintain().await.expect("housekeeping").more {}
        let reserve = reserve_time(&engine).await;
        let (table, indexes, dead) = sizes(&looker).await;
        println!(
            "{round:>5} | {table:>9.1} | {indexes:>11.1} | {dead:>9} | {rate:>23.0} | {reserve:>24.1}"
        );
    }
    engine.close().await;
}

/// The median of a few, each in a queue that has a thousand.
async fn reserve_time(engine: &Arc<dyn Engine>) -> f64 {
    load::fill(engine, 1_000).await;
    let mut taken = Vec::new();
    for _ in 0..9 {
        let begin = Instant::now();
        let reserved = engine.reserve(&load::queue(), Order::Priority, 20).await;
        taken.push(begin.elapsed().as_secs_f64() * 1_000.0);
        assert_eq!(reserved.expect("jobs").len(), 20);
    }
    engine
        .release_held(Duration::ZERO)
        .await
        .expect("a release");
    while load::run_to_the_end(engine, 20).await > 0 {}
    while engine.maintain().await.expect("housekeeping").more {}
    taken.sort_by(f64::total_cmp);
    taken[taken.len() / 2]
}

async fn sizes(client: &Client) -> (f64, f64, i64) {
    let sizes = "SELECT pg_table_size('lameduck.jobs')::float8 / 1e6, pg_indexes_size('lameduck.jobs')::float8 / 1e6,
                        pg_stat_get_dead_tuples('lameduck.jobs'::regclass)";
    let row = client.query_one(sizes, &[]).await.expect("sizes");
    (row.get(0), row.get(1), row.get(2))
}

async fn open(database: &Database) -> Arc<dyn Engine> {
    let mut options = PostgresOptions::new(database.url());
    options.retention = Retention {
        completed: Duration::ZERO,
        ..Retention::default()
    };
    Arc::new(PostgresEngine::connect(options).await.expect("a queue"))
}
