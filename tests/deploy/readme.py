"""helm/lameduck/README.md: the values, as the comments of values.yaml explain them."""

import json
import re

import yaml

from chart import SCHEMA, resolved
from tools import CHART, equal

README = CHART / "README.md"
MARK = "<!-- The rest is made of values.yaml by tests/deploy/run --write -->\n"


def comments():
    """Path of each setting: its comment, and whether that is a comment of a group that begins with it."""
    found, pending, parents = {}, [], []
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if not text:
            pending = []
        elif text.startswith("#"):
            pending.append(text[1:].strip())
        elif match := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(match[1]) // 2
            parents = parents[:depth] + [match[2]]
            found[tuple(parents)] = " ".join(pending)
            pending = []
    return found


def rows(node, values, said, path=()):
    node = resolved(node)
    if "properties" not in node or path == ("config",):
        yield ".".join(path), values, said.get(path, "")
        return
    for key in values:
        if key in node["properties"]:
            yield from rows(node["properties"][key], values[key], said, (*path, key))


def cell(text):
    return text.replace("|", "\\|")


def generated():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    said = comments()
    parts = []
    for key in values:
        found = list(rows(SCHEMA["properties"][key], values[key], said, (key,)))
        grouped = len(found) > 1
        # Settings that share a comment stand below one another in one table.
        if not grouped and parts and not said[(key,)]:
            pass
        elif grouped:
            parts.append(f"\n## `{key}`\n\n{said[(key,)]}\n\n| value | default | meaning |\n| --- | --- | --- |\n")
        else:
            parts.append(f"\n## `{key}`\n\n{said[(key,)]}\n\n| value | default | |\n| --- | --- | --- |\n")
        for name, default, meaning in found:
            shown = json.dumps(default, ensure_ascii=False)
            parts.append(f"| `{name}` | `{cell(shown)}` | {cell(meaning) if grouped else ''} |\n")
    return "".join(parts)


def expected():
    return README.read_text().split(MARK)[0] + MARK + generated()


def write():
    README.write_text(expected())


def current():
    equal(README.read_text(), expected(), "helm/lameduck/README.md; tests/deploy/run --write makes it anew")
