"""The documentation as text: its pages, what stands in code, its tables and headings."""

import re
from pathlib import Path

# `like this`, and not a fence.
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def read():
    """Path: text, of every page that people read."""
    found = [Path(name) for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "helm/lameduck/README.md")]
    found += sorted(Path("docs").rglob("*.md")) + sorted(Path("deploy").rglob("README.md"))
    return {str(path): path.read_text() for path in found}


def fences(text, *languages):
    """What stands between fences of these languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def prose(text):
    """Without what stands between fences."""
    return FENCE.sub("", text)


def spans(text):
    """Inline code, without what stands between fences."""
    return INLINE.findall(prose(text))


def commands(text):
    """Lines that are typed, without their comments; in a console what follows the prompt."""
    for body in fences(text, "sh"):
        yield from (re.sub(r"(^|\s)#.*", "", line) for line in re.sub(r"\\\n\s*", " ", body).splitlines())
    for body in fences(text, "console"):
        yield from (line[2:] for line in body.splitlines() if line.startswith("$ "))


def anchors(text):
    """What a link into the page may name, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(text, header):
    """The rows of the table whose header begins so: a dict each, by column."""
    lines = text[text.index(f"\n{header}") + 1:].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rows = []
    for row in cells[2:]:
        if not row:
            break
        rows.append(dict(zip(cells[0], row)))
    return rows
