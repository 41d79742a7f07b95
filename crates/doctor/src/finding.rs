//! The findings, and how severe they are.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use super::seen::Denied;
use lameduck_lifecycle::Budget;

/// How severe a finding is, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost by this.
    Ok,
    /// The needed facts may not be read, or were not given.
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
    /// The check's stable name, which says what the check looks for.
    pub id: &'static str,
    /// How severe the finding is.
    pub severity: Severity,
    /// The object that the finding is about, such as `Service/web`.
    pub object: String,
    /// One sentence on what happens in a rollout, or that all is well, or why it is not known.
    pub happens: String,
    /// One sentence on what to do, with the field's name; `None` if all is well.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The refused request, if that is why the result is not known.
    #[serde(skip)]
    pub(super) denied: Option<Denied>,
}

/// The result of an examination.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The workload, such as `StatefulSet/lameduck`.
    pub workload: String,
    /// The workload's namespace.
    pub namespace: String,
    /// The container that was examined; `None` if the Pods' template can't be read.
    pub container: Option<String>,
    /// How a drain's time is divided; `None` if the template can't be read.
    pub drain: Option<Cut>,
    /// The checks that failed for lack of permission; `None` if nothing was missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_allowed: Option<NotAllowed>,
    /// The severity of the worst finding.
    pub verdict: Severity,
    /// All findings, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// Checks with an unknown result because something may not be read, and the rules that would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NotAllowed {
    /// The ids of the checks.
    pub checks: Vec<&'static str>,
    /// The refused requests, such as `get statefulsets.apps`.
    pub requests: Vec<String>,
    /// The rules that would allow the requests, as they are written in a Role.
    pub rules: String,
}

/// The division of a drain's time in seconds, a readable form of [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cut {
    /// `terminationGracePeriodSeconds`.
    pub grace: f64,
    /// The part that the preStop hook takes, as far as it is known.
    pub prestop: f64,
    /// Latest time at which routing to this pod has ended.
    pub routing: f64,
    /// Latest time at which idle connections may send another request.
    pub leaving: f64,
    /// Time at which handlers are told to stop, which is the longest that a job can have.
    pub told: f64,
    /// Time at which remaining jobs are given back.
    pub cut: f64,
    /// Time by which the process has exited.
    pub exit: f64,
    /// Whether the default settings were assumed because the program's could not be read.
    pub assumed: bool,
}

// === impl Diagnosis ===

impl Diagnosis {
    /// Returns whether the Pods' template could be read, without which the verdict means nothing.
    pub fn has_looked(&self) -> bool {
        self.container.is_some()
    }

    /// Returns the number of findings of this severity.
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
        // Several checks may need the same request.
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
