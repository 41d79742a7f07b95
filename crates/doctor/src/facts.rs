//! The facts about a workload and the objects around it. No I/O here.
//!
//! The API server's own types are kept; the methods answer the checks' questions. Anything that could not be
//! read is an `Err` with the reason, so that a check that needs it can only report that.

use std::{collections::BTreeMap, fmt, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{DeploymentSpec, StatefulSetSpec},
        core::v1::{Container, LifecycleHandler, Pod, PodSpec, Probe, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::core::{Selector, SelectorExt};
use tokio::time::Instant;

use super::{
    program::Settings,
    seen::{NotSeen, Seen},
};
use lameduck_kubernetes::{DEFAULT_GRACE, MINIMUM_GRACE};
use lameduck_lifecycle::{Budget, DrainSettings};

/// Labels of a Pod, or the selector of a Service.
pub(super) type Labels = BTreeMap<String, String>;

/// All facts that the checks may use.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) namespace: String,
    /// The workload's display name, such as `StatefulSet/lameduck`.
    pub(super) workload: String,
    pub(super) controller: Seen<Controller>,
    /// The workload's template, or the own Pod if the workload can't be read.
    pub(super) template: Seen<Template>,
    pub(super) pods: Seen<Vec<Pod>>,
    pub(super) services: Seen<Vec<Service>>,
    pub(super) budgets: Seen<Vec<PodDisruptionBudget>>,
    /// The claims that the template names, and those that a StatefulSet makes for its pods.
    pub(super) claims: Vec<Claim>,
    pub(super) rules: Vec<(Rule, Seen<bool>)>,
    pub(super) settings: Settings,
    pub(super) longest_job: Option<Duration>,
}

/// The spec of the workload that makes the Pods.
#[derive(Clone, Debug)]
pub(super) enum Controller {
    Deployment(Box<DeploymentSpec>),
    StatefulSet(Box<StatefulSetSpec>),
}

/// The template from which the Pods are made.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) labels: Labels,
    pub(super) spec: PodSpec,
    /// The index of the container to examine.
    container: usize,
}

/// A claim on a volume.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) name: String,
    /// Whether each pod has its own claim, made by a StatefulSet.
    pub(super) own: bool,
    pub(super) modes: Seen<Vec<String>>,
}

/// A permission that a drain uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) verb: &'static str,
    /// Another API group in which the permission serves equally well.
    pub(super) or_group: Option<&'static str>,
    /// The consequence of the permission being missing.
    pub(super) without: &'static str,
    pub(super) name: Option<String>,
}

/// A preStop hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// The command, if the hook runs one.
    pub(super) command: Option<Vec<String>>,
    /// How long the hook takes, if it says so.
    pub(super) takes: Option<Duration>,
}

// === impl Facts ===

impl Facts {
    /// Returns the intended number of Pods.
    pub(super) fn replicas(&self) -> Result<i32, &NotSeen> {
        Ok(self.controller.as_ref()?.replicas())
    }

    pub(super) fn grace(&self) -> Result<Duration, &NotSeen> {
        let template = self.template.as_ref()?;
        Ok(template.grace())
    }

    /// Returns what is left of the grace period at SIGTERM, as far as the time of the preStop hook is known.
    pub(super) fn left(&self) -> Result<Duration, &NotSeen> {
        let template = self.template.as_ref()?;
        let hook = template.hook().and_then(|hook| hook.takes);
        let left = template.grace().saturating_sub(hook.unwrap_or_default());
        Ok(left.max(MINIMUM_GRACE))
    }

    /// Returns the drain's settings, or the defaults if they are not known.
    pub(super) fn drain(&self) -> DrainSettings {
        match &self.settings {
            Settings::Read(program) => program.drain.clone(),
            _ => DrainSettings::default(),
        }
    }

    /// Returns the budget of a drain with this much time.
    pub(super) fn budget(&self, grace: Duration) -> Budget {
        let t0 = Instant::now();
        Budget::new(t0, t0 + grace, &self.drain())
    }

    /// Returns the Services that route to Pods of this template.
    pub(super) fn routing(&self) -> Result<Vec<&Service>, &NotSeen> {
        let template = self.template.as_ref()?;
        let services = self.services.as_ref()?.iter();
        Ok(services
            .filter(|service| is_selected(selector(service), &template.labels))
            .collect())
    }

    /// Returns the PodDisruptionBudgets that count these Pods.
    pub(super) fn counted_by(&self) -> Result<Vec<&PodDisruptionBudget>, &NotSeen> {
        let template = self.template.as_ref()?;
        let budgets = self.budgets.as_ref()?.iter();
        let counts = |budget: &&PodDisruptionBudget| {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            // A null selector selects nothing, an empty one everything.
            selector.is_some_and(|selector| by_labels(selector, &template.labels))
        };
        Ok(budgets.filter(counts).collect())
    }

    /// Returns whether all rules about this resource are granted; `None` if that is not known.
    pub(super) fn may(&self, resource: &str) -> Option<bool> {
        let about = self.rules.iter().filter(|(r, _)| r.resource == resource);
        let mut all = Some(true);
        for (_, allowed) in about {
            match allowed {
                Ok(false) => return Some(false),
                Ok(true) => {}
                Err(_) => all = None,
            }
        }
        all
    }
}

