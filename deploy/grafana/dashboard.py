#!/usr/bin/env python3
"""Makes the Grafana dashboard, which is too long to be written or reviewed as JSON.

    deploy/grafana/dashboard.py            writes helm/lameduck/files/dashboard.json
    deploy/grafana/dashboard.py --check    says whether it is current

For Grafana 10 and later. tests/deploy/watch asks a real Prometheus, which has scraped real drains, every query of it.
"""

import json
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "helm/lameduck/files/dashboard.json"

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Which installation; where Prometheus has no namespaces, `.*` matches the label that is not there.
WHERE = 'namespace=~"$namespace",job=~"$job"'
POD = WHERE + ',instance=~"$instance"'
QUEUE = WHERE + ',queue=~"$queue"'
POD_QUEUE = POD + ',queue=~"$queue"'
# In a cluster a pod has a name; elsewhere there is the address alone.
BY_POD = "namespace, job, pod, instance"
NAME = "{{pod}} {{instance}}"

PHASES = ["starting", "serving", "lame_duck", "draining", "teardown", "reporting", "stopped"]
PHASE_COLORS = ["light-blue", "green", "yellow", "orange", "purple", "blue", "text"]
OUTCOME_COLORS = {
    "clean": "green", "completed": "green", "cut": "red", "killed": "dark-red", "hook_failed": "orange", "failed": "orange",
    "dead": "dark-red", "released": "yellow", "postponed": "blue", "deferred": "purple", "cancelled": "text",
}


def ledger(metric, by, window, only=""):
    """The growth of a ledger total in a window. Every process tells it alike; who told it first may be gone before the others have."""
    # A label that a total does not have parts nothing.
    each = f"max by (namespace, job, cause, outcome, fate) (max_over_time({metric}{{{WHERE}{only}}}[2m]))"
    return f"sum by ({by}) (increase({each}[{window}:15s]))"


def grown(metric, by, only=""):
    """The same over time."""
    return ledger(metric, by, "$__rate_interval", only)


def query(expr, legend="", instant=False, table=False):
    return {"expr": " ".join(expr.split()), "legend": legend, "instant": instant or table, "table": table}


# --- panels ---

def panel(kind, title, about, queries, width, height, unit="short", options=None, custom=None, **defaults):
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": each["expr"],
            "legendFormat": each["legend"] or "__auto",
            "instant": each["instant"],
            "range": not each["instant"],
            "format": "table" if each["table"] else "time_series",
        }
        for number, each in enumerate(queries)
    ]
    defaults = {"unit": unit, **defaults}
    if custom is not None:
        defaults["custom"] = custom
    return {
        "type": kind, "title": title, "description": about, "datasource": SOURCE, "targets": targets,
        "gridPos": {"w": width, "h": height}, "options": options or {}, "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def colored(panel, colors):
    """A word has the same colour everywhere."""
    panel["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byRegexp", "options": f"/^(.* )?{word}$/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for word, color in colors.items()
    ]
    return panel


def lines(title, about, *queries, unit="short", width=12, stack=False, bars=False, interval=None, **defaults):
    custom = {
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if bars else 20 if stack else 0,
        "lineWidth": 1,
        "showPoints": "auto",
        # A pod that is gone leaves a gap, and not a line to the next one's first value.
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack or bars else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if "thresholds" in defaults else "off"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    made = panel("timeseries", title, about, queries, width, 8, unit, options, custom, min=0, **defaults)
    if interval:
        made["interval"] = interval
    return made


def stat(title, about, expr, unit="short", red_from=None, width=3):
    steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": red_from}] if red_from is not None else [])
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value", "graphMode": "none", "textMode": "auto",
    }
    return panel("stat", title, about, [query(expr, instant=True)], width, 4, unit, options,
                 thresholds={"mode": "absolute", "steps": steps}, noValue="0")


def timeline():
    """Phases are one-hot gauges; a timeline wants one number a pod."""
    numbered = " or ".join(f'lameduck_phase{{{POD},phase="{phase}"}} * {number}' for number, phase in enumerate(PHASES, 1))
    mapping = {
        str(number): {"text": phase, "color": color, "index": number}
        for number, (phase, color) in enumerate(zip(PHASES, PHASE_COLORS), 1)
    }
    made = panel(
        "state-timeline", "Phases of each pod",
        "A pod that is replaced goes from serving over lame_duck, draining, teardown and reporting to its end. What is shorter "
        "than a scrape interval may be missing here; the ledger's figures below have every drain.",
        [query(f"max by ({BY_POD}) ({numbered})", NAME)], 24, 9,
        options={"mergeValues": True, "showValue": "auto", "rowHeight": 0.8, "alignValue": "left",
                 "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "single"}},
        custom={"fillOpacity": 80, "lineWidth": 0, "spanNulls": False},
        color={"mode": "thresholds"}, mappings=[{"type": "value", "options": mapping}],
        thresholds={"mode": "absolute", "steps": [{"color": "text", "value": None}]},
    )
    made["interval"] = "1s"
    return made


def ends():
    count = ledger("lameduck_drains_total", "cause, outcome", "$__range")
    seconds = ledger("lameduck_drain_seconds_total", "cause, outcome", "$__range")
    budget = ledger("lameduck_drain_budget_seconds_total", "cause, outcome", "$__range")
    made = panel(
        "table", "How processes ended", "By the drain ledger, in the time range above. Killed ones could not say how long they took.",
        [query(f"round({count}) > 0", table=True), query(f"{seconds} / ({count} > 0)", table=True),
         query(f"{seconds} / ({budget} > 0)", table=True)], 12, 8,
        options={"showHeader": True}, custom={"align": "auto"},
    )
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {
            "excludeByName": {"Time": True},
            "indexByName": {"cause": 0, "outcome": 1, "Value #A": 2, "Value #B": 3, "Value #C": 4},
            "renameByName": {"Value #A": "processes", "Value #B": "mean duration", "Value #C": "budget used"},
        }},
    ]
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": "mean duration"}, "properties": [{"id": "unit", "value": "s"}]},
        {"matcher": {"id": "byName", "options": "budget used"}, "properties": [{"id": "unit", "value": "percentunit"}]},
    ]
    return made


