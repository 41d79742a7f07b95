"""What the deployment promises, one line a check. Started by tests/deploy/run, which brings the tools."""

import json
import shutil
import sys
from pathlib import Path

import chart
import effects
import nulls
import plain
import program
import readme
import rendered as objects_of
import upgrade
import words
from cases import CASES, DEMO, PRE_STOP, REFUSED
from tools import CHART, HELMS, KUBERNETES, SCRATCH, check, equal, miss, output, refuses, render, run, valid, without_hooks
import tools

FIXTURE = Path("tests/it/doctor/chart.json")


def fixture(write=False):
    """The doctor's tests look at what the chart renders."""
    found = without_hooks(render("helm-4", DEMO, "lameduck", CHART, "--namespace=shop"))
    if write:
        FIXTURE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    equal(json.loads(FIXTURE.read_text()), found, f"{FIXTURE}; tests/deploy/run --write makes it anew")


def hadolint():
    done = run("venv/bin/hadolint", "--no-color", "Dockerfile")
    equal((done.returncode, done.stdout + done.stderr), (0, ""), "findings")


def of_each_helm():
    for helm in HELMS:
        short = output(helm, "version", "--short").strip().split("+")[0]
        check(f"{helm} is the major version that it is called", equal, short.startswith(f"v{helm[-1]}."), True, short)
        for name, (_, values) in CASES.items():
            check(f"{helm} lint --strict, {name}", chart.lint, helm, values)
        for name, (values, words) in REFUSED.items():
            check(f"{helm} refuses: {name}", refuses, helm, values, words, CHART, "--kube-version=1.36.0")
        check(f"{helm} refuses: a key that is unknown, at every level", chart.strict, helm)
        check(f"{helm} refuses: a setting of the program that is the chart's", chart.owned, helm)
        check(f"{helm}: it works as a dependency of another chart", chart.dependency, helm)
        check(f"{helm}: Kubernetes 1.29 and later, vendors' suffixes too", chart.kubernetes_versions, helm)
        check(f"{helm}: a change of the settings rolls the pod", chart.rolls, helm)
        for version in upgrade.versions():
            for name, (release, values) in upgrade.cases(version).items():
                check(f"{helm}: an upgrade from {version} is accepted, {name}", upgrade.accepted, helm, version, release, values)
        check(f"{helm}: an upgrade that reuses values is told how", upgrade.reused, helm)
        check(f"{helm}: an upgrade does not leave jobs behind", upgrade.storage, helm)


# The longest job of a case, and what the doctor says of it with good reason.
LONGEST = {"two queues and settings": "90m", "database, scaled by KEDA": "90m"}
DOCTOR = {"own account and no RBAC": ["permission-missing"], "preStop": ["prestop-eats-budget"]}

# The program warns of these, and rightly: an old short grace period, and steps that it shortens.
DOUBTFUL = {"shortest grace period, from 0.1.0"}


def of_each_case():
    binary = program.binary()
    cases = CASES | {"preStop": ("lameduck", PRE_STOP)} | {
        f"{name}, from {version}": case for version in upgrade.versions() for name, case in upgrade.cases(version).items()}
    for name, (release, values) in cases.items():
        options = ["--kube-version=1.36.0"] + ["--is-upgrade"] * ("from" in name)
        try:
            found = render("helm-4", values, release, CHART, *options)
        except AssertionError as error:
            check(f"it renders, {name}", equal, str(error), "", "error")
            continue
        check(f"Helm 3 renders the same as Helm 4, {name}",
              lambda: equal(render("helm-3", values, release, CHART, *options), found, "objects"))
        for version in KUBERNETES[1:] if name == "preStop" else KUBERNETES:
            check(f"valid for Kubernetes {version}, {name}", valid, found, version)
        check(f"pod security restricted, {name}", objects_of.restricted, found)
        if name in CASES or name == "preStop":
            check(f"objects and settings fit each other, {name}", objects_of.all_of, found, values)
        if binary and "by the environment" not in name and name not in DOUBTFUL:
            check(f"the program accepts its settings, {name}", program.accepts, binary, found)
        if binary and (name in CASES or name == "preStop"):
            check(f"the doctor finds nothing to say, {name}", program.healthy, binary, found, LONGEST.get(name, "20s"), DOCTOR.get(name, []))


