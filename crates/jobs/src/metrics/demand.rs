//! Calculates whether a queue has enough workers: capacity is arithmetic.
//!
//! ```text
//!   20 jobs/s   ×   3 s   =   60 workers busy, and not 20
//!   arriving        each      needed
//! ```
//!
//! If there are too few workers, their own rate does not show it: they reserve 6.7 jobs a second and are all busy,
//! and the rest waits. The arrivals are therefore the reserved jobs *plus* the growth of the backlog: 6.7 + 13.3. All
//! jobs that became runnable count, including retries and jobs given back: they need a worker as well.
//!
//! The time that each job keeps its worker is the mean of the jobs that ended in the window. As long as none has, it
//! is the last known mean, and at least the time that the workers have spent on each of their jobs up to now.
//!
//! Several processes may share a queue. Each takes the same share of the backlog's growth as it has of the queue's
//! running jobs, so that the sum over them is right.

use std::{collections::VecDeque, fmt, time::Duration};

use tokio::time::Instant;

/// Number of samples in a window.
const LOOKS: u32 = 60;

/// The part of the window for which there must have been too few workers, as a divisor: one minute of five.
const SUSTAINED: u32 = 5;

/// Number of windows after which the warning is repeated: ten minutes for a window of five.
const AGAIN: u32 = 2;

/// The work that the workers of one queue have done so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    epoch: Instant,
    reserved: u64,
    ended: u64,
    ended_seconds: f64,
    running: u64,
    /// The sum of the start times of the running jobs, so that their ages are known without a list.
    began_seconds: f64,
}

/// A tally and the growth of the backlog at one instant. All figures count from the start.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    reserved: u64,
    ended: u64,
    ended_seconds: f64,
    busy_seconds: f64,
    running: u64,
    grown: f64,
}

/// The demand for one queue's workers, over a sliding window.
#[derive(Debug)]
pub(super) struct Demand {
    window: Duration,
    samples: VecDeque<Sample>,
    /// Number of pending jobs at the last sample.
    pending: Option<u64>,
    /// The mean duration in the last window in which any job ended.
    known_each: f64,
    /// The instant since which every sample has shown too few workers.
    short_since: Option<Instant>,
    told: Option<Instant>,
}

/// The arithmetic, in the figures that are shown to people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arithmetic {
    /// Jobs that became runnable, per second.
    pub(super) arriving: f64,
    /// Seconds that each job keeps its worker.
    pub(super) each: f64,
    /// Jobs by which the backlog grows, per second.
    pub(super) growing: f64,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            reserved: 0,
            ended: 0,
            ended_seconds: 0.0,
            running: 0,
            began_seconds: 0.0,
        }
    }

    /// Records that a worker has got a job.
    pub(super) fn begin(&mut self, now: Instant) {
        self.reserved += 1;
        self.running += 1;
        self.began_seconds += self.seconds(now);
    }

    /// Records that the worker that got its job at `began` is free again.
    pub(super) fn end(&mut self, began: Instant, now: Instant) {
        self.ended += 1;
        self.running -= 1;
        self.began_seconds -= self.seconds(began);
        self.ended_seconds += self.seconds(now) - self.seconds(began);
    }

    pub(super) fn running(&self) -> u64 {
        self.running
    }

    /// The time that all workers together have spent on jobs.
    fn busy_seconds(&self, now: Instant) -> f64 {
        self.ended_seconds + number(self.running) * self.seconds(now) - self.began_seconds
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }
}

// === impl Demand ===

