//! What the queue does in a second, beside what its disk can sync, and how long an idle process takes to go.
//!
//! ```sh
//! cargo bench --bench jobs               # all of it, about three minutes
//! cargo bench --bench jobs -- queue      # submit, and run to the end, by 1, 20 and 200 at once
//! cargo bench --bench jobs -- postgres   # the same on PostgreSQL, by 1 to 8 processes, beside pgbench
//! cargo bench --bench jobs -- bloat      # what churn leaves in PostgreSQL, vacuumed and not
//! cargo bench --bench jobs -- exit       # start to serving, and SIGTERM to exit, with nothing to do
//! ```
//!
//! The data is in `target/`; `LAMEDUCK_BENCH_DIR` names another disk.

mod bloat;
mod exit;
mod load;
mod postgres;
#[allow(dead_code)]
#[path = "../../tests/it/postgres_server.rs"]
mod postgres_server;
mod queue;

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["queue"] => queue::run(),
        ["postgres"] => postgres::run(),
        ["bloat"] => bloat::run(),
        ["process", url, what] => postgres::process(url, what),
        ["exit"] => exit::run(),
        [] => {
            queue::run();
            postgres::run();
            exit::run();
        }
        _ => panic!("there are: queue, postgres, bloat, exit"),
    }
}

/// A directory on the disk that is measured.
fn a_directory() -> tempfile::TempDir {
    let parent = std::env::var_os("LAMEDUCK_BENCH_DIR").unwrap_or_else(|| "target".into());
    tempfile::tempdir_in(parent).expect("a directory to write to")
}
