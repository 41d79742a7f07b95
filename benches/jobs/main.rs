//! What the queue does in a second, beside what its disk can sync, and how long an idle process takes to go.
//!
//! ```sh
//! cargo bench --bench jobs               # all of it, about a minute
//! cargo bench --bench jobs -- queue      # submit, and run to the end, by 1, 20 and 200 at once
//! cargo bench --bench jobs -- exit       # SIGTERM to exit, of a process that has nothing to do
//! ```
//!
//! The data is in `target/`; `LAMEDUCK_BENCH_DIR` names another disk.

mod exit;
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
        ["exit"] => exit::run(),
        [] => {
            queue::run();
            exit::run();
        }
        _ => panic!("there are: queue, exit"),
    }
}

/// A directory on the disk that is measured.
fn a_directory() -> tempfile::TempDir {
    let parent = std::env::var_os("LAMEDUCK_BENCH_DIR").unwrap_or_else(|| "target".into());
    tempfile::tempdir_in(parent).expect("a directory to write to")
}