def quantiles(metric, by, legend):
    return [
        query(f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{POD_QUEUE}}}[$__rate_interval])))",
              f"{legend} p{int(share * 100)}")
        for share in (0.5, 0.99)
    ]


# Reporting is where `final-scrape` waits. Before a drain it is 0 / 0, which a line leaves out.
USED = f"""
    sum without (phase) (lameduck_drain_phase_seconds{{{POD},phase!="reporting"}})
    / (lameduck_drain_seconds_left{{{POD}}} + sum without (phase) (lameduck_drain_phase_seconds{{{POD}}}) > 0)
"""
NEARLY = {"mode": "absolute", "steps": [{"color": "green", "value": None}, {"color": "red", "value": 0.8}]}


def rows():
    yield "Now", [
        stat("Ready pods", "Pods whose /readyz succeeds.", f"sum(lameduck_ready{{{POD}}})"),
        stat("In a drain", "Pods between SIGTERM and their end.",
             f'sum(lameduck_phase{{{POD},phase=~"lame_duck|draining|teardown|reporting"}})'),
        stat("Ends that were not clean", "In the time range: cut, killed, a hook or a part of the program failed.",
             f"""round(sum({ledger("lameduck_drains_total", "job", "$__range", ',outcome!="clean"')}))""", red_from=1),
        stat("Oldest job", "For how long the oldest pending job of any queue could have run.",
             f"max(lameduck_queue_oldest_age_seconds{{{QUEUE}}})", unit="s", red_from=600),
        stat("Dead letters", "Jobs that failed for the last time, and that nobody has retried or pruned.",
             f'sum(max by (namespace, job, queue) (lameduck_queue_jobs{{{QUEUE},state="dead"}}))', red_from=1),
        stat("Workers needed", "Of the workers that there are. Above 100 % the backlog grows.",
             f"sum(lameduck_workers_needed{{{QUEUE}}}) / sum(lameduck_workers{{{QUEUE}}})", unit="percentunit", red_from=1),
        stat("Paused queues", "Nothing is begun in them until somebody resumes them.",
             f"sum(max by (namespace, job, queue) (lameduck_queue_paused{{{QUEUE}}}))"),
        stat("Jobs in flight", "Reserved, and not yet durably settled.", f"sum(lameduck_jobs_in_flight{{{POD}}})"),
    ]
    yield "Drains", [
        timeline(),
        ends(),
        colored(lines("Ends over time", "By the drain ledger. It is read every ten seconds, and after a restart by the next process.",
                      query(grown("lameduck_drains_total", "cause, outcome"), "{{cause}} {{outcome}}"),
                      bars=True, interval="1m"), OUTCOME_COLORS),
        lines("Duration by phase", "So far, of the drains that a scrape has seen; stacked over the phases of a pod.",
              query(f"lameduck_drain_phase_seconds{{{POD}}} > 0", NAME + " {{phase}}"), unit="s", stack=True),
        lines("Budget used so far", "Of the time from SIGTERM to the deadline, of the drains that a scrape has seen.",
              query(USED, NAME), unit="percentunit", max=1, thresholds=NEARLY),
        lines("Budget used", "By the drain ledger: of the time from SIGTERM to the deadline, the mean of the drains. What nears the end gets cut the next time.",
              query(f"{grown('lameduck_drain_seconds_total', 'cause')} / ({grown('lameduck_drain_budget_seconds_total', 'cause')} > 0)", "{{cause}}"),
              unit="percentunit", max=1, thresholds=NEARLY, interval="1m"),
        lines("Tight drains", "By the drain ledger: they took more than 80 % of their time, those that were cut included.",
              query(grown("lameduck_tight_drains_total", "cause"), "{{cause}}"), bars=True, interval="1m"),
        lines("Endpoint removal lag", "From SIGTERM until a Service was seen to route here no more. Only in a cluster.",
              query(f"lameduck_endpoint_removal_seconds{{{POD}}} > 0", NAME + " {{service}}"), unit="s"),
        lines("How the wait for the end of routing ended", "By the drain ledger. timed_out, no_permission and unavailable waited by the clock; cut_short had too little time to be sure.",
              query(grown("lameduck_drain_routing_total", "outcome"), "{{outcome}}"), bars=True, interval="1m"),
        lines("Late requests", "By the drain ledger: they came after the endpoints were gone, so somebody still routes here.",
              query(grown("lameduck_drain_requests_total", "cause", ',fate="late"'), "{{cause}}"), bars=True, interval="1m"),
        lines("Cut requests and connections", "By the drain ledger: under way at the hard deadline.",
              query(grown("lameduck_drain_requests_total", "cause", ',fate="cut"'), "requests {{cause}}"),
              query(grown("lameduck_drain_connections_cut_total", "cause"), "connections {{cause}}"), bars=True, interval="1m"),
        lines("Jobs in flight, by pod", "What a drain waits for.",
              query(f"lameduck_jobs_in_flight{{{POD}}} > 0", NAME + " {{pool}}"), stack=True),
        lines("Jobs given back", "By the drain ledger, of drains that came to the soft deadline; left: the queue could not be reached, their lease freed them.",
              query(grown("lameduck_drain_jobs_total", "cause, fate"), "{{cause}} {{fate}}"), bars=True, interval="1m"),
    ]
    yield "Versions", [
        lines("Pods by version", "A rollout is where one line falls and another rises.",
              query(f"count by (version) (lameduck_build_info{{{POD}}})", "{{version}}"), stack=True),
        lines("Outcomes by version", "What became of reservations, a second: whether the new version fails more.",
              query(f"""sum by (version, outcome) (rate(lameduck_job_outcomes_total{{{POD_QUEUE}}}[$__rate_interval])
                  * on (namespace, job, instance) group_left (version) lameduck_build_info{{{POD}}})""",
                    "{{version}} {{outcome}}"), unit="ops", stack=True),
    ]
    yield "Queues", [
        lines("Depth", "Jobs by state, as the database has them.",
              query(f"max by (namespace, job, queue, state) (lameduck_queue_jobs{{{QUEUE}}})", "{{queue}} {{state}}")),
        lines("Age of the oldest job", "For how long it could have run; of a paused queue, too.",
              query(f"max by (namespace, job, queue) (lameduck_queue_oldest_age_seconds{{{QUEUE}}})", "{{queue}}"), unit="s"),
        lines("Arrivals and ends", "Jobs a second: taken in over HTTP, and reservations that came to any end.",
              query(f"sum by (queue) (rate(lameduck_jobs_submitted_total{{{POD_QUEUE}}}[$__rate_interval]))", "{{queue}} submitted"),
              query(f"sum by (queue) (rate(lameduck_job_outcomes_total{{{POD_QUEUE}}}[$__rate_interval]))", "{{queue}} ended"),
              unit="ops"),
        lines("Workers", "Busy, there, and needed: what arrives a second times how long each takes.",
              query(f"sum by (queue) (lameduck_workers_busy{{{POD_QUEUE}}})", "{{queue}} busy"),
              query(f"sum by (queue) (lameduck_workers{{{POD_QUEUE}}})", "{{queue}} there"),
              query(f"sum by (queue) (lameduck_workers_needed{{{POD_QUEUE}}})", "{{queue}} needed")),
    ]
    yield "Jobs", [
        colored(lines("Outcomes", "What became of reservations, a second.",
                      query(f"sum by (queue, outcome) (rate(lameduck_job_outcomes_total{{{POD_QUEUE}}}[$__rate_interval]))",
                            "{{queue}} {{outcome}}"), unit="ops", stack=True), OUTCOME_COLORS),
        lines("Wait", "From when a job could run until it was reserved.",
              *quantiles("lameduck_job_wait_seconds", "queue", "{{queue}}"), unit="s"),
        lines("Run", "Of runs that ended by themselves.",
              *quantiles("lameduck_job_run_seconds", "queue, outcome", "{{queue}} {{outcome}}"), unit="s"),
        lines("Grace period, needed and configured", "Where jobs need more than there is, each rollout begins them anew.",
              query(f"max by (queue) (lameduck_job_grace_needed_seconds{{{POD_QUEUE}}})", "{{queue}} needs"),
              query(f"max(lameduck_grace_configured_seconds{{{POD}}})", "configured"), unit="s"),
        lines("Timeouts and dropped outcomes", "Runs stopped because their own time was over; outcomes of jobs that somebody else had by then.",
              query(f"sum by (queue) (increase(lameduck_job_timeouts_total{{{POD_QUEUE}}}[$__rate_interval]))", "{{queue}} timeouts"),
              query(f"sum by (queue) (increase(lameduck_stale_outcomes_total{{{POD_QUEUE}}}[$__rate_interval]))", "{{queue}} dropped"),
              bars=True),
    ]
    yield "HTTP and process", [
        lines("Requests", "Begun, a second.",
              query(f"sum by (server, protocol) (rate(lameduck_requests_total{{{POD}}}[$__rate_interval])) > 0", "{{server}} {{protocol}}"),
              unit="reqps"),
        lines("Open connections", "active: a request is in flight on it, or it was upgraded.",
              query(f"sum by (server, state) (lameduck_connections{{{POD}}})", "{{server}} {{state}}"), stack=True),
        lines("Memory", "Without that of commands.", query(f"process_resident_memory_bytes{{{POD}}}", NAME), unit="bytes"),
        lines("CPU", "Without that of commands.",
              query(f"rate(process_cpu_seconds_total{{{POD}}}[$__rate_interval])", NAME), unit="percentunit"),
        lines("Requests to the Kubernetes API", "By how they ended; none outside of a cluster.",
              query(f"sum by (outcome) (rate(lameduck_kubernetes_requests_total{{{POD}}}[$__rate_interval]))", "{{outcome}}"), unit="reqps"),
    ]


