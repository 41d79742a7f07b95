"""As much of an API server as Helm's `lookup` and `lameduck doctor` ask: which kinds there are, and the objects that are there."""

import contextlib
import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

from tools import SCRATCH

NAMESPACE = "shop"
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
FORBIDDEN = NOT_FOUND | {"reason": "Forbidden", "code": 403}

# By group and version.
KINDS = {
    "v1": ["ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "ReplicaSet", "StatefulSet"],
    "discovery.k8s.io/v1": ["EndpointSlice"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
}


def root(version):
    return f"/{'apis' if '/' in version else 'api'}/{version}"


def discovery():
    """What an API server says of its kinds, by path."""
    groups = []
    answers = {
        "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, kinds in KINDS.items():
        resources = [{"name": f"{kind.lower()}s", "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": ["get"]}
                     for kind in kinds]
        answers[root(version)] = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        if "/" in version:
            group = {"groupVersion": version, "version": version.split("/")[1]}
            groups.append({"name": version.split("/")[0], "versions": [group], "preferredVersion": group})
    return answers


def answers_for(objects):
    answers = discovery()
    for version, kinds in KINDS.items():
        for kind in kinds:
            path = f"{root(version)}/namespaces/{NAMESPACE}/{kind.lower()}s"
            items = [o for o in objects if (o["apiVersion"], o["kind"]) == (version, kind)]
            answers[path] = {"apiVersion": version, "kind": f"{kind}List", "metadata": {"resourceVersion": "1"}, "items": items}
            answers |= {f"{path}/{o['metadata']['name']}": o for o in items}
    return answers


@contextlib.contextmanager
def cluster(objects):
    """Serves these objects, and yields a kubeconfig. Nothing may be written, and nobody reviews what is allowed."""
    answers = answers_for(objects)

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(answers.get(self.path.split("?")[0], NOT_FOUND))

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(FORBIDDEN)

        def answer(self, answer):
            body = json.dumps(answer).encode()
            self.send_response(answer.get("code", 200))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.NamedTemporaryFile("w", dir=SCRATCH, delete=False) as config:
        yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}]}, config)
    try:
        yield config.name
    finally:
        server.shutdown()
        server.server_close()


def installed(rendered):
    """The objects, and what their controllers would make of them: pods, and the slices that hold them."""
    objects = [o | {"metadata": o["metadata"] | {"namespace": NAMESPACE}} for o in rendered]
    workload = next(o for o in objects if o["kind"] in ("Deployment", "StatefulSet"))
    name, template = workload["metadata"]["name"], workload["spec"]["template"]
    owner = (workload["kind"], name)
    hash_ = "5d4f8c7b9d"
    if workload["kind"] == "Deployment":
        owner = ("ReplicaSet", f"{name}-{hash_}")
        objects.append({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {
            "name": owner[1], "namespace": NAMESPACE, "ownerReferences": [reference("Deployment", name)]}})
    pods = []
    for index in range(workload["spec"].get("replicas", 1)):
        pod = f"{owner[1]}-{index}"
        pods.append(pod)
        objects.append({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"] | {"nodeName": f"n{index}"}, "status": {
            "phase": "Running", "podIP": f"10.0.0.{index + 1}"}, "metadata": {
            "name": pod, "namespace": NAMESPACE, "uid": f"u{index}", "ownerReferences": [reference(*owner)],
            "labels": template["metadata"]["labels"] | {"pod-template-hash": hash_}}})
    for service in [o for o in objects if o["kind"] == "Service"]:
        objects.append({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {
                "name": f"{service['metadata']['name']}-abc", "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": service["metadata"]["name"]}},
            "endpoints": [{"addresses": [f"10.0.0.{index + 1}"], "conditions": {"ready": True},
                           "targetRef": {"kind": "Pod", "name": pod, "uid": f"u{index}"}} for index, pod in enumerate(pods)]})
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        objects += [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": claim["spec"], "metadata": {
            "name": f"{claim['metadata']['name']}-{pod}", "namespace": NAMESPACE}} for pod in pods]
    return objects


def reference(kind, name):
    return {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "o", "controller": True}
