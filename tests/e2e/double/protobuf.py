"""What Helm writes as protobuf: the Secrets that hold its releases. Answers are JSON, which every client takes.

Field numbers are those of k8s.io/api/core/v1/generated.proto and k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
"""

import base64

MAGIC = b"k8s\0"
TEXT, BYTES, NUMBER = "text", "bytes", "number"
OBJECT_META = {1: ("name", TEXT), 2: ("generateName", TEXT), 3: ("namespace", TEXT), 5: ("uid", TEXT), 6: ("resourceVersion", TEXT),
               11: ("labels", {"map": TEXT}), 12: ("annotations", {"map": TEXT})}
MESSAGES = {
    "Secret": {1: ("metadata", OBJECT_META), 2: ("data", {"map": BYTES}), 3: ("type", TEXT), 5: ("immutable", NUMBER)},
    "DeleteOptions": {1: ("gracePeriodSeconds", NUMBER), 4: ("propagationPolicy", TEXT)},
}


def decode(body):
    """The object as JSON would have it."""
    unknown = dict(fields(body[len(MAGIC):]))
    meta = dict(fields(unknown[1]))
    version, kind = meta[1].decode(), meta[2].decode()
    return {"apiVersion": version, "kind": kind} | message(unknown.get(2, b""), MESSAGES[kind])


def message(data, shape):
    found = {}
    for number, raw in fields(data):
        if number not in shape:
            continue
        name, kind = shape[number]
        if isinstance(kind, dict) and "map" in kind:
            pair = dict(fields(raw))
            found.setdefault(name, {})[pair[1].decode()] = scalar(pair.get(2, b""), kind["map"])
        elif isinstance(kind, dict):
            found[name] = message(raw, kind)
        else:
            value = scalar(raw, kind)
            # Go's encoder writes empty strings.
            if value != "":
                found[name] = value
    return found


def scalar(raw, kind):
    if kind == BYTES:
        return base64.b64encode(raw).decode()
    return raw.decode() if kind == TEXT else raw


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise ValueError(f"wire type {key & 7}")
        yield key >> 3, value


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not byte & 0x80:
            return value, at