impl Demand {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            samples: VecDeque::new(),
            pending: None,
            known_each: 0.0,
            short_since: None,
            told: None,
        }
    }

    /// Interval between two samples.
    pub(super) fn every(&self) -> Duration {
        (self.window / LOOKS).max(Duration::from_millis(10))
    }

    /// Takes a sample: the work done so far, the number of pending jobs, and this process's share of the running jobs.
    pub(super) fn look(&mut self, now: Instant, tally: &Tally, pending: u64, share: f64) {
        let grown = self.samples.back().map_or(0.0, |last| last.grown);
        // Jobs that had piled up before the first sample have not arrived since.
        let before = self.pending.replace(pending).unwrap_or(pending);
        self.samples.push_back(Sample {
            at: now,
            reserved: tally.reserved,
            ended: tally.ended,
            ended_seconds: tally.ended_seconds,
            busy_seconds: tally.busy_seconds(now),
            running: tally.running,
            grown: grown + share * (number(pending) - number(before)),
        });
        while self.samples.len() > 2 && now - self.samples[1].at >= self.window {
            self.samples.pop_front();
        }
        if let Some((first, last)) = self.ends(self.window)
            && last.ended > first.ended
        {
            let ended = number(last.ended - first.ended);
            self.known_each = (last.ended_seconds - first.ended_seconds) / ended;
        }
    }

    /// The arithmetic over the window; `None` before the second sample.
    pub(super) fn arithmetic(&self) -> Option<Arithmetic> {
        let (first, last) = self.ends(self.window)?;
        Some(self.between(first, last))
    }

    /// The arithmetic, if it calls for a warning. A burst of jobs does not: for the sustained time every sample must
    /// have shown too few workers, both for the latest arrivals and over the window. The warning is given once, and
    /// again if there were enough workers in between or a while has passed.
    pub(super) fn complaint(&mut self, workers: usize) -> Option<Arithmetic> {
        let now = self.samples.back()?.at;
        let whole = self.arithmetic()?;
        let sustained = self.window / SUSTAINED;
        let (first, last) = self.ends(sustained)?;
        let of_late = self.between(first, last);
        if whole.is_enough(workers) {
            self.told = None;
        }
        if whole.is_enough(workers) || of_late.is_enough(workers) {
            self.short_since = None;
            return None;
        }
        let since = *self.short_since.get_or_insert(now);
        let recently = |told: Instant| now - told < self.window.saturating_mul(AGAIN);
        if now - since < sustained || self.told.is_some_and(recently) {
            return None;
        }
        self.told = Some(now);
        Some(whole)
    }

    /// Returns the one that lies this long before the latest sample, or else the oldest, and the latest sample.
    fn ends(&self, window: Duration) -> Option<(&Sample, &Sample)> {
        let last = self.samples.back()?;
        let mut earlier = self.samples.iter().rev().skip(1);
        let first = earlier
            .find(|sample| last.at - sample.at >= window)
            .or(self.samples.front())?;
        (last.at > first.at).then_some((first, last))
    }

    fn between(&self, first: &Sample, last: &Sample) -> Arithmetic {
        let seconds = (last.at - first.at).as_secs_f64();
        let grown = last.grown - first.grown;
        let arrived = number(last.reserved - first.reserved) + grown;
        let worked_on = last.ended - first.ended + last.running;
        let at_least = match worked_on {
            0 => 0.0,
            jobs => (last.busy_seconds - first.busy_seconds) / number(jobs),
        };
        Arithmetic {
            arriving: (arrived / seconds).max(0.0),
            each: self.known_each.max(at_least),
            growing: grown / seconds,
        }
    }
}

// === impl Arithmetic ===

impl Arithmetic {
    /// Number of workers that would be busy on average if there were enough of them.
    pub(super) fn needed(&self) -> f64 {
        self.arriving * self.each
    }

    /// Whether this many workers are enough, in whole workers, as the warning shows them.
    fn is_enough(&self, workers: usize) -> bool {
        self.needed().round() <= number(workers as u64)
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arriving, each, .. } = self;
        let digits = |number: f64| if number < 0.95 { 3 } else { 1 };
        write!(
            f,
            "{arriving:.*} jobs/s × {each:.*} s = {:.0} busy workers",
            digits(*arriving),
            digits(*each),
            self.needed()
        )
    }
}

