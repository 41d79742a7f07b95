"""As much of the API server as kubectl, Helm and lameduck ask: discovery, objects, watches, patches, eviction, logs, exec."""

import base64
import copy
import json
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import patch
import protobuf
import websocket
from store import BY_PLURAL, RESOURCES, SUBRESOURCES, Conflict, matches, now

VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z",
           "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64"}


class Refusal(Exception):
    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
                       "message": message, "details": details}


def discovery():
    versions = {}
    for version, plural, kind, namespaced in RESOURCES:
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        versions.setdefault(version, []).append(
            {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs,
             "categories": ["all"] if plural in ("pods", "services", "deployments", "replicasets", "statefulsets", "jobs") else [],
             "shortNames": {"poddisruptionbudgets": ["pdb"], "persistentvolumeclaims": ["pvc"], "namespaces": ["ns"]}.get(plural, [])})
        for sub in SUBRESOURCES.get(plural, []):
            scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"} if sub == "scale" else {"kind": kind}
            versions[version].append({"name": f"{plural}/{sub}", "singularName": "", "namespaced": True, "verbs": ["get", "patch", "update", "create"], **scale})
    groups = []
    answers = {"/version": VERSION, "/api": {"kind": "APIVersions", "versions": ["v1"]}, "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}}
    for version, resources in versions.items():
        answers[root(version)] = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
        if "/" in version:
            group, number = version.split("/")
            entry = {"groupVersion": version, "version": number}
            groups.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return answers | openapi(versions)


def openapi(versions):
    """Clients look here whether the server validates fields itself; if it does not, they want a schema."""
    answers = {"/openapi/v3": {"paths": {}}}
    for version, resources in versions.items():
        path = root(version)
        answers["/openapi/v3"]["paths"][path[1:]] = {"serverRelativeURL": f"/openapi/v3{path}?hash=1"}
        group, _, number = version.rpartition("/")
        answers[f"/openapi/v3{path}"] = {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": {
            f"{path}/{resource['name']}": {"patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": resource["kind"]}, "responses": {}}}
            for resource in resources if "/" not in resource["name"]}}
    return answers


def root(version):
    return f"/{'apis' if '/' in version else 'api'}/{version}"


