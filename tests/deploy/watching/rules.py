"""The alerts by themselves: Prometheus takes them, each is tested both ways, each has its page."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import yaml

from .report import check, equal, output

FILE = Path("helm/lameduck/files/alerts.yaml")
TESTS = sorted(Path("tests/deploy/rules").glob("*.yaml"))
PAGES = Path("docs/runbooks")
METRICS = Path("docs/metrics.md")


def alerts():
    return [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]


def accepted():
    output("promtool", "check", "rules", "--lint=all", "--lint-fatal", FILE)


def tested(file):
    output("promtool", "test", "rules", file)


def breaks(name, expression):
    """With this alert's expression replaced, some test has to fail: otherwise none looks at it."""
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        rules = yaml.safe_load(FILE.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if rule["alert"] == name:
                    rule["expr"] = expression
                    rule.pop("for", None)
        (place / "alerts.yaml").write_text(json.dumps(rules))
        # Or every test would fail, whatever it looks at.
        output("promtool", "check", "rules", place / "alerts.yaml")
        for file in TESTS:
            tests = yaml.safe_load(file.read_text())
            tests["rule_files"] = [str(place / "alerts.yaml")]
            (place / file.name).write_text(json.dumps(tests))
            try:
                output("promtool", "test", "rules", place / file.name)
            except AssertionError:
                return
    raise AssertionError(f"no test fails when its expression is {expression}")


def tested_both_ways(alert):
    """Some test has its figures and expects it, some has them and expects nothing."""
    name, metrics = alert["alert"], set(re.findall(r"lameduck_\w+", alert["expr"]))
    fires = quiet = False
    for test in (test for file in TESTS for test in yaml.safe_load(file.read_text())["tests"]):
        if not any(re.match(r"\w+", series["series"])[0] in metrics for series in test["input_series"]):
            continue
        for case in test.get("alert_rule_test", []):
            if case["alertname"] == name:
                fires, quiet = fires or bool(case["exp_alerts"]), quiet or not case["exp_alerts"]
        for case in test.get("promql_expr_test", []):
            if case["expr"].startswith("ALERTS"):
                fires = fires or f'alertname="{name}"' in str(case["exp_samples"])
                quiet = quiet or (case["expr"] == "ALERTS" and not case["exp_samples"])
    equal((fires, quiet), (True, True), "tested to fire, and to be quiet")


def complete(alert):
    """What whoever is paged has to find on it."""
    equal(alert["labels"]["severity"] in {"critical", "warning"}, True, "severity")
    equal(set(alert["annotations"]), {"summary", "description", "runbook"}, "annotations")
    equal(alert["annotations"]["runbook"], f"docs/runbooks/{alert['alert']}.md", "runbook")


def pages():
    names = {alert["alert"] for alert in alerts()}
    found = {page.stem for page in PAGES.glob("*.md")} - {"README"}
    equal(found, names, "pages and alerts")
    for page in (PAGES / "README.md", METRICS):
        folder = "" if page.parent == PAGES else "runbooks/"
        linked = set(re.findall(rf"\]\({folder}(Lameduck\w+)\.md\)", page.read_text()))
        equal(linked, names, f"alerts that {page} links")


def page(alert):
    """In the same order everywhere, so that nobody has to read to find."""
    text = (PAGES / f"{alert['alert']}.md").read_text()
    equal(text.splitlines()[0], f"# {alert['alert']}", "title")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    equal(headings, ["What it means", "How bad", "Look at", "Do", "Not again"], "headings")
    equal(f"Severity: {alert['labels']['severity']}." in text, True, "the page says the severity")


def log_lines():
    """What the pages look for in a log is what the program writes there."""
    sources = "".join(re.sub(r"\\\n\s*", "", file.read_text()) for folder in ("src", "crates") for file in Path(folder).rglob("*.rs"))
    found = []
    for file in sorted(PAGES.glob("*.md")):
        for line in file.read_text().splitlines():
            if "kubectl logs" in line and "grep" in line and '"level"' not in line:
                found += re.search(r"""grep (?:-\w+ )?['"](.*?)['"]""", line)[1].split("|")
    equal(len(found) > 4, True, "searches in logs")
    equal([text for text in found if text not in sources], [], "texts that no log has")


def linked():
    """Pages, files and headings that are linked are there."""
    def anchors(file):
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    pages = [*PAGES.glob("*.md"), Path("docs/scrape.md"), Path("docs/metrics.md"), *Path("deploy").rglob("README.md")]
    for file in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()):
            if target.startswith(("http:", "https:")):
                continue
            path, _, anchor = target.partition("#")
            there = file.parent / path if path else file
            equal(there.exists(), True, f"{file}: {target}")
            equal(not anchor or anchor in anchors(there), True, f"{file}: heading {target}")


def helm_takes_it_as_it_is():
    """The chart ships the file with .Files.Get; in one that is a template `{{ $labels… }}` would have to be escaped."""
    equal("{{`" in FILE.read_text(), False, "escapes for Helm")


def all_checks():
    check("promtool takes the rules, without a lint", accepted)
    check("the rules are no Helm template", helm_takes_it_as_it_is)
    for file in TESTS:
        check(f"unit tests of the rules: {file.stem}", tested, file)
    check("each alert has a page, and each page an alert", pages)
    check("links lead somewhere", linked)
    check("what the runbooks look for in logs is what the program writes", log_lines)
    for alert in alerts():
        name = alert["alert"]
        check(f"{name} says what is needed", complete, alert)
        check(f"{name} has its page in order", page, alert)
        check(f"{name} is tested to fire and to be quiet", tested_both_ways, alert)


# What every question to the ledger needs, and what it is without that.
LEDGER = {
    "no increase over a subquery": (r"increase\((max by .*?)\[15m:15s\]\)", r"\1"),
    "replicas are summed up": (r"increase\(max by", "increase(sum by"),
    "who told it first counts no more when it is gone": (r"max_over_time\(([^()]*_total[^()]*?)\[2m\]\)", r"\1"),
    "installations are thrown together": (r"max by \(namespace, job, cause", "max by (cause"),
}


def of_the_ledger(alert):
    return re.search(r"lameduck_(drains|tight_drains|drain_\w+)_total", alert["expr"])


def mutations():
    for alert in alerts():
        name = alert["alert"]
        for what, (there, instead) in LEDGER.items() if of_the_ledger(alert) else ():
            broken = re.sub(there, instead, alert["expr"])
            check(f"{name}: it is a question to the ledger", equal, broken != alert["expr"], True, what)
            check(f"{name}: a test fails where {what}", breaks, name, broken)
        check(f"{name}: a test fails where it always fires", breaks, name, "vector(1)")
        check(f"{name}: a test fails where it never fires", breaks, name, "vector(1) < 0")