def of_the_program():
    binary = program.binary()
    if not binary:
        miss("the settings that the chart renders, by the program itself", "no target/debug/lameduck: cargo build, or LAMEDUCK_BIN=…")
        return
    check("the grace period is cut as the program cuts it", chart.grace_by_the_program, binary)
    check("every setting of config is one of the program's", lambda: program.knows(binary, set(effects.config()) - {"teardown-hook"}))
    for command in chart.commands():
        if command[1] in program.subcommands(binary):
            check(f"the program understands {' '.join(command[:2])}", program.understands, binary, command)
        else:
            miss(" ".join(command), f"{binary} has no such subcommand")
    if chart.DATABASE_SETTINGS <= program.documented()["of the process"]:
        check("the program accepts the database's other settings", chart.database_settings, binary)
    else:
        miss("the database's other settings", f"docs/configuration.md has no {', '.join(sorted(chart.DATABASE_SETTINGS))}")
    for name in plain.OVERLAYS:
        check(f"the program accepts its settings, overlay {name}", program.accepts, binary, plain.overlay(name))
        check(f"the doctor finds nothing to say, overlay {name}", program.healthy, binary, plain.overlay(name), "20s")


def main():
    of_each_helm()
    of_each_case()
    check("the grace period follows from the jobs", chart.grace)
    check("values.yaml holds every setting, documented", chart.complete)
    check("every setting of the program can be set", chart.every_setting_of_the_program)
    check("every value has an effect", effects.all_of_them)
    check("every setting of config arrives", effects.config)
    check("null is the same as nothing, each value by itself", nulls.one_at_a_time)
    check("null is the same as nothing, all values at once", nulls.all_at_once)
    check("a map that comments have emptied is its default", nulls.by_comments)
    check("null is the same as nothing in what is the user's own", nulls.of_the_user)
    check("a text arrives as that text, whatever YAML reads in it", words.all_words)
    check("a control character is refused by name", words.controls)
    check("releases and names are texts, whatever YAML reads in them", words.releases)
    check("names that Kubernetes refuses are refused by name, where they come about", words.no_names)
    check("names that Kubernetes refuses are refused by name, in the values", words.schema_names)
    check("names that are cut end as names may", words.cut)
    check("the notes name the objects", chart.notes)
    check("rules and dashboard arrive as they are", chart.shipped)
    check("helm test reaches the service", chart.tested)
    if shutil.which("promtool"):
        check("KEDA's queries are PromQL, of metrics that there are", chart.queries)
    else:
        miss("KEDA's queries, by promtool", "apt-get install prometheus")
    of_the_program()

    for name in plain.OVERLAYS:
        for version in KUBERNETES:
            check(f"valid for Kubernetes {version}, overlay {name}", lambda: valid(plain.overlay(name), version))
        check(f"overlay {name} and the chart are the same objects", plain.same_as_chart, name)
        check(f"the overlay of {name}'s comment works", plain.own_overlay, name)
    check("one version everywhere", chart.one_version)
    check("the chart's README is current", readme.current)
    check("the defaults that null is taken for are those of values.yaml", readme.defaults_current)
    check("the example of the chart's README is what it says", readme.example)
    check("the doctor's tests have the chart of today", fixture)
    check("hadolint", hadolint)


try:
    if "--write" in sys.argv[2:]:
        readme.write()
        fixture(write=True)
    main()
finally:
    shutil.rmtree(SCRATCH, ignore_errors=True)
print(*tools.missed, f"{tools.passed} passed, {tools.failed} failed", sep="\n")
sys.exit(tools.failed > 0)
