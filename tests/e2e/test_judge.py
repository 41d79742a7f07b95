"""The judgements on good captures and on each kind of bad one. Nothing is asked and nothing runs: python3 -m unittest discover tests/e2e

The captures in fixtures/ were made by hand after the API's documentation; tests/e2e/rehearse has real processes make some.
"""

import copy
import json
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

import agent  # noqa: E402
import cluster  # noqa: E402
import judge  # noqa: E402
import scene  # noqa: E402
from settings import STORIES, Mistake, Settings, image_values  # noqa: E402


def fixture(name):
    text = (HERE / "fixtures" / name).read_text()
    return json.loads(text) if name.endswith(".json") else text


DELETED, RESTARTED, EVENTS, METRICS = map(fixture, ("pod-deleted.json", "pod-restarted.json", "events.json", "last-metrics.txt"))


def with_end(pod, **changes):
    pod = copy.deepcopy(pod)
    judge.ended(pod).update(changes)
    return pod


def with_report(pod, **changes):
    report, _ = judge.report_of(pod)
    return with_end(pod, message=json.dumps(report | changes))


class Pods(unittest.TestCase):
    def test_an_end_is_found_in_a_deleted_pod_and_in_a_restarted_container(self):
        for pod in (DELETED, RESTARTED):
            self.assertEqual(judge.ended_well(pod), [])
            report, wrong = judge.report_of(pod)
            self.assertEqual(wrong, [])
            self.assertEqual(report["outcome"], "clean")

    def test_sigkill_is_called_by_its_name(self):
        self.assertIn("exit code 137, killed by signal 9 (OOMKilled)", judge.ended_well(with_end(DELETED, exitCode=137, reason="OOMKilled"))[0])

    def test_any_other_exit_code_is_wrong_as_well(self):
        self.assertIn("exit code 1 ", judge.ended_well(with_end(DELETED, exitCode=1, reason="Error"))[0])

    def test_an_end_that_nobody_told_of_is_none(self):
        pod = copy.deepcopy(DELETED)
        judge.container_status(pod)["state"] = {"running": {}}
        self.assertIn("never told", judge.ended_well(pod)[0])
        self.assertIn("never told", judge.report_of(pod)[1][0])
        pod["status"] = {"phase": "Pending"}
        self.assertIn("never told", judge.ended_well(pod)[0])

    def test_a_message_that_was_cut_is_no_report(self):
        report, wrong = judge.report_of(with_end(DELETED, message=judge.ended(DELETED)["message"][:300]))
        self.assertIsNone(report)
        self.assertIn("no drain report", wrong[0])

    def test_a_log_line_in_its_place_is_no_report(self):
        for message in ('{"message": "listening"}', "[]", "panicked"):
            self.assertIn("no drain report", judge.report_of(with_end(DELETED, message=message))[1][0])

    def test_no_message_is_no_report(self):
        self.assertIn("no termination message", judge.report_of(with_end(DELETED, message=""))[1][0])

    def test_a_message_beyond_four_kibibytes_is_too_long(self):
        self.assertIn("4096 are kept", judge.report_of(with_report(DELETED, padding="x" * 4096))[1][0])

    def test_who_terminates_is_not_ready(self):
        self.assertTrue(judge.is_ready(RESTARTED))
        self.assertFalse(judge.is_ready({"metadata": {"deletionTimestamp": "now"}, "status": RESTARTED["status"]}))
        self.assertFalse(judge.is_ready({"metadata": {}, "status": {}}))

    def test_addresses_of_both_families(self):
        self.assertEqual(judge.address({"status": {"podIP": "10.0.0.7"}}, 9090), "http://10.0.0.7:9090")
        self.assertEqual(judge.address({"status": {"podIP": "fd00::7"}}, 9090), "http://[fd00::7]:9090")


