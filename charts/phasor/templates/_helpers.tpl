{{- define "phasor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object: (dict "ctx" $ "component" "gateway" "track" "blue"); the track may be left out. */}}
{{- define "phasor.labels" -}}
{{ include "phasor.selector" . }}
helm.sh/chart: {{ printf "%s-%s" .ctx.Chart.Name .ctx.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .ctx.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .ctx.Release.Service }}
app.kubernetes.io/part-of: phasor
{{- with .ctx.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What never changes between versions. */}}
{{- define "phasor.selector" -}}
app.kubernetes.io/name: {{ default .ctx.Chart.Name .ctx.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .ctx.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .track }}
phasor/track: {{ . }}
{{- end }}
{{- end -}}

{{- define "phasor.image" -}}
{{- $registry := default .image.registry .ctx.Values.global.imageRegistry -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .ctx.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "phasor.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Whether something else decides how many gateways there are. KEDA scales vLLM where that computes. */}}
{{- define "phasor.scalesGateway" -}}
{{- or (eq .Values.autoscaling.type "hpa") (and (eq .Values.autoscaling.type "keda") (eq .Values.engine "builtin")) -}}
{{- end -}}

{{/* Port of a URL. */}}
{{- define "phasor.port" -}}
{{- $host := (urlParse .).host -}}
{{- if contains ":" $host -}}
{{- last (splitList ":" $host) -}}
{{- else -}}
{{- ternary "443" "80" (hasPrefix "https" .) -}}
{{- end -}}
{{- end -}}

{{/* Mistakes that a schema cannot see. */}}
{{- define "phasor.check" -}}
{{- if not (hasKey .Values.tracks .Values.active) -}}
{{- fail (printf "active is %q, which is none of the tracks: %s." .Values.active (keys .Values.tracks | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if not (or .Values.auth.existingSecret .Values.auth.open) -}}
{{- fail "auth.existingSecret is not set: make a line with `phasor key NAME`, put it into a Secret under the key `keys`, and name it. Or set auth.open." -}}
{{- end -}}
{{- range $name, $track := .Values.tracks -}}
{{- if and (or $track.bundle.location (and $track.index $track.index.location)) (not $.Values.objectStore.endpoint) -}}
{{- fail (printf "tracks.%s has an s3:// location, so objectStore.endpoint must be set." $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.engine "vllm") (eq (int .Values.gpu.count) 0) -}}
{{- fail "engine vllm needs gpu.count of at least 1. Use engine builtin on CPUs." -}}
{{- end -}}
{{- end -}}
