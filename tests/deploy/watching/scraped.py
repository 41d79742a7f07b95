"""A real Prometheus scrapes real drains; then every query of the dashboard and every alert is asked of it.

    process   does                                                      ends
    one       jobs, failures, two dead letters; SIGTERM during work,    clean
              and a late request
    two       SIGKILL during work                                       killed, as the next one finds out
    three     a handler that does not stop, and keeps nearly all time   cut, its job given back
    four      lives, and tells of them by the ledger

Each has an admin address of its own, as each pod has: what is asked about one that is gone is not answered by the next.
All believe to be in a cluster whose API server does not answer.
"""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from . import dashboard, rules
from .report import check, equal, until

# What only an API server that answers can give. tests/it/process/metrics.rs has one, and compares names and labels with
# docs/metrics.md.
IN_A_CLUSTER = {"lameduck_endpoint_removal_seconds"}

# What has fired in the end: the ledger's word on drains, the database's word on jobs.
FIRING = {
    "LameduckProcessKilled": {"cause": "unknown", "outcome": "killed"},
    "LameduckDrainDeadlineHit": {"outcome": "cut"},
    "LameduckDrainBudgetNearlyUsed": {"cause": "unknown"},
    "LameduckDrainsByTheClock": {"job": "lameduck"},
    "LameduckLateRequests": {"cause": "unknown"},
    "LameduckJobsGivenBackAtDeadline": {"cause": "unknown"},
    "LameduckJobsDie": {"queue": "resize"},
}
# None of these happened: they must not fire.
QUIET = {"LameduckProcessFailed", "LameduckTeardownHookFailed", "LameduckReserveAfterDrain", "LameduckRanTwice", "LameduckJobsWait",
         "LameduckEndpointWaitTimedOut", "LameduckTooFewWorkers"}

HANDLER = """
read -r payload
case "$payload" in
  fail) exit 1 ;;
  slow) sleep 4 ;;
  hang) trap '' TERM; sleep 60 ;;
esac
"""

SETTINGS = """
listen = "127.0.0.1:{api}"
admin = "127.0.0.1:{admin}"
data = "{place}/data"
workers = 4
max-attempts = 1
grace = "{grace}"
settle = "200ms"
quiet = "200ms"
fallback-wait = "500ms"
{more}
[queues.mail]
exec = ["{program}", "demo", "--duration", "100ms"]
[queues.resize]
exec = ["sh", "-c", {handler}]
"""

def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def get(url, data=None):
    with urllib.request.urlopen(url, data=data, timeout=5) as answer:
        return answer.read().decode()


# --- Prometheus