class Reports(unittest.TestCase):
    def setUp(self):
        self.report, _ = judge.report_of(DELETED)

    def wrong(self, most=None, **changes):
        return "\n".join(judge.drained_well(self.report | changes, "pod_deleted", most))

    def test_a_clean_one(self):
        self.assertEqual(self.wrong(most=30), "")

    def test_another_cause_or_outcome(self):
        self.assertIn("cause is unknown, and should be pod_deleted", self.wrong(cause="unknown"))
        self.assertIn("outcome is cut", self.wrong(outcome="cut"))

    def test_work_that_was_lost(self):
        self.assertIn("2 requests cut", self.wrong(requests={"cut": 2, "late": 0, "served": 9}))
        self.assertIn("1 connections cut", self.wrong(connections={"cut": 1}))
        self.assertIn("3 jobs left to their lease", self.wrong(jobs=self.report["jobs"] | {"left": {"count": 3, "ids": []}}))
        self.assertIn("1 jobs failed", self.wrong(jobs=self.report["jobs"] | {"failed": 1}))

    def test_time_beyond_the_budget_and_a_budget_beyond_the_grace_period(self):
        self.assertIn("it took 31 s of 29.0 s", self.wrong(seconds=31))
        self.assertIn("the pod had 9 s", self.wrong(most=9))

    def test_the_end_of_routing_has_to_be_seen(self):
        self.assertEqual(judge.saw_its_endpoints_go(self.report), [])
        for routing in ("timed_out", "no_permission", "unavailable", None):
            self.assertIn(f"as {routing}", judge.saw_its_endpoints_go(self.report | {"routing": routing})[0])


    def test_a_short_wait_is_not_called_routed_to(self):
        for routing, removal, words in (("removed", 0.3, ""), ("cut_short", 0.3, ""), ("timed_out", 0.3, "timed_out"), ("cut_short", None, "None")):
            wrong = "".join(judge.not_called_routed_to(self.report | {"routing": routing, "removal_seconds": removal}))
            self.assertEqual(bool(words), bool(wrong), routing)
            self.assertIn(words, wrong)


class Forced(unittest.TestCase):
    def setUp(self):
        report, _ = judge.report_of(DELETED)
        jobs = report["jobs"] | {"released": {"count": 8, "ids": []}}
        self.report = report | {"pod": "jobs-lameduck-0", "budget_seconds": 1.8, "seconds": 1.5, "routing": "cut_short", "jobs": jobs}

    def wrong(self, cause="pod_deleted", **changes):
        row = {"cause": cause, "outcome": "cut", "report": self.report | changes}
        living = {"cause": None, "outcome": None, "report": None}
        return "\n".join(judge.forced_well({"drains": [living, row]}, "jobs-lameduck-0"))

    def test_it_knew_gave_back_and_reported(self):
        self.assertEqual(self.wrong(), "")

    def test_it_did_not_know(self):
        for changes in ({"cause": "unknown"}, {"budget_seconds": 29.0}, {"pod": "another"}):
            self.assertIn("no drain of jobs-lameduck-0 for which", self.wrong(**changes))
        self.assertIn("no drain of", "".join(judge.forced_well({"drains": []}, "jobs-lameduck-0")))

    def test_it_knew_and_was_too_late(self):
        self.assertIn("jobs were left to their lease", self.wrong(jobs=self.report["jobs"] | {"left": {"count": 3, "ids": []}}))
        self.assertIn("0 jobs were given back", self.wrong(jobs=self.report["jobs"] | {"released": {"count": 0, "ids": []}}))
        self.assertIn("it took 1.9 s", self.wrong(seconds=1.9))

    def test_an_alert_for_it(self):
        self.assertIn("ended as no_permission", self.wrong(routing="no_permission"))


class Events(unittest.TestCase):
    def wrong(self, events):
        return judge.told_by_events(events, DELETED, "ce4bcca803")

    def test_both_are_there_among_others(self):
        self.assertEqual(self.wrong(EVENTS["items"]), [])

    def test_one_is_missing(self):
        for reason in ("DrainStarted", "Drained"):
            wrong = self.wrong([event for event in EVENTS["items"] if event["reason"] != reason])
            self.assertIn(f"0 Events {reason} of drain ce4bcca803", wrong[0])

    def test_one_is_of_another_drain(self):
        events = copy.deepcopy(EVENTS["items"])
        events[1]["message"] = events[1]["message"].replace("ce4bcca803", "0123456789")
        self.assertIn("0 Events Drained", self.wrong(events)[0])

    def test_one_is_of_another_pod_of_the_same_name(self):
        events = copy.deepcopy(EVENTS["items"])
        events[0]["involvedObject"]["uid"] = "another"
        self.assertIn("0 Events DrainStarted", self.wrong(events)[0])

    def test_a_warning_is_wrong(self):
        events = copy.deepcopy(EVENTS["items"])
        events[1]["type"] = "Warning"
        self.assertIn("is a Warning", self.wrong(events)[0])


