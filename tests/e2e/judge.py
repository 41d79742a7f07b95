"""What the suite thinks of what it has seen. Each function takes what was captured, and returns what is wrong with it,
a line each; nothing means that all is well. They ask nobody, so that unit tests can show them every kind of trouble.
"""

import json
import re

# What the kubelet keeps of a termination message (MaxContainerTerminationMessageLength).
LONGEST_MESSAGE = 4096
CONTAINER = "lameduck"


# === pods ===


def uid(pod):
    return pod["metadata"]["uid"]


def name(pod):
    return pod["metadata"]["name"]


def container_status(pod):
    statuses = pod.get("status", {}).get("containerStatuses") or []
    # Others may have been added by the cluster: a mesh's proxy, for example.
    return next((status for status in statuses if status["name"] == CONTAINER), {})


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions") or []
    return "deletionTimestamp" not in pod["metadata"] and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def address(pod, port):
    host = pod["status"]["podIP"]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def ended(pod):
    """How the container ended; of a container that was started again, how it ended before that. None where nobody said."""
    status = container_status(pod)
    return status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")


def ended_well(pod):
    end = ended(pod)
    if end is None:
        return [f"{name(pod)}: the watch never told how its container ended"]
    if end.get("exitCode") != 0:
        signal = end["exitCode"] - 128 if end["exitCode"] > 128 else None
        means = f", killed by signal {signal}" if signal else ""
        return [f"{name(pod)}: exit code {end['exitCode']}{means} ({end.get('reason', 'no reason given')})"]
    return []


def report_of(pod):
    """The drain report in the termination message, and what is wrong with the message."""
    end = ended(pod)
    if end is None:
        return None, [f"{name(pod)}: the watch never told how its container ended"]
    message = end.get("message", "")
    if not message:
        return None, [f"{name(pod)}: no termination message"]
    wrong = []
    length = len(message.encode())
    if length > LONGEST_MESSAGE:
        wrong.append(f"{name(pod)}: the termination message has {length} bytes, and {LONGEST_MESSAGE} are kept")
    try:
        report = json.loads(message)
        report["drain_id"], report["outcome"], report["cause"]
    except (ValueError, KeyError, TypeError) as error:
        return None, [*wrong, f"{name(pod)}: the termination message is no drain report ({type(error).__name__}: {error}): {message[:300]}"]
    return report, wrong


# === the drain report ===


def drained_well(report, cause, most=None):
    """Nothing was lost, for the reason that we know, inside of its budget of `most` seconds at the most. Jobs may be given back: a
    reserve that was under way when the drain began. Whether one had been begun is the reckoning's question.
    """
    wrong = []
    for key, wanted in (("outcome", "clean"), ("cause", cause)):
        if report[key] != wanted:
            wrong.append(f"{key} is {report[key]}, and should be {wanted}")
    for what, count in (
        ("requests cut", report["requests"]["cut"]),
        ("connections cut", report["connections"]["cut"]),
        ("jobs left to their lease", report["jobs"]["left"]["count"]),
        ("jobs failed", report["jobs"]["failed"]),
    ):
        if count:
            wrong.append(f"{count} {what}")
    if report["seconds"] > report["budget_seconds"]:
        wrong.append(f"it took {report['seconds']} s of {report['budget_seconds']} s")
    if most is not None and report["budget_seconds"] > most:
        wrong.append(f"the budget was {report['budget_seconds']} s, and the pod had {most} s")
    return [f"drain {report['drain_id']}: {line}" for line in wrong]


def not_called_routed_to(report):
    """With little time there may be none for settle and quiet; that is not called routed to, where the endpoints went."""
    if report["routing"] not in ("removed", "cut_short") or report["removal_seconds"] is None:
        return [f"drain {report['drain_id']}: the wait for the end of routing ended as {report['routing']}, "
                f"endpoints gone after {report['removal_seconds']}; they went, and there was little time"]
    return []


def forced_well(ledger, pod, least_given_back=1):
    """What the ledger tells of a pod that was deleted by force: it knew that by its refused token, had two seconds, gave its jobs
    back, and closed its row itself."""
    rows = [row for row in ledger["drains"] if (row["report"] or {}).get("pod") == pod and row["cause"] == "pod_deleted"
            and row["report"]["budget_seconds"] <= 2]
    if not rows:
        told = [(row["cause"], row["outcome"], (row["report"] or {}).get("pod"), (row["report"] or {}).get("budget_seconds")) for row in ledger["drains"][:5]]
        return [f"no drain of {pod} for which pod_deleted and two seconds were known; the latest, as cause, outcome, pod and budget: {told}"]
    report = rows[0]["report"]
    wrong = []
    if report["seconds"] > report["budget_seconds"]:
        wrong.append(f"it took {report['seconds']} s of {report['budget_seconds']} s")
    if report["jobs"]["left"]["count"]:
        wrong.append(f"{report['jobs']['left']['count']} jobs were left to their lease")
    if report["jobs"]["released"]["count"] < least_given_back:
        wrong.append(f"{report['jobs']['released']['count']} jobs were given back, expected {least_given_back} at the least")
    if report["routing"] in ("timed_out", "no_permission", "unavailable"):
        wrong.append(f"the wait for the end of routing ended as {report['routing']}, for which an alert is")
    return [f"drain {report['drain_id']}: {line}" for line in wrong]


