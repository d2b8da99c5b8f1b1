{{/* The services with their ports. */}}
{{- define "keys.ports" -}}
keys: 7003
{{- if .Values.helper.enabled }}
helper: 7005
{{- end }}
{{- end }}

{{/* Deployment and Service of each: by these names the edge reaches them. */}}
{{- define "keys.component" -}}
{{ ternary "keys-api" "keys-helper" (eq . "keys") }}
{{- end }}

{{/* Environment of a service's processes. Arguments: root, service, port. */}}
{{- define "keys.env" -}}
{{- $values := .root.Values -}}
{{- $settings := include "undersong.settings" . | fromYaml -}}
{{- $_ := set $settings "keys_url" "https://edge:8003" -}}
{{- $_ := set $settings "public_url" (index $values.urls .service) -}}
{{- $_ := set $settings "high_water_file" "/var/lib/undersong-marks/high-water" -}}
{{- if eq .service "keys" -}}
{{- $_ := set $settings "worker_metrics_port" "9100" -}}
{{- else -}}
{{- $_ := set $settings "enrol_token_file" "/run/enrol/token" -}}
{{- end -}}
{{- $_ := mergeOverwrite $settings (index $values .service).settings -}}
{{- include "undersong.env" (dict "service" .service "settings" $settings) -}}
{{- end }}
