//! The runtime of a command that asks something and ends; `serve` has a larger one.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// One thread: the caller's own.
pub fn of_one_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
