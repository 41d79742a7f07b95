"""What Compose would start, without an engine: PostgreSQL and Prometheus of this machine, two replicas with the environment of the image and
of docker-compose.yaml, and the story that deploy/compose/README.md tells.
"""

import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import yaml

from . import compose, rules
from .report import check, equal, output, until
from .scraped import free_ports, get

JOBS = 40


def lower(place):
    """PostgreSQL refuses to be root: a command that is not, and a place of its own."""
    if os.geteuid() != 0:
        return [], {}
    user = pwd.getpwnam("postgres")
    os.chown(place, user.pw_uid, user.pw_gid)
    os.chmod(place.parent, 0o755)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], {"cwd": place}


def postgres(place, port, password, stack):
    """A user, a password and a database, as the image makes them of its environment."""
    given = compose.resolved()["services"]["database"]["environment"]
    place = place / "postgres"
    place.mkdir()
    as_user, options = lower(place)
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    file = place / "password"
    file.write_text(password)
    file.chmod(0o644)
    output(*as_user, programs / "initdb", "--auth=scram-sha-256", f"--username={given['POSTGRES_USER']}", f"--pwfile={file}", "--no-sync",
           "--locale=C", "--encoding=UTF8", "-D", place / "data", **options)
    server = subprocess.Popen([*as_user, programs / "postgres", "-D", place / "data", "-k", place, "-p", str(port), "-c", "fsync=off",
                               "-c", "listen_addresses=127.0.0.1"], stdout=(place / "log").open("w"), stderr=subprocess.STDOUT, **options)
    # Its fast shutdown; SIGKILL would leave its children and their memory.
    stack.callback(server.wait)
    stack.callback(server.send_signal, signal.SIGINT)
    environment = {"PGPASSWORD": password, "PATH": os.environ["PATH"]}
    address = ["--host=127.0.0.1", f"--port={port}", f"--username={given['POSTGRES_USER']}"]
    until("PostgreSQL answers", lambda: not subprocess.run([programs / "pg_isready", *address], capture_output=True).returncode)
    output(programs / "createdb", *address, given["POSTGRES_DB"], env=environment)


class Laptop:
    def __init__(self, program, place, stack):
        self.program, self.place, self.stack = program, place, stack
        database, self.prometheus_port, *ports = free_ports(6)
        self.apis, self.admins = ports[:2], ports[2:]
        # The very URL of the README, with another address.
        url = re.search(r"'(postgres://\S+)' \"\$password\"", (compose.PLACE / "README.md").read_text())[1] % "a-password"
        (place / "database-url").write_text(url.replace("@database:5432", f"@127.0.0.1:{database}"))
        postgres(place, database, "a-password", stack)
        self.replicas = [self.start(0), self.start(1)]
        self.watch()

    def start(self, number):
        service = compose.resolved()["services"]["lameduck"]
        given = compose.image_environment() | service["environment"]
        given["LAMEDUCK_EXEC"] = given["LAMEDUCK_EXEC"].replace("/lameduck", shlex.quote(str(self.program)))
        given |= {"LAMEDUCK_DATABASE_FILE": f"{self.place}/database-url", "LAMEDUCK_LISTEN": f"127.0.0.1:{self.apis[number]}",
                  "LAMEDUCK_ADMIN": f"127.0.0.1:{self.admins[number]}", "PATH": os.environ["PATH"]}
        process = subprocess.Popen([self.program, "serve"], env=given, cwd=self.place, stderr=subprocess.STDOUT,
                                   stdout=(self.place / f"log-{number}").open("a"))
        self.stack.callback(process.kill)
        until("a replica is ready", lambda: get(f"http://127.0.0.1:{self.admins[number]}/readyz"))
        return process

    def watch(self):
        """Compose's own configuration, with addresses instead of Docker's name server."""
        config = yaml.safe_load((compose.PLACE / "prometheus.yaml").read_text())
        config["scrape_configs"][0].pop("dns_sd_configs")
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{admin}" for admin in self.admins]}]
        (self.place / "prometheus.yaml").write_text(json.dumps(config))
        shutil.copy(rules.FILE, self.place)
        server = subprocess.Popen(["prometheus", f"--config.file={self.place}/prometheus.yaml", f"--storage.tsdb.path={self.place}/tsdb",
                                   f"--web.listen-address=127.0.0.1:{self.prometheus_port}"],
                                  stdout=(self.place / "prometheus.log").open("w"), stderr=subprocess.STDOUT)
        self.stack.callback(server.kill)
        until("Prometheus answers", lambda: get(f"http://127.0.0.1:{self.prometheus_port}/-/ready"))

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        return json.loads(get(url))["data"]

    def submit(self):
        return [json.loads(get(f"http://127.0.0.1:{self.apis[0]}/v1/queues/default/jobs", f"job {n}".encode()))["id"] for n in range(JOBS)]

    def job(self, identity, replica):
        return json.loads(get(f"http://127.0.0.1:{self.apis[replica]}/v1/jobs/{identity}"))

    def all_done(self, ids, replica):
        return until("all jobs are done", lambda: all(self.job(each, replica)["state"] == "completed" for each in ids), 40)

    def busy(self, replica):
        def look():
            found = re.search(r'^lameduck_workers_busy\{queue="default"\} (\d+)', get(f"http://127.0.0.1:{self.admins[replica]}/metrics"), re.MULTILINE)
            return int(found[1])
        return until("it has jobs", look)

    def one_is_stopped(self):
        """`docker stop`: SIGTERM, and SIGKILL after the stop_grace_period."""
        ids = self.submit()
        self.busy(1)
        began = time.monotonic()
        self.replicas[1].send_signal(signal.SIGTERM)
        equal(self.replicas[1].wait(timeout=30), 0, "exit status")
        equal(time.monotonic() - began < 10, True, "a drain with jobs of three seconds takes no more than they do")
        self.all_done(ids, 0)
        equal([self.job(each, 0)["attempt"] for each in ids], [1] * JOBS, "attempts")

    def one_is_killed(self):
        """`docker kill`, of the other one."""
        self.replicas[1] = self.start(1)
        # A subquery looks every 15 s, by the clock: it has to have seen the ledger before as well as after.
        seen = "max_over_time(lameduck_drains_total{cause='unknown',outcome='killed'}[5m:15s]) == 0"
        until("Prometheus has seen the ledger", lambda: self.ask("query", query=seen)["result"])
        ids = self.submit()
        self.busy(0)
        self.replicas[0].kill()
        self.replicas[0].wait()
        self.all_done(ids, 1)

    def told(self):
        def firing():
            return [a for a in self.ask("alerts")["alerts"] if a["labels"]["alertname"] == "LameduckProcessKilled" and a["state"] == "firing"]
        until("LameduckProcessKilled fires, told by the one that lives", firing, 40)


def all_checks(program):
    place = Path(tempfile.mkdtemp())
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        made = []
        check("the laptop's replicas start on PostgreSQL", lambda: made.append(Laptop(program, place, stack)))
        for laptop in made:
            check("one replica is stopped, the other goes on, no job runs twice", laptop.one_is_stopped)
            check("one replica is killed, and its jobs run again", laptop.one_is_killed)
            check("the other one tells of it", laptop.told)
