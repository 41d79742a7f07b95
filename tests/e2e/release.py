"""A release under load: its pods are taken away, and each is looked at from all sides.

    mark ─▶ jobs flow ─▶ taken away ─▶ the watch tells of the end ─▶ all are ready again ─▶ jobs flow ─▶ judged
                  └─ meanwhile its metrics are asked for, to the last answer ─┘
"""

import json
import os
import subprocess

import judge
import scene
from checks import check, note
from cluster import Failure, Watch, await_

NAME = "jobs-lameduck"
SERVICES = [NAME, f"{NAME}-headless"]
SELECTOR = "app.kubernetes.io/instance=jobs,app.kubernetes.io/name=lameduck"
# How many requests have to be answered before and after something is done to a pod.
FLOW = 12


class Release:
    def __init__(self, shape, namespace, settings, workload, replicas, work):
        self.shape, self.namespace, self.settings = shape, namespace, settings
        self.workload, self.replicas, self.work = f"{workload}/{NAME}", replicas, work
        self.reports = []
        self.watch = Watch(namespace, SELECTOR, work / "pods.jsonl")
        self.url = None

    # --- Helm ---

    def helm(self, verb, chart, *values):
        # Not a trace of old values: an upgrade says all that it wants.
        self.namespace.helm(verb, "jobs", str(chart), "--wait", f"--timeout={self.settings.patience}s",
                            *self.settings.helm_values(), "--set", "handler.demo=true", *values,
                            timeout=self.settings.patience + 60)

    # --- the load ---

    def start_load(self, *options):
        self.url = self.namespace.service_address(NAME)
        self.namespace.create(*scene.load(self.settings.python_image, self.url, *options))
        self.namespace.kubectl("wait", "--for=condition=Ready", "pod/load", f"--timeout={self.settings.patience}s",
                               timeout=self.settings.patience + 30)

    def ask(self, *question, seconds=60):
        """A question to the agent; asked again where the connection to the kubelet breaks."""
        for last in (False, False, True):
            status, answer = self.namespace.kubectl(
                "exec", "load", "--", "python3", "/e2e/agent.py", *question, timeout=seconds, must=False)
            if status == 0:
                return answer
            if last:
                raise Failure(f"agent {question[0]}: {answer.strip()[-1000:]}")

    def summary(self):
        return json.loads(self.ask("summary"))

    def flows(self, mark, least):
        await_(f"{least} jobs accepted under {mark}", 120, lambda: self.summary().get(mark, {"accepted": 0})["accepted"] >= least)

    # --- pods ---

    def living(self):
        return self.watch.living()

    def ready(self):
        """All replicas are, nobody is on the way out, and the controller knows."""
        self.watch.until(
            f"{self.replicas} ready pods and no others", self.settings.patience,
            lambda watch: len(pods := watch.living()) == self.replicas and all(judge.is_ready(pod) for pod in pods))
        self.namespace.rolled_out(self.workload, self.settings.patience)

    def metrics_to_the_end(self, pods):
        urls = [f"{judge.address(pod, 9090)}/metrics" for pod in pods]
        command = ["kubectl", "--namespace", self.namespace.name, "exec", "load", "--", "python3", "/e2e/agent.py", "watch", *urls]
        scraper = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
        # Who is taken away before the first scrape would leave nothing to judge.
        if scraper.stdout.readline().strip() != "watching":
            scraper.kill()
            raise Failure(f"the agent cannot watch {', '.join(urls)}")
        return scraper

    def last_words(self, scraper, pods):
        """What each said last. The agent prints a line for each that is gone, as soon as it is."""
        wanted, found = {f"{judge.address(pod, 9090)}/metrics" for pod in pods}, {}
        while wanted - found.keys():
            line = scraper.stdout.readline()
            if not line:
                break
            found.update(json.loads(line))
        return found

    # --- taking away ---

    def taken(self, name, cause, act, pods=None, most=None, routed=True, gap=False):
        """`act` takes these pods away (all, where none are named); nothing may be lost by it."""
        pods = pods or self.living()
        self.ask("mark", name)
        self.flows(name, FLOW)
        scraper = self.metrics_to_the_end(pods)
        try:
            act()
            uids = [judge.uid(pod) for pod in pods]
            self.watch.until(f"the end of {', '.join(map(judge.name, pods))}", self.settings.patience,
                             lambda watch: all(uid in watch.gone for uid in uids))
            self.ready()
            # Not before: what fails while the new pod begins belongs to this, too.
            accepted = self.summary()[name]["accepted"]
            self.flows(name, accepted + FLOW)
            last_words = self.last_words(scraper, pods)
        finally:
            scraper.kill()
        self.judge(name, cause, [self.watch.last_of(uid) for uid in uids], last_words, most, routed)
        self.judge_load(name)

    def judge(self, name, cause, pods, last_words, most, routed):
        events = self.namespace.events()
        wrong = {what: [] for what in ("exit", "message", "drain", "routing", "events", "lag")}
        for pod in pods:
            wrong["exit"] += judge.ended_well(pod)
            report, trouble = judge.report_of(pod)
            wrong["message"] += trouble
            if routed:
                wrong["lag"] += judge.tells_the_lag(last_words.get(f"{judge.address(pod, 9090)}/metrics"), SERVICES)
            if report is None:
                for what in ("drain", "routing", "events"):
                    wrong[what].append(f"{judge.name(pod)}: there is no report to go by")
                continue
            self.reports.append(report)
            wrong["drain"] += judge.drained_well(report, cause, most)
            wrong["events"] += judge.told_by_events(events, pod, report["drain_id"])
            wrong["routing"] += judge.saw_its_endpoints_go(report) if routed else judge.not_called_routed_to(report)
            gone = f"endpoints gone after {report['removal_seconds']} s" if report["removal_seconds"] else "endpoints not seen to go"
            note(f"{judge.name(pod)}: drain {report['drain_id']}, {report['outcome']}, {report['seconds']} s of {report['budget_seconds']} s, "
                 f"{gone}, {report['requests']['served']} requests, {report['jobs']['finished']} jobs")
        for what, promise in (
            ("exit", "every container ends with exit code 0"),
            ("message", "the termination message is the drain report, inside of 4 KiB"),
            ("drain", f"the drain is clean, and its cause is {cause}"),
            ("routing", "the endpoints were seen to go"),
            ("events", "Events tell of start and end, under the drain's id"),
            ("lag", "the metrics tell of the lag of each Service"),
        ):
            if routed or what != "lag":
                self.check(f"{name}: {promise}", wrong[what])

    def judge_load(self, name):
        summary = self.summary()
        self.check(f"{name}: no request failed", judge.undisturbed(summary, name, 2 * FLOW))
        found = summary[name]
        kinds = ", ".join(f"{count} by {kind}" for kind, count in sorted(found["kinds"].items()))
        note(f"{found['ok']} requests ({kinds}), {found['failed']} failed" + (f", {found['away']} found nobody" if found["away"] else ""))

    def check(self, promise, wrong):
        check(f"{self.shape} {promise}", wrong)

    # --- afterwards ---

    def totals(self):
        """What a living pod tells of all drains."""
        pod = next(pod for pod in self.living() if judge.is_ready(pod))
        return judge.totals(self.ask("get", f"{judge.address(pod, 9090)}/metrics", seconds=90))

    def comes_to(self, promise, seconds, judged):
        """Figures are read from the database every few seconds: they get time to be right, and are shown as they were last."""
        last = []

        def right():
            last[:] = judged()
            return not last
        try:
            await_(promise, seconds, right)
        except Failure as failure:
            last = last or [str(failure)]
        self.check(promise, last)

    def forced(self, name):
        """Without a grace period: the Pod is gone at once, and its token with it. Its container has two seconds, which it has to
        know. That a request on its way to it fails is what force means; those are counted, not judged. How many."""
        pod = self.living()[0]
        self.ask("mark", name)
        self.flows(name, FLOW)
        self.namespace.kubectl("delete", "pod", judge.name(pod), "--grace-period=0", "--force", "--wait=false")
        self.watch.until("the end of the pod", self.settings.patience, lambda watch: judge.uid(pod) in watch.gone)
        self.ready()
        self.flows(name, self.summary()[name]["accepted"] + FLOW)
        self.ask("mark", "end")
        self.comes_to(f"{name}: its report says that it was deleted, had two seconds and gave its jobs back", 30,
                      lambda: judge.forced_well(json.loads(self.ask("get", f"{self.url}/v1/drains?limit=50")), judge.name(pod)))
        return judge.failed_submissions(self.summary(), name)

    def counted(self, before):
        self.comes_to(f"ledger: a living pod tells of these {len(self.reports)} drains and no others", 60,
                      lambda: judge.counted(before, self.totals(), self.reports))

    def examined(self):
        """By the doctor, in the pod and from here."""
        pod = judge.name(self.living()[0])
        status, output = self.namespace.kubectl("exec", pod, "--container", "lameduck", "--", "/lameduck", "doctor", "--json", must=False)
        self.check("doctor: in the pod it finds nothing to say", judge.healthy(status, output))
        program = self.settings.program
        if program is None:
            return False
        done = subprocess.run([program, "doctor", self.workload, "--namespace", self.namespace.name, "--longest-job", "3s", "--json"],
                              text=True, capture_output=True, timeout=90, env=os.environ)
        self.check("doctor: by the kubeconfig it finds nothing to say", judge.healthy(done.returncode, done.stdout or done.stderr))
        return True

    def tested(self):
        status, output = self.namespace.helm("test", "jobs", "--timeout=3m", timeout=240, must=False)
        self.check("helm test: the service answers", [] if status == 0 else output.splitlines()[-10:])

    def reckon(self, **allowed):
        self.ask("stop", seconds=120)
        self.ask("settled", self.url, seconds=240)
        reckoning = json.loads(self.ask("reckon", self.url, seconds=240))
        self.check("reckoning: every accepted job is done once", judge.done_once(reckoning, FLOW, **allowed))
        note(f"{reckoning['accepted']} jobs were accepted")
        return reckoning

    def close(self):
        self.watch.close()
