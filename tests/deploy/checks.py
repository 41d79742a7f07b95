"""What the deployment promises, one line a check. Started by tests/deploy/run, which brings the tools."""

import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml

TOOLS = Path(sys.argv[1]).resolve()
HELMS = ["helm-3", "helm-4"]
CHART = Path("helm/lameduck")
BASE = Path("deploy/kustomize/base")
FIXTURE = Path("tests/it/doctor/chart.json")
KUBERNETES = [f"1.{minor}" for minor in range(29, 37)]

# Neither a kubeconfig nor plugins of whoever runs this may change the outcome.
SCRATCH = Path(tempfile.mkdtemp())
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": str(SCRATCH)}

DEMO = {"handler": {"demo": True}}
AWKWARD = ["python3", "-c", 'print("a\\b")', "tab\t", "new\nline", "${HOME} <&> 'é' 🦆", ""]
EVERYTHING = {
    "handler": {"exec": AWKWARD},
    "workers": 60,
    "terminationGracePeriodSeconds": 600,
    "image": {
        "repository": "registry.example:5000/team/resize",
        "digest": "sha256:" + "0123456789abcdef" * 4,
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "registry"}],
    },
    "persistence": {"size": "20Gi", "storageClassName": ""},
    "service": {"type": "LoadBalancer", "port": 80, "annotations": {"example.com/internal": "true"}},
    "serviceAccount": {"name": "resize", "annotations": {"example.com/role": "resize"}},
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    "probes": {"readiness": {"periodSeconds": 2}},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podAnnotations": {"example.com/a": "b"},
    # An attempt to take the pod out of its own Services, as is done by accident.
    "podLabels": {"team": "images", "app.kubernetes.io/name": "other"},
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}},
    "priorityClassName": "high",
    "extraEnv": [
        {"name": "RUST_LOG", "value": "debug"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "resize", "key": "token"}}},
    ],
}

# name of the case: (release name, values)
CASES = {
    "demo": ("lameduck", DEMO),
    "everything set": ("lameduck", EVERYTHING),
    "own account and no RBAC": ("jobs", DEMO | {"serviceAccount": {"create": False}, "rbac": {"create": False}}),
    "longest release name": ("r" * 53, DEMO),
}

# what is wrong: (values, what the answer has to say)
REFUSED = {
    "no handler": ({}, r"No handler.*handler\.exec.*handler\.demo=true"),
    "two handlers": ({"handler": {"demo": True, "exec": ["a"]}}, r"only one handler.*handler\.demo=false"),
    "handler as a string": ({"handler": {"exec": "python3 a.py"}}, r"handler.exec.*array"),
    "three replicas": (DEMO | {"replicas": 3}, r"replicas=3 is not possible.*one process.*workers"),
    "no replica": (DEMO | {"replicas": 0}, r"replicas=0 is not possible"),
    "three replicas by the other name": (DEMO | {"replicaCount": 3}, r"replicaCount=3 is not possible.*workers"),
    "too short a grace period": (DEMO | {"terminationGracePeriodSeconds": 4}, r"=4 is too short.*at least 5 s: 2 s .* 1 s .* 2 s"),
    "grace period shorter than a slow probe": (
        DEMO | {"terminationGracePeriodSeconds": 30, "probes": {"readiness": {"periodSeconds": 10, "failureThreshold": 3}}},
        r"=30 is too short.*at least 33 s: 30 s .*periodSeconds 10 × failureThreshold 3"),
    "grace period with a unit": (DEMO | {"terminationGracePeriodSeconds": "30s"}, r"terminationGracePeriodSeconds.*integer"),
    "no workers": (DEMO | {"workers": 0}, r"workers.*1"),
    "tag as a number": (DEMO | {"image": {"tag": 1.0}}, r"image.tag.*string"),
    "digest without its algorithm": (DEMO | {"image": {"digest": "0123"}}, r"image.digest.*pattern"),
    "label that is not a string": (DEMO | {"podLabels": {"a": True}}, r"podLabels.a.*string"),
    "another access mode": (DEMO | {"persistence": {"accessModes": ["ReadWriteMany"]}}, r"accessModes.* not allowed"),
    "environment against a value": (DEMO | {"extraEnv": [{"name": "LAMEDUCK_GRACE", "value": "9s"}]},
                                    r"LAMEDUCK_GRACE.*terminationGracePeriodSeconds"),
    "environment against the pod": (DEMO | {"extraEnv": [{"name": "POD_UID", "value": "1"}]}, r"extraEnv sets POD_UID"),
}

passed = failed = 0


