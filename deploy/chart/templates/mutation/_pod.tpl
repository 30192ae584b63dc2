{{- /*
What mutation adds to a pod, and when. The policy inject-mutation changes pods by it, and the policy
inject-injected says by it why one was not changed. The server of the mode webhook does the same in Go, and
the pods in testdata/pods hold the two together.
*/ -}}

{{- /*
inject.cel writes a value of YAML as an expression of CEL. Kubernetes' CEL refuses lists and maps of mixed
types, so what is in a map is dyn.
*/ -}}
{{- define "inject.cel" -}}
{{- if kindIs "map" . -}}
{{- $all := list -}}
{{- range $key, $value := . }}{{ $all = append $all (printf "%s: dyn(%s)" (toJson $key) (include "inject.cel" $value)) }}{{ end -}}
{ {{- join ", " $all -}} }
{{- else if kindIs "slice" . -}}
{{- $all := list -}}
{{- range . }}{{ $all = append $all (include "inject.cel" .) }}{{ end -}}
[{{ join ", " $all }}]
{{- else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{- /*
The label of what changes pods. By it injectd doctor knows that nodes without volumes of images start no task.
*/ -}}
{{- define "inject.delivery" -}}
inject.flyte.org/delivery: {{ .Values.mutation.delivery }}
{{- end -}}

{{- /* The volumes. The token is for injectd only. The CA appears in a pod that began before it was there. */ -}}
{{- define "inject.volumes" -}}
- name: inject
  {{- if eq .Values.mutation.delivery "image" }}
  image:
    reference: {{ include "inject.image" (dict "root" . "name" "inject") | toJson }}
    pullPolicy: {{ .Values.images.pullPolicy }}
  {{- else }}
  # Not in memory: the program would count in the memory of the container that copies it.
  emptyDir: {sizeLimit: 64Mi}
  {{- end }}
- name: inject-pod
  projected:
    defaultMode: 0444
    sources:
    - serviceAccountToken: {path: token, audience: inject, expirationSeconds: 600}
    - downwardAPI:
        items:
        - {path: labels, fieldRef: {fieldPath: metadata.labels}}
        - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
    - configMap: {name: inject-ca, optional: true, items: [{key: ca.crt, path: ca.crt}]}
{{- if not .Values.mutation.coexist }}
- name: inject-files
  emptyDir: {medium: Memory}
{{- end }}
{{- end -}}

{{- /* The mounts of the task's container. */ -}}
{{- define "inject.mounts" -}}
- {name: inject, mountPath: /inject, readOnly: true}
- {name: inject-pod, mountPath: /run/inject, readOnly: true}
{{- if not .Values.mutation.coexist }}
- {name: inject-files, mountPath: /etc/flyte/secrets}
{{- end }}
{{- end -}}

{{- /* The init container, which Pod Security's restricted admits. It also runs as the user of the pod. */ -}}
{{- define "inject.init" -}}
name: inject
image: {{ include "inject.image" (dict "root" . "name" "inject") | toJson }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
args: [init, --copy-to, /copy]
volumeMounts: [{name: inject, mountPath: /copy}]
resources: {{ .Values.mutation.resources | toJson }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  {{- include "inject.restricted" . | nindent 2 }}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /*
Whether a name of an image is that of inject, of a list with the root context and the name as an optional. Its
registry, its folder there and its version do not matter: the chart before an upgrade may have had others.
*/ -}}
{{- define "inject.ours" -}}
{{- $name := base (index . 0).Values.images.inject.repository -}}
[{{ printf "/%s:" $name | toJson }}, {{ printf "/%s@" $name | toJson }}].exists(name, ('/' + {{ index . 1 }}.orValue('')).contains(name))
{{- end -}}

{{- /* The annotation that says the entrypoint of an image. */ -}}
{{- define "inject.entrypoint" -}}inject.flyte.org/entrypoint{{- end -}}

{{- /*
What the two policies know of a pod. A pod may be invalid when it is changed, so that any field may be missing.
*/ -}}
{{- define "inject.pod" -}}
- name: annotations
  expression: dyn(object).metadata.?annotations.orValue({})
- name: labels
  expression: dyn(object).metadata.?labels.orValue({})
- name: spec
  expression: dyn(object).?spec.orValue({})
# It is null if it is missing, because its field is always written.
- name: containers
  expression: "type(variables.spec.?containers.orValue([])) == list ? variables.spec.containers : []"
- name: initContainers
  expression: variables.spec.?initContainers.orValue([])
- name: volumes
  expression: variables.spec.?volumes.orValue([])
- name: names
  expression: variables.containers.map(c, c.?name.orValue(''))
# The annotations that name the task's container. The first of them counts, as in Flyte:
# https://github.com/flyteorg/flyte/blob/v2.0.43/flyteplugins/go/tasks/pluginmachinery/flytek8s/pod_helper.go
- name: naming
  expression: |-
    ['kubectl.kubernetes.io/default-container', 'primary_container_name'].filter(k,
      variables.annotations[?k].orValue('') != '')
# Flyte writes no annotation into a pod of several containers. Its SDK calls the task's one primary, unless the author
# says another name.
- name: primary
  expression: |-
    size(variables.naming) > 0 ? variables.annotations[variables.naming[0]] :
    dyn(object).metadata.?name.orValue('') in variables.names ? dyn(object).metadata.?name.orValue('') :
    size(variables.names) == 1 ? variables.names[0] :
    'primary' in variables.names ? 'primary' : ''
- name: index
  expression: variables.names.indexOf(variables.primary)
- name: container
  expression: "variables.index < 0 ? {} : variables.containers[variables.index]"
- name: image
  expression: variables.container.?image.orValue('')
- name: command
  expression: variables.container.?command.orValue([])
- name: args
  expression: variables.container.?args.orValue([])
- name: mounts
  expression: variables.container.?volumeMounts.orValue([])
# The pod runs inject already: it is a copy of a changed one, or this is a second pass. What a version
# may change is not compared, because the policies of two versions are in force during an upgrade.
- name: changed
  expression: |-
    size(variables.command) > 1 && variables.command[0] == '/inject/inject' && variables.command[1] == 'run' &&
    [['inject', '/inject'], ['inject-pod', '/run/inject']].all(ours, variables.mounts.exists(m,
      m.?name.orValue('') == ours[0] && m.?mountPath.orValue('') == ours[1] && m.?readOnly.orValue(false))) &&
    variables.volumes.exists(v, v.?name.orValue('') == 'inject-pod' && has(v.projected)) &&
    variables.volumes.exists(v, v.?name.orValue('') == 'inject' && (has(v.emptyDir) ?
      variables.initContainers.exists(c, c.?name.orValue('') == 'inject' &&
        {{ include "inject.ours" (list . "c.?image") }}) :
      {{ include "inject.ours" (list . "v.?image.?reference") }}))
# What is in the pod under a name, or at a path, that is ours. Empty if it is there because we changed the pod.
- name: taken
  expression: |-
    variables.changed ? [] :
    ['inject', 'inject-files', 'inject-pod'].filter(n, variables.volumes.exists(v, v.?name.orValue('') == n))
      .map(n, 'volume ' + n) +
    (variables.containers + variables.initContainers).filter(c, c.?name.orValue('') == 'inject').map(c, 'container inject')
- name: mounted
  expression: |-
    variables.changed ? [] : variables.mounts.map(m, m.?mountPath.orValue('')).filter(p, p.matches(
      r'^/*(inject|run/+inject{{ if not .Values.mutation.coexist }}|etc/+flyte/+secrets{{ end }})(/.*)?$'))
- name: said
  expression: variables.annotations[?'{{ include "inject.entrypoint" . }}'].orValue('')
# A list of strings as JSON has it, without escapes: CEL has no JSON. Longer ones could cost too much.
- name: wellSaid
  expression: |-
    size(variables.said) <= 4096 && variables.said.matches(
      r'^[ \t\r\n]*\[[ \t\r\n]*("[^"\\\x00-\x1f]+"([ \t\r\n]*,[ \t\r\n]*"[^"\\\x00-\x1f]*")*[ \t\r\n]*)?\][ \t\r\n]*$')
- name: first
  expression: "size(variables.args) > 0 ? variables.args[0] : ''"
# Programs that Flyte itself has in a container's args without a command: its runtimes, and those of its
# plugin dask (flyteplugins/go/tasks/plugins/k8s/dask/dask.go).
- name: path
  expression: variables.first.split('/')
- name: runtime
  expression: |-
    variables.path[size(variables.path) - 1] in [
      'a0', 'clustered', 'dask-scheduler', 'dask-worker', 'fserve',
      'pyflyte-execute', 'pyflyte-fast-execute', 'pyflyte-map-execute']
# What the image runs if the container has no command, as words of a command. None if that is not known. The
# words run as they are: of a command, unlike an image's entrypoint, kubelet makes $ of $$ and a value of $(NAME).
- name: entrypoint
  expression: |-
    '{{ include "inject.entrypoint" . }}' in variables.annotations ? (
      !variables.wellSaid ? optional.none() :
      optional.of(variables.said.replace('$', '$$').findAll('"[^"]*"').map(s, s.substring(1, size(s) - 1)))) :
    {{- range .Values.mutation.entrypoints }}
    variables.image.startsWith({{ .image | toJson }}) ? optional.of({{ include "inject.cel" .command | replace "$" "$$" }}) :
    {{- end }}
    variables.runtime ? {{ if eq .Values.mutation.pythonEntrypoint "none" }}optional.of([]){{ else }}optional.none(){{ end }} :
    {{- if eq .Values.mutation.rawEntrypoint "none" }}
    variables.first.startsWith('/') ? optional.of([]) :
    {{- end }}
    optional.none()
# The command that inject runs, without the args.
- name: runs
  expression: "size(variables.command) > 0 ? optional.of(variables.command) : variables.entrypoint"
{{- end -}}

{{- /*
When a pod is changed, and the words for its author if it is not. What the author of a task asked for is
Invalid: Flyte does not try it again.
*/ -}}
{{- define "inject.rules" -}}
- expression: size(variables.naming) > 0 || variables.primary != ''
  message: >-
    the pod has several containers, and none has its name or is called primary; name the task's in the annotation
    primary_container_name, as flyte.PodTemplate(annotations={"primary_container_name": "main"}) does
- expression: variables.primary == '' || variables.index >= 0
  message: an annotation names a container that the pod does not have
  messageExpression: |-
    'the annotation ' + (size(variables.naming) > 0 ? variables.naming[0] : '') + ' names the container ' +
    variables.primary + ', which the pod does not have; it has ' + variables.names.join(', ')
- expression: |-
    variables.spec.?os.?name.orValue('') != 'windows' &&
    variables.spec.?nodeSelector[?'kubernetes.io/os'].orValue('') != 'windows'
  message: >-
    a Windows pod cannot run inject; let the pod run on Linux (spec.os.name, nodeSelector kubernetes.io/os), or let the
    task declare no secrets
- expression: |-
    !variables.spec.?hostNetwork.orValue(false) ||
    variables.spec.?dnsPolicy.orValue('') == 'ClusterFirstWithHostNet'
  message: >-
    a pod with hostNetwork does not find the store by its name; remove hostNetwork or, where it is allowed, add
    dnsPolicy: ClusterFirstWithHostNet
- expression: "['project', 'domain'].all(k, variables.labels[?k].orValue('') != '')"
  message: the pod wants secrets and has no label project or domain; add it
  messageExpression: |-
    'the pod wants secrets and has no label ' +
    ['project', 'domain'].filter(k, variables.labels[?k].orValue('') == '').join(' and no label ') +
    '; add it: a secret belongs to a project and a domain'
- expression: size(variables.taken) == 0
  message: the names inject, inject-files and inject-pod are reserved; rename what has one of them in the pod
  messageExpression: |-
    'the pod has the ' + variables.taken.join(' and the ') +
    ', which inject needs for its own; rename what has this name'
- expression: size(variables.mounted) == 0
  message: the folders /inject, /run/inject and /etc/flyte/secrets are reserved; mount elsewhere
  messageExpression: |-
    'the container ' + variables.primary + ' has a mount at ' + variables.mounted.join(' and at ') +
    ', where inject has its own; mount the volume elsewhere'
- expression: "!('{{ include "inject.entrypoint" . }}' in variables.annotations) || variables.wellSaid"
  message: >-
    the annotation {{ include "inject.entrypoint" . }} is not a JSON list of strings without escapes, of which the first
    is not empty, of at most 4096 characters; write it as ["/opt/run.sh","-x"], or as [] for an image without entrypoint
- expression: variables.changed || variables.runs.hasValue() && size(variables.runs.value() + variables.args) > 0
  message: the task's container has no command, and the entrypoint of its image is not known
  messageExpression: |-
    'the container ' + variables.primary + ' has no command' +
    (variables.runs.hasValue() ? ' and no args, so that there is nothing to run; add args, or' :
      ', and the entrypoint of its image ' + variables.image + ' is not known; add a command, or') +
    ' the annotation {{ include "inject.entrypoint" . }} with the entrypoint of the image as a JSON list, such as ["/opt/run.sh"]' +
    (variables.runs.hasValue() ? '' : ', or [] if it has none')
{{- end -}}
