"""Whether what a power cut left keeps every promise that was made before it."""

import contextlib
import os
import sqlite3
from dataclasses import dataclass, field

from program import Program, show

COMPLETED = 2

JOBS = """
    SELECT j.id, j.state, j.result, p.body FROM jobs j LEFT JOIN payloads p USING (seq)"""

# What the triggers of the schema keep; a half-applied transaction would show here.
COUNTS = """
    SELECT name FROM queues q
    WHERE waiting <> (SELECT count(*) FROM jobs WHERE queue = q.id AND state = 0)"""


@dataclass
class Promises:
    """What had been answered."""

    accepted: set = field(default_factory=set)
    completed: set = field(default_factory=set)


@dataclass
class Verdict:
    lost: list = field(default_factory=list)  # acknowledged, and not there or not as it was
    broken: list = field(default_factory=list)  # the database itself

    def __bool__(self):
        return not self.lost and not self.broken


def promises_before(answers, event):
    promises = Promises()
    for answer in answers:
        if answer.at >= event:
            break
        promises.accepted.add(answer.job)
        if answer.state == "completed":
            promises.completed.add(answer.job)
    return promises


def lay_out(left, root, place):
    """Writes what was left into `place`, in the place of `root`."""
    for path, data in left.items():
        target = place + path.removeprefix(root)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)


def files(place, root):
    """The other way round: what lies in `place`, by its path in `root`."""
    found = {}
    for directory, _, names in os.walk(place):
        for name in names:
            if not name.endswith("-shm"):
                path = os.path.join(directory, name)
                with open(path, "rb") as file:
                    found[root + path.removeprefix(place)] = file.read()
    return found


def by_sqlite(database, promises, payloads):
    """Lets SQLite recover it, and looks inside."""
    verdict = Verdict()
    jobs = {}
    try:
        # Whatever is not there gets no chance to be made.
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            verdict.broken += [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
            if verdict.broken:
                return verdict  # whatever its rows say means nothing
            if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'jobs'").fetchone():
                jobs = {hyphenated(row[0]): row[1:] for row in connection.execute(JOBS)}
                verdict.broken += [f"the count of queue {name} is wrong" for (name,) in connection.execute(COUNTS)]
    except sqlite3.DatabaseError as error:
        if os.path.exists(database):
            verdict.broken.append(str(error))
    verdict.lost += [f"{job}: not there" for job in promises.accepted | promises.completed if job not in jobs]
    for job, (state, result, payload) in jobs.items():
        if payload != payloads.get(job, payload):
            verdict.lost.append(f"{job}: has another payload")
        if job in promises.completed and state != COMPLETED:
            verdict.lost.append(f"{job}: was shown as completed, and its state is {state}")
        if state == COMPLETED and result != payload:
            verdict.lost.append(f"{job}: its result is not what the handler said")
    return verdict


def by_program(binary, data, promises):
    """Lets the real program recover it, do what is left to do, and tell."""
    verdict = Verdict()
    try:
        program = Program(binary, data)
    except SystemExit as error:
        return Verdict(broken=[str(error)])
    connection = program.connect()
    for job in sorted(promises.accepted | promises.completed):
        # What was completed is so at once; what was not gets there.
        seen = show(connection, job, None if job in promises.completed else "30s")
        if seen is None:
            verdict.lost.append(f"{job}: the program does not know it")
        elif seen["state"] != "completed":
            verdict.lost.append(f"{job}: is {seen['state']}, not completed")
    # Kept open, it would hold up the drain.
    connection.close()
    program.stop()
    return verdict


def hyphenated(blob):
    text = blob.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
