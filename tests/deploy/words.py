"""A text stays that text: words that YAML reads as something else arrive as they were given, wherever the values take any.

Each value that takes a text gets a placeholder, and then each word instead of it. To replace the placeholder in what was rendered
and to render the word have to be the same, by readers of YAML 1.1 and of 1.2.
"""

import copy
import json
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor

import yaml

from chart import SCHEMA, notes_of, resolved
from tools import CHART, equal, refuses, run, values_file, workload

WORDS = ["7e10", "1e3", "0x1f", "0o17", "017", "007", "08", "1_000", "1.0", "1.10", "0b1", "+1", "-1", ".5", "1e-3", "12:30:45", "2026-01-01",
         "2026-01-01T00:00:00Z", "on", "off", "yes", "no", "y", "n", "Yes", "NO", "true", "False", "null", "Null", "~", ".inf", "-.INF",
         ".nan", "=", "<<", "0", "1", "---", "...", "-", "?", ":", "a: b", "a #b", "# a", "- a", "*a", "&a", "!a", "!!int 1", "%a", "@a",
         "`a`", "{a}", "[a]", "'a'", '"a"', "a\\b", "\\x41", "tab\t", "new\nline\n", " a ", "é🦆", "\u2028", "\ufeff"]
# What YAML takes for no text at all, or for the end of a line.
CONTROLS = ["\x7f", "\x80", "\x85", "\x9f"]
PLACEHOLDER = "q7placeholder"
# Of labels and annotations. The fields of objects that Kubernetes checks itself are letters.
KEY = {"pattern": r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z"}


class Core(yaml.CSafeLoader):
    """YAML 1.2, core schema (10.3.2). Sugar on top: numbers as YAML 1.1 may write them, which PyYAML does not take for any."""

    yaml_implicit_resolvers = {}


for tag, pattern in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F_]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), None)
for tag in ("int", "float"):
    # As something that is no text; its value is nobody's concern.
    Core.add_constructor(f"tag:yaml.org,2002:{tag}", lambda loader, node: (node.value,) if not node.value.isdigit() else int(node.value))


class Old(yaml.CSafeLoader):
    """YAML 1.1, where `=` and `<<` have types of their own. As values every reader takes them for texts, but PyYAML for errors."""


for tag in ("value", "merge"):
    Old.add_constructor(f"tag:yaml.org,2002:{tag}", Old.construct_yaml_str)


READERS = {
    "YAML 1.1": lambda text: [o for o in yaml.load_all(text, Old) if o],
    "YAML 1.2": lambda text: [o for o in yaml.load_all(text, Core) if o],
}

# Each takes no other value beside it, or gives a meaning to others; the second with what wants a database.
EXCLUDED = {"handler.demo", "handler.http", "database", "auth.tokens", "replicaCount", "enabled", "global", "config", "service",
            "serviceMonitor", "keda", "autoscaling", "terminationGracePeriodSeconds", "extraObjects", "queues", "image.digest"}
ITEM = {"metrics": {"type": PLACEHOLDER}, "pullSecrets": {"name": PLACEHOLDER}, "extraEnv": {"name": "A", "value": PLACEHOLDER}}
EMBEDDED = {
    "service": {"type": "LoadBalancer", "annotations": {PLACEHOLDER: PLACEHOLDER}, "loadBalancerClass": PLACEHOLDER,
                "loadBalancerSourceRanges": [PLACEHOLDER]},
    "queues": {PLACEHOLDER: {"exec": [PLACEHOLDER]}, "other": {}},
    "config": {"report": PLACEHOLDER, "teardown-hook": [{"name": PLACEHOLDER, "run": [PLACEHOLDER], "remove": PLACEHOLDER}]},
}
DATABASE = {
    "handler": {"http": {"url": f"http://{PLACEHOLDER}/", "existingSecret": PLACEHOLDER, "existingSecretKey": PLACEHOLDER}},
    "database": {"url": f"postgres://{PLACEHOLDER}"},
    "auth": {"tokens": [PLACEHOLDER]},
    "serviceMonitor": {"enabled": True, "labels": {PLACEHOLDER: PLACEHOLDER}, "relabelings": [{"replacement": PLACEHOLDER}]},
    "keda": {"enabled": True, "prometheusAddress": f"http://{PLACEHOLDER}", "authenticationRef": PLACEHOLDER},
    "serviceAccount": {"create": False, "name": PLACEHOLDER},
}


def example(node, path, word):
    """This word in every place of a value that takes a text, and takes it."""
    node = resolved(node)
    name = ".".join(path)
    if name in EXCLUDED:
        return None
    kinds = node.get("type", [])
    if "properties" in node and "object" in kinds:
        found = {key: example(child, (*path, key), word) for key, child in node["properties"].items()}
        if "enabled" in found:
            found["enabled"] = True
        return {key: value for key, value in found.items() if value is not None}
    if "string" in kinds and "enum" not in node:
        return word if takes(node, word) else None
    if kinds == ["array", "null"]:
        item = resolved(node["items"])
        if "string" in item.get("type", []):
            return [word] if takes(item, word) else None
        return [copy.deepcopy(ITEM.get(path[-1], {PLACEHOLDER: PLACEHOLDER}))]
    if "additionalProperties" in node and kinds == ["object", "null"]:
        value = resolved(node["additionalProperties"])
        return {"example.com/a": word if takes(value, word) else "a", **({word: "a"} if is_key(path[-1], word) else {})}
    return None


