//! The queue's time: it passes as fast as real time does, even if somebody changes the machine's clock.
//!
//! ```text
//!   machine's clock   ──12:00──12:01──┤ put back by an hour ├──11:01──11:02──▶
//!   queue's time      ──12:00──12:01──────────────────────────12:01──12:02──▶   what waits for 2 minutes waits for 2 minutes
//!   shift             ──────0─────────────────────────────────−1 h───────────▶   what people see: queue's time and shift
//! ```
//!
//! Instants are stored in the queue's time. As long as nobody has set the clock the two are the same. When it is set, the
//! queue's time goes on, and the shift between the two changes:
//!
//! - A wait for a span of time (a delay, a backoff, the outcome of a deferred job, a retention of an hour)
//!   takes just that span.
//! - A job that waits for an instant that its submitter named (`run_at`) follows the machine's clock: [`follow`].
//! - Every instant is shown by the machine's clock as it goes now, earlier ones included.
//!
//! A second clock, which counts from the machine's boot and can't be set, shows that the first one was set. It also
//! spans the time between two processes on one boot. From one boot to the next nobody can tell a clock that was put
//! forward from time that has passed; one that was put back is noticed, and the queue's time goes on from where it was.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{convert::micros, writer::Turn};
use lameduck_jobs::{
    bounds::INSTANTS,
    engine::{Clock, Details, Glance},
    job::{JobRecord, Run, When},
    ledger::DrainRow,
};

/// Returns how long the machine has been running, including time in which it slept. Nobody can set it.
pub type Uptime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The machine's clock, which somebody may set.
pub(super) static MACHINE: LazyLock<Clock> = LazyLock::new(|| Arc::new(Timestamp::now));

/// Minimum jump that counts as setting the clock, in microseconds. Smaller corrections slow the clock down or
/// speed it up, and the uptime with it.
const STEP: i64 = 100_000;

/// Minimum jump that is logged, in microseconds.
const TOLD: i64 = 1_000_000;

/// Maximum time between reading the two clocks, in microseconds; otherwise they are read again: a process
/// that was stopped between them has seen no jump.
const AT_ONCE: i64 = 10_000;

/// Maximum number of attempts to read both at once.
const READS: usize = 5;

const LATEST: &str = "
    SELECT max(coalesce((SELECT at FROM clock), 0),
               coalesce((SELECT submitted_at FROM jobs ORDER BY seq DESC LIMIT 1), 0),
               coalesce((SELECT max(opened_at, coalesce(closed_at, 0)) FROM processes ORDER BY seq DESC LIMIT 1), 0))";

const KNOWN: &str = "SELECT at, boot_id, uptime, shift FROM clock";

const KEEP: &str = "
    INSERT INTO clock (one, at, boot_id, uptime, shift) VALUES (1, ?1, ?2, ?3, ?4)
    ON CONFLICT (one) DO UPDATE
    SET at = excluded.at, boot_id = excluded.boot_id, uptime = excluded.uptime, shift = excluded.shift";

const SHIFT: &str = "SELECT shift FROM clock";

pub(super) const FOLLOW: &str = "
    UPDATE jobs SET run_at = max(?2, min(?3, run_at - ?1)) WHERE state = 0 AND by_clock";

/// The queue's clock.
pub(super) struct QueueTime {
    clock: Clock,
    uptime: Option<Uptime>,
    boot_id: Option<String>,
    seen: Mutex<Seen>,
}

/// The latest look at the clocks, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: i64,
    uptime: Option<i64>,
    shift: Shift,
}

/// The time by which the machine's clock is ahead of the queue's time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shift(i64);

/// The time and the shift that an earlier process stored.
struct Known {
    at: i64,
    boot_id: Option<String>,
    uptime: Option<i64>,
    shift: i64,
}

/// Returns the uptime of this machine, if it is known.
pub(super) fn machine_uptime() -> Option<Uptime> {
    #[cfg(target_os = "linux")]
    return Some(Arc::new(|| {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(since_boot.tv_nsec).unwrap_or(0))
    }));
    #[cfg(not(target_os = "linux"))]
    None
}

