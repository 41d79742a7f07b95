"""What a disk may hold after a power cut.

```text
  since the last sync that returned        what is left of it
  ─────────────────────────────────        ─────────────────────────────────────────────
  writes, truncations of a file       ──▶  none, all, a prefix, any of them in any order,
                                           some sectors of them, garbage in some sectors
  names made and removed              ──▶  the same, and only a sync of the *directory* settles them
```

A sync settles what was over when it was asked for. A sync that failed has thrown it away: Linux takes such pages for clean,
and a later sync that succeeds says nothing about them. SQLite counts on one thing that is not promised by POSIX, and so does
this: writing some bytes leaves the bytes beside them as they were.
"""

import os
from dataclasses import dataclass, field

from strace import Create, Remove, Sent, Sync, Synced, Truncate, Unsynced, Write

SECTOR = 512

KINDS = ("none", "all", "prefix", "some", "torn")


@dataclass
class File:
    settled: bytearray = field(default_factory=bytearray)
    pending: list = field(default_factory=list)  # (event number, event)
    directory: bool = False


class Disk:
    """Follows the events; can say at any of them what would be left."""

    def __init__(self, root):
        self.root = root
        self.now = {root: File(directory=True)}  # what the program sees
        self.names = dict(self.now)  # what is settled
        self.renamed = []  # (event number, event, file): changes of names since

    def apply(self, number, event):
        match event:
            case Write() | Truncate():
                self.now[event.path].pending.append((number, event))
            case Create():
                self.now[event.path] = File(directory=event.directory)
                self.renamed.append((number, event, self.now[event.path]))
            case Remove():
                self.renamed.append((number, event, self.now.pop(event.path)))
            case Synced():
                self.settle(event)
            case Unsynced():
                self.throw_away(event)
            case Sync() | Sent() | None:
                pass

    def settle(self, sync):
        file = self.now.get(sync.path)
        if file is None:
            return
        over = lambda event: event.done is not None and event.done <= sync.asked
        for _, event in filter(lambda entry: over(entry[1]), file.pending):
            change(file.settled, event)
        file.pending = [entry for entry in file.pending if not over(entry[1])]
        if file.directory:
            mine = lambda event: os.path.dirname(event.path) == sync.path and over(event)
            for _, event, changed in filter(lambda entry: mine(entry[1]), self.renamed):
                rename(self.names, event, changed)
            self.renamed = [entry for entry in self.renamed if not mine(entry[1])]

    def throw_away(self, sync):
        file = self.now.get(sync.path)
        if file is not None:
            over = lambda event: event.done is not None and event.done <= sync.asked
            file.pending = [entry for entry in file.pending if not over(entry[1])]

    def cut(self, kind, random):
        """Pulls the plug: what each path holds, if its name is there and all names above it."""
        reached = {number for number, _, _ in self.renamed}
        for file in self.everything():
            reached.update(number for number, _ in file.pending)
        reached = sorted(reached)
        share = random.choice((0.1, 0.5, 0.9))
        match kind:
            case "none":
                keep = set()
            case "all":
                keep = set(reached)
            case "prefix":
                keep = set(reached[: random.randint(0, len(reached))])
            case _:
                keep = {number for number in reached if random.random() < share}
        names = dict(self.names)
        for number, event, file in self.renamed:
            if number in keep:
                rename(names, event, file)
        left = {}
        for path, file in names.items():
            if not file.directory and self.is_reachable(path, names):
                left[path] = contents(file, keep, random if kind == "torn" else None)
        return left

    def everything(self):
        files = {id(file): file for file in (*self.now.values(), *self.names.values())}
        files.update({id(file): file for _, _, file in self.renamed})
        return files.values()

    def is_reachable(self, path, names):
        while path != self.root:
            path = os.path.dirname(path)
            if path not in names:
                return False
        return True


def contents(file, keep, tear):
    data = bytearray(file.settled)
    for number, event in file.pending:
        if tear and isinstance(event, Write):
            for piece in torn(event, data, number in keep, tear):
                change(data, piece)
        elif number in keep:
            change(data, event)
    return data


def torn(write, data, mostly_kept, random):
    """The sectors of a write, each there, or not, or in pieces."""
    begin, end = write.offset, write.offset + len(write.data)
    while begin < end:
        stop = min(begin - begin % SECTOR + SECTOR, end)
        fate = random.random()
        if fate < 0.05:
            yield Write(write.path, begin, random.randbytes(stop - begin))
        elif (fate < 0.75) == mostly_kept:
            yield Write(write.path, begin, write.data[begin - write.offset : stop - write.offset])
        begin = stop


def change(data, event):
    if isinstance(event, Truncate):
        if len(data) > event.size:
            del data[event.size :]
        else:
            data.extend(bytes(event.size - len(data)))
        return
    if len(data) < event.offset:
        data.extend(bytes(event.offset - len(data)))
    data[event.offset : event.offset + len(event.data)] = event.data


def rename(names, event, file):
    if isinstance(event, Create):
        names[event.path] = file
    elif names.get(event.path) is file:
        del names[event.path]
