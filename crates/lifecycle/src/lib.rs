//! The core: how a process ends without losing anything.
//!
//! ```text
//!        T0               endpoints gone         all gone and quiet            nothing left           reported
//!  serving │ lame_duck ─────────────┼─────────────────┤ draining ─────────────────┤ teardown ─┤ reporting ─┤ stopped
//!          │ everything is served,  │ answers say     │ requests and jobs come    │ listener  │ ledger,    │
//!          │ readiness fails,       │ close, GOAWAY   │ to their end; told so     │ closes,   │ log line,  │
//!          │ no job is reserved     │                 │ at the soft deadline      │ hooks run │ message    │
//! ```
//!
//! There are three parts, each in its own file:
//!
//! - the [`Conductor`](conductor::Conductor), a pure state machine: facts in, actions out, no I/O;
//! - the shell around it, which feeds it signals, timers and reports from the rooms, and carries out its
//!   actions;
//! - the [`Watchdog`](watchdog::Watchdog), a separate thread that ends the process at its deadline even
//!   if the other two can't.
//!
//! The rooms see only a [`Drain`] of all this: they wait for its [`Moment`]s, and count their load with its
//! guards. This crate knows nothing of HTTP, Kubernetes or jobs, and imports none of them.
//!
//! The test `second_seven_of_a_drain` in `tests/it/contract.rs` shows second by second what happens, and
//! cannot drift from the code.
//!
//! The [`Budget`] divides the time between SIGTERM and SIGKILL into instants; every wait of the
//! conductor ends at one of them at the latest.

mod budget;
mod builder;
pub mod conductor;
mod drain;
mod inflight;
mod log_throttle;
mod metrics;
mod observation;
mod phase;
mod readiness;
mod report;
mod report_file;
mod settings;
mod shell;
mod signals;
mod state;
mod timeline;
pub mod watchdog;

pub use self::metrics::LONGEST_RUN;
pub use self::{
    budget::{Budget, HURRY, later},
    builder::{BoxError, Deadline, Error, Lifecycle},
    conductor::RoutingEnd,
    drain::{Drain, Place},
    inflight::{
        ConnectionGuard, Ids, JobGuard, ListenerGuard, PoolGuard, RequestGuard, Traffic,
        TrafficTotals, Work,
    },
    log_throttle::LogThrottle,
    observation::{Cause, DeadlineSource, Endpoints, Kill, Load, Peers, Unobservable},
    phase::{Moment, Phase},
    readiness::{Check, CheckResult},
    report::{Connections, DrainReport, HookReport, Jobs, Outcome, Requests},
    report_file::{ReportFile, ReportFileError},
    settings::{DrainSettings, ReadinessPolicy},
    signals::{Signals, Trigger},
    state::{DrainState, Held},
};
