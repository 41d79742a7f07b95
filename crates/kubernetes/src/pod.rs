//! Reads from this process's own Pod why SIGTERM came and when SIGKILL will. Pure arithmetic, no I/O.
//!
//! The kubelet's side (`pkg/kubelet/kuberuntime/kuberuntime_container.go`, `killContainer`):
//!
//! ```text
//!  pod deleted      kubelet begins        SIGTERM = T0                       SIGKILL
//!  │ (API server)   │ to stop the container │                               │
//!  ├────────────────┼───────────────────────┼───────────────────────────────┤
//!                   │ preStop hook          │ what is left, at least 2 s     │
//!                   └────────────── the whole grace period ─────────────────┘
//! ```
//!
//! The kubelet counts the whole grace period from when *it* begins, however long after the deletion that is. It
//! subtracts what the preStop hook used but never leaves less than two seconds (`minimumGracePeriodInSeconds`).
//! An ordered stop of sidecars (restartable init containers, KEP-753) uses up time in the same way.
//!
//! | seen on the own Pod | cause | SIGKILL comes |
//! | --- | --- | --- |
//! | `deletionTimestamp` | pod deleted | T0 + `deletionGracePeriodSeconds` |
//! | the same, condition `DisruptionTarget` (KEP-3329) | disrupted: eviction, preemption, node drain | as above |
//! | the same, own container has a preStop hook, or is a sidecar | as above | as above, but not later than `deletionTimestamp` by the API server's clock, and not before T0 + 2 s |
//! | a shorter grace period than before: a second delete | as above | the kubelet starts again, with the new period |
//! | no `deletionTimestamp` | container stopped: liveness, or an unannounced node shutdown | T0 + the probe's own grace period or the spec's, whichever is shorter, capped by a setting |
//! | no Pod, another uid under the name, or a token that is refused because its Pod is gone | pod deleted by force | T0 + 2 s: "a small grace period" is all that is promised; if the Pod was still there after T0, 2 s after it was seen to be gone |
//!
//! [`Judge::judge`] implements this table.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use tokio::time::Instant;

use super::api::Clock;
use lameduck_lifecycle::{Cause, DeadlineSource, HURRY, Kill};

/// Minimum time that the kubelet leaves a container (`minimumGracePeriodInSeconds`).
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// The API server's default for `terminationGracePeriodSeconds`.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Maximum time that an event may take to arrive over an open watch.
const WATCH_LAG: Duration = Duration::from_secs(1);

/// The fields of a Pod that matter to a drain.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PodFacts {
    pub(super) uid: Option<String>,
    pub(super) addresses: Vec<String>,
    pub(super) node: Option<String>,
    pub(super) replacement: Replacement,
    /// The StatefulSet that makes the next Pod of this name.
    pub(super) stateful_set: Option<Owner>,
    pub(super) deletion: Option<Deletion>,
    /// Whether the condition `DisruptionTarget` is true.
    pub(super) disrupted: bool,
    /// `terminationGracePeriodSeconds` of the spec.
    pub(super) grace: Duration,
    /// The shortest grace period among the probes of the own container.
    pub(super) probe_grace: Option<Duration>,
    /// Whether part of the grace period is spent before SIGTERM, by a preStop hook or an ordered stop.
    pub(super) late_signal: bool,
    /// How much of the grace period the hook takes, if it says so (`preStop.sleep`).
    pub(super) known_sleep: Duration,
}

/// A workload that makes Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// The pending deletion of the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deletion {
    /// `deletionGracePeriodSeconds`.
    pub(super) grace: Duration,
    /// `deletionTimestamp`, seconds since 1970 by the API server's clock.
    pub(super) at: i64,
}

/// When the owner of this Pod starts a replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replacement {
    /// While this Pod is still terminating, as a ReplicaSet does. Also the default if the owner's behaviour is unknown.
    #[default]
    Early,
    /// Only after this Pod is gone (a StatefulSet), or never (a Pod without an owner).
    Late,
}

