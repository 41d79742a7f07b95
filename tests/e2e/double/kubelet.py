"""The kubelet of the only node: each pod is a real process in a root file system and a mount namespace of its own.

What an image would hold is the host's: /lameduck is the program under test, python3 and PostgreSQL are Debian's.
"""

import base64
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from store import now

NODE = "node-1"
# What a container has at the least, after a deletion by force too (minimumGracePeriodInSeconds).
LEAST_GRACE = 2
CONTAINER = Path(__file__).parent / "container"
# What the image's entry point would do: a database at its first start, then the server over TCP.
POSTGRES = r"""
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
printf %s "$POSTGRES_PASSWORD" > /tmp/password
"$bin/initdb" --auth=scram-sha-256 --username="$POSTGRES_USER" --pwfile=/tmp/password --encoding=UTF8 --locale=C --no-sync -D "$PGDATA" >/dev/null
echo "CREATE DATABASE $POSTGRES_DB" | "$bin/postgres" --single -D "$PGDATA" postgres >/dev/null
echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses="$POD_IP" -c unix_socket_directories=/tmp -c fsync=off
"""


class Gone(Exception):
    """The pod was removed before it had begun."""


class Kubelet:
    def __init__(self, store, network, directory, program, api_port, faults):
        self.store, self.network, self.directory, self.faults = store, network, directory, faults
        self.program, self.api_port = program, api_port
        self.runners = {}
        self.closing = False
        threading.Thread(target=self.loop, daemon=True).start()

    def loop(self):
        while not self.closing:
            for pod in self.store.all("pods"):
                uid = pod["metadata"]["uid"]
                if uid not in self.runners:
                    self.runners[uid] = Runner(self, pod)
            time.sleep(0.05)

    def exec(self, uid, command):
        return self.runners[uid].exec(command)

    def log(self, uid, previous):
        return self.runners[uid].log(previous)

    def close(self):
        """Each ends what it has started; nobody starts anything any more."""
        self.closing = True
        for runner in list(self.runners.values()):
            runner.thread.join(10)


