{{/*
The pod, the same for both workloads but for its volume.
*/}}
{{- define "lameduck.pod" -}}
{{- $embedded := ne (include "lameduck.database" .) "true" -}}
{{- /* The settings are read once, at start: a change of them has to roll the pods. */ -}}
{{- $checksums := dict "checksum/config" (include "lameduck.toml" . | sha256sum) -}}
{{- with concat (list .Values.database.url) .Values.handler.http.secrets | compact -}}
{{- $_ := set $checksums "checksum/secrets" (toJson . | sha256sum) -}}
{{- end -}}
metadata:
  labels:
    {{- include "lameduck.union" (list .Values.commonLabels .Values.podLabels (include "lameduck.selectorLabels" . | fromYaml)) | nindent 4 }}
  annotations:
    {{- include "lameduck.union" (list .Values.podAnnotations $checksums) | nindent 4 }}
spec:
  serviceAccountName: {{ include "lameduck.serviceAccountName" . | quote }}
  # To read its own Pod and EndpointSlices when it drains.
  automountServiceAccountToken: true
  # A Service called lameduck would put LAMEDUCK_… variables of its own beside the settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "lameduck.grace" . }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ quote . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ quote . }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ quote . }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.dnsPolicy }}
  dnsPolicy: {{ quote . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: lameduck
      image: {{ include "lameduck.image" . | quote }}
      imagePullPolicy: {{ quote .Values.image.pullPolicy }}
      # Said here, whatever entry point an image of your own has: a shell as PID 1 would keep SIGTERM to itself.
      command: ["/lameduck", "serve"]
      env:
        - name: LAMEDUCK_CONFIG
          value: /etc/lameduck/lameduck.toml
        {{- range $variable, $address := include "lameduck.addresses" . | fromYaml }}
        - name: {{ $variable }}
          value: {{ quote $address }}
        {{- end }}
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        - name: POD_UID
          valueFrom:
            fieldRef:
              fieldPath: metadata.uid
        - name: NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
          protocol: TCP
        - name: admin
          containerPort: 9090
          protocol: TCP
      {{- if .Values.preStopSleepSeconds }}
      lifecycle:
        preStop:
          # The kubelet's own: there is no program for it in the image.
          sleep:
            seconds: {{ int .Values.preStopSleepSeconds }}
      {{- else }}
      # No preStop hook: the kubelet sends SIGTERM only after it, so that its sleep is taken off the grace period, while
      # the program, told at once, waits until its endpoint is gone, works meanwhile, and goes as soon as it is done.
      {{- end }}
      startupProbe:
        httpGet:
          path: /startupz
          port: admin
        {{- include "lameduck.probe" .Values.probes.startup | nindent 8 }}
      # Says OK through the whole drain: only a process that hangs is to be restarted.
      livenessProbe:
        httpGet:
          path: /livez
          port: admin
        {{- include "lameduck.probe" .Values.probes.liveness | nindent 8 }}
      # Short: without a deletion of the pod, this failing is what removes the endpoint.
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        {{- include "lameduck.probe" .Values.probes.readiness | nindent 8 }}
      # The drain report, and only that: a tail of the log would take its place in `kubectl describe pod`.
      terminationMessagePolicy: File
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/lameduck
          readOnly: true
        {{- if $embedded }}
        - name: data
          mountPath: /var/lib/lameduck
        {{- end }}
        # For the temporary files of the commands that it runs.
        - name: tmp
          mountPath: /tmp
        {{- range $name := keys (include "lameduck.secretVolumes" . | fromYaml) | sortAlpha }}
        - name: {{ $name }}
          mountPath: /run/lameduck/{{ $name }}
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "lameduck.fullname" . | quote }}
    - name: tmp
      emptyDir: {}
    {{- range $name, $secret := include "lameduck.secretVolumes" . | fromYaml }}
    - name: {{ $name }}
      secret:
        secretName: {{ quote $secret }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "lameduck.spread" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
Secrets that the pod mounts, each as a directory: so a change of one arrives, which it would not as a single file.
*/}}
{{- define "lameduck.secretVolumes" -}}
{{- with include "lameduck.databaseSecret" . }}
database: {{ quote . }}
{{- end }}
{{- with include "lameduck.httpSecret" . }}
http: {{ quote . }}
{{- end }}
{{- with .Values.tls.existingSecret }}
tls: {{ quote . }}
{{- end }}
{{- with include "lameduck.tokensSecret" . }}
tokens: {{ quote . }}
{{- end }}
{{- end -}}

{{- define "lameduck.probe" -}}
periodSeconds: {{ int .periodSeconds }}
timeoutSeconds: {{ int .timeoutSeconds }}
failureThreshold: {{ int .failureThreshold }}
{{- end -}}

{{/*
Over nodes and zones, as far as there are any; pods of one version are counted among themselves, or those that are on their
way out would push the new ones into a corner.
*/}}
{{- define "lameduck.spread" -}}
{{- if not (kindIs "invalid" .Values.topologySpreadConstraints) }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- else if eq (include "lameduck.database" .) "true" }}
topologySpreadConstraints:
  {{- range $topology := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $topology }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "lameduck.selectorLabels" $ | nindent 8 }}
    matchLabelKeys: ["pod-template-hash"]
  {{- end }}
{{- end }}
{{- end -}}
