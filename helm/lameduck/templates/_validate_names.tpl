{{/*
Names that Kubernetes would refuse. Those of the values are the schema's to refuse; these come about here.
*/}}
{{- define "lameduck.validateNames" -}}
{{- if or (gt (len .Release.Namespace) 63) (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" .Release.Namespace)) -}}
{{- fail (printf "\n\nThere can be no namespace %q: the name of one is made of lower-case letters, digits and '-', begins and ends with a letter or a digit, and has 63 characters at most. Say another with --namespace." .Release.Namespace) -}}
{{- end -}}
{{- $name := include "lameduck.fullname" . -}}
{{- $source := printf "the release %q" .Release.Name -}}
{{- if .Values.nameOverride -}}{{- $source = printf "%s and nameOverride=%q" $source .Values.nameOverride -}}{{- end -}}
{{- if .Values.fullnameOverride -}}{{- $source = printf "fullnameOverride=%q" .Values.fullnameOverride -}}{{- end -}}
{{- $remedy := printf "Set fullnameOverride to a name that is, for example to %s." (include "lameduck.legalName" .) -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "\n\nThe objects would be called %q, after %s, and that is no name for a Service: it has to be made of lower-case letters, digits and '-'. %s" $name $source $remedy) -}}
{{- end -}}
{{- /* Relaxed in Kubernetes 1.36 (KEP-5311). */ -}}
{{- if and (regexMatch "^[0-9]" $name) (semverCompare "<1.36.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "\n\nThe objects would be called %q, after %s, and that is no name for a Service: before Kubernetes 1.36, and this is %s, it has to begin with a letter. %s" $name $source .Capabilities.KubeVersion.Version $remedy) -}}
{{- end -}}
{{- include "lameduck.validateKeys" . -}}
{{- end -}}

{{/*
Keys of labels and annotations. Helm 4 names some other value where a schema refuses a key.
*/}}
{{- define "lameduck.validateKeys" -}}
{{- $v := .Values -}}
{{- $maps := dict
  "commonLabels" $v.commonLabels
  "podLabels" $v.podLabels
  "nodeSelector" $v.nodeSelector
  "podMonitor.labels" $v.podMonitor.labels
  "serviceMonitor.labels" $v.serviceMonitor.labels
  "prometheusRule.labels" $v.prometheusRule.labels
  "dashboard.labels" $v.dashboard.labels
  "commonAnnotations" $v.commonAnnotations
  "workloadAnnotations" $v.workloadAnnotations
  "podAnnotations" $v.podAnnotations
  "service.annotations" $v.service.annotations
  "serviceAccount.annotations" $v.serviceAccount.annotations
  "dashboard.annotations" $v.dashboard.annotations -}}
{{- range $path, $map := $maps -}}
{{- range $key, $_ := $map -}}
{{- if not (regexMatch "^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" $key) -}}
{{- fail (printf "\n\n%s has a key %q, which Kubernetes does not take: it has to be made of letters, digits, '-', '_' and '.', begin and end with a letter or a digit, and have 63 characters at most; a domain and a slash may stand before it. Rename it or take it out." $path $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A name that every Kubernetes takes, out of the one that it may not.
*/}}
{{- define "lameduck.legalName" -}}
{{- $name := include "lameduck.fullname" . | lower | replace "." "-" | replace "_" "-" | trimAll "-" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) -}}
{{- $name = printf "%s-%s" .Chart.Name (regexReplaceAll "[^-a-z0-9]" $name "" | trimSuffix (printf "-%s" .Chart.Name)) -}}
{{- end -}}
{{- include "lameduck.cut" (list 52 $name) -}}
{{- end -}}

{{/*
The beginning of a name, so long at most; what Kubernetes lets no name end in is cut off too. List of the length and the name.
*/}}
{{- define "lameduck.cut" -}}
{{- regexReplaceAll "[-._]+$" (trunc (index . 0) (index . 1)) "" -}}
{{- end -}}
