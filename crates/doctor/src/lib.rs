//! Looks at a workload and says what would make a rollout of it lose work.
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
//! | `read` | the requests; what may not be read is a fact as well |
//! | `access`, `roles` | what the pod's ServiceAccount may do |
//! | `facts`, `program` | what was read: objects, and what the program in them was told |
//! | `checks` | the table: facts in, findings out |
//! | `finding`, `render` | what is said, to people and to programs |
//!
//! Nothing is changed in the cluster, and nothing is waited for without bound: an API server that accepts and
//! never answers ends it after two seconds, and everything together ends within half a minute.

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

/// For everything together.
const LONGEST: Duration = Duration::from_secs(30);

/// What to look at.
#[derive(Clone, Debug)]
pub struct Question {
    /// The workload; the one that this process is a pod of, where none is named.
    pub workload: Option<Workload>,
    /// Where it is, if not where one is.
    pub namespace: Option<String>,
    /// The kubeconfig's context.
    pub context: Option<String>,
    /// The longest that a job has taken.
    pub longest_job: Option<Duration>,
    /// Reads the program's settings.
    pub reader: Reader,
}

/// Who makes the Pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// `deployment/NAME`
    Deployment(String),
    /// `statefulset/NAME`
    StatefulSet(String),
}

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotLook {
    /// Whose workload should it be?
    #[error(
        "this is no pod, so name a workload: lameduck doctor deployment/NAME, or statefulset/NAME"
    )]
    NotInPod,
    /// In a cluster, without a way to ask it.
    #[error(
        "the API server cannot be asked from this pod: {0}; set automountServiceAccountToken to true, or run this with a kubeconfig"
    )]
    NoAccount(String),
    /// No kubeconfig, or not a usable one.
    #[error("the kubeconfig is of no use: {0}; set KUBECONFIG, or choose a --context")]
    Kubeconfig(String),
    /// It is said where the API server is, and that can't be used.
    #[error("no client for the API server {url}: {why}")]
    Client {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// It did not answer.
    #[error(
        "the API server {url} did not say what {what} is like: {why}; is it reachable from here?"
    )]
    Unanswered {
        /// Where.
        url: String,
        /// What was asked for.
        what: String,
        /// Why.
        why: String,
    },
    /// There is no such thing.
    #[error("there is no {what} in the namespace {namespace}; {hint}")]
    NoSuch {
        /// What was asked for.
        what: String,
        /// Where.
        namespace: String,
        /// What may be wrong.
        hint: &'static str,
    },
    /// It answered, but slowly.
    #[error("the API server took more than {LONGEST:?} for all answers together")]
    Slow,
}

/// Reads what is there and says what is wrong with it.
///
/// # Errors
/// Where there is nothing to say: no way to the API server, no answer, no such workload. What may not be read
/// is no error but a finding.
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

    /// As `kubectl` takes it.
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
