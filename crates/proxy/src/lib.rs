//! The drain in front of a program that knows nothing of it.
//!
//! ```text
//!   client ──▶ lameduck-http ──▶ Proxy ── Gate ──▶ Upstream ──▶ the program
//!                                          │                        ▲
//!                     closed in a drain, before anybody tells it ── Program: signals, deadline, exit status
//! ```
//!
//! **The program is told last.** It serves, unaware, until routing has ended and clients have left. Then the [`Gate`]
//! closes in one step: a request is either inside and runs to its end, or it is refused. Only when no request is
//! inside any more, or at the soft deadline, does the program get its stop signal, and the rest of the budget.
//!
//! **The proxy causes no errors of its own.** A request that must not be repeated goes on a connection that
//! was opened for it, because a kept one may be closing at that very instant. A request that the program may
//! have processed is never repeated (RFC 9110, section 9.2.2), and no body is held in memory as a whole.

mod body;
mod forward;
mod gate;
mod headers;
mod health;
mod metrics;
mod passed_on;
mod program;
mod signal;
mod terminal;
mod tunnel;
mod upstream;

pub use self::{
    forward::Proxy,
    gate::{Gate, Inside},
    health::{Health, watch_health},
    passed_on::pass_signals_on,
    program::{CannotStart, Ended, Program, Running, Tell, free_port},
    signal::{UnknownSignal, signal_of_name},
    upstream::{Address, InvalidAddress, Upstream},
};
