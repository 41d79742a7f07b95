//! Events on the own Pod that report the drain; `kubectl describe pod` and `kubectl get events` show them.
//!
//! There are two, one when the drain begins and one when it has ended. Each has one sentence for people and the
//! drain id that the log, the ledger and the termination message carry too. They outlive the Pod: by default an
//! API server keeps Events for an hour.
//!
//! `kubectl describe pod` selects Events by the Pod's uid, so it shows them only as long as this Pod exists. If the
//! next Pod has the same name, the StatefulSet that makes it gets a copy of the last Event.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Identity, pod::Owner};
use lameduck_lifecycle::{DrainReport, Load, Outcome, RoutingEnd};

/// The name of the reporting controller.
const CONTROLLER: &str = "lameduck";

/// Maximum length of `note`, or `message`, that the API server accepts, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Maximum length of `reportingInstance`, in bytes.
const LONGEST_INSTANCE: usize = 128;

/// Maximum length of a name, in bytes.
const LONGEST_NAME: usize = 253;

/// An Event that has yet to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The part of the Event's name that distinguishes the drain's two Events.
    pub(super) part: &'static str,
    /// The reason in CamelCase, for reading and for filtering.
    pub(super) reason: &'static str,
    /// Whether something was lost, or could have been.
    pub(super) warning: bool,
    /// The message, one sentence.
    pub(super) note: String,
}

/// An Event ready to be written in either of its two forms (`pkg/apis/core/validation/events.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventObject {
    name: String,
    namespace: String,
    /// The object that the Event is about.
    about: Value,
    reason: &'static str,
    kind: &'static str,
    note: String,
    instance: String,
    node: Option<String>,
    at: Timestamp,
}

// === impl Event ===

impl Event {
    /// Returns the Event for the start of a drain, with the cause if it is known by then.
    pub(super) fn started(
        drain_id: &str,
        cause: Option<&str>,
        seconds_left: f64,
        load: &Load,
    ) -> Self {
        let why = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        let note = format!(
            "Drain {drain_id} began{why}: {seconds_left:.1} s until the deadline, with {}, {} and {} in flight.",
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

    /// Returns the Event for the end of a drain.
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

    /// Returns the Event for the own Pod.
    pub(super) fn on_pod(
        &self,
        drain_id: &str,
        identity: &Identity,
        uid: Option<&str>,
    ) -> EventObject {
        let about = json!({
            "apiVersion": "v1", "kind": "Pod",
            "namespace": identity.namespace, "name": identity.name, "uid": uid,
        });
        let suffix = format!(".{drain_id}.{}", self.part);
        self.object(&suffix, about, &self.note, identity)
    }

    /// Returns the same Event for the workload that makes the next Pod of this name.
    pub(super) fn on_owner(
        &self,
        drain_id: &str,
        identity: &Identity,
        owner: &Owner,
    ) -> EventObject {
        let about = json!({
            "apiVersion": owner.api_version, "kind": owner.kind,
            "namespace": identity.namespace, "name": owner.name, "uid": owner.uid,
        });
        let suffix = format!(".{drain_id}.{}.owner", self.part);
        let note = format!("Pod {}: {}", identity.name, self.note);
        self.object(&suffix, about, &note, identity)
    }

    fn object(&self, suffix: &str, about: Value, note: &str, identity: &Identity) -> EventObject {
        let name = shortened(&identity.name, LONGEST_NAME - suffix.len());
        EventObject {
            name: format!("{name}{suffix}"),
            namespace: identity.namespace.clone(),
            about,
            reason: self.reason,
            kind: if self.warning { "Warning" } else { "Normal" },
            note: shortened(note, LONGEST_NOTE).to_owned(),
            instance: shortened(&identity.name, LONGEST_INSTANCE).to_owned(),
            node: identity.node.clone(),
            at: Timestamp::now(),
        }
    }
}

// === impl EventObject ===

impl EventObject {
    /// Returns the Event in the core group's form, with the time fields of both old and new Events.
    pub(super) fn core(&self) -> Value {
        let seconds = format!("{:.0}", self.at);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "involvedObject": self.about,
            "reason": self.reason,
            "type": self.kind,
            "message": self.note,
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
            "source": {"component": CONTROLLER, "host": self.node},
            "eventTime": self.micro_time(),
            "action": "Drain",
            "reportingComponent": CONTROLLER,
            "reportingInstance": self.instance,
        })
    }

    /// Returns the Event in the form of `events.k8s.io/v1`, which rejects the time fields of old Events.
    pub(super) fn events_k8s_io(&self) -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "regarding": self.about,
            "reason": self.reason,
            "type": self.kind,
            "note": self.note,
            "eventTime": self.micro_time(),
            "action": "Drain",
            "reportingController": CONTROLLER,
            "reportingInstance": self.instance,
        })
    }

    /// Returns the time with exactly six fractional digits.
    fn micro_time(&self) -> String {
        format!("{:.6}", self.at)
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
        (Some(RoutingEnd::TimedOut), Some(seconds)) => format!(
            "endpoints gone after {seconds:.1} s, but requests still came over new connections when the time for that was spent"
        ),
        (Some(RoutingEnd::TimedOut), None) => {
            "still routed to when the time for that was spent".into()
        }
        (Some(RoutingEnd::CutShort), Some(seconds)) => format!(
            "endpoints gone after {seconds:.1} s, with too little time left for settle and quiet"
        ),
        (Some(RoutingEnd::CutShort), None) => "too little time to learn who routed here".into(),
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
        let owner = Owner::default();
        let length = |value: &Value| value.as_str().unwrap().len();
        for object in [
            event.on_pod("0123456789", &identity, None),
            event.on_owner("0123456789", &identity, &owner),
        ] {
            let (core, new) = (object.core(), object.events_k8s_io());
            for form in [&core, &new] {
                assert_eq!(length(&form["metadata"]["name"]), LONGEST_NAME);
                assert_eq!(length(&form["reportingInstance"]), LONGEST_INSTANCE);
                let time = form["eventTime"].as_str().unwrap();
                assert_eq!(time.len(), "2026-11-24T10:00:00.000000Z".len(), "{time}");
            }
            assert!((LONGEST_NOTE - 1..=LONGEST_NOTE).contains(&length(&core["message"])));
            assert_eq!(core["message"], new["note"]);
            let time = core["lastTimestamp"].as_str().unwrap();
            assert_eq!(time.len(), "2026-11-24T10:00:00Z".len(), "{time}");
        }
    }

    #[test]
    fn one_is_not_many() {
        let load = Load {
            jobs: 1,
            ..Load::default()
        };
        let event = Event::started("abc", Some("pod_deleted"), 29.0, &load);
        assert_eq!(
            event.note,
            "Drain abc began (pod_deleted): 29.0 s until the deadline, with 0 connections, 0 requests and 1 job in flight."
        );
        let event = Event::started("abc", None, 29.0, &load);
        assert!(
            event.note.starts_with("Drain abc began: 29.0 s until"),
            "{}",
            event.note
        );
    }
}
