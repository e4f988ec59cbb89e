{{- define "paretoproxy.fullname" -}}
{{- if contains "paretoproxy" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-paretoproxy" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "paretoproxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: paretoproxy
{{- end -}}

{{- define "paretoproxy.selector" -}}
app.kubernetes.io/name: paretoproxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "paretoproxy.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "paretoproxy.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "paretoproxy.hasKeys" -}}
{{- if or .Values.keys.existingSecret .Values.keys.entries -}}true{{- end -}}
{{- end -}}

{{/* The Kubernetes name of an engine: of (root, backend's name). */}}
{{- define "paretoproxy.engine" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}
{{- printf "%s-%s" (include "paretoproxy.fullname" $root) ($name | lower | replace "." "-" | replace "_" "-" | replace "/" "-") | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* The proxy's configuration file: the values' own, with addresses and paths that only the chart knows. */}}
{{- define "paretoproxy.config" -}}
{{- $root := . -}}
{{- if not .Values.config.models -}}
{{- fail "config.models is empty: name at least one model with its backends (see examples/ in the chart)" -}}
{{- end -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := dict "host" "0.0.0.0" "port" 8000 -}}
{{- if include "paretoproxy.hasKeys" . -}}{{- $_ := set $server "api_keys" "/etc/paretoproxy-keys/keys.yaml" -}}{{- end -}}
{{- $_ := set $config "server" (mergeOverwrite (deepCopy ($config.server | default dict)) $server) -}}
{{- $traces := deepCopy ($config.traces | default dict) -}}
{{- if not .Values.postgres.existingSecret -}}{{- $_ := set $traces "path" "/var/lib/paretoproxy/traces.db" -}}{{- end -}}
{{- $_ := set $config "traces" $traces -}}
{{- range $model := $config.models -}}
{{- $rewards := $model.reward_model | default list -}}
{{- if kindIs "map" $rewards -}}{{- $rewards = list $rewards -}}{{- end -}}
{{- $embedding := ternary (list $model.embedding_model) list (not (empty $model.embedding_model)) -}}
{{- range $backend := concat ($model.backends | default list) $rewards $embedding -}}
{{- if and $backend.launch (not $backend.url) -}}
{{- $_ := set $backend "url" (printf "http://%s:8000" (include "paretoproxy.engine" (list $root $backend.name))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The engines that the chart starts, as JSON: [{served, backend}], each name once. */}}
{{- define "paretoproxy.engines" -}}
{{- $found := list -}}{{- $names := dict -}}
{{- range $model := .Values.config.models -}}
{{- $rewards := $model.reward_model | default list -}}
{{- if kindIs "map" $rewards -}}{{- $rewards = list $rewards -}}{{- end -}}
{{- $pooled := concat $rewards (ternary (list $model.embedding_model) list (not (empty $model.embedding_model))) -}}
{{- range $backend := $model.backends -}}
{{- if and $backend.launch (not $backend.url) -}}
{{- $found = append $found (dict "served" $model.name "backend" $backend) -}}
{{- end -}}
{{- end -}}
{{- range $one := $pooled -}}
{{- if and $one.launch (not $one.url) (not (hasKey $names $one.name)) -}}
{{- $_ := set $names $one.name true -}}
{{- $found = append $found (dict "served" ($one.model | default $one.name) "backend" $one) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* vLLM's arguments, one a line as YAML: of (served name, backend, executor over several nodes or ""), as `paretoproxy up` gives them. */}}
{{- define "paretoproxy.engineArgs" -}}
{{- $served := index . 0 -}}{{- $backend := index . 1 -}}{{- $executor := index . 2 -}}
{{- $flags := dict "model" $backend.launch.model "host" "0.0.0.0" "port" 8000 "served-model-name" $served "tensor-parallel-size" ($backend.tensor_parallel_size | default 1) -}}
{{- with $backend.speculative -}}{{- $_ := set $flags "speculative-config" . -}}{{- end -}}
{{- range $name, $value := ($backend.launch.args | default dict) -}}
{{- $_ := set $flags ($name | replace "_" "-") $value -}}
{{- end -}}
{{- with $executor -}}{{- $_ := set $flags "distributed-executor-backend" . -}}{{- end -}}
{{- range $name, $value := $flags -}}
{{- if kindIs "bool" $value -}}
{{- if $value }}
- --{{ $name }}
{{- end -}}
{{- else if or (kindIs "map" $value) (kindIs "slice" $value) }}
- --{{ $name }}
- {{ toJson $value | quote }}
{{- else if not (kindIs "invalid" $value) }}
- --{{ $name }}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
- {{ int64 $value | toString | quote }}
{{- else }}
- {{ toString $value | quote }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
