{{/*
Where the queue is, how many pods there are, and how they are replaced.
*/}}

{{- define "lameduck.validateStorage" -}}
{{- $database := eq (include "lameduck.database" .) "true" -}}
{{- if and .Values.database.existingSecret .Values.database.url -}}
{{- fail "\n\ndatabase.existingSecret and database.url are both set. Take one out." -}}
{{- end -}}
{{- if not $database -}}
{{- range $key := list "connections" "lease" "statementTimeout" -}}
{{- if not (kindIs "invalid" (index $.Values.database $key)) -}}
{{- fail (printf "\n\ndatabase.%s says nothing without a database. Set database.existingSecret to a Secret with its URL, or take it out." $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and (hasKey .Values "replicaCount") $database -}}
{{- fail "\n\nreplicaCount is called replicas here." -}}
{{- end -}}
{{- range $key := list "replicas" "replicaCount" -}}
{{- $replicas := index $.Values $key -}}
{{- if and (not $database) (not (kindIs "invalid" $replicas)) (ne (toString $replicas) "1") -}}
{{- fail (printf "\n\n%s=%v is not possible: the embedded database belongs to exactly one process; a second replica would have jobs of its own that nobody else sees. Set database.existingSecret to a Secret with the URL of a PostgreSQL database, which any number of replicas share; or leave %s out and raise `workers` to run more jobs at a time." $key $replicas $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Whether an upgrade would leave jobs behind. Asks the cluster, so only one template includes it; where no cluster is asked
(helm template) nobody can say what there was.
*/}}
{{- define "lameduck.validateStorageChange" -}}
{{- $database := eq (include "lameduck.database" .) "true" -}}
{{- if and .Release.IsUpgrade (not .Values.acceptStorageChange) -}}
{{- $name := include "lameduck.fullname" . -}}
{{- if and $database (lookup "apps/v1" "StatefulSet" .Release.Namespace $name) -}}
{{- fail (printf "\n\nThis release has its queue on the volume data-%s-0, and these values move it to a database. The jobs do not move: those that wait on the volume would not run until the StatefulSet is back. Install a second release with the database, send new jobs there, and uninstall this one when its queues are empty; or accept it with acceptStorageChange=true." $name) -}}
{{- else if and (not $database) (lookup "apps/v1" "Deployment" .Release.Namespace $name) -}}
{{- fail "\n\nThis release has its queue in a database, and these values move it to a volume. The jobs do not move: those that wait in the database would not run. Set database.existingSecret or database.url as before, or accept it with acceptStorageChange=true." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "lameduck.validateScaling" -}}
{{- $database := eq (include "lameduck.database" .) "true" -}}
{{- $v := .Values -}}
{{- if and $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "\n\nautoscaling.enabled and keda.enabled are both set, and two autoscalers would undo each other's work. Take one out." -}}
{{- end -}}
{{- range $key := list "autoscaling" "keda" -}}
{{- $scaler := index $v $key -}}
{{- if $scaler.enabled -}}
{{- if not $database -}}
{{- fail (printf "\n\n%s.enabled needs a database: the embedded queue has exactly one replica. Set database.existingSecret to a Secret with the URL of a PostgreSQL database." $key) -}}
{{- end -}}
{{- if not (kindIs "invalid" $v.replicas) -}}
{{- fail (printf "\n\nreplicas=%v says nothing while %s decides how many there are. Take it out, and set %s.minReplicas." $v.replicas $key $key) -}}
{{- end -}}
{{- if gt (int $scaler.minReplicas) (int $scaler.maxReplicas) -}}
{{- fail (printf "\n\n%s.minReplicas=%v is more than %s.maxReplicas=%v." $key $scaler.minReplicas $key $scaler.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.metrics) (kindIs "invalid" $v.autoscaling.targetCPUUtilizationPercentage) -}}
{{- fail "\n\nautoscaling has nothing to go by. Set autoscaling.targetCPUUtilizationPercentage or autoscaling.metrics." -}}
{{- end -}}
{{- if and $v.autoscaling.enabled $v.autoscaling.targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- fail "\n\nautoscaling.targetCPUUtilizationPercentage is a share of what is asked for, and nothing is. Set resources.requests.cpu." -}}
{{- end -}}
{{- if $v.keda.enabled -}}
{{- if not $v.keda.prometheusAddress -}}
{{- fail "\n\nkeda.enabled needs a Prometheus that scrapes the pods. Set keda.prometheusAddress, for example to http://prometheus.monitoring.svc:9090." -}}
{{- end -}}
{{- if not (or $v.keda.workersNeeded $v.keda.oldestAgeSeconds) -}}
{{- fail "\n\nkeda has nothing to go by. Set keda.workersNeeded=true or keda.oldestAgeSeconds." -}}
{{- end -}}
{{- end -}}

{{- if $database -}}
{{- $none := list "0" "0%" -}}
{{- if and (has (toString $v.rollout.maxSurge) $none) (has (toString $v.rollout.maxUnavailable) $none) -}}
{{- fail "\n\nrollout.maxSurge and rollout.maxUnavailable are both 0, and no pod could ever be replaced. Set rollout.maxSurge=1." -}}
{{- end -}}
{{- if not (kindIs "invalid" $v.rollout.progressDeadlineSeconds) -}}
{{- $startup := include "lameduck.startup" . | int64 -}}
{{- $grace := include "lameduck.grace" . | int64 -}}
{{- $least := add (max $grace $startup) $v.rollout.minReadySeconds -}}
{{- if le (int64 $v.rollout.progressDeadlineSeconds) $least -}}
{{- fail (printf "\n\nrollout.progressDeadlineSeconds=%v would report a rollout as failed that is only slow: a pod may take %d s to start (probes.startup: periodSeconds %v × failureThreshold %v), or wait %d s for the room of one that drains (its grace period), and then %v s until it counts (rollout.minReadySeconds). Set it above %d, or leave it out." $v.rollout.progressDeadlineSeconds (int $startup) $v.probes.startup.periodSeconds $v.probes.startup.failureThreshold (int $grace) $v.rollout.minReadySeconds (int $least)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and $v.podMonitor.enabled $v.serviceMonitor.enabled -}}
{{- fail "\n\npodMonitor.enabled and serviceMonitor.enabled are both set: Prometheus would have every series twice. Take one out." -}}
{{- end -}}
{{- if and $v.preStopSleepSeconds (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "\n\npreStopSleepSeconds needs Kubernetes 1.30, and this is %s. Set it to 0: the program needs no hook." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
