//! The drain as Events on the own Pod: what `kubectl describe pod` and `kubectl get events` show.
//!
//! Two of them, one when it begins and one when it has ended, each with one sentence for people and the drain
//! id that log, ledger and termination message carry too. They outlive the Pod: by default an API server
//! keeps Events for an hour.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Identity;
use lameduck_lifecycle::{DrainReport, Load, Outcome, RoutingEnd};

/// What the API server takes as `note`, in bytes (`events.k8s.io/v1`).
const LONGEST_NOTE: usize = 1024;

/// What it takes as `reportingInstance`.
const LONGEST_INSTANCE: usize = 128;

/// What it takes as a name.
const LONGEST_NAME: usize = 253;

/// An Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Tells the drain's two Events apart.
    pub(super) part: &'static str,
    /// In CamelCase, for people and for those who filter.
    pub(super) reason: &'static str,
    /// Something was lost, or could have been.
    pub(super) warning: bool,
    /// One sentence.
    pub(super) note: String,
}

// === impl Event ===

impl Event {
    /// A drain has begun.
    pub(super) fn started(drain_id: &str, cause: &str, seconds_left: f64, load: &Load) -> Self {
        let note = format!(
            "Drain {drain_id} began ({cause}): {seconds_left:.1} s until the deadline, with {}, {} and {} in flight.",
            count(load.all_connections(), "connection"),
            count(load.all_requests(), "request"),
            count(load.jobs, "job"),
        );
        Self {
            part: "started",
            reason: "DrainStarted",
            warning: false,
            note,
        }
    }

    /// A drain has ended.
    pub(super) fn ended(report: &DrainReport) -> Self {
        let (reason, how) = match report.outcome {
            Outcome::Clean => ("Drained", "ended well"),
            Outcome::Cut => ("DrainCut", "had to cut work at its hard deadline"),
            Outcome::HookFailed => ("DrainHookFailed", "ended with a teardown hook that failed"),
            Outcome::Failed => (
                "DrainAfterFailure",
                "followed the failure of a part of the program",
            ),
            other => ("DrainEnded", other.as_str()),
        };
        let mut note = format!(
            "Drain {} {how} after {:.1} s of {:.1} s: {}; {} served, {} of them late, {} cut with {}; {} finished, {} failed, {} given back",
            report.drain_id,
            report.seconds,
            report.budget_seconds,
            routing(report),
            count(report.requests.served, "request"),
            report.requests.late,
            report.requests.cut,
            count(report.connections.cut, "connection"),
            count(report.jobs.finished, "job"),
            report.jobs.failed,
            report.jobs.released.count,
        );
        if report.jobs.left.count > 0 {
            // Writing to a String does not fail.
            let _ = write!(note, ", {} left to their lease", report.jobs.left.count);
        }
        note.push('.');
        Self {
            part: "ended",
            reason,
            warning: report.outcome != Outcome::Clean,
            note,
        }
    }

    /// As `events.k8s.io/v1` wants it.
    pub(super) fn to_object(
        &self,
        drain_id: &str,
        identity: &Identity,
        uid: Option<&str>,
    ) -> Value {
        let suffix = format!(".{drain_id}.{}", self.part);
        let name = shortened(&identity.name, LONGEST_NAME - suffix.len());
        let now = Timestamp::now();
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": format!("{name}{suffix}"), "namespace": identity.namespace},
            // A MicroTime: exactly six digits.
            "eventTime": format!("{now:.6}"),
            "reportingController": "lameduck",
            "reportingInstance": shortened(&identity.name, LONGEST_INSTANCE),
            "action": "Drain",
            "reason": self.reason,
            "type": if self.warning { "Warning" } else { "Normal" },
            "note": shortened(&self.note, LONGEST_NOTE),
            "regarding": {
                "apiVersion": "v1", "kind": "Pod",
                "namespace": identity.namespace, "name": identity.name, "uid": uid,
            },
        })
    }
}

fn routing(report: &DrainReport) -> String {
    match (report.routing, report.removal_seconds) {
        (Some(RoutingEnd::Removed), Some(seconds)) => {
            format!("endpoints gone after {seconds:.1} s")
        }
        (Some(RoutingEnd::Removed), None) => "endpoints gone".into(),
        (Some(RoutingEnd::NotApplicable), _) => "no endpoint to wait for".into(),
        (Some(RoutingEnd::NoPermission), _) => "endpoints not seen for lack of permission".into(),
        (Some(RoutingEnd::Unavailable), _) => "endpoints not seen, no API server answered".into(),
        (Some(RoutingEnd::TimedOut), _) => {
            "still routed to when the time for that was spent".into()
        }
        (None, _) => "ended before the endpoints were gone".into(),
    }
}

fn count(n: impl TryInto<u64>, what: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn shortened(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev();
    let end = end.into_iter().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_shortened_to_what_the_api_server_takes() {
        let event = Event {
            part: "ended",
            reason: "Drained",
            warning: false,
            note: "ä".repeat(2_000),
        };
        let identity = Identity::new("shop", &"a".repeat(253));
        let object = event.to_object("0123456789", &identity, None);
        let length = |value: &Value| value.as_str().unwrap().len();
        assert_eq!(length(&object["metadata"]["name"]), LONGEST_NAME);
        assert_eq!(length(&object["reportingInstance"]), LONGEST_INSTANCE);
        assert_eq!(length(&object["note"]), LONGEST_NOTE);
        let time = object["eventTime"].as_str().unwrap();
        assert_eq!(time.len(), "2026-11-24T10:00:00.000000Z".len(), "{time}");
    }

    #[test]
    fn one_is_not_many() {
        let load = Load {
            jobs: 1,
            ..Load::default()
        };
        let event = Event::started("abc", "pod_deleted", 29.0, &load);
        assert_eq!(
            event.note,
            "Drain abc began (pod_deleted): 29.0 s until the deadline, with 0 connections, 0 requests and 1 job in flight."
        );
    }
}
