"""The end-to-end suite. tests/e2e/run starts it and tells what can be set."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

sys.dont_write_bytecode = True

import checks  # noqa: E402
import embedded  # noqa: E402
import postgres  # noqa: E402
from cluster import Failure, Namespace, run  # noqa: E402
from settings import Mistake, Settings  # noqa: E402

SHAPES = {"embedded": embedded.run, "postgres": postgres.run}


def has_storage(settings):
    """Whether a claim without a class would ever be bound. Who may not know tries."""
    if settings.storage_class:
        return True
    status, output = run("kubectl", "get", "storageclasses", "--output", "json", must=False)
    if status:
        return True
    key = "storageclass.kubernetes.io/is-default-class"
    return any(item["metadata"].get("annotations", {}).get(key) == "true" for item in json.loads(output)["items"])


def play(shape, settings):
    """One shape in a namespace of its own."""
    namespace = Namespace(f"{settings.namespace}-{shape}")
    work = Path(tempfile.mkdtemp(prefix=f"{namespace.name}-"))
    before = checks.failed
    namespace.make()
    try:
        checks.say(f"--- {shape}, in namespace {namespace.name}")
        SHAPES[shape](namespace, settings, work)
    except Failure as failure:
        checks.check(f"{shape}: the story goes on", [str(failure)])
    except Exception:
        checks.check(f"{shape}: the suite itself works", traceback.format_exc().splitlines())
    finally:
        tidy(namespace, settings, work, checks.failed > before or sys.exc_info()[0] is not None)


def tidy(namespace, settings, work, failed):
    if failed:
        namespace.evidence(work)
        checks.say(f"      what was seen is in {work}")
    if settings.keep:
        checks.say(f"      kept: namespace {namespace.name}, {work}")
        return
    namespace.remove()
    if not failed:
        shutil.rmtree(work, ignore_errors=True)


def main():
    settings = Settings()
    # An end by a signal is an end like others: the namespaces go.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    settings.helm_values()
    if settings.load:
        checks.say(f"--- {settings.load}")
        subprocess.run(["bash", "-c", settings.load], check=True)
    for shape in settings.shapes:
        if shape == "embedded" and not has_storage(settings):
            checks.miss("the embedded shape", "the cluster has no default StorageClass; say which with E2E_STORAGE_CLASS=…")
            continue
        play(shape, settings)
    return checks.end()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Mistake as mistake:
        sys.exit(f"e2e: {mistake}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"e2e: E2E_LOAD ended with status {error.returncode}")
    except (Failure, KeyboardInterrupt) as failure:
        sys.exit(f"e2e: {failure or 'interrupted'}")
