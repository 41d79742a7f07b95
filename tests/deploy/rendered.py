"""What holds for the objects of every rendering, whatever its values."""

import re
import tomllib

from tools import equal, select, without_hooks, workload

SELECTOR = {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
PROBES = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
FIELDS = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid", "NODE_NAME": "spec.nodeName"}


def program(rendered):
    """The program's container."""
    return workload(rendered)["spec"]["template"]["spec"]["containers"][0]


def settings(rendered):
    name = next(volume for volume in workload(rendered)["spec"]["template"]["spec"]["volumes"]
                if volume["name"] == "config")["configMap"]["name"]
    return tomllib.loads(select(rendered, "ConfigMap", name)["data"]["lameduck.toml"])


def restricted(rendered):
    """Pod Security Standards, level restricted (and a read-only root filesystem, which the level does not ask for)."""
    pods = [workload(rendered)["spec"]["template"]["spec"]] + [o["spec"] for o in rendered if o["kind"] == "Pod"]
    for spec in pods:
        pod = spec["securityContext"]
        equal((pod["runAsNonRoot"], pod.get("runAsUser", 1) > 0, pod["seccompProfile"]),
              (True, True, {"type": "RuntimeDefault"}), "pod")
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            equal(spec.get(field, False), False, field)
        for volume in spec.get("volumes", []):
            kind = next(key for key in volume if key != "name")
            equal(kind in {"configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}, True, f"volume {kind}")
        for container in spec["containers"] + spec.get("initContainers", []):
            equal(container["securityContext"],
                  {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, "container")


def names_fit(rendered):
    found = [(o["kind"], o["metadata"]["name"]) for o in rendered]
    equal(len(found), len(set(found)), "objects, each once")
    for kind, name in found:
        # Services and labels end at 63; the controllers of workloads label pods <name>-<10 characters>.
        room = 11 if kind in ("StatefulSet", "Deployment") else 0
        equal(len(name) + room <= 63, True, f"{kind} {name} is short enough")


def selected(rendered):
    """Who selects pods selects those of the workload, and no others."""
    spec = workload(rendered)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    test = [o["metadata"]["labels"] for o in rendered if o["kind"] == "Pod"]

    def pods_only(selector, what):
        equal(selector.items() <= labels.items(), True, f"{what} selects the pod")
        equal([pod for pod in test if selector.items() <= pod.items()], [], f"{what} selects the pod of helm test")

    pods_only(spec["selector"]["matchLabels"], "the workload")
    # These cannot be changed later: a version among them would make every upgrade fail.
    equal(set(spec["selector"]["matchLabels"]), SELECTOR, "labels that must not change")
    for o in rendered:
        what, spec = f"{o['kind']} {o['metadata']['name']}", o.get("spec", {})
        if o["kind"] == "Service":
            pods_only(spec["selector"], what)
        if o["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            pods_only(spec["selector"]["matchLabels"], what)
        if o["kind"] == "NetworkPolicy":
            pods_only(spec["podSelector"]["matchLabels"], what)
            equal([rule["ports"] for rule in spec["ingress"]], [[{"port": "http", "protocol": "TCP"}], [{"port": "admin", "protocol": "TCP"}]], f"ports of {what}")
        if o["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            own = workload(rendered)
            equal(spec["scaleTargetRef"], {"apiVersion": "apps/v1", "kind": own["kind"], "name": own["metadata"]["name"]}, what)
            equal("replicas" in own["spec"], False, "replicas beside an autoscaler")


def services(rendered):
    ports = {port["name"]: port["containerPort"] for port in program(rendered)["ports"]}
    found = [o for o in rendered if o["kind"] == "Service"]
    equal(len(found), 2, "Services")
    for service in found:
        equal("publishNotReadyAddresses" in service["spec"], False, "publishNotReadyAddresses is set")
        for port in service["spec"]["ports"]:
            equal(port["targetPort"] in ports, True, f"the pod has port {port['targetPort']}")
    headless, = (o for o in found if o["spec"].get("clusterIP") == "None")
    equal([port["name"] for port in headless["spec"]["ports"]], ["admin"], "ports of the headless Service")
    api, = (o for o in found if o is not headless)
    equal([port["targetPort"] for port in api["spec"]["ports"]], ["http"], "ports of the API's Service")
    own = workload(rendered)
    if own["kind"] == "StatefulSet":
        equal(own["spec"]["serviceName"], headless["metadata"]["name"], "the governing Service is headless")


def replaced_safely(rendered, values):
    own = workload(rendered)
    spec = own["spec"]
    if own["kind"] == "StatefulSet":
        equal(spec["replicas"], 1, "replicas")
        claim, = spec["volumeClaimTemplates"]
        equal((claim["metadata"]["name"], set(claim["metadata"]["labels"])), ("data", SELECTOR), "claim")
    else:
        rollout = values.get("rollout", {})
        equal(spec["strategy"], {"type": "RollingUpdate", "rollingUpdate": {
            "maxSurge": rollout.get("maxSurge", "25%"), "maxUnavailable": rollout.get("maxUnavailable", 0)}}, "strategy")
        grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
        equal(spec["progressDeadlineSeconds"] > grace + spec["minReadySeconds"], True, "the deadline leaves room for a drain")
    budget = select(rendered, "PodDisruptionBudget")["spec"]
    equal((budget["maxUnavailable"] in (0, "0%"), budget["unhealthyPodEvictionPolicy"]), (False, "AlwaysAllow"), "nodes drain")


def container(rendered, values):
    own, pod = program(rendered), workload(rendered)["spec"]["template"]["spec"]
    for probe, path in PROBES.items():
        equal(own[probe]["httpGet"], {"path": path, "port": "admin"}, probe)
    equal("lifecycle" in own, bool(values.get("preStopSleepSeconds")), "there is a hook")
    equal(own["command"], ["/lameduck", "serve"], "command")
    equal(own["terminationMessagePolicy"], "File", "terminationMessagePolicy")
    equal(pod["automountServiceAccountToken"], True, "the token is mounted")
    environment = {variable["name"]: variable for variable in own["env"]}
    equal(len(environment), len(own["env"]), "variables, each once")
    fields = {key: variable["valueFrom"]["fieldRef"]["fieldPath"]
              for key, variable in environment.items() if "fieldRef" in variable.get("valueFrom", {})}
    equal(fields, FIELDS, "downward API")
    # An image may have addresses in its environment, which would win over the file.
    said = {key: environment[f"LAMEDUCK_{key.upper()}"]["value"] for key in ("listen", "admin")}
    equal(said, {key: settings(rendered)[key] for key in said}, "addresses")
    mounts = [mount["name"] for mount in own["volumeMounts"]]
    claims = [claim["metadata"]["name"] for claim in workload(rendered)["spec"].get("volumeClaimTemplates", [])]
    equal(sorted(mounts), sorted([volume["name"] for volume in pod["volumes"]] + claims), "every volume is mounted, once")


def files(rendered):
    """Every file that the settings name is in a volume, and in the Secret that is mounted there if the chart makes it."""
    pod = workload(rendered)["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in program(rendered)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    made = {o["metadata"]["name"]: o["stringData"] for o in rendered if o["kind"] == "Secret"}
    environment = {variable["name"]: variable.get("value") for variable in program(rendered)["env"]}
    equal(environment["LAMEDUCK_CONFIG"], "/etc/lameduck/lameduck.toml", "LAMEDUCK_CONFIG")
    equal(mounts["/etc/lameduck"], "config", "where the settings are")
    used = set()
    for key, path in settings(rendered).items():
        if key in ("tokens", "tls-cert", "tls-key", "database-file", "http-secrets"):
            directory, file = path.rsplit("/", 1)
            name = volumes[mounts[directory]]["secret"]["secretName"]
            equal(file in made.get(name, {file}), True, f"{key}: the Secret {name} has a key {file}")
            used.add(name)
        if key == "data":
            equal(mounts[path], "data", "where the embedded queue is")
    equal(set(made) <= used, True, f"a Secret that nobody reads, of {set(made)}")
    for o in rendered:
        if o["kind"] == "ConfigMap":
            equal(re.findall(r"whsec_|://[^/\s]+:[^/\s]+@", str(o.get("data"))), [], f"secrets in the ConfigMap {o['metadata']['name']}")


def told(rendered, values):
    """The settings say what is true of the pod, and what the values say."""
    found, own = settings(rendered), program(rendered)
    ports = {port["name"]: port["containerPort"] for port in own["ports"]}
    grace = workload(rendered)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    handler = values.get("handler", {})
    expected = values.get("config", {}) | {
        "listen": f"[::]:{ports['http']}",
        "admin": f"[::]:{ports['admin']}",
        "grace": f"{grace - values.get('preStopSleepSeconds', 0)}s",
    }
    if handler.get("demo"):
        expected["exec"] = ["/lameduck", "demo", "--duration", "3s"]
    if "exec" in handler:
        expected["exec"] = handler["exec"]
    if "http" in handler:
        expected["http"] = handler["http"]["url"]
    for key in ("workers", "timeout", "queues"):
        if key in values:
            expected[key] = values[key]
    if values.get("deletionCost"):
        expected["deletion-cost"] = True
    if not values.get("auth"):
        expected["allow-anonymous"] = True
    for key in ("connections", "lease"):
        if key in values.get("database", {}):
            expected[f"database-{key}"] = values["database"][key]
    # Files have a check of their own.
    ignored = {"tokens", "tls-cert", "tls-key", "database-file", "http-secrets", "data"}
    equal({key: value for key, value in found.items() if key not in ignored}, expected, "settings")


def permissions(rendered, values):
    own = workload(rendered)
    account = own["spec"]["template"]["spec"]["serviceAccountName"]
    accounts = [o["metadata"]["name"] for o in rendered if o["kind"] == "ServiceAccount"]
    equal(accounts, [] if account == "default" else [account], "ServiceAccount")
    if not values.get("rbac", {}).get("create", True):
        equal([o["kind"] for o in rendered if o["apiVersion"].startswith("rbac.")], [], "RBAC objects")
        return
    role, binding = select(rendered, "Role"), select(rendered, "RoleBinding")
    equal(binding["roleRef"]["name"], role["metadata"]["name"], "the binding's Role")
    equal(binding["subjects"], [{"kind": "ServiceAccount", "name": account}], "the binding's subject")
    verbs = ["get", "watch"] + (["patch"] if values.get("deletionCost") else [])
    # The only pod of a StatefulSet has a name that the Role can know.
    pod = (f"{own['metadata']['name']}-0",) if own["kind"] == "StatefulSet" else ()
    equal(sorted((group, resource, verb, *rule.get("resourceNames", []))
                 for rule in role["rules"] for group in rule["apiGroups"]
                 for resource in rule["resources"] for verb in rule["verbs"]),
          sorted([("", "pods", verb, *pod) for verb in verbs]
                 + [("discovery.k8s.io", "endpointslices", verb) for verb in ("list", "watch")]
                 + [("", "services", "get"), ("", "events", "create"), ("events.k8s.io", "events", "create")]),
          "what the Role allows, no more than tests/it/kubernetes/permission.rs needs")


def monitored(rendered):
    """Whoever scrapes finds the port, and a pod that terminates does not get lost."""
    for o in rendered:
        if o["kind"] not in ("PodMonitor", "ServiceMonitor"):
            continue
        spec = o["spec"]
        endpoint, = spec["podMetricsEndpoints"] if o["kind"] == "PodMonitor" else spec["endpoints"]
        equal((endpoint["port"], endpoint["path"]), ("admin", "/metrics"), "endpoint")
        equal(o["metadata"]["labels"]["release"], "prometheus", "label that Prometheus selects by")
        if o["kind"] == "ServiceMonitor":
            equal(spec["serviceDiscoveryRole"], "EndpointSlice", "the role")
            found = [s for s in rendered if s["kind"] == "Service"
                     and spec["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
                     and any(port["name"] == "admin" for port in s["spec"]["ports"])]
            equal(len(found), 1, "Services with the port")


def stored_as_written(rendered):
    """Lists that are compared as a whole, by Argo CD and by server-side apply, hold what the API server would fill in."""
    for o in rendered:
        what, spec = f"{o['kind']} {o['metadata']['name']}", o.get("spec", {})
        for claim in spec.get("volumeClaimTemplates", []):
            equal((claim["apiVersion"], claim["kind"], claim["spec"]["volumeMode"]),
                  ("v1", "PersistentVolumeClaim", "Filesystem"), f"claim of {what}")
        ports = [rule["ports"] for rule in spec.get("ingress", [])] + [spec.get("ports", [])] * (o["kind"] == "Service")
        if o["kind"] in ("StatefulSet", "Deployment"):
            ports.append(program(rendered)["ports"])
        for port in sum(ports, []):
            equal(port.get("protocol"), "TCP", f"protocol of a port of {what}")
        for endpoint in spec.get("podMetricsEndpoints", []) + spec.get("endpoints", []):
            for rule in endpoint.get("relabelings", []) + endpoint.get("metricRelabelings", []):
                equal("action" in rule, True, f"an action of each relabeling of {what}")


def fit_a_quota(rendered):
    """Each of our containers asks for CPU and memory; a namespace with a quota takes no others."""
    pods = [workload(rendered)["spec"]["template"]["spec"]] + [o["spec"] for o in rendered if o["kind"] == "Pod"]
    for spec in pods:
        equal(sorted(spec["containers"][0]["resources"]["requests"]), ["cpu", "memory"], f"requests of {spec['containers'][0]['name']}")
        if spec is not pods[0]:
            equal(sorted(spec["containers"][0]["resources"]["limits"]), ["cpu", "memory"], "limits of the test")


def all_of(rendered, values):
    names_fit(rendered)
    stored_as_written(rendered)
    fit_a_quota(rendered)
    selected(rendered)
    own = without_hooks(rendered)
    services(own)
    replaced_safely(own, values)
    container(own, values)
    files(own)
    told(own, values)
    permissions(own, values)
    monitored(own)
