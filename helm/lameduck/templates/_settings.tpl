{{/*
A string as TOML. That of JSON is one, with the same escapes, but for DEL, which JSON lets stand; and of what lies beyond
ASCII a reader of YAML takes NEL for the end of a line, and a byte order mark for nothing.
*/}}
{{- define "lameduck.tomlString" -}}
{{- toRawJson . | replace "\u007f" `\u007f` | replace "\u0085" `\u0085` | replace "\ufeff" `\ufeff` -}}
{{- end -}}

{{/*
A value as TOML, where tables have to be written.
*/}}
{{- define "lameduck.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{ range $index, $key := keys . | sortAlpha }}{{ if $index }}, {{ end }}{{ include "lameduck.tomlString" $key }} = {{ include "lameduck.tomlValue" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "lameduck.tomlValue" $item }}{{ end }}]
{{- else if kindIs "float64" . -}}
{{/* Every number in values is one, and 60.0 is no number of workers. */}}
{{- if eq (floor .) . -}}{{- int64 . -}}{{- else -}}{{- toJson . -}}{{- end -}}
{{- else -}}
{{- include "lameduck.tomlString" . -}}
{{- end -}}
{{- end -}}

{{- define "lameduck.tomlLines" -}}
{{- range $key := keys . | sortAlpha }}
{{- $value := get $ $key }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "lameduck.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
The settings file.
*/}}
{{- define "lameduck.toml" -}}
{{- $grace := include "lameduck.graceLeft" . -}}
{{- /* Every address that there is, of either family: where there is no IPv6, the program listens on IPv4 alone. */ -}}
listen = "[::]:8080"
admin = "[::]:9090"
{{- if eq (include "lameduck.anonymous" .) "true" }}
# Everybody who reaches the Service. auth.tokens and auth.existingSecret close it.
allow-anonymous = true
{{- end }}
{{- if include "lameduck.tokensSecret" . }}
tokens = {{ printf "/run/lameduck/tokens/%s" (ternary .Values.auth.existingSecretKey "tokens" (ne .Values.auth.existingSecret "")) | toRawJson }}
{{- end }}
{{- with .Values.tls }}
{{- if .existingSecret }}
tls-cert = {{ printf "/run/lameduck/tls/%s" .certKey | toRawJson }}
tls-key = {{ printf "/run/lameduck/tls/%s" .keyKey | toRawJson }}
{{- end }}
{{- end }}
{{- if eq (include "lameduck.database" .) "true" }}
{{- with .Values.database }}
database-file = {{ printf "/run/lameduck/database/%s" (ternary .existingSecretKey "url" (ne .existingSecret "")) | toRawJson }}
{{- with .connections }}
database-connections = {{ int . }}
{{- end }}
{{- with .lease }}
database-lease = {{ toRawJson . }}
{{- end }}
{{- with .statementTimeout }}
database-statement-timeout = {{ toRawJson . }}
{{- end }}
{{- if not .migrate }}
database-migrate = false
{{- end }}
{{- end }}
{{- else }}
data = "/var/lib/lameduck"
{{- end }}
# terminationGracePeriodSeconds, less preStop.
grace = "{{ div $grace 1000 }}s"
{{- if .Values.deletionCost }}
deletion-cost = true
{{- end }}
{{- with .Values.workers }}
workers = {{ int . }}
{{- end }}
{{- with .Values.timeout }}
timeout = {{ toRawJson . }}
{{- end }}
{{- if .Values.handler.demo }}
exec = ["/lameduck", "demo", "--duration", "3s"]
{{- else if .Values.handler.exec }}
exec = {{ include "lameduck.tomlValue" .Values.handler.exec }}
{{- else if .Values.handler.http.url }}
http = {{ include "lameduck.tomlString" .Values.handler.http.url }}
{{- end }}
{{- if include "lameduck.httpSecret" . }}
{{- with .Values.handler.http }}
http-secrets = {{ printf "/run/lameduck/http/%s" (ternary .existingSecretKey "secrets" (ne .existingSecret "")) | toRawJson }}
{{- end }}
{{- end }}
{{- include "lameduck.tomlLines" .Values.config }}
{{- range $name, $queue := .Values.queues }}

[queues.{{ toRawJson $name }}]
{{- include "lameduck.tomlLines" $queue }}
{{- end }}
{{- end -}}

{{/*
"true" where everybody may use the API: where that was said, and where nothing was said and the Service leads to it from
inside of the cluster only (an installation of another type is refused until something is said; see lameduck.validate).
*/}}
{{- define "lameduck.anonymous" -}}
{{- $said := false -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "LAMEDUCK_TOKENS" "LAMEDUCK_ALLOW_ANONYMOUS") -}}{{- $said = true -}}{{- end -}}
{{- end -}}
{{- if or $said (include "lameduck.tokensSecret" .) -}}
{{- else if kindIs "invalid" .Values.auth.allowAnonymous -}}
true
{{- else -}}
{{- .Values.auth.allowAnonymous -}}
{{- end -}}
{{- end -}}

{{/*
The addresses of the settings file again, as environment: an image may bring its own, which would win over the file. What
extraEnv says is left to it.
*/}}
{{- define "lameduck.addresses" -}}
{{- $addresses := dict "LAMEDUCK_LISTEN" "[::]:8080" "LAMEDUCK_ADMIN" "[::]:9090" -}}
{{- range .Values.extraEnv -}}{{- $addresses = omit $addresses .name -}}{{- end -}}
{{- toYaml $addresses -}}
{{- end -}}
