"""The VM: systemd reads the unit, and the program lives with what it says. No service is started."""

import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from .report import check, equal, output, until
from .scraped import free_ports, get

PLACE = Path("deploy/systemd")
UNIT = PLACE / "lameduck.service"
DROP_IN = PLACE / "postgres.conf"
PROGRAM = "/usr/local/bin/lameduck"
# In tenths: 1.5 of 10, where 0 would be no exposure at all.
EXPOSURE = 15


def directives(file=UNIT):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith(("#", "["))]
    return [tuple(line.split("=", 1)) for line in lines]


def of(key, file=UNIT):
    return [value for name, value in directives(file) if name == key]


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def with_program(program, place):
    """The unit with a program that is there, and the drop-in beside it: systemd looks for both."""
    unit = Path(place) / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(program)))
    return unit


def verified(program):
    with tempfile.TemporaryDirectory() as place:
        unit = with_program(program, place)
        for drop_in in (False, True):
            if drop_in:
                folder = Path(f"{unit}.d")
                folder.mkdir()
                (folder / DROP_IN.name).write_text(DROP_IN.read_text())
            done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", unit], text=True, capture_output=True)
            equal((done.returncode, done.stderr), (0, ""), "systemd-analyze verify")


def hardened(program):
    with tempfile.TemporaryDirectory() as place:
        output("systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", with_program(program, place))


def stops_in_order():
    environment = dict(pair.split("=", 1) for pair in of("Environment"))
    grace, (timeout,) = seconds(environment["LAMEDUCK_GRACE"]), of("TimeoutStopSec")
    equal(seconds(timeout) >= grace + 2, True, f"TimeoutStopSec={timeout} is above the grace period of {grace} s")
    # With control-group the commands get SIGTERM at once, and their jobs are given back instead of finished.
    equal(of("KillMode"), ["mixed"], "KillMode")
    equal(of("OOMPolicy"), ["continue"], "OOMPolicy")
    # The settings that the unit makes are not made again where they would win over it.
    equal(set(example()) & set(environment), set(), "settings in both the unit and the example")


def example():
    lines = [line for line in (PLACE / "environment.example").read_text().splitlines() if line and not line.startswith("#")]
    return {name: shlex.split(value)[0] for name, value in (line.split("=", 1) for line in lines)}


# --- a run

def environment(program, place, api, admin, *files):
    """What systemd would give it, with the directories and ports of this run."""
    given = dict(pair.split("=", 1) for file in (UNIT, *files) for pair in of("Environment", file))
    given = {name: value.replace("%S", f"{place}/state").replace("%d", f"{place}/credentials") for name, value in given.items()}
    given |= {name: value.replace(PROGRAM, str(program)) for name, value in example().items()}
    for file in files:
        for name in of("UnsetEnvironment", file):
            del given[name]
    return given | {"LAMEDUCK_LISTEN": f"127.0.0.1:{api}", "LAMEDUCK_ADMIN": f"127.0.0.1:{admin}", "PATH": os.environ["PATH"]}


def credentials(place, *files):
    """The copies that systemd makes, read-only for the service's user."""
    (Path(place) / "credentials").mkdir()
    for credential in (value for file in (UNIT, *files) for value in of("LoadCredential", file)):
        name, source = credential.split(":")
        equal(source, f"/etc/lameduck/{name}", "where credentials come from")
        file = Path(place) / "credentials" / name
        file.write_text("postgres://a:secret@127.0.0.1/x" if name == "database-url" else "a-token-of-the-test-0123456789")
        file.chmod(0o400)


def permitted():
    """The system calls that the unit's filter lets through."""
    groups, name = {}, None
    for line in output("systemd-analyze", "syscall-filter", "--no-pager").splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
            groups[name] = set()
        elif name and word and not word.startswith("#"):
            groups[name].add(word)

    def calls(group):
        return {call for word in groups[group] for call in (calls(word) if word.startswith("@") else {word})}

    allowed = set()
    for line in of("SystemCallFilter"):
        listed = {call for group in line.lstrip("~").split() for call in calls(group)}
        allowed = allowed - listed if line.startswith("~") else allowed | listed
    return allowed


def called(trace):
    return set(re.findall(r"^\d+ +([a-z]\w*)\(", trace.read_text(), re.MULTILINE))


def submit(api, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{api}/v1/queues/default/jobs", b"hello", headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)["id"]
    except urllib.error.HTTPError as error:
        return error.code, None


def runs(program):
    """The unit's command line and environment: it serves those with a token, drains, and calls nothing that is filtered."""
    api, admin = free_ports(2)
    with tempfile.TemporaryDirectory() as place:
        credentials(place)
        (Path(place) / "state/lameduck").mkdir(parents=True)
        (command,) = of("ExecStart")
        trace = Path(place) / "trace"
        tracer = ["strace", "-D", "-f", "-qq", "--signal=none", "-o", trace]
        with (Path(place) / "log").open("w") as log:
            process = subprocess.Popen([*tracer, *command.replace(PROGRAM, str(program)).split()], stdout=log, stderr=subprocess.STDOUT,
                                       env=environment(program, place, api, admin), cwd=f"{place}/state/lameduck")
        try:
            until("the process is ready", lambda: get(f"http://127.0.0.1:{admin}/readyz"))
            equal(submit(api), (401, None), "a job without a token")
            status, _ = submit(api, "a-token-of-the-test-0123456789")
            equal(status, 202, "a job with it")
            busy = 'lameduck_workers_busy{queue="default"} 1'
            until("the job runs", lambda: busy in get(f"http://127.0.0.1:{admin}/metrics"))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            equal(process.wait(timeout=30), 0, "exit status of a drain with a job of three seconds")
            equal(2 < time.monotonic() - began < 10, True, "it waited for its job and no longer")
        finally:
            process.kill()
        until("the trace is complete", lambda: "exit_group" in trace.read_text())
        calls = called(trace)
        equal(len(calls) > 50, True, "system calls that were seen")
        equal(calls - permitted(), set(), "system calls that SystemCallFilter refuses")


def with_postgres(program):
    """The drop-in makes a configuration that keeps nothing on this machine."""
    with tempfile.TemporaryDirectory() as place:
        credentials(place, DROP_IN)
        given = environment(program, place, 8080, 9090, DROP_IN)
        equal("LAMEDUCK_DATA" in given, False, "LAMEDUCK_DATA is set")
        shown = output(program, "config", "show", env=given)
        equal(given["LAMEDUCK_DATABASE_FILE"] in shown, True, f"the credential is in force:\n{shown}")


def all_checks(program):
    check("systemd reads the unit and its drop-in", verified, program)
    check(f"systemd finds the unit exposed by {EXPOSURE / 10} of 10 at the most", hardened, program)
    check("the unit stops in the order of a drain", stops_in_order)
    check("the program runs and drains by the unit's command line, inside its system calls", runs, program)
    check("the drop-in for PostgreSQL is a configuration", with_postgres, program)
