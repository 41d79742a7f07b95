"""Counting what held and what did not."""

import time

passed = failed = 0
missed = []
BEGAN = time.monotonic()


def check(promise, wrong):
    """`wrong` is a list of what is wrong; empty where the promise was kept."""
    global passed, failed
    if not wrong:
        passed += 1
        say(f"ok    {promise}")
        return
    failed += 1
    say(f"FAIL  {promise}")
    for line in "\n".join(wrong).splitlines():
        say(f"        {line}")


def miss(what, why):
    """Something that could not be looked at. Said again at the very end."""
    missed.append(f"NOT CHECKED: {what}: {why}")
    say(missed[-1])


def note(text):
    say(f"      {text}")


def say(text):
    print(text, flush=True)


def end():
    for line in missed:
        say(line)
    say(f"{passed} passed, {failed} failed, {time.monotonic() - BEGAN:.0f} s")
    return 1 if failed else 0
