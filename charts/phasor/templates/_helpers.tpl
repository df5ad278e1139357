{{/* With a track and "-rerank-" behind it no longer than Kubernetes leaves the beginning of a pod's name, by which KEDA knows pods. */}}
{{- define "phasor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 39 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 39 | trimSuffix "-" -}}
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

{{/* Labels of pods, from what phasor.labels takes. */}}
{{- define "phasor.podLabels" -}}
{{ include "phasor.labels" . }}
{{- with .ctx.Values.podLabels }}
{{ toYaml . }}
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

{{/* (dict "ctx" $ "track" {…}): pods of a track where nothing scales it; 0 turns it off. */}}
{{- define "phasor.replicas" -}}
{{- int (ternary .ctx.Values.replicas .track.replicas (kindIs "invalid" .track.replicas)) -}}
{{- end -}}

{{/* (dict "ctx" $ "name" … "labels" … "pods" N): a PodDisruptionBudget, where there is a pod to spare. */}}
{{- define "phasor.disruptionBudget" -}}
{{- if and .ctx.Values.pdb.enabled (gt (int .pods) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels: {{- include "phasor.labels" .labels | nindent 4 }}
spec:
  minAvailable: {{ .ctx.Values.pdb.minAvailable }}
  selector:
    matchLabels: {{- include "phasor.selector" .labels | nindent 6 }}
{{- end }}
{{- end -}}

{{/* (dict "url" URL "default" PORT): port of a URL; without a default its scheme's. */}}
{{- define "phasor.port" -}}
{{- $named := regexFind ":[0-9]+$" (urlParse .url).host | trimPrefix ":" -}}
{{- $named | default .default | default (ternary "443" "80" (hasPrefix "https" .url)) -}}
{{- end -}}

{{/* Seconds that requests under way have after draining; ten more are for stopping, before the pod is killed. */}}
{{- define "phasor.shutdownSeconds" -}}
{{- sub .Values.probes.terminationSeconds .Values.probes.drainSeconds | add -10 -}}
{{- end -}}

{{/* (dict "ctx" $ "name" "blue" "track" {…}): what the gateway of a track reads as its --config. */}}
{{- define "phasor.config" -}}
{{- $full := include "phasor.fullname" .ctx -}}
{{- $config := dict "host" "0.0.0.0" "port" 8000 "drain_s" .ctx.Values.probes.drainSeconds "search" dict -}}
{{- $_ := set $config "shutdown_s" (int (include "phasor.shutdownSeconds" .ctx)) -}}
{{- if .ctx.Values.auth.open -}}
{{- $_ := set $config "open" true -}}
{{- else -}}
{{- $_ := set $config "api_keys" "/etc/phasor-keys/keys" -}}
{{- end -}}
{{- if (.track.index).location -}}
{{- $_ := set $config.search "cache" "/index" -}}
{{- end -}}
{{- with .ctx.Values.qdrant.url -}}
{{- $_ := set $config.search "qdrant_url" . -}}
{{- end -}}
{{- if eq .ctx.Values.engine "vllm" -}}
{{- $engine := dict "kind" "vllm" "embed_url" (printf "http://%s-%s-embed:8000" $full .name) -}}
{{- if gt (int .ctx.Values.vllm.rerank.replicas) 0 -}}
{{- $_ := set $engine "rerank_url" (printf "http://%s-%s-rerank:8000" $full .name) -}}
{{- end -}}
{{- $_ := set $config "engine" $engine -}}
{{- end -}}
{{- $config = mustMergeOverwrite $config (deepCopy .ctx.Values.config) -}}
{{- if gt (addf $config.drain_s $config.shutdown_s) (float64 .ctx.Values.probes.terminationSeconds) -}}
{{- fail (printf "config: drain_s %v and shutdown_s %v are longer than probes.terminationSeconds %v." $config.drain_s $config.shutdown_s .ctx.Values.probes.terminationSeconds) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Mistakes that a schema cannot see. */}}
{{- define "phasor.check" -}}
{{- if not (hasKey .Values.tracks .Values.active) -}}
{{- fail (printf "active is %q, which is none of the tracks: %s." .Values.active (keys .Values.tracks | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if not (or .Values.auth.existingSecret .Values.auth.open) -}}
{{- fail "auth.existingSecret is not set: make a line with `phasor key NAME`, put it into a Secret under the key `keys`, and name it. Or set auth.open." -}}
{{- end -}}
{{- if and .Values.auth.existingSecret .Values.auth.open -}}
{{- fail "auth.open and auth.existingSecret are both set: keys are asked for or they are not. Unset one." -}}
{{- end -}}
{{- if lt (int (include "phasor.shutdownSeconds" .)) 1 -}}
{{- fail (printf "probes.terminationSeconds is %v: it must be more than probes.drainSeconds (%v) and 10 seconds for stopping." .Values.probes.terminationSeconds .Values.probes.drainSeconds) -}}
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
