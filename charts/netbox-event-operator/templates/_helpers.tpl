{{- define "netbox-event-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of all objects. 50 characters leave room for suffixes. */}}
{{- define "netbox-event-operator.fullname" -}}
{{- $name := include "netbox-event-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The name of cluster-wide objects: another namespace may have a release of the same name. */}}
{{- define "netbox-event-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "netbox-event-operator.fullname" .) | trunc 200 }}
{{- end }}

{{- define "netbox-event-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "netbox-event-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: netbox-event-operator
{{- with omit .Values.commonLabels "app.kubernetes.io/name" "app.kubernetes.io/instance" }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "netbox-event-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "netbox-event-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "netbox-event-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "netbox-event-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is required if serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "netbox-event-operator.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{/* The namespaces that the operator watches, as {"all": bool, "names": [...]}. */}}
{{- define "netbox-event-operator.watched" -}}
{{- $names := .Values.watchNamespaces | default (list .Release.Namespace) | uniq -}}
{{- if has "*" $names -}}
{{- if gt (len $names) 1 -}}
{{- fail "watchNamespaces must be either [\"*\"], for all namespaces, or a list of names" -}}
{{- end -}}
{{- dict "all" true "names" list | toJson -}}
{{- else -}}
{{- dict "all" false "names" $names | toJson -}}
{{- end -}}
{{- end }}

{{/* The rules of a role that controller-gen generated from the code's markers: include with (list $ name). */}}
{{- define "netbox-event-operator.rules" -}}
{{- $top := index . 0 -}}{{- $name := index . 1 -}}
{{- range splitList "---\n" ($top.Files.Get "files/role.yaml") -}}
{{- $role := fromYaml . -}}
{{- if and $role (eq (dig "metadata" "name" "" $role) $name) -}}
{{- toYaml $role.rules -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Not empty if lookup queries a cluster: without one it returns nothing, as for objects that do not exist. Every namespace has this service account,
but the release's namespace may not exist yet; then the user who creates it may also read another namespace.
*/}}
{{- define "netbox-event-operator.seesCluster" -}}
{{- if or (lookup "v1" "ServiceAccount" .Release.Namespace "default") (lookup "v1" "Namespace" "" "default") -}}
true
{{- end -}}
{{- end }}

{{/* The requirements of the Pod Security level "restricted", and a read-only root file system, unless values replace them. */}}
{{- define "netbox-event-operator.podSecurityContext" -}}
{{- with .Values.podSecurityContext -}}
{{- toYaml . -}}
{{- else -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end }}

{{- define "netbox-event-operator.securityContext" -}}
{{- with .Values.securityContext -}}
{{- toYaml . -}}
{{- else -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
{{- end }}

{{- define "netbox-event-operator.tlsSecretName" -}}
{{- if .Values.tls.secretName -}}
{{ .Values.tls.secretName }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "netbox-event-operator.fullname" . }}-webhook-tls
{{- else -}}
{{- fail "tls.enabled requires tls.secretName or tls.certManager.enabled" -}}
{{- end -}}
{{- end }}

{{- define "netbox-event-operator.servicePort" -}}
{{- default (ternary 443 80 .Values.tls.enabled) .Values.service.port -}}
{{- end }}
