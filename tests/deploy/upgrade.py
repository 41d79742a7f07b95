"""Values of an earlier chart keep working: an upgrade renders, and Kubernetes takes what it renders.

previous/ holds each released chart as it was packaged, and values that it took.
"""

import json
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from cases import DATABASE, DEMO
from tools import CHART, SCRATCH, equal, refuses, render, without_hooks

PREVIOUS = Path("tests/deploy/previous")

# What may be changed of a StatefulSet (Kubernetes 1.29, pkg/apis/apps/validation); revisionHistoryLimit came later.
MUTABLE = {"replicas", "ordinals", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"}


def versions():
    return sorted(file.stem for file in PREVIOUS.glob("*.json"))


def cases(version):
    return json.loads((PREVIOUS / f"{version}.json").read_text())


def fixed(o):
    """What Kubernetes refuses to change of an object that is there."""
    spec = o.get("spec", {})
    return {
        "StatefulSet": lambda: {key: value for key, value in spec.items() if key not in MUTABLE},
        "Deployment": lambda: spec["selector"],
        "Service": lambda: spec.get("clusterIP"),
        "RoleBinding": lambda: o["roleRef"],
        "Secret": lambda: o["type"],
        "ConfigMap": lambda: o.get("immutable"),
    }.get(o["kind"], lambda: None)()


def accepted(helm, version, release, values):
    before = render(helm, values, release, PREVIOUS / f"lameduck-{version}.tgz")
    after = render(helm, values, release, CHART, "--is-upgrade")
    index = {(o["kind"], o["metadata"]["name"]): o for o in after}
    for o in without_hooks(before):
        key = o["kind"], o["metadata"]["name"]
        equal(key in index, True, f"{key} is still there")
        equal(fixed(index[key]), fixed(o), f"what cannot be changed of {key}")
    return after


def reused(helm):
    """`helm upgrade --reuse-values` takes the old chart's defaults for the new one's: said, with the remedy."""
    chart = SCRATCH / f"reused-{helm}"
    shutil.copytree(CHART, chart)
    with tarfile.open(PREVIOUS / "lameduck-0.1.0.tgz") as package:
        (chart / "values.yaml").write_bytes(package.extractfile("lameduck/values.yaml").read())
    refuses(helm, DEMO, r"values of an older chart.*--reset-then-reuse-values", chart, "--is-upgrade")


# What the chart renders, by group and version.
KINDS = {
    "v1": ["ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
}


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
        answers[f"/{'apis' if '/' in version else 'api'}/{version}"] = {
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        if "/" in version:
            group = {"groupVersion": version, "version": version.split("/")[1]}
            groups.append({"name": version.split("/")[0], "versions": [group], "preferredVersion": group})
    return answers


class Cluster(BaseHTTPRequestHandler):
    """As much of an API server as `lookup` asks: which kinds there are, and one workload."""

    there = None
    answers = discovery()

    def do_GET(self):
        path = self.path.split("?")[0]
        answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        answer = self.answers.get(path, answer)
        if path == f"/apis/apps/v1/namespaces/shop/{self.there.lower()}s/lameduck":
            answer = {"kind": self.there, "apiVersion": "apps/v1", "metadata": {"name": "lameduck", "namespace": "shop"}}
        body = json.dumps(answer).encode()
        self.send_response(answer.get("code", 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def storage(helm):
    """An upgrade does not leave jobs behind where nobody sees them, unless that was accepted."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = SCRATCH / f"kubeconfig-{helm}"
    config.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}]}))
    options = ("--dry-run=server", "--disable-openapi-validation", f"--kubeconfig={config}", "--namespace=shop")
    try:
        for there, fits, moves, words in (
            ("StatefulSet", DEMO, DATABASE, r"on the volume data-lameduck-0, .*second release.*acceptStorageChange=true"),
            ("Deployment", DATABASE, DEMO, r"in a database, .*Set database\.existingSecret .*acceptStorageChange=true"),
        ):
            Cluster.there = there
            render(helm, fits, "lameduck", CHART, "--is-upgrade", *options)
            refuses(helm, moves, words, CHART, "--is-upgrade", *options)
            render(helm, moves | {"acceptStorageChange": True}, "lameduck", CHART, "--is-upgrade", *options)
    finally:
        server.shutdown()
        server.server_close()
