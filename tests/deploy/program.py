"""The program itself reads the settings that the chart renders for it."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

from cluster import cluster, installed
from tools import SCRATCH, equal, select, without_hooks, workload

# What is in the files that settings name, by the directory.
SECRETS = {"database": "postgres://jobs:p%40ss@db:5432/jobs?sslmode=verify-full", "tokens": "a-token-of-some-length", "http": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "own": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}

def binary():
    given = os.environ.get("LAMEDUCK_BIN")
    path = Path(given or "target/debug/lameduck")
    if given and not path.exists():
        raise FileNotFoundError(f"LAMEDUCK_BIN={given}")
    return path.resolve() if path.exists() else None


def says(path, *arguments, commands=None):
    search = os.pathsep.join(filter(None, [commands and str(commands), os.environ["PATH"]]))
    return subprocess.run([path, *arguments], env={"PATH": search}, text=True, capture_output=True)


def in_the_image():
    """A directory with the commands that an operator's image would hold beside the program; cases.py names them."""
    directory = SCRATCH / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    command = directory / "a"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    return directory


def accepts(path, rendered):
    """`lameduck config check` finds nothing wrong, and nothing doubtful."""
    own = workload(rendered)
    name = next(v for v in own["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")["configMap"]["name"]
    text = select(rendered, "ConfigMap", name)["data"]["lameduck.toml"]
    for file in re.findall(r'"(/run/lameduck/[^"]+)"', text):
        copy = SCRATCH / file.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(SECRETS.get(copy.parent.name, ""))
    certificate(text)
    file = SCRATCH / "lameduck.toml"
    file.write_text(text.replace('"/run/lameduck/', f'"{SCRATCH}/run/lameduck/').replace('"/lameduck"', json.dumps(str(path))))
    done = says(path, "config", "check", str(file), commands=in_the_image())
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning:")]
    equal((done.returncode, done.stderr, warnings), (0, "", []), f"lameduck config check\n{text}")


def certificate(text):
    """The pair that the settings name, if they do: it is read when they are checked."""
    pair = [re.search(rf'{name} = "/(.*)"', text) for name in ("tls-cert", "tls-key")]
    if all(pair):
        cert, key = (SCRATCH / found.group(1) for found in pair)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=lameduck", "-keyout", key, "-out", cert], check=True, capture_output=True)


def left_to_jobs(path, grace):
    """Seconds until the hard deadline of a drain, as the program says them where a timeout is longer."""
    file = SCRATCH / "long.toml"
    file.write_text(f'exec = ["a"]\ntimeout = "7d"\ngrace = "{grace}s"\n')
    said = re.search(r"longer than a drain leaves to its jobs \(([^:]+):", says(path, "config", "check", str(file)).stdout).group(1)
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", said))


def healthy(path, rendered, job, expected=()):
    """`lameduck doctor` finds nothing that would lose work in a rollout, and leaves nothing open."""
    own = workload(rendered)
    with cluster(installed(without_hooks(rendered))) as config:
        done = subprocess.run(
            [path, "doctor", f"{own['kind'].lower()}/{own['metadata']['name']}", "--json", "--longest-job", job],
            env={"PATH": os.environ["PATH"], "HOME": str(SCRATCH), "KUBECONFIG": config}, text=True, capture_output=True)
    said = json.loads(done.stdout)
    found = [finding for finding in said["findings"] if finding["severity"] != "ok"]
    equal([finding["id"] for finding in found], list(expected), f"findings\n{json.dumps(found, indent=1)}")
    equal(said["drain"]["assumed"], False, "the settings were found")


def subcommands(path):
    return set(re.findall(r"^  ([a-z]+) ", says(path, "help").stdout, re.MULTILINE))


def understands(path, command):
    """The command line of a pod that the chart renders is one of the program's."""
    _, subcommand, *words = command
    text = says(path, subcommand, "--help").stdout
    equal([word for word in words if word.startswith("--") and not re.search(rf"{word}\b", text)], [], f"flags of {' '.join(command)}")


def knows(path, names):
    """Every setting that the values can reach is one of the program's."""
    text = says(path, "serve", "--help").stdout
    known = set(re.findall(r"--([a-z-]+)", text))
    equal(sorted(set(names) - known), [], "settings that the program does not know")


def documented():
    """The settings of docs/configuration.md: of a queue, of the process, of a teardown hook."""
    text = Path("docs/configuration.md").read_text()
    tables = {}
    for title in ("of a queue", "of the process", "of a teardown hook"):
        table = text.split(f"| {title} | default | meaning |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
        tables[title] = set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE))
    return tables
