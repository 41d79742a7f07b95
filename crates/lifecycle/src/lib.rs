//! The heart: how a process ends without losing anything.
//!
//! ```text
//!        T0               endpoints gone         all gone and quiet            nothing left           reported
//!  serving │ lame_duck ─────────────┼─────────────────┤ draining ─────────────────┤ teardown ─┤ reporting ─┤ stopped
//!          │ everything is served,  │ answers say     │ requests and jobs come    │ listener  │ ledger,    │
//!          │ readiness fails,       │ close, GOAWAY   │ to their end; told so     │ closes,   │ log line,  │
//!          │ no job is reserved     │                 │ at the soft deadline      │ hooks run │ message    │
//! ```
//!
//! Three parts, each in a file:
//!
//! - the [`Conductor`](conductor::Conductor), a pure state machine: facts in, actions out, no I/O;
//! - the shell around it, which feeds it with signals, timers and what rooms report, and carries out what
//!   it says;
//! - the [`Watchdog`](watchdog::Watchdog), a thread of its own that ends the process at its deadline even
//!   where the other two can't.
//!
//! What the rooms see of all this is a [`Drain`]: they wait for its [`Moment`]s, and they count what they
//! carry with its guards. This module knows no HTTP, no Kubernetes and no jobs, and imports none of them.
//!
//! What happens when, second by second, is told by the test `second_seven_of_a_drain` in
//! `tests/it/contract.rs`, which the compiler keeps true.
//!
//! The time between SIGTERM and SIGKILL is cut into instants by the [`Budget`]; every wait of the
//! conductor ends, at the latest, at one of them.

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
