"""What the Python clients share: workers that never repeat a request, their tally, and an end.

Every worker sends one POST after the other and looks at the answer; half of them pause in between. A line of
JSON with the tally so far is printed four times a second, and a last one after standard input was closed and
every request under way has ended.
"""

import asyncio
import json
import random
import sys
import threading
import time

WORKERS = 16
FAILURES = 20

_tally = {"done": 0, "failed": 0, "refused": 0, "failures": []}
_lock = threading.Lock()
_stop = threading.Event()


def _body(worker, n):
    return f"payload {worker} {n}".encode()


def _pause(worker):
    """Half are busy, half mostly idle."""
    return random.uniform(0.1, 0.9) if worker % 2 else 0


def _check(body, status, answer):
    if status != 200:
        raise RuntimeError(f"status {status}")
    if answer != body:
        raise RuntimeError("another answer than was sent")
    with _lock:
        _tally["done"] += 1


def _failed(error):
    with _lock:
        _tally["failed"] += 1
        if len(_tally["failures"]) < FAILURES:
            _tally["failures"].append(f"{type(error).__name__}: {error!r}")


def _tell():
    with _lock:
        print(json.dumps(_tally), flush=True)


def _until_told():
    """Returns when standard input has been closed."""
    reader = threading.Thread(target=lambda: (sys.stdin.read(), _stop.set()), daemon=True)
    reader.start()
    while not _stop.wait(0.25):
        _tell()


def run(client):
    """Threads. `client()` gives each worker a function that takes a body and returns status and answer."""

    def work(worker):
        post, n = client(), 0
        while not _stop.is_set():
            body = _body(worker, n)
            try:
                _check(body, *post(body))
            except Exception as error:
                _failed(error)
                time.sleep(0.02)
            n += 1
            time.sleep(_pause(worker))

    threads = [threading.Thread(target=work, args=[worker]) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    _until_told()
    for thread in threads:
        thread.join()
    _tell()


async def run_async(post):
    """Tasks. `post` takes a body and gives status and answer."""

    async def work(worker):
        n = 0
        while not _stop.is_set():
            body = _body(worker, n)
            try:
                _check(body, *await post(body))
            except Exception as error:
                _failed(error)
                await asyncio.sleep(0.02)
            n += 1
            await asyncio.sleep(_pause(worker))

    threading.Thread(target=_until_told, daemon=True).start()
    await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    _tell()