class Load(unittest.TestCase):
    ENTRIES = [{"mark": "rollout", "kind": "kept connection", "what": "ok", "id": "a"},
               {"mark": "rollout", "kind": "look", "what": "ok"},
               {"mark": "scale", "kind": "look", "what": "failed", "error": "ConnectionResetError: reset"},
               {"mark": "scale", "kind": "look", "what": "away", "error": "refused"}]

    def test_what_became_of_requests_is_told_by_mark(self):
        summary = agent.summarised(self.ENTRIES)
        self.assertEqual((summary["rollout"]["ok"], summary["rollout"]["accepted"], summary["rollout"]["failed"]), (2, 1, 0))
        self.assertEqual((summary["scale"]["failed"], summary["scale"]["away"]), (1, 1))
        self.assertEqual(judge.accepted(summary), 1)

    def test_a_failure_is_told_with_its_words(self):
        summary = agent.summarised(self.ENTRIES)
        self.assertEqual(judge.undisturbed(summary, "rollout", 2), [])
        self.assertIn("1 of 1 requests failed", judge.undisturbed(summary, "scale", 0)[0])
        self.assertIn("look: ConnectionResetError: reset", judge.undisturbed(summary, "scale", 0))

    def test_too_few_requests_say_nothing(self):
        self.assertIn("too few", judge.undisturbed(agent.summarised(self.ENTRIES), "rollout", 20)[0])
        self.assertIn("too few", judge.undisturbed({}, "rollout", 20)[0])


def job(runs=("completed",), state="completed", **changes):
    return {"state": state, "attempt": 1, "releases": 0, "crashes": 0, "submitted_at": "2026-11-26T00:00:00.123456789Z",
            "ended_at": "2026-11-26T00:00:03Z", "history": [run(end, 3) for end in runs]} | changes


def run(end, seconds):
    return {"end": end, "started_at": "2026-11-26T00:00:00.2Z", "ended_at": f"2026-11-26T00:00:{seconds:02d}.2Z"}


class Reckoning(unittest.TestCase):
    LEDGER = [{"mark": "rollout", "id": "a"}, {"mark": "force", "id": "b"}, {"mark": "force", "kind": "look"}]

    def wrong(self, a, ledger=None, others=(), **allowed):
        jobs = {"a": a, "b": job()} if a else {"b": job()}
        return "\n".join(judge.done_once(agent.reckoned(ledger or self.LEDGER, jobs, list(others)), 2, **allowed))

    def test_all_well(self):
        self.assertEqual(self.wrong(job()), "")

    def test_each_trouble(self):
        self.assertIn("1 of 2 jobs: lost", self.wrong(None))
        self.assertIn("is dead", self.wrong(job((), "dead", ended_at=None)))
        self.assertIn("begun more than once", self.wrong(job(("released", "completed"))))
        self.assertIn("begun more than once", self.wrong(job(attempt=2)))
        self.assertIn("completed twice", self.wrong(job(("completed", "completed"))))
        self.assertIn("stored though nobody was told", self.wrong(job(), others=["c"]))
        self.assertIn("accepted twice under different keys", self.wrong(job(), ledger=[*self.LEDGER, {"mark": "x", "id": "a"}]))
        self.assertIn("only 2 jobs", "\n".join(judge.done_once(agent.reckoned(self.LEDGER, {"a": job(), "b": job()}, []), 3)))

    def test_what_was_reserved_and_given_back_at_once_was_not_begun(self):
        self.assertEqual(self.wrong(job(releases=1, history=[run("released", 0), run("completed", 3)])), "")

    def test_after_a_kill_some_begin_again_but_none_ends_twice(self):
        again = dict(begun_again_is_fine=True, untold=1)
        self.assertEqual(self.wrong(job(("crashed", "completed"), crashes=1), others=["c"], **again), "")
        self.assertIn("completed twice", self.wrong(job(("completed", "completed")), **again))
        self.assertIn("stored though", self.wrong(job(), others=["c", "d"], **again))

    def test_how_long_jobs_took_is_told_by_mark(self):
        reckoning = agent.reckoned(self.LEDGER, {"a": job(), "b": job(ended_at="2026-11-26T00:00:41Z")}, [])
        self.assertEqual(judge.fast_enough(reckoning, "rollout", 22), [])
        self.assertIn("a job took 40.9 s", judge.fast_enough(reckoning, "force", 22)[0])
        self.assertIn("no job", judge.fast_enough(reckoning, "scale", 22)[0])