/// One observation of the own Pod.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    /// The Pod's facts; `None` if the Pod no longer exists.
    pub(super) pod: Option<PodFacts>,
    /// The API server's clock and ours at the time of the read.
    pub(super) clock: Clock,
    /// When the observation was made.
    pub(super) seen: Instant,
    /// Whether it came from a watch rather than from a GET.
    pub(super) watched: bool,
}

/// Implements the table above, with the state that it needs between observations.
#[derive(Debug)]
pub(super) struct Judge {
    t0: Instant,
    /// Maximum time after T0 if no deletion is seen.
    cap: Option<Duration>,
    /// The grace period of the deletion, and the last instant at which it was certainly in force.
    deletion: Option<(Duration, Instant)>,
    /// The time of SIGKILL computed without a deletion and before the cap was applied.
    undeleted: Option<Instant>,
    said: Option<(Cause, Kill)>,
}

// === impl PodFacts ===

impl PodFacts {
    /// Reads the facts of a Pod. `container` is the name of the own container, if it is known.
    pub(super) fn read(pod: &Pod, container: Option<&str>) -> Self {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let grace = spec.and_then(|spec| spec.termination_grace_period_seconds);
        let own = own_containers(pod, container);
        Self {
            uid: meta.uid.clone(),
            addresses: addresses(pod),
            node: spec.and_then(|spec| spec.node_name.clone()),
            replacement: replacement(pod),
            stateful_set: stateful_set(pod),
            deletion: meta.deletion_timestamp.as_ref().map(|at| Deletion {
                grace: seconds(meta.deletion_grace_period_seconds.unwrap_or(0)),
                at: at.0.as_second(),
            }),
            disrupted: has_condition(pod, "DisruptionTarget"),
            grace: grace.map_or(DEFAULT_GRACE, seconds),
            probe_grace: own.iter().copied().filter_map(probe_grace).min(),
            late_signal: own.iter().any(|own| hook(own).is_some()) || is_sidecar(pod, container),
            known_sleep: own
                .iter()
                .filter_map(|own| Some(seconds(hook(own)?.sleep.as_ref()?.seconds)))
                .max()
                .unwrap_or_default(),
        }
    }
}

/// Returns the own container, or all containers if it is not known which one is ours.
fn own_containers<'a>(pod: &'a Pod, name: Option<&str>) -> Vec<&'a Container> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let named = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|container| Some(container.name.as_str()) == name);
    match named {
        Some(container) => vec![container],
        None => spec.containers.iter().collect(),
    }
}

/// Returns whether the own container is an init container: one that still runs is a sidecar, stopped after the rest.
fn is_sidecar(pod: &Pod, name: Option<&str>) -> bool {
    let init = pod.spec.iter().flat_map(|spec| &spec.init_containers);
    init.flatten()
        .any(|container| Some(container.name.as_str()) == name)
}

fn hook(container: &Container) -> Option<&k8s_openapi::api::core::v1::LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

fn probe_grace(container: &Container) -> Option<Duration> {
    [&container.liveness_probe, &container.startup_probe]
        .into_iter()
        .filter_map(|probe| probe.as_ref()?.termination_grace_period_seconds)
        .map(seconds)
        .min()
}

fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let mut addresses: Vec<_> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.clone())
        .collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.clone());
    }
    addresses
}

fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