def check(name, function, *arguments):
    global passed, failed
    try:
        function(*arguments)
    except Exception as error:
        failed += 1
        print(f"FAIL  {name}")
        print("\n".join(f"        {line}" for line in f"{type(error).__name__}: {error}".splitlines()))
    else:
        passed += 1
        print(f"ok    {name}")


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}\nexpected: {expected}\nfound:    {found}")


# --- tools

class NoDuplicates(yaml.SafeLoader):
    """YAML readers disagree on a key that is there twice: some take the last, some refuse it."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise AssertionError(f"keys that are there twice: {twice}")
        return super().construct_mapping(node, deep)


def objects(text):
    return [document for document in yaml.load_all(text, NoDuplicates) if document]


def run(tool, *arguments):
    return subprocess.run([TOOLS / tool, *arguments], env=ENVIRONMENT, text=True, capture_output=True)


def output(tool, *arguments):
    done = run(tool, *arguments)
    if done.returncode:
        raise AssertionError(f"{tool}: {done.stderr.strip()}")
    return done.stdout


def values_file(values):
    file = SCRATCH / "values.json"
    # Raw characters: the escape of one beyond 16 bits is two escapes in JSON, and an error in YAML.
    file.write_text(json.dumps(values, ensure_ascii=False))
    return f"--values={file}"


def render(helm, values, release="lameduck", chart=CHART, *options):
    return objects(output(helm, "template", release, str(chart), values_file(values), *options))


# Four hundred validations would read the same files of a megabyte each time.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
kubernetes_validate.utils.all_versions = functools.cache(kubernetes_validate.utils.all_versions)


# --- checks of rendered objects

def select(rendered, kind, name=None):
    found = [o for o in rendered if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} objects {kind} {name or ''}, expected 1")
    return found[0]


def valid(rendered, version):
    for o in rendered:
        if o["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # a custom resource: Kubernetes has no schema of it
        try:
            # It falls back to an older schema in silence where it has none.
            equal(kubernetes_validate.validate(o, version, strict=True), version, "version of the schema")
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            raise AssertionError(f"{o['kind']} {o['metadata']['name']}: {path}: {error.message}") from None


def restricted(rendered):
    """Pod Security Standards, level restricted (and a read-only root filesystem, which the level does not ask for)."""
    spec = select(rendered, "StatefulSet")["spec"]["template"]["spec"]
    pod = spec["securityContext"]
    equal((pod["runAsNonRoot"], pod["runAsUser"] > 0, pod["seccompProfile"]), (True, True, {"type": "RuntimeDefault"}), "pod")
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        equal(spec.get(field, False), False, field)
    for volume in spec["volumes"]:
        kind = next(key for key in volume if key != "name")
        equal(kind in {"configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}, True, f"volume {kind}")
    for container in spec["containers"]:
        equal(container["securityContext"],
              {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, "container")


def wired(rendered, values):
    """What one object says of another is true, and so is what the settings say of the pod."""
    sts = select(rendered, "StatefulSet")
    name, spec = sts["metadata"]["name"], sts["spec"]
    template = spec["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    container, = pod["containers"]

    equal(spec["replicas"], 1, "replicas")
    # The controller's label <name>-<10 characters> is the longest that is made of the name.
    equal(len(name) + 11 <= 63, True, f"name {name} leaves room for the revision")
    equal(spec["selector"]["matchLabels"].items() <= labels.items(), True, "the StatefulSet selects its pod")

    services = [o for o in rendered if o["kind"] == "Service"]
    equal(len(services), 2, "Services")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for service in services:
        equal(service["spec"]["selector"].items() <= labels.items(), True, "a Service selects the pod")
        equal("publishNotReadyAddresses" in service["spec"], False, "publishNotReadyAddresses is set")
        for port in service["spec"]["ports"]:
            equal(port["targetPort"] in ports, True, f"the pod has port {port['targetPort']}")
    headless = select(rendered, "Service", spec["serviceName"])
    equal(headless["spec"]["clusterIP"], "None", "the governing Service is headless")
    equal([port["name"] for port in headless["spec"]["ports"]], ["admin"], "ports of the headless Service")
    api, = (o for o in services if o is not headless)
    equal([port["targetPort"] for port in api["spec"]["ports"]], ["http"], "ports of the API's Service")

    budget = select(rendered, "PodDisruptionBudget")["spec"]
    equal(budget["selector"]["matchLabels"].items() <= labels.items(), True, "the budget selects the pod")
    equal((budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]), (1, "AlwaysAllow"), "the budget lets nodes drain")

    for probe, path in {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        equal(container[probe]["httpGet"], {"path": path, "port": "admin"}, probe)
    equal("lifecycle" in container, False, "there is a hook")
    equal(container["terminationMessagePolicy"], "File", "terminationMessagePolicy")
    equal(pod["automountServiceAccountToken"], True, "the token is mounted")

    environment = {variable["name"]: variable for variable in container["env"]}
    equal(len(environment), len(container["env"]), "variables, each once")
    fields = {key: variable["valueFrom"]["fieldRef"]["fieldPath"]
              for key, variable in environment.items() if "fieldRef" in variable.get("valueFrom", {})}
    equal(fields, {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid",
                   "NODE_NAME": "spec.nodeName"}, "downward API")

    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]]
    equal(sorted(mounts), sorted([volume["name"] for volume in pod["volumes"]] + claims), "every volume is mounted")
    equal(claims, ["data"], "claims")
    # These cannot be changed later: a version among them would make every upgrade fail.
    for metadata in (spec["volumeClaimTemplates"][0]["metadata"], {"labels": spec["selector"]["matchLabels"]}):
        equal(set(metadata["labels"]), {"app.kubernetes.io/name", "app.kubernetes.io/instance"}, "labels that must not change")

    config = next(volume for volume in pod["volumes"] if volume["name"] == "config")["configMap"]["name"]
    equal(environment["LAMEDUCK_CONFIG"]["value"], f"{mounts['config']}/lameduck.toml", "LAMEDUCK_CONFIG")
    settings = tomllib.loads(select(rendered, "ConfigMap", config)["data"]["lameduck.toml"])
    demo = values["handler"].get("demo")
    expected = {
        "listen": f"0.0.0.0:{ports['http']}",
        "admin": f"0.0.0.0:{ports['admin']}",
        # The chart's Service is inside the cluster.
        "allow-anonymous": True,
        "data": mounts["data"],
        "grace": f"{pod['terminationGracePeriodSeconds']}s",
        "exec": ["/lameduck", "demo", "--duration", "3s"] if demo else values["handler"]["exec"],
    }
    if "workers" in values:
        expected["workers"] = values["workers"]
    equal(settings, expected, "settings")

    accounts = [o["metadata"]["name"] for o in rendered if o["kind"] == "ServiceAccount"]
    equal(accounts, [] if pod["serviceAccountName"] == "default" else [pod["serviceAccountName"]], "ServiceAccount")
    if not values.get("rbac", {}).get("create", True):
        equal([o["kind"] for o in rendered if o["apiVersion"].startswith("rbac.")], [], "RBAC objects")
        return
    role, binding = select(rendered, "Role"), select(rendered, "RoleBinding")
    equal(binding["roleRef"]["name"], role["metadata"]["name"], "the binding's Role")
    equal(binding["subjects"], [{"kind": "ServiceAccount", "name": pod["serviceAccountName"]}], "the binding's subject")
    equal(sorted((group, resource, verb, *rule.get("resourceNames", []))
                 for rule in role["rules"] for group in rule["apiGroups"]
                 for resource in rule["resources"] for verb in rule["verbs"]),
          sorted([("", "pods", verb, f"{name}-0") for verb in ("get", "watch")]
                 + [("discovery.k8s.io", "endpointslices", verb) for verb in ("list", "watch")]
                 + [("", "services", "get"), ("events.k8s.io", "events", "create")]),
          "what the Role allows, no more than tests/it/kubernetes/permission.rs needs")


def monitored(rendered):
    monitor = select(rendered, "PodMonitor")
    template = select(rendered, "StatefulSet")["spec"]["template"]
    equal(monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), True, "selects the pod")
    endpoint, = monitor["spec"]["podMetricsEndpoints"]
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    equal((endpoint["port"] in ports, endpoint["path"]), (True, "/metrics"), "endpoint")
    equal(monitor["metadata"]["labels"]["release"], "prometheus", "label that Prometheus selects by")


# --- checks of the chart as a whole

def lint(helm, values):
    # `fail` does not fail a lint: what the template refuses is checked by REFUSED.
    output(helm, "lint", "--strict", str(CHART), values_file(values))


def refuses(helm, values, words):
    done = run(helm, "template", "lameduck", str(CHART), values_file(values))
    equal(done.returncode != 0, True, "it was accepted")
    # Where in the values: handler.exec with Helm 3, /handler/exec with Helm 4.
    if not re.search(words, done.stderr.replace("/", "."), re.DOTALL):
        raise AssertionError(f"no word of {words}\nin {done.stderr}")


def strict(helm):
    """At every level of the values an unknown key, which is a typing error, is refused."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def levels(node, path):
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        if "properties" in node:
            yield path
            for key, child in node["properties"].items():
                yield from levels(child, path + [key])

    found = list(levels(schema, []))
    equal(len(found) > 8, True, "levels of the schema")
    for path in found:
        values = copy.deepcopy(DEMO)
        node = values
        for key in path:
            node = node.setdefault(key, {})
        node["typo"] = 1
        refuses(helm, values, r"typo.* not allowed")


