"""Has the real program asked by tools that read its OpenAPI document."""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import jsonschema
import openapi_spec_validator

from service import Endpoint, Postgres, Program

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# The quick run is to find the same whenever nothing has changed.
SEED = 20261129

CONFIG = """
generate_all_tags: false
project_name_override: lameduck-client
package_name_override: lameduck_client
post_hooks: []
"""


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tools", type=pathlib.Path)
    arguments.add_argument("--long", action="store_true")
    arguments.add_argument("--seed", type=int)
    given = arguments.parse_args()
    tools = given.tools.resolve()
    seed = given.seed or (random.randrange(1 << 32) if given.long else SEED)
    with contextlib.ExitStack() as stack:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(Endpoint())
        binary = os.environ.get("LAMEDUCK_BIN", ROOT / "target/debug/lameduck")
        engines = {"sqlite": ["--data", str(place / "data")]}
        if given.long:
            engines["postgres"] = ["--database", stack.enter_context(Postgres())]
        document = None
        for engine, storage in engines.items():
            with Program(binary, [*storage, "--http", endpoint.jobs]) as base:
                if document is None:
                    document = validated(base, place)
                    clients = made(tools, document, place)
                for client in clients:
                    step(f"{engine}: {client[0]}", client[1:] + [base, endpoint.claims], CLAIMS=endpoint.claims)
                schemathesis(tools, engine, base, seed, given.long)
    print("The API does as its document says.")


def validated(base, place):
    """The served document, which is valid, satisfied by its own examples and the one of the docs; its file."""
    with urllib.request.urlopen(f"{base}/v1/openapi.json") as answer:
        served = answer.read()
    document = json.loads(served)
    openapi_spec_validator.validate(document)
    examples = list(examples_of(document))
    assert examples, "the document has no examples"
    for schema, example in examples:
        # References lead into the whole document.
        schema = {**schema, "components": document["components"]}
        jsonschema.validate(example, schema, format_checker=jsonschema.FormatChecker())
    if served != (ROOT / "docs/openapi.json").read_bytes():
        sys.exit("the served document is not docs/openapi.json: is the program older than the sources?")
    file = place / "openapi.json"
    file.write_bytes(served)
    return file


def examples_of(part):
    """Every example in this part of the document, with the schema that it has to satisfy."""
    if isinstance(part, list):
        for item in part:
            yield from examples_of(item)
    if isinstance(part, dict):
        schema = part.get("schema", part)
        examples = part.get("examples", [])
        # A list in a schema; in parameters and bodies each has a name.
        if isinstance(examples, dict):
            examples = [example["value"] for example in examples.values() if "value" in example]
        for name in ["example", "default"]:
            if name in part:
                examples = [*examples, part[name]]
        yield from ((schema, example) for example in examples)
        for value in part.values():
            yield from examples_of(value)


def made(tools, document, place):
    """Clients made of the document: the name of each, and how it is run."""
    bin = tools / "venv/bin"
    config = place / "config.yaml"
    config.write_text(CONFIG)
    package = place / "python"
    said = step(
        "openapi-python-client",
        [bin / "openapi-python-client", "generate", "--path", document, "--output-path", package, "--config", config],
    )
    # It only warns of what it can't generate.
    unsaid = [line for line in said.splitlines() if "x-ndjson" not in line and "text/event-stream" not in line]
    for name in ["submit_job", "submit_batch", "show_job", "show_result"]:
        assert (package / f"lameduck_client/api/jobs/{name}.py").exists(), f"no {name}:\n" + "\n".join(unsaid)
    typescript = tools / "typescript"
    sources = place / "typescript"
    sources.mkdir()
    for name in ["client.ts", "tsconfig.json", "package.json"]:
        shutil.copy(HERE / "typescript" / name, sources)
    (sources / "node_modules").symlink_to(typescript / "node_modules")
    node = bin / "node"
    modules = typescript / "node_modules"
    step("openapi-typescript", [node, modules / "openapi-typescript/bin/cli.js", document, "-o", sources / "lameduck.ts"])
    step("tsc --strict", [node, modules / "typescript/bin/tsc", "--project", sources])
    python = ["env", f"PYTHONPATH={package}", sys.executable, HERE / "client.py"]
    return [["the Python client", *python], ["the TypeScript client", node, sources / "out/client.js"]]


def schemathesis(tools, engine, base, seed, long):
    """All its checks; in the quick run with a fixed seed and few examples."""
    command = [tools / "venv/bin/schemathesis", "run", f"{base}/v1/openapi.json", "--checks", "all", "--seed", str(seed)]
    command += ["--no-color", "--request-timeout", "70", "--continue-on-failure"]
    command += ["--max-examples", "200" if long else "10"]
    if not long:
        command += ["--phases", "examples,coverage,fuzzing", "--generation-deterministic"]
    step(f"{engine}: Schemathesis (seed {seed})", command, SCHEMATHESIS_HOOKS="hooks", PYTHONPATH=str(HERE))


def step(name, command, **environment):
    """Runs it; what it says is only shown where it fails."""
    print(f"{name} …", flush=True)
    environment = {**os.environ, **environment}
    command = [str(part) for part in command]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{name} failed: {' '.join(command)}")
    return done.stdout


main()
