"""A namespace's worth of Kubernetes on one machine: python3 tests/e2e/double PROGRAM KUBECONFIG DIRECTORY [FAULT…]

Real kubectl and Helm speak to it, its pods are real processes of PROGRAM. It writes KUBECONFIG when it is ready, and ends, with
all that it started, when its standard input does.

Faults: lost-request, exit-137, no-event, routes-on, cut-message, killed.
"""

import json
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from api import Api  # noqa: E402
from controllers import Cluster  # noqa: E402
from kubelet import Kubelet  # noqa: E402
from network import Network, free_prefix  # noqa: E402
from store import Store  # noqa: E402

program, kubeconfig, directory, *faults = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
store = Store()
network = Network(store, free_prefix(), faults)
cluster = Cluster(store, network, faults)
directory = Path(directory).resolve()
api = Api(store, cluster, directory, faults)
cluster.kubelet = Kubelet(store, network, directory, Path(program).resolve(), api.port, faults)
store.create("storageclasses", None, {"metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "double"})

Path(kubeconfig).write_text(json.dumps({
    "apiVersion": "v1", "kind": "Config", "current-context": "double", "clusters": [{"name": "double", "cluster": {"server": f"https://127.0.0.1:{api.port}", "certificate-authority": str(directory / "ca.crt")}}],
    "users": [{"name": "double", "user": {"token": "double"}}], "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}]}))
try:
    sys.stdin.read()
finally:
    cluster.kubelet.close()
