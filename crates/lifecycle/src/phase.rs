//! The phases of a process, and the moments inside a drain.

use std::fmt;

use serde::Serialize;

/// The phase of a process. It only moves forward; some phases may be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Not everything is bound yet; the process is not ready.
    Starting,
    /// The process takes requests and jobs.
    Serving,
    /// A drain has begun and somebody may still route here: everything is served, readiness fails, and
    /// once nobody routes here, clients are asked to leave. No more jobs are reserved.
    LameDuck,
    /// No more clients are expected: running requests and jobs come to their end.
    Draining,
    /// The listener closes, then the hooks run in reverse order of registration.
    Teardown,
    /// The outcome is reported: ledger, log line, termination message.
    Reporting,
    /// All that is left is to exit.
    Stopped,
}

/// A named, idempotent event that the conductor announces to the rooms once. Waiting for one that has passed
/// returns at once.
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
    /// T0. No job is reserved after it.
    Began,
    /// As far as anybody can see, no endpoint of this process is routed to; connections that come now are late.
    Removed,
    /// Clients are asked to leave: when they reconnect, they reach another process.
    Leave,
    /// Idle connections are closed: they have had the chance to send one more request.
    CloseIdle,
    /// The soft deadline: handlers are told to end.
    Stop,
    /// The listener's backlog is swept, then it closes.
    Close,
    /// The hard deadline: everything that is left is cut, and jobs are given back.
    Cut,
    /// Jobs that this process still holds are given back by process id.
    GiveBack,
}

impl Moment {
    /// All moments, in the order of the worst case.
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

    /// Returns the word used in logs and by `/drain`.
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
    /// All phases, in order.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Serving,
        Self::LameDuck,
        Self::Draining,
        Self::Teardown,
        Self::Reporting,
        Self::Stopped,
    ];

    /// Returns the word used in logs, metrics and reports.
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
