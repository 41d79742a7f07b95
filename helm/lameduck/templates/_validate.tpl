{{/*
What no schema can say, since the answer has to hold the remedy. Every template begins with this, since nobody knows which
one Helm renders first.
*/}}
{{- define "lameduck.validate" -}}
{{- include "lameduck.validateOrigin" . -}}
{{- include "lameduck.validateHandlers" . -}}
{{- include "lameduck.validateOwned" . -}}
{{- include "lameduck.validateStorage" . -}}
{{- include "lameduck.validateScaling" . -}}
{{- include "lameduck.validateAccess" . -}}
{{- include "lameduck.validateTimes" . -}}
{{- include "lameduck.validateTimeouts" . -}}
{{- end -}}

{{- define "lameduck.validateOrigin" -}}
{{- if not (hasKey .Values "database") -}}
{{- fail "\n\nThese are the values of an older chart alone, without the defaults of this one: that is what `helm upgrade --reuse-values` does. Use --reset-then-reuse-values, or give your values file again." -}}
{{- end -}}
{{- end -}}

{{- define "lameduck.validateHandlers" -}}
{{- $handler := .Values.handler -}}
{{- $given := list -}}
{{- if $handler.exec -}}{{- $given = append $given "handler.exec" -}}{{- end -}}
{{- if $handler.http.url -}}{{- $given = append $given "handler.http.url" -}}{{- end -}}
{{- if $handler.demo -}}{{- $given = append $given "handler.demo" -}}{{- end -}}
{{- if gt (len $given) 1 -}}
{{- fail (printf "\n\n%s are both set, and only one handler can run the jobs. %s" (join " and " $given) (ternary "Set handler.demo=false to run your own." "Take one out, or give each to a queue of its own (queues)." $handler.demo)) -}}
{{- end -}}
{{- $needed := empty .Values.queues -}}
{{- range $name, $queue := .Values.queues -}}
{{- if and $queue.exec $queue.http -}}
{{- fail (printf "\n\nqueues.%s has two handlers, exec and http, and only one can run its jobs. Take one out." $name) -}}
{{- end -}}
{{- if not (or $queue.exec $queue.http) -}}
{{- $needed = true -}}
{{- if not $given -}}
{{- fail (printf "\n\nqueues.%s has no handler: its jobs would be taken in and never run. Give it exec or http, or set handler.exec or handler.http.url for all queues." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $needed (not $given) -}}
{{- fail "\n\nNo handler: nothing would run the jobs. Set handler.exec to a command of the image, for example\n  handler:\n    exec: [\"python3\", \"/app/resize.py\"]\nor handler.http.url to an endpoint, or try it out with --set handler.demo=true" -}}
{{- end -}}
{{- if and $given (not $needed) -}}
{{- fail (printf "\n\n%s says nothing: every queue has a handler of its own. Take it out, or give a queue none." (first $given)) -}}
{{- end -}}
{{- if and $handler.http.secrets $handler.http.existingSecret -}}
{{- fail "\n\nhandler.http.secrets and handler.http.existingSecret are both set. Take one out." -}}
{{- end -}}
{{- end -}}

{{/*
What the chart sets itself, and by which value.
*/}}
{{- define "lameduck.owned" -}}
admin: "nothing: probes and metrics are on port 9090"
allow-anonymous: auth.allowAnonymous
data: "nothing: the volume is mounted where the chart says"
database: database.existingSecret or database.url
database-connections: database.connections
database-file: database.existingSecret or database.url
database-lease: database.lease
database-migrate: database.migrate
database-statement-timeout: database.statementTimeout
deletion-cost: deletionCost
exec: handler.exec
grace: terminationGracePeriodSeconds
http: handler.http.url
http-secrets: handler.http.secrets or handler.http.existingSecret
listen: "nothing: the API is on port 8080"
queues: queues
replicas: replicas
timeout: timeout
tls-cert: tls.existingSecret
tls-key: tls.existingSecret
tokens: auth.tokens or auth.existingSecret
workers: workers
{{- end -}}

{{- define "lameduck.validateOwned" -}}
{{- $owned := include "lameduck.owned" . | fromYaml -}}
{{- range $key, $_ := .Values.config -}}
{{- if hasKey $owned $key -}}
{{- fail (printf "\n\nconfig sets %s, which the chart sets itself. Take it out, and set instead: %s." $key (get $owned $key)) -}}
{{- end -}}
{{- end -}}

{{- /* Environment wins over the file: what the file says is refused. */ -}}
{{- $environment := dict
  "LAMEDUCK_CONFIG" "nothing: the chart writes the file"
  "LAMEDUCK_DATA" (get $owned "data")
  "LAMEDUCK_EXEC" (get $owned "exec")
  "LAMEDUCK_GRACE" (get $owned "grace")
  "LAMEDUCK_WORKERS" (get $owned "workers")
  "POD_NAME" "nothing: it comes from the Pod"
  "POD_NAMESPACE" "nothing: it comes from the Pod"
  "POD_UID" "nothing: it comes from the Pod"
  "NODE_NAME" "nothing: it comes from the Pod" -}}
{{- $open := list "listen" "admin" "allow-anonymous" -}}
{{- range $line := regexFindAll "(?m)^[a-z-]+ =" (include "lameduck.toml" . | splitList "\n[queues." | first) -1 -}}
{{- $key := trimSuffix " =" $line -}}
{{- if not (has $key $open) -}}
{{- $_ := set $environment (include "lameduck.variable" $key) (default (printf "config.%s" $key) (get $owned $key)) -}}
{{- end -}}
{{- end -}}
{{- if include "lameduck.tokensSecret" . -}}
{{- $_ := set $environment "LAMEDUCK_ALLOW_ANONYMOUS" "nothing: there are tokens" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasKey $environment .name -}}
{{- fail (printf "\n\nextraEnv sets %s, which would contradict what the chart sets. Take it out, and set instead: %s." .name (get $environment .name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

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

{{- define "lameduck.validateAccess" -}}
{{- $auth := .Values.auth -}}
{{- if and $auth.tokens $auth.existingSecret -}}
{{- fail "\n\nauth.tokens and auth.existingSecret are both set. Take one out." -}}
{{- end -}}
{{- $tokens := include "lameduck.tokensSecret" . -}}
{{- $byEnvironment := false -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "LAMEDUCK_TOKENS" "LAMEDUCK_ALLOW_ANONYMOUS") -}}{{- $byEnvironment = true -}}{{- end -}}
{{- end -}}
{{- $remedy := "Make a token, and a Secret of it:\n  kubectl create secret generic lameduck-tokens --from-literal=tokens=\"$(openssl rand -hex 32)\"\nand set auth.existingSecret=lameduck-tokens" -}}
{{- if and $tokens (eq (toString $auth.allowAnonymous) "true") -}}
{{- fail "\n\nauth.allowAnonymous=true says nothing while there are tokens: only who has one of them may use the API. Take one of the two out." -}}
{{- end -}}
{{- $service := .Values.service -}}
{{- range $key := list "nodePort" "externalTrafficPolicy" "loadBalancerClass" "loadBalancerSourceRanges" -}}
{{- $types := ternary (list "LoadBalancer") (list "NodePort" "LoadBalancer") (hasPrefix "loadBalancer" $key) -}}
{{- if and (index $service $key) (not (has $service.type $types)) -}}
{{- fail (printf "\n\nservice.%s says nothing for service.type=%s. Take it out, or set service.type=%s." $key $service.type (last $types)) -}}
{{- end -}}
{{- end -}}
{{- if and (not $tokens) (not $byEnvironment) (eq (toString $auth.allowAnonymous) "false") -}}
{{- fail (printf "\n\nauth.allowAnonymous=false and no tokens: nobody could use the API. %s." $remedy) -}}
{{- end -}}
{{- if and .Release.IsInstall (ne .Values.service.type "ClusterIP") (not $tokens) (not $byEnvironment) (kindIs "invalid" $auth.allowAnonymous) -}}
{{- fail (printf "\n\nservice.type=%s opens the API to others than this cluster, and nobody says who may use it. %s; or let everybody in who reaches it, with auth.allowAnonymous=true." .Values.service.type $remedy) -}}
{{- end -}}
{{- end -}}

{{/*
Whether a drain fits into the grace period, and what was asked for into its steps.
*/}}
{{- define "lameduck.validateTimes" -}}
{{- $v := .Values -}}
{{- $grace := include "lameduck.grace" . | int64 -}}
{{- $sleep := int64 $v.preStopSleepSeconds -}}
{{- $hook := "" -}}
{{- if $sleep -}}{{- $hook = printf "%d s of the preStop hook (preStopSleepSeconds) + " $sleep -}}{{- end -}}

{{- $readiness := $v.probes.readiness -}}
{{- $flip := mul $readiness.periodSeconds $readiness.failureThreshold -}}
{{- $least := add $sleep $flip 1 2 -}}
{{- if lt $grace (int64 $least) -}}
{{- fail (printf "\n\nterminationGracePeriodSeconds=%d is too short for any drain, which takes at least %d s: %s%d s until readiness has failed (probes.readiness: periodSeconds %d × failureThreshold %d) + 1 s until nobody routes to the pod + 2 s to give jobs back and to report. Leave it out, and it follows from what your jobs take; or set it to the length of your longest job + %d." $grace $least $hook $flip (int $readiness.periodSeconds) (int $readiness.failureThreshold) (add $sleep 10)) -}}
{{- end -}}

{{- $step := include "lameduck.steps" . | fromYaml -}}
{{- $left := include "lameduck.graceLeft" . -}}
{{- $budget := include "lameduck.budget" (dict "root" . "grace" $left) | fromYaml -}}
{{- $remedy := "leave terminationGracePeriodSeconds out" -}}

{{- if or (hasKey $v.config "teardown") (hasKey $v.config "reporting") (hasKey $v.config "stop-notice") -}}
{{- $reserved := add $step.teardown $step.reporting $step.notice -}}
{{- if ge (mul 2 $reserved) (int64 $left) -}}
{{- fail (printf "\n\nconfig.teardown + config.reporting + config.stop-notice = %s + %s + %s = %s is half of the grace period or more (%s), and would be cut down so that jobs and requests keep half of it. Lower them, or %s." (include "lameduck.seconds" $step.teardown) (include "lameduck.seconds" $step.reporting) (include "lameduck.seconds" $step.notice) (include "lameduck.seconds" $reserved) (include "lameduck.seconds" $left) $remedy) -}}
{{- end -}}
{{- end -}}

{{- if or (hasKey $v.config "lame-duck-share") (hasKey $v.config "settle") (hasKey $v.config "quiet") -}}
{{- $waited := add $step.settle $step.quiet -}}
{{- if gt $waited (int64 $budget.routing) -}}
{{- fail (printf "\n\nsettle + quiet = %s + %s = %s do not fit into the %s that a drain waits for the end of routing (two thirds of the %s that idle connections have: lame-duck-share %v of %s): clients would be asked to leave while somebody still routes here. Lower config.settle or config.quiet, raise config.lame-duck-share, or %s." (include "lameduck.seconds" $step.settle) (include "lameduck.seconds" $step.quiet) (include "lameduck.seconds" $waited) (include "lameduck.seconds" $budget.routing) (include "lameduck.seconds" $budget.lameDuck) $step.share (include "lameduck.seconds" $left) $remedy) -}}
{{- end -}}
{{- /* Where the container is restarted without a deletion the program counts on 30 s at the most, and the endpoint goes only after readiness has failed. */ -}}
{{- $short := include "lameduck.budget" (dict "root" $ "grace" (min 30000 $left)) | fromYaml -}}
{{- $waited = add $waited (mul 1000 $flip) -}}
{{- if gt $waited (int64 $short.routing) -}}
{{- fail (printf "\n\nWhere the container is restarted without a deletion of the pod, a drain takes 30 s at the most, and waits %s of them for the end of routing (two thirds of lame-duck-share %v): too short for %d s until readiness has failed (probes.readiness: periodSeconds %v × failureThreshold %v) + %s settle + %s quiet. Lower config.settle or config.quiet, or raise config.lame-duck-share." (include "lameduck.seconds" $short.routing) $step.share (int $flip) $readiness.periodSeconds $readiness.failureThreshold (include "lameduck.seconds" $step.settle) (include "lameduck.seconds" $step.quiet)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
How the soft deadline comes about. Dict of root and grace.
*/}}
{{- define "lameduck.arithmetic" -}}
{{- $step := include "lameduck.steps" .root | fromYaml -}}
{{- $budget := include "lameduck.budget" . | fromYaml -}}
{{- $hook := "" -}}
{{- if .root.Values.preStopSleepSeconds -}}{{- $hook = printf " left by preStopSleepSeconds=%v" .root.Values.preStopSleepSeconds -}}{{- end -}}
{{- include "lameduck.seconds" .grace }}{{ $hook }}, less at most {{ include "lameduck.seconds" $step.margin }} margin, {{ include "lameduck.seconds" $step.notice }} stop-notice, {{ include "lameduck.seconds" $step.teardown }} teardown, {{ include "lameduck.seconds" $step.reporting }} reporting
{{- end -}}

{{/*
A job longer than the grace period leaves it begins anew in every rollout. Only where somebody chose both: a grace period
that nobody chose follows from the timeouts.
*/}}
{{- define "lameduck.validateTimeouts" -}}
{{- $v := .Values -}}
{{- if not (or $v.allowLongJobs (kindIs "invalid" $v.terminationGracePeriodSeconds)) -}}
{{- $left := include "lameduck.graceLeft" . -}}
{{- $budget := include "lameduck.budget" (dict "root" . "grace" $left) | fromYaml -}}
{{- range include "lameduck.timeouts" . | fromJsonArray -}}
{{- if and .chosen (gt (include "lameduck.ms" .text | int64) (int64 $budget.soft)) -}}
{{- fail (printf "\n\n%s=%s does not fit into terminationGracePeriodSeconds=%v: a job that takes so long is told to stop after %s of a drain (%s), and begins anew in the next pod, at each rollout. Leave terminationGracePeriodSeconds out, or set it to %d or more; lower the timeout; or accept it with allowLongJobs=true." .name .text $v.terminationGracePeriodSeconds (include "lameduck.seconds" $budget.soft) (include "lameduck.arithmetic" (dict "root" $ "grace" $left)) (add (include "lameduck.wanted" $) $v.preStopSleepSeconds)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
