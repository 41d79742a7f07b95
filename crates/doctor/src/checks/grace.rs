//! Compares the grace period with the jobs, the drain's own steps, the settings, and preStop.

use std::time::Duration;

use super::{
    super::{facts::Facts, finding::Severity, program::Settings},
    Check, Trouble, Unread, when,
};

pub(super) const SETTINGS_INVALID: Check = Check {
    id: "settings-invalid",
    severity: Severity::Problem,
    fine: "The program's settings can be read, or are in its code.",
    run: |facts| match &facts.settings {
        Settings::Read(_) | Settings::Foreign => Ok(Vec::new()),
        Settings::Invalid(why) => {
            let happens = format!("The next pod refuses to start: {why}.");
            let remedy =
                "Put the container's args, its LAMEDUCK_ variables or its settings file right.";
            Ok(vec![Trouble::own(facts, happens, remedy)])
        }
        Settings::Unread(why) => Err(Unread {
            why: format!(
                "The program's settings could not be read, so the defaults are assumed: {why}."
            ),
            remedy: "Run it in the pod, or with a kubeconfig that may read the settings.",
            denied: why.denied.clone(),
        }),
    },
};

/// Checks that the steps that keep requests from being lost fit into the grace period: routing to this pod must
/// have ended before clients are told to leave.
pub(super) const TOO_SHORT: Check = Check {
    id: "grace-too-short",
    severity: Severity::Problem,
    fine: "The grace period has room for the wait until nobody routes here.",
    run: |facts| {
        let left = facts.left()?;
        let drain = facts.drain();
        let needed = |routing: Duration| routing + drain.quiet;
        // The drain waits for a fixed time if it may not read EndpointSlices.
        let by_clock = facts.may("endpointslices") == Some(false);
        let (wait, name) = match by_clock {
            true => (needed(drain.fallback_wait), "fallback-wait"),
            false => (needed(drain.settle), "settle"),
        };
        let budget = facts.budget(left);
        let room = budget.route_end - budget.t0;
        when(room < wait, || {
            let happens = format!(
                "Clients are told to leave after {} at the latest, before {name} and quiet ({}) are over, so \
                 some come back to a pod that goes: of {} of grace, {} are left at SIGTERM, and two thirds of \
                 the lame-duck share of that are for the end of routing.",
                shown(room),
                shown(wait),
                shown(facts.grace().unwrap_or_default()),
                shown(left),
            );
            let remedy = match least(facts, |b| b.route_end - b.t0 >= wait) {
                Some(seconds) => format!("Set terminationGracePeriodSeconds to {seconds} or more."),
                None => "Raise lame-duck-share: no grace period leaves enough.".to_owned(),
            };
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const SHORTER_THAN_JOB: Check = Check {
    id: "grace-shorter-than-job",
    severity: Severity::Problem,
    fine: "The longest job comes to its end inside the grace period.",
    run: |facts| {
        let left = facts.left()?;
        let budget = facts.budget(left);
        let told = budget.soft - budget.t0;
        let Some(longest) = facts.longest_job else {
            return Err(Unread {
                why: format!(
                    "How long jobs take is not known; one that is under way at SIGTERM has {}, then it is told \
                     to stop and runs again from the start.",
                    shown(told)
                ),
                remedy: "Say it with --longest-job.",
                denied: None,
            });
        };
        when(longest > told, || {
            let happens = format!(
                "A job that takes {} is told to stop {} after SIGTERM and begins again in the next pod, and \
                 again at the next rollout.",
                shown(longest),
                shown(told),
            );
            let remedy = match least(facts, |b| b.soft - b.t0 >= longest) {
                Some(seconds) => format!("Set terminationGracePeriodSeconds to {seconds} or more."),
                None => "Make jobs shorter: no grace period is long enough.".to_owned(),
            };
            Trouble::own(facts, happens, remedy)
        })
    },
};

/// Checks the setting that the drain uses if the own Pod can't be read, for lack of permission or of an answer.
pub(super) const SETTING_TOO_LONG: Check = Check {
    id: "grace-setting-too-long",
    severity: Severity::Problem,
    fine: "The setting grace promises no more time than the kubelet gives.",
    run: |facts| {
        let Settings::Read(program) = &facts.settings else {
            return Err(not_known(facts));
        };
        let (left, set) = (facts.left()?, program.drain.grace);
        when(set > left, || {
            let happens = format!(
                "Where the API server does not say how much time there is, the drain plans {} and is killed \
                 after {}, with whatever it still held.",
                shown(set),
                shown(left),
            );
            let remedy = format!(
                "Set grace (LAMEDUCK_GRACE) to {}, or raise terminationGracePeriodSeconds.",
                shown(left)
            );
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const SETTING_TOO_SHORT: Check = Check {
    id: "grace-setting-too-short",
    severity: Severity::Warning,
    fine: "The setting grace uses the time that the kubelet gives.",
    run: |facts| {
        let Settings::Read(program) = &facts.settings else {
            return Err(not_known(facts));
        };
        let (left, set) = (facts.left()?, program.drain.grace);
        when(set < left, || {
            let happens = format!(
                "Where the API server does not say how much time there is, jobs are given back after {} of \
                 the {} that they could have.",
                shown(set),
                shown(left),
            );
            let remedy = format!("Set grace (LAMEDUCK_GRACE) to {}.", shown(left));
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const PRESTOP_EATS_BUDGET: Check = Check {
    id: "prestop-eats-budget",
    severity: Severity::Warning,
    fine: "No preStop hook: SIGTERM comes at once, and the whole grace period is the drain's.",
    run: |facts| {
        let template = facts.template.as_ref()?;
        let Some(hook) = template.hook() else {
            return Ok(Vec::new());
        };
        let grace = template.grace();
        when(hook.takes != Some(Duration::ZERO), || {
            let happens = match hook.takes {
                Some(takes) => format!(
                    "The preStop hook takes {} of the {} of grace before the program knows that it must go, and \
                     new jobs are begun all the while; {} are left.",
                    shown(takes),
                    shown(grace),
                    shown(facts.left().unwrap_or_default()),
                ),
                None => format!(
                    "The preStop hook takes an unknown part of the {} of grace before the program knows that it \
                     must go, and new jobs are begun all the while.",
                    shown(grace)
                ),
            };
            let remedy =
                "Take lifecycle.preStop out: the program itself waits until nobody routes to it.";
            Trouble::own(facts, happens, remedy)
        })
    },
};

pub(super) const PRESTOP_NEEDS_PROGRAM: Check = Check {
    id: "prestop-needs-program",
    severity: Severity::Warning,
    fine: "No preStop hook needs a program that the stock image does not hold.",
    run: |facts| {
        let hook = facts.template.as_ref()?.hook();
        let command = hook.and_then(|hook| hook.command).unwrap_or_default();
        let program = command.first().map(String::as_str).unwrap_or_default();
        let foreign = !program.is_empty() && program.rsplit('/').next() != Some("lameduck");
        when(foreign, || {
            let happens = format!(
                "The preStop hook runs '{program}', and the stock image, made from scratch, holds no such thing: \
                 in it the hook fails at each deletion, and does nothing."
            );
            let remedy =
                "Take lifecycle.preStop.exec out, or make sure that the image holds its program.";
            Trouble::own(facts, happens, remedy)
        })
    },
};

fn not_known(facts: &Facts) -> Unread {
    let (why, denied) = match &facts.settings {
        Settings::Unread(not_seen) => (not_seen.why.as_str(), not_seen.denied.clone()),
        Settings::Invalid(_) => ("The program's settings are not valid.", None),
        _ => (
            "Another program than lameduck is run, whose settings are in its code.",
            None,
        ),
    };
    Unread {
        why: why.to_owned(),
        remedy: "See that grace is terminationGracePeriodSeconds, less what preStop takes.",
        denied,
    }
}

/// Returns the shortest grace period, in whole seconds, whose budget is enough after preStop has taken its part.
fn least(facts: &Facts, enough: impl Fn(&lameduck_lifecycle::Budget) -> bool) -> Option<u64> {
    const LONGEST: u64 = 7 * 24 * 3600;
    let taken = facts.grace().ok()?.saturating_sub(facts.left().ok()?);
    let enough = |seconds: u64| enough(&facts.budget(Duration::from_secs(seconds)));
    if !enough(LONGEST) {
        return None;
    }
    // A binary search works because all steps grow with the grace period.
    let (mut short, mut long) = (0, LONGEST);
    while long - short > 1 {
        let middle = short.midpoint(long);
        if enough(middle) {
            long = middle
        } else {
            short = middle
        }
    }
    Some(long + taken.as_secs_f64().ceil() as u64)
}

/// Formats a time for messages, as in `9.7 s`.
pub(super) fn shown(time: Duration) -> String {
    let tenths = (time.as_secs_f64() * 10.0).round() / 10.0;
    format!("{tenths} s")
}
