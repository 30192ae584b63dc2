{{- /* What the templates of several programs share. */ -}}

{{- /*
inject.image is the image of a program. root is the chart's root context, name is inject or injectd. A
registry must be given: without one, a node would take an image of this name from Docker Hub, which is not
ours.
*/ -}}
{{- define "inject.image" -}}
{{- $images := .root.Values.images -}}
{{- $image := get $images .name -}}
{{- $registry := required "images.registry: the registry that has the images inject and injectd" $images.registry -}}
{{- printf "%s/%s" (trimSuffix "/" $registry) $image.repository -}}
{{- with $image.digest }}@{{ . }}{{ else }}:{{ $images.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- /*
The address of the store for pods. The dot at its end says that the name is whole. Without it a resolver
tries the search domains of the pod first, and a Service of the task's own namespace could answer.
*/ -}}
{{- define "inject.store" -}}
grpcs://injectd.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}.:8093
{{- end -}}

{{- /* The labels of the chart's objects that a person may look for. */ -}}
{{- define "inject.common" -}}
app.kubernetes.io/part-of: inject
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /*
inject.selector has the labels that select the pods of a program, and inject.common those of its objects.

  root  the chart's root context
  name  of the program
*/ -}}
{{- define "inject.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- /*
inject.placement is the part of a pod's spec that says where a program runs.

  root    the chart's root context
  name    of the program
  values  of the program
*/ -}}
{{- define "inject.placement" -}}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
affinity:
{{- with .values.affinity }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  # Not a constraint below: where no node has a zone, the scheduler would leave all constraints out of account.
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: topology.kubernetes.io/zone
        labelSelector:
          matchLabels:
            {{- include "inject.selector" $ | nindent 12 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
topologySpreadConstraints:
- topologyKey: kubernetes.io/hostname
  maxSkew: 1
  whenUnsatisfiable: {{ .values.spread }}
  # Of the pods of one version: those of the version before go away during an upgrade.
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- include "inject.selector" . | nindent 6 }}
{{- end -}}

{{- /* What a container of a program may not do. */ -}}
{{- define "inject.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /*
How pods come to run inject: policy, webhook or off. See mutation.mode in values.yaml. YAML reads off as
false.
*/ -}}
{{- define "inject.mode" -}}
{{- $mode := .Values.mutation.mode | default "off" -}}
{{- $policies := semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
{{- $audit := eq .Values.policies.enforce "audit" -}}
{{- if and $audit (has $mode (list "policy" "webhook")) -}}
{{- $why := "injectd serves no pod while policies.enforce is audit, so that each task would fail" -}}
{{- fail (printf "mutation.mode %s: %s; use auto or off" $mode $why) -}}
{{- end -}}
{{- if and (eq $mode "policy") (not $policies) -}}
{{- $why := "MutatingAdmissionPolicies are in Kubernetes 1.36 and later" -}}
{{- fail (printf "mutation.mode policy: %s, and this is %s; use webhook" $why .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if ne $mode "auto" }}{{ $mode -}}
{{- else if $audit }}off{{ else if $policies }}policy{{ else }}webhook{{ end -}}
{{- end -}}

{{- /*
The command that inject has in every pod, as JSON. Flags that depend on the pod come after it.

An image can set variables of inject, which no admission sees. So each flag that could weaken what the chart
promises is here with its value, the usual one too, because a flag wins over its variable. An empty --on-conflict
is the usual one.
*/ -}}
{{- define "inject.command" -}}
{{- $command := list "/inject/inject" "run" "--store" (include "inject.store" .) "--pod-info" "/run/inject" -}}
{{- $command = concat $command (list "--token-file" "/run/inject/token" "--ca-file" "/run/inject/ca.crt") -}}
{{- $command = concat $command (list "--no-redact=false" "--redact-min-length" "6" "--on-leak" "mask") -}}
{{- concat $command (list "--on-conflict=" "--storage" (.Values.mutation.storage | default "off")) | toJson -}}
{{- end -}}
