#!/usr/bin/env python3
"""Holds the documentation against the code and the chart.

    tests/docs/check.py             all of it, in a second; nothing but Python
    tests/docs/check.py --mutate    breaks each thing once, to see that its check notices
"""

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).resolve().parents[2])
sys.dont_write_bytecode = True

import checks  # noqa: E402
import pages  # noqa: E402

# (check, page, what stands there, what stands there instead)
MUTATIONS = [
    (checks.links, "docs/tune.md", "(architecture.md)", "(arhitecture.md)"),
    (checks.links, "docs/troubleshoot.md", "(#exit-status-70)", "(#exit-status-71)"),
    (checks.flags, "docs/scrape.md", "`--final-scrape`", "`--last-scrape`"),
    (checks.flags, "docs/rollout.md", "--longest-job", "--longest"),
    (checks.flags, "docs/upgrade.md", "lameduck migrate --database", "lameduck upgrade --database"),
    (checks.variables, "docs/tune.md", "`LAMEDUCK_GRACE`", "`LAMEDUCK_GRACES`"),
    (checks.values, "docs/deploy.md", "`database.existingSecret`", "`database.secret`"),
    (checks.values, "docs/rollout.md", "--set replicas=1", "--set replicaCounts=1"),
    (checks.values, "docs/tune.md", "`config.settle`", "`config.setle`"),
    (checks.values, "docs/security.md", "  metricsFrom:", "  metricFrom:"),
    (checks.values, "docs/rollout.md", "`deletionCost=true`", "`deletionCosts=true`"),
    (checks.paths_of_files, "docs/deploy.md", "deploy/kustomize/overlays/embedded", "deploy/kustomize/overlays/embeded"),
    (checks.targets, "docs/security.md", "`make deny`", "`make denied`"),
    (checks.log_lines, "docs/troubleshoot.md", "Log: `cannot reserve jobs`", "Log: `cannot get jobs`"),
    (checks.log_lines, "docs/troubleshoot.md", "longer than a drain leaves to its jobs", "longer than a drain gives to its jobs"),
    (checks.log_lines, "docs/runbooks/LameduckRanTwice.md", "'outcome dropped'", "'outcome lost'"),
    (checks.findings, "docs/troubleshoot.md", "says `shell-without-exec`", "says `shell-with-exec`"),
    (checks.events, "docs/rollout.md", "`DrainCut`", "`DrainCuts`"),
    (checks.timeouts, "docs/tune.md", "| `2s` |", "| `3s` |"),
    (checks.timeouts, "docs/tune.md", "| `stop-notice` |", "| `stop-notices` |"),
    (checks.arithmetic, "docs/tune.md", "| 52 | 0.5 | 17 |", "| 52 | 0.5 | 16 |"),
]


def mutations(all_pages):
    for check, page, old, new in MUTATIONS:
        if old not in all_pages[page]:
            yield f"{page} no longer has: {old}"
        elif not list(check(all_pages | {page: all_pages[page].replace(old, new, 1)})):
            yield f"{check.__name__} does not notice {new} in {page}"


def main():
    all_pages = pages.read()
    failed = False
    rounds = [(check.__doc__, check(all_pages)) for check in checks.ALL]
    if "--mutate" in sys.argv[1:]:
        rounds = [(f"all {len(MUTATIONS)} mutations are noticed", mutations(all_pages))]
    for name, problems in rounds:
        problems = list(problems)
        failed |= bool(problems)
        print("FAIL " if problems else "ok   ", name)
        for problem in problems:
            print("       ", problem)
    sys.exit(failed)


main()
