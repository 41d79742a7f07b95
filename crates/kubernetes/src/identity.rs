//! Who this process is: which Pod, in which namespace.
//!
//! Nothing in a container says so by itself. The downward API does, if the Pod asks for it:
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
//! Without, the namespace is that of the service account's token, and the name is guessed from the host
//! name, which is the Pod's name unless `hostname`, `setHostnameAsFQDN` or `hostNetwork` is used. What else
//! is missing is learned from the own Pod, where that may be read.

/// Which Pod this process runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
    /// The name is the host name and may be wrong. Then "there is no such Pod" says nothing.
    pub guessed: bool,
    /// The Pod's uid. A name can be taken again (StatefulSet), a uid never is.
    pub uid: Option<String>,
    /// The Pod's addresses, one a family.
    pub addresses: Vec<String>,
    /// The node that it runs on.
    pub node: Option<String>,
    /// The container that this process is, where the Pod has several.
    pub container: Option<String>,
}

impl Identity {
    /// The Pod of this name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// With the Pod's uid.
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    /// With the name of this process's container.
    pub fn container(mut self, container: &str) -> Self {
        self.container = Some(container.to_owned());
        self
    }

    /// From the downward API's variables; `namespace` and `hostname` are used where they are not set.
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
}
