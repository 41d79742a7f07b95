//! The runtime of commands that ask something and end; `serve` has a multi-threaded one.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// Creates a runtime that uses the caller's own thread only.
pub fn of_one_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
