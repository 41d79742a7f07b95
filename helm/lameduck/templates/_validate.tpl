{{/*
What no schema can say, since the answer has to hold the remedy. Every template begins with this, since nobody knows which
one Helm renders first.
*/}}
{{- define "lameduck.validate" -}}
{{- include "lameduck.validateOrigin" . -}}
{{- include "lameduck.values" . -}}
{{- include "lameduck.validateNames" . -}}
{{- include "lameduck.validateHandlers" . -}}
{{- include "lameduck.validateOwned" . -}}
{{- include "lameduck.validateStorage" . -}}
{{- include "lameduck.validateScaling" . -}}
{{- include "lameduck.validateAccess" . -}}
{{- include "lameduck.validateTimes" . -}}
{{- include "lameduck.validateTimeouts" . -}}
{{- end -}}

{{- define "lameduck.validateOrigin" -}}
{{- /* Any of them may be missing because it was set to null, all of them beside an image only where nobody has heard of them. */ -}}
{{- $newer := pick .Values "auth" "config" "database" "queues" "rollout" "tls" -}}
{{- if and .Release.IsUpgrade (hasKey .Values "image") (not $newer) -}}
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
{{- $endpoint := $handler.http.url -}}
{{- range .Values.queues -}}{{- $endpoint = or $endpoint .http -}}{{- end -}}
{{- if and (include "lameduck.httpSecret" .) (not $endpoint) -}}
{{- fail (printf "\n\nhandler.http.%s says nothing: no handler is an HTTP endpoint. Take it out, or set handler.http.url." (ternary "secrets" "existingSecret" (empty $handler.http.existingSecret))) -}}
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
