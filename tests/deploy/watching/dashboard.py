"""The dashboard by itself: current, and what Grafana can show. Its queries are asked in scraped.py."""

import itertools
import json
import re
from pathlib import Path

from .report import check, equal, output

FILE = Path("helm/lameduck/files/dashboard.json")
VARIABLES = {"datasource", "namespace", "job", "instance", "queue"}
BUILT_IN = {"__rate_interval", "__range"}
UNITS = {"short", "s", "percentunit", "ops", "reqps", "bytes"}


def dashboard():
    return json.loads(FILE.read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries():
    """Title, expression, and whether Grafana asks for one instant."""
    return [(panel["title"], target["expr"], target["instant"]) for panel in panels() for target in panel["targets"]]


def current():
    output("deploy/grafana/dashboard.py", "--check")


def identified():
    ids = [panel["id"] for panel in dashboard()["panels"]]
    equal(sorted(set(ids)), sorted(ids), "ids, each once")
    titles = [panel["title"] for panel in dashboard()["panels"]]
    equal(sorted(set(titles)), sorted(titles), "titles, each once")
    for panel in panels():
        letters = [target["refId"] for target in panel["targets"]]
        equal(sorted(set(letters)), letters, f"refIds of {panel['title']}")


def placed():
    """Nothing lies on anything else, or outside of the 24 columns."""
    def cells(panel):
        place = panel["gridPos"]
        equal(place["x"] + place["w"] <= 24, True, f"{panel['title']} is inside")
        return set(itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))

    taken = {}
    for panel in dashboard()["panels"]:
        for cell in cells(panel):
            equal(taken.setdefault(cell, panel["title"]), panel["title"], f"who is at {cell}")


def explained():
    for panel in panels():
        equal(bool(panel["description"]), True, f"{panel['title']} has a description")
        equal(panel["fieldConfig"]["defaults"]["unit"] in UNITS, True, f"{panel['title']} has a unit")


def by_variables():
    """Every query is for the chosen data source and installation, and knows no variable that is not there."""
    made = dashboard()
    equal({variable["name"] for variable in made["templating"]["list"]}, VARIABLES, "variables")
    for panel in panels():
        for target in panel["targets"]:
            equal((panel["datasource"]["uid"], target["datasource"]["uid"]), ("${datasource}",) * 2, f"data source of {panel['title']}")
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            equal(used - VARIABLES - BUILT_IN, set(), f"variables of {panel['title']}")
            for selector in re.findall(r"(?:lameduck|process)_\w+(\{[^}]*\})?", target["expr"]):
                equal('job=~"$job"' in selector, True, f"a selector of {panel['title']} is for the chosen installation: {target['expr']}")


def all_checks():
    check("the dashboard is what its script makes", current)
    check("its panels have ids and titles of their own", identified)
    check("its panels do not overlap", placed)
    check("its panels have units and descriptions", explained)
    check("its queries go by the variables", by_variables)
