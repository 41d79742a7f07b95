{{/*
Whether what was asked for fits into the grace period. Every refusal shows its arithmetic.
*/}}

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
