//! Objects and their history: what etcd is to the real one.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::NAMESPACE;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Pods,
    EndpointSlices,
    Services,
    Events,
    ConfigMaps,
    PersistentVolumeClaims,
    Deployments,
    ReplicaSets,
    StatefulSets,
    PodDisruptionBudgets,
    Roles,
    RoleBindings,
    SelfSubjectAccessReviews,
    SubjectAccessReviews,
}

/// How it can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Patch,
}

/// All objects, and what became of them since the last compaction.
#[derive(Default)]
pub struct Store {
    version: u64,
    compacted: u64,
    objects: BTreeMap<(Resource, String), Value>,
    history: Vec<Change>,
    /// Lists that are being read page by page: what is still to come.
    pages: HashMap<String, Pages>,
}

/// One change of one object.
#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub resource: Resource,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

#[derive(Clone)]
pub struct Pages {
    pub version: u64,
    pub rest: Vec<Value>,
}

// === impl Resource ===

impl Resource {
    pub const ALL: [Self; 14] = [
        Self::Pods,
        Self::EndpointSlices,
        Self::Services,
        Self::Events,
        Self::ConfigMaps,
        Self::PersistentVolumeClaims,
        Self::Deployments,
        Self::ReplicaSets,
        Self::StatefulSets,
        Self::PodDisruptionBudgets,
        Self::Roles,
        Self::RoleBindings,
        Self::SelfSubjectAccessReviews,
        Self::SubjectAccessReviews,
    ];

    /// (API group and version, plural, kind)
    pub fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Pods => ("v1", "pods", "Pod"),
            Self::Services => ("v1", "services", "Service"),
            Self::Events => ("events.k8s.io/v1", "events", "Event"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
            Self::ConfigMaps => ("v1", "configmaps", "ConfigMap"),
            Self::PersistentVolumeClaims => {
                ("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
            }
            Self::Deployments => ("apps/v1", "deployments", "Deployment"),
            Self::ReplicaSets => ("apps/v1", "replicasets", "ReplicaSet"),
            Self::StatefulSets => ("apps/v1", "statefulsets", "StatefulSet"),
            Self::PodDisruptionBudgets => {
                ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
            }
            Self::Roles => ("rbac.authorization.k8s.io/v1", "roles", "Role"),
            Self::RoleBindings => (
                "rbac.authorization.k8s.io/v1",
                "rolebindings",
                "RoleBinding",
            ),
            Self::SelfSubjectAccessReviews => (
                "authorization.k8s.io/v1",
                "selfsubjectaccessreviews",
                "SelfSubjectAccessReview",
            ),
            Self::SubjectAccessReviews => (
                "authorization.k8s.io/v1",
                "subjectaccessreviews",
                "SubjectAccessReview",
            ),
        }
    }

    /// The path of the collection.
    pub fn path(self) -> String {
        let (version, plural, _) = self.names();
        let root = if version == "v1" { "api" } else { "apis" };
        if let Self::SelfSubjectAccessReviews | Self::SubjectAccessReviews = self {
            return format!("/{root}/{version}/{plural}");
        }
        format!("/{root}/{version}/namespaces/{NAMESPACE}/{plural}")
    }
}

// === impl Store ===

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    pub fn get(&self, resource: Resource, name: &str) -> Option<&Value> {
        self.objects.get(&(resource, name.to_owned()))
    }

    pub fn all(&self, resource: Resource) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |((of, _), _)| *of == resource)
            .map(|(_, object)| object)
    }

    pub fn put(&mut self, resource: Resource, mut object: Value) {
        self.version += 1;
        let (version, _, kind) = resource.names();
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"]["namespace"] = json!(NAMESPACE);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = name(&object).to_owned();
        let before = self.objects.insert((resource, name), object.clone());
        self.remember(resource, before, Some(object));
    }

    pub fn remove(&mut self, resource: Resource, name: &str) {
        if let Some(mut before) = self.objects.remove(&(resource, name.to_owned())) {
            self.version += 1;
            before["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.remember(resource, Some(before), None);
        }
    }

    pub fn compact(&mut self) {
        // The version moves on, as it does in a cluster where other things happen as well.
        self.version += 1;
        self.compacted = self.version;
        self.history.clear();
        self.pages.clear();
    }

    /// What happened after this version.
    pub fn since(&self, version: u64) -> impl Iterator<Item = &Change> {
        self.history.iter().filter(move |c| c.version > version)
    }

    pub fn keep_pages(&mut self, pages: Pages) -> String {
        let token = format!("page{}", self.pages.len() + 1);
        self.pages.insert(token.clone(), pages);
        token
    }

    pub fn pages(&self, token: &str) -> Option<Pages> {
        self.pages.get(token).cloned()
    }

    fn remember(&mut self, resource: Resource, before: Option<Value>, after: Option<Value>) {
        self.history.push(Change {
            version: self.version,
            resource,
            before,
            after,
        });
    }
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