PATH = re.compile(r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$")


def selected(o, query):
    for part in filter(None, re.split(r",(?![^(]*\))", query.get("labelSelector", ""))):
        labels = o["metadata"].get("labels") or {}
        if match := re.match(r"^(\S+) (in|notin) \((.*)\)$", part):
            if (labels.get(match[1]) in match[3].split(",")) != (match[2] == "in"):
                return False
        elif "!=" in part:
            key, value = part.split("!=")
            if labels.get(key) == value:
                return False
        elif "=" in part:
            key, value = part.replace("==", "=").split("=")
            if labels.get(key) != value:
                return False
        elif part not in labels:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        key, value = part.replace("==", "=").split("=")
        found = o
        for step in key.split("."):
            found = (found or {}).get(step)
        if found != value:
            return False
    return True


def decoded(body):
    return protobuf.decode(body) if body.startswith(protobuf.MAGIC) else json.loads(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        connection, address = super().get_request()
        # The handshake is done by the connection's own thread, with the first byte that it reads.
        return self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_):
        """Clients break off their connections; what is wrong here shows in what they got."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*_)


def certified(directory):
    """An authority of our own, as each cluster has; its certificate is `ca.crt`."""
    directory = Path(directory)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        ["req", "-x509", *key, "-days", "2", "-subj", "/CN=double", "-keyout", "ca.key", "-out", "ca.crt"],
        ["req", *key, "-subj", "/CN=kubernetes", "-keyout", "tls.key", "-out", "tls.csr"],
        ["x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "tls.crt"],
    ):
        subprocess.run(["openssl", *command], cwd=directory, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    return tls


class Api:
    def __init__(self, store, cluster, directory, faults):
        self.store, self.cluster, self.faults = store, cluster, faults
        self.fixed = discovery()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                api.handle(self)
            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_):
                pass
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.tls = certified(directory)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    # --- requests ---

    def handle(self, request):
        url = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else b""
        try:
            self.authenticate(request.headers.get("Authorization", ""))
            answer = self.answer(request, url.path, query, body)
            if answer is not None:
                self.send(request, 201 if request.command == "POST" else 200, answer)
        except Refusal as refusal:
            self.send(request, refusal.status["code"], refusal.status)
        except Conflict as conflict:
            self.send(request, 409, Refusal(409, "AlreadyExists", str(conflict)).status)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True

    def authenticate(self, header):
        """A pod's token is bound to its object: it is refused for everything as soon as that is gone."""
        kind, _, uid = header.removeprefix("Bearer ").partition(":")
        if kind == "pod" and all(pod["metadata"]["uid"] != uid for pod in self.store.all("pods")):
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def send(self, request, code, answer):
        body = json.dumps(answer).encode()
        request.send_response(code)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def answer(self, request, path, query, body):
        if path in self.fixed and request.command == "GET":
            return self.fixed[path]
        match = PATH.match(path)
        if not match:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        namespace, plural, name, sub = match["namespace"], match["plural"], match["name"], match["sub"]
        # /api/v1/namespaces/NAME is the Namespace itself.
        if path.startswith("/api/v1/namespaces/") and plural == "namespaces":
            namespace = None
        if plural.endswith("reviews"):
            return self.review(plural, json.loads(body))
        if plural not in BY_PLURAL:
            raise Refusal(404, "NotFound", f"the server could not find the requested resource ({plural})")
        if sub:
            return self.subresource(request, namespace, plural, name, sub, query, body)
        if request.command == "GET":
            return self.read(request, namespace, plural, name, query)
        if request.command == "POST":
            return self.create(namespace, plural, decoded(body))
        if request.command == "DELETE":
            return self.delete(namespace, plural, name, decoded(body or b"{}"), query)
        return self.change(request, namespace, plural, name, query, body)

    def existing(self, plural, namespace, name):
        found = self.store.get(plural, namespace, name)
        if found is None:
            raise Refusal(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)
        return found

    def review(self, plural, review):
        if plural == "selfsubjectrulesreviews":
            everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
            return review | {"status": {"resourceRules": [everything], "nonResourceRules": [], "incomplete": False}}
        return review | {"status": {"allowed": True}}

    # --- reading ---

    def read(self, request, namespace, plural, name, query):
        if name:
            return self.existing(plural, namespace, name)
        if query.get("watch") in ("true", "1"):
            return self.watch(request, namespace, plural, query)
        with self.store.changed:
            items = [o for o in self.store.all(plural, namespace) if selected(o, query)]
            version = self.store.version
        return {"apiVersion": BY_PLURAL[plural][0], "kind": f"{BY_PLURAL[plural][1]}List", "metadata": {"resourceVersion": str(version)}, "items": items}

    def watch(self, request, namespace, plural, query):
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.close_connection = True

        def tell(kind, o):
            line = json.dumps({"type": kind, "object": o}).encode() + b"\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            request.wfile.flush()
        until = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        version = int(query.get("resourceVersion") or 0)
        with self.store.changed:
            there = self.store.all(plural, namespace)
            seen = self.store.version
        if version == 0 or query.get("sendInitialEvents") == "true":
            for o in there:
                if selected(o, query):
                    tell("ADDED", o)
            version = seen
        if query.get("sendInitialEvents") == "true":
            tell("BOOKMARK", {"kind": BY_PLURAL[plural][1], "apiVersion": BY_PLURAL[plural][0], "metadata": {
                "resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}}})
        while time.monotonic() < until:
            events, version = self.store.since(version, plural, namespace, 1)
            for event, o in events:
                if selected(o, query):
                    tell(event, o)
        request.wfile.write(b"0\r\n\r\n")

    # --- writing ---

    def create(self, namespace, plural, o):
        if o.get("apiVersion") == "events.k8s.io/v1":
            return self.create_event(namespace, o)
        if plural == "events" and o["reason"] == "Drained" and "no-event" in self.faults:
            return o
        if "stringData" in o:
            data = {key: base64.b64encode(value.encode()).decode() for key, value in o.pop("stringData").items()}
            o["data"] = (o.get("data") or {}) | data
        if plural == "services":
            self.cluster.network.allocate(o)
        return self.store.create(plural, namespace, self.cluster.defaulted(plural, o))

    def create_event(self, namespace, event):
        """The same object as v1 shows it."""
        if event["reason"] == "Drained" and "no-event" in self.faults:
            return event
        self.store.create("events", namespace, {
            "metadata": event["metadata"], "involvedObject": event["regarding"], "reason": event["reason"], "message": event["note"],
            "type": event["type"], "eventTime": event["eventTime"], "action": event["action"],
            "reportingComponent": event["reportingController"], "reportingInstance": event["reportingInstance"], "source": {}})
        return event

    def change(self, request, namespace, plural, name, query, body):
        kind = request.headers.get("Content-Type", "").split(";")[0]
        if request.command == "PUT":
            new = decoded(body)

            def replaced(o):
                return new | {"metadata": o["metadata"] | {key: new["metadata"].get(key) for key in ("labels", "annotations") if key in new["metadata"]},
                              **({"status": o["status"]} if "status" in o else {})}
            return self.store.modify(plural, namespace, name, replaced) or self.existing(plural, namespace, name)
        if kind == "application/apply-patch+yaml":
            return self.apply(namespace, plural, name, query, json.loads(body))
        self.existing(plural, namespace, name)
        how = {"application/json-patch+json": patch.json_patch, "application/merge-patch+json": patch.merge,
               "application/strategic-merge-patch+json": patch.strategic}[kind]
        return self.store.modify(plural, namespace, name, lambda o: how(o, json.loads(body)))

    def apply(self, namespace, plural, name, query, wanted):
        key = (plural, namespace, name)
        wanted.pop("status", None)
        if self.store.get(*key) is None:
            created = self.create(namespace, plural, copy.deepcopy(wanted))
            self.store.applied[key] = wanted
            return created
        before = self.store.applied.get(key, {})
        self.store.applied[key] = wanted
        return self.store.modify(*key, lambda o: patch.apply(o, before, wanted))

    def delete(self, namespace, plural, name, options, query):
        o = self.existing(plural, namespace, name)
        if plural == "pods":
            grace = options.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
            return self.cluster.delete_pod(o, None if grace is None else int(grace))
        if plural == "namespaces":
            self.cluster.delete_namespace(name)
        return self.store.remove(plural, namespace, name)

    # --- subresources ---

    def subresource(self, request, namespace, plural, name, sub, query, body):
        o = self.existing(plural, namespace, name)
        if sub == "scale":
            if request.command in ("PUT", "PATCH"):
                replicas = json.loads(body)["spec"]["replicas"]
                o = self.store.modify(plural, namespace, name, lambda o: o["spec"].update(replicas=replicas))
            return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": o["metadata"], "spec": {"replicas": o["spec"]["replicas"]},
                    "status": {"replicas": o.get("status", {}).get("replicas", 0)}}
        if sub == "eviction":
            return self.evict(o)
        if sub == "log":
            return self.log(request, o, query)
        if sub == "exec":
            command = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)["command"]
            return websocket.serve(request, lambda: self.cluster.kubelet.exec(o["metadata"]["uid"], command))
        raise Refusal(404, "NotFound", f"no subresource {sub}")

    def evict(self, pod):
        namespace = pod["metadata"]["namespace"]
        for budget in self.store.all("poddisruptionbudgets", namespace):
            if matches(pod, budget["spec"]["selector"]["matchLabels"]):
                if self.cluster.disruptions_allowed(budget) < 1:
                    raise Refusal(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "lastTransitionTime": now()}
        self.store.modify("pods", namespace, pod["metadata"]["name"], lambda o: o["status"].setdefault("conditions", []).append(condition))
        self.cluster.delete_pod(pod, None)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}

    def log(self, request, pod, query):
        text = self.cluster.kubelet.log(pod["metadata"]["uid"], query.get("previous") == "true")
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)