// === impl Controller ===

impl Controller {
    pub(super) fn replicas(&self) -> i32 {
        let replicas = match self {
            Self::Deployment(spec) => spec.replicas,
            Self::StatefulSet(spec) => spec.replicas,
        };
        replicas.unwrap_or(1)
    }

    pub(super) fn selector(&self) -> &LabelSelector {
        match self {
            Self::Deployment(spec) => &spec.selector,
            Self::StatefulSet(spec) => &spec.selector,
        }
    }

    /// Returns how many Pods a rollout may add, and how many it may remove at a time; `None` for a StatefulSet,
    /// which has no such limits and replaces one Pod after the other.
    pub(super) fn rolling(&self) -> Option<(i32, i32)> {
        let Self::Deployment(spec) = self else {
            return None;
        };
        let replicas = self.replicas();
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Some((0, replicas));
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = scaled(surge.unwrap_or(&quarter), replicas, true);
        let unavailable = scaled(unavailable.unwrap_or(&quarter), replicas, false);
        // Both may be percentages that round to zero; then one Pod may be removed (`ResolveFenceposts`).
        Some(match (surge, unavailable) {
            (0, 0) => (0, 1),
            both => both,
        })
    }
}

// === impl Template ===

impl Template {
    /// Creates a template. The container to examine is the named one, else the one that runs lameduck, else the first.
    pub(super) fn new(
        labels: Option<Labels>,
        spec: Option<PodSpec>,
        container: Option<&str>,
    ) -> Option<Self> {
        let spec = spec.filter(|spec| !spec.containers.is_empty())?;
        let containers = &spec.containers;
        let by_name = containers
            .iter()
            .position(|c| Some(c.name.as_str()) == container);
        let by_program = || containers.iter().position(super::program::is_lameduck);
        let container = by_name.or_else(by_program).unwrap_or(0);
        Some(Self {
            labels: labels.unwrap_or_default(),
            spec,
            container,
        })
    }

    pub(super) fn container(&self) -> &Container {
        &self.spec.containers[self.container]
    }

    pub(super) fn grace(&self) -> Duration {
        match self.spec.termination_grace_period_seconds {
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
            None => DEFAULT_GRACE,
        }
    }

    pub(super) fn hook(&self) -> Option<Hook> {
        let lifecycle = self.container().lifecycle.as_ref()?;
        Some(Hook::read(lifecycle.pre_stop.as_ref()?))
    }

    /// Returns the volume that holds this path, chosen by the longest mount point.
    pub(super) fn volume_of(&self, path: &str) -> Option<&str> {
        let mounts = self.container().volume_mounts.iter().flatten();
        mounts
            .filter(|mount| std::path::Path::new(path).starts_with(&mount.mount_path))
            .max_by_key(|mount| mount.mount_path.len())
            .map(|mount| mount.name.as_str())
    }
}

// === impl Hook ===

impl Hook {
    fn read(handler: &LifecycleHandler) -> Self {
        let command = handler.exec.as_ref().and_then(|exec| exec.command.clone());
        let slept = handler.sleep.as_ref().map(|sleep| sleep.seconds);
        let takes = match (&command, slept) {
            (_, Some(seconds)) => Some(seconds as f64),
            (Some(command), None) => asleep(command),
            (None, None) => None,
        };
        Self {
            takes: takes.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            command,
        }
    }
}

/// Parses the seconds of `sleep 15` or `sh -c 'sleep 15'`.
fn asleep(command: &[String]) -> Option<f64> {
    let words = command.iter().flat_map(|word| word.split_whitespace());
    let words: Vec<&str> = words.collect();
    let at = words
        .iter()
        .position(|word| word.rsplit('/').next() == Some("sleep"))?;
    let seconds = words.get(at + 1)?.trim_end_matches([';', '\'', '"', 's']);
    seconds.parse().ok()
}

// === impl Rule ===

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            resource,
            group,
            ..
        } = self;
        match *group {
            "" => write!(f, "{verb} {resource}"),
            group => write!(f, "{verb} {resource}.{group}"),
        }
    }
}

/// Returns the time that the kubelet needs from the first failure of `/readyz` until the endpoint is unready.
pub(super) fn flip(probe: &Probe) -> Duration {
    let period = probe.period_seconds.unwrap_or(10).max(1).unsigned_abs();
    let failures = probe.failure_threshold.unwrap_or(3).max(1).unsigned_abs();
    Duration::from_secs(u64::from(period) * u64::from(failures))
}

/// Returns the number, or the percentage of `whole`, rounded up or down.
pub(super) fn scaled(value: &IntOrString, whole: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
            let hundredths = percent * i64::from(whole);
            let rounded = if up { hundredths + 99 } else { hundredths } / 100;
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

pub(super) fn name(service: &Service) -> &str {
    service.metadata.name.as_deref().unwrap_or_default()
}

/// Returns the selector of a Service; `None` if its slices are maintained by something else.
pub(super) fn selector(service: &Service) -> Option<&Labels> {
    service.spec.as_ref()?.selector.as_ref()
}

/// Returns whether the selector matches the labels. A Service without a selector selects nothing.
pub(super) fn is_selected(selector: Option<&Labels>, labels: &Labels) -> bool {
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    })
}

fn by_labels(selector: &LabelSelector, labels: &Labels) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}
