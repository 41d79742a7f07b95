//! Divides the grace period into the instants of a drain.
//!
//! ```text
//!  T0                    route_end   lame_duck_end        soft      close     hard  cut_end  teardown_end report_end deadline kill
//!  ├──────────────────────────┼────────────┼────────────────┼─────────┼────────┼───────┼───────────┼──────────┼────────┼──────┤
//!   who still routes here?     clients leave  requests, jobs   told to end  swept  cutting  hooks       reports           margin
//! ```
//!
//! With the defaults and 30 s: 9.7, 14.5, 20, 22.5, 25, 26, 28, 28.9, 29, 30 s.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::DrainSettings;

/// The instants of a drain, always in the order of the picture above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The start of the drain.
    pub t0: Instant,
    /// The end of the wait for routing to stop.
    pub route_end: Instant,
    /// The lame-duck share is spent: idle connections are closed.
    pub lame_duck_end: Instant,
    /// The soft deadline: handlers are told to end.
    pub soft: Instant,
    /// The listener closes even if connections still come, so that accepted ones can end before `hard`.
    pub close: Instant,
    /// The hard deadline: everything that is left is cut and given back.
    pub hard: Instant,
    /// The end of the wait until everything that was cut is gone.
    pub cut_end: Instant,
    /// The end of the last hook.
    pub teardown_end: Instant,
    /// The end of the last report, a little before the deadline, so that the watchdog stays silent.
    pub report_end: Instant,
    /// The deadline by which the process has exited.
    pub deadline: Instant,
    /// The instant of SIGKILL.
    pub kill: Instant,
}

/// How long a process lives after a second signal.
pub const HURRY: Duration = Duration::from_secs(1);

/// A stand-in for "forever", for settings that are longer than an [`Instant`] can represent: thirty years.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Returns the instant that is this much later. A setting may be as long as the longest [`Duration`], which can't
/// be added to an [`Instant`]; more than thirty years are as good as forever.
pub fn later(at: Instant, by: Duration) -> Instant {
    at + by.min(FOREVER)
}

// === impl Budget ===

impl Budget {
    /// Divides the time from `t0` to SIGKILL at `kill` into steps.
    ///
    /// If `kill` is near, margins and reserves shrink with it: no step takes more than the share given
    /// in the code, so that jobs and requests always get at least half of the time.
    pub fn new(t0: Instant, kill: Instant, settings: &DrainSettings) -> Self {
        let kill = kill.clamp(t0, later(t0, FOREVER));
        let grace = kill - t0;
        let margin = settings.margin.min(grace / 10);
        let usable = grace - margin;
        let slack = Duration::from_millis(100).min(usable / 20);
        let reporting = settings.reporting.min(usable / 10);
        let teardown = settings.teardown.min(usable / 8);
        let notice = settings.stop_notice.min(usable / 5);

        let deadline = t0 + usable;
        let report_end = deadline - slack;
        let teardown_end = deadline - reporting.max(slack);
        let hard = teardown_end - teardown;
        let soft = hard - notice;
        let share = settings.lame_duck_share;
        let share = if share.is_nan() {
            0.0
        } else {
            share.clamp(0.0, 1.0)
        };
        let lame_duck_end = (t0 + usable.mul_f64(share)).min(soft);
        Self {
            t0,
            route_end: t0 + (lame_duck_end - t0) * 2 / 3,
            lame_duck_end,
            soft,
            close: hard - notice / 2,
            hard,
            cut_end: hard + teardown / 3,
            teardown_end,
            report_end,
            deadline,
            kill,
        }
    }

    /// Returns the shortest grace period, in whole seconds because Kubernetes takes no others, in which work of
    /// this length that began right before T0 comes to its end without being told to.
    pub fn grace_for(work: Duration, settings: &DrainSettings) -> Duration {
        let t0 = Instant::now();
        let is_enough = |seconds: u64| {
            let budget = Self::new(t0, t0 + Duration::from_secs(seconds), settings);
            budget.soft - t0 >= work
        };
        // The reserves after the soft deadline are never longer than in the settings.
        let kept = [
            settings.margin,
            settings.stop_notice,
            settings.teardown,
            settings.reporting,
        ];
        let longest = kept.into_iter().fold(work, Duration::saturating_add);
        let (mut short, mut enough) = (0, longest.min(FOREVER).as_secs() + 2);
        while short < enough {
            let middle = short.midpoint(enough);
            match is_enough(middle) {
                true => enough = middle,
                false => short = middle + 1,
            }
        }
        Duration::from_secs(enough)
    }

    /// Returns the budget for a deadline so near that the hard one has passed: everything is cut at
    /// `now`, and the rest of the time is for giving jobs back, hooks and reports.
    pub fn squeezed(self, now: Instant) -> Self {
        let left = self.deadline.saturating_duration_since(now);
        let at = |share: u32| (now + left * share / 10).min(self.deadline);
        Self {
            cut_end: at(4),
            teardown_end: at(7),
            report_end: at(9),
            ..self.cut_at(now)
        }
    }

