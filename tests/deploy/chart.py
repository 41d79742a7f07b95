"""Checks of the chart as a whole."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml

import program
import rendered as objects_of
from cases import CASES, DATABASE, DEMO, EXEC, PRE_STOP, QUEUES
from tools import CHART, SCRATCH, equal, output, refuses, render, run, select, values_file, workload

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Known to the schema, and no settings.
BEYOND = {"global", "enabled", "replicaCount"}


def lint(helm, values):
    # `fail` does not fail a lint: what the template refuses is checked by REFUSED.
    output(helm, "lint", "--strict", str(CHART), values_file(values))


def resolved(node):
    return SCHEMA["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def levels(node, path):
    """Every object of the schema whose keys are ours."""
    node = resolved(node)
    if "properties" in node:
        yield path
        for key, child in node["properties"].items():
            yield from levels(child, path + [key])
    if "propertyNames" in node:
        yield from levels(node["additionalProperties"], path + ["example"])


def strict(helm):
    """At every level of the values an unknown key, which is a typing error, is refused."""
    found = list(levels(SCHEMA, []))
    equal(len(found) > 25, True, "levels of the schema")
    # In one rendering, since the schema says all that is wrong.
    values = copy.deepcopy(DEMO)
    for path in found:
        node = values
        for key in path:
            node = node.setdefault(key, {})
        node["typo"] = 1
    said = run(helm, "template", "lameduck", str(CHART), values_file(values)).stderr
    for path in found:
        place = re.escape("/".join(path)).replace("/", "[./]")
        if not re.search(rf"(at '/?{place}'|[ -]{place or '.root.'}):[^\n]*typo[^\n]*not allowed", said):
            raise AssertionError(f"a typing error in {'.'.join(path) or 'the values'} was accepted\n{said}")


def complete():
    """Every setting that the schema knows is in values.yaml, with a comment."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    equal(set(values), set(SCHEMA["properties"]) - BEYOND, "settings")
    for path in levels(SCHEMA, []):
        # Maps of the user's own.
        if path and not {"queues", "config"} & set(path):
            node, known = values, SCHEMA
            for key in path:
                node, known = node[key], resolved(known["properties"][key])
            equal(set(node), set(known["properties"]), f"settings of {'.'.join(path)}")
    # A comment holds for the settings that follow it without an empty line between.
    for paragraph in text.split("\n\n"):
        equal(paragraph.lstrip().startswith("#"), True, f"documented:\n{paragraph}")


def every_setting_of_the_program():
    """Whatever docs/configuration.md has can be set, by a value or by `config`; and for a queue and a hook."""
    tables = program.documented()
    config = set(SCHEMA["definitions"]["config"]["properties"]) - {"teardown-hook"}
    remedy = "settings that helm/lameduck/values.schema.json does not know (definitions config, queue, hook)"
    equal(sorted((tables["of the process"] | tables["of a queue"]) - config), [], remedy)
    equal(sorted(tables["of a queue"]), sorted(SCHEMA["definitions"]["queue"]["properties"]), remedy)
    equal(sorted(tables["of a teardown hook"]), sorted(SCHEMA["definitions"]["hook"]["properties"]), remedy)


def owned(helm):
    """What the chart sets itself is refused in `config`, with the value that it is set by."""
    text = (CHART / "templates/_validate.tpl").read_text().split('define "lameduck.owned"')[1].split("{{- end -}}")[0]
    remedies = yaml.safe_load(text.split("-}}", 1)[1])
    known = SCHEMA["definitions"]["config"]["properties"]
    equal(sorted(remedies), sorted(key for key, node in known.items() if node == {}), "settings that the chart sets itself")
    for key, remedy in remedies.items():
        refuses(helm, DEMO | {"config": {key: "x"}}, rf"config sets {key}, .*instead: {re.escape(remedy)}")


def dependency(helm):
    parent = SCRATCH / f"parent-{helm}"
    shutil.copytree(CHART, parent / "charts/lameduck")
    (parent / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\n"
        "dependencies: [{name: lameduck, version: '*', condition: lameduck.enabled}]\n")
    values = {"global": {"region": "eu"}, "lameduck": DEMO | {"enabled": True}}
    objects_of.all_of(render(helm, values, "shop", parent), DEMO)


def kubernetes_versions(helm):
    for version in ("1.29.0", "1.31.5-gke.100", "1.36.2"):
        render(helm, DEMO, "lameduck", CHART, "--kube-version", version)
    done = run(helm, "template", "lameduck", str(CHART), values_file(DEMO), "--kube-version", "1.28.9")
    equal(done.returncode != 0 and "incompatible" in done.stderr, True, "1.28 was accepted")
    render(helm, PRE_STOP, "lameduck", CHART, "--kube-version", "1.30.1-eks-7")
    refuses(helm, PRE_STOP, r"preStopSleepSeconds needs Kubernetes 1\.30, and this is v1\.29\.0", CHART, "--kube-version", "1.29.0")


