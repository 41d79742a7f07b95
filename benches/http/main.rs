//! What our own accept loop costs, and what a drain of many connections takes.
//!
//! ```sh
//! cargo bench --bench http                    # all of it, some minutes
//! cargo bench --bench http -- instructions    # needs valgrind: exact, whatever else the machine does
//! cargo bench --bench http -- throughput      # requests a second, as ratios of one run
//! cargo bench --bench http -- crowd           # 10,000 idle connections and 1,000 requests, drained
//! ```
//!
//! The servers are processes of their own: this binary again, told to serve.

mod client;
mod crowd;
mod instructions;
mod server;
mod throughput;

use server::Kind;

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", kind, threads] => {
            server::serve(Kind::parse(kind), threads.parse().expect("a number"))
        }
        ["instructions"] => instructions::run(),
        ["throughput"] => throughput::run(),
        ["crowd"] => crowd::run(),
        [] => {
            instructions::run();
            throughput::run();
            crowd::run();
        }
        _ => panic!("there are: instructions, throughput, crowd"),
    }
}