class Prometheus:
    def __init__(self, place, port, targets):
        self.url = f"http://127.0.0.1:{port}"
        self.began = time.time()
        config = place / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules.FILE.resolve())],
            "scrape_configs": [{"job_name": "lameduck", "static_configs": [{"targets": targets}]}],
        }))
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={place}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=(place / "prometheus.log").open("w"), stderr=subprocess.STDOUT)

    def ask(self, path, **parameters):
        answer = json.loads(get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"))
        equal((answer["status"], answer.get("warnings")), ("success", None), f"answer to {parameters}")
        return answer["data"]

    def instant(self, expr):
        return self.ask("query", query=expr)["result"]

    def over_all(self, expr):
        return self.ask("query_range", query=expr, start=self.began, end=time.time(), step="1s")["result"]

    def wait_for(self, expr, seconds=20):
        return until(f"Prometheus has {expr}", lambda: self.instant(expr), seconds)


# --- the program

class Process:
    """One process run. `api` stays the same for all; the admin address is its own."""

    def __init__(self, program, place, api, admin, grace="20s", more=""):
        self.api, self.instance = f"http://127.0.0.1:{api}", f"127.0.0.1:{admin}"
        self.log = place / f"log-{admin}"
        config = place / f"{admin}.toml"
        config.write_text(SETTINGS.format(api=api, admin=admin, place=place, grace=grace, more=more, program=program,
                                          handler=json.dumps(HANDLER)))
        cluster = {
            "LAMEDUCK_KUBERNETES_API": "http://127.0.0.1:1", "LAMEDUCK_SERVICE_ACCOUNT_DIR": str(place),
            "LAMEDUCK_TERMINATION_LOG": f"{place}/termination-log", "POD_NAMESPACE": "default", "POD_NAME": "lameduck-0", "POD_UID": "1",
        }
        self.process = subprocess.Popen([program, "serve", "--config", config], stdout=self.log.open("w"), stderr=subprocess.STDOUT,
                                        env={"PATH": os.environ["PATH"]} | cluster)
        until("the process is ready", lambda: get(f"http://{self.instance}/readyz"))

    def submit(self, queue, payload):
        get(f"{self.api}/v1/queues/{queue}/jobs", payload.encode())

    def selector(self, metric, **labels):
        pairs = ",".join(f'{name}="{value}"' for name, value in {"instance": self.instance, **labels}.items())
        return f"{metric}{{{pairs}}}"

    def signal(self, number):
        self.process.send_signal(number)

    def exit(self):
        return self.process.wait(timeout=30)


# --- the story

class Story:
    def __init__(self, program, place, stack):
        api, port, *admins = free_ports(6)
        (place / "token").write_text("token")
        (place / "namespace").write_text("default")
        self.program, self.place, self.stack, self.api, self.admins = program, place, stack, api, admins
        self.prometheus = Prometheus(place, port, [f"127.0.0.1:{admin}" for admin in admins])
        stack.callback(self.prometheus.process.kill)

    def start(self, **settings):
        process = Process(self.program, self.place, self.api, self.admins.pop(0), **settings)
        self.stack.callback(process.process.kill)
        return process

    def busy(self, process, queue="resize"):
        self.prometheus.wait_for(f"{process.selector('lameduck_workers_busy', queue=queue)} > 0")

    def drains_cleanly(self):
        self.one = one = self.start()
        for _ in range(8):
            one.submit("mail", "letter")
        one.submit("resize", "small")
        self.prometheus.wait_for(f"{one.selector('lameduck_job_outcomes_total', queue='mail', outcome='completed')} > 0")
        # A subquery looks every 15 s, by the clock: it has to have seen these before as well as after.
        for before in ("lameduck_queue_jobs{queue='resize',state='dead'}", "lameduck_drains_total{cause='unknown',outcome='killed'}"):
            self.prometheus.wait_for(f"max_over_time({before}[5m:15s]) == 0")
        one.submit("resize", "fail")
        one.submit("resize", "fail")
        self.prometheus.wait_for(f"{one.selector('lameduck_queue_jobs', queue='resize', state='dead')} == 2")
        one.submit("resize", "slow")
        self.busy(one)
        one.signal(signal.SIGTERM)
        self.prometheus.wait_for(f"{one.selector('lameduck_phase', phase='draining')} == 1")
        get(f"{one.api}/v1/queues")
        self.prometheus.wait_for(f"{one.selector('lameduck_late_requests_total')} > 0")
        equal(one.exit(), 0, "exit status of a clean drain")

    def is_killed(self):
        self.two = two = self.start()
        two.submit("resize", "slow")
        self.busy(two)
        two.signal(signal.SIGKILL)
        equal(two.exit(), -signal.SIGKILL, "exit status")

    def is_cut(self):
        # Little is kept behind the hard deadline, so that nearly all is used when it comes.
        self.three = three = self.start(grace="4s", more='teardown = "200ms"\nreporting = "200ms"')
        three.submit("resize", "hang")
        self.busy(three)
        three.signal(signal.SIGTERM)
        equal(three.exit(), 1, "exit status of a drain that was cut")

    def is_told(self):
        self.four = self.start()
        self.four.submit("mail", "letter")
        # What no scrape of the dead has to have seen.
        for told in (self.four.selector("lameduck_tight_drains_total"), self.four.selector("lameduck_drain_jobs_total", fate="released"),
                     self.four.selector("lameduck_drain_requests_total", fate="late")):
            self.prometheus.wait_for(f"{told} > 0")
        for name in FIRING:
            self.prometheus.wait_for(f'ALERTS{{alertname="{name}"}}', 40)


def fired(story, name):
    def look():
        alerts = [a for a in story.prometheus.ask("alerts")["alerts"] if a["labels"]["alertname"] == name]
        return [a for a in alerts if a["state"] == "firing"]
    alert, = until(f"{name} fires", look)
    equal(FIRING[name].items() <= alert["labels"].items(), True, f"labels {FIRING[name]} in {alert['labels']}")
    for text in alert["annotations"].values():
        equal("error expanding" in text or "%!" in text or "no value" in text, False, f"template: {text}")
    for gone in (story.one, story.two, story.three):
        equal(story.prometheus.instant(gone.selector("up"))[0]["value"][1], "0", "the process is gone")


def quiet(story):
    told = {alert["labels"]["alertname"] for alert in story.prometheus.ask("alerts")["alerts"]}
    equal(told & QUIET, set(), "alerts of what has not happened")


def healthy(story):
    """Every rule is evaluated without an error, by the server itself."""
    found = [rule for group in story.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    equal(sorted(rule["name"] for rule in found), sorted(alert["alert"] for alert in rules.alerts()), "rules")
    for rule in found:
        equal((rule["health"], rule.get("lastError")), ("ok", None), rule["name"])


def selects(story, expr):
    """Each selector has matched series: a label with a typing error would be quiet for ever."""
    for metric, labels in re.findall(r"\b((?:lameduck|process)_\w+)(\{[^}]*\})?", expr):
        if metric not in IN_A_CLUSTER:
            series = story.prometheus.ask("series", **{"match[]": metric + labels, "start": story.prometheus.began})
            equal(bool(series), True, f"series of {metric}{labels}")


def all_ends(story):
    """An end that the program tells of and no alert looks at would go unseen."""
    known = {series["outcome"] for series in story.prometheus.ask("series", **{"match[]": "lameduck_drains_total"})}
    looked_at = {word for alert in rules.alerts() for word in re.findall(r'lameduck_drains_total\{outcome="(\w+)"\}', alert["expr"])}
    equal(known, looked_at | {"clean"}, "outcomes of the ledger, and those with an alert")


def filled_in(expr):
    """As Grafana would send it with everything chosen, for the time of this story."""
    variables = {name: ".*" for name in dashboard.VARIABLES} | {"__rate_interval": "30s", "__range": "5m"}
    return re.sub(r"\$(\w+)", lambda found: variables[found[1]], expr)


def shows(story, expr, instant):
    expr = filled_in(expr)
    selects(story, expr)
    if set(re.findall(r"lameduck_\w+", expr)) <= IN_A_CLUSTER:
        return

    def data():
        if instant:
            values = [series["value"][1] for series in story.prometheus.instant(expr)]
        else:
            values = [value for series in story.prometheus.over_all(expr) for _, value in series["values"]]
        return any(math.isfinite(float(value)) for value in values)

    # A subquery looks at every fifteenth second of the clock, and an increase takes two of them.
    until(f"data for {expr}", data, 45)


def timeline(story):
    """The pods' rows: the first one went from serving to its end, the killed one just ends."""
    (title, expr, _), = [each for each in dashboard.queries() if each[0] == "Phases of each pod"]
    seen = {series["metric"]["instance"]: {int(float(value)) for _, value in series["values"]}
            for series in story.prometheus.over_all(filled_in(expr))}
    equal(len(seen), 4, "rows")
    serving, draining = 2, 4
    equal({serving, draining} <= seen[story.one.instance], True, f"phases of the first: {seen}")


def queries_of(page):
    blocks = re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def documented(story):
    """The queries of docs/scrape.md and docs/rollout.md, and those that the runbooks give to whoever was paged."""
    pages = (Path("docs/scrape.md"), Path("docs/rollout.md"), *sorted(rules.PAGES.glob("*.md")))
    queries = [(page, expr) for page in pages for expr in queries_of(page)]
    equal(len(queries) > 15, True, "queries")
    for page, expr in queries:
        selects(story, expr)
        equal(bool(story.prometheus.instant(expr)), True, f"an answer to {expr} of {page}")


def jq(program, text, document):
    done = subprocess.run(["jq", "--compact-output", program], input=document, text=True, capture_output=True)
    equal((done.returncode, done.stderr), (0, ""), f"jq '{program}' of {text}")
    lines = [line for line in done.stdout.splitlines() if line != "null"]
    return [line for line in lines if re.search(r":(?!null)", line) or not line.startswith("{")]


def looked_at(story):
    """What the runbooks pick out of the ledger and of dead jobs is there."""
    ledger = subprocess.run([story.program, "drains", "--json", "--data", story.place / "data"], text=True, capture_output=True, check=True).stdout
    dead = get(f"{story.four.api}/v1/queues/resize/jobs?state=dead")
    found = 0
    for page in sorted(rules.PAGES.glob("*.md")):
        for command, program in re.findall(r"^(.*) \| jq '([^']*)'", page.read_text(), re.MULTILINE):
            document = ledger if "/lameduck drains --json" in command else dead
            equal(bool(jq(program, page, document)), True, f"something of jq '{program}' in {page}")
            for field in re.findall(r"(?<=[{ ])(\w+)(?=[,}])", program):
                equal(f'"{field}"' in document, True, f"field {field} of {page}")
            found += 1
    equal(found > 5, True, "commands with jq")


def all_checks(program):
    place = Path(tempfile.mkdtemp())
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        story = Story(program, place, stack)
        check("Prometheus starts", lambda: until("an answer", lambda: get(f"{story.prometheus.url}/-/ready")))
        check("a process drains cleanly, scraped", story.drains_cleanly)
        check("a process is killed", story.is_killed)
        check("a process is cut at its hard deadline", story.is_cut)
        check("the next one tells of them, and the alerts hear it", story.is_told)
        for name in FIRING:
            check(f"{name} fires for a process that is gone", fired, story, name)
        check("alerts of what has not happened are quiet", quiet, story)
        check("Prometheus evaluates every alert", healthy, story)
        check("each end has its alert", all_ends, story)
        for alert in rules.alerts():
            check(f"{alert['alert']} selects series that there are", selects, story, alert["expr"])
        for title, expr, instant in dashboard.queries():
            check(f"dashboard: {title}", shows, story, expr, instant)
        check("dashboard: the timeline has every process", timeline, story)
        check("the queries of docs/scrape.md, docs/rollout.md and of the runbooks are answered", documented, story)
        check("what the runbooks pick out of ledger and API is there", looked_at, story)
        print(f"      from the start of Prometheus to the last query: {time.monotonic() - began:.0f} s")
