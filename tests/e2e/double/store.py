"""The objects of a cluster, their versions, and whoever watches them. Knows nothing of what they mean."""

import copy
import threading
import time
import uuid

# group/version, plural, kind, namespaced
RESOURCES = [
    ("v1", "namespaces", "Namespace", False),
    ("v1", "configmaps", "ConfigMap", True),
    ("v1", "secrets", "Secret", True),
    ("v1", "services", "Service", True),
    ("v1", "serviceaccounts", "ServiceAccount", True),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", True),
    ("v1", "pods", "Pod", True),
    ("v1", "events", "Event", True),
    ("apps/v1", "deployments", "Deployment", True),
    ("apps/v1", "replicasets", "ReplicaSet", True),
    ("apps/v1", "statefulsets", "StatefulSet", True),
    ("batch/v1", "jobs", "Job", True),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", True),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", True),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", True),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", True),
    ("storage.k8s.io/v1", "storageclasses", "StorageClass", False),
]
BY_PLURAL = {plural: (version, kind, namespaced) for version, plural, kind, namespaced in RESOURCES}
SUBRESOURCES = {"deployments": ["scale"], "statefulsets": ["scale"], "pods": ["log", "exec", "eviction"]}


class Conflict(Exception):
    pass


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Store:
    def __init__(self):
        self.changed = threading.Condition(threading.RLock())
        self.version = 1
        self.objects = {}
        # Never compacted: it does not live for long.
        self.log = []
        # What each manager applied last, by object, for server-side apply.
        self.applied = {}

    def get(self, plural, namespace, name):
        with self.changed:
            return copy.deepcopy(self.objects.get((plural, namespace, name)))

    def all(self, plural, namespace=None):
        with self.changed:
            return [copy.deepcopy(o) for (p, n, _), o in self.objects.items() if p == plural and namespace in (None, n)]

    def create(self, plural, namespace, o):
        version, kind, namespaced = BY_PLURAL[plural]
        o = copy.deepcopy(o) | {"apiVersion": version, "kind": kind}
        meta = o.setdefault("metadata", {})
        if "name" not in meta:
            meta["name"] = meta.get("generateName", "") + uuid.uuid4().hex[:5]
        if namespaced:
            meta["namespace"] = namespace
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        with self.changed:
            if (plural, namespace, meta["name"]) in self.objects:
                raise Conflict(f'{plural} "{meta["name"]}" already exists')
            return self.write("ADDED", plural, namespace, o)

    def modify(self, plural, namespace, name, change):
        """`change` gets a copy, and alters it or returns another. None where there is no such object."""
        with self.changed:
            old = self.objects.get((plural, namespace, name))
            if old is None:
                return None
            new = copy.deepcopy(old)
            new = change(new) or new
            if new == old:
                return copy.deepcopy(old)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
            return self.write("MODIFIED", plural, namespace, new)

    def remove(self, plural, namespace, name, uid=None):
        with self.changed:
            o = self.objects.get((plural, namespace, name))
            if o is None or uid not in (None, o["metadata"]["uid"]):
                return None
            del self.objects[(plural, namespace, name)]
            self.applied.pop((plural, namespace, name), None)
            return self.write("DELETED", plural, namespace, copy.deepcopy(o), keep=False)

    def write(self, event, plural, namespace, o, keep=True):
        self.version += 1
        o["metadata"]["resourceVersion"] = str(self.version)
        if keep:
            self.objects[(plural, namespace, o["metadata"]["name"])] = o
        self.log.append((self.version, event, plural, namespace, o))
        self.changed.notify_all()
        return copy.deepcopy(o)

    def since(self, version, plural, namespace, timeout):
        """What has happened to this kind since; waits for it. Also the version that is seen by that."""
        with self.changed:
            self.changed.wait_for(lambda: self.version > version, timeout)
            events, index = [], len(self.log)
            while index and self.log[index - 1][0] > version:
                index -= 1
            for _, event, p, n, o in self.log[index:]:
                if p == plural and namespace in (None, n):
                    events.append((event, o))
            return events, self.version


def matches(o, labels):
    """A selector of equalities, as a mapping."""
    own = o["metadata"].get("labels") or {}
    return all(own.get(key) == value for key, value in labels.items())
