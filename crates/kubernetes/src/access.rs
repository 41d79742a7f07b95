//! Finds out how to reach the API server, by the service account that every Pod is given.
//!
//! kube's own `Config::incluster` reads fixed paths. Two variables override them so that a process can be run
//! against another API server (a test double, a `kubectl proxy`). They are for development and tests:
//!
//! | variable | replaces |
//! | --- | --- |
//! | `LAMEDUCK_KUBERNETES_API` | `https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT` |
//! | `LAMEDUCK_SERVICE_ACCOUNT_DIR` | `/var/run/secrets/kubernetes.io/serviceaccount` (`token`, `namespace`, `ca.crt`) |
//!
//! The token is given to kube as a file, not as a string: the kubelet replaces it before it expires, and a
//! process that lives for weeks must read it again.

use std::path::{Path, PathBuf};

use kube::Config;

use super::token::Claims;

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach the API server, or why that is not possible.
#[derive(Clone, Debug)]
pub enum Access {
    /// The client configuration for the API server.
    Config(Box<Config>),
    /// In a cluster, but without a usable service account, for example by `automountServiceAccountToken: false`.
    Refused(String),
}

// === impl Access ===

impl Access {
    /// Returns the claims of the mounted token.
    pub(super) fn claims(&self) -> Option<Claims> {
        match self {
            Self::Config(config) => Claims::read(Path::new(config.auth_info.token_file.as_ref()?)),
            Self::Refused(_) => None,
        }
    }
}

/// Returns how to reach the cluster, and the service account's namespace; `None` outside of a cluster.
pub fn find(env: impl Fn(&str) -> Option<String>) -> Option<(Access, String)> {
    let url = env("LAMEDUCK_KUBERNETES_API");
    let dir = env("LAMEDUCK_SERVICE_ACCOUNT_DIR").map(PathBuf::from);
    if url.is_none() && env("KUBERNETES_SERVICE_HOST").is_none_or(|host| host.is_empty()) {
        return None;
    }
    let from = dir
        .clone()
        .unwrap_or_else(|| Path::new(SERVICE_ACCOUNT).to_owned());
    let namespace = std::fs::read_to_string(from.join("namespace")).unwrap_or_default();
    let namespace = match namespace.trim() {
        "" => "default".to_owned(),
        namespace => namespace.to_owned(),
    };
    let config = match (&url, &dir) {
        (None, None) => Config::incluster().map_err(|error| error.to_string()),
        _ => overridden(&env, url.as_deref(), &from),
    };
    let access = match config {
        Ok(config) => Access::Config(Box::new(config)),
        Err(why) => Access::Refused(why),
    };
    Some((access, namespace))
}

fn overridden(
    env: impl Fn(&str) -> Option<String>,
    url: Option<&str>,
    dir: &Path,
) -> Result<Config, String> {
    let url = match url {
        Some(url) => url.to_owned(),
        None => {
            let host = env("KUBERNETES_SERVICE_HOST").unwrap_or_default();
            let port = env("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
            match host.contains(':') {
                true => format!("https://[{host}]:{port}"),
                false => format!("https://{host}:{port}"),
            }
        }
    };
    // The error does not repeat the URL, which may contain a password.
    let uri = url.parse().map_err(|_| {
        "the address of the API server (LAMEDUCK_KUBERNETES_API, or else KUBERNETES_SERVICE_HOST and \
         KUBERNETES_SERVICE_PORT) is not a URL; write it as in https://10.0.0.1:443"
    })?;
    let mut config = Config::new(uri);
    let token = dir.join("token");
    if token.exists() {
        config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
    }
    let ca = dir.join("ca.crt");
    if ca.exists() {
        config.root_cert_file = Some(ca);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_cluster_there_is_none_of_it() {
        assert!(find(|_| None).is_none());
    }

    #[test]
    fn the_overrides_point_elsewhere_and_the_token_stays_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("token"), "secret").expect("written");
        std::fs::write(dir.path().join("namespace"), "shop\n").expect("written");
        let path = dir.path().to_string_lossy().into_owned();
        let env = |name: &str| match name {
            "LAMEDUCK_KUBERNETES_API" => Some("http://127.0.0.1:1".to_owned()),
            "LAMEDUCK_SERVICE_ACCOUNT_DIR" => Some(path.clone()),
            _ => None,
        };
        let (access, namespace) = find(env).expect("a cluster");
        assert_eq!(namespace, "shop");
        let Access::Config(config) = access else {
            panic!("refused: {access:?}");
        };
        assert_eq!(config.cluster_url, "http://127.0.0.1:1/");
        assert!(config.auth_info.token_file.is_some());
    }

    #[test]
    fn a_cluster_without_a_service_account_is_still_a_cluster() {
        let env = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.96.0.1".to_owned());
        let (access, _) = find(env).expect("a cluster");
        assert!(matches!(access, Access::Refused(_)), "{access:?}");
    }
}
