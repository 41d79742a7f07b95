{{/*
How long things take. The arithmetic is the program's own: docs/architecture.md, src/lifecycle/budget.rs. All in
milliseconds, as text.
*/}}

{{/*
A duration as the program takes it: 500ms, 30s, 1h30m, 7d.
*/}}
{{- define "lameduck.ms" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- $sum = add $sum (mul (int64 $number) (get $units (trimPrefix $number .) | int64)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- define "lameduck.seconds" -}}
{{- $ms := int64 . -}}
{{- if mod $ms 1000 -}}{{- divf $ms 1000 -}}{{- else -}}{{- div $ms 1000 -}}{{- end }} s
{{- end -}}

{{/*
Upwards to whole seconds, since Kubernetes takes no others.
*/}}
{{- define "lameduck.wholeSeconds" -}}
{{- div (add (int64 .) 999) 1000 -}}
{{- end -}}

{{/*
A time that the drain keeps for a step: what extraEnv says, as the program would, else `config`, else the program's default.
List of the context, the name, the default.
*/}}
{{- define "lameduck.kept" -}}
{{- $values := (index . 0).Values -}}
{{- $name := index . 1 -}}
{{- $kept := index . 2 -}}
{{- if hasKey $values.config $name -}}
{{- $kept = include "lameduck.ms" (get $values.config $name) -}}
{{- end -}}
{{- range $values.extraEnv -}}
{{- if and (eq .name (include "lameduck.variable" $name)) .value -}}
{{- $kept = include "lameduck.ms" .value -}}
{{- end -}}
{{- end -}}
{{- $kept -}}
{{- end -}}

{{- define "lameduck.variable" -}}
{{- printf "LAMEDUCK_%s" (. | replace "-" "_" | upper) -}}
{{- end -}}

{{- define "lameduck.steps" -}}
margin: {{ include "lameduck.kept" (list . "margin" 1000) }}
notice: {{ include "lameduck.kept" (list . "stop-notice" 5000) }}
teardown: {{ include "lameduck.kept" (list . "teardown" 3000) }}
reporting: {{ include "lameduck.kept" (list . "reporting" 1000) }}
settle: {{ include "lameduck.kept" (list . "settle" 1000) }}
quiet: {{ include "lameduck.kept" (list . "quiet" 2000) }}
share: {{ dig "lame-duck-share" 0.5 .Values.config }}
{{- end -}}

{{/*
The grace period, cut as the program cuts it. Dict of root (the context) and grace.
  soft     from SIGTERM until jobs are told to stop
  lameDuck until idle connections are closed
  routing  until the end of routing is waited for
*/}}
{{- define "lameduck.budget" -}}
{{- $grace := int64 .grace -}}
{{- $step := include "lameduck.steps" .root | fromYaml -}}
{{- $usable := sub $grace (min $step.margin (div $grace 10)) -}}
{{- $reporting := max (min $step.reporting (div $usable 10)) (min 100 (div $usable 20)) -}}
{{- $soft := sub $usable (add $reporting (min $step.teardown (div $usable 8)) (min $step.notice (div $usable 5))) -}}
{{- $lameDuck := min $soft (mulf $usable $step.share | floor) -}}
soft: {{ $soft }}
lameDuck: {{ $lameDuck }}
routing: {{ div (mul 2 $lameDuck) 3 }}
{{- end -}}

{{/*
Every time that a job may take, as a list: who says it (queue, where), how long, and whether somebody chose it.
*/}}
{{- define "lameduck.timeouts" -}}
{{- $all := dict "name" "timeout" "text" "10m" "chosen" false -}}
{{- if .Values.timeout -}}
{{- $all = dict "name" "timeout" "text" .Values.timeout "chosen" true -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if and (eq .name "LAMEDUCK_TIMEOUT") .value -}}
{{- $all = dict "name" "LAMEDUCK_TIMEOUT" "text" .value "chosen" true -}}
{{- end -}}
{{- end -}}
{{- $found := list -}}
{{- range $name, $queue := .Values.queues -}}
{{- if $queue.timeout -}}
{{- $found = append $found (dict "name" (printf "queues.%s.timeout" $name) "text" $queue.timeout "chosen" true) -}}
{{- else -}}
{{- $found = append $found $all -}}
{{- end -}}
{{- else -}}
{{- if and .Values.handler.demo (not $all.chosen) -}}
{{- $all = dict "name" "the demo handler" "text" "3s" "chosen" false -}}
{{- end -}}
{{- $found = append $found $all -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/*
The longest time that the grace period has to have room for. A timeout that nobody chose is a bound for runs that hang. With
a database it counts all the same, since the other pods take jobs in while one drains. Without one nobody does, so that a long
drain has to be asked for.
*/}}
{{- define "lameduck.longest" -}}
{{- $counts := or .Values.handler.demo (eq (include "lameduck.database" .) "true") -}}
{{- $longest := 0 -}}
{{- range include "lameduck.timeouts" . | fromJsonArray -}}
{{- if or .chosen $counts -}}
{{- $longest = max $longest (include "lameduck.ms" .text) -}}
{{- end -}}
{{- end -}}
{{- $longest -}}
{{- end -}}

{{/*
The grace period in which everything that was asked for has room, in whole seconds, without a preStop hook.
*/}}
{{- define "lameduck.wanted" -}}
{{- $step := include "lameduck.steps" . | fromYaml -}}
{{- $reserved := add $step.notice $step.teardown $step.reporting -}}
{{- $kept := add $reserved $step.margin -}}
{{- $readiness := .Values.probes.readiness -}}
{{- $wanted := list 30000 (add (include "lameduck.longest" .) $kept) (add (mul 1000 $readiness.periodSeconds $readiness.failureThreshold) 3000) -}}
{{/* What the drain keeps for its own steps is cut down where it is half of the grace period or more; one second more is less. */}}
{{- $wanted = append $wanted (add (mul 2 $reserved) 1000) -}}
{{/* A margin is never more than a tenth. */}}
{{- $wanted = append $wanted (mul 10 $step.margin) -}}
{{/* Two thirds of the lame duck's share are for the end of routing. */}}
{{- if gt (float64 $step.share) 0.0 -}}
{{- $wanted = append $wanted (add $step.margin (divf (mul 3 (add $step.settle $step.quiet)) (mulf 2 $step.share) | ceil)) -}}
{{- end -}}
{{- $longest := 0 -}}
{{- range $wanted -}}{{- $longest = max $longest . -}}{{- end -}}
{{- include "lameduck.wholeSeconds" $longest -}}
{{- end -}}

{{/*
terminationGracePeriodSeconds of the pod.
*/}}
{{- define "lameduck.grace" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add (include "lameduck.wanted" .) .Values.preStopSleepSeconds -}}
{{- else -}}
{{- int64 .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/*
What of it is left to the program, in milliseconds.
*/}}
{{- define "lameduck.graceLeft" -}}
{{- mul 1000 (sub (include "lameduck.grace" .) .Values.preStopSleepSeconds) -}}
{{- end -}}

{{/*
How long a pod may take to start, in seconds.
*/}}
{{- define "lameduck.startup" -}}
{{- mul .Values.probes.startup.periodSeconds .Values.probes.startup.failureThreshold -}}
{{- end -}}

{{- define "lameduck.progressDeadline" -}}
{{- if kindIs "invalid" .Values.rollout.progressDeadlineSeconds -}}
{{- max 600 (add 300 (max (include "lameduck.grace" .) (include "lameduck.startup" .)) .Values.rollout.minReadySeconds) -}}
{{- else -}}
{{- int64 .Values.rollout.progressDeadlineSeconds -}}
{{- end -}}
{{- end -}}
