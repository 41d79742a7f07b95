//! What was found, and how bad that is.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use super::seen::Denied;
use lameduck_lifecycle::Budget;

/// How bad it is; the worse, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost by this.
    Ok,
    /// Nobody may look, or nobody has said.
    Unknown,
    /// Something is lost if something else goes wrong as well.
    Warning,
    /// A rollout, a node drain or a restart loses work by this alone.
    Problem,
}

/// One answer of one check.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The check's name: what it looks for. Stable.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The object that is meant: `Service/web`.
    pub object: String,
    /// One sentence: what happens in a rollout; or that all is well; or why nobody knows.
    pub happens: String,
    /// One sentence: what to do, with the field's name. None where all is well.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The request that was refused, where that is why nobody knows.
    #[serde(skip)]
    pub(super) denied: Option<Denied>,
}

/// What a doctor has to say.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Of what: `StatefulSet/lameduck`.
    pub workload: String,
    /// Where it is.
    pub namespace: String,
    /// The container that was looked at; none where the Pods' template can't be read.
    pub container: Option<String>,
    /// How a drain's time is cut; none where the template can't be read.
    pub drain: Option<Cut>,
    /// What could not be looked at for lack of permission; none where nothing was missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_allowed: Option<NotAllowed>,
    /// The worst of the findings.
    pub verdict: Severity,
    /// All of them, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Checks that are unknown because something may not be read, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NotAllowed {
    /// Their ids.
    pub checks: Vec<&'static str>,
    /// What may not be done: `get statefulsets.apps`.
    pub requests: Vec<String>,
    /// The rules that would allow it, as they stand in a Role.
    pub rules: String,
}

/// A drain's time in seconds: [`Budget`] for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cut {
    /// `terminationGracePeriodSeconds`.
    pub grace: f64,
    /// What the preStop hook takes off, as far as it says so.
    pub prestop: f64,
    /// Until when somebody may still route here.
    pub routing: f64,
    /// Until when idle connections may speak once more.
    pub leaving: f64,
    /// Handlers are told to come to an end: the longest that a job can have.
    pub told: f64,
    /// What is left is given back.
    pub cut: f64,
    /// The process has exited.
    pub exit: f64,
    /// The settings could not be read, so these are the defaults.
    pub assumed: bool,
}

// === impl Diagnosis ===

impl Diagnosis {
    /// What the Pods are made from was there to be read: the verdict says something.
    pub fn has_looked(&self) -> bool {
        self.container.is_some()
    }

    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|f| f.severity == severity)
            .count()
    }
}

// === impl NotAllowed ===

impl NotAllowed {
    pub(super) fn new(findings: &[Finding]) -> Option<Self> {
        let refused = || {
            let findings = findings.iter();
            findings.filter_map(|finding| Some((finding.id, finding.denied.as_ref()?)))
        };
        let mut checks: Vec<_> = refused().map(|(id, _)| id).collect();
        checks.dedup();
        // Several checks want the same.
        let denied: BTreeSet<&Denied> = refused().map(|(_, denied)| denied).collect();
        let rules: Vec<_> = denied.iter().map(|denied| denied.rule()).collect();
        (!checks.is_empty()).then(|| Self {
            checks,
            requests: denied.iter().map(|denied| denied.to_string()).collect(),
            rules: rules.join(", "),
        })
    }
}

// === impl Cut ===

impl Cut {
    pub(super) fn new(grace: Duration, left: Duration, budget: &Budget, assumed: bool) -> Self {
        let tenths = |time: Duration| (time.as_secs_f64() * 10.0).round() / 10.0;
        let at = |instant: tokio::time::Instant| tenths(instant - budget.t0);
        Self {
            grace: tenths(grace),
            prestop: tenths(grace.saturating_sub(left)),
            routing: at(budget.route_end),
            leaving: at(budget.lame_duck_end),
            told: at(budget.soft),
            cut: at(budget.hard),
            exit: at(budget.deadline),
            assumed,
        }
    }
}
