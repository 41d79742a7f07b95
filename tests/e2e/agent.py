"""The suite's hand inside the cluster: load, and questions to the pods. Python's standard library is all it needs.

    agent.py load URL [--rate N] [--again]    submits jobs and asks for them, until it is stopped; the pod's main process
    agent.py mark NAME                        what the load does from now on belongs to NAME
    agent.py summary                          what became of each request so far, by mark
    agent.py stop                             the load ends; returns when its last request has been answered
    agent.py watch URL…                       asks each for its metrics again and again; tells the last answer of who is gone
    agent.py get URL                          one answer
    agent.py settled URL                      returns when no job waits or runs
    agent.py reckon URL                       asks for every job, and compares with what was accepted

No client here tries a request again after it was sent: what fails is counted, and is what a user would have seen.
With --again a submission is repeated under its Idempotency-Key, and who finds nobody to connect to is counted apart:
a single pod is away for some seconds when it is replaced. Files in /tmp are what the commands share.
"""

import http.client
import itertools
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from datetime import datetime
from pathlib import Path

FILES = Path(os.environ.get("E2E_FILES", "/tmp"))
LEDGER, MARK, STOP, ENDED = (FILES / name for name in ("ledger", "mark", "stop", "ended"))
QUEUE = "/v1/queues/default"
PATIENCE = 30


class Away(Exception):
    """Nobody to connect to."""


class Client:
    """One connection, opened again when it was closed; a request is sent once."""

    def __init__(self, url, patience=PATIENCE):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=patience)

    def ask(self, method, path, body=None, headers=()):
        try:
            if self.connection.sock is None:
                try:
                    self.connection.connect()
                except OSError as error:
                    raise Away(f"{type(error).__name__}: {error}") from error
            self.connection.request(method, path, body, dict(headers))
            response = self.connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except Exception:
            self.connection.close()
            raise

    def close(self):
        self.connection.close()


# === load ===


class Load:
    def __init__(self, url, rate, again):
        self.url, self.rate, self.again = url, rate, again
        self.numbers = itertools.count(1)
        self.accepted = []
        self.lock = threading.Lock()
        self.ledger = LEDGER.open("a", buffering=1)

    def note(self, mark, kind, what, **more):
        with self.lock:
            self.ledger.write(json.dumps({"mark": mark, "kind": kind, "what": what, **more}) + "\n")

    def tried(self, client, kind, method, path, wanted, body=None, headers=(), mark=None):
        """One request; its answer, or None. Whatever became of it is in the ledger."""
        mark = mark or current_mark()
        began = time.time()
        try:
            status, answer = client.ask(method, path, body, headers)
        except Away as error:
            self.note(mark, kind, "away" if self.again else "failed", error=str(error))
        except Exception as error:
            self.note(mark, kind, "failed", error=f"{type(error).__name__}: {error}", seconds=round(time.time() - began, 3))
        else:
            if status == wanted:
                return answer
            self.note(mark, kind, "failed", error=f"status {status}: {answer[:200]}")
        return None

    def submit(self, client, kind):
        number, mark = next(self.numbers), current_mark()
        headers = {"Idempotency-Key": f"{os.uname().nodename}-{os.getpid()}-{number}", "Content-Type": "text/plain"}
        while True:
            answer = self.tried(client, kind, "POST", f"{QUEUE}/jobs", 202, f"job {number}", headers, mark)
            if answer is not None:
                job = json.loads(answer)["id"]
                self.note(mark, kind, "ok", id=job)
                self.accepted.append(job)
                return
            if not self.again or STOP.exists():
                return
            time.sleep(0.2)

    def run(self, one, share):
        """`one`, so often a second, until told to stop. Who is late does not catch up: that would be a burst after each gap."""
        while not STOP.exists():
            began = time.monotonic()
            one()
            time.sleep(max(0.0, share / self.rate - (time.monotonic() - began)))

    def keeps_its_connection(self):
        client = Client(self.url)
        self.run(lambda: self.submit(client, "kept connection"), 4)

    def connects_anew(self):
        def one():
            client = Client(self.url)
            self.submit(client, "new connection")
            client.close()
        self.run(one, 4)

    def looks(self):
        client = Client(self.url)

        def one():
            if self.tried(client, "look", "GET", QUEUE, 200) is not None:
                self.note(current_mark(), "look", "ok")
        self.run(one, 1)

    def waits(self):
        """Long polls: a drain answers them early, with the job as it stands; then it is asked again."""
        client = Client(self.url)

        def one():
            if not self.accepted:
                return
            path = f"/v1/jobs/{self.accepted[-1]}?wait=20s"
            while not STOP.exists():
                answer = self.tried(client, "long poll", "GET", path, 200)
                if answer is not None:
                    self.note(current_mark(), "long poll", "ok")
                    if json.loads(answer)["state"] == "completed":
                        return
                time.sleep(0.1)
        self.run(one, 1)


