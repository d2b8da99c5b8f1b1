{{/* What the charts share; each has a link to this file among its templates. */}}

{{/* Labels of an object. Arguments: root, component. */}}
{{- define "undersong.labels" -}}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: undersong
{{ include "undersong.selector" . }}
{{- end }}

{{/* Labels by which pods are selected; they never change in the life of a release. */}}
{{- define "undersong.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image. Arguments: root, name (undersong-coordinator …). */}}
{{- define "undersong.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := index ($image.digests | default dict) .name -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{ .name }}{{ if $digest }}@{{ $digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The start of a pod's spec. Arguments: root, component, user, grace (seconds). */}}
{{- define "undersong.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false # variables of links, such as COORDINATOR_API_PORT, would pass for settings
terminationGracePeriodSeconds: {{ .grace }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - { name: {{ . }} }
  {{- end }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: { matchLabels: {{ include "undersong.selector" . | fromYaml | toJson }} }
{{- end }}

{{- define "undersong.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Probes of a container that answers over HTTP. Arguments: port (a name), scheme, live, ready. */}}
{{- define "undersong.probes" -}}
startupProbe:
  httpGet: { path: {{ .live }}, port: {{ .port }}, scheme: {{ .scheme }} }
  periodSeconds: 3
  failureThreshold: 200
livenessProbe:
  httpGet: { path: {{ .live }}, port: {{ .port }}, scheme: {{ .scheme }} }
  periodSeconds: 10
  timeoutSeconds: 15
  failureThreshold: 6
readinessProbe:
  httpGet: { path: {{ .ready }}, port: {{ .port }}, scheme: {{ .scheme }} }
  periodSeconds: 5
  timeoutSeconds: 15
{{- end }}

{{/* Volumes of a service's pods. Arguments: root, service, data (name of a claim; empty: gone with the pod), marks. */}}
{{- define "undersong.volumes" -}}
- name: tmp
  emptyDir: { medium: Memory, sizeLimit: 64Mi }
- name: secrets
  secret: { secretName: {{ (index .root.Values .service).secret }}, defaultMode: 0440 }
- name: enrol
  secret: { secretName: {{ (index .root.Values .service).secret }}-enrol, defaultMode: 0440, optional: true }
- name: data
  {{- if .data }}
  persistentVolumeClaim: { claimName: {{ .data }} }
  {{- else }}
  emptyDir: { sizeLimit: 16Mi }
  {{- end }}
{{- if .marks }}
- name: marks
  persistentVolumeClaim: { claimName: {{ .marks }} }
{{- end }}
{{- end }}

{{/* What a service's containers mount. Argument: marks. */}}
{{- define "undersong.mounts" -}}
- { name: tmp, mountPath: /tmp }
- { name: secrets, mountPath: /run/secrets, readOnly: true }
- { name: enrol, mountPath: /run/enrol, readOnly: true }
- { name: data, mountPath: /var/lib/undersong }
{{- if .marks }}
- { name: marks, mountPath: /var/lib/undersong-marks }
{{- end }}
{{- end }}

{{/* Environment variables from a mapping of a service's settings. Arguments: service, settings. */}}
{{- define "undersong.env" -}}
{{- $service := .service -}}
{{- range $name, $value := .settings }}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "string" $value) (empty $value))) }}
- name: {{ printf "%s_%s" $service $name | upper }}
  value: {{ if kindIs "string" $value }}{{ quote $value }}{{ else if or (kindIs "map" $value) (kindIs "slice" $value) }}{{ toJson $value | quote }}{{ else if kindIs "float64" $value }}{{ if eq (floor $value) $value }}{{ printf "%.0f" $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Settings that are the same for every service. Arguments: root, service, port. */}}
{{- define "undersong.settings" -}}
host: 0.0.0.0
port: {{ .port | quote }}
data_dir: /var/lib/undersong
seal_key_file: /run/secrets/seal-key
tls_file: /run/secrets/tls.pem
ca_file: /run/secrets/ca.pem
migrate_on_start: "false"
trusted_proxies: "*" # only the edge reaches it, by its network policy
log_level: {{ .root.Values.logLevel }}
otel_endpoint: {{ .root.Values.otelEndpoint | quote }}
{{- end }}

{{/* A job that brings a service's schema up to date before its new processes start. Arguments: root, service, image,
command, env. */}}
{{- define "undersong.migration" -}}
{{- $component := printf "%s-migrate" .service -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $component }}
  labels: {{- include "undersong.labels" (dict "root" .root "component" $component) | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 6
  activeDeadlineSeconds: 900
  template:
    metadata:
      labels: {{- include "undersong.labels" (dict "root" .root "component" $component) | nindent 8 }}
    spec:
      {{- include "undersong.pod" (dict "root" .root "component" $component "user" 10001 "grace" 30) | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: migrate
          image: {{ include "undersong.image" (dict "root" .root "name" .image) }}
          args: [{{ .command }}]
          env: {{- .env | nindent 12 }}
          {{- include "undersong.security" . | nindent 10 }}
          resources: {{- toYaml .root.Values.resources.migrate | nindent 12 }}
          volumeMounts: {{- include "undersong.mounts" dict | nindent 12 }}
      volumes: {{- include "undersong.volumes" (dict "root" .root "service" .service) | nindent 8 }}
{{- end }}

{{- define "undersong.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .component }}
  labels: {{- include "undersong.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "undersong.selector" . | nindent 6 }}
{{- end }}

{{/* A claim that an uninstalled release leaves behind. Arguments: root, name, component, claim. */}}
{{- define "undersong.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  labels: {{- include "undersong.labels" . | nindent 4 }}
  annotations: { helm.sh/resource-policy: keep }
spec:
  accessModes: {{ toJson .claim.accessModes }}
  {{- with .claim.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources: { requests: { storage: {{ .claim.size }} } }
{{- end }}

{{- define "undersong.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .component }}
  labels: {{- include "undersong.labels" . | nindent 4 }}
spec:
  selector: {{- include "undersong.selector" . | nindent 4 }}
  ports: [{ name: https, port: {{ .port }}, targetPort: https }]
{{- end }}

{{/* Network policies: nothing in the namespace may talk, but for DNS and what other policies allow. */}}
{{- define "undersong.deny" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny
  labels: {{- include "undersong.labels" (dict "root" . "component" "network") | nindent 4 }}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: dns
  labels: {{- include "undersong.labels" (dict "root" . "component" "network") | nindent 4 }}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to: {{- toYaml .Values.network.dns | nindent 8 }}
      ports: [{ protocol: UDP, port: 53 }, { protocol: TCP, port: 53 }]
{{- end }}

{{/* Pods of this release, as a peer of a network policy. Arguments: root, components. */}}
{{- define "undersong.peer" -}}
podSelector:
  matchLabels:
    app.kubernetes.io/name: {{ .root.Chart.Name }}
    app.kubernetes.io/instance: {{ .root.Release.Name }}
  matchExpressions:
    - { key: app.kubernetes.io/component, operator: In, values: {{ toJson .components }} }
{{- end }}

{{/* The port of an address. */}}
{{- define "undersong.port" -}}
{{- $host := (urlParse .).host -}}
{{- if regexMatch ":[0-9]+$" $host }}{{ regexFind "[0-9]+$" $host }}{{ else }}443{{ end }}
{{- end }}

{{/* The edge. Arguments: root, services (name → port). */}}
{{- define "undersong.edge" -}}
{{- $root := .root -}}
{{- $edge := .root.Values.edge -}}
{{- $name := dict "root" .root "component" "edge" -}}
{{- $services := .services -}}
{{- $domain := printf "%s.svc.%s" .root.Release.Namespace .root.Values.clusterDomain -}}
{{- $files := .root.Files -}}
{{- $conf := $files.Get "files/nginx/nginx.conf" | replace "resolver 127.0.0.11 " (printf "resolver %s " $edge.resolver) -}}
{{- $certificates := $files.Get (ternary "files/nginx/certificates.own.conf" "files/nginx/certificates.conf" (not (empty $edge.ownCertificateSecret))) -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: edge
  labels: {{- include "undersong.labels" $name | nindent 4 }}
data:
  nginx.conf: |
    {{- $conf | nindent 4 }}
  certificates.conf: |
    {{- $certificates | nindent 4 }}
  servers.conf: |
    # 700x is published, 800x is for the services.
    {{- range $service, $port := $services }}
    server {
      listen {{ $port }} ssl;
      listen {{ add $port 1000 }} ssl;
      include /etc/nginx/services/{{ $service }}.conf;
    }
    {{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: edge-services
  labels: {{- include "undersong.labels" $name | nindent 4 }}
data:
  {{- range $file := list "common" "problems" }}
  {{ $file }}.conf: |
    {{- $files.Get (printf "files/nginx/services/%s.conf" $file) | nindent 4 }}
  {{- end }}
  {{- range $service, $port := $services }}
  {{ $service }}.conf: |
    {{- regexReplaceAll "set \\$upstream ([a-z-]+):([0-9]+);" ($files.Get (printf "files/nginx/services/%s.conf" $service)) (printf "set $$upstream ${1}.%s:${2};\nproxy_ssl_name ${1};" $domain) | nindent 4 }}
  {{- end }}
---
{{ include "undersong.budget" $name }}
---
apiVersion: v1
kind: Service
metadata:
  name: edge-public
  labels: {{- include "undersong.labels" $name | nindent 4 }}
  {{- with $edge.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $edge.serviceType }}
  {{- if eq $edge.serviceType "LoadBalancer" }}
  externalTrafficPolicy: Local # the limits by address need the caller's own
  {{- end }}
  selector: {{- include "undersong.selector" $name | nindent 4 }}
  ports:
    {{- range $service, $port := $services }}
    - { name: {{ $service }}, port: {{ $port }}, targetPort: {{ $service }} }
    {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: edge
  labels: {{- include "undersong.labels" $name | nindent 4 }}
spec:
  selector: {{- include "undersong.selector" $name | nindent 4 }}
  ports:
    {{- range $service, $port := $services }}
    - { name: {{ $service }}-in, port: {{ add $port 1000 }}, targetPort: {{ $service }}-in }
    {{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: edge
  labels: {{- include "undersong.labels" $name | nindent 4 }}
spec:
  replicas: {{ $edge.replicas }}
  selector:
    matchLabels: {{- include "undersong.selector" $name | nindent 6 }}
  template:
    metadata:
      labels: {{- include "undersong.labels" $name | nindent 8 }}
      annotations:
        checksum/config: {{ printf "%s %s %s %s %s" $conf $certificates (toJson $services) $domain $root.Chart.Version | sha256sum }}
    spec:
      {{- include "undersong.pod" (dict "root" $root "component" "edge" "user" 10002 "grace" 45) | nindent 6 }}
      containers:
        - name: nginx
          image: {{ $edge.image }}
          command: [nginx]
          args: ["-g", "daemon off;"]
          ports:
            {{- range $service, $port := $services }}
            - { name: {{ $service }}, containerPort: {{ $port }} }
            - { name: {{ $service }}-in, containerPort: {{ add $port 1000 }} }
            {{- end }}
          {{- include "undersong.security" . | nindent 10 }}
          {{- $probe := keys $services | sortAlpha | first }}
          startupProbe:
            tcpSocket: { port: {{ $probe }} }
            periodSeconds: 3
            failureThreshold: 40
          livenessProbe:
            tcpSocket: { port: {{ $probe }} }
            periodSeconds: 10
          readinessProbe:
            tcpSocket: { port: {{ $probe }} }
            periodSeconds: 5
          lifecycle: { preStop: { sleep: { seconds: 5 } } }
          resources: {{- toYaml $root.Values.resources.edge | nindent 12 }}
          volumeMounts:
            - { name: tmp, mountPath: /tmp }
            - { name: config, mountPath: /etc/nginx/nginx.conf, subPath: nginx.conf, readOnly: true }
            - { name: config, mountPath: /etc/nginx/servers.conf, subPath: servers.conf, readOnly: true }
            - { name: config, mountPath: /etc/nginx/certificates.conf, subPath: certificates.conf, readOnly: true }
            - { name: services, mountPath: /etc/nginx/services, readOnly: true }
            - { name: secrets, mountPath: /etc/undersong, readOnly: true }
            {{- if $edge.ownCertificateSecret }}
            - { name: own, mountPath: /etc/nginx/own, readOnly: true }
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: { medium: Memory, sizeLimit: 256Mi }
        - name: config
          configMap: { name: edge }
        - name: services
          configMap: { name: edge-services }
        - name: secrets
          secret: { secretName: {{ $edge.secret }}, defaultMode: 0440 }
        {{- if $edge.ownCertificateSecret }}
        - name: own
          secret: { secretName: {{ $edge.ownCertificateSecret }}, defaultMode: 0440 }
        {{- end }}
{{- end }}

{{/* Where Prometheus reads a service's metrics. Arguments: root, service, api, worker (empty: it has none). */}}
{{- define "undersong.monitor" -}}
{{- $components := ternary (list .api .worker | uniq) (list .api) (not (empty .worker)) -}}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ .service }}
  labels: {{- mergeOverwrite (include "undersong.labels" (dict "root" .root "component" .service) | fromYaml) .root.Values.monitoring.labels | toYaml | nindent 4 }}
spec:
  {{- include "undersong.peer" (dict "root" .root "components" $components) | replace "podSelector:" "selector:" | replace "\nmatchExpressions" "\n  matchExpressions" | nindent 2 }}
  podMetricsEndpoints:
    - port: https
      scheme: https
      tlsConfig:
        serverName: {{ .api }}
        ca: { secret: { name: {{ (index .root.Values .service).secret }}, key: ca.pem } }
      relabelings:
        - { targetLabel: job, replacement: undersong }
        - { targetLabel: service, replacement: {{ .service }} }
    {{- if .worker }}
    - port: metrics
      relabelings:
        - { targetLabel: job, replacement: undersong-workers }
        - { targetLabel: service, replacement: {{ .service }} }
    {{- end }}
{{- end }}

{{/* Alerts, records and the dashboard of deploy/prometheus and deploy/grafana. */}}
{{- define "undersong.alerts" -}}
{{- $labels := mergeOverwrite (include "undersong.labels" (dict "root" . "component" "alerts") | fromYaml) .Values.monitoring.labels -}}
{{- range $file := list "alerts" "recording" }}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ $.Chart.Name }}-{{ $file }}
  labels: {{- toYaml $labels | nindent 4 }}
spec: {{- $.Files.Get (printf "files/prometheus/%s.yml" $file) | nindent 2 }}
{{- end }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Chart.Name }}-dashboard
  labels:
    {{- include "undersong.labels" (dict "root" . "component" "dashboard") | nindent 4 }}
    grafana_dashboard: "1" # by which the side car of Grafana's chart finds it
data:
  undersong.json: |
    {{- .Files.Get "files/grafana/undersong.json" | nindent 4 }}
{{- end }}
