{{/*
52 and not the usual 63 characters: the StatefulSet controller labels its pods <name>-<hash of 10>, and a label's value ends
at 63.
*/}}
{{- define "lameduck.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/*
The only pod there is: a StatefulSet counts from 0.
*/}}
{{- define "lameduck.podName" -}}
{{- printf "%s-0" (include "lameduck.fullname" .) -}}
{{- end -}}

{{- define "lameduck.headlessName" -}}
{{- printf "%s-headless" (include "lameduck.fullname" .) -}}
{{- end -}}

{{- define "lameduck.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "lameduck.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "lameduck.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "lameduck.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lameduck.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "lameduck.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/*
The settings file. A JSON string and a JSON array of strings are TOML too, with the same escapes.
*/}}
{{- define "lameduck.toml" -}}
listen = "0.0.0.0:8080"
admin = "0.0.0.0:9090"
# Only the Service inside the cluster leads here. LAMEDUCK_ALLOW_ANONYMOUS=false and LAMEDUCK_TOKENS in extraEnv close it.
allow-anonymous = true
data = "/var/lib/lameduck"
grace = "{{ int .Values.terminationGracePeriodSeconds }}s"
{{- with .Values.workers }}
workers = {{ int . }}
{{- end }}
exec = {{ ternary (list "/lameduck" "demo" "--duration" "3s") .Values.handler.exec .Values.handler.demo | toRawJson }}
{{- end -}}

{{- define "lameduck.probe" -}}
periodSeconds: {{ int .periodSeconds }}
timeoutSeconds: {{ int .timeoutSeconds }}
failureThreshold: {{ int .failureThreshold }}
{{- end -}}

{{/*
What no schema can say, since the answer has to hold the remedy.
*/}}
{{- define "lameduck.validate" -}}
{{- range $key := list "replicas" "replicaCount" -}}
{{- $replicas := get $.Values $key -}}
{{- if and (hasKey $.Values $key) (ne (toString $replicas) "1") -}}
{{- fail (printf "\n\n%s=%v is not possible: the embedded database belongs to exactly one process; a second replica would have jobs of its own that nobody else sees. Leave %s out and raise `workers` to run more jobs at a time, or install a second release for a queue of its own." $key $replicas $key) -}}
{{- end -}}
{{- end -}}

{{- if and .Values.handler.exec .Values.handler.demo -}}
{{- fail "\n\nhandler.exec and handler.demo are both set, and only one handler can run the jobs. Set handler.demo=false to run your command." -}}
{{- end -}}
{{- if not (or .Values.handler.exec .Values.handler.demo) -}}
{{- fail "\n\nNo handler: nothing would run the jobs. Set handler.exec to a command of the image, for example\n  handler:\n    exec: [\"python3\", \"/app/resize.py\"]\nor try it out with --set handler.demo=true" -}}
{{- end -}}

{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- $readiness := .Values.probes.readiness -}}
{{- $flip := mul $readiness.periodSeconds $readiness.failureThreshold -}}
{{- $least := add $flip 1 2 -}}
{{- if lt $grace (int $least) -}}
{{- fail (printf "\n\nterminationGracePeriodSeconds=%d is too short for any drain, which takes at least %d s: %d s until readiness has failed (probes.readiness: periodSeconds %d × failureThreshold %d) + 1 s until nobody routes to the pod + 2 s to give jobs back and to report. Set it to the length of your longest job + %d." $grace $least $flip (int $readiness.periodSeconds) (int $readiness.failureThreshold) $least) -}}
{{- end -}}

{{- $owned := dict
  "LAMEDUCK_CONFIG" "nothing: the chart writes the file"
  "LAMEDUCK_DATA" "nothing: the volume is mounted where the chart says"
  "LAMEDUCK_EXEC" "handler.exec"
  "LAMEDUCK_GRACE" "terminationGracePeriodSeconds"
  "LAMEDUCK_WORKERS" "workers"
  "POD_NAME" "nothing: it comes from the Pod"
  "POD_NAMESPACE" "nothing: it comes from the Pod"
  "POD_UID" "nothing: it comes from the Pod"
  "NODE_NAME" "nothing: it comes from the Pod" -}}
{{- range .Values.extraEnv -}}
{{- if hasKey $owned .name -}}
{{- fail (printf "\n\nextraEnv sets %s, which would contradict what the chart sets. Take it out, and set instead: %s." .name (get $owned .name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
