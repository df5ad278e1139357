{{/* What every pod of the chart has in common, the test's included. */}}
{{- define "phasor.pod" -}}
serviceAccountName: {{ include "phasor.fullname" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
  fsGroupChangePolicy: OnRootMismatch
  {{- range $key, $value := .Values.podSecurityContext }}
  {{- if not (kindIs "invalid" $value) }}
  {{ $key }}: {{ $value | int64 }}
  {{- end }}
  {{- end }}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* How a pod reaches the object store and where its writable folders are. */}}
{{- define "phasor.env" -}}
- {name: HOME, value: /tmp}
- {name: HF_HUB_OFFLINE, value: "1"}
- {name: TOKENIZERS_PARALLELISM, value: "false"}
- {name: PHASOR_LOG_LEVEL, value: {{ .Values.logLevel | quote }}}
{{- if .Values.objectStore.endpoint }}
- {name: PHASOR_S3_ENDPOINT, value: {{ .Values.objectStore.endpoint | quote }}}
- {name: PHASOR_S3_REGION, value: {{ .Values.objectStore.region | quote }}}
- {name: PHASOR_S3_SECRET, value: /etc/phasor-store}
{{- if .Values.objectStore.caConfigMap }}
- {name: PHASOR_S3_CA, value: {{ printf "/etc/phasor-ca/%s" .Values.objectStore.caKey }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "phasor.storeMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.objectStore.endpoint }}
- {name: store, mountPath: /etc/phasor-store, readOnly: true}
{{- if .Values.objectStore.caConfigMap }}
- {name: ca, mountPath: /etc/phasor-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* (dict "ctx" $ "track" {…}): volumes of a track's bundle and of the way to it. */}}
{{- define "phasor.bundleVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .ctx.Values.objectStore }}
{{- if .endpoint }}
- name: store
  secret:
    secretName: {{ required "objectStore.existingSecret is not set: name a Secret with accesskey and secretkey." .existingSecret }}
{{- if .caConfigMap }}
- name: ca
  configMap: {name: {{ .caConfigMap }}}
{{- end }}
{{- end }}
{{- end }}
- name: bundle
  {{- if .track.bundle.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .track.bundle.existingClaim }}, readOnly: true}
  {{- else }}
  emptyDir: {sizeLimit: {{ .ctx.Values.objectStore.cacheSize }}}
  {{- end }}
{{- end -}}

{{/* (dict "ctx" $ "track" {…} "name" "blue"): the init container that fetches a bundle, if it is not in a claim. */}}
{{- define "phasor.fetch" -}}
{{- if not .track.bundle.existingClaim }}
initContainers:
  - name: fetch
    image: {{ include "phasor.image" (dict "ctx" .ctx "image" .ctx.Values.image) }}
    imagePullPolicy: {{ .ctx.Values.image.pullPolicy }}
    command: [python, -m, phasor, fetch]
    args:
      - {{ required (printf "tracks.%s.bundle needs a location (s3://BUCKET/PREFIX) or an existingClaim." .name) .track.bundle.location }}
      - /bundle/current
      {{- with .track.bundle.sha256 }}
      - --sha256={{ . }}
      {{- end }}
    env: {{- include "phasor.env" .ctx | nindent 6 }}
    volumeMounts:
      {{- include "phasor.storeMounts" .ctx | nindent 6 }}
      - {name: bundle, mountPath: /bundle}
    resources:
      requests: {cpu: 100m, memory: 256Mi}
      limits: {memory: 1Gi}
    securityContext: {{- include "phasor.containerSecurity" .ctx | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Where the bundle is inside a pod. */}}
{{- define "phasor.bundlePath" -}}
{{- if .bundle.existingClaim -}}
{{- printf "/bundle/%s" (.bundle.path | default "") | trimSuffix "/" -}}
{{- else -}}
/bundle/current
{{- end -}}
{{- end -}}
