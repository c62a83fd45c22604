{{/* A full image reference: a name without digest or tag gets the chart's version as its tag. */}}
{{- define "perwatt.image" -}}
{{- $name := index . 0 -}}{{- $root := index . 1 -}}
{{- $last := splitList "/" $name | last -}}
{{- if or (contains "@" $last) (contains ":" $last) -}}
{{ $root.Values.images.repository }}/{{ $name }}
{{- else -}}
{{ $root.Values.images.repository }}/{{ $name }}:{{ $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "perwatt.labels" -}}
app.kubernetes.io/part-of: perwatt
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What restricted Pod Security asks of a pod. */}}
{{- define "perwatt.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "perwatt.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