def rolls(helm):
    def annotations(values):
        return workload(render(helm, values))["spec"]["template"]["metadata"]["annotations"]

    equal(annotations(DEMO) != annotations(DEMO | {"workers": 7}), True, "the pod changes with the settings")
    equal(annotations(DEMO) == annotations(DEMO | {"service": {"port": 80}}), True, "it stays with the settings")
    equal(annotations(DATABASE) == annotations(DATABASE | {"replicas": 5}), True, "it stays when it is scaled")
    url = DEMO | {"database": {"url": "postgres://a:first@b/c"}}
    other = DEMO | {"database": {"url": "postgres://a:other@b/c"}}
    equal(annotations(url) != annotations(other), True, "it changes with a Secret of the chart's that is read at the start")
    tokens = [DEMO | {"auth": {"tokens": [token]}} for token in ("first", "other")]
    equal(annotations(tokens[0]) == annotations(tokens[1]), True, "it stays with tokens, which are read again")


# --- the grace period

# (values, grace period)
GRACE = [
    (DEMO, 30),
    (EXEC | {"timeout": "20s"}, 30),
    (EXEC | {"timeout": "20s1ms"}, 31),
    (EXEC | {"timeout": "90s", "preStopSleepSeconds": 5}, 105),
    (EXEC | {"extraEnv": [{"name": "LAMEDUCK_TIMEOUT", "value": "2m"}]}, 130),
    (EXEC | {"config": {"teardown": "1m"}, "timeout": "1m"}, 133),
    (EXEC | {"config": {"teardown": "1m"}, "timeout": "2m"}, 187),
    (EXEC | {"config": {"quiet": "6s", "lame-duck-share": 0.5}, "timeout": "20s"}, 30),
    (EXEC | {"config": {"quiet": "6s", "lame-duck-share": 0.6}, "extraEnv": [{"name": "LAMEDUCK_SETTLE", "value": "3s"}]}, 30),
    (EXEC | {"terminationGracePeriodSeconds": 60, "timeout": "50s"}, 60),
    (EXEC | {"terminationGracePeriodSeconds": 60, "timeout": "51s", "allowLongJobs": True}, 60),
    # The program's default timeout, 10m, which nobody chose: the only pod of an embedded queue is missed as long as it drains.
    (EXEC, 30),
    (EXEC | {"terminationGracePeriodSeconds": 60}, 60),
    (EXEC | {"database": {"existingSecret": "a"}}, 610),
    (EXEC | {"database": {"existingSecret": "a"}, "timeout": "1m"}, 70),
    (DATABASE, 30),
    (DATABASE | {"timeout": "10m"}, 610),
    (QUEUES, 5427),
]


def grace():
    for values, seconds in GRACE:
        found = workload(render("helm-4", values))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        equal(found, seconds, f"grace period of {values}")


def grace_by_the_program(path):
    """The chart's soft deadline is the program's hard one, less stop-notice."""
    for grace in (9, 20, 30, 61, 3600):
        done = run("helm-4", "template", "lameduck", str(CHART),
                   values_file(EXEC | {"terminationGracePeriodSeconds": grace, "timeout": "30d"}))
        soft = float(re.search(r"told to stop after ([0-9.]+) s", re.sub(r"\s+", " ", done.stderr)).group(1))
        usable = grace - min(1, grace / 10)
        equal(abs(soft + min(5, usable / 5) - program.left_to_jobs(path, grace)) < 0.06, True,
              f"grace period {grace}: {soft} s, and {program.left_to_jobs(path, grace)} s by the program")


# --- notes

def notes_of(values, *options):
    # Helm 3 asks the cluster even for a dry run, so only Helm 4 shows them here.
    return output("helm-4", "install", "jobs", str(CHART), "--dry-run=client", "--namespace", "shop",
                  values_file(values), *options).split("NOTES:")[1]


def notes():
    def say(values, *words):
        text = notes_of(values)
        for word in words:
            equal(word in text, True, f"{word}\nin {text}")

    say(DEMO | {"rbac": {"create": False}},
        "service/jobs-lameduck 8080:8080", "rollout restart statefulset/jobs-lameduck", "describe pod jobs-lameduck-0",
        "--namespace shop", "curl --include --data 'hello' http://127.0.0.1:8080/v1/queues/default/jobs", "rbac.create is false",
        "The grace period is 30 s. A job has all", "Everybody who reaches the Service may use the API. ")
    say(DEMO | {"service": {"type": "LoadBalancer"}, "auth": {"allowAnonymous": True}}, "LoadBalancer LETS OTHERS")
    say(EXEC, "The grace period is 30 s. A job may take 10m, and one that takes longer than 20 s is told to stop\nin a rollout")
    say(EXEC | {"timeout": "1h"}, "The grace period is 3610 s. A job has all the time")
    say(DATABASE | {"auth": {"existingSecret": "api"}, "tls": {"existingSecret": "api"}, "replicas": 5, "queues": {"mail": {}}},
        "rollout restart deployment/jobs-lameduck", 'get secret api --output go-template=\'{{ index .data "tokens" | base64decode }}\'',
        '--insecure --header "Authorization: Bearer $TOKEN" --data \'hello\' https://127.0.0.1:8080/v1/queues/mail/jobs',
        "= (5 + 2) × (4 + 2) = 42 connections,\nand for 60 as long")
    say(DATABASE | {"rollout": {"maxSurge": 3}, "autoscaling": {"enabled": True, "maxReplicas": 20}, "database": {
        "existingSecret": "a", "connections": 8}}, "= (20 + 3) × (8 + 2) = 230 connections,\nand for 400")


