"""What Kubernetes' controllers do, in one loop: workloads make pods, slices follow pods, budgets count them."""

import copy
import hashlib
import json
import threading
import time

from store import matches

# What the API server fills in, as far as somebody looks.
DEFAULTS = {
    "deployments": {"replicas": 1, "minReadySeconds": 0},
    "statefulsets": {"replicas": 1, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}, "revisionHistoryLimit": 10},
}


def ready(pod):
    return "deletionTimestamp" not in pod["metadata"] and condition(pod, "Ready") is not None


def condition(pod, kind):
    return next((c for c in pod.get("status", {}).get("conditions") or [] if c["type"] == kind and c["status"] == "True"), None)


def owner(o):
    return {"apiVersion": o["apiVersion"], "kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True}


def owned(o, by):
    return any(reference["uid"] == by["metadata"]["uid"] for reference in o["metadata"].get("ownerReferences") or [])


def hashed(template):
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


class Cluster:
    def __init__(self, store, network, faults):
        self.store, self.network, self.faults = store, network, faults
        self.kubelet = None
        self.since = {}
        threading.Thread(target=self.loop, daemon=True).start()

    def loop(self):
        while True:
            for plural, reconcile in (("deployments", self.deployment), ("statefulsets", self.statefulset), ("services", self.service),
                                      ("poddisruptionbudgets", self.budget)):
                for o in self.store.all(plural):
                    reconcile(o)
            self.orphans()
            time.sleep(0.1)

    def defaulted(self, plural, o):
        if plural in DEFAULTS:
            o["spec"] = DEFAULTS[plural] | o["spec"]
        if plural == "pods":
            o["spec"].setdefault("terminationGracePeriodSeconds", 30)
            o["spec"].setdefault("restartPolicy", "Always")
            o["status"] = {"phase": "Pending"}
        return o

    # --- pods ---

    def delete_pod(self, pod, grace):
        """A second deletion may shorten the time, and never prolongs it."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        grace = pod["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
        if grace == 0:
            return self.store.remove("pods", namespace, name)

        def marked(o):
            if grace < o["metadata"].get("deletionGracePeriodSeconds", 1 << 30):
                o["metadata"]["deletionGracePeriodSeconds"] = grace
                o["metadata"]["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + grace))
        return self.store.modify("pods", namespace, name, marked)

    def make_pod(self, by, name, template, labels):
        template = copy.deepcopy(template)
        meta = template.get("metadata", {})
        meta = {"name": name, "labels": meta.get("labels", {}) | labels, "annotations": meta.get("annotations", {}), "ownerReferences": [owner(by)]}
        return self.store.create("pods", by["metadata"]["namespace"], self.defaulted("pods", {"metadata": meta, "spec": template["spec"]}))

    def orphans(self):
        alive = {o["metadata"]["uid"] for plural in ("deployments", "statefulsets", "replicasets") for o in self.store.all(plural)}
        for plural in ("replicasets", "pods"):
            for o in self.store.all(plural):
                references = o["metadata"].get("ownerReferences")
                if references and references[0]["uid"] not in alive and "deletionTimestamp" not in o["metadata"]:
                    if plural == "pods":
                        self.delete_pod(o, None)
                    else:
                        self.store.remove(plural, o["metadata"]["namespace"], o["metadata"]["name"])

    def delete_namespace(self, name):
        for plural, namespace, key in list(self.store.objects):
            if namespace == name:
                self.store.remove(plural, namespace, key)

    # --- workloads ---

    def statefulset(self, o):
        namespace, name, spec = o["metadata"]["namespace"], o["metadata"]["name"], o["spec"]
        revision = f"{name}-{hashed(spec['template'])}"
        pods = [pod for pod in self.store.all("pods", namespace) if owned(pod, o)]
        claim = spec["volumeClaimTemplates"][0]
        if self.store.get("persistentvolumeclaims", namespace, f"{claim['metadata']['name']}-{name}-0") is None:
            self.store.create("persistentvolumeclaims", namespace, {
                "metadata": {"name": f"{claim['metadata']['name']}-{name}-0"}, "spec": claim["spec"], "status": {"phase": "Bound"}})
        for pod in pods:
            outdated = pod["metadata"]["labels"]["controller-revision-hash"] != revision
            if "deletionTimestamp" not in pod["metadata"] and (outdated or spec["replicas"] == 0):
                self.delete_pod(pod, None)
        if not pods and spec["replicas"]:
            template = copy.deepcopy(spec["template"])
            template["spec"].setdefault("volumes", []).append({"name": claim["metadata"]["name"], "persistentVolumeClaim": {
                "claimName": f"{claim['metadata']['name']}-{name}-0"}})
            self.make_pod(o, f"{name}-0", template, {"controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": f"{name}-0"})
        updated = [pod for pod in pods if pod["metadata"]["labels"]["controller-revision-hash"] == revision]
        count = len([pod for pod in updated if ready(pod)])
        # Where all are of the new revision it becomes the current one.
        current = revision if len(updated) == len(pods) == spec["replicas"] else o.get("status", {}).get("currentRevision", revision)
        self.tell("statefulsets", o, {
            "replicas": len(pods), "readyReplicas": len([pod for pod in pods if ready(pod)]), "availableReplicas": count, "updatedReplicas": len(updated),
            "currentReplicas": len(pods), "currentRevision": current, "updateRevision": revision, "collisionCount": 0})

    def deployment(self, o):
        namespace, name, spec = o["metadata"]["namespace"], o["metadata"]["name"], o["spec"]
        revision = hashed(spec["template"])
        sets = [s for s in self.store.all("replicasets", namespace) if owned(s, o)]
        if not any(s["metadata"]["name"] == f"{name}-{revision}" for s in sets):
            labels = {"pod-template-hash": revision}
            template = copy.deepcopy(spec["template"])
            template["metadata"]["labels"] |= labels
            self.store.create("replicasets", namespace, {
                "metadata": {"name": f"{name}-{revision}", "labels": template["metadata"]["labels"], "ownerReferences": [owner(o)]},
                "spec": {"replicas": 0, "selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}, "status": {}})
            return
        by_set = {s["metadata"]["name"]: [pod for pod in self.store.all("pods", namespace) if owned(pod, s) and "deletionTimestamp" not in pod["metadata"]]
                  for s in sets}
        new = next(s for s in sets if s["metadata"]["name"] == f"{name}-{revision}")
        fresh = by_set[new["metadata"]["name"]]
        old = [pod for key, pods in by_set.items() if key != new["metadata"]["name"] for pod in pods]
        available = [pod for pod in fresh + old if self.is_available(pod, spec["minReadySeconds"])]
        # maxSurge 25 % of some is one; maxUnavailable is 0 in the chart.
        surge = max(1, -(-spec["replicas"] // 4))
        for _ in range(min(spec["replicas"] - len(fresh), spec["replicas"] + surge - len(fresh) - len(old))):
            self.make_pod(new, f"{new['metadata']['name']}-{hashed(time.time())[:5]}", new["spec"]["template"], {})
        surplus = len(available) - spec["replicas"]
        for pod in (old or fresh)[:max(0, surplus if old else min(surplus, len(fresh) - spec["replicas"]))]:
            self.delete_pod(pod, None)
        for s in sets:
            pods = by_set[s["metadata"]["name"]]
            self.tell("replicasets", s, {"replicas": len(pods), "readyReplicas": len([pod for pod in pods if ready(pod)]),
                                         "availableReplicas": len([pod for pod in pods if pod in available])})
            self.store.modify("replicasets", namespace, s["metadata"]["name"], lambda s, n=len(pods): s["spec"].update(replicas=n))
        self.tell("deployments", o, {
            "replicas": len(fresh) + len(old), "updatedReplicas": len(fresh), "readyReplicas": len([pod for pod in fresh + old if ready(pod)]),
            "availableReplicas": len(available), "unavailableReplicas": max(0, spec["replicas"] - len(available)),
            "conditions": [{"type": "Available", "status": "True" if len(available) >= spec["replicas"] else "False", "reason": "x", "message": ""},
                           {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": ""}]})

    def is_available(self, pod, seconds):
        uid = pod["metadata"]["uid"]
        if not ready(pod):
            self.since.pop(uid, None)
            return False
        return time.monotonic() - self.since.setdefault(uid, time.monotonic()) >= seconds

    def tell(self, plural, o, status):
        status = status | {"observedGeneration": o["metadata"]["generation"]}
        self.store.modify(plural, o["metadata"]["namespace"], o["metadata"]["name"], lambda o: o.update(status=status))

    # --- Services and budgets ---

    def service(self, o):
        namespace, name = o["metadata"]["namespace"], o["metadata"]["name"]
        pods = [pod for pod in self.store.all("pods", namespace) if matches(pod, o["spec"]["selector"]) and pod.get("status", {}).get("podIP")
                and pod["status"]["phase"] == "Running"]
        if "routes-on" in self.faults and any("deletionTimestamp" in pod["metadata"] for pod in pods):
            return
        ports = [{"name": port.get("name", ""), "protocol": "TCP", "port": number(port["targetPort"], pods)} for port in o["spec"]["ports"]]
        wanted = {"addressType": "IPv4", "ports": ports, "endpoints": [self.endpoint(pod) for pod in pods]}
        slice_name = f"{name}-abcde"
        if self.store.get("endpointslices", namespace, slice_name) is None:
            self.store.create("endpointslices", namespace, wanted | {"metadata": {
                "name": slice_name, "labels": {"kubernetes.io/service-name": name}, "ownerReferences": [owner(o)]}})
        else:
            self.store.modify("endpointslices", namespace, slice_name, lambda s: s.update(wanted))

    def endpoint(self, pod):
        """As the controller's podToEndpoint does it: a terminating pod is never ready, and stays."""
        serving, terminating = condition(pod, "Ready") is not None, "deletionTimestamp" in pod["metadata"]
        return {"addresses": [pod["status"]["podIP"]], "conditions": {"ready": serving and not terminating, "serving": serving, "terminating": terminating},
                "nodeName": pod["spec"]["nodeName"], "targetRef": {
                    "kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}}

    def disruptions_allowed(self, budget):
        pods = [pod for pod in self.store.all("pods", budget["metadata"]["namespace"]) if matches(pod, budget["spec"]["selector"]["matchLabels"])]
        expected = sum(o["spec"]["replicas"] for plural in ("deployments", "statefulsets") for o in self.store.all(plural, budget["metadata"]["namespace"]))
        return max(0, len([pod for pod in pods if ready(pod)]) - (expected - budget["spec"]["maxUnavailable"]))

    def budget(self, o):
        self.tell("poddisruptionbudgets", o, {"disruptionsAllowed": self.disruptions_allowed(o), "conditions": []})


def number(port, pods):
    if isinstance(port, int):
        return port
    return next((p["containerPort"] for pod in pods for c in pod["spec"]["containers"] for p in c.get("ports", []) if p["name"] == port), None)
