"""The real program: started, with or without strace around it, asked and stopped."""

import atexit
import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading

from strace import CALLS

JOBS = "/v1/queues/default/jobs"

# More than any buffer that is written: a page of the database, an answer.
LONGEST = 1 << 20


class Program:
    """`lameduck serve`, whose handler gives each payload back as the result."""

    def __init__(self, binary, data, trace=None, inject=None):
        command = [binary, "serve", "--data", data, "--exec", "cat"]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        if trace:
            command = [
                "strace", "-f", "--seccomp-bpf", "-q", "-y", "-xx", "-s", str(LONGEST), "-e", "signal=SIGKILL",
                "-e", f"trace={CALLS}", "-o", trace, *(["-e", f"inject={inject}"] if inject else []), *command,
            ]
        # A session of its own, so that a Ctrl-C does not reach it past us.
        self.child = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True, text=True
        )
        self.log = []
        self.address = None
        for line in self.child.stderr:
            self.log.append(line)
            entry = parse(line)
            if entry.get("message") == "listening" and entry.get("setting") == "listen":
                self.address = entry["address"]
            if entry.get("phase") == "serving":
                break
        else:
            raise SystemExit("the program did not start:\n" + "".join(self.log))
        # Read on, or its next line blocks it.
        self.reader = threading.Thread(target=lambda: self.log.extend(self.child.stderr))
        self.reader.start()
        self.pid = self.child.pid
        if trace:
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
                self.pid = int(children.read().split()[0])
        # Whatever goes wrong here, nobody stays behind: it outlives strace.
        atexit.register(self.kill)

    def connect(self):
        return http.client.HTTPConnection(self.address, timeout=60)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def stop(self, how=signal.SIGTERM):
        os.kill(self.pid, how)
        status = self.child.wait(timeout=60)
        atexit.unregister(self.kill)
        self.reader.join()
        if how == signal.SIGTERM and status != 0:
            raise SystemExit(f"the program ended with {status}:\n" + "".join(self.log))


def parse(line):
    try:
        return json.loads(line)
    except ValueError:
        return {}


class Refused(Exception):
    """Not taken in, or nobody knows."""


def submit(connection, payload, key=None):
    """Submits a job; its id."""
    headers = {"idempotency-key": key} if key else {}
    connection.request("POST", JOBS, payload, headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status == 503:
        raise Refused(body)
    if answer.status != 202:
        raise RuntimeError(f"{answer.status}: {body!r}")
    return json.loads(body)["id"]


def show(connection, job, wait=None):
    """A job as the API shows it; `None` where there is none."""
    connection.request("GET", f"/v1/jobs/{job}" + (f"?wait={wait}" if wait else ""))
    answer = connection.getresponse()
    body = answer.read()
    return json.loads(body) if answer.status == 200 else None
