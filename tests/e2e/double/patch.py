"""Patches as an API server takes them: JSON, merge, strategic merge, and server-side apply with one manager an object."""

import copy

# The keys that lists of these fields are merged by (Kubernetes' patchMergeKey).
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath",
    "imagePullSecrets": "name", "topologySpreadConstraints": "topologyKey",
}


def merge_key(field, items):
    if field == "ports":
        return next((key for key in ("containerPort", "port") if all(key in item for item in items)), None)
    return MERGE_KEYS.get(field)


def json_patch(o, operations):
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place = o
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        last = int(last) if isinstance(place, list) and last != "-" else last
        if operation["op"] == "remove":
            del place[last]
        elif operation["op"] == "replace":
            place[last]  # has to be there
            place[last] = operation["value"]
        elif isinstance(place, list):
            place.insert(len(place) if last == "-" else last, operation["value"])
        else:
            place[last] = operation["value"]
    return o


def merge(o, patch):
    for key, value in patch.items():
        if value is None:
            o.pop(key, None)
        elif isinstance(value, dict) and isinstance(o.get(key), dict):
            merge(o[key], value)
        else:
            o[key] = copy.deepcopy(value)
    return o


def strategic(o, patch):
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            o.pop(key, None)
        elif isinstance(value, dict):
            o[key] = strategic(o[key], value) if isinstance(o.get(key), dict) else strategic({}, value)
        elif isinstance(value, list) and value and (by := merge_key(key, value)):
            o[key] = merged_list(o.get(key) or [], value, by)
        else:
            o[key] = copy.deepcopy(value)
    return o


def merged_list(items, patch, by):
    items = copy.deepcopy(items)
    for change in patch:
        found = next((item for item in items if item.get(by) == change[by]), None)
        if change.get("$patch") == "delete":
            items = [item for item in items if item is not found]
        elif found is None:
            items.append(strategic({}, change))
        else:
            strategic(found, change)
    return items


def apply(o, before, after):
    """What the manager applied before and does not apply any more goes; what it applies is set."""
    for key, value in before.items():
        if key not in after:
            if not (isinstance(value, dict) and isinstance(o.get(key), dict)):
                o.pop(key, None)
            else:
                apply(o[key], value, {})
    for key, value in after.items():
        if isinstance(value, dict):
            was = before.get(key) if isinstance(before.get(key), dict) else {}
            o[key] = apply(o[key] if isinstance(o.get(key), dict) else {}, was, value)
        else:
            o[key] = copy.deepcopy(value)
    return o
