//! Detects dead processes: those that have been seen not to move for their whole lease.
//!
//! ```text
//!   looks:   ●────●────●────●────●────●────●────●───▶      ● answered, × not
//!   beat:    7    8    8    8    8    8    8    8          lease over: 8 was seen all that while
//!   looks:   ●────●────●────×────×────●────●────●───▶
//!   beat:    7    8    8              8    8    9          an outage: all begin anew, nobody is taken for dead
//! ```
//!
//! It goes by this process's own monotonic clock, and only while the database answers: after an outage the
//! living need a moment to show that they live. There is no I/O and no clock in here, so that tests can play
//! any history.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use lameduck_jobs::job::ProcessId;

/// The other processes as they were last seen.
#[derive(Debug)]
pub(super) struct Watch {
    seen: HashMap<ProcessId, Seen>,
    last: Option<Instant>,
    /// The longest time between two looks; after a longer one the database may have been away unnoticed.
    longest_gap: Duration,
}

#[derive(Debug)]
struct Seen {
    beat: i64,
    since: Instant,
    lease: Duration,
}

/// One living process, as a look finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub process: ProcessId,
    pub beat: i64,
    pub lease: Duration,
}

/// A process that has not moved for its whole lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoodStill {
    pub process: ProcessId,
    pub beat: i64,
}

// === impl Watch ===

impl Watch {
    /// Returns a watch that has seen nobody yet.
    pub fn new(longest_gap: Duration) -> Self {
        Self {
            seen: HashMap::new(),
            last: None,
            longest_gap,
        }
    }

    /// Records a look that was asked for and answered at these instants. Returns the dead processes.
    pub fn look(&mut self, asked: Instant, answered: Instant, beats: &[Beat]) -> Vec<StoodStill> {
        let gap = self
            .last
            .map(|last| answered.saturating_duration_since(last));
        if gap.is_none_or(|gap| gap > self.longest_gap) {
            self.seen.clear();
        }
        self.last = Some(answered);
        let mut before = std::mem::take(&mut self.seen);
        let mut dead = Vec::new();
        for found in beats {
            let seen = before
                .remove(&found.process)
                .filter(|seen| seen.beat == found.beat)
                .unwrap_or(Seen {
                    beat: found.beat,
                    since: answered,
                    lease: found.lease,
                });
            // A beat seen now was current at the latest when the question was asked.
            if asked.saturating_duration_since(seen.since) >= seen.lease {
                dead.push(StoodStill {
                    process: found.process,
                    beat: found.beat,
                });
            }
            self.seen.insert(found.process, seen);
        }
        dead
    }

    /// Records a look that was not answered: a process that did not move since the last one may have been unable to.
    pub fn failed(&mut self) {
        self.seen.clear();
        self.last = None;
    }

    /// Returns when the next lease is over if nothing moves.
    pub fn next(&self) -> Option<Instant> {
        let over = |seen: &Seen| seen.since.checked_add(seen.lease);
        self.seen.values().filter_map(over).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    struct Story {
        watch: Watch,
        now: Instant,
        other: ProcessId,
    }

    impl Story {
        fn begin() -> Self {
            Self {
                watch: Watch::new(LEASE / 2),
                now: Instant::now(),
                other: ProcessId::random(),
            }
        }

        fn look(&mut self, beat: i64) -> bool {
            let found = Beat {
                process: self.other,
                beat,
                lease: LEASE,
            };
            let dead = self.watch.look(self.now, self.now, &[found]);
            self.now += SECOND;
            !dead.is_empty()
        }
    }

    #[test]
    fn who_stands_still_for_its_whole_lease_is_dead() {
        let mut story = Story::begin();
        assert!(!story.look(7));
        for second in 0..10 {
            assert!(!story.look(8), "after {second} s");
        }
        assert!(story.look(8));
        assert!(story.look(8), "and stays so until somebody has reaped it");
    }

    #[test]
    fn who_moves_lives() {
        let mut story = Story::begin();
        for beat in 0..100 {
            assert!(!story.look(beat / 9));
        }
    }

    #[test]
    fn an_outage_is_no_reason_to_call_anybody_dead() {
        let mut story = Story::begin();
        for _ in 0..9 {
            story.look(8);
        }
        story.watch.failed();
        story.now += 100 * SECOND;
        for _ in 0..10 {
            assert!(!story.look(8));
        }
        assert!(story.look(8), "it had a whole lease to show itself");
    }

    #[test]
    fn who_slept_himself_knows_nothing() {
        let mut story = Story::begin();
        story.look(8);
        story.now += 100 * SECOND;
        assert!(!story.look(8), "the database may have been away meanwhile");
    }

    #[test]
    fn a_slow_answer_counts_for_the_living() {
        let mut story = Story::begin();
        let found = Beat {
            process: story.other,
            beat: 8,
            lease: LEASE,
        };
        let start = story.now;
        story.watch.look(start, start + 4 * SECOND, &[found]);
        for second in [5, 8, 11] {
            let at = start + second * SECOND;
            assert_eq!(story.watch.look(at, at + 2 * SECOND, &[found]), []);
        }
        assert_eq!(story.watch.next(), Some(start + 4 * SECOND + LEASE));
    }

    #[test]
    fn who_left_is_forgotten() {
        let mut story = Story::begin();
        story.look(8);
        story.watch.look(story.now, story.now, &[]);
        assert_eq!(story.watch.next(), None);
    }
}
