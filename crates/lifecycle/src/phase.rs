//! The phases of a process, and the moments inside a drain.

use std::fmt;

use serde::Serialize;

/// Where a process stands. It only moves forward; some phases may be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Not everything is bound yet; not ready.
    Starting,
    /// Taking requests and jobs.
    Serving,
    /// A drain has begun and somebody may still route here: everything is served, readiness fails, and
    /// once nobody routes here, clients are asked to leave. No job is reserved any more.
    LameDuck,
    /// Nobody is expected any more: running requests and jobs come to their end.
    Draining,
    /// The listener closes, then the hooks run in reverse order of registration.
    Teardown,
    /// What happened is told: ledger, log line, termination message.
    Reporting,
    /// Nothing is left but to exit.
    Stopped,
}

/// What the conductor announces to the rooms, each once. Named and idempotent; whoever waits for one that
/// has passed goes on at once.
///
/// ```text
///   T0            removed      settled            lame-duck share     soft          close     hard
///   │ Began          │ Removed     │ Leave              │ CloseIdle    │ Stop        │ Close   │ Cut
///   ├────────────────┼─────────────┼────────────────────┼──────────────┼─────────────┼─────────┤
///   │ served as ever │ settle,     │ answers say close, │ idle ones    │ handlers    │ no new  │
///   │ readiness fails│ half quiet  │ GOAWAY             │ are closed   │ told to end │ request │
/// ```
///
/// The upper line is the worst case. Whenever nothing is left to wait for, the next moment comes at once,
/// and [`Stop`](Moment::Stop) and [`Cut`](Moment::Cut) never come at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Moment {
    /// T0. No job is reserved from here on.
    Began,
    /// No endpoint of this process is routed to, as far as anybody can see; whoever comes now is late.
    Removed,
    /// Clients are asked to leave: their reconnection leads elsewhere now.
    Leave,
    /// Idle connections have had their chance to speak once more.
    CloseIdle,
    /// The soft deadline: handlers are told to come to an end.
    Stop,
    /// The listener's backlog is swept, then it closes.
    Close,
    /// The hard deadline: what is left is cut, jobs are given back.
    Cut,
    /// Whatever jobs this process still holds are given back by process id.
    GiveBack,
}

impl Moment {
    /// All of them, in the order of the worst case.
    pub const ALL: [Self; 8] = [
        Self::Began,
        Self::Removed,
        Self::Leave,
        Self::CloseIdle,
        Self::Stop,
        Self::Close,
        Self::Cut,
        Self::GiveBack,
    ];

    /// The word used in logs and by `/drain`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Removed => "removed",
            Self::Leave => "leave",
            Self::CloseIdle => "close_idle",
            Self::Stop => "stop",
            Self::Close => "close",
            Self::Cut => "cut",
            Self::GiveBack => "give_back",
        }
    }
}

// === impl Phase ===

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Serving,
        Self::LameDuck,
        Self::Draining,
        Self::Teardown,
        Self::Reporting,
        Self::Stopped,
    ];

    /// The word used in logs, metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Teardown => "teardown",
            Self::Reporting => "reporting",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
