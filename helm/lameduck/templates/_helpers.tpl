{{/*
52 and not the usual 63 characters: the controllers of StatefulSets and Deployments label their pods <name>-<hash of 10>,
and a label's value ends at 63.
*/}}
{{- define "lameduck.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- include "lameduck.cut" (list 52 .Values.fullnameOverride) -}}
{{- else if contains $name .Release.Name -}}
{{- include "lameduck.cut" (list 52 .Release.Name) -}}
{{- else -}}
{{- include "lameduck.cut" (list 52 (printf "%s-%s" .Release.Name $name)) -}}
{{- end -}}
{{- end -}}

{{/*
The only pod that a StatefulSet has here: it counts from 0.
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

{{/*
Where the queue is: "true" with a database, empty with the embedded one.
*/}}
{{- define "lameduck.database" -}}
{{- if or .Values.database.existingSecret .Values.database.url -}}true{{- end -}}
{{- end -}}

{{- define "lameduck.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 2 1 (eq (include "lameduck.database" .) "true") -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end -}}

{{/*
Who decides how many: "true" where that is an autoscaler.
*/}}
{{- define "lameduck.autoscaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled -}}true{{- end -}}
{{- end -}}

{{- define "lameduck.selectorLabels" -}}
app.kubernetes.io/name: {{ include "lameduck.cut" (list 63 (default .Chart.Name .Values.nameOverride)) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "lameduck.labels" -}}
helm.sh/chart: {{ include "lameduck.cut" (list 63 (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_")) | quote }}
{{ include "lameduck.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end -}}

{{/*
An object's name, labels and annotations: list of the context, the name, and as far as wanted labels and annotations of
this object alone. What the chart sets wins.
*/}}
{{- define "lameduck.metadata" -}}
{{- $root := index . 0 -}}
{{- $labels := dict -}}
{{- $annotations := dict -}}
{{- if gt (len .) 2 -}}{{- $labels = index . 2 | default dict -}}{{- end -}}
{{- if gt (len .) 3 -}}{{- $annotations = index . 3 | default dict -}}{{- end -}}
name: {{ index . 1 | quote }}
labels:
  {{- include "lameduck.union" (list $root.Values.commonLabels $labels (include "lameduck.labels" $root | fromYaml)) | nindent 2 }}
{{- if or $annotations $root.Values.commonAnnotations }}
annotations:
  {{- include "lameduck.union" (list $root.Values.commonAnnotations $annotations) | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
Maps in one, where the later of two wins. Sprig's merge takes an empty string for one that is missing.
*/}}
{{- define "lameduck.union" -}}
{{- $union := dict -}}
{{- range . -}}{{- range $key, $value := . -}}{{- $_ := set $union $key $value -}}{{- end -}}{{- end -}}
{{- toYaml $union -}}
{{- end -}}

{{/*
Secrets by what they hold: the name of yours, else of the one that the chart makes; empty where there is none.
*/}}
{{- define "lameduck.databaseSecret" -}}
{{- if .Values.database.existingSecret -}}
{{- .Values.database.existingSecret -}}
{{- else if .Values.database.url -}}
{{- include "lameduck.fullname" . }}-database
{{- end -}}
{{- end -}}

{{- define "lameduck.tokensSecret" -}}
{{- if .Values.auth.existingSecret -}}
{{- .Values.auth.existingSecret -}}
{{- else if .Values.auth.tokens -}}
{{- include "lameduck.fullname" . }}-auth
{{- end -}}
{{- end -}}

{{- define "lameduck.httpSecret" -}}
{{- if .Values.handler.http.existingSecret -}}
{{- .Values.handler.http.existingSecret -}}
{{- else if .Values.handler.http.secrets -}}
{{- include "lameduck.fullname" . }}-http
{{- end -}}
{{- end -}}

{{/*
Of the pod of `helm test`. Its name is another one, or the Services would select it, and the budget count it.
*/}}
{{- define "lameduck.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "lameduck.fullname" .) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/*
A number, or a share of the pods.
*/}}
{{- define "lameduck.share" -}}
{{- if kindIs "string" . -}}{{- quote . -}}{{- else -}}{{- int . -}}{{- end -}}
{{- end -}}

{{/*
With the action that the Prometheus Operator's CRDs fill in where none is named: the list is compared as a whole, so that a
difference would keep an application of Argo CD out of sync.
*/}}
{{- define "lameduck.relabelings" -}}
{{- range . }}
{{ set (deepCopy .) "action" (.action | default "replace") | list | toYaml }}
{{- end }}
{{- end -}}

{{/*
Where people read the repository's files, with a slash at its end; empty where nobody says it.
*/}}
{{- define "lameduck.runbooks" -}}
{{- with .Values.prometheusRule.runbookBase | default (first .Chart.Sources) -}}
{{- trimSuffix "/" . }}/
{{- end -}}
{{- end -}}