# --- the dashboard ---

def variable(name, label, selector):
    """Values that occur in the time range, pods that are gone included."""
    text = f"label_values(lameduck_workers{{{selector}}}, {name})" if selector else f"label_values(lameduck_workers, {name})"
    return {
        "type": "query", "name": name, "label": label, "datasource": SOURCE, "definition": text,
        "query": {"query": text, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def laid_out():
    """Ids, and places from left to right."""
    panels, x, y, tallest = [], 0, 0, 0
    for title, members in rows():
        if x:
            x, y = 0, y + tallest
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        x, y, tallest = 0, y + 1, 0
        for member in members:
            place = member["gridPos"]
            if x + place["w"] > 24:
                x, y, tallest = 0, y + tallest, 0
            place["x"], place["y"] = x, y
            x, tallest = x + place["w"], max(tallest, place["h"])
            panels.append(member)
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return panels


def dashboard():
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1, "current": {}}
    return {
        "uid": "lameduck", "title": "lameduck", "tags": ["lameduck"], "schemaVersion": 38, "version": 1, "editable": True,
        "graphTooltip": 1, "time": {"from": "now-1h", "to": "now"}, "refresh": "30s", "timezone": "browser",
        "templating": {"list": [
            source,
            variable("namespace", "Namespace", ""),
            variable("job", "Scrape job", 'namespace=~"$namespace"'),
            variable("instance", "Pod", WHERE),
            variable("queue", "Queue", WHERE),
        ]},
        "annotations": {"list": []}, "links": [], "panels": laid_out(),
    }


def main():
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        if FILE.read_text() != text:
            sys.exit(f"{FILE.name} is not what deploy/grafana/dashboard.py makes: run it")
        return
    FILE.write_text(text)


if __name__ == "__main__":
    main()
