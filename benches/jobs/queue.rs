//! Submissions and whole lives of jobs a second, embedded, as multiples of what the disk syncs a second.

use std::{fs::File, io::Write, path::Path, sync::Arc, time::Instant};

use lameduck::jobs::engine::{
    Engine,
    sqlite::{SqliteEngine, SqliteOptions},
};

use crate::load::{self, SPAN};

pub fn run() {
    let directory = crate::a_directory();
    let syncs = syncs_a_second(directory.path());
    println!("one write of 4 KiB and its fdatasync, one after the other: {syncs:.0} a second\n");
    println!("at once | submitted a second | × fsync | run to the end a second | × fsync");
    println!("------- | ------------------ | ------- | ----------------------- | -------");
    for at_once in [1, 20, 200] {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (submitted, ended) = runtime.block_on(rates(at_once));
        println!(
            "{at_once:>7} | {submitted:>18.0} | {:>7.1} | {ended:>23.0} | {:>7.1}",
            submitted / syncs,
            ended / syncs
        );
    }
}

async fn rates(at_once: usize) -> (f64, f64) {
    let directory = crate::a_directory();
    let engine = open(directory.path());
    let begin = Instant::now();
    let submitted = load::submit(&engine, at_once).await;
    let submitted = submitted as f64 / begin.elapsed().as_secs_f64();
    engine.close().await;

    let directory = crate::a_directory();
    let engine = open(directory.path());
    load::fill(&engine, 100_000).await;
    let begin = Instant::now();
    let ended = load::run_to_the_end(&engine, at_once).await;
    let ended = ended as f64 / begin.elapsed().as_secs_f64();
    engine.close().await;
    (submitted, ended)
}

fn syncs_a_second(directory: &Path) -> f64 {
    let mut file = File::create(directory.join("raw")).expect("a file");
    let page = [7; 4096];
    let (begin, mut syncs) = (Instant::now(), 0);
    while begin.elapsed() < SPAN {
        file.write_all(&page).expect("room on the disk");
        file.sync_data().expect("a sync");
        syncs += 1;
    }
    f64::from(syncs) / begin.elapsed().as_secs_f64()
}

fn open(directory: &Path) -> Arc<dyn Engine> {
    Arc::new(SqliteEngine::open(directory, SqliteOptions::default()).expect("a queue"))
}