def complete():
    """Every setting that the schema knows is in values.yaml, with a comment."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    beyond = {"global", "enabled", "replicas", "replicaCount"}
    equal(set(values), set(schema["properties"]) - beyond, "settings")
    for key, node in schema["properties"].items():
        if "properties" in node and key not in beyond:
            equal(set(values[key]), set(node["properties"]), f"settings of {key}")
    # A comment holds for the settings that follow it without an empty line between.
    for paragraph in (CHART / "values.yaml").read_text().split("\n\n"):
        equal(paragraph.lstrip().startswith("#"), True, f"documented:\n{paragraph}")


def dependency(helm):
    parent = SCRATCH / f"parent-{helm}"
    shutil.copytree(CHART, parent / "charts/lameduck")
    (parent / "Chart.yaml").write_text(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\n"
        "dependencies: [{name: lameduck, version: '*', condition: lameduck.enabled}]\n")
    values = {"global": {"region": "eu"}, "lameduck": DEMO | {"enabled": True}}
    wired(render(helm, values, "shop", parent), DEMO)


def kubernetes_versions(helm):
    for version in ("1.29.0", "1.31.5-gke.100", "1.36.2"):
        render(helm, DEMO, "lameduck", CHART, "--kube-version", version)
    done = run(helm, "template", "lameduck", str(CHART), values_file(DEMO), "--kube-version", "1.28.9")
    equal(done.returncode != 0 and "incompatible" in done.stderr, True, "1.28 was accepted")


def rolls(helm):
    def checksum(values):
        return select(render(helm, values), "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    equal(checksum(DEMO) != checksum(DEMO | {"workers": 7}), True, "checksum differs with the settings")
    equal(checksum(DEMO) == checksum(DEMO | {"service": {"port": 80}}), True, "checksum stays with the settings")


def notes():
    # Helm 3 asks the cluster even for a dry run, so only Helm 4 shows them here.
    text = output("helm-4", "install", "jobs", str(CHART), "--dry-run=client", "--namespace", "shop",
                  values_file(DEMO | {"rbac": {"create": False}})).split("NOTES:")[1]
    for words in ("service/jobs-lameduck 8080:8080", "rollout restart statefulset/jobs-lameduck", "describe pod jobs-lameduck-0",
                  "--namespace shop", "/v1/queues/default/jobs", "rbac.create is false"):
        equal(words in text, True, words)


# --- checks of the plain manifests

def normalized(rendered):
    """Objects by kind and name, without what is Helm's alone and without the hash that kustomize puts on a ConfigMap's name."""
    hashed = {o["metadata"]["name"]: re.sub(r"-[a-z0-9]{10}$", "", o["metadata"]["name"])
              for o in rendered if o["kind"] == "ConfigMap"}

    def clean(node):
        if isinstance(node, dict):
            node = {key: clean(value) for key, value in node.items()
                    if key not in {"helm.sh/chart", "app.kubernetes.io/managed-by", "checksum/config"}}
            return {key: value for key, value in node.items() if not (key == "annotations" and value == {})}
        if isinstance(node, list):
            return [clean(item) for item in node]
        return node

    result = {}
    for o in map(clean, rendered):
        if o["kind"] == "ConfigMap":
            o["metadata"]["name"] = hashed[o["metadata"]["name"]]
            o["data"] = {file: tomllib.loads(text) for file, text in o["data"].items()}  # comments mean nothing
        if o["kind"] == "StatefulSet":
            for volume in o["spec"]["template"]["spec"]["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = hashed[volume["configMap"]["name"]]
        result[o["kind"], o["metadata"]["name"]] = o
    return result


def kustomize(directory=BASE):
    return objects(output("kubectl", "kustomize", str(directory)))


def same_as_chart():
    chart, plain = normalized(render("helm-4", DEMO)), normalized(kustomize())
    equal(sorted(plain), sorted(chart), "objects")
    for key in chart:
        equal(json.dumps(plain[key], sort_keys=True), json.dumps(chart[key], sort_keys=True), " ".join(key))


def overlay():
    """The overlay that the base's comment shows: another handler, another image, and a roll of the pod."""
    comment = "\n".join(line[1:] for line in (BASE / "kustomization.yaml").read_text().splitlines() if line.startswith("#     "))
    shutil.copytree(BASE, SCRATCH / "kustomize/base")
    own = SCRATCH / "kustomize/resize"
    own.mkdir()
    (own / "kustomization.yaml").write_text(comment)
    (own / "lameduck.toml").write_text((BASE / "lameduck.toml").read_text().replace('"3s"', '"4s"'))

    rendered = kustomize(own)
    pod = select(rendered, "StatefulSet")["spec"]["template"]["spec"]
    equal(pod["containers"][0]["image"], "registry.example/resize:1.2.3", "image")
    config = select(rendered, "ConfigMap")
    equal(tomllib.loads(config["data"]["lameduck.toml"])["exec"][-1], "4s", "handler")
    equal(pod["volumes"][0]["configMap"]["name"], config["metadata"]["name"], "the pod's ConfigMap")
    equal(config["metadata"]["name"] != select(kustomize(), "ConfigMap")["metadata"]["name"], True, "name differs with the settings")