def saw_its_endpoints_go(report):
    if report["routing"] != "removed" or report["removal_seconds"] is None:
        return [f"drain {report['drain_id']}: the wait for the end of routing ended as {report['routing']}, not as removed"]
    return []


# === Events ===


def told_by_events(events, pod, drain_id):
    """The Pod has one Event of the start and one of the end, both with the drain's id. Events of others are let alone."""
    wrong = []
    own = [event for event in events if event.get("involvedObject", {}).get("uid") == uid(pod)]
    for reason in ("DrainStarted", "Drained"):
        found = [event for event in own if event.get("reason") == reason and drain_id in event.get("message", "")]
        if len(found) != 1:
            others = sorted({event.get("reason", "") for event in own})
            wrong.append(f"{name(pod)}: {len(found)} Events {reason} of drain {drain_id}, expected 1; there are {', '.join(others) or 'none'}")
        for event in found:
            if event.get("type") != "Normal":
                wrong.append(f"{name(pod)}: the Event {reason} is a {event.get('type')}")
    return wrong


# === load ===


def undisturbed(summary, mark, least):
    """So many requests under this mark, and none failed."""
    found = summary.get(mark, {"ok": 0, "failed": 0, "errors": []})
    wrong = []
    if found["failed"]:
        wrong.append(f"{found['failed']} of {found['failed'] + found['ok']} requests failed")
        wrong += found["errors"]
    if found["ok"] < least:
        wrong.append(f"only {found['ok']} requests were answered, too few to say anything; expected {least}")
    return wrong


def accepted(summary):
    return sum(mark["accepted"] for mark in summary.values())


def failed_submissions(summary, mark):
    return summary.get(mark, {"failed": 0})["failed"]


def done_once(reckoning, least, begun_again_is_fine=False, untold=0):
    """Every accepted job is completed, by one run. After a kill some are begun again, and some were stored untold."""
    trouble = dict(reckoning["trouble"])
    wrong = []
    if reckoning["accepted"] < least:
        wrong.append(f"only {reckoning['accepted']} jobs were accepted, expected {least}")
    if begun_again_is_fine:
        trouble.pop("begun more than once", None)
    if trouble.get("stored though nobody was told", 0) <= untold:
        trouble.pop("stored though nobody was told", None)
    wrong += [f"{count} of {reckoning['accepted']} jobs: {what}" for what, count in trouble.items()]
    if trouble:
        wrong += reckoning["examples"]
    return wrong


def fast_enough(reckoning, mark, most):
    slowest = reckoning["slowest"].get(mark)
    if slowest is None:
        return [f"no job was submitted under {mark}"]
    return [f"a job took {slowest} s from its submission to its end, expected {most} s at the most"] if slowest > most else []


# === metrics ===

SERIES = re.compile(r'^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def series(text, wanted):
    """[(labels, value)] of this metric."""
    found = []
    for line in text.splitlines():
        match = SERIES.match(line)
        if match and match["name"] == wanted:
            found.append((dict(LABEL.findall(match["labels"] or "")), float(match["value"])))
    return found


def totals(text):
    """{(cause, outcome): drains}, without zeros."""
    return {(labels["cause"], labels["outcome"]): int(value) for labels, value in series(text, "lameduck_drains_total") if value}


def counted(before, after, reports):
    """The ledger's totals grew by exactly these reports."""
    expected = dict(before)
    for report in reports:
        key = report["cause"], report["outcome"]
        expected[key] = expected.get(key, 0) + 1
    return [f"lameduck_drains_total{{cause={cause},outcome={outcome}}} is {after.get((cause, outcome), 0)}, and should be {expected.get((cause, outcome), 0)}"
            for cause, outcome in sorted(expected.keys() | after.keys())
            if expected.get((cause, outcome), 0) != after.get((cause, outcome), 0)]


def tells_the_lag(text, services):
    """In its last scrape the pod told when each Service had stopped to route to it."""
    if not text:
        return ["its metrics were never answered"]
    lag = {labels.get("service"): value for labels, value in series(text, "lameduck_endpoint_removal_seconds")}
    wrong = [f"no lag of Service {service}; there are {lag}" for service in services if not lag.get(service, 0) > 0]
    if any(value for _, value in series(text, "lameduck_reserves_after_drain_total")):
        wrong.append("a job was reserved after the drain had begun")
    return wrong


# === the doctor ===


def healthy(status, output):
    """Nothing worse than ok and unknown."""
    if status == 0:
        return []
    try:
        # What kubectl says of the exit status comes after it.
        diagnosis, _ = json.JSONDecoder().raw_decode(output.lstrip())
        worse = [finding for finding in diagnosis["findings"] if finding["severity"] in ("warning", "problem")]
    except (ValueError, KeyError, TypeError):
        return [f"exit status {status}", *output.splitlines()[-10:]]
    return [f"exit status {status}", *(f"{finding['severity']} {finding['id']} ({finding['object']}): {finding['happens']}" for finding in worse)]


# === the log ===


def ends_with_report(log, drain_id):
    """Among the last lines: a writer of its own may bring the report's line and the one before in either order."""
    for line in log.strip().splitlines()[-5:]:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and (said.get("message"), said.get("drain_id")) == ("drain report", drain_id):
            return []
    return [f"no report of drain {drain_id} among the last five lines", *log.strip().splitlines()[-5:]]
