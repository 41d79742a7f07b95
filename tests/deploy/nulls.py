"""Null is the same as nothing: each value set to it, one at a time and all at once, renders as if it had not been set.

Everything that values.yaml and its schema have is found there, so that a new value cannot be forgotten.
"""

import copy
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import yaml

import effects
from cases import DEMO, EMBEDDED
from chart import SCHEMA, resolved
from tools import CHART, SCRATCH, equal, objects, refuses, run, values_file

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
NONSENSE = re.compile(r"%!|<nil>|<no value>|map\[")

# Where values.yaml says that null leaves the setting out.
REMOVABLE = set(yaml.safe_load(
    (CHART / "templates/_values.tpl").read_text().split('define "lameduck.removable" -}}')[1].split("{{- end")[0]))


def nodes(node=VALUES, path=()):
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from nodes(value, (*path, key))


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def merged(base, over):
    result = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def without(values, path):
    values = copy.deepcopy(values)
    node = values
    for key in path[:-1]:
        node = node.get(key)
        if not isinstance(node, dict):
            return values
    node.pop(path[-1], None)
    return values


def outcome(helm, *arguments, chart=CHART):
    """The objects, or what was said instead of them; never nonsense."""
    done = run(helm, "template", "lameduck", str(chart), "--kube-version=1.36.0", *arguments)
    found = NONSENSE.search(done.stdout + done.stderr)
    if found:
        raise AssertionError(f"{found[0]} in what {helm} renders of {arguments}\n{done.stderr}")
    # Which template it was that refused is the renderer's choice.
    return objects(done.stdout) if done.returncode == 0 else re.sub(r".*execution error at \(.*?\): ", "", done.stderr, flags=re.DOTALL)


def bases(path):
    """Values among which this one matters."""
    name = ".".join(path)
    found = [beside for key, (beside, _) in effects.CHANGES.items() if key == name or key.startswith(f"{name}.")][:1]
    return (found or [DEMO]) + [EMBEDDED]


def one(path):
    for base in bases(path):
        expected = outcome("helm-4", values_file(without(base, path)))
        if ".".join(path) in REMOVABLE:
            equal(isinstance(expected, str), False, f"{path}: it renders without")
        for helm, arguments in (
            ("helm-4", [values_file(merged(base, nested(path, None)))]),
            ("helm-3", [values_file(base), values_file(nested(path, None))]),
        ):
            found = outcome(helm, *arguments)
            if ".".join(path) in REMOVABLE:
                left = json.dumps(found)
                equal(isinstance(found, list) or "Set " in left, True, f"{'.'.join(path)}=null with {helm}: {left}")
            else:
                equal(found, expected, f"{'.'.join(path)}=null with {helm}")


def one_at_a_time():
    paths = list(nodes())
    equal(len(paths) > 150, True, "values")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, paths))


def all_at_once():
    """In a file, by --set, and by a parent chart."""
    leaves = [path for path in nodes() if path[:2] != ("handler", "demo") and ".".join(path) not in REMOVABLE]
    tops = [path for path in leaves if len(path) == 1 and path != ("handler",)]
    maps = [path for path in leaves if not any(other != path and other[:len(path)] == path for other in leaves)]
    for helm in ("helm-3", "helm-4"):
        expected = outcome(helm, values_file(DEMO))
        for some in (tops, maps):
            nulls = DEMO
            for path in some:
                nulls = merged(nulls, nested(path, None))
            equal(outcome(helm, values_file(nulls)), expected, f"a file with {helm}")
            said = ",".join(f"{'.'.join(path)}=null" for path in some)
            equal(outcome(helm, values_file(DEMO), "--set", said), expected, f"--set with {helm}")
            parent = SCRATCH / f"nulls-{helm}-{len(some)}"
            shutil.copytree(CHART, parent / "charts/lameduck")
            (parent / "Chart.yaml").write_text("apiVersion: v2\nname: parent\nversion: 1.0.0\n")
            (parent / "values.yaml").write_text(json.dumps({"lameduck": nulls}))
            equal(outcome(helm, chart=parent), expected, f"a parent chart with {helm}")


def by_comments():
    """As people do it: each line below a key commented out."""
    text = (CHART / "values.yaml").read_text()
    emptied = re.sub(r"^( +)(?=\S)", r"\1# ", text, flags=re.MULTILINE)
    equal(yaml.safe_load(emptied)["probes"], None, "probes")
    file = SCRATCH / "emptied.yaml"
    file.write_text(emptied.replace("handler:\n", "handler:\n  demo: true\n", 1))
    for helm in ("helm-3", "helm-4"):
        equal(outcome(helm, f"--values={file}"), outcome(helm, values_file(DEMO)), helm)


def lists(node=SCHEMA, path=()):
    node = resolved(node)
    if "array" in node.get("type", []):
        yield path
    for key, child in node.get("properties", {}).items():
        yield from lists(child, (*path, key))


def of_the_user():
    """What is in no values.yaml: settings of a queue and of `config`, labels, items of lists."""
    queue, config = (SCHEMA["definitions"][name]["properties"] for name in ("queue", "config"))
    expected = outcome("helm-4", values_file(DEMO | {"queues": {"a": {}}}))
    for helm in ("helm-3", "helm-4"):
        for settings in (None, dict.fromkeys(queue)):
            equal(outcome(helm, values_file(DEMO | {"queues": {"a": settings}})), expected, f"a queue with {helm}")
        values = DEMO | {"queues": {"a": {}}, "config": dict.fromkeys(config), "podLabels": {"a": None}, "commonAnnotations": {"a": None},
                         "nodeSelector": {"a": None}, "affinity": {"nodeAffinity": None}, "resources": {"limits": {"memory": None}}}
        found = outcome(helm, values_file(values))
        equal(isinstance(found, list), True, found)
        limits = {"affinity", "nodeSelector"} & set(next(o for o in found if o["kind"] == "StatefulSet")["spec"]["template"]["spec"])
        equal("null" in json.dumps(found), False, f"nulls in what {helm} renders, {limits}")
    found = [path for path in lists() if path[-1] != "resources"]
    equal(len(found) > 20, True, "lists")
    for path in found:
        refuses("helm-4", merged(DEMO, nested(path, [None])), rf"{re.escape('.'.join(path))}\[0\] is empty \(null\)\. Take it out")
