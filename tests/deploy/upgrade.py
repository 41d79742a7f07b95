"""Values of an earlier chart keep working: an upgrade renders, and Kubernetes takes what it renders.

previous/ holds each released chart as it was packaged (helm package helm/lameduck --destination tests/deploy/previous), and
release names and values that it took, by the name of the case.
"""

import json
import shutil
import tarfile
from pathlib import Path

from cases import DATABASE, DEMO
from cluster import cluster
from tools import CHART, SCRATCH, equal, refuses, render, without_hooks

PREVIOUS = Path("tests/deploy/previous")

# What may be changed of a StatefulSet (Kubernetes 1.29, pkg/apis/apps/validation); revisionHistoryLimit came later.
MUTABLE = {"replicas", "ordinals", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"}


def versions():
    return sorted(file.stem for file in PREVIOUS.glob("*.json"))


def cases(version):
    return json.loads((PREVIOUS / f"{version}.json").read_text())


def fixed(o):
    """What Kubernetes refuses to change of an object that is there, with what the API server fills in."""
    spec = o.get("spec", {})
    if claims := spec.get("volumeClaimTemplates"):
        filled = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        spec = spec | {"volumeClaimTemplates": [filled | claim | {"spec": {"volumeMode": "Filesystem"} | claim["spec"]} for claim in claims]}
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


def storage(helm):
    """An upgrade does not leave jobs behind where nobody sees them, unless that was accepted."""
    for there, fits, moves, words in (
        ("StatefulSet", DEMO, DATABASE, r"on the volume data-lameduck-0, .*second release.*acceptStorageChange=true"),
        ("Deployment", DATABASE, DEMO, r"in a database, .*Set database\.existingSecret .*acceptStorageChange=true"),
    ):
        with cluster([{"apiVersion": "apps/v1", "kind": there, "metadata": {"name": "lameduck", "namespace": "shop"}}]) as config:
            options = ("--is-upgrade", "--dry-run=server", "--disable-openapi-validation", f"--kubeconfig={config}", "--namespace=shop")
            render(helm, fits, "lameduck", CHART, *options)
            refuses(helm, moves, words, CHART, *options)
            render(helm, moves | {"acceptStorageChange": True}, "lameduck", CHART, *options)
