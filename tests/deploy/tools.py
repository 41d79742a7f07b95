"""What the checks are made of: counting them, running Helm and kubectl, reading and validating objects."""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

TOOLS = Path(sys.argv[1]).resolve()
HELMS = ["helm-3", "helm-4"]
CHART = Path("helm/lameduck")
OLDEST = 29
# From the oldest that the chart promises to the newest that there is a schema of.
KUBERNETES = [f"1.{minor}" for minor in range(OLDEST, 100) if f"1.{minor}.0" in kubernetes_validate.utils.all_versions()]

# Neither a kubeconfig nor plugins of whoever runs this may change the outcome.
SCRATCH = Path(tempfile.mkdtemp())
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": str(SCRATCH)}

passed = failed = 0
missed = []


def check(name, function, *arguments):
    global passed, failed
    try:
        function(*arguments)
    except Exception as error:
        failed += 1
        print(f"FAIL  {name}")
        print("\n".join(f"        {line}" for line in f"{type(error).__name__}: {error}".splitlines()))
    else:
        passed += 1
        print(f"ok    {name}")


def miss(name, why):
    """A check that could not be done. Said again at the very end."""
    missed.append(f"NOT CHECKED: {name}: {why}")
    print(missed[-1])


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}\nexpected: {expected}\nfound:    {found}")


class NoDuplicates(yaml.SafeLoader):
    """YAML readers disagree on a key that is there twice: some take the last, some refuse it."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise AssertionError(f"keys that are there twice: {twice}")
        return super().construct_mapping(node, deep)


def objects(text):
    return [document for document in yaml.load_all(text, NoDuplicates) if document]


def run(tool, *arguments, **variables):
    return subprocess.run([TOOLS / tool, *arguments], env=ENVIRONMENT | variables, text=True, capture_output=True)


def output(tool, *arguments, **variables):
    done = run(tool, *arguments, **variables)
    if done.returncode:
        raise AssertionError(f"{tool}: {done.stderr.strip()}")
    return done.stdout


def values_file(values):
    with tempfile.NamedTemporaryFile("w", dir=SCRATCH, suffix=".json", delete=False) as file:
        # Raw characters: the escape of one beyond 16 bits is two escapes in JSON, and an error in YAML. But YAML takes no control
        # characters, and some others for the end of a line.
        text = json.dumps(values, ensure_ascii=False)
        file.write(re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", text))
    return f"--values={file.name}"


def render(helm, values, release="lameduck", chart=CHART, *options):
    return objects(output(helm, "template", release, str(chart), values_file(values), *options))


def refuses(helm, values, words, chart=CHART, *options):
    done = run(helm, "template", "lameduck", str(chart), values_file(values), *options)
    equal(done.returncode != 0, True, "it was accepted")
    # Where in the values: handler.exec with Helm 3, /handler/exec with Helm 4. Helm 4 indents.
    said = re.sub(r"\s+", " ", done.stderr)
    if not any(re.search(words, text) for text in (said, said.replace("/", "."))):
        raise AssertionError(f"no word of {words}\nin {done.stderr}")


def select(rendered, kind, name=None):
    found = [o for o in rendered if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} objects {kind} {name or ''}, expected 1")
    return found[0]


def workload(rendered):
    found = [o for o in rendered if o["kind"] in ("StatefulSet", "Deployment")]
    equal(len(found), 1, "workloads")
    return found[0]


def without_hooks(rendered):
    return [o for o in rendered if "helm.sh/hook" not in o["metadata"].get("annotations", {})]


# A thousand validations would read the same files of a megabyte each time.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
kubernetes_validate.utils.all_versions = functools.cache(kubernetes_validate.utils.all_versions)


@functools.cache
def crd(kind):
    return jsonschema.Draft202012Validator(json.loads((TOOLS / "crds" / f"{kind}.json").read_text()))


def valid(rendered, version):
    """By the schemas of that Kubernetes, where nothing unknown is let through."""
    for o in rendered:
        name = f"{o['kind']} {o['metadata']['name']}"
        if o["apiVersion"] in ("monitoring.coreos.com/v1", "keda.sh/v1alpha1"):
            error = jsonschema.exceptions.best_match(crd(o["kind"]).iter_errors(o))
            if error:
                raise AssertionError(f"{name}: {error.json_path}: {error.message}")
            continue
        try:
            # It falls back to an older schema in silence where it has none.
            equal(kubernetes_validate.validate(o, version, strict=True), version, "version of the schema")
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            raise AssertionError(f"{name}: {path}: {error.message}") from None
