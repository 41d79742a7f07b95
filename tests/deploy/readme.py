"""helm/lameduck/README.md: the values, as the comments of values.yaml explain them."""

import json
import re

import yaml

from chart import SCHEMA, resolved
from tools import CHART, equal, render, workload

README = CHART / "README.md"
DEFAULTS = CHART / "files/defaults.json"
MARK = "<!-- The rest is made of values.yaml by tests/deploy/run --write -->\n"


def comments():
    """Path of each setting: its comment; none where it shares the one before."""
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


def shown(value):
    return "`" + json.dumps(value, ensure_ascii=False).replace("|", "\\|") + "`"


def sections(values, said):
    """Keys that share a comment, and what is said of them."""
    found = []
    for key in values:
        if said[(key,)]:
            found.append(([key], said[(key,)]))
        else:
            found[-1][0].append(key)
    return found


def generated():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    said = comments()
    parts = []
    for keys, meaning in sections(values, said):
        parts.append(f"\n## {', '.join(f'`{key}`' for key in keys)}\n\n{meaning}\n")
        found = [row for key in keys for row in rows(SCHEMA["properties"][key], values[key], said, (key,))]
        if len(found) == len(keys):
            parts.append(f"\nDefault: {', '.join(shown(default) for _, default, _ in found)}\n")
            continue
        parts.append("\n| value | default | meaning |\n| --- | --- | --- |\n")
        parts += [f"| `{name}` | {shown(default)} | {text.replace('|', chr(92) + '|')} |\n" for name, default, text in found]
    return "".join(parts)


def expected():
    return README.read_text().split(MARK)[0] + MARK + generated()


def defaults():
    """files/defaults.json: values.yaml once more, since a template cannot read that."""
    return json.dumps(yaml.safe_load((CHART / "values.yaml").read_text()), indent=1, ensure_ascii=False) + "\n"


def write():
    README.write_text(expected())
    DEFAULTS.write_text(defaults())


def defaults_current():
    equal(DEFAULTS.read_text(), defaults(), f"{DEFAULTS}; tests/deploy/run --write makes it anew")


def current():
    equal(README.read_text(), expected(), "helm/lameduck/README.md; tests/deploy/run --write makes it anew")


def example():
    """The values that the page shows for earnest use install what it says."""
    values = yaml.safe_load(README.read_text().split("```yaml\n")[1].split("```")[0])
    found = workload(render("helm-4", values))
    equal((found["kind"], found["spec"]["replicas"], found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]),
          ("Deployment", 2, 310), "what the page says")
