"""Makes JSON schemas of the custom resources that the chart renders, out of Python models of their CRDs.

    python3 crds.py target wheel…

The wheels hold generated pydantic models, a class a type, made of the CRDs of the release that the wheel's version names. Only
their fields are read; the packages that the models come with, and the newer Python that they ask for, are not needed.
"""

import ast
import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pydantic

# module of a wheel: kinds
WANTED = {
    "cloudcoil/models/keda/v1alpha1.py": ["ScaledObject"],
    "cloudcoil/models/prometheus_operator/v1.py": ["PodMonitor", "PrometheusRule", "ServiceMonitor"],
}


def models(source, name):
    """The module, with nothing but its classes and of them nothing but their fields."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body
                 if isinstance(node, ast.ClassDef)
                 or isinstance(node, ast.ImportFrom) and not node.module.startswith("cloudcoil")]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [line for line in node.body if isinstance(line, (ast.AnnAssign, ast.Assign))] or [ast.Pass()]
    module = types.ModuleType(name)
    sys.modules[name] = module
    # Metadata is Kubernetes' own, which refuses what it does not know by itself.
    module.__dict__.update(BaseModel=pydantic.BaseModel, Resource=pydantic.BaseModel, UNSET=None, ObjectMeta=dict[str, Any])
    exec(compile(tree, name, "exec"), module.__dict__)
    return module


def strict(node):
    """Nothing unknown, and no null: the API server drops the one, and the other, in silence."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(value) for key, value in node.items()}
    if "anyOf" in node:
        node["anyOf"] = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        node["additionalProperties"] = False
    return node


def main():
    target = Path(sys.argv[1])
    target.mkdir()
    found = []
    for wheel in map(zipfile.ZipFile, sys.argv[2:]):
        for path, kinds in WANTED.items():
            if path not in wheel.namelist():
                continue
            module = models(wheel.read(path), path)
            for kind in kinds:
                schema = strict(getattr(module, kind).model_json_schema(by_alias=True))
                (target / f"{kind}.json").write_text(json.dumps(schema, indent=1))
                found.append(kind)
    expected = sorted(kind for kinds in WANTED.values() for kind in kinds)
    if sorted(found) != expected:
        sys.exit(f"expected models of {expected}, found {sorted(found)}")


main()
