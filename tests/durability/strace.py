"""What the program did, from what strace saw: file operations and answers, in one order.

A call counts from its entry, and is over at its exit. That is the strict reading of both promises: an answer may be on
the wire as soon as `writev` was entered, and a sync has helped only once it returned. strace stops the caller at both
points, so its order is the order in which things happened.
"""

import bisect
import os
import re
from dataclasses import dataclass, field

# Whatever can change a file, a directory or a socket. A call of these on the data directory that `Parser` does not know
# is an error, not a gap.
CALLS = (
    "open,openat,openat2,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,"
    "symlinkat,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,sendfile,splice,copy_file_range,fallocate,"
    "ftruncate,truncate,fsync,fdatasync,sync,syncfs,sync_file_range,msync,mmap,io_uring_setup"
)


class TraceError(Exception):
    """The trace shows something that the model of the disk does not know."""


@dataclass(slots=True)
class Write:
    """Bytes on their way into a file."""

    path: str
    offset: int
    data: bytes
    done: int | None = None  # number of events at its exit


@dataclass(slots=True)
class Truncate:
    path: str
    size: int
    done: int | None = None


@dataclass(slots=True)
class Create:
    """A name, of a new file or directory."""

    path: str
    directory: bool = False
    done: int | None = None


@dataclass(slots=True)
class Remove:
    path: str
    done: int | None = None


@dataclass(slots=True)
class Sync:
    """The program has asked for it."""

    path: str


@dataclass(slots=True)
class Synced:
    """And was told that it is done."""

    path: str
    asked: int  # number of events before it asked


@dataclass(slots=True)
class Unsynced:
    """Or that it failed."""

    path: str
    asked: int


@dataclass(slots=True)
class Sent:
    """Bytes on their way to a client."""

    connection: str
    data: bytes


@dataclass(slots=True)
class Answer:
    """What a client could know from the event `at` on."""

    at: int
    status: int
    job: str
    state: str | None


@dataclass
class Trace:
    events: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    calls: dict = field(default_factory=dict)
    ends: list = field(default_factory=list)  # number of events at the end of each run


LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)", re.S)
RETURN = re.compile(r"(.*)\) += (-?\d+|\?)(.*)", re.S)
DESCRIPTOR = re.compile(r'(\d+)<((?:\\x..)*)>(?:\(deleted\))?')
STRING = re.compile(r'"((?:\\x..)*)"(\.\.\.)?')
BUFFER = re.compile(r'iov_base="((?:\\x..)*)"(\.\.\.)?')


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


def hexed(text):
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


