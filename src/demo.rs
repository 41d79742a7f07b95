//! `lameduck demo`: a handler to try things out with, which needs nothing but this binary.

use std::{
    io::{Read, Write},
    process::ExitCode,
    time::Duration,
};

/// Maximum number of bytes that are read of the payload.
const LIMIT: u64 = 64 * 1024;

/// Reads the payload, sleeps for a while, and answers.
pub fn run(duration: Duration) -> ExitCode {
    let mut payload = String::new();
    let read = std::io::stdin().take(LIMIT).read_to_string(&mut payload);
    if let Err(error) = read {
        eprintln!("cannot read the payload as text: {error}");
        return ExitCode::FAILURE;
    }
    std::thread::sleep(duration);
    let attempt = std::env::var("LAMEDUCK_ATTEMPT").unwrap_or_default();
    let answer = format!("did '{}' in attempt {attempt}\n", payload.trim());
    match std::io::stdout().write_all(answer.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
