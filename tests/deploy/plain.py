"""The plain manifests: the same objects as the chart's."""

import copy
import json
import re
import shutil
import tomllib
from pathlib import Path

import rendered as objects_of
from cases import DATABASE, DEMO
from tools import SCRATCH, equal, objects, output, render, select, without_hooks, workload

KUSTOMIZE = Path("deploy/kustomize")

# overlay: the chart's values that it stands for
OVERLAYS = {"embedded": DEMO, "postgres": DATABASE}

# Helm's alone.
HELM = {"helm.sh/chart", "app.kubernetes.io/managed-by", "checksum/config"}


def kustomize(directory):
    return objects(output("kubectl", "kustomize", str(directory)))


def overlay(name):
    return kustomize(KUSTOMIZE / "overlays" / name)


def normalized(rendered):
    """Objects by kind and name, without what is Helm's alone and without the hash that kustomize puts on a ConfigMap's name."""
    rendered = copy.deepcopy(rendered)
    hashed = {o["metadata"]["name"]: re.sub(r"-[a-z0-9]{10}$", "", o["metadata"]["name"])
              for o in rendered if o["kind"] == "ConfigMap"}

    def clean(node):
        if isinstance(node, dict):
            node = {key: clean(value) for key, value in node.items() if key not in HELM}
            return {key: value for key, value in node.items() if not (key == "annotations" and value == {})}
        if isinstance(node, list):
            return [clean(item) for item in node]
        return node

    result = {}
    for o in map(clean, rendered):
        if o["kind"] == "ConfigMap":
            o["metadata"]["name"] = hashed[o["metadata"]["name"]]
            o["data"] = {file: tomllib.loads(text) for file, text in o["data"].items()}  # comments mean nothing
        if o["kind"] in ("StatefulSet", "Deployment"):
            for volume in o["spec"]["template"]["spec"]["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = hashed[volume["configMap"]["name"]]
        result[o["kind"], o["metadata"]["name"]] = o
    return result


def same_as_chart(name):
    chart, plain = normalized(without_hooks(render("helm-4", OVERLAYS[name]))), normalized(overlay(name))
    equal(sorted(plain), sorted(chart), "objects")
    for key in chart:
        equal(json.dumps(plain[key], sort_keys=True), json.dumps(chart[key], sort_keys=True), " ".join(key))


def own_overlay(name):
    """The overlay that the comment shows: another handler, another image, and a roll of the pods."""
    shipped = KUSTOMIZE / "overlays" / name
    lines = (shipped / "kustomization.yaml").read_text().splitlines()
    comment = "\n".join(line[1:] for line in lines if line.startswith("#     ") and not line.startswith("#     kubectl"))
    tree = SCRATCH / f"kustomize-{name}"
    shutil.copytree(KUSTOMIZE, tree)
    own = tree / "overlays/resize"
    own.mkdir()
    (own / "kustomization.yaml").write_text(comment)
    (own / "lameduck.toml").write_text((shipped / "lameduck.toml").read_text().replace('"3s"', '"4s"'))

    rendered = kustomize(own)
    spec = workload(rendered)["spec"]
    equal(spec["template"]["spec"]["containers"][0]["image"], "registry.example/resize:1.2.3", "image")
    equal(objects_of.settings(rendered)["exec"][-1], "4s", "handler")
    equal(spec["replicas"], 4 if "replicas:" in comment else 1, "replicas")
    config, before = select(rendered, "ConfigMap"), select(overlay(name), "ConfigMap")
    equal(config["metadata"]["name"] != before["metadata"]["name"], True, "name differs with the settings")