def shipped():
    """Rules and dashboard arrive as they are, templates of Prometheus and Grafana in them included."""
    values = DEMO | {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    objects = render("helm-4", values)
    equal(select(objects, "PrometheusRule")["spec"], yaml.safe_load((CHART / "files/alerts.yaml").read_text()), "rules")
    dashboard = select(objects, "ConfigMap", "lameduck-dashboard")
    equal(dashboard["metadata"]["labels"]["grafana_dashboard"], "1", "label of the sidecar")
    equal(json.loads(dashboard["data"]["lameduck.json"]), json.loads((CHART / "files/dashboard.json").read_text()), "dashboard")


def tested():
    """`helm test` asks over the Service, with the token; its policy lets it."""
    def test(values):
        return select(render("helm-4", values), "Pod")["spec"]["containers"][0]

    equal(test(DEMO | {"service": {"port": 80}})["command"], ["/lameduck", "drains", "--url", "http://lameduck:80"], "command")
    with_token = test(DEMO | {"auth": {"existingSecret": "api", "existingSecretKey": "t"}})
    equal(with_token["command"][-2:], ["--tokens", "/run/lameduck/tokens/t"], "token")
    equal(with_token["volumeMounts"][0]["mountPath"], "/run/lameduck/tokens", "its volume")
    equal(test(DEMO | {"tls": {"existingSecret": "a"}})["command"],
          ["/lameduck", "healthcheck", "--admin", "lameduck-headless:9090", "readyz"], "with TLS")
    objects = render("helm-4", DEMO | {"networkPolicy": {"enabled": True, "apiFrom": [{"podSelector": {}}]}})
    peers = select(objects, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    labels = select(objects, "Pod")["metadata"]["labels"]
    equal(any(peer["podSelector"].get("matchLabels", {"": ""}).items() <= labels.items() for peer in peers), True, "its peer")


def queries():
    """KEDA asks for metrics that the program has, in PromQL that Prometheus takes."""
    triggers = select(render("helm-4", CASES["database, scaled by KEDA"][1]), "ScaledObject")["spec"]["triggers"]
    asked = [trigger["metadata"]["query"] for trigger in triggers]
    equal(len(asked), 3, "triggers")
    known = set(re.findall(r"^\| `(lameduck_[a-z_]+)", Path("docs/metrics.md").read_text(), re.MULTILINE))
    equal(sorted(set(re.findall(r"lameduck_[a-z_]+", " ".join(asked))) - known), [], "metrics that nobody has")
    rules = SCRATCH / "keda.yaml"
    rules.write_text(json.dumps({"groups": [{"name": "keda", "rules": [
        {"record": f"keda:{index}", "expr": query} for index, query in enumerate(asked)]}]}))
    done = subprocess.run(["promtool", "check", "rules", str(rules)], text=True, capture_output=True)
    equal((done.returncode, done.stderr), (0, ""), "promtool")


def commands():
    """Of the pod of `helm test`, with its token and with TLS."""
    for values in (DEMO | {"auth": {"existingSecret": "a"}}, DEMO | {"tls": {"existingSecret": "a"}}):
        yield select(render("helm-4", values), "Pod")["spec"]["containers"][0]["command"]


# Settings that only a value of the chart reaches, and no case sets.
DATABASE_SETTINGS = {"database-statement-timeout", "database-migrate"}


def database_settings(path):
    program.knows(path, DATABASE_SETTINGS)
    values = DEMO | {"database": {"existingSecret": "a", "statementTimeout": "20s", "migrate": False}}
    objects = render("helm-4", values)
    equal(DATABASE_SETTINGS <= objects_of.settings(objects).keys(), True, "they are set")
    program.accepts(path, objects)


def one_version():
    def first(file, pattern):
        return re.search(pattern, Path(file).read_text(), re.MULTILINE).group(1)

    version = first("Cargo.toml", r'^version = "(.+)"')
    found = {"Dockerfile": first("Dockerfile", r"^ARG VERSION=(.+)"), "Chart.yaml": first(CHART / "Chart.yaml", r'^appVersion: "(.+)"')}
    for file in Path("deploy/kustomize").rglob("kustomization.yaml"):
        for what, pattern in (("tag", r'^    newTag: "(.+)"'), ("label", r'app.kubernetes.io/version: "(.+)"')):
            if re.search(pattern, file.read_text(), re.MULTILINE):
                found[f"{file}, {what}"] = first(file, pattern)
    equal(found, dict.fromkeys(found, version), "version")
