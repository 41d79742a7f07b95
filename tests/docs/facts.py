"""What the code and the chart have, for the documentation to be held against."""

import re
from functools import cache
from pathlib import Path

from pages import table

CONFIGURATION = Path("docs/configuration.md")


@cache
def settings(of):
    """Name: default, of a table in docs/configuration.md, which a test of the program's compares with the code."""
    rows = table(CONFIGURATION.read_text(), f"| {of} | default | meaning |")
    return {row[of].strip("`"): row["default"].strip("`") for row in rows}


def every_setting():
    return settings("of a queue") | settings("of the process")


@cache
def sources():
    """All of the program and its crates, with the texts that go over several lines in one."""
    files = sorted([*Path("src").rglob("*.rs"), *Path("crates").rglob("*.rs")])
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r"\\\n\s*", "", text).replace('\\"', '"')


@cache
def beside_sources():
    """Where else a variable may be read."""
    folders = [Path("tests"), Path("deploy"), Path("benches")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and file.suffix not in (".tgz", ".pyc")]
    own = Path("tests/docs")
    return "\n".join(file.read_text(errors="replace") for file in [*files, Path("Makefile")] if own not in file.parents)


@cache
def flags():
    """Of the program: of settings, and of commands of their own."""
    own = re.findall(r"^ {4,8}(?:pub )?([a-z_]+): ", Path("src/cli.rs").read_text(), re.M)
    return set(every_setting()) | {name.replace("_", "-") for name in own} | {"help", "version"}


@cache
def subcommands():
    variants = re.findall(r"^    ([A-Z][a-z]+)(?:\(.*\)| \{)?,?$", Path("src/cli.rs").read_text(), re.M)
    return {variant.lower() for variant in variants}


@cache
def values():
    """Every path in the chart's values, and whether it is a map of the user's own."""
    found, parents = {}, []
    for line in Path("helm/lameduck/values.yaml").read_text().splitlines():
        if match := re.match(r"( *)([A-Za-z]+):(.*)", line):
            depth = len(match[1]) // 2
            parents = parents[:depth] + [match[2]]
            found[".".join(parents)] = match[3].strip() == "{}"
    return found


def is_value(path):
    """Whether the chart takes this: `a.b.c`, `config.SETTING`, `queues.NAME.SETTING`."""
    parts = path.split(".")
    if parts[0] == "config" and len(parts) == 2:
        return parts[1] in every_setting() or parts[1] == "teardown-hook"
    if parts[0] == "queues" and len(parts) == 3:
        return parts[2] in settings("of a queue")
    known = values()
    return path in known or any(known.get(".".join(parts[:n])) for n in range(1, len(parts)))


def seconds(duration):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)(ms|[smhd])", duration))


def budget(grace, share):
    """crates/lifecycle/src/budget.rs, with the defaults of everything else."""
    kept = {name: seconds(every_setting()[name]) for name in ("margin", "reporting", "teardown", "stop-notice")}
    usable = grace - min(kept["margin"], grace / 10)
    slack = min(0.1, usable / 20)
    teardown_end = usable - max(min(kept["reporting"], usable / 10), slack)
    teardown = min(kept["teardown"], usable / 8)
    hard = teardown_end - teardown
    notice = min(kept["stop-notice"], usable / 5)
    soft = hard - notice
    idle = min(usable * share, soft)
    return {"routing": idle * 2 / 3, "idle": idle, "soft": soft, "close": hard - notice / 2, "hard": hard,
            "cut_end": hard + teardown / 3, "teardown_end": teardown_end, "report_end": usable - slack, "deadline": usable,
            "kill": grace}
