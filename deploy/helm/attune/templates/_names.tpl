{{- define "attune.name" -}}
{{- if contains "attune" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-attune" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "attune.selector" -}}
app.kubernetes.io/name: attune
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "attune.labels" -}}
{{ include "attune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: attune
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "attune.server" -}}
{{ include "attune.selector" (merge (dict "component" "server") .) }}
{{- end }}

{{- define "attune.image" -}}
{{ .Values.image.repository }}:{{ default (ternary "gpu" "cpu" .Values.gpu.enabled) .Values.image.tag }}
{{- end }}

{{- define "attune.secret" -}}
{{ default (include "attune.name" .) .Values.secret.existing }}
{{- end }}

{{- define "attune.claim" -}}
{{ default (printf "%s-bundles" (include "attune.name" .)) .Values.bundle.claim.existing }}
{{- end }}

{{- /* A value as the environment has it: Helm reads whole numbers as floats, which it writes as 1.048576e+06, and lists as [a b]. */}}
{{- define "attune.written" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ toString . }}
{{- end }}
{{- end }}

{{- define "attune.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "attune.pod-security" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "attune.fetch" -}}
image: {{ include "attune.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [bundle, fetch, {{ required "bundle.url: where the bundle is fetched from" .Values.bundle.url | quote }}, --out, /bundles, --link, {{ .Values.bundle.path | quote }}]
{{- with .Values.bundle.credentials }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
# Equal, as the server's are: one container without limits, and Kubernetes guarantees the pod nothing.
resources:
  requests: {cpu: "1", memory: 512Mi}
  limits: {cpu: "1", memory: 512Mi}
securityContext: {{- include "attune.container-security" . | nindent 2 }}
volumeMounts:
  - {name: bundles, mountPath: /bundles}
  - {name: tmp, mountPath: /tmp}
{{- end }}
