//! The progress of a drain, drawn on a terminal: how far it is, what it waits for, and since when.
//!
//! ```text
//! ⠹ draining  ████████████░░░░░░░░░░░░░░░░░░  12.1 s of 29.0 s (signal)
//!   2 requests on 3 connections, 4 jobs in flight; 12 jobs finished, 0 given back
//!   default 0198c0de-8f6a-7c31-9a53-0c2d6f5b1a07  1 min 41 s
//! ```
//!
//! The code here reads everything from the [`Drain`], which does not know that it is drawn.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lameduck::{
    Drain,
    lifecycle::{Held, Phase},
};

/// Interval between two drawings: redrawing has a cost on a slow line.
const EVERY: Duration = Duration::from_millis(250);

/// Shortest drain that is drawn: a shorter one is over before anybody has read a word.
const WORTH_IT: Duration = Duration::from_millis(300);

/// Maximum number of jobs that are named.
const OLDEST: usize = 5;

/// The drawn progress of a drain.
#[derive(Debug)]
pub struct Progress {
    drain: Drain,
    bar: ProgressBar,
    next: Instant,
    /// Whether something is on the screen.
    drawn: bool,
}

// === impl Progress ===

impl Progress {
    /// Creates a progress that is not drawn yet. Terminals that can't move their cursor (`TERM=dumb`) never show it.
    pub fn new(drain: Drain) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {prefix:<9} {bar:30} {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("█░"));
        }
        Self {
            drain,
            bar,
            next: Instant::now() + WORTH_IT,
            drawn: false,
        }
    }

    /// Returns the time until the next drawing is due.
    pub fn next(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Whether there is still something to show; otherwise the progress is cleared from the screen.
    pub fn goes_on(&self) -> bool {
        let goes_on = self.drain.phase() < Phase::Reporting;
        if !goes_on && self.drawn {
            self.bar.finish_and_clear();
        }
        goes_on
    }

    /// Writes something above the progress.
    pub fn above(&self, write: impl FnOnce()) {
        match self.drawn {
            true => self.bar.suspend(write),
            // `suspend` would draw it afterwards, although it has not been drawn yet.
            false => write(),
        }
    }

    /// Draws the current state, if it is time to.
    pub fn draw(&mut self) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + EVERY;
        let state = self.drain.state();
        let (Some(seconds), Some(left)) = (state.seconds, state.seconds_left) else {
            return;
        };
        self.bar.set_length(millis(seconds + left));
        self.bar.set_position(millis(seconds));
        self.bar.set_prefix(state.phase.as_str());
        let cause = state.cause.unwrap_or_default().known();
        let why = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        let mut text = format!(
            "{seconds:.1} s of {:.1} s{why}\n  {} requests on {} connections, {} jobs in flight; \
             {} jobs finished, {} given back",
            seconds + left,
            state.requests_in_flight,
            state.connections,
            state.jobs_in_flight,
            state.jobs_finished,
            state.jobs_released,
        );
        name(&mut text, &self.drain.held(OLDEST), state.jobs_in_flight);
        self.bar.set_message(text);
        self.bar.tick();
        self.drawn = true;
    }
}

fn millis(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX)
}

/// Appends the oldest jobs by name and age, and the number of the others.
fn name(text: &mut String, held: &[Held], jobs: usize) {
    let now = tokio::time::Instant::now();
    for job in held {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n  {} {}  {}",
            job.pool,
            job.id,
            readable(job.age(now))
        );
    }
    if held.len() < jobs && !held.is_empty() {
        let _ = write!(text, "\n  and {} more", jobs - held.len());
    }
}

/// Returns an age as people say it.
fn readable(age: Duration) -> String {
    let seconds = age.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lameduck::Lifecycle;

    #[test]
    fn an_age_is_said_in_two_numbers_at_most() {
        let say = |seconds| readable(Duration::from_secs(seconds));
        assert_eq!(say(41), "41 s");
        assert_eq!(say(101), "1 min 41 s");
        assert_eq!(say(3 * 3600 + 125), "3 h 2 min");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_jobs_are_named_and_the_others_counted() {
        let drain = Lifecycle::builder().drain().clone();
        let work = drain.work("resize");
        let mut jobs = Vec::new();
        for number in 0..7 {
            let mut job = work.hold();
            job.name(format!("job-{number}"));
            jobs.push(job);
            tokio::time::advance(Duration::from_secs(60)).await;
        }

        let mut text = String::new();
        name(&mut text, &drain.held(2), jobs.len());

        let expected = "\n  resize job-0  7 min 0 s\n  resize job-1  6 min 0 s\n  and 5 more";
        assert_eq!(text, expected);
    }
}