    /// Returns the budget after a second signal at `now`: everything is cut at once, and about a second remains
    /// to give jobs back, run hooks and report. No instant is later than planned before.
    pub fn hurried(self, now: Instant) -> Self {
        let at = |share: u32, planned: Instant| planned.min(now + HURRY * share / 10);
        Self {
            cut_end: at(4, self.cut_end),
            teardown_end: at(7, self.teardown_end),
            report_end: at(9, self.report_end),
            deadline: at(10, self.deadline),
            ..self.cut_at(now)
        }
    }

    /// Moves the hard deadline, and every instant before it, to `now` at the latest.
    fn cut_at(self, now: Instant) -> Self {
        Self {
            route_end: self.route_end.min(now),
            lame_duck_end: self.lame_duck_end.min(now),
            soft: self.soft.min(now),
            close: self.close.min(now),
            hard: self.hard.min(now),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_order(b: &Budget) -> bool {
        let instants = [
            b.t0,
            b.route_end,
            b.lame_duck_end,
            b.soft,
            b.close,
            b.hard,
            b.cut_end,
            b.teardown_end,
            b.report_end,
            b.deadline,
            b.kill,
        ];
        instants.is_sorted()
    }

    #[tokio::test(start_paused = true)]
    async fn thirty_seconds_are_cut_as_the_picture_says() {
        let t0 = Instant::now();
        let b = Budget::new(t0, t0 + Duration::from_secs(30), &DrainSettings::default());
        let at = |i: Instant| ((i - t0).as_secs_f64() * 10.0).round() / 10.0;
        assert_eq!(
            [
                b.route_end,
                b.lame_duck_end,
                b.soft,
                b.close,
                b.hard,
                b.cut_end,
                b.teardown_end,
                b.report_end,
                b.deadline,
                b.kill
            ]
            .map(at),
            [9.7, 14.5, 20.0, 22.5, 25.0, 26.0, 28.0, 28.9, 29.0, 30.0]
        );
    }

    #[test]
    fn a_run_of_twenty_seconds_needs_the_default_grace_period_and_a_longer_one_what_it_takes_more()
    {
        let settings = DrainSettings::default();
        let needed = |run| Budget::grace_for(Duration::from_secs(run), &settings).as_secs();
        assert_eq!([20, 21, 600].map(needed), [30, 31, 610]);
    }

    proptest! {
        #[test]
        fn the_grace_period_for_a_run_is_enough_and_a_second_less_is_not(
            run in 0u64..10_000_000, margin in 0u64..10_000,
            notice in 0u64..100_000, teardown in 0u64..100_000, reporting in 0u64..100_000,
        ) {
            let settings = DrainSettings {
                margin: Duration::from_millis(margin),
                stop_notice: Duration::from_millis(notice),
                teardown: Duration::from_millis(teardown),
                reporting: Duration::from_millis(reporting),
                ..DrainSettings::default()
            };
            let run = Duration::from_millis(run);
            let t0 = Instant::now();
            let soft = |grace| Budget::new(t0, t0 + grace, &settings).soft - t0;
            let grace = Budget::grace_for(run, &settings);
            prop_assert!(soft(grace) >= run);
            if let Some(less) = grace.checked_sub(Duration::from_secs(1)) {
                prop_assert!(soft(less) < run);
            }
        }

        #[test]
        fn every_grace_period_is_cut_in_order_and_half_of_it_is_for_work(
            grace in 0u64..4_000_000, margin in 0u64..10_000, share in -1.0f64..2.0,
            notice in 0u64..100_000, teardown in 0u64..100_000, reporting in 0u64..100_000, hurry in 0u64..5_000_000,
        ) {
            let settings = DrainSettings {
                margin: Duration::from_millis(margin),
                lame_duck_share: share,
                stop_notice: Duration::from_millis(notice),
                teardown: Duration::from_millis(teardown),
                reporting: Duration::from_millis(reporting),
                ..DrainSettings::default()
            };
            let t0 = Instant::now();
            let grace = Duration::from_millis(grace);
            let budget = Budget::new(t0, t0 + grace, &settings);
            prop_assert!(in_order(&budget), "{budget:?}");
            prop_assert!(budget.soft - t0 >= grace.mul_f64(0.5), "{budget:?}");

            let now = t0 + Duration::from_millis(hurry);
            let hurried = budget.hurried(now);
            prop_assert!(hurried.deadline <= budget.deadline);
            prop_assert!(hurried.deadline <= now + HURRY);
            prop_assert!(hurried.hard <= now);

            let squeezed = budget.squeezed(now);
            prop_assert_eq!(squeezed.deadline, budget.deadline);
            if now < budget.deadline {
                prop_assert!(in_order(&squeezed), "{squeezed:?}");
                prop_assert!(now < squeezed.teardown_end || budget.deadline - now < Duration::from_millis(2));
            }
        }
    }
}