fn stateful_set(pod: &Pod) -> Option<Owner> {
    let owner = controller(pod).filter(|owner| owner.kind == "StatefulSet")?;
    Some(Owner {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

fn replacement(pod: &Pod) -> Replacement {
    match controller(pod).map(|owner| owner.kind.as_str()) {
        None | Some("StatefulSet") => Replacement::Late,
        Some(_) => Replacement::Early,
    }
}

fn has_condition(pod: &Pod, kind: &str) -> bool {
    pod.status
        .iter()
        .flat_map(|status| &status.conditions)
        .flatten()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Converts seconds to a duration of at most ten years: the API server accepts any number of seconds.
fn seconds(seconds: i64) -> Duration {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    Duration::from_secs(seconds.min(3_650 * 86_400))
}

// === impl Judge ===

impl Judge {
    pub(super) fn new(t0: Instant, cap: Option<Duration>) -> Self {
        Self {
            t0,
            cap,
            deletion: None,
            undeleted: None,
            said: None,
        }
    }

    /// Returns the cause and deadline that follow from this sighting, if they differ from the last ones.
    pub(super) fn judge(&mut self, sighting: &Sighting) -> Option<(Cause, Kill)> {
        let verdict = match &sighting.pod {
            None => self.forced(sighting.seen),
            Some(pod) => match pod.deletion {
                Some(deletion) => self.deleted(pod, deletion, sighting),
                None => self.not_deleted(pod),
            },
        };
        (self.said.replace(verdict) != Some(verdict)).then_some(verdict)
    }

    fn deleted(
        &mut self,
        pod: &PodFacts,
        deletion: Deletion,
        sighting: &Sighting,
    ) -> (Cause, Kill) {
        let cause = match pod.disrupted {
            true => Cause::Disrupted,
            false => Cause::PodDeleted,
        };
        let earlier = self.said.map(|(_, kill)| kill);
        let grace = deletion.grace.max(MINIMUM_GRACE);
        let kill = match self.deletion {
            Some((before, _)) if grace >= before => earlier,
            Some((_, known)) => Some(self.shortened(grace, known, deletion, sighting, pod)),
            None => None,
        };
        let kill = kill.unwrap_or_else(|| self.counted(self.t0 + grace, deletion, sighting, pod));
        // Another delete does not extend a period that is already running.
        let kill = match (self.deletion, earlier, self.undeleted) {
            (Some(_), Some(earlier), _) if earlier.at < kill.at => earlier,
            (None, _, Some(at)) if at < kill.at => Kill {
                at,
                source: DeadlineSource::PodSpec,
            },
            _ => kill,
        };
        self.deletion = Some((grace, sighting.clock.local));
        (cause, kill)
    }

    /// Returns the deadline after a second delete. Once the kubelet sees that, it stops the containers again, with
    /// the new period. When it saw it is unknown; it was after the longer period was last known to be in force.
    fn shortened(
        &self,
        grace: Duration,
        known: Instant,
        deletion: Deletion,
        sighting: &Sighting,
        pod: &PodFacts,
    ) -> Kill {
        let begun = match sighting.watched {
            true => sighting.seen.checked_sub(WATCH_LAG).unwrap_or(known),
            false => known,
        };
        let from = begun.max(known).max(self.t0);
        let mut kill = self.counted(from + grace, deletion, sighting, pod);
        // Even then at least the minimum is left, and a deadline in the past would be useless.
        kill.at = kill.at.max(sighting.seen + MINIMUM_GRACE);
        kill
    }

    /// Returns the end of a grace period that was counted in full, less what was spent before SIGTERM.
    fn counted(
        &self,
        at: Instant,
        deletion: Deletion,
        sighting: &Sighting,
        pod: &PodFacts,
    ) -> Kill {
        let full = Kill {
            at,
            source: DeadlineSource::DeletionGracePeriod,
        };
        if !pod.late_signal {
            // After a network partition `deletionTimestamp` may have passed while the whole period is still ahead.
            return full;
        }
        let stamped = sighting.clock.instant_of(deletion.at);
        let bound = stamped.max(self.t0 + MINIMUM_GRACE);
        match bound < at {
            true => Kill {
                at: bound,
                source: DeadlineSource::DeletionTimestamp,
            },
            false => full,
        }
    }

    fn not_deleted(&mut self, pod: &PodFacts) -> (Cause, Kill) {
        let grace = pod.probe_grace.map_or(pod.grace, |own| own.min(pod.grace));
        let grace = grace.saturating_sub(pod.known_sleep).max(MINIMUM_GRACE);
        self.undeleted = Some(self.t0 + grace);
        let kill = match self.cap {
            Some(cap) if cap < grace => Kill {
                at: self.t0 + cap,
                source: DeadlineSource::Cap,
            },
            _ => Kill {
                at: self.t0 + grace,
                source: DeadlineSource::PodSpec,
            },
        };
        (Cause::ContainerStopped, kill)
    }

    fn forced(&self, seen: Instant) -> (Cause, Kill) {
        let cause = match self.said {
            Some((Cause::Disrupted, _)) => Cause::Disrupted,
            _ => Cause::PodDeleted,
        };
        let at = match self.said {
            // The Pod still existed after T0, so the kubelet has started a new grace period.
            Some(_) => seen + MINIMUM_GRACE,
            // The deletion caused SIGTERM. If we learn of it so late that the minimum has nearly passed, and are still
            // alive, we need time to give back jobs and to report.
            None => (self.t0 + MINIMUM_GRACE).max(seen + HURRY),
        };
        let soon = Kill {
            at,
            source: DeadlineSource::DeletionGracePeriod,
        };
        match self.said {
            Some((_, earlier)) if earlier.at < soon.at => (cause, earlier),
            _ => (cause, soon),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn spec(grace: u64) -> PodFacts {
        PodFacts {
            grace: Duration::from_secs(grace),
            ..PodFacts::default()
        }
    }

    fn deleted(grace: u64, at: i64) -> PodFacts {
        PodFacts {
            deletion: Some(Deletion {
                grace: Duration::from_secs(grace),
                at,
            }),
            ..spec(grace)
        }
    }

    fn seen(pod: Option<PodFacts>, at: Instant, watched: bool) -> Sighting {
        let clock = Clock {
            local: at,
            server: 1_000,
        };
        Sighting {
            pod,
            clock,
            seen: at,
            watched,
        }
    }

    /// (observation at T0, cause, seconds to SIGKILL, source of the deadline): the table in the module's docs.
    #[tokio::test(start_paused = true)]
    async fn one_row_of_the_table_after_the_other() {
        let hook = |pod: PodFacts| PodFacts {
            late_signal: true,
            ..pod
        };
        let rows = [
            (
                "deleted",
                Some(deleted(30, 1_030)),
                Cause::PodDeleted,
                30,
                DeadlineSource::DeletionGracePeriod,
            ),
            (
                "after a partition",
                Some(deleted(30, 400)),
                Cause::PodDeleted,
                30,
                DeadlineSource::DeletionGracePeriod,
            ),
            (
                "at once",
                Some(deleted(0, 1_000)),
                Cause::PodDeleted,
                2,
                DeadlineSource::DeletionGracePeriod,
            ),
            (
                "evicted",
                Some(PodFacts {
                    disrupted: true,
                    ..deleted(30, 1_030)
                }),
                Cause::Disrupted,
                30,
                DeadlineSource::DeletionGracePeriod,
            ),
            (
                "hook of ten seconds",
                Some(hook(deleted(30, 1_020))),
                Cause::PodDeleted,
                19,
                DeadlineSource::DeletionTimestamp,
            ),
            (
                "hook that took it all",
                Some(hook(deleted(30, 1_000))),
                Cause::PodDeleted,
                2,
                DeadlineSource::DeletionTimestamp,
            ),
            (
                "liveness",
                Some(spec(20)),
                Cause::ContainerStopped,
                20,
                DeadlineSource::PodSpec,
            ),
            (
                "a probe's own",
                Some(PodFacts {
                    probe_grace: Some(S * 5),
                    ..spec(20)
                }),
                Cause::ContainerStopped,
                5,
                DeadlineSource::PodSpec,
            ),
            (
                "capped",
                Some(spec(600)),
                Cause::ContainerStopped,
                25,
                DeadlineSource::Cap,
            ),
            (
                "known sleep",
                Some(PodFacts {
                    known_sleep: S * 4,
                    late_signal: true,
                    ..spec(20)
                }),
                Cause::ContainerStopped,
                16,
                DeadlineSource::PodSpec,
            ),
            (
                "stale mark",
                Some(PodFacts {
                    disrupted: true,
                    ..spec(20)
                }),
                Cause::ContainerStopped,
                20,
                DeadlineSource::PodSpec,
            ),
            (
                "by force",
                None,
                Cause::PodDeleted,
                2,
                DeadlineSource::DeletionGracePeriod,
            ),
        ];
        for (name, pod, cause, left, source) in rows {
            let t0 = Instant::now();
            let verdict = Judge::new(t0, Some(S * 25)).judge(&seen(pod, t0, false));
            let kill = Kill {
                at: t0 + S * left,
                source,
            };
            assert_eq!(verdict, Some((cause, kill)), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_seconds_of_a_forced_deletion_count_from_sigterm_and_not_from_a_late_answer() {
        let t0 = Instant::now();
        let ms = Duration::from_millis;
        for (late, left) in [(0, 2_000), (900, 2_000), (1_500, 2_500), (5_000, 6_000)] {
            let verdict = Judge::new(t0, None).judge(&seen(None, t0 + ms(late), false));
            let (cause, kill) = verdict.expect("news");
            assert_eq!(
                (cause, kill.at - t0),
                (Cause::PodDeleted, ms(left)),
                "{late} ms"
            );
        }
        // An eviction followed by a forced deletion.
        let mut judge = Judge::new(t0, None);
        let evicted = PodFacts {
            disrupted: true,
            ..deleted(30, 1_030)
        };
        judge.judge(&seen(Some(evicted), t0, false));
        let (cause, kill) = judge.judge(&seen(None, t0 + S * 5, true)).expect("news");
        assert_eq!((cause, kill.at - t0), (Cause::Disrupted, S * 7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_not_said_twice() {
        let t0 = Instant::now();
        let mut judge = Judge::new(t0, None);
        assert!(
            judge
                .judge(&seen(Some(deleted(30, 1_030)), t0, false))
                .is_some()
        );
        assert!(
            judge
                .judge(&seen(Some(deleted(30, 1_030)), t0 + S * 9, true))
                .is_none()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_delete_counts_from_when_it_was_seen_and_never_lies_in_the_past() {
        let t0 = Instant::now();
        let mut judge = Judge::new(t0, None);
        judge.judge(&seen(Some(deleted(60, 1_060)), t0, false));
        let (_, kill) = judge
            .judge(&seen(Some(deleted(10, 1_010)), t0 + S * 20, true))
            .expect("news");
        assert_eq!(kill.at, t0 + S * 29, "a second for the watch");
        let (_, kill) = judge
            .judge(&seen(Some(deleted(0, 1_000)), t0 + S * 25, true))
            .expect("news");
        assert_eq!(kill.at, t0 + S * 27);
        let (cause, kill) = judge
            .judge(&seen(None, t0 + S * 25, true))
            .unwrap_or_else(|| {
                let (cause, kill) = judge.said.expect("said");
                (cause, kill)
            });
        assert_eq!((cause, kill.at), (Cause::PodDeleted, t0 + S * 27));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_during_a_restart_does_not_lengthen_what_runs_already() {
        let t0 = Instant::now();
        let mut judge = Judge::new(t0, Some(S * 5));
        let (_, capped) = judge.judge(&seen(Some(spec(20)), t0, false)).expect("news");
        assert_eq!(capped.at, t0 + S * 5);
        let (cause, kill) = judge
            .judge(&seen(Some(deleted(60, 1_060)), t0 + S, true))
            .expect("news");
        assert_eq!(
            (cause, kill.at),
            (Cause::PodDeleted, t0 + S * 20),
            "the cap no longer holds"
        );
    }

    #[test]
    fn a_pod_is_read_as_the_kubelet_reads_it() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "web-0", "uid": "u",
                "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s", "controller": true}],
            },
            "spec": {
                "nodeName": "n1", "terminationGracePeriodSeconds": 40,
                "initContainers": [{"name": "mesh", "restartPolicy": "Always"}],
                "containers": [
                    {"name": "app", "livenessProbe": {"terminationGracePeriodSeconds": 7},
                     "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}},
                    {"name": "other"},
                ],
            },
            "status": {
                "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
                "conditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
        }))
        .expect("a pod");
        let app = PodFacts::read(&pod, Some("app"));
        assert_eq!(
            app.deletion,
            Some(Deletion {
                grace: S * 30,
                at: 1_767_225_630
            })
        );
        assert_eq!(app.addresses, ["10.0.0.7", "fd00::7"]);
        assert_eq!((app.grace, app.probe_grace), (S * 40, Some(S * 7)));
        assert_eq!((app.late_signal, app.known_sleep), (true, S * 3));
        assert_eq!((app.disrupted, app.replacement), (true, Replacement::Late));
        let owner = app.stateful_set.expect("a StatefulSet");
        assert_eq!((owner.name.as_str(), owner.uid.as_str()), ("web", "s"));

        let other = PodFacts::read(&pod, Some("other"));
        assert!(
            !other.late_signal,
            "another container's hook takes nothing from us"
        );
        assert!(
            PodFacts::read(&pod, Some("mesh")).late_signal,
            "sidecars are stopped last"
        );
        assert!(PodFacts::read(&pod, None).late_signal, "it may be ours");
    }

    proptest! {
        /// Simulates a true time of SIGKILL: whatever the clocks show, the verdict is not later, and if
        /// nothing is uncertain it is not much earlier.
        #[test]
        fn the_verdict_is_never_later_than_the_kill(
            grace in 0u64..4_000,
            hook_ms in prop_oneof![Just(0u64), 0u64..100_000],
            kubelet_late_ms in prop_oneof![0u64..500, 0u64..600_000],
            ask_after_ms in 0u64..5_000,
            round_trip_ms in 0u64..2_000,
            answered_after in 0.0f64..1.0,
            server_ms in 1_000_000_000u64..2_000_000_000,
        ) {
            let ms = Duration::from_millis;
            // Times of deletion, of the kubelet's start and of SIGTERM, in milliseconds by the server's clock.
            let grace_ms = grace * 1_000;
            let deleted_ms = server_ms;
            let begin_ms = deleted_ms + kubelet_late_ms;
            let hook_ms = hook_ms.min(grace_ms);
            let term_ms = begin_ms + hook_ms;
            // The kubelet subtracts whole seconds.
            let left_ms = (grace_ms - hook_ms / 1_000 * 1_000).max(2_000);
            let true_kill = ms(left_ms);

            let t0 = Instant::now();
            let sent = t0 + ms(ask_after_ms);
            let answered_ms = term_ms + ask_after_ms + (round_trip_ms as f64 * answered_after) as u64;
            let pod = PodFacts {
                late_signal: hook_ms > 0,
                ..deleted(grace, ((deleted_ms / 1_000) + grace) as i64)
            };
            let sighting = Sighting {
                pod: Some(pod),
                clock: Clock { local: sent, server: (answered_ms / 1_000) as i64 },
                seen: sent + ms(round_trip_ms),
                watched: false,
            };
            let (_, kill) = Judge::new(t0, None).judge(&sighting).expect("news");
            prop_assert!(kill.at <= t0 + true_kill, "{:?} > {:?}", kill.at - t0, true_kill);
            prop_assert!(kill.at >= t0 + MINIMUM_GRACE);
            if hook_ms == 0 {
                prop_assert_eq!(kill.at - t0, true_kill);
            } else {
                let slack = ms(4_000 + kubelet_late_ms + round_trip_ms);
                prop_assert!(kill.at + slack >= t0 + true_kill);
            }
        }

        /// For any sequence of sightings, a plan never lies in the past when it is made, and a
        /// deletion never makes the time longer than the longest period that was seen.
        #[test]
        fn no_history_leads_into_the_past(
            history in prop::collection::vec(
                (0u64..30_000, prop::option::of(prop::option::of(0u64..120)), any::<bool>(), any::<bool>()), 1..12),
            cap in prop::option::of(2u64..60),
        ) {
            let t0 = Instant::now();
            let mut judge = Judge::new(t0, cap.map(Duration::from_secs));
            let mut now = t0;
            let mut said: Option<Kill> = None;
            for (after, what, watched, late_signal) in history {
                now += Duration::from_millis(after);
                let pod = what.map(|grace| match grace {
                    Some(grace) => PodFacts { late_signal, ..deleted(grace, 1_000 + grace as i64) },
                    None => spec(45),
                });
                let running = said.is_none_or(|kill| kill.at >= now + MINIMUM_GRACE);
                if let Some((_, kill)) = judge.judge(&seen(pod, now, watched)) {
                    prop_assert!(kill.at <= t0 + Duration::from_secs(120).max(now - t0 + MINIMUM_GRACE));
                    if running && said.is_some_and(|said| kill.at < said.at) {
                        prop_assert!(kill.at >= t0 + MINIMUM_GRACE);
                    }
                    said = Some(kill);
                }
            }
        }
    }
}
