"""What is there beside the release: the load, and a PostgreSQL to throw away. All of it keeps the level `restricted`."""

from pathlib import Path

LABELS = {"app.kubernetes.io/part-of": "lameduck-e2e"}


def restricted(user):
    return {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"}}


def confined(**more):
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **more}


def load(image, url, *options):
    """The scripts come by a ConfigMap: any image with Python will do."""
    script = (Path(__file__).parent / "agent.py").read_text()
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "e2e-agent", "labels": LABELS}, "data": {"agent.py": script}},
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load", "labels": LABELS},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 5, "securityContext": restricted(65534),
                "containers": [{
                    "name": "load", "image": image,
                    "command": ["python3", "-u", "/e2e/agent.py", "load", url, *options],
                    "securityContext": confined(readOnlyRootFilesystem=True),
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                    "volumeMounts": [{"name": "agent", "mountPath": "/e2e", "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}],
                }],
                "volumes": [{"name": "agent", "configMap": {"name": "e2e-agent"}}, {"name": "tmp", "emptyDir": {}}],
            },
        },
    ]


def postgres(image, user, password):
    """One pod, and its data goes with it. `user` is who owns the directories in the image: 70 in those made of Alpine, 999 in Debian's."""
    labels = LABELS | {"app.kubernetes.io/name": "postgres"}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "postgres", "labels": LABELS}, "stringData": {"password": password}},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "postgres", "labels": LABELS},
            "spec": {"selector": labels, "ports": [{"name": "postgres", "port": 5432, "targetPort": 5432}]},
        },
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "postgres", "labels": labels},
            "spec": {
                "automountServiceAccountToken": False, "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 5, "securityContext": restricted(user),
                "containers": [{
                    "name": "postgres", "image": image,
                    "env": [
                        {"name": "POSTGRES_USER", "value": "lameduck"},
                        {"name": "POSTGRES_DB", "value": "jobs"},
                        {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "postgres", "key": "password"}}},
                        # A directory of its own in the volume: initdb sets the mode of the one that it is given, and the
                        # volume's own belongs to root.
                        {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
                    ],
                    "ports": [{"name": "postgres", "containerPort": 5432}],
                    # Over TCP: while the image sets itself up, its server answers on the socket alone.
                    "readinessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 1, "failureThreshold": 3},
                    "securityContext": confined(),
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
                }],
                "volumes": [{"name": "data", "emptyDir": {}}],
            },
        },
    ]


def secret(name, **values):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": LABELS}, "stringData": values}
