"""One line a check, as tests/deploy/checks.py prints them."""

import subprocess
import sys
import time

passed = failed = 0


def check(name, function, *arguments):
    global passed, failed
    try:
        function(*arguments)
    except Exception as error:
        failed += 1
        print(f"FAIL  {name}", flush=True)
        print("\n".join(f"        {line}" for line in f"{type(error).__name__}: {error}".splitlines()), flush=True)
    else:
        passed += 1
        print(f"ok    {name}", flush=True)


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}\nexpected: {expected}\nfound:    {found}")


def output(*command, **options):
    done = subprocess.run(command, text=True, capture_output=True, **options)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def until(what, look, seconds=20):
    """Looks again until there is something to see; how long at the most is said in the error."""
    last, end = None, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            last = look()
            if last:
                return last
        except (OSError, ValueError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}\nlast seen: {last}")


def end():
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)
