//! The identity of this process: its Pod and its namespace.
//!
//! A container does not know its Pod by default. The downward API tells it, if the Pod asks for that:
//!
//! ```yaml
//! env:
//!   - { name: POD_NAME,      valueFrom: { fieldRef: { fieldPath: metadata.name } } }
//!   - { name: POD_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }
//!   - { name: POD_UID,       valueFrom: { fieldRef: { fieldPath: metadata.uid } } }
//!   - { name: POD_IPS,       valueFrom: { fieldRef: { fieldPath: status.podIPs } } }
//!   - { name: NODE_NAME,     valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
//!   - { name: CONTAINER_NAME, value: app }   # only where a Pod has several containers
//! ```
//!
//! Without it, name, uid and node come from the mounted token, since the kubelet binds that to the Pod. Without
//! such a token, the namespace is that of the service account, and the name is guessed from the host name,
//! which is the Pod's name unless `hostname`, `setHostnameAsFQDN` or `hostNetwork` is used. Everything else
//! that is missing is learned from the own Pod, if it may be read.

use super::{access::Access, token::Claims};

/// Which Pod this process runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
    /// Whether the name is the host name and may be wrong. Then "there is no such Pod" proves nothing.
    pub guessed: bool,
    /// The Pod's uid. A name can be reused (StatefulSet), a uid never is.
    pub uid: Option<String>,
    /// The Pod's addresses, one per address family.
    pub addresses: Vec<String>,
    /// The node that the Pod runs on.
    pub node: Option<String>,
    /// The container that this process runs in, if the Pod has several.
    pub container: Option<String>,
}

impl Identity {
    /// Returns the identity of the Pod with this name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Sets the Pod's uid.
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    /// Sets the name of this process's container.
    pub fn container(mut self, container: &str) -> Self {
        self.container = Some(container.to_owned());
        self
    }

    /// Reads the identity from the downward API's variables; `namespace` and `hostname` stand in for unset ones.
    pub fn from_env(
        env: impl Fn(&str) -> Option<String>,
        namespace: &str,
        hostname: impl FnOnce() -> Option<String>,
    ) -> Self {
        let var = |name: &str| env(name).filter(|value| !value.is_empty());
        let name = var("POD_NAME");
        let ips = var("POD_IPS").or_else(|| var("POD_IP")).unwrap_or_default();
        Self {
            namespace: var("POD_NAMESPACE").unwrap_or_else(|| namespace.to_owned()),
            guessed: name.is_none(),
            name: name.or_else(hostname).unwrap_or_default(),
            uid: var("POD_UID"),
            addresses: ips
                .split(',')
                .map(str::trim)
                .filter(|ip| !ip.is_empty())
                .map(str::to_owned)
                .collect(),
            node: var("NODE_NAME"),
            container: var("CONTAINER_NAME"),
        }
    }

    /// Fills in unset and guessed values from the mounted token.
    #[must_use]
    pub fn completed_by(self, access: &Access) -> Self {
        self.completed_by_token(access.claims().as_ref())
    }

    fn completed_by_token(mut self, claims: Option<&Claims>) -> Self {
        let Some((claims, pod)) = claims.and_then(|claims| Some((claims, claims.pod()?))) else {
            return self;
        };
        if self.guessed
            && let Some(name) = &pod.name
        {
            self.name.clone_from(name);
            self.guessed = false;
        }
        // If the Pod's name was set and differs from the token's, it is not known whose token this is.
        if pod.name.as_ref() == Some(&self.name) {
            self.uid = self.uid.or_else(|| pod.uid.clone());
            let node = claims.node().and_then(|node| node.name.clone());
            self.node = self.node.or(node);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_downward_api_is_believed_and_the_host_name_is_a_guess() {
        let env = |name: &str| match name {
            "POD_NAME" => Some("web-1".to_owned()),
            "POD_UID" => Some("u".to_owned()),
            "POD_IPS" => Some("10.0.0.7, fd00::7".to_owned()),
            "NODE_NAME" => Some(String::new()),
            _ => None,
        };
        let told = Identity::from_env(env, "shop", || Some("elsewhere".into()));
        assert_eq!((told.name.as_str(), told.guessed), ("web-1", false));
        assert_eq!(told.namespace, "shop");
        assert_eq!(told.addresses, ["10.0.0.7", "fd00::7"]);
        assert_eq!(told.node, None, "an empty variable says nothing");

        let guessed = Identity::from_env(|_| None, "shop", || Some("web-2".into()));
        assert_eq!((guessed.name.as_str(), guessed.guessed), ("web-2", true));
    }

    #[test]
    fn the_token_knows_better_than_the_host_name_and_not_better_than_the_downward_api() {
        let claims: Claims = serde_json::from_value(serde_json::json!({
            "kubernetes.io": {"pod": {"name": "web-0", "uid": "u1"}, "node": {"name": "n1"}},
        }))
        .expect("claims");
        let guessed = || Identity::from_env(|_| None, "shop", || Some("host".into()));
        let known = guessed().completed_by_token(Some(&claims));
        assert_eq!((known.name.as_str(), known.guessed), ("web-0", false));
        assert_eq!(
            (known.uid.as_deref(), known.node.as_deref()),
            (Some("u1"), Some("n1"))
        );

        let told = Identity::new("shop", "web-0")
            .uid("u9")
            .completed_by_token(Some(&claims));
        assert_eq!(told.uid.as_deref(), Some("u9"), "what was set is believed");
        let other = Identity::new("shop", "web-7").completed_by_token(Some(&claims));
        assert_eq!((other.name.as_str(), other.uid), ("web-7", None));
        assert_eq!(guessed().completed_by_token(None), guessed());
    }
}