class Parser:
    """Turns the lines of one or more runs into one list of events."""

    def __init__(self, root):
        self.root = root  # everything outside of it is none of ours
        self.trace = Trace()
        self.existing = set()
        self.doubtful = []  # numbers of changes that a SIGKILL came into
        self.run = 0

    def read(self, file, after):
        """Adds one run of the program; `after` holds what the files were when it had ended, as the kernel saw them."""
        self.run += 1
        begun = {}  # thread: call under way
        killed_in = last_lines_of_the_killed(file)
        marks = (hexed(self.root), hexed("socket:["))
        with open(file, encoding="ascii") as lines:
            for number, line in enumerate(lines):
                pid, resumed, rest = LINE.match(line.rstrip("\n")).groups()
                if resumed:
                    arguments, finish = begun.pop(pid, ("", None))
                    returned = RETURN.match(rest)
                    if finish and returned:
                        finish(arguments + returned[1], "?" if number in killed_in else returned[2], returned[3])
                    continue
                name, _, rest = rest.partition("(")
                if name == "io_uring_setup":
                    raise TraceError("the program uses io_uring, which strace can't see into")
                if not any(mark in rest for mark in marks):
                    continue
                unfinished = rest.endswith("<unfinished ...>")
                if unfinished:
                    arguments, returned = rest.removesuffix("<unfinished ...>").rstrip(), None
                else:
                    returned = RETURN.match(rest)
                    if not returned:
                        continue
                    arguments = returned[1]
                finish = self.enter(name, arguments)
                if unfinished:
                    begun[pid] = (arguments, finish)
                elif finish:
                    finish(arguments, "?" if number in killed_in else returned[2], returned[3])
        for arguments, finish in begun.values():
            if finish:
                finish(arguments, "?", "")
        self.resolve(after)
        self.trace.ends.append(len(self.trace.events))

    def resolve(self, after):
        """Changes that never returned: strace can't say what became of them, but the files can."""
        for number in self.doubtful:
            event = self.trace.events[number]
            event.done = len(self.trace.events)
            file = after + event.path.removeprefix(self.root)
            match event:
                case Write():
                    event.data = common(event.data, bytes_at(file, event.offset, len(event.data)))
                    happened = bool(event.data)
                case Truncate():
                    happened = os.path.getsize(file) == event.size
                case _:
                    happened = os.path.exists(file) == isinstance(event, Create)
            if not happened:
                self.trace.events[number] = None
                if isinstance(event, Create):
                    self.existing.discard(event.path)
                if isinstance(event, Remove):
                    self.existing.add(event.path)
        self.doubtful.clear()

    # --- at entry ---

    def enter(self, name, arguments):
        """Notes a call's beginning; what it gives back is called at its exit."""
        descriptor = DESCRIPTOR.match(arguments)
        target = unhex(descriptor[2]).decode() if descriptor else ""
        if target.startswith("socket:["):
            return self.send(name, target, arguments)
        if name in ("openat", "open", "creat", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"):
            return self.change_name(name, arguments)
        if name == "mmap":
            return self.map(arguments)
        if not self.is_ours(target):
            if name.startswith(("rename", "link", "symlink")) and hexed(self.root) in arguments:
                raise TraceError(f"the model knows no {name}: {self.names(arguments)}")
            return None
        self.count(name, target)
        if name in ("pwrite64", "write"):
            return self.write(name, target, arguments)
        if name == "ftruncate":
            return self.note(Truncate(target, int(arguments.rsplit(", ", 1)[1])))
        if name in ("fsync", "fdatasync"):
            asked = len(self.trace.events)
            self.trace.events.append(Sync(target))

            def finish(_, result, __):
                if result == "0":
                    self.trace.events.append(Synced(target, asked))
                elif result.startswith("-"):
                    self.trace.events.append(Unsynced(target, asked))

            return finish
        raise TraceError(f"the model knows no {name} of {target}")

    def is_ours(self, path):
        # What SQLite's processes share in memory is made anew at each start: the -shm file needs no disk.
        return (path == self.root or path.startswith(self.root + "/")) and not path.endswith("-shm")

    def count(self, name, path):
        key = (name, os.path.basename(path))
        self.trace.calls[key] = self.trace.calls.get(key, 0) + 1

    def note(self, event):
        position = len(self.trace.events)
        self.trace.events.append(event)

        def finish(_, result, __):
            if result == "?":
                self.doubtful.append(position)
            elif result.startswith("-"):
                self.trace.events[position] = None  # it did nothing
            else:
                event.done = len(self.trace.events)

        return finish

    def write(self, name, path, arguments):
        if name == "write":
            raise TraceError(f"a write without an offset to {path}: the model does not follow file positions")
        string = STRING.search(arguments, arguments.index(">"))
        if string[2]:
            raise TraceError("strace cut a buffer short: raise its -s")
        event = Write(path, int(arguments.rsplit(", ", 1)[1]), unhex(string[1]))
        inner = self.note(event)

        def finish(arguments, result, rest):
            inner(arguments, result, rest)
            if result.isdigit():
                event.data = event.data[: int(result)]

        return finish

    def names(self, arguments):
        return [unhex(found[1]).decode() for found in STRING.finditer(arguments)]

    def change_name(self, name, arguments):
        given = self.names(arguments)[0]
        base = re.match(r"AT_FDCWD<((?:\\x..)*)>", arguments) or DESCRIPTOR.match(arguments)
        if not given.startswith("/") and base:
            given = os.path.join(unhex(base.groups()[-1]).decode(), given)
        path = os.path.normpath(given)
        if not self.is_ours(path):
            return None
        if name.startswith("mkdir"):
            self.count(name, path)
            return self.created(Create(path, directory=True))
        if name in ("unlink", "unlinkat", "rmdir"):
            self.count(name, path)
            self.existing.discard(path)
            return self.note(Remove(path))
        flags = arguments.rpartition('", ')[2]
        if "O_TMPFILE" in flags or ("O_TRUNC" in flags and "O_RDONLY" not in flags):
            raise TraceError(f"the model knows no {flags} of {path}")
        if "O_CREAT" in flags and path not in self.existing:
            self.count(f"{name} O_CREAT", path)
            return self.created(Create(path))
        return None

    def created(self, event):
        inner = self.note(event)

        def finish(arguments, result, rest):
            inner(arguments, result, rest)
            if not result.startswith("-"):
                self.existing.add(event.path)

        return finish

    def map(self, arguments):
        found = DESCRIPTOR.search(arguments)
        path = unhex(found[2]).decode() if found else ""
        if self.is_ours(path) and "PROT_WRITE" in arguments and "MAP_SHARED" in arguments:
            raise TraceError(f"{path} is written through memory, which strace can't see")

    def send(self, name, socket, arguments):
        if name not in ("write", "writev", "sendto", "sendmsg"):
            raise TraceError(f"the model knows no {name} to a socket")
        if name in ("writev", "sendmsg"):
            found = list(BUFFER.finditer(arguments))
        else:
            found = [STRING.search(arguments)]
        if any(buffer[2] for buffer in found):
            raise TraceError("strace cut a buffer short: raise its -s")
        event = Sent(f"{self.run}:{socket}", b"".join(unhex(buffer[1]) for buffer in found))
        self.trace.events.append(event)

        def finish(_, result, __):
            # Where a SIGKILL came into it, the client may have it all.
            if result != "?":
                event.data = event.data[: max(int(result), 0)]

        return finish

    # --- at the end ---

    def finish(self):
        """The events, and what clients could know when."""
        streams = {}
        for at, event in enumerate(self.trace.events):
            if isinstance(event, Sent) and event.data:
                streams.setdefault(event.connection, []).append((at, event.data))
        for pieces in streams.values():
            self.trace.answers.extend(answers(pieces))
        self.trace.answers.sort(key=lambda answer: answer.at)
        return self.trace


def last_lines_of_the_killed(file):
    """What strace says of a call that a SIGKILL came into can be the result of the call before."""
    last, found = {}, set()
    with open(file, encoding="ascii") as lines:
        for number, line in enumerate(lines):
            pid, _, rest = line.partition(" ")
            if rest.lstrip().startswith("+++ killed"):
                found.add(last.get(pid))
            else:
                last[pid] = number
    return found


def bytes_at(file, offset, length):
    if not os.path.exists(file):
        return b""
    with open(file, "rb") as opened:
        opened.seek(offset)
        return opened.read(length)


def common(one, other):
    return os.path.commonprefix([one, other])


HEAD = re.compile(rb"HTTP/1\.1 (\d+)[^\r]*\r\n(.*?)\r\n\r\n", re.S)
LENGTH = re.compile(rb"^content-length: *(\d+)\r?$", re.I | re.M)
ID = re.compile(rb'"id":"([0-9a-f-]{36})"')
STATE = re.compile(rb'"state":"(\w+)"')


def answers(pieces):
    """The answers about jobs on one connection, each at the event that carried its first byte."""
    stream, starts, position = b"".join(data for _, data in pieces), [], 0
    for _, data in pieces:
        starts.append(position)
        position += len(data)
    position = 0
    while head := HEAD.match(stream, position):
        length = LENGTH.search(head[2])
        end = head.end() + (int(length[1]) if length else 0)
        body = stream[head.end() : end]
        at = pieces[bisect.bisect_right(starts, position) - 1][0]
        status, job, state = int(head[1]), ID.search(body), STATE.search(body)
        if status in (200, 202) and job:
            yield Answer(at, status, job[1].decode(), state[1].decode() if state else None)
        position = end