def is_key(name, word):
    """Whether a map of this name may have such a key."""
    kind = SCHEMA["properties"][name]["propertyNames"] if name == "queues" else KEY
    return fits(kind, word)


def fits(node, word):
    return re.search(node.get("pattern", ""), word) is not None


def takes(node, word):
    return fits(node, word) and len(word) <= node.get("maxLength", 1000)


def replaced(node, word):
    """The same tree with the word in place of the placeholder, settings by their meaning."""
    if isinstance(node, dict):
        found = {replaced(key, word): replaced(value, word) for key, value in node.items() if not str(key).startswith("checksum/")}
        if isinstance(found.get("lameduck.toml"), str):
            found["lameduck.toml"] = tomllib.loads(found["lameduck.toml"])
        return found
    if isinstance(node, list):
        return [replaced(item, word) for item in node]
    return node.replace(PLACEHOLDER, word) if isinstance(node, str) else node


def settled(node):
    return {key: tomllib.loads(value) if key == "lameduck.toml" else value for key, value in node.items()}


def rendered(helm, values, release="jobs", *options):
    done = run(helm, "template", release, str(CHART), values_file(values), "--kube-version=1.36.0", *options)
    if done.returncode:
        raise AssertionError(f"{done.stderr.strip()}\n{json.dumps(values)}")
    # A dashboard is a page of Grafana's, and takes long to read.
    parts = [part for part in done.stdout.split("\n---") if "grafana_dashboard" not in part and "PrometheusRule" not in part]
    return "\n---".join(parts)


def values_with(word, more):
    base = example(SCHEMA, (), word)
    for path in ("nameOverride", "fullnameOverride", "prometheusRule", "preStopSleepSeconds", "podSecurityContext", "securityContext"):
        base.pop(path, None)
    base |= {"podMonitor": base["podMonitor"] | {"enabled": "serviceMonitor" not in more}}
    for key, value in more.items():
        base[key] = value
    if "database" in more:
        base.pop("persistence")
    base.setdefault("handler", {}).setdefault("http", {})
    if "database" not in more:
        base["handler"] = {"exec": [word]}
        base["auth"] = {key: value for key, value in base.get("auth", {}).items()} | {"existingSecret": "tokens"}
    return base


def texts(values, word):
    """The placeholder by the word, but where the schema takes no such word."""
    def visit(value, node, name=""):
        node = resolved(node or {})
        if isinstance(value, dict):
            properties, others = node.get("properties", {}), node.get("additionalProperties")
            others = others if isinstance(others, dict) else {}
            return {key.replace(PLACEHOLDER, word if is_key(name, word) else "other"): visit(item, properties.get(key, others), key)
                    for key, item in value.items()}
        if isinstance(value, list):
            return [visit(item, node.get("items")) for item in value]
        if isinstance(value, str) and PLACEHOLDER in value:
            new = value.replace(PLACEHOLDER, word)
            choices = [resolved(choice) for choice in node.get("anyOf", [node])]
            if not any(takes(choice, new) for choice in choices if "string" in choice.get("type", ["string"])):
                return value.replace(PLACEHOLDER, "other")
            return new
        return value
    return visit(values, SCHEMA)


def arrive(word):
    for more in (EMBEDDED, DATABASE):
        base = values_with(PLACEHOLDER, more)
        given = texts(base, word)
        # What takes no such word has another one, with and without it.
        expected_values = expected_of(base, given, word)
        before, after = rendered("helm-4", expected_values), rendered("helm-4", given)
        for name, read in READERS.items():
            try:
                found = [replaced(o, word) for o in read(after)]
            except Exception as error:
                raise AssertionError(f"{word!r}: {name} cannot read it: {error}") from None
            equal(found, [replaced(o, word) for o in settled_all(read(before))], f"{word!r}, by a reader of {name}")


def controls():
    """They are refused by name, since Helm would leave out in silence whatever they are in."""
    for character in CONTROLS:
        word = f"a{character}b"
        for name, values in {
            "handler.exec": {"handler": {"exec": [word]}},
            "podAnnotations.a": {"podAnnotations": {"a": word}},
            "schedulerName": {"schedulerName": word},
            "networkPolicy.egress[0].a": {"networkPolicy": {"egress": [{"a": word}]}},
        }.items():
            named = rf"{re.escape(name)}.* holds a control character, which YAML cannot carry.* Take it out"
            refuses("helm-4", DEMO | values, named)
            # Helm 3 refuses most of them itself, before any template is rendered.
            refuses("helm-3", DEMO | values, f"{named}|control characters are not allowed")


