"""What is checked. Each takes the pages, and yields what is wrong with them."""

import os
import re
from pathlib import Path

import facts
from pages import INLINE, anchors, commands, fences, prose, spans, table

# Of other programs, named in a text.
FOREIGN = {
    "--atomic", "--rollback-on-failure", "--reuse-values", "--reset-then-reuse-values", "--delete-emptydir-data", "--volumes",
    "--build-arg", "--web.listen-address", "--dry-run",
}
# What follows `lameduck` where it is run, up to the next command of the line.
TYPED = re.compile(r"(?:^|[|;&] *| -- )(?:[A-Z_]+=\S+ )*(?:\S*/)?lameduck ((?:'[^']*'|[^|;&'])*)")
# What a dotted name that begins like a value ends in where it is a file.
FILES = re.compile(r"\.(rs|json|yaml|md|py|toml|tpl)$")


def links(pages):
    """A relative link leads to a file, and its fragment to a heading in it."""
    for page, text in pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", INLINE.sub("", prose(text))):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, fragment = target.partition("#")
            file = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            if not os.path.exists(file):
                yield f"{page}: there is no {target}"
            elif fragment and fragment not in anchors(pages.get(file) or Path(file).read_text()):
                yield f"{page}: {target} names no heading"


def flags(pages):
    """`--flag` in a text, and whatever `lameduck` is given in a command."""
    for page, text in pages.items():
        for span in spans(text):
            flag = re.split(r"[ =]", span)[0]
            if flag.startswith("--") and flag[2:] not in facts.flags() and flag not in FOREIGN:
                yield f"{page}: `{flag}` is no flag of lameduck's"
        for line in commands(text):
            for said in TYPED.findall(line):
                # What is quoted is somebody else's command, or a URL; so is what stands behind `--`.
                words = re.sub(r"'[^']*'", "", re.split(r" --(?: |$)", said)[0]).split()
                if words and not words[0].startswith("-") and words[0] not in facts.subcommands():
                    yield f"{page}: lameduck has no command {words[0]}: {line.strip()}"
                for word in words:
                    if word.startswith("--") and word[2:].split("=")[0] not in facts.flags():
                        yield f"{page}: {word} is no flag of lameduck's: {line.strip()}"


def variables(pages):
    """LAMEDUCK_… is a setting, or something reads it."""
    settings = {name.replace("-", "_").upper() for name in facts.every_setting()}
    for page, text in pages.items():
        for name in re.findall(r"\bLAMEDUCK(?:_[A-Z]+)+", text):
            if name.removeprefix("LAMEDUCK_") not in settings and not re.search(rf"\b{name}\b", facts.sources() + facts.beside_sources()):
                yield f"{page}: nothing reads {name}"


def values(pages):
    """What looks like a value of the chart is one: `a.b`, `aB=c`, --set a.b=c, and blocks that begin with one."""
    top = {path for path in facts.values() if "." not in path}
    for page, text in pages.items():
        named = [re.split(r"[=: ]", span)[0] for span in spans(text) if not FILES.search(span)]
        named = [name for name in named if re.fullmatch(r"[a-z][A-Za-z]*(\.[A-Za-z-]+)+", name) and name.split(".")[0] in top]
        named += [match[1] for span in spans(text) if (match := re.fullmatch(r"([a-z]+[A-Z][A-Za-z]+)=.*", span))]
        named += [name for line in commands(text) for name in re.findall(r"--set(?:-json|-string)? ([A-Za-z.-]+)=", line)]
        for block in fences(text, "yaml"):
            keys = re.findall(r"^([A-Za-z]+):", block, re.M)
            if keys and keys[0] in top:
                named += [*keys, *paths(block)]
        for name in named:
            if not facts.is_value(name):
                yield f"{page}: the chart has no value {name}"


def paths(block):
    """The second level of a block of values."""
    parent = None
    for line in block.splitlines():
        if match := re.match(r"([A-Za-z]+):", line):
            parent = match[1]
        elif match := re.match(r"  ([A-Za-z-]+):", line):
            yield f"{parent}.{match[1]}"