def one_version():
    def first(file, pattern):
        return re.search(pattern, Path(file).read_text(), re.MULTILINE).group(1)

    version = first("Cargo.toml", r'^version = "(.+)"')
    equal({
        "Dockerfile": first("Dockerfile", r"^ARG VERSION=(.+)"),
        "Chart.yaml": first(CHART / "Chart.yaml", r"^appVersion: (.+)"),
        "kustomization.yaml, tag": first(BASE / "kustomization.yaml", r"^    newTag: (.+)"),
        "kustomization.yaml, label": first(BASE / "kustomization.yaml", r"app.kubernetes.io/version: (.+)"),
    }, dict.fromkeys(["Dockerfile", "Chart.yaml", "kustomization.yaml, tag", "kustomization.yaml, label"], version), "version")


def fixture():
    """The doctor's tests look at what the chart renders. WRITE_FIXTURE=1 tests/deploy/run writes it anew."""
    rendered = render("helm-4", DEMO, "lameduck", CHART, "--namespace=shop")
    if os.environ.get("WRITE_FIXTURE"):
        FIXTURE.write_text(json.dumps(rendered, indent=1, ensure_ascii=False) + "\n")
    equal(json.loads(FIXTURE.read_text()), rendered, "tests/it/doctor/chart.json")