def settled_all(found):
    """Settings as trees, before anything is replaced in them."""
    for o in found:
        if isinstance(o.get("data"), dict) and "lameduck.toml" in o["data"]:
            o["data"] = settled(o["data"])
    return found


def expected_of(base, given, word):
    """`given`, with the placeholder where the word is in the place of one."""
    if isinstance(base, dict):
        return {key if PLACEHOLDER in key and key.replace(PLACEHOLDER, word) == new else new: expected_of(base[key], given[new], word)
                for key, new in zip(base, given)}
    if isinstance(base, list):
        return [expected_of(old, new, word) for old, new in zip(base, given)]
    return base if isinstance(base, str) and base.replace(PLACEHOLDER, word) == given else given


def all_words():
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(arrive, WORDS))


RELEASES = ["7e10", "1e3", "0x1f", "0o17", "007", "0", "2026-01-01", "on", "off", "yes", "no", "y", "true", "null"]


def releases():
    """Releases, namespaces and whole names of objects."""
    for word in RELEASES:
        for values in ({}, {"fullnameOverride": word}, {"nameOverride": word}):
            for more in ({}, {"database": {"existingSecret": "a"}}):
                for helm in ("helm-3", "helm-4"):
                    text = rendered(helm, {"handler": {"demo": True}} | values | more, word, f"--namespace={word}")
                    for name, read in READERS.items():
                        found = read(text)
                        own = workload(found)
                        labels = own["spec"]["selector"]["matchLabels"]
                        equal(labels["app.kubernetes.io/instance"], word, f"instance by {name}")
                        equal(own["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/instance"], word, f"instance by {name}")
                        for o in found:
                            equal([type(text) for text in (*o["metadata"]["labels"].values(), o["metadata"]["name"])],
                                  [str] * (len(o["metadata"]["labels"]) + 1), f"names and labels by {name}")
    # The notes name them too.
    equal("--namespace 7e10" in notes_of({"handler": {"demo": True}}, "--namespace=7e10"), True, "notes")


DEMO = {"handler": {"demo": True}}
# (release, values, options, what is said)
NO_NAMES = [
    ("7e10", {}, ["--kube-version=1.35.0"], r'called "7e10-lameduck", after the release "7e10".*begin with a letter.*fullnameOverride.*lameduck-7e10'),
    ("jobs.v2", {}, [], r'called "jobs\.v2-lameduck".*no name for a Service.*fullnameOverride.*jobs-v2-lameduck'),
    ("jobs", {"fullnameOverride": "Jobs"}, [], r'called "Jobs", after fullnameOverride="Jobs".*for example to jobs'),
    ("jobs", {"fullnameOverride": "a_b"}, [], r'fullnameOverride="a_b".*for example to a-b'),
    ("jobs", {"fullnameOverride": "-a"}, [], r'fullnameOverride="-a".*for example to a'),
    ("jobs", {"fullnameOverride": "..."}, [], r'fullnameOverride="\.\.\.".*for example to lameduck'),
    ("jobs", {"nameOverride": "Queue"}, [], r'release "jobs" and nameOverride="Queue".*for example to jobs-queue'),
    ("jobs", {}, ["--namespace=Shop"], r'no namespace "Shop".*--namespace'),
]


def no_names():
    for release, values, options, words in NO_NAMES:
        for helm in ("helm-3", "helm-4"):
            done = run(helm, "template", release, str(CHART), values_file(DEMO | values), *options)
            equal(done.returncode != 0 and re.search(words, re.sub(r"\s+", " ", done.stderr)) is not None, True, f"{words}\n{done.stderr}")


def schema_names():
    """Every value that is the name of something in Kubernetes refuses what Kubernetes refuses."""
    def visit(node, path):
        reference = node.get("$ref", "").rsplit("/", 1)[-1]
        if reference in ("object", "key", "qualified"):
            yield path, "~"
        elif reference == "labels":
            yield path, {"a": "~"}
            yield path, {"~": "a"}
        elif reference == "annotations":
            yield path, {"~": "a"}
        else:
            for key, child in resolved(node).get("properties", {}).items():
                yield from visit(child, (*path, key))
    found = list(visit(SCHEMA, ()))
    equal(len(found) > 30, True, "names")
    for path, value in found:
        values = value
        for key in reversed(path):
            values = {key: values}
        refuses("helm-4", DEMO | values if path[0] != "handler" else {"handler": {"demo": True, **values["handler"]}},
                rf"{re.escape('.'.join(path))}.*(pattern|a key)")


def cut():
    """A name that was cut ends in what a name may end in."""
    for release, values in (("a" * 51 + "-b", {}), ("a" * 50 + "--b", {}), ("a", {"nameOverride": "b" * 49 + "--c"}),
                            ("a", {"fullnameOverride": "b" * 51 + "-c"}), ("a", {"fullnameOverride": "b", "nameOverride": "c" * 62 + "._d"})):
        for o in READERS["YAML 1.1"](rendered("helm-4", DEMO | values, release)):
            for text in (o["metadata"]["name"], *o["metadata"]["labels"].values()):
                equal(re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", text) is not None, True, text)