/// Converts a count; exact up to 2⁵³.
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    /// A queue and its workers under simulated time, sampled as often as in the program.
    struct Simulation {
        start: Instant,
        now: Instant,
        tally: Tally,
        demand: Demand,
        workers: usize,
        /// The start and end of each running job.
        running: Vec<(Instant, Instant)>,
        pending: u64,
        /// The fraction of the next job that is due but has not arrived yet.
        due: f64,
    }

    impl Simulation {
        fn new(workers: usize) -> Self {
            let start = Instant::now();
            Self {
                start,
                now: start,
                tally: Tally::new(start),
                demand: Demand::new(WINDOW),
                workers,
                running: Vec::new(),
                pending: 0,
                due: 0.0,
            }
        }

        /// Lets `rate` jobs a second arrive for this time, each of which takes `each`. Returns the warnings, and the
        /// time after which each was given.
        fn run(
            &mut self,
            time: Duration,
            rate: f64,
            each: Duration,
        ) -> Vec<(Duration, Arithmetic)> {
            let step = Duration::from_millis(50);
            let end = self.now + time;
            let mut complaints = Vec::new();
            while self.now < end {
                self.now += step;
                self.due += rate * step.as_secs_f64();
                self.pending += self.due as u64;
                self.due = self.due.fract();
                self.work(each);
                let since = self.now - self.start;
                if since
                    .as_millis()
                    .is_multiple_of(self.demand.every().as_millis())
                {
                    let (tally, pending) = (&self.tally, self.pending);
                    self.demand.look(self.now, tally, pending, 1.0);
                    let complaint = self.demand.complaint(self.workers);
                    complaints.extend(complaint.map(|complaint| (since, complaint)));
                }
            }
            complaints
        }

        fn work(&mut self, each: Duration) {
            let (now, tally) = (self.now, &mut self.tally);
            self.running.retain(|(began, end)| {
                if *end <= now {
                    tally.end(*began, *end);
                }
                *end > now
            });
            while self.running.len() < self.workers && self.pending > 0 {
                self.pending -= 1;
                tally.begin(now);
                self.running.push((now, now + each));
            }
        }

        fn needed(&self) -> f64 {
            self.demand.arithmetic().unwrap().needed()
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn twenty_jobs_a_second_of_three_seconds_need_sixty_workers_though_there_are_twenty() {
        let mut queue = Simulation::new(20);

        let complaints = queue.run(seconds(300), 20.0, seconds(3));

        let [(after, told)] = complaints[..] else {
            panic!("it should have been told once: {complaints:?}");
        };
        assert!((seconds(60)..seconds(75)).contains(&after), "{after:?}");
        assert_eq!(told.to_string(), "20.0 jobs/s × 3.0 s = 60 busy workers");
        assert!((told.growing - 13.3).abs() < 0.5, "{told:?}");
        assert!((queue.needed() - 60.0).abs() < 1.0, "{}", queue.needed());
    }

    #[test]
    fn it_is_told_again_after_ten_minutes_and_when_it_has_been_enough_in_between() {
        let mut queue = Simulation::new(20);
        let first = queue.run(seconds(1_300), 20.0, seconds(3));
        let told: Vec<u64> = first
            .iter()
            .map(|(after, _)| after.as_secs() / 60)
            .collect();
        assert_eq!(told, [1, 11, 21], "in minutes");

        let while_enough = queue.run(seconds(600), 1.0, seconds(3));
        assert!(while_enough.is_empty(), "{while_enough:?}");

        assert_eq!(queue.run(seconds(300), 20.0, seconds(3)).len(), 1);
    }

    #[test]
    fn a_heap_that_is_being_worked_off_is_no_want_of_workers() {
        let mut queue = Simulation::new(20);
        queue.pending = 100_000;

        let complaints = queue.run(seconds(900), 2.0, seconds(3));

        assert!(complaints.is_empty(), "{complaints:?}");
        assert!((queue.needed() - 6.0).abs() < 0.5, "{}", queue.needed());
    }

    #[test]
    fn a_heap_that_comes_at_once_and_then_shrinks_is_not_complained_of() {
        let mut queue = Simulation::new(20);
        queue.run(seconds(300), 1.0, seconds(3));
        queue.pending += 3_000;

        let complaints = queue.run(seconds(900), 1.0, seconds(3));

        assert!(complaints.is_empty(), "{complaints:?}");
    }

    #[test]
    fn jobs_longer_than_the_window_are_needed_for_before_the_first_has_ended() {
        let mut queue = Simulation::new(100);

        queue.run(seconds(600), 0.1, seconds(3_600));

        // 60 jobs run, for 300 s each up to now; nobody can know how long they will take.
        assert!(queue.needed() > 20.0, "{}", queue.needed());
        assert!(queue.needed() < 360.0, "{}", queue.needed());
    }

    #[test]
    fn a_quiet_queue_needs_nobody() {
        let mut queue = Simulation::new(20);
        assert_eq!(queue.demand.arithmetic(), None, "nobody has looked");

        let complaints = queue.run(seconds(600), 0.0, seconds(3));

        assert!(complaints.is_empty());
        assert_eq!(queue.needed(), 0.0);
    }

    #[test]
    fn two_processes_share_the_growth_of_their_backlog() {
        let start = Instant::now();
        let half = |demand: &mut Demand| {
            let mut tally = Tally::new(start);
            for second in 0..=300 {
                let now = start + seconds(second);
                demand.look(now, &tally, second * 10, 0.5);
                tally.begin(now);
                tally.end(now, now + seconds(1));
            }
        };
        let mut demand = Demand::new(WINDOW);
        half(&mut demand);

        // Each reserves one a second, and ten more wait: twelve in all.
        let needed = demand.arithmetic().unwrap().needed();
        assert!((needed - 6.0).abs() < 0.1, "{needed}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn for_constant_arrival_it_comes_to_rate_times_duration_however_many_workers_there_are(
            rate in 0.2f64..40.0, millis in 100u64..30_000, workers in 1usize..200,
        ) {
            let each = Duration::from_millis(millis);
            let mut queue = Simulation::new(workers);
            queue.run(seconds(700), rate, each);
            let right = rate * each.as_secs_f64();
            let off = (queue.needed() - right).abs();
            // Allows for one job more or less at the window's ends, and for a step of the simulation.
            let slack = 0.05 * right + 2.0 * each.as_secs_f64() / WINDOW.as_secs_f64() + 0.05 * rate;
            prop_assert!(off <= slack, "{} instead of {right}", queue.needed());
        }
    }
}
