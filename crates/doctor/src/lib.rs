//! Examines a workload and reports what would make a rollout of it lose work.
//!
//! ```text
//!   Question ──▶ connect ──▶ read ──▶ Facts ──▶ checks ──▶ Diagnosis ──▶ render
//!                own pod,    a dozen            a table,
//!                kubeconfig  requests           no I/O
//! ```
//!
//! | file | subject |
//! | --- | --- |
//! | `connect` | which cluster, and which workload in it |
//! | `read` | the requests; a refused read is recorded as a fact too |
//! | `access`, `roles` | what the pod's ServiceAccount may do |
//! | `facts`, `program` | what was read: objects, and the settings of the program in them |
//! | `checks` | the table: facts in, findings out |
//! | `finding`, `render` | the result, for people and for programs |
//!
//! The doctor changes nothing in the cluster, and every wait is bounded: it gives up after two seconds on an API
//! server that accepts and never answers, and it ends within half a minute in any case.

mod access;
mod checks;
mod connect;
mod facts;
mod finding;
mod program;
mod read;
mod render;
mod roles;
mod seen;

use std::{fmt, str::FromStr, time::Duration};

use tokio::time::timeout;

use self::{facts::Facts, finding::Cut, program::Settings};
pub use self::{
    finding::{Diagnosis, Finding, NotAllowed, Severity},
    program::{Invocation, Program, Reader},
};

/// Time limit for the whole examination.
const LONGEST: Duration = Duration::from_secs(30);

/// The workload to examine, and how.
#[derive(Clone, Debug)]
pub struct Question {
    /// The workload; if `None`, the one that this process's own Pod belongs to.
    pub workload: Option<Workload>,
    /// The workload's namespace, if it is not the current one.
    pub namespace: Option<String>,
    /// The kubeconfig's context.
    pub context: Option<String>,
    /// The longest time that a job takes.
    pub longest_job: Option<Duration>,
    /// Reads the program's settings.
    pub reader: Reader,
}

/// The workload that makes the Pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// `deployment/NAME`
    Deployment(String),
    /// `statefulset/NAME`
    StatefulSet(String),
}

/// Why no diagnosis is possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotLook {
    /// No workload was named, and this process's own Pod does not stand in for one.
    #[error(
        "this is no pod, so name a workload: lameduck doctor deployment/NAME, or statefulset/NAME"
    )]
    NotInPod,
    /// In a cluster, but without access to its API server.
    #[error(
        "the API server cannot be asked from this pod: {0}; set automountServiceAccountToken to true, or run this with a kubeconfig"
    )]
    NoAccount(String),
    /// There is no kubeconfig, or it is not usable.
    #[error("the kubeconfig is of no use: {0}; set KUBECONFIG, or choose a --context")]
    Kubeconfig(String),
    /// No client can be made for the configured API server.
    #[error("no client for the API server {url}: {why}")]
    Client {
        /// The URL of the API server.
        url: String,
        /// The reason.
        why: String,
    },
    /// The API server did not answer.
    #[error(
        "the API server {url} did not say what {what} is like: {why}; is it reachable from here?"
    )]
    Unanswered {
        /// The URL of the API server.
        url: String,
        /// The requested object.
        what: String,
        /// The reason.
        why: String,
    },
    /// The requested object does not exist.
    #[error("there is no {what} in the namespace {namespace}; {hint}")]
    NoSuch {
        /// The requested object.
        what: String,
        /// The namespace that was searched.
        namespace: String,
        /// The likely mistake, and what to do.
        hint: &'static str,
    },
    /// The API server answered too slowly.
    #[error("the API server took more than {LONGEST:?} for all answers together")]
    Slow,
}

/// Reads the workload and diagnoses it.
///
/// # Errors
/// Fails if no diagnosis is possible: no access to the API server, no answer, or no such workload. An object
/// that may not be read is not an error but a finding.
pub async fn examine(question: Question) -> Result<Diagnosis, CannotLook> {
    let facts = timeout(LONGEST, async {
        let place = connect::connect(&question).await?;
        read::read(place, &question).await
    });
    Ok(diagnose(&facts.await.map_err(|_| CannotLook::Slow)??))
}

fn diagnose(facts: &Facts) -> Diagnosis {
    let findings = checks::run(facts);
    let drain = facts
        .left()
        .ok()
        .zip(facts.grace().ok())
        .map(|(left, grace)| {
            let assumed = !matches!(facts.settings, Settings::Read(_));
            Cut::new(grace, left, &facts.budget(left), assumed)
        });
    let template = facts.template.as_ref().ok();
    let not_allowed = NotAllowed::new(&findings);
    Diagnosis {
        not_allowed,
        workload: facts.workload.clone(),
        namespace: facts.namespace.clone(),
        container: template.map(|template| template.container().name.clone()),
        drain,
        verdict: findings
            .iter()
            .map(|f| f.severity)
            .max()
            .unwrap_or(Severity::Ok),
        findings,
    }
}

// === impl Workload ===

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment(name) => write!(f, "Deployment/{name}"),
            Self::StatefulSet(name) => write!(f, "StatefulSet/{name}"),
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    /// Parses the form that `kubectl` accepts.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').unwrap_or((text, ""));
        let kind = kind.to_ascii_lowercase();
        let kind = kind.trim_end_matches(".apps");
        match (kind, name) {
            (_, "") => Err("it names no workload; write it as in deployment/web".to_owned()),
            (_, name) if name.contains('/') => {
                Err("it has a slash too many; write it as in deployment/web".to_owned())
            }
            ("deployment" | "deployments" | "deploy", name) => Ok(Self::Deployment(name.into())),
            ("statefulset" | "statefulsets" | "sts", name) => Ok(Self::StatefulSet(name.into())),
            _ => Err(
                "it is neither a deployment nor a statefulset; write it as in deployment/web"
                    .to_owned(),
            ),
        }
    }
}