// === impl QueueTime ===

impl QueueTime {
    /// Continues the queue's time from where it was, and stores where that is. From here on, jobs that follow
    /// the machine's clock do so.
    pub fn open(
        connection: &Connection,
        clock: Clock,
        uptime: Option<Uptime>,
        boot_id: Option<String>,
    ) -> Result<Self> {
        let known = connection.query_row(KNOWN, [], |r| {
            Ok(Known {
                at: r.get(0)?,
                boot_id: r.get(1)?,
                uptime: r.get(2)?,
                shift: r.get(3)?,
            })
        });
        let known = known.optional()?;
        let latest: i64 = connection.query_row(LATEST, [], |r| r.get(0))?;
        let (wall, since_boot, _) = read(&clock, uptime.as_ref());
        let shift = known.as_ref().map_or(0, |known| known.shift);
        let passed = known.and_then(|known| known.passed(boot_id.as_deref(), since_boot));
        // Never back: a job that could run before can still run.
        let at = passed.unwrap_or(wall.saturating_sub(shift)).max(latest);
        let at = at.clamp(*INSTANTS.start(), *INSTANTS.end());
        let jump = wall.saturating_sub(at).saturating_sub(shift);
        tell(jump);
        let seen = Seen {
            at,
            uptime: since_boot,
            shift: Shift(if jump.abs() < STEP {
                shift
            } else {
                shift + jump
            }),
        };
        let time = Self {
            clock,
            uptime,
            boot_id,
            seen: Mutex::new(seen),
        };
        follow(connection, &time)?;
        time.keep(connection)?;
        Ok(time)
    }

    /// Returns the queue's time, and its offset from the machine's clock.
    pub fn now(&self) -> (Timestamp, Shift) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, since_boot, at_once) = read(&self.clock, self.uptime.as_ref());
        seen.at = match (seen.uptime, since_boot) {
            (Some(before), Some(now)) => seen.at.saturating_add((now - before).max(0)),
            // Without an uptime, a clock that goes back was set, and one that goes on was not.
            _ => seen.at.max(wall.saturating_sub(seen.shift.0)),
        };
        seen.uptime = since_boot;
        let jump = wall.saturating_sub(seen.at).saturating_sub(seen.shift.0);
        if at_once && jump.abs() >= STEP {
            tell(jump);
            seen.shift.0 += jump;
        }
        (instant(seen.at), seen.shift)
    }

    /// Returns how far the machine's clock is ahead.
    pub fn shift(&self) -> Shift {
        self.now().1
    }

    /// Returns the queue's time as a clock.
    pub fn as_clock(self: &Arc<Self>) -> Clock {
        let time = self.clone();
        Arc::new(move || time.now().0)
    }

    fn keep(&self, connection: &Connection) -> Result<()> {
        let Seen { at, uptime, shift } = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = params![at, self.boot_id, uptime, shift.0];
        connection.prepare_cached(KEEP)?.execute(kept).map(drop)
    }
}

impl Known {
    /// Returns the queue's time now, if it is still the same boot of the machine.
    fn passed(&self, boot_id: Option<&str>, since_boot: Option<i64>) -> Option<i64> {
        let same = boot_id.is_some() && self.boot_id.as_deref() == boot_id;
        let passed = since_boot?.checked_sub(self.uptime?)?;
        (same && passed >= 0).then(|| self.at.saturating_add(passed))
    }
}

/// Moves jobs that wait for an instant of the machine's clock along with it, if it was set since the last
/// time. For every command that reserves or stores jobs.
pub(super) fn catch_up(turn: &Turn<'_>, time: &QueueTime) -> Result<Shift> {
    if follow(turn.connection, time)? {
        time.keep(turn.connection)?;
    }
    Ok(time.shift())
}