class Runner:
    """One pod, from its binding to its end."""

    def __init__(self, kubelet, pod):
        self.kubelet, self.store = kubelet, kubelet.store
        self.namespace, self.name, self.uid = (pod["metadata"][key] for key in ("namespace", "name", "uid"))
        self.spec = pod["spec"]
        self.container = self.spec["containers"][0]
        self.address = kubelet.network.pod_address()
        self.directory = kubelet.directory / self.uid
        self.starts = 0
        self.process = None
        self.user = self.spec.get("securityContext", {}).get("runAsUser", 0)
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()

    # --- status ---

    def tell(self, change):
        """Only if the name is still this pod's."""
        def own(o):
            if o["metadata"]["uid"] == self.uid:
                change(o)
        return self.store.modify("pods", self.namespace, self.name, own)

    def pod(self):
        if self.kubelet.closing:
            return None
        o = self.store.get("pods", self.namespace, self.name)
        return o if o and o["metadata"]["uid"] == self.uid else None

    def show(self, state, is_ready, last=None, phase="Running"):
        def change(o):
            o["spec"]["nodeName"] = NODE
            kept = [c for c in o["status"].get("conditions", []) if c["type"] not in ("Ready", "ContainersReady", "PodScheduled")]
            o["status"] |= {
                "phase": phase, "podIP": self.address, "podIPs": [{"ip": self.address}], "hostIP": "127.0.0.1", "startTime": now(),
                "conditions": kept + [{"type": kind, "status": "True" if value else "False", "lastTransitionTime": now()} for kind, value in
                                      (("PodScheduled", True), ("ContainersReady", is_ready), ("Ready", is_ready))],
                "containerStatuses": [{
                    "name": self.container["name"], "image": self.container["image"], "imageID": "", "containerID": f"double://{self.uid}-{self.starts}",
                    "state": state, "lastState": last or {}, "ready": is_ready, "started": True, "restartCount": max(0, self.starts - 1)}]}
        self.tell(change)

    # --- the container ---

    def prepare(self):
        volumes = {}
        for volume in self.spec.get("volumes", []):
            volumes[volume["name"]] = self.volume(volume)
        self.mounts = [(volumes[m["name"]], m["mountPath"], m.get("readOnly", False)) for m in self.container.get("volumeMounts", [])]
        if self.spec.get("automountServiceAccountToken", True):
            account = self.directory / "account"
            account.mkdir(parents=True)
            (account / "token").write_text(f"pod:{self.uid}")
            (account / "namespace").write_text(self.namespace)
            shutil.copy(self.kubelet.directory / "ca.crt", account)
            self.mounts.append((account, "/var/run/secrets/kubernetes.io/serviceaccount", True))

    def volume(self, volume):
        if claim := volume.get("persistentVolumeClaim"):
            return self.owned(self.kubelet.directory / f"{self.namespace}-{claim['claimName']}")
        directory = self.owned(self.directory / "volumes" / volume["name"])
        if source := volume.get("configMap"):
            for key, text in self.wait_for("configmaps", source["name"])["data"].items():
                (directory / key).write_text(text)
        if source := volume.get("secret"):
            for key, text in self.wait_for("secrets", source["secretName"])["data"].items():
                (directory / key).write_bytes(base64.b64decode(text))
        return directory

    def wait_for(self, plural, name):
        while (found := self.store.get(plural, self.namespace, name)) is None:
            if self.pod() is None:
                raise Gone
            time.sleep(0.1)
        return found

    def owned(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, self.user, self.user)
        return directory

    def environment(self):
        found = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOSTNAME": self.name, "POD_IP": self.address,
                 "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.kubelet.api_port)}
        fields = {"metadata.name": self.name, "metadata.namespace": self.namespace, "metadata.uid": self.uid, "spec.nodeName": NODE}
        for entry in self.container.get("env", []):
            source = entry.get("valueFrom", {})
            if "fieldRef" in source:
                found[entry["name"]] = fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                found[entry["name"]] = base64.b64decode(self.wait_for("secrets", source["secretKeyRef"]["name"])["data"][source["secretKeyRef"]["key"]]).decode()
            else:
                found[entry["name"]] = entry["value"]
        # Every pod's own address, as there is one network for all.
        if self.container["name"] == "lameduck":
            found |= {"LAMEDUCK_LISTEN": f"{self.address}:8080", "LAMEDUCK_ADMIN": f"{self.address}:9090"}
        return found

    def start(self):
        self.starts += 1
        root = self.directory / "root"
        root.mkdir(parents=True, exist_ok=True)
        self.message = self.directory / "termination-log"
        self.message.write_text("")
        self.message.chmod(0o666)
        hosts = "".join(f"{s['spec']['clusterIP']} {s['metadata']['name']}\n" for s in self.store.all("services", self.namespace) if s["spec"]["clusterIP"] != "None")
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
        command = self.container.get("command") or ["sh", "-c", POSTGRES]
        mounts = [f"{source}:{target}:{'ro' if read_only else 'rw'}" for source, target, read_only in self.mounts]
        with (self.directory / f"{self.starts}.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "bash", str(CONTAINER), str(root), str(self.user), str(self.kubelet.program),
                 str(self.message), str(self.directory / "hosts"), str(len(mounts)), *mounts, *command],
                env=self.environment(), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        self.began = now()

    def exec(self, command):
        return subprocess.Popen(["nsenter", f"--target={self.process.pid}", "--mount", "--root", "--wd=/", f"--setuid={self.user}", f"--setgid={self.user}",
                                 "--", *command], env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def log(self, previous):
        file = self.directory / f"{self.starts - 1 if previous else self.starts}.log"
        return file.read_bytes() if file.exists() else b""

    def stop(self):
        if self.process and self.process.poll() is None:
            # Whatever it has started is in its session's group.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def end_by_force(self, told):
        if not told:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(LEAST_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()

    # --- its life ---

    def live(self):
        try:
            self.prepare()
            last = None
            while self.pod() is not None:
                self.start()
                state = {"running": {"startedAt": self.began}}
                self.show(state, False, last)
                told = self.attend(state, last)
                self.stop()
                end = self.end(told)
                pod = self.pod()
                if pod is None:
                    return
                deleted = "deletionTimestamp" in pod["metadata"]
                policy = self.spec["restartPolicy"]
                if deleted or policy == "Never" or (policy == "OnFailure" and end["exitCode"] == 0):
                    self.show({"terminated": end}, False, last, "Failed" if end["exitCode"] else "Succeeded")
                    self.wait_for_deletion()
                    self.store.remove("pods", self.namespace, self.name, self.uid)
                    return
                last = {"terminated": end}
                time.sleep(0.5)
        except Gone:
            pass
        finally:
            self.stop()
            shutil.rmtree(self.directory / "root", ignore_errors=True)

    def wait_for_deletion(self):
        while (pod := self.pod()) and "deletionTimestamp" not in pod["metadata"]:
            time.sleep(0.1)

    def end(self, told):
        code = self.process.returncode
        code = 128 - code if code < 0 else code
        if told and "exit-137" in self.kubelet.faults:
            code = 137
        if told and "killed" in self.kubelet.faults:
            code = 0
        message = self.message.read_text()[:4096]
        if "cut-message" in self.kubelet.faults:
            message = message[:300]
        return {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "startedAt": self.began, "finishedAt": now(),
                "containerID": f"double://{self.uid}-{self.starts}-{secrets.token_hex(2)}", **({"message": message} if message else {})}

    def attend(self, state, last):
        """Until the process has ended. Probes; SIGTERM where it is to go, SIGKILL where it does not. Whether it was told to."""
        probes = {kind: Probe(self.container.get(f"{kind}Probe"), self) for kind in ("startup", "liveness", "readiness")}
        started, shown, told, deadline = not probes["startup"].there, False, False, None
        while self.process.poll() is None:
            pod = self.pod()
            if pod is None and self.kubelet.closing:
                return True
            if pod is None:
                # By force: the object is gone, and nobody is told any more how the container ends.
                self.end_by_force(told)
                return True
            grace = pod["metadata"].get("deletionGracePeriodSeconds")
            if grace is not None and not told:
                told, deadline = True, time.monotonic() + grace
                self.process.send_signal(signal.SIGKILL if "killed" in self.kubelet.faults and self.container["name"] == "lameduck" else signal.SIGTERM)
            if deadline and time.monotonic() > deadline:
                self.process.kill()
            if not started:
                started = probes["startup"].look() is True
            elif not told and probes["liveness"].look() is False:
                told, deadline = True, time.monotonic() + self.spec["terminationGracePeriodSeconds"]
                self.process.send_signal(signal.SIGTERM)
            if started:
                verdict = probes["readiness"].look()
                is_ready = shown if verdict is None else verdict
                if is_ready != shown:
                    shown = is_ready
                    self.show(state, shown, last)
            time.sleep(0.05)
        return told


class Probe:
    """True or False once it has settled, None in between; without a probe it succeeds."""

    def __init__(self, probe, runner):
        self.there, self.probe, self.runner = bool(probe), probe or {}, runner
        self.failures, self.next = 0, time.monotonic() + 0.2

    def look(self):
        if not self.there:
            return True
        if time.monotonic() < self.next:
            return None
        self.next = time.monotonic() + self.probe.get("periodSeconds", 10)
        if self.succeeds():
            self.failures = 0
            return True
        self.failures += 1
        return False if self.failures >= self.probe.get("failureThreshold", 3) else None

    def succeeds(self):
        timeout = self.probe.get("timeoutSeconds", 1)
        where = self.probe.get("httpGet") or self.probe["tcpSocket"]
        ports = {port["name"]: port["containerPort"] for port in self.runner.container.get("ports", [])}
        address = (self.runner.address, ports.get(where["port"], where["port"]))
        try:
            if "tcpSocket" in self.probe:
                socket.create_connection(address, timeout).close()
                return True
            connection = http.client.HTTPConnection(*address, timeout=timeout)
            connection.request("GET", where["path"])
            status = connection.getresponse().status
            connection.close()
            return 200 <= status < 400
        except (OSError, http.client.HTTPException):
            return False
