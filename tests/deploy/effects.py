"""No setting does nothing: each value of values.yaml is changed, and the rendering has to change with it."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

from cases import DATABASE, DEMO, EXEC
from chart import BEYOND, SCHEMA, resolved
from tools import CHART, equal, objects, output, run, values_file

HTTP = {"handler": {"http": {"url": "http://b/"}}}
URL = {"handler": {"demo": True}, "database": {"url": "postgres://a/b"}}
SCALED = DATABASE | {"autoscaling": {"enabled": True, "metrics": [{"type": "Resource"}]}}
KEDA = DATABASE | {"keda": {"enabled": True, "prometheusAddress": "http://p"}}
POLICY = DEMO | {"networkPolicy": {"enabled": True}}
BALANCER = DEMO | {"service": {"type": "LoadBalancer"}, "auth": {"allowAnonymous": True}}
TOKENS = DEMO | {"auth": {"existingSecret": "a"}}
TLS = DEMO | {"tls": {"existingSecret": "a"}}


def on(name):
    return DEMO | {name: {"enabled": True}}


# value: (values beside it, another one than it has there)
CHANGES = {
    "handler.exec": ({"handler": {"exec": ["a"]}}, ["b"]),
    "handler.demo": ({}, True),
    "handler.http.url": (HTTP, "http://c/"),
    "handler.http.secrets": (HTTP, ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]),
    "handler.http.existingSecret": (HTTP, "a"),
    "handler.http.existingSecretKey": ({"handler": {"http": {"url": "http://b/", "existingSecret": "a"}}}, "other"),
    "queues": (DEMO, {"a": {}}),
    "workers": (DEMO, 7),
    "timeout": (DEMO, "7s"),
    "config": (DEMO, {"settle": "2s"}),
    "database.existingSecret": (DEMO, "a"),
    "database.existingSecretKey": (DATABASE, "other"),
    "database.url": (DEMO, "postgres://a/b"),
    "database.connections": (DATABASE, 7),
    "database.lease": (DATABASE, "7s"),
    "database.statementTimeout": (DATABASE, "7s"),
    "database.migrate": (DATABASE, False),
    "replicas": (DATABASE, 7),
    "rollout.maxSurge": (DATABASE, 7),
    "rollout.maxUnavailable": (DATABASE, 1),
    "rollout.minReadySeconds": (DATABASE, 7),
    "rollout.progressDeadlineSeconds": (DATABASE, 777),
    "rollout.revisionHistoryLimit": (DATABASE, 7),
    "terminationGracePeriodSeconds": (DEMO, 77),
    "allowLongJobs": (EXEC | {"terminationGracePeriodSeconds": 60, "timeout": "2m"}, True),
    "preStopSleepSeconds": (DEMO, 7),
    "auth.tokens": (DEMO, ["a"]),
    "auth.existingSecret": (DEMO, "a"),
    "auth.existingSecretKey": (TOKENS, "other"),
    "auth.allowAnonymous": (DEMO | {"service": {"type": "NodePort"}}, True),
    "tls.existingSecret": (DEMO, "a"),
    "tls.certKey": (TLS, "other"),
    "tls.keyKey": (TLS, "other"),
    "image.repository": (DEMO, "other"),
    "image.tag": (DEMO, "other"),
    "image.digest": (DEMO, "sha256:" + "0" * 64),
    "image.pullPolicy": (DEMO, "Always"),
    "image.pullSecrets": (DEMO, [{"name": "a"}]),
    "persistence.size": (DEMO, "7Gi"),
    "persistence.storageClassName": (DEMO, ""),
    "service.type": (DEMO | {"auth": {"allowAnonymous": True}}, "NodePort"),
    "service.port": (DEMO, 77),
    "service.nodePort": (BALANCER, 30077),
    "service.annotations": (DEMO, {"a": "b"}),
    "service.loadBalancerClass": (BALANCER, "a/b"),
    "service.loadBalancerSourceRanges": (BALANCER, ["10.0.0.0/8"]),
    "service.externalTrafficPolicy": (BALANCER, "Local"),
    "service.ipFamilyPolicy": (DEMO, "SingleStack"),
    "serviceAccount.create": (DEMO, False),
    "serviceAccount.name": (DEMO, "other"),
    "serviceAccount.annotations": (DEMO, {"a": "b"}),
    "rbac.create": (DEMO, False),
    "deletionCost": (DEMO, True),
    "resources": (DEMO, {"limits": {"memory": "1Gi"}}),
    "podDisruptionBudget.enabled": (DEMO, False),
    "podDisruptionBudget.maxUnavailable": (DATABASE, 2),
    "autoscaling.enabled": (DATABASE, True),
    "autoscaling.minReplicas": (SCALED, 7),
    "autoscaling.maxReplicas": (SCALED, 77),
    "autoscaling.targetCPUUtilizationPercentage": (SCALED, None),
    "autoscaling.metrics": (SCALED, []),
    "autoscaling.behavior": (SCALED, {"scaleDown": {}}),
    "keda.enabled": (DATABASE | {"keda": {"prometheusAddress": "http://p"}}, True),
    "keda.prometheusAddress": (KEDA, "http://q"),
    "keda.minReplicas": (KEDA, 7),
    "keda.maxReplicas": (KEDA, 77),
    "keda.pollingInterval": (KEDA, 7),
    "keda.workersNeeded": (KEDA, False),
    "keda.oldestAgeSeconds": (KEDA, None),
    "keda.selector": (KEDA, 'job="a"'),
    "keda.authenticationRef": (KEDA, "a"),
    "keda.behavior": (KEDA, {"scaleDown": {}}),
    "topologySpreadConstraints": (DATABASE, []),
    "networkPolicy.enabled": (DEMO, True),
    "networkPolicy.apiFrom": (POLICY, [{"podSelector": {}}]),
    "networkPolicy.metricsFrom": (POLICY, [{"podSelector": {}}]),
    "networkPolicy.egress": (POLICY, [{}]),
    "test.enabled": (DEMO, False),
    "test.resources": (DEMO, {"limits": {"memory": "1Gi"}}),
    "podSecurityContext": (DEMO, {"fsGroup": 7}),
    "securityContext": (DEMO, {"runAsUser": 7}),
    "commonLabels": (DEMO, {"a": "b"}),
    "commonAnnotations": (DEMO, {"a": "b"}),
    "workloadAnnotations": (DEMO, {"a": "b"}),
    "podAnnotations": (DEMO, {"a": "b"}),
    "podLabels": (DEMO, {"a": "b"}),
    "nodeSelector": (DEMO, {"a": "b"}),
    "tolerations": (DEMO, [{"operator": "Exists"}]),
    "affinity": (DEMO, {"nodeAffinity": {}}),
    "priorityClassName": (DEMO, "a"),
    "runtimeClassName": (DEMO, "a"),
    "schedulerName": (DEMO, "a"),
    "hostAliases": (DEMO, [{"ip": "10.0.0.1"}]),
    "dnsPolicy": (DEMO, "Default"),
    "dnsConfig": (DEMO, {"nameservers": ["10.0.0.10"]}),
    "extraEnv": (DEMO, [{"name": "A", "value": "b"}]),
    "extraEnvFrom": (DEMO, [{"secretRef": {"name": "a"}}]),
    "extraVolumes": (DEMO, [{"name": "a", "emptyDir": {}}]),
    "extraVolumeMounts": (DEMO, [{"name": "tmp", "mountPath": "/a"}]),
    "extraContainers": (DEMO, [{"name": "a"}]),
    "initContainers": (DEMO, [{"name": "a"}]),
    "extraObjects": (DEMO, [{"kind": "A"}]),
    "nameOverride": (DEMO, "other"),
    "fullnameOverride": (DEMO, "other"),
} | {
    f"probes.{probe}.{key}": (DEMO, 7)
    for probe in ("readiness", "liveness", "startup") for key in ("periodSeconds", "timeoutSeconds", "failureThreshold")
} | {
    f"{monitor}.{key}": (on(monitor), value)
    for monitor in ("podMonitor", "serviceMonitor")
    for key, value in {"interval": "7s", "labels": {"a": "b"}, "relabelings": [{}], "metricRelabelings": [{}]}.items()
} | {
    f"{name}.enabled": (DEMO, True) for name in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboard")
} | {
    "prometheusRule.labels": (on("prometheusRule"), {"a": "b"}),
    "prometheusRule.runbookBase": (on("prometheusRule"), "https://git.example/"),
    "dashboard.labels": (on("dashboard"), {"a": "b"}),
    "dashboard.annotations": (on("dashboard"), {"a": "b"}),
}

# It has its effect where a cluster is asked what is there: see upgrade.py.
ELSEWHERE = {"acceptStorageChange"}


def leaves(node=SCHEMA, path=()):
    node = resolved(node)
    if "properties" not in node or path == ("config",):
        yield ".".join(path)
        return
    for key, child in node["properties"].items():
        if path or key not in BEYOND:
            yield from leaves(child, (*path, key))


def changed(path):
    beside, value = CHANGES[path]
    values = copy.deepcopy(beside)
    node = values
    *parents, last = path.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value

    def outcome(values):
        done = run("helm-4", "template", "lameduck", str(CHART), values_file(values))
        return objects(done.stdout) if done.returncode == 0 else done.stderr

    before, after = outcome(beside), outcome(values)
    if isinstance(after, str):
        return f"{path}: {after}"
    return None if before != after else f"{path}: nothing changed"


def all_of_them():
    equal(sorted(CHANGES.keys() | ELSEWHERE), sorted(leaves()), "values, each with a change of it")
    with ThreadPoolExecutor(2) as pool:
        nothing = [said for said in pool.map(changed, CHANGES) if said]
    equal(nothing, [], "values without an effect")


def config():
    """So it is for `config`: each setting arrives under its name."""
    known = {key: node for key, node in SCHEMA["definitions"]["config"]["properties"].items() if node != {}}
    examples = {"bytes": 70_000_000, "count": 7, "duration": "4s", "boolean": True, "integer": 7, "number": 0.75, "string": "/tmp/a"}
    values = {}
    for key, node in known.items():
        # Each takes null as well.
        kind = node["$ref"].rsplit("/", 1)[1] if "$ref" in node else node.get("type", [None])[0]
        values[key] = node["enum"][1] if "enum" in node else [{"name": "a", "run": "b"}] if kind == "array" else examples[kind]
    text = output("helm-4", "template", "lameduck", str(CHART), values_file(EXEC | {"config": values}))
    for key, value in values.items():
        shown = '[{ "name" = "a", "run" = "b" }]' if key == "teardown-hook" else json.dumps(value)
        equal(f"\n    {key} = {shown}\n" in text, True, f"config.{key}")
    return values