def current_mark():
    try:
        return MARK.read_text()
    except FileNotFoundError:
        return "start"


def load(url, *options):
    # PID 1 has no default handlers: without this the pod would take its whole grace period.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    rate = float(options[options.index("--rate") + 1]) if "--rate" in options else 6.0
    work = Load(url, rate, "--again" in options)
    clients = [work.keeps_its_connection] * 3 + [work.connects_anew, work.looks, work.waits, work.waits]
    threads = [threading.Thread(target=client) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ENDED.touch()
    # The commands go on to be run in this pod.
    threading.Event().wait()


def lines():
    with LEDGER.open() as file:
        # The last line may be under way.
        return [json.loads(line) for line in file if line.endswith("\n")]


def summarised(entries):
    """{mark: {"ok": n, "failed": n, "away": n, "accepted": n, "kinds": {kind: n}, "errors": [first few]}}"""
    marks = {}
    for entry in entries:
        mark = marks.setdefault(entry["mark"], {"ok": 0, "failed": 0, "away": 0, "accepted": 0, "kinds": {}, "errors": []})
        mark[entry["what"]] += 1
        if entry["what"] == "ok":
            mark["kinds"][entry["kind"]] = mark["kinds"].get(entry["kind"], 0) + 1
        mark["accepted"] += "id" in entry
        if entry["what"] == "failed" and len(mark["errors"]) < 5:
            after = f" after {entry['seconds']} s" if "seconds" in entry else ""
            mark["errors"].append(f"{entry['kind']}: {entry['error']}{after}")
    return marks


def stop():
    STOP.touch()
    await_(lambda: ENDED.exists(), 3 * PATIENCE)


# === questions ===


def await_(condition, seconds):
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            sys.exit("it did not come to it in time")
        time.sleep(0.1)
    return found


def get(url, patience=5):
    with urllib.request.urlopen(url, timeout=patience) as answer:
        return answer.read().decode()


def asked(url):
    """An answer, however often it takes: this one only reads."""
    def once():
        try:
            return get(url)
        except OSError:
            return None
    return await_(once, 60)


def value(metrics, name):
    return next((line.split()[-1] for line in metrics.splitlines() if line.startswith(f"{name} ")), None)


def last_words(url, longest, answered):
    """The last answer of the process that answers there now. A new one has another start time: addresses are given out anew."""
    last, started, silent = None, None, None
    until = time.monotonic() + longest
    while time.monotonic() < until:
        try:
            metrics = get(url, 1)
        except (OSError, http.client.HTTPException):
            silent = silent or time.monotonic()
            if time.monotonic() - silent > (3 if last else 20):
                break
        else:
            silent = None
            started = started or value(metrics, "process_start_time_seconds")
            if value(metrics, "process_start_time_seconds") != started:
                break
            last = metrics
            answered()
        time.sleep(0.1)
    answered()
    return last


def watch(*urls, longest=300):
    """`watching` once each has answered; then a line for each, as soon as it is gone: {url: its last answer}."""
    waiting = set(urls)

    def answered(url):
        with printing:
            if url in waiting:
                waiting.remove(url)
                if not waiting:
                    print("watching", flush=True)

    def one(url):
        text = last_words(url, longest, lambda: answered(url)) or ""
        # A histogram's buckets are of no use here, and long.
        told = "\n".join(line for line in text.splitlines() if line.startswith("lameduck_") and "_bucket" not in line)
        with printing:
            print(json.dumps({url: told}), flush=True)
    printing = threading.Lock()
    threads = [threading.Thread(target=one, args=[url]) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settled(url, seconds=180):
    def empty():
        queue = json.loads(asked(f"{url}{QUEUE}"))
        return not any(queue[state] for state in ("pending", "scheduled", "running", "deferred"))
    await_(empty, seconds)


def instant(text):
    """Of an RFC 3339 instant in UTC. Before 3.11 Python reads no fraction but one of three or six digits."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def was_begun(run):
    """A reserve that was under way when the drain began comes back at once, with nothing done. The demo handler takes three
    seconds, so what was given back within one had hardly met it."""
    return run["end"] != "released" or instant(run["ended_at"]) - instant(run["started_at"]) > 1


def reckoned(ledger, jobs, others):
    """What became of the jobs that were accepted: {"accepted": n, "trouble": {what: n}, "examples": […], "slowest": {mark: s}}"""
    trouble, examples, slowest = Counter(), [], {}

    def say(what, job):
        trouble[what] += 1
        if len(examples) < 10:
            examples.append(f"{job}: {what}")

    accepted = [(entry["id"], entry["mark"]) for entry in ledger if "id" in entry]
    for job, times in Counter(job for job, _ in accepted).items():
        if times > 1:
            say("accepted twice under different keys", job)
    for job, mark in accepted:
        found = jobs.get(job)
        if found is None:
            say("lost", job)
            continue
        done = sum(run["end"] == "completed" for run in found["history"])
        if found["state"] != "completed":
            say(f"is {found['state']}", job)
        elif done > 1:
            say("completed twice", job)
        if sum(was_begun(run) for run in found["history"]) > 1 or found["crashes"] or found["attempt"] > 1:
            say("begun more than once", job)
        if found["ended_at"]:
            took = instant(found["ended_at"]) - instant(found["submitted_at"])
            slowest[mark] = max(slowest.get(mark, 0), round(took, 1))
    for job in others:
        say("stored though nobody was told", job)
    return {"accepted": len(accepted), "trouble": dict(trouble), "examples": examples, "slowest": slowest}


def reckon(url):
    ledger = lines()
    accepted = {entry["id"] for entry in ledger if "id" in entry}
    jobs = {}
    client = Client(url)
    for job in accepted:
        status, answer = client.ask("GET", f"/v1/jobs/{job}")
        if status == 200:
            jobs[job] = json.loads(answer)
    # A database that was used before has jobs of its own: those are older.
    began = min((job["submitted_at"] for job in jobs.values()), default="")
    others, page = [], f"{QUEUE}/jobs?state=completed&limit=500"
    while page:
        status, answer = client.ask("GET", page)
        if status != 200:
            sys.exit(f"{page}: {status}: {answer}")
        answer = json.loads(answer)
        others += [job["id"] for job in answer["jobs"] if job["id"] not in accepted and job["submitted_at"] > began]
        page = answer["next"]
    return reckoned(ledger, jobs, others)


def main(command, *arguments):
    if command == "load":
        load(*arguments)
    elif command == "mark":
        # A reader never sees half a name.
        new = FILES / "mark.new"
        new.write_text(arguments[0])
        new.replace(MARK)
    elif command == "stop":
        stop()
    elif command == "settled":
        settled(*arguments)
    elif command == "watch":
        watch(*arguments)
    elif command == "get":
        print(asked(*arguments))
    else:
        print(json.dumps({"summary": lambda: summarised(lines()), "reckon": reckon}[command](*arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
