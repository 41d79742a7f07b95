{{/*
The values with nothing missing. Helm deletes a value that is set to null, which is also what a map or a list is whose
lines are all commented out, and a template that reads it then fails or renders nonsense. So each one that is missing
becomes its default again.

Changes .Values itself, and does nothing the second time. Every template begins with it, by lameduck.validate.
*/}}
{{- define "lameduck.values" -}}
{{- include "lameduck.restore" (dict "values" .Values "defaults" (.Files.Get "files/defaults.json" | fromJson) "path" "") -}}
{{- end -}}

{{/*
Where null says that the setting is to be left out, as values.yaml explains: a scaler has more than one thing to go by,
OpenShift chooses users and groups itself, and a namespace may have defaults of its own for resources.
*/}}
{{- define "lameduck.removable" -}}
- autoscaling.targetCPUUtilizationPercentage
- keda.oldestAgeSeconds
- podSecurityContext.runAsUser
- podSecurityContext.runAsGroup
- podSecurityContext.fsGroup
- podSecurityContext.fsGroupChangePolicy
- resources.requests.cpu
- resources.requests.memory
- test.resources.requests.cpu
- test.resources.requests.memory
- test.resources.limits.cpu
- test.resources.limits.memory
{{- end -}}

{{/*
Dict of values, defaults, and the path of both, which ends in a dot.
*/}}
{{- define "lameduck.restore" -}}
{{- $values := .values -}}
{{- $defaults := .defaults -}}
{{- $path := .path -}}
{{- $removable := include "lameduck.removable" . | fromYamlArray -}}
{{- range $key, $default := $defaults -}}
{{- $here := printf "%s%s" $path $key -}}
{{- $value := index $values $key -}}
{{- if kindIs "invalid" $value -}}
{{- if has $here $removable -}}{{- $_ := unset $values $key -}}{{- else -}}{{- $_ := set $values $key $default -}}{{- end -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- include "lameduck.restore" (dict "values" $value "defaults" $default "path" (printf "%s." $here)) -}}
{{- else -}}
{{- include "lameduck.prune" (dict "value" $value "path" $here) -}}
{{- end -}}
{{- end -}}
{{- /* What a parent chart hands down is not ours to change. */ -}}
{{- range $key, $value := omit $values "global" -}}
{{- $here := printf "%s%s" $path $key -}}
{{- if hasKey $defaults $key -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- include "lameduck.prune" (dict "value" $value "path" $here) -}}
{{- else if eq $path "queues." -}}
{{- /* A queue with nothing set is one that takes `handler`. */ -}}
{{- $_ := set $values $key dict -}}
{{- else -}}
{{- $_ := unset $values $key -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Takes nulls out of what is the user's own: to Kubernetes and to the program they are the same as nothing. An empty item of a
list is refused, since nobody can tell what it was to be. So is a control character that JSON does not escape and YAML does not
take: Helm's toYaml would render nothing in its place, and say nothing. Dict of value and path.
*/}}
{{- define "lameduck.prune" -}}
{{- $value := .value -}}
{{- $path := .path -}}
{{- if kindIs "map" $value -}}
{{- range $key, $item := $value -}}
{{- if kindIs "invalid" $item -}}
{{- $_ := unset $value $key -}}
{{- else -}}
{{- include "lameduck.prune" (dict "value" $item "path" (printf "%s.%s" $path $key)) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $index, $item := $value -}}
{{- if kindIs "invalid" $item -}}
{{- fail (printf "\n\n%s[%d] is empty (null). Take it out, or say what it is to hold." $path $index) -}}
{{- else if ne $path "extraObjects" -}}
{{- include "lameduck.prune" (dict "value" $item "path" (printf "%s[%d]" $path $index)) -}}
{{- end -}}
{{- end -}}
{{- else if and (kindIs "string" $value) (regexMatch "[\\x{7f}-\\x{9f}]" $value) -}}
{{- fail (printf "\n\n%s holds a control character, which YAML cannot carry: %q. Take it out." $path $value) -}}
{{- end -}}
{{- end -}}
