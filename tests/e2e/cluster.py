"""The cluster, by kubectl and helm: whatever the user's kubeconfig reaches it with works here too."""

import codecs
import json
import os
import subprocess
import threading
import time


class Failure(Exception):
    """Something that the rest depends on did not come to pass."""


def run(*command, stdin=None, timeout=120, must=True):
    """What a command says. Each has a bound; without `must` a failure is (status, output) like any other end."""
    try:
        done = subprocess.run(command, input=stdin, encoding="utf-8", errors="replace", capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        if must:
            raise Failure(f"{' '.join(command[:6])}…: no end within {timeout} s") from error
        return 124, f"no end within {timeout} s"
    if not must:
        # kubectl warns on standard error; that is no part of an answer.
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr
    if done.returncode:
        raise Failure(f"{' '.join(command)}: exit status {done.returncode}\n{(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def await_(what, seconds, condition):
    """Asks again twice a second until there is an answer; the bound is for a cluster where it never comes."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise Failure(f"within {seconds} s it did not come to this: {what}")
        time.sleep(0.5)


class Namespace:
    """One of our own."""

    def __init__(self, name):
        self.name = name

    def kubectl(self, *arguments, **options):
        return run("kubectl", "--namespace", self.name, *arguments, **options)

    def helm(self, *arguments, **options):
        return run("helm", "--namespace", self.name, *arguments, **options)

    def read(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def create(self, *objects):
        self.kubectl("create", "--filename", "-", stdin="\n---\n".join(map(json.dumps, objects)))

    def make(self):
        # The level is enforced, so that a pod that does not keep it is refused. A cluster that knows no levels ignores it.
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        labels["app.kubernetes.io/part-of"] = "lameduck-e2e"
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}
        run("kubectl", "create", "--filename", "-", stdin=json.dumps(namespace))

    def remove(self):
        # Not waited for: a finalizer of somebody else's would hold us up.
        run("kubectl", "delete", "namespace", self.name, "--wait=false", "--ignore-not-found", must=False)

    def events(self):
        # Events of events.k8s.io/v1 and of v1 are the same objects; every kubectl shows them as v1.
        return self.read("events")["items"]

    def service_address(self, service):
        # By address: what is measured is the end of routing, not how long somebody remembers a name.
        found = self.read("service", service)["spec"]
        host, port = found["clusterIP"], found["ports"][0]["port"]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def rolled_out(self, workload, seconds=300):
        self.kubectl("rollout", "status", workload, f"--timeout={seconds}s", timeout=seconds + 30)

    def evidence(self, directory):
        """Everything that somebody wants who was not there."""
        for name, arguments in (
            ("objects", ["get", "all,pdb,endpointslices,pvc,configmaps", "--output", "yaml"]),
            ("events", ["get", "events", "--sort-by", ".metadata.creationTimestamp", "--output", "wide"]),
            ("pods", ["describe", "pods"]),
        ):
            (directory / name).write_text(self.kubectl(*arguments, must=False)[1])
        status, names = self.kubectl("get", "pods", "--output", "jsonpath={.items[*].metadata.name}", must=False)
        for name in names.split() if status == 0 else []:
            (directory / f"{name}.log").write_text(self.kubectl("logs", name, "--all-containers", "--prefix", must=False)[1])


class Watch:
    """The release's pods, from their first appearance to what the API server said of each when it was removed.

    That last word is the only place where the exit code and the termination message of a deleted pod can be read: the
    kubelet reports how the container ended, then lets the object go. So a watch has to be there all the time.
    """

    def __init__(self, namespace, selector, file):
        self.command = ["kubectl", "--namespace", namespace.name, "get", "pods", "--selector", selector,
                        "--watch", "--output-watch-events", "--output", "json"]
        self.file = file
        self.seen = {}
        self.gone = {}
        self.changed = threading.Condition()
        self.closing = False
        self.process = None
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        while not self.closing:
            self.miss()
            # API servers and what lies before them end each watch after some minutes. kubectl lists anew then.
            with self.file.with_suffix(".stderr").open("ab") as stderr:
                self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=stderr)
                for event in objects(self.process.stdout):
                    self.take(event)
                self.process.wait()
            if not self.closing:
                time.sleep(0.2)

    def miss(self):
        """Who went while nobody watched is gone as it was seen last."""
        status, pods = run(*(word for word in self.command if "watch" not in word), must=False)
        if status == 0:
            there = {pod["metadata"]["uid"] for pod in json.loads(pods)["items"]}
            with self.changed:
                self.gone.update({uid: pod for uid, pod in self.seen.items() if uid not in there and uid not in self.gone})
                self.changed.notify_all()

    def take(self, event):
        with self.file.open("a") as file:
            file.write(json.dumps(event) + "\n")
        if event.get("type") not in ("ADDED", "MODIFIED", "DELETED"):
            return
        pod = event["object"]
        uid = pod["metadata"]["uid"]
        with self.changed:
            self.seen[uid] = pod
            if event["type"] == "DELETED":
                self.gone[uid] = pod
            self.changed.notify_all()

    def living(self):
        with self.changed:
            return [pod for uid, pod in self.seen.items() if uid not in self.gone]

    def until(self, what, seconds, condition):
        """Waits for a change of what was seen, not for time to pass."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self), seconds):
                raise Failure(f"within {seconds} s the watch did not tell of this: {what}")

    def last_of(self, uid):
        with self.changed:
            return self.gone.get(uid) or self.seen[uid]

    def close(self):
        self.closing = True
        if self.process:
            self.process.terminate()
        self.thread.join(10)


def objects(stream):
    """The JSON objects of a stream, each as soon as it is whole."""
    decoder, text = json.JSONDecoder(), ""
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    while chunk := os.read(stream.fileno(), 1 << 16):
        text = (text + characters.decode(chunk)).lstrip()
        while text:
            try:
                found, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield found
