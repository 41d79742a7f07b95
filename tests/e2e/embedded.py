"""The embedded queue: one pod of a StatefulSet, with a volume. It comes from the chart of the release before."""

import json

import judge
from cluster import Failure, await_
from release import NAME, Release
from settings import CHART, PREVIOUS

POD = f"{NAME}-0"


def run(namespace, settings, work):
    release = Release("embedded", namespace, settings, "statefulset", 1, work)
    try:
        story(release, settings)
    finally:
        release.close()


def story(release, settings):
    kubectl = release.namespace.kubectl
    only = settings.chosen
    storage = ["--set", f"persistence.storageClassName={settings.storage_class}"] if settings.storage_class else []
    upgrade = only("upgrade") and settings.upgrade
    release.helm("install", PREVIOUS if upgrade else CHART, *storage)
    # Whoever finds nobody comes again: between two pods nobody takes jobs in.
    release.start_load("--rate", "5", "--again")
    before = release.totals()

    if upgrade:
        release.taken("upgrade", "pod_deleted", lambda: release.helm("upgrade", CHART, *storage))
    if only("rollout"):
        release.taken("rollout", "pod_deleted", lambda: kubectl("rollout", "restart", release.workload))
    if only("scale"):
        release.taken("scale", "pod_deleted", lambda: scaled(release))
    if only("eviction"):
        release.taken("eviction", "disrupted", lambda: evict(release, POD))
    if only("short"):
        # Enough for the demo's three seconds. There may be no time left for settle and quiet, which is no reason to call it routed to.
        release.taken("short", "pod_deleted", lambda: kubectl("delete", "pod", POD, "--grace-period=9", "--wait=false"), most=9, routed=False)
    if only("ledger"):
        release.counted(before)
    if only("liveness"):
        liveness(release)
    if only("doctor"):
        release.examined() or settings.say_no_program()
    if only("helm-test"):
        release.tested()
    if only("force"):
        release.reckon(begun_again_is_fine=True, untold=release.forced("force"))
    else:
        release.reckon()


def scaled(release):
    kubectl = release.namespace.kubectl
    kubectl("scale", release.workload, "--replicas=0")
    release.watch.until("no pod is left", release.settings.patience, lambda watch: not watch.living())
    kubectl("scale", release.workload, "--replicas=1")


def try_eviction(release, pod):
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": release.namespace.name}}
    path = f"/api/v1/namespaces/{release.namespace.name}/pods/{pod}/eviction"
    return release.namespace.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction), must=False)


def evict(release, pod):
    """As `kubectl drain` does it. The budget is counted by a controller that may lag behind, so a refusal is not the last word."""
    def asked():
        status, output = try_eviction(release, pod)
        if status and "TooManyRequests" not in output:
            raise Failure(f"eviction of {pod}: {output.strip()}")
        return status == 0
    await_(f"{pod} may be evicted", 120, asked)


def probed(path, period):
    """The template's liveness probe. Nothing in the pod can be made to fail from outside: a shell is not there, and process 1
    is deaf to SIGSTOP from its own namespace."""
    probe = "/spec/template/spec/containers/0/livenessProbe"
    return json.dumps([{"op": "replace", "path": f"{probe}/{field}", "value": value}
                       for field, value in (("httpGet/path", path), ("periodSeconds", period), ("failureThreshold", 2))])


def liveness(release):
    """The kubelet finds that it is not alive and starts the container again; the Pod stays."""
    kubectl, name = release.namespace.kubectl, "liveness"

    def patch(path, period):
        kubectl("patch", release.workload, "--type=json", f"--patch={probed(path, period)}")

    release.ask("mark", name)
    first = judge.uid(release.living()[0])
    patch("/nowhere", 5)
    release.watch.until("the pod with the failing probe", release.settings.patience, lambda watch: first in watch.gone and watch.living())
    pod = judge.uid(release.living()[0])
    restarted = lambda watch: judge.container_status(watch.last_of(pod)).get("lastState", {}).get("terminated")  # noqa: E731
    release.watch.until("the restart of its container", release.settings.patience, restarted)

    # At once: the probe goes on failing, and some seconds later the one before this is another.
    log = kubectl("logs", POD, "--container", "lameduck", "--previous", must=False)[1]
    described = kubectl("describe", "pod", POD)
    found = release.watch.last_of(pod)
    release.check(f"{name}: the container ends with exit code 0", judge.ended_well(found))
    report, wrong = judge.report_of(found)
    release.check(f"{name}: the termination message is the drain report, inside of 4 KiB", wrong)
    if report:
        release.check(f"{name}: the drain is clean, and its cause is container_stopped", judge.drained_well(report, "container_stopped", 30))
        release.check(f"{name}: failing readiness was seen to take the endpoints away", judge.saw_its_endpoints_go(report))
        release.check(f"{name}: Events tell of start and end, under the drain's id",
                      judge.told_by_events(release.namespace.events(), found, report["drain_id"]))
        release.check(f"{name}: kubectl describe pod shows the drain", [] if report["drain_id"] in described else described.splitlines()[-20:])
        release.check(f"{name}: the log ends with the report", judge.ends_with_report(log, report["drain_id"]))

    patch("/livez", 10)
    release.watch.until("the next pod", release.settings.patience, lambda watch: pod in watch.gone)
    release.ready()
    release.comes_to(f"{name}: the next pod tells of the drain", 60,
                     lambda: [] if release.totals().get(("container_stopped", "clean")) else [f"it tells of {release.totals()}"])
    release.judge_load(name)
