"""Three replicas that share a PostgreSQL: nobody is ever without a pod, so no request may fail."""

import secrets

import judge
import scene
from embedded import evict, try_eviction
from release import FLOW, Release
from settings import CHART

SECRET = "jobs-database"


def run(namespace, settings, work):
    release = Release("postgres", namespace, settings, "deployment", 3, work)
    try:
        story(release, settings)
    finally:
        release.close()


def story(release, settings):
    kubectl = release.namespace.kubectl
    only = settings.chosen
    release.namespace.create(scene.secret(SECRET, url=database(release.namespace, settings)))
    release.helm("install", CHART, "--set", f"database.existingSecret={SECRET}", "--set", "replicas=3")
    release.ready()
    # 8 a second of 3 s each keep 24 of 60 workers busy, and 24 of 40 when one pod is away.
    release.start_load("--rate", "8")
    before = release.totals()

    if only("rollout"):
        release.taken("rollout", "pod_deleted", lambda: rolled(release))
    if only("scale"):
        scaled(release)
    if only("eviction"):
        evicted(release)
    if only("short"):
        pod = release.living()[0]
        release.taken("short", "pod_deleted", pods=[pod], most=9, routed=False,
                      act=lambda: kubectl("delete", "pod", judge.name(pod), "--grace-period=9", "--wait=false"))
    if only("ledger"):
        release.counted(before)
    if only("doctor"):
        release.examined() or settings.say_no_program()
    if only("helm-test"):
        release.tested()
    if only("force"):
        forced(release)
    else:
        release.reckon()


def database(namespace, settings):
    if settings.database_url:
        return settings.database_url
    # Of hexadecimal digits: nothing in it has to be escaped in a URL.
    password = secrets.token_hex(16)
    namespace.create(*scene.postgres(settings.postgres_image, settings.postgres_user, password))
    namespace.kubectl("wait", "--for=condition=Ready", "pod/postgres", f"--timeout={settings.patience}s", timeout=settings.patience + 30)
    address = namespace.service_address("postgres").removeprefix("http://")
    return f"postgres://lameduck:{password}@{address}/jobs?sslmode=disable"


def rolled(release):
    release.namespace.kubectl("rollout", "restart", release.workload)
    release.namespace.rolled_out(release.workload, release.settings.patience)


def scaled(release):
    """Down by one and up again: which pod goes is the controller's choice, so all are watched and one is judged."""
    kubectl, name = release.namespace.kubectl, "scale"
    pods = release.living()
    before = {judge.uid(pod) for pod in pods}
    release.ask("mark", name)
    release.flows(name, FLOW)
    scraper = release.metrics_to_the_end(pods)
    try:
        kubectl("scale", release.workload, "--replicas=2")
        release.watch.until("the end of one pod", release.settings.patience, lambda watch: before & watch.gone.keys())
        uids = before & release.watch.gone.keys()
        # The scrapes end when all whom they ask have gone; the others stay.
        last_words = release.last_words(scraper, [release.watch.last_of(uid) for uid in uids])
        kubectl("scale", release.workload, "--replicas=3")
        release.ready()
        release.flows(name, release.summary()[name]["accepted"] + FLOW)
    finally:
        scraper.kill()
    release.judge(name, "pod_deleted", [release.watch.last_of(uid) for uid in uids], last_words, None, True)
    release.judge_load(name)


def evicted(release):
    first, second = release.living()[:2]
    refused = []

    def act():
        evict(release, judge.name(first))
        # The budget is spent in the same moment: until somebody has taken the place, nobody else may be evicted.
        refused.extend(evict_again(release, judge.name(second)))
    release.taken("eviction", "disrupted", act, pods=[first])
    release.check("eviction: the budget lets nobody else go meanwhile", refused)


def evict_again(release, pod):
    status, output = try_eviction(release, pod)
    if status == 0:
        return [f"{pod} was evicted as well"]
    return [] if "budget" in output else [output]


def forced(release):
    """Others do its jobs, which it gives back instead of leaving them to its lease."""
    name = "force"
    untold = release.forced(name)
    # 3 s, given back in the last moment of two; 3 s once more; and a queue that has grown meanwhile.
    reckoning = release.reckon(begun_again_is_fine=True, untold=untold)
    release.check(f"{name}: what it had begun was done elsewhere before its lease was over", judge.fast_enough(reckoning, name, 3 + 2 + 3 + 6))