fn follow(connection: &Connection, time: &QueueTime) -> Result<bool> {
    let seen = *time.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let known = connection
        .prepare_cached(SHIFT)?
        .query_row([], |r| r.get::<_, i64>(0));
    let jump = seen.shift.0 - known.optional()?.unwrap_or(0);
    if jump == 0 {
        return Ok(false);
    }
    let moved = params![jump, seen.at, INSTANTS.end()];
    connection.prepare_cached(FOLLOW)?.execute(moved)?;
    Ok(true)
}

/// Reads both clocks in microseconds; returns whether they were read at once.
fn read(clock: &Clock, uptime: Option<&Uptime>) -> (i64, Option<i64>, bool) {
    let Some(uptime) = uptime else {
        return (micros(clock()), None, true);
    };
    let since_boot = || i64::try_from(uptime().as_micros()).unwrap_or(i64::MAX);
    let mut before = since_boot();
    for _ in 0..READS {
        let wall = micros(clock());
        let after = since_boot();
        if after - before <= AT_ONCE {
            return (wall, Some(after), true);
        }
        before = after;
    }
    (micros(clock()), Some(before), false)
}

fn tell(jump: i64) {
    if jump.abs() < TOLD {
        return;
    }
    let by = SignedDuration::from_micros(jump.abs()).as_secs_f64();
    let how = if jump > 0 { "forward" } else { "back" };
    tracing::warn!(
        "the machine's clock was set {how} by {by:.1} s; what waits for a span of time waits for just that, and what \
         has a run_at follows the clock"
    );
}

fn instant(micros: i64) -> Timestamp {
    let within = micros.clamp(*INSTANTS.start(), *INSTANTS.end());
    Timestamp::from_microsecond(within).unwrap_or(Timestamp::UNIX_EPOCH)
}

// === impl Shift ===

impl Shift {
    /// Returns the shift that was last stored; zero in a database of an older version.
    pub fn of(connection: &Connection) -> Self {
        let shift = connection.query_row(SHIFT, [], |r| r.get(0));
        Self(shift.unwrap_or(0))
    }

    /// Returns an instant of the queue's time as people see it.
    pub fn shown(self, at: Timestamp) -> Timestamp {
        if self.0 == 0 {
            return at;
        }
        instant(micros(at).saturating_add(self.0))
    }

    /// Converts an instant to the queue's time, given that it is `now` in the queue's time.
    pub fn when(self, when: When, now: Timestamp) -> Timestamp {
        let at = match when {
            When::After(_) => when.instant(now),
            When::At(at) if self.0 == 0 => at,
            When::At(at) => return instant(micros(at).saturating_sub(self.0)),
        };
        instant(micros(at))
    }

    /// Returns a job as people see it.
    pub fn job(self, mut job: JobRecord) -> JobRecord {
        job.submitted_at = self.shown(job.submitted_at);
        job.run_at = self.shown(job.run_at);
        job.ended_at = job.ended_at.map(|at| self.shown(at));
        job
    }

    /// Returns a run as people see it.
    pub fn run(self, mut run: Run) -> Run {
        run.started_at = self.shown(run.started_at);
        run.ended_at = self.shown(run.ended_at);
        run
    }

    /// Returns a job and its history as people see them.
    pub fn details(self, details: Details) -> Details {
        let runs = details.runs.into_iter();
        Details {
            record: self.job(details.record),
            runs: runs.map(|run| self.run(run)).collect(),
            read_at: self.shown(details.read_at),
        }
    }

    /// Returns the summary of a job as people see it.
    pub fn glance(self, mut job: Glance) -> Glance {
        job.run_at = self.shown(job.run_at);
        job.ended_at = job.ended_at.map(|at| self.shown(at));
        job
    }

    /// Returns a row of the ledger as people see it.
    pub fn drain(self, mut row: DrainRow) -> DrainRow {
        row.started_at = self.shown(row.started_at);
        row.began_at = row.began_at.map(|at| self.shown(at));
        row.ended_at = row.ended_at.map(|at| self.shown(at));
        row
    }
}
