{{/* (dict "ctx" $ "computes" true): what every pod of the chart has, the test's included, and where those go that run a model. */}}
{{- define "phasor.pod" -}}
{{- $security := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") "fsGroupChangePolicy" "OnRootMismatch" -}}
{{- range $key, $value := .ctx.Values.podSecurityContext -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $security $key $value -}}
{{- end -}}
{{- end -}}
serviceAccountName: {{ include "phasor.fullname" .ctx }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml $security | nindent 2 }}
{{- with .ctx.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {{ if kindIs "map" . }}{{ toYaml . }}{{ else }}name: {{ . }}{{ end }}
  {{- end }}
{{- end }}
{{- with .ctx.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .ctx.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .computes }}
{{- with .ctx.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .ctx.Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .ctx.Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* From what phasor.labels takes: pods with these labels are spread. */}}
{{- define "phasor.spread" -}}
{{- with .ctx.Values.spreadOver -}}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "phasor.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}
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
