//! The table of checks: facts in, findings out. No I/O here.
//!
//! A check has an id, which names the trouble that it looks for, a severity, and a function. The function returns
//! one [`Trouble`] for each affected object, nothing if all is well, or the fact that it lacks ([`Unread`]).
//! `docs/doctor.md` has the same table, and a test compares them.

mod disruption;
mod grace;
mod permissions;
mod probes;
mod process;
mod replicas;
mod services;
mod storage;
#[cfg(test)]
mod tests;

use super::{
    facts::Facts,
    finding::{Finding, Severity},
    seen::{Denied, NotSeen},
};

/// One row of the table.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    /// The statement that holds if there is no trouble.
    fine: &'static str,
    run: fn(&Facts) -> Answer,
}

type Answer = Result<Vec<Trouble>, Unread>;

/// A defect that loses work or time.
pub(super) struct Trouble {
    /// The object to change, such as `Service/web`.
    object: String,
    /// One sentence on what happens in a rollout.
    happens: String,
    /// One sentence on what to do, with the field's name.
    remedy: String,
}

/// A fact that a check needs and does not have.
pub(super) struct Unread {
    why: String,
    remedy: &'static str,
    /// The refused request, if a rule in a Role would have allowed it.
    denied: Option<Denied>,
}

const READ_IT: &str = "Let whoever runs this read that, or run it with a kubeconfig that may.";

/// All checks, in the order in which they are shown.
pub(super) const CHECKS: &[Check] = &[
    grace::SETTINGS_INVALID,
    grace::TOO_SHORT,
    grace::SHORTER_THAN_JOB,
    grace::SETTING_TOO_LONG,
    grace::SETTING_TOO_SHORT,
    grace::PRESTOP_EATS_BUDGET,
    grace::PRESTOP_NEEDS_PROGRAM,
    process::SHELL_WITHOUT_EXEC,
    process::SHARED_PROCESS_NAMESPACE,
    probes::READINESS_MISSING,
    probes::READINESS_PATH,
    probes::READINESS_SLOW,
    probes::LIVENESS_ON_READYZ,
    storage::EPHEMERAL,
    storage::EMBEDDED_REPLICAS,
    storage::RWO_ROLLING,
    replicas::TAKES_ALL,
    replicas::HOST_PORTS,
    disruption::MISSING,
    disruption::BLOCKS,
    disruption::SEVERAL,
    disruption::UNHEALTHY,
    services::PUBLISHES_UNREADY,
    services::SELECTS_NOTHING,
    services::LOCAL_TRAFFIC,
    permissions::TOKEN_NOT_MOUNTED,
    permissions::MISSING,
];

/// Runs all checks.
pub(super) fn run(facts: &Facts) -> Vec<Finding> {
    CHECKS
        .iter()
        .flat_map(|check| check.findings(facts))
        .collect()
}

// === impl Check ===

impl Check {
    fn findings(&self, facts: &Facts) -> Vec<Finding> {
        let finding = |severity, object: &str, happens, remedy| Finding {
            id: self.id,
            severity,
            object: object.to_owned(),
            happens,
            remedy,
            denied: None,
        };
        let own = &facts.workload;
        match (self.run)(facts) {
            Ok(troubles) if troubles.is_empty() => {
                vec![finding(Severity::Ok, own, self.fine.to_owned(), None)]
            }
            Ok(troubles) => {
                let found = troubles.into_iter();
                found
                    .map(|t| finding(self.severity, &t.object, t.happens, Some(t.remedy)))
                    .collect()
            }
            Err(Unread {
                why,
                remedy,
                denied,
            }) => {
                let remedy = Some(remedy.to_owned());
                vec![Finding {
                    denied,
                    ..finding(Severity::Unknown, own, why, remedy)
                }]
            }
        }
    }
}

// === impl Trouble ===

impl Trouble {
    /// Returns a trouble with the workload itself.
    fn own(facts: &Facts, happens: String, remedy: impl Into<String>) -> Self {
        Self::with(&facts.workload, happens, remedy)
    }

    fn with(object: &str, happens: String, remedy: impl Into<String>) -> Self {
        Self {
            object: object.to_owned(),
            happens,
            remedy: remedy.into(),
        }
    }
}

// === impl Unread ===

impl From<&NotSeen> for Unread {
    fn from(not_seen: &NotSeen) -> Self {
        Self {
            why: not_seen.why.clone(),
            remedy: READ_IT,
            denied: not_seen.denied.clone(),
        }
    }
}

/// Returns the trouble if it was found, and nothing otherwise.
fn when(found: bool, trouble: impl FnOnce() -> Trouble) -> Answer {
    Ok(found.then(trouble).into_iter().collect())
}