def hadolint():
    done = run("venv/bin/hadolint", "--no-color", "Dockerfile")
    equal((done.returncode, done.stdout + done.stderr), (0, ""), "findings")


def main():
    for helm in HELMS:
        short = output(helm, "version", "--short").strip().split("+")[0]
        check(f"{helm} is the major version that it is called", equal, short.startswith(f"v{helm[-1]}."), True, short)
        for name, (_, values) in CASES.items():
            check(f"{helm} lint --strict, {name}", lint, helm, values)
        for name, (values, words) in REFUSED.items():
            check(f"{helm} refuses: {name}", refuses, helm, values, words)
        check(f"{helm} refuses: a key that is unknown, at every level", strict, helm)
        check(f"{helm}: it works as a dependency of another chart", dependency, helm)
        check(f"{helm}: Kubernetes 1.29 and later, vendors' suffixes too", kubernetes_versions, helm)
        check(f"{helm}: a change of the settings rolls the pod", rolls, helm)

    for name, (release, values) in CASES.items():
        try:
            rendered = render("helm-4", values, release)
        except AssertionError as error:
            check(f"it renders, {name}", equal, str(error), "", "error")
            continue
        check(f"Helm 3 renders the same as Helm 4, {name}", lambda: equal(render("helm-3", values, release), rendered, "objects"))
        for version in KUBERNETES:
            check(f"valid for Kubernetes {version}, {name}", valid, rendered, version)
        check(f"pod security restricted, {name}", restricted, rendered)
        check(f"objects and settings fit each other, {name}", wired, rendered, values)
    check("the PodMonitor finds the pod and its port", lambda: monitored(render("helm-4", EVERYTHING)))
    check("values.yaml holds every setting, documented", complete)
    check("the notes name the objects", notes)

    for version in KUBERNETES:
        check(f"valid for Kubernetes {version}, kustomize", lambda: valid(kustomize(), version))
    check("kustomize and the chart's demo are the same objects", same_as_chart)
    check("the overlay of the base's comment works", overlay)
    check("one version everywhere", one_version)
    check("the doctor's tests have the chart of today", fixture)
    check("hadolint", hadolint)

    print(f"{passed} passed, {failed} failed")
    return failed > 0


try:
    status = main()
finally:
    shutil.rmtree(SCRATCH, ignore_errors=True)
sys.exit(status)
