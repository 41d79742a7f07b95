//! Child processes: who waits for them, who reaps what they leave behind, and why one can't be started.
//!
//! ```text
//!   spawn ─▶ Children: those that somebody waits for
//!               │
//!   SIGCHLD ─▶ reaper ─▶ zombies that nobody waits for: orphans, adopted by PID 1 or a subreaper ─▶ reaped
//! ```
//!
//! Reaping a child takes its exit status. So every child of the program is started by [`spawn`], or entered
//! into [`Children`], and the reaper takes only children that are not among them.

mod children;
mod end;
mod program;
mod reaper;
mod seen;

pub use self::{
    children::{Child, Children, Starting, look_at, spawn},
    end::EndWatch,
    program::{Defect, Known, Machine, Unfit, examine},
    reaper::{reap_leftovers_of_commands, reap_orphans},
    seen::Seen,
};
