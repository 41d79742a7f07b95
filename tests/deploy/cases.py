"""Values that the chart has to take, and values that it has to refuse."""

DEMO = {"handler": {"demo": True}}
DATABASE = DEMO | {"database": {"existingSecret": "lameduck-database"}}
AWKWARD = ["python3", "-c", 'print("a\\b")', "tab\t", "new\nline", "${HOME} <&> 'é' 🦆", ""]
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}

# Whatever a pod can have, with either storage.
POD = {
    "image": {
        "repository": "registry.example:5000/team/resize",
        "digest": "sha256:" + "0123456789abcdef" * 4,
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "registry"}],
    },
    "serviceAccount": {"name": "resize", "annotations": {"example.com/role": "resize"}},
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    "probes": {"readiness": {"periodSeconds": 2}},
    "deletionCost": True,
    "commonLabels": {"team": "images", "app.kubernetes.io/instance": "other"},
    "commonAnnotations": {"example.com/owner": "images"},
    "workloadAnnotations": {"example.com/reload": "true"},
    "podAnnotations": {"example.com/a": "b"},
    # An attempt to take the pod out of its own Services, as is done by accident.
    "podLabels": {"tier": "batch", "app.kubernetes.io/name": "other"},
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}},
    "priorityClassName": "high",
    "runtimeClassName": "gvisor",
    "schedulerName": "binpack",
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["mailer.example"]}],
    "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["10.0.0.10"]},
    "extraEnv": [
        {"name": "RUST_LOG", "value": "debug"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "resize", "key": "token"}}},
    ],
    "extraEnvFrom": [{"configMapRef": {"name": "resize"}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
    "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always",
                        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}}],
    "extraContainers": [{"name": "helper", "image": "helper:1",
                         "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                             "capabilities": {"drop": ["ALL"]}}}],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-map"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}",
    ],
    "networkPolicy": {"enabled": True, "apiFrom": [PEER], "metricsFrom": [PEER], "egress": [{"to": [PEER]}]},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True, "labels": {"folder": "jobs"}, "annotations": {"grafana_folder": "jobs"}},
}
EMBEDDED = POD | {
    "handler": {"exec": AWKWARD},
    "workers": 60,
    "terminationGracePeriodSeconds": 600,
    "persistence": {"size": "20Gi", "storageClassName": ""},
    "service": {"type": "LoadBalancer", "port": 80, "annotations": {"example.com/internal": "true"}, "nodePort": 30080,
                "loadBalancerClass": "example.com/lb", "loadBalancerSourceRanges": ["10.0.0.0/8"],
                "externalTrafficPolicy": "Cluster", "ipFamilyPolicy": "PreferDualStack"},
    "auth": {"tokens": ["first-token", "second-token"]},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"},
                   "relabelings": [{"targetLabel": "team", "replacement": "images"}],
                   "metricRelabelings": [{"action": "drop", "regex": "process_.*", "sourceLabels": ["__name__"]}]},
}
QUEUES = {
    "queues": {
        "resize": {"exec": ["python3", "/app/resize.py"], "timeout": "1h30m", "zero-after-stop-is-done": True},
        "mail": {"http": "http://mailer:8000/jobs", "http-secrets": "/run/lameduck/own/mailer", "workers": 40,
                 "max-attempts": 3, "backoff-first": "500ms", "backoff-max": "1h", "order": "run-at"},
    },
    "timeout": "90s",
    "config": {
        "max-attempts": 7, "max-body": "4MiB", "max-batch-body": 50_000_000, "retain-dead": "7d", "max-crashes": 0,
        "readiness": "after-removal", "final-scrape": True, "teardown": "20s", "quiet": "4s",
        "teardown-hook": [{"name": "mesh", "url": "http://127.0.0.1:15020/quitquitquit", "timeout": "2s"},
                          {"name": "scratch", "run": ["rm", "-r", "/tmp/\"resize\""]}],
    },
}