def paths_of_files(pages):
    """A file that a text or a command names is there."""
    for page, text in pages.items():
        typed = [word for line in commands(text) for word in line.split()]
        for name in spans(text) + typed:
            if re.fullmatch(r"(docs|tests|deploy|helm|src|examples|benches)/[\w./-]+", name) and not Path(name).exists():
                yield f"{page}: there is no {name}"


def targets(pages):
    """`make …` makes something."""
    known = re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.M)
    for page, text in pages.items():
        for target in (match[1] for said in spans(text) + list(commands(text)) if (match := re.match(r"make ([a-z-]+)", said))):
            if target not in known:
                yield f"{page}: there is no make {target}"


def log_lines(pages):
    """After "Log:" and "Detail:", and what runbooks look for in a log: the program says it."""
    for page, text in pages.items():
        said = re.findall(r"\b(?:Log|Detail): `([^`]+)`", text)
        for line in commands(text):
            for pattern in re.findall(r"kubectl logs .*\| grep (?:-\w+ )?(?:'([^']+)'|\"([^\"]+)\")", line):
                said += [part for part in "".join(pattern).split("|") if '"level"' not in "".join(pattern)]
        for line in said:
            parts = [re.escape(part) for part in line.split("…")]
            if not re.search(".{1,120}?".join(parts), facts.sources()):
                yield f"{page}: nothing says: {line}"


def findings(pages):
    """What `lameduck doctor` is quoted with is a finding."""
    known = {row["finding"].strip("`") for row in table(pages["docs/doctor.md"], "| finding | severity |")}
    for page, text in pages.items():
        for sentence in re.findall(r"`lameduck doctor` says ((?:`[a-z-]+`(?:, | or | and )?)+)", text):
            for name in INLINE.findall(sentence):
                if name not in known:
                    yield f"{page}: the doctor has no finding {name}"


def events(pages):
    """The reasons of Events."""
    known = re.findall(r'"(Drain\w+)"', Path("crates/kubernetes/src/events.rs").read_text())
    for page, text in pages.items():
        for reason in re.findall(r"`(Drain[A-Z]\w+|Drained)`", text) + re.findall(r"reason=(\w+)", text):
            if reason not in known and f"struct {reason}" not in facts.sources():
                yield f"{page}: no Event has the reason {reason}"


def timeouts(pages):
    """docs/tune.md names settings, with their defaults, and every one that a drain's grace period is cut by."""
    page = "docs/tune.md"
    rows = table(pages[page], "| setting | chart value |")
    for row in rows:
        name, default = row["setting"].strip("`"), INLINE.findall(row["default"])[0]
        if facts.every_setting().get(name) != default:
            yield f"{page}: {name} has the default {facts.every_setting().get(name)}, and not {default}"
    drain = {row["setting"].strip("`") for row in table(pages["docs/architecture.md"], "| setting | default | because |")}
    for name in drain - {row["setting"].strip("`") for row in rows}:
        yield f"{page}: {name} is missing"


def arithmetic(pages):
    """Worked examples come out as the program would have them."""
    in_code = re.search(r"With the defaults and 30 s: ([\d., ]+) s", Path("crates/lifecycle/src/budget.rs").read_text())[1]
    ours = ", ".join(f"{instant:.1f}".removesuffix(".0") for instant in facts.budget(30, 0.5).values())
    if ours != in_code:
        yield f"tests/docs/facts.py: budget() says {ours}, and crates/lifecycle/src/budget.rs {in_code}"
    for row in table(pages["docs/tune.md"], "| case | grace |"):
        budget = facts.budget(float(row["grace"]), float(row["lame-duck-share"]))
        for name in ("routing", "idle", "soft", "hard"):
            if abs(budget[name] - float(row[name])) > 0.051:
                yield f"docs/tune.md: {row['case']}: {name} is {budget[name]:.1f}, and not {row[name]}"


ALL = [links, flags, variables, values, paths_of_files, targets, log_lines, findings, events, timeouts, arithmetic]
