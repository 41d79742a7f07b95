//! Chooses the cluster, and the workload in it.
//!
//! | invocation | the API server is |
//! | --- | --- |
//! | with a context, or with `KUBECONFIG` set | the kubeconfig's |
//! | otherwise, in a pod | that of the pod's service account (and its two overrides) |
//! | otherwise | that of `~/.kube/config` |
//!
//! Without a workload it is always the own pod's workload, accessed by the pod's service account.

use std::time::Duration;

use http::Uri;
use kube::{
    Config,
    config::{KubeConfigOptions, KubeconfigError},
};
use tokio::time::timeout;

use super::{CannotLook, Question, Workload};
use lameduck_kubernetes::{
    Identity,
    access::{self, Access},
    api::Api,
    fault::describe,
    hostname,
};

/// Time limit for creating the client, including any command that the kubeconfig names for credentials.
const CREDENTIALS: Duration = Duration::from_secs(10);

/// The API server, and the target to examine.
pub(super) struct Place {
    pub(super) api: Api,
    pub(super) url: String,
    pub(super) target: Target,
}

/// The target to examine.
pub(super) enum Target {
    /// The owner of this Pod, in which this process runs.
    Own(Identity),
    Named(Workload),
}

pub(super) async fn connect(question: &Question) -> Result<Place, CannotLook> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let in_cluster = access::find(env);
    let Some(workload) = &question.workload else {
        if question.context.is_some() {
            return Err(CannotLook::NotInPod);
        }
        let (access, namespace) = in_cluster.ok_or(CannotLook::NotInPod)?;
        let identity = Identity::from_env(env, &namespace, hostname);
        let identity = identity.completed_by(&access);
        let namespace = identity.namespace.clone();
        return open(by_account(access)?, namespace, Target::Own(identity)).await;
    };
    let by_kubeconfig = question.context.is_some() || env("KUBECONFIG").is_some();
    let (config, own) = match in_cluster.filter(|_| !by_kubeconfig) {
        Some((access, namespace)) => {
            let namespace = env("POD_NAMESPACE").unwrap_or(namespace);
            (by_account(access)?, namespace)
        }
        None => {
            let config = by_file(question.context.clone()).await?;
            let namespace = config.default_namespace.clone();
            (config, namespace)
        }
    };
    let namespace = question.namespace.clone().unwrap_or(own);
    open(config, namespace, Target::Named(workload.clone())).await
}

fn by_account(access: Access) -> Result<Config, CannotLook> {
    match access {
        Access::Config(config) => Ok(*config),
        Access::Refused(why) => Err(CannotLook::NoAccount(why)),
    }
}

async fn by_file(context: Option<String>) -> Result<Config, CannotLook> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let config = Config::from_kubeconfig(&options).await;
    config.map_err(|error| CannotLook::Kubeconfig(fault(&error)))
}

async fn open(config: Config, namespace: String, target: Target) -> Result<Place, CannotLook> {
    let url = shown(&config.cluster_url);
    let refused = |why: String| CannotLook::Client {
        url: url.clone(),
        why,
    };
    // On a separate thread, because kube blocks on the command that a kubeconfig may name for credentials.
    let client = tokio::task::spawn_blocking(move || Api::uncounted(config, &namespace));
    let client = timeout(CREDENTIALS, client).await;
    let client = client.map_err(|_| refused("no credentials in time".to_owned()))?;
    let client = client.map_err(|error| refused(error.to_string()))?;
    let api = client.map_err(|error| refused(describe(&error)))?;
    Ok(Place { api, url, target })
}

/// Describes what is wrong with a kubeconfig. The parser's own message quotes the lines around the error, which may
/// contain a token.
fn fault(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(place) => format!(
                "it can't be read as one, in line {}, column {}",
                place.line(),
                place.column()
            ),
            None => "it can't be read as one".to_owned(),
        },
        error => error.to_string(),
    }
}

/// Returns the server's address for messages, without user and password.
fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("https");
    let host = url.host().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}"));
    format!("{scheme}://{host}{}/", port.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;

    use super::*;

    #[test]
    fn a_kubeconfig_that_can_not_be_read_is_named_by_the_place_alone() {
        let text = "apiVersion: v1\nusers:\n- name: me\n  user:\n    token: [S3cret\n";
        let error = Kubeconfig::from_yaml(text).unwrap_err();
        let said = fault(&error);
        assert!(said.contains(", in line "), "{said}");
        assert!(!said.contains("S3cret"), "{said}");
    }

    #[test]
    fn the_address_of_a_server_is_shown_without_its_password() {
        let url = "https://me:S3cret@10.0.0.1:6443/api?S3cret"
            .parse()
            .unwrap();
        assert_eq!(shown(&url), "https://10.0.0.1:6443/");
        let url = "http://[::1]/".parse().unwrap();
        assert_eq!(shown(&url), "http://[::1]/");
    }
}
