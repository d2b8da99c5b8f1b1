{{/* The services with their ports. */}}
{{- define "platform.ports" -}}
coordinator: 7001
aggregator: 7002
registry: 7004
{{- end }}

{{/* Which services each one calls: docs/architecture.md, Parts. */}}
{{- define "platform.needs" -}}
coordinator: [keys, aggregator, registry]
aggregator: [keys, registry, helper]
registry: [keys]
{{- end }}

{{/* Environment of a service's processes. Arguments: root, service, port. */}}
{{- define "platform.env" -}}
{{- $values := .root.Values -}}
{{- $settings := include "undersong.settings" . | fromYaml -}}
{{- $_ := set $settings "coordinator_url" "https://edge:8001" -}}
{{- $_ := set $settings "aggregator_url" "https://edge:8002" -}}
{{- $_ := set $settings "registry_url" "https://edge:8004" -}}
{{- $_ := set $settings "keys_url" $values.peers.keys.url -}}
{{- $_ := set $settings "public_url" (index $values.urls .service) -}}
{{- $_ := set $settings "enrol_token_file" "/run/enrol/token" -}}
{{- $_ := set $settings "worker_metrics_port" "9100" -}}
{{- if eq .service "coordinator" -}}
{{- $_ := set $settings "public_aggregator_url" $values.urls.aggregator -}}
{{- $_ := set $settings "public_registry_url" $values.urls.registry -}}
{{- $_ := set $settings "public_keys_url" ($values.peers.keys.publicUrl | default $values.peers.keys.url) -}}
{{- else if eq .service "aggregator" -}}
{{- $_ := set $settings "helper_url" $values.peers.helper.url -}}
{{- end -}}
{{- $_ := mergeOverwrite $settings (index $values .service).settings -}}
{{- include "undersong.env" (dict "service" .service "settings" $settings) -}}
{{- end }}

{{/* Whether KEDA scales a component. */}}
{{- define "platform.scaled" -}}
{{- if and .root.Values.autoscaling.keda (has .component (list "aggregator-worker" "coordinator-api")) }}true{{ end -}}
{{- end }}