class Metrics(unittest.TestCase):
    SERVICES = ["jobs-lameduck", "jobs-lameduck-headless"]

    def test_the_ledgers_totals(self):
        self.assertEqual(judge.totals(METRICS), {("pod_deleted", "clean"): 5, ("disrupted", "clean"): 1})

    def test_totals_have_to_grow_by_the_reports(self):
        reports = [{"cause": "pod_deleted", "outcome": "clean"}] * 2
        before, after = {("pod_deleted", "clean"): 3}, {("pod_deleted", "clean"): 5}
        self.assertEqual(judge.counted(before, after, reports), [])
        self.assertIn("is 4, and should be 5", judge.counted(before, {("pod_deleted", "clean"): 4}, reports)[0])
        self.assertIn("outcome=killed} is 1, and should be 0", judge.counted(before, after | {("unknown", "killed"): 1}, reports)[0])

    def test_each_service_has_a_lag(self):
        self.assertEqual(judge.tells_the_lag(METRICS, self.SERVICES), [])
        self.assertIn("never answered", judge.tells_the_lag(None, self.SERVICES)[0])
        self.assertIn("no lag of Service other", judge.tells_the_lag(METRICS, ["other"])[0])
        self.assertIn("no lag of Service jobs-lameduck", judge.tells_the_lag(METRICS.replace("0.016", "0"), self.SERVICES)[0])

    def test_a_reserve_after_the_drain_began_is_wrong(self):
        self.assertIn("reserved", judge.tells_the_lag(METRICS.replace('"default"} 0', '"default"} 1'), self.SERVICES)[0])


class Others(unittest.TestCase):
    def test_the_doctors_findings(self):
        self.assertEqual(judge.healthy(0, "anything"), [])
        diagnosis = {"findings": [{"id": "pdb-missing", "severity": "warning", "object": "Deployment/x", "happens": "All go."},
                                  {"id": "host-ports", "severity": "ok", "object": "Deployment/x", "happens": "Well."}]}
        wrong = judge.healthy(1, json.dumps(diagnosis, indent=1) + "\ncommand terminated with exit code 1\n")
        self.assertEqual(wrong, ["exit status 1", "warning pdb-missing (Deployment/x): All go."])
        self.assertEqual(judge.healthy(3, "no API server"), ["exit status 3", "no API server"])

    def test_a_log_ends_with_the_report(self):
        report = json.dumps({"message": "drain report", "drain_id": "x"})
        self.assertEqual(judge.ends_with_report(f'{{"message": "phase"}}\n{report}\n', "x"), [])
        self.assertEqual(judge.ends_with_report(f'{report}\n{{"message": "drained"}}\n', "x"), [])
        for log in (report + '\n{"message": "phase"}' * 5, report.replace("x", "y"), "killed", "7", ""):
            self.assertTrue(judge.ends_with_report(log, "x"), log)

    def test_a_watch_is_read_object_by_object(self):
        import os
        reader, writer = os.pipe()
        text = json.dumps({"a": "ä"}, ensure_ascii=False, indent=2).encode()
        os.write(writer, text[:10])
        stream = cluster.objects(os.fdopen(reader, "rb"))
        os.write(writer, text[10:] + b"\n" + text)
        os.close(writer)
        self.assertEqual(list(stream), [{"a": "ä"}] * 2)

    def test_everything_beside_the_release_keeps_the_level_restricted(self):
        pods = [o for o in scene.load("python", "http://x") + scene.postgres("postgres", 70, "x") if o["kind"] == "Pod"]
        self.assertEqual(len(pods), 2)
        for pod in pods:
            of_pod, (container,) = pod["spec"]["securityContext"], pod["spec"]["containers"]
            self.assertTrue(of_pod["runAsNonRoot"])
            self.assertNotEqual(of_pod["runAsUser"], 0)
            self.assertEqual(of_pod["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertIs(container["securityContext"]["allowPrivilegeEscalation"], False)
            self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})
            self.assertTrue(all(set(v) <= {"name", "configMap", "emptyDir", "secret"} for v in pod["spec"]["volumes"]))

    def test_names_of_images_in_the_charts_words(self):
        for image, values in (
            ("lameduck:e2e", {"repository": "lameduck", "tag": "e2e"}),
            ("registry:5000/team/lameduck:1.2", {"repository": "registry:5000/team/lameduck", "tag": "1.2"}),
            ("registry:5000/lameduck:1@sha256:ab", {"repository": "registry:5000/lameduck", "digest": "sha256:ab"}),
            ("registry:5000/lameduck@sha256:ab", {"repository": "registry:5000/lameduck", "digest": "sha256:ab"}),
        ):
            self.assertEqual(image_values(image), values)
        with self.assertRaisesRegex(Mistake, "has no tag"):
            image_values("registry:5000/lameduck")

    def test_settings_that_cannot_be_are_named(self):
        for name, value, words in (("E2E_SHAPES", "both", "there is no both"), ("E2E_STORIES", "rollout,scale", "there is no rollout,scale"),
                                   ("E2E_PATIENCE", "5m", "E2E_PATIENCE=5m is no number"), ("E2E_VALUES", "/nowhere", "is no file"),
                                   ("E2E_LAMEDUCK", "/nowhere", "cannot be run")):
            with self.assertRaisesRegex(Mistake, words):
                Settings({name: value})
        self.assertEqual(Settings({}).stories, list(STORIES))


if __name__ == "__main__":
    unittest.main()
