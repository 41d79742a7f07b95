"""A run to take a trace of: clients submit jobs while handlers complete them; a SIGKILL and a restart in between."""

import contextlib
import random
import shutil
import signal
import threading
from dataclasses import dataclass, field

from program import Program, Refused, show, submit

CLIENTS = 6


@dataclass
class Known:
    """What clients were told, by themselves."""

    payloads: dict = field(default_factory=dict)  # job: payload
    refused: int = 0  # answers that said to try again


def take(binary, root, data, traces, jobs, seed, inject=None):
    """Runs the program once for each trace, and keeps beside each what the files were afterwards; what the clients know."""
    known = Known()
    for run, trace in enumerate(traces):
        program = Program(binary, data, trace, inject)
        crowd = [Client(program, known, f"{run}-{n}", jobs // len(traces) // CLIENTS, seed) for n in range(CLIENTS)]
        for client in crowd:
            client.start()
        for client in crowd:
            client.join()
        failed = [client.error for client in crowd if client.error]
        last = run == len(traces) - 1
        # A kill leaves the write-ahead log as it is, for the next run to recover from.
        program.stop(signal.SIGTERM if last else signal.SIGKILL)
        shutil.copytree(root, trace + "-after")
        if failed:
            raise failed[0]
    return known


class Client(threading.Thread):
    """Submits its jobs over one connection, repeats some, and looks after its own and others'."""

    def __init__(self, program, known, name, jobs, seed):
        super().__init__()
        self.program, self.known, self.client, self.jobs = program, known, name, jobs
        self.random = random.Random(f"{seed}-{name}")
        self.error = None

    def run(self):
        try:
            with contextlib.closing(self.program.connect()) as connection:
                self.work(connection)
        except Exception as error:  # told by whoever joins
            self.error = error

    def work(self, connection):
        for n in range(self.jobs):
            payload = self.payload(n)
            key = f"{self.client}-{n}"
            job = self.submit(connection, payload, key)
            self.known.payloads[job] = payload.encode()
            if self.random.random() < 0.1 and self.submit(connection, payload, key) != job:
                raise RuntimeError(f"the key {key} gave two jobs")
            if self.random.random() < 0.5:
                # What is shown is a promise, too; the trace has the answer.
                job = self.random.choice(list(self.known.payloads))
                show(connection, job, "10s" if self.random.random() < 0.5 else None)

    def submit(self, connection, payload, key):
        while True:
            try:
                return submit(connection, payload, key)
            except Refused:
                self.known.refused += 1

    def payload(self, n):
        # Some fill pages of their own.
        size = self.random.choice((20, 200, 2_000, 9_000))
        return f"{self.client} job {n} ".ljust(size, "=")
