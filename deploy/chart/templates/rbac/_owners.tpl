{{- /*
The rules of what a pod may have: the pod, and what owns it. Pods of other owners than these are made
by no claimer, and get nothing.
*/ -}}
{{- define "inject.owners" -}}
{{- $resources := dict
  "cronjob-controller" "batch/cronjobs"
  "daemon-set-controller" "apps/daemonsets"
  "deployment-controller" "apps/deployments"
  "job-controller" "batch/jobs"
  "replicaset-controller" "apps/replicasets"
  "replication-controller" "/replicationcontrollers"
  "statefulset-controller" "apps/statefulsets" -}}
{{- $byGroup := dict "" (list "pods") -}}
{{- range .Values.claimers.controllers -}}
{{- $parts := get $resources . | splitn "/" 2 -}}
{{- $_ := set $byGroup $parts._0 (append (get $byGroup $parts._0 | default list) $parts._1) -}}
{{- end -}}
{{- range $group := keys $byGroup | sortAlpha }}
- {apiGroups: [{{ $group | toJson }}], resources: {{ get $byGroup $group | sortAlpha | toJson }}, verbs: [get]}
{{- end }}
- {apiGroups: [flyte.org], resources: [taskactions], verbs: [get]}
{{- $groups := list -}}
{{- range .Values.claimers.operators }}{{ $groups = concat $groups .apiGroups }}{{ end -}}
{{- with without ($groups | uniq | sortAlpha) "flyte.org" }}
# What operators make pods of. The names of their resources are the operators' own.
- {apiGroups: {{ . | toJson }}, resources: ["*"], verbs: [get]}
{{- end }}
{{- end -}}