# name of the case: (release name, values)
CASES = {
    "demo": ("lameduck", DEMO),
    "everything set": ("lameduck", EMBEDDED),
    "own account and no RBAC": ("jobs", DEMO | {"serviceAccount": {"create": False}, "rbac": {"create": False}}),
    "longest release name": ("r" * 53, DEMO),
    "two queues and settings": ("lameduck", QUEUES),
    "database": ("lameduck", DATABASE),
    "database, everything set": ("shop", POD | {
        "handler": {"http": {"url": "https://resize.example/jobs", "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]}},
        "database": {"url": "postgres://jobs:p%40ss@db:5432/jobs?sslmode=verify-full", "connections": 6, "lease": "12s"},
        "replicas": 5,
        "rollout": {"maxSurge": 2, "maxUnavailable": "10%", "minReadySeconds": 0, "progressDeadlineSeconds": 3600,
                    "revisionHistoryLimit": 3},
        "config": {"lame-duck-share": 0.4},
        "service": {"type": "NodePort"},
        "auth": {"existingSecret": "api", "existingSecretKey": "api.tokens"},
        "tls": {"existingSecret": "api-tls", "certKey": "cert.pem", "keyKey": "key.pem"},
        "podDisruptionBudget": {"maxUnavailable": "25%"},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule",
                                       "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "lameduck"}}}],
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"},
                           "relabelings": [{"targetLabel": "team", "replacement": "images"}],
                           "metricRelabelings": [{"action": "drop", "regex": "process_.*", "sourceLabels": ["__name__"]}]},
        "commonLabels": {"team": "images"},
    }),
    "database, longest release name": ("r" * 53, DATABASE | {"dashboard": {"enabled": True}}),
    "database, scaled by CPU": ("lameduck", DATABASE | {"autoscaling": {
        "enabled": True, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
        "metrics": [{"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "30"}}}]}}),
    "database, scaled by KEDA": ("lameduck", QUEUES | {"database": {"existingSecret": "db", "existingSecretKey": "dsn"}, "keda": {
        "enabled": True, "prometheusAddress": "http://prometheus.monitoring.svc:9090", "authenticationRef": "prometheus",
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}}),
    "OpenShift": ("lameduck", DEMO | {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}),
}

# Needs the kubelet's own sleep, which Kubernetes 1.29 has not.
PRE_STOP = DEMO | {"preStopSleepSeconds": 5}

EXEC = {"handler": {"exec": ["a"]}}

# what is wrong: (values, what the answer has to say)
REFUSED = {
    "no handler": ({}, r"No handler.*handler\.exec.*handler\.demo=true"),
    "two handlers": ({"handler": {"demo": True, "exec": ["a"]}}, r"only one handler.*handler\.demo=false"),
    "two handlers, none of them the demo": (
        {"handler": {"exec": ["a"], "http": {"url": "http://b"}}}, r"handler\.exec and handler\.http\.url are both set.*queues"),
    "handler as a string": ({"handler": {"exec": "python3 a.py"}}, r"handler.exec.*array"),
    "a queue with two handlers": ({"queues": {"a": {"exec": "a", "http": "http://b"}}}, r"queues\.a has two handlers"),
    "a queue without a handler": ({"queues": {"a": {"workers": 3}}}, r"queues\.a has no handler.*handler\.exec"),
    "a handler that no queue takes": (DEMO | {"queues": {"a": {"exec": "a"}}}, r"handler\.demo says nothing: every queue"),
    "a queue with a name that is none": (DEMO | {"queues": {"A b": {}}}, r"A b"),
    "secrets for nobody": (DEMO | {"handler": {"demo": True, "http": {"existingSecret": "a"}}},
                           r"handler\.http\.existingSecret says nothing: no handler is an HTTP endpoint"),
    "secrets in two places": (
        {"handler": {"http": {"url": "http://b", "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "existingSecret": "s"}}},
        r"handler\.http\.secrets and handler\.http\.existingSecret are both set"),
    "three replicas": (DEMO | {"replicas": 3}, r"replicas=3 is not possible.*one process.*database\.existingSecret.*workers"),
    "no replica": (DEMO | {"replicas": 0}, r"replicas=0 is not possible"),
    "three replicas by the other name": (DEMO | {"replicaCount": 3}, r"replicaCount=3 is not possible.*workers"),
    "replicas by the other name, with a database": (DATABASE | {"replicaCount": 3}, r"replicaCount is called replicas"),
    "a database in two places": (
        DEMO | {"database": {"existingSecret": "a", "url": "postgres://b"}}, r"database\.existingSecret and database\.url are both set"),
    "settings of a database that is not there": (DEMO | {"database": {"lease": "9s"}}, r"database\.lease says nothing without"),
    "a database that is none": (DEMO | {"database": {"url": "mysql://a"}}, r"database.url.*pattern"),
    "an autoscaler of the embedded queue": (DEMO | {"autoscaling": {"enabled": True}}, r"autoscaling\.enabled needs a database"),
    "KEDA for the embedded queue": (DEMO | {"keda": {"enabled": True}}, r"keda\.enabled needs a database"),
    "two autoscalers": (DATABASE | {"keda": {"enabled": True}, "autoscaling": {"enabled": True}}, r"undo each other's work"),
    "replicas beside an autoscaler": (DATABASE | {"replicas": 3, "autoscaling": {"enabled": True}}, r"replicas=3 says nothing"),
    "bounds in the wrong order": (
        DATABASE | {"autoscaling": {"enabled": True, "minReplicas": 11}}, r"autoscaling\.minReplicas=11 is more than autoscaling\.maxReplicas=10"),
    "an autoscaler with nothing to go by": (
        DATABASE | {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}}, r"nothing to go by"),
    "a share of no CPU": (
        DATABASE | {"resources": {"requests": {"cpu": None}}, "autoscaling": {"enabled": True}}, r"Set resources\.requests\.cpu"),
    "KEDA without Prometheus": (DATABASE | {"keda": {"enabled": True}}, r"Set keda\.prometheusAddress"),
    "KEDA with nothing to go by": (
        DATABASE | {"keda": {"enabled": True, "prometheusAddress": "http://p", "workersNeeded": False, "oldestAgeSeconds": None}},
        r"keda has nothing to go by"),
    "no room for a rollout": (
        DATABASE | {"rollout": {"maxSurge": "0%"}}, r"no pod could ever be replaced.*maxSurge=1"),
    "a deadline for a rollout that a drain breaks": (
        DATABASE | {"terminationGracePeriodSeconds": 900, "rollout": {"progressDeadlineSeconds": 600}},
        r"progressDeadlineSeconds=600 .* wait 900 s .* 5 s until it counts .* above 905"),
    "two monitors": (DEMO | {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, r"every series twice"),
    "a budget that blocks node drains": (DEMO | {"podDisruptionBudget": {"maxUnavailable": 0}}, r"podDisruptionBudget.maxUnavailable"),
    "a budget of no share": (DEMO | {"podDisruptionBudget": {"maxUnavailable": "0%"}}, r"podDisruptionBudget.maxUnavailable"),
    "a public Service that is open to everybody by default": (
        DEMO | {"service": {"type": "LoadBalancer"}}, r"service\.type=LoadBalancer .* auth\.existingSecret=lameduck-tokens.*allowAnonymous=true"),
    "nobody may use the API": (DEMO | {"auth": {"allowAnonymous": False}}, r"nobody could use the API.*auth\.existingSecret"),
    "tokens, and everybody": (DEMO | {"auth": {"tokens": ["a"], "allowAnonymous": True}}, r"allowAnonymous=true says nothing"),
    "tokens in two places": (DEMO | {"auth": {"tokens": ["a"], "existingSecret": "b"}}, r"auth\.tokens and auth\.existingSecret are both set"),
    "a port on each node, of a Service inside the cluster": (
        DEMO | {"service": {"nodePort": 30080}}, r"service\.nodePort says nothing for service\.type=ClusterIP"),
    "sources of a balancer that is none": (
        DEMO | {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}, "auth": {"allowAnonymous": True}},
        r"service\.loadBalancerSourceRanges says nothing .* service\.type=LoadBalancer"),
    "a token with a space": (DEMO | {"auth": {"tokens": ["a b"]}}, r"auth.tokens.0.*pattern"),
    "too short a grace period": (DEMO | {"terminationGracePeriodSeconds": 4}, r"=4 is too short.*at least 5 s: 2 s .* 1 s .* 2 s"),
    "a hook that takes the grace period": (
        PRE_STOP | {"terminationGracePeriodSeconds": 9}, r"=9 is too short.*at least 10 s: 5 s of the preStop hook .* 2 s .* 1 s .* 2 s"),
    "grace period shorter than a slow probe": (
        DEMO | {"terminationGracePeriodSeconds": 30, "probes": {"readiness": {"periodSeconds": 10, "failureThreshold": 3}}},
        r"=30 is too short.*at least 33 s: 30 s .*periodSeconds 10 × failureThreshold 3"),
    "grace period with a unit": (DEMO | {"terminationGracePeriodSeconds": "30s"}, r"terminationGracePeriodSeconds.*integer"),
    "jobs that take longer than the grace period": (
        EXEC | {"terminationGracePeriodSeconds": 60, "timeout": "2m"},
        r"timeout=2m does not fit into terminationGracePeriodSeconds=60: .* after 50 s .*60 s, less at most 1 s margin, 5 s "
        r"stop-notice, 3 s teardown, 1 s reporting.* to 130 or more.*allowLongJobs=true"),
    "jobs of one queue that do": (
        {"terminationGracePeriodSeconds": 60, "queues": {"a": {"exec": "a", "timeout": "20s"}, "b": {"exec": "b", "timeout": "50s1ms"}}},
        r"queues\.b\.timeout=50s1ms .* after 50 s .* to 61 or more"),
    "a hook that leaves no time for jobs": (
        EXEC | {"preStopSleepSeconds": 15, "terminationGracePeriodSeconds": 60, "timeout": "50s"},
        r"after 35 s .*45 s left by preStopSleepSeconds=15.* to 75 or more"),
    "a lame duck too short for the end of routing": (
        DEMO | {"terminationGracePeriodSeconds": 30, "config": {"lame-duck-share": 0.1}},
        r"settle \+ quiet = 1 s \+ 2 s = 3 s do not fit into the 1\.933 s .* 2\.9 s that idle connections have: lame-duck-share 0\.1 of 30 s"),
    "a lame duck too short where a container is restarted": (
        EXEC | {"timeout": "1h", "config": {"lame-duck-share": 0.1}},
        r"30 s at the most, and waits 1\.933 s .* 2 s until readiness has failed .* 1 s settle \+ 2 s quiet"),
    "a quiet period longer than there is": (
        DEMO | {"terminationGracePeriodSeconds": 30, "config": {"quiet": "9s"}}, r"1 s \+ 9 s = 10 s do not fit into the 9\.666 s"),
    "steps that take half of the grace period": (
        DEMO | {"terminationGracePeriodSeconds": 40, "config": {"teardown": "14s"}},
        r"= 14 s \+ 1 s \+ 5 s = 20 s is half of the grace period or more \(40 s\)"),
    "no workers": (DEMO | {"workers": 0}, r"workers.*1"),
    "a timeout without a unit": (DEMO | {"timeout": "90"}, r"timeout"),
    "a setting that is none": (DEMO | {"config": {"max-atempts": 3}}, r"max-atempts.* not allowed"),
    "tag as a number": (DEMO | {"image": {"tag": 1.0}}, r"image.tag.*string"),
    "digest without its algorithm": (DEMO | {"image": {"digest": "0123"}}, r"image.digest.*pattern"),
    "label that is not a string": (DEMO | {"podLabels": {"a": True}}, r"podLabels.a.*string"),
    "another access mode": (DEMO | {"persistence": {"accessModes": ["ReadWriteMany"]}}, r"accessModes.* not allowed"),
    "environment against a value": (DEMO | {"extraEnv": [{"name": "LAMEDUCK_GRACE", "value": "9s"}]},
                                    r"LAMEDUCK_GRACE.*terminationGracePeriodSeconds"),
    "environment against the database": (DATABASE | {"extraEnv": [{"name": "LAMEDUCK_DATABASE_FILE", "value": "/a"}]},
                                         r"LAMEDUCK_DATABASE_FILE.*database\.existingSecret"),
    "environment against config": (DEMO | {"config": {"settle": "1s"}, "extraEnv": [{"name": "LAMEDUCK_SETTLE", "value": "2s"}]},
                                   r"LAMEDUCK_SETTLE.*config\.settle"),
    "environment against tokens": (DEMO | {"auth": {"tokens": ["a"]}, "extraEnv": [{"name": "LAMEDUCK_ALLOW_ANONYMOUS", "value": "true"}]},
                                   r"LAMEDUCK_ALLOW_ANONYMOUS.*there are tokens"),
    "environment against the pod": (DEMO | {"extraEnv": [{"name": "POD_UID", "value": "1"}]}, r"extraEnv sets POD_UID"),
}
