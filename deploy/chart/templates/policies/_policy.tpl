{{- /*
What the policies share: how one is named and bound, and the parts of CEL that several contain.

Constants are rendered into the expressions, because an API server may use an old version of a
policy's parameters for as long as it runs (https://github.com/kubernetes/kubernetes/issues/133827).
Every expression is total: it has a value for every object, because an evaluation error denies the
request, of every user.
*/ -}}

{{- /*
inject.policy renders a policy and its binding to the task namespaces.

  root    the chart's root context
  kind    Validating or Mutating
  name    of the template inject.NAME, which is the policy's spec; the policy is inject-NAME
  labels  of the binding, as a map; optional

Their names end in a digest of their spec: a change of either is a new object, whose
creationTimestamp says since when it is in force. The digest is the first 16 hex digits of the
SHA-256 of the spec as JSON with sorted keys, as encoding/json writes it. Here each field that the
API server would set to its default is written out, so that the digest of the object which the API
server returns is the same.
*/ -}}
{{- define "inject.policy" -}}
{{- $spec := fromYaml (include (print "inject." .name) .root) -}}
{{- with $spec.Error }}{{ fail . }}{{ end -}}
{{- $any := dict "namespaceSelector" (dict) "objectSelector" (dict) "matchPolicy" "Equivalent" -}}
{{- range $spec.matchConstraints.resourceRules }}{{ $_ := set . "scope" "Namespaced" }}{{ end -}}
{{- $_ := set $spec "failurePolicy" "Fail" -}}
{{- $_ := set $spec "matchConstraints" (merge $spec.matchConstraints $any) -}}
{{- $name := printf "inject-%s-%s" .name ($spec | toJson | sha256sum | trunc 16) -}}
{{- $namespaces := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" .root.Values.taskNamespaces -}}
{{- $match := merge (dict "namespaceSelector" (dict "matchExpressions" (list $namespaces))) $any -}}
{{- $binding := dict "policyName" $name "matchResources" $match -}}
{{- if eq .kind "Validating" -}}
{{- $audit := eq .root.Values.policies.enforce "audit" -}}
{{- $_ := set $binding "validationActions" (ternary (list "Audit" "Warn") (list "Deny") $audit) -}}
{{- end -}}
apiVersion: admissionregistration.k8s.io/v1
kind: {{ .kind }}AdmissionPolicy
metadata:
  name: {{ $name }}
spec:
  {{- toYaml $spec | nindent 2 }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: {{ .kind }}AdmissionPolicyBinding
metadata:
  name: {{ printf "inject-%s-%s" .name ($binding | toJson | sha256sum | trunc 16) }}
  {{- with .labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- toYaml $binding | nindent 2 }}
{{- end -}}

{{- /* The labels by which a pod says its scope, and that it wants secrets, as a list of CEL. */ -}}
{{- define "inject.labels" -}}
['domain', 'inject-flyte-secrets', 'organization', 'project']
{{- end -}}

{{- /* Whether the annotation k declares a secret, or says something to inject. */ -}}
{{- define "inject.annotation" -}}
(k.startsWith('flyte.secrets/') || k.startsWith('inject.flyte.org/'))
{{- end -}}

{{- /* Whether metadata, which may be an optional, has one of these labels or annotations. */ -}}
{{- define "inject.scoped" -}}
({{ include "inject.labels" . }}.exists(k, k in {{ . }}.?labels.orValue({})) ||
{{ . }}.?annotations.orValue({}).exists(k, {{ include "inject.annotation" . }}))
{{- end -}}

{{- /*
The scope that a map says, as PROJECT/DOMAIN. It is the name of the object that a user must be allowed
to claim. No label's value contains a slash or is "-", so no two scopes have the same name. What is no
text, which only a spec without a schema can have, says nothing.
*/ -}}
{{- define "inject.scope" -}}
['project', 'domain'].map(k,
  type({{ . }}[?k].orValue('')) == string && {{ . }}[?k].orValue('') != '' ? string({{ . }}[k]) : '-').join('/')
{{- end -}}

{{- /*
Whether an object has the owners that it had; blockOwnerDeletion may change. Without the TaskAction at
their root nothing tells a pod of one project from one to which its author gave the labels of another.
The garbage collector is no exception, because each user who may delete an owner can make it give up
the rest.
*/ -}}
{{- define "inject.owned" -}}
oldObject != null && (dyn(object).?metadata.?ownerReferences == dyn(oldObject).?metadata.?ownerReferences ||
  [dyn(object).?metadata.?ownerReferences.orValue([])].all(now,
    [dyn(oldObject).?metadata.?ownerReferences.orValue([])].all(before,
      now.all(r, before.exists(b, b.apiVersion == r.apiVersion && b.kind == r.kind && b.name == r.name &&
        b.uid == r.uid && b.?controller == r.?controller)) &&
      before.all(b, now.exists(r, r.uid == b.uid)))))
{{- end -}}

{{- /*
Whether the user may claim, of a list with the root context and an expression: the scope that it names, or
every scope of the namespace if it is "". The API server asks its authorizer, so that RBAC decides, or
another one that it has. An account of a task namespace claims nothing, whatever its roles say: the author
of a task of any project chooses the account that the task runs as.
*/ -}}
{{- define "inject.claim" -}}
({{ with (index . 0).Values }}{{ if not .policies.acceptUnprotected -}}
!(request.userInfo.username.startsWith('system:serviceaccount:') && {{ "" -}}
request.userInfo.username.split(':')[2] in {{ .taskNamespaces | toJson }}) && {{ end }}{{ end -}}
authorizer.group('inject.flyte.org').resource('scopes').namespace(request.namespace)
{{- with index . 1 }}.name({{ . }}){{ end }}.check('claim').allowed())
{{- end -}}

{{- /*
The pod of this namespace whose token the user has, as NAME/UID, or ''. The API server vouches for
it: it takes these values from the token.
*/ -}}
{{- define "inject.maker" -}}
request.userInfo.username.startsWith('system:serviceaccount:' + request.namespace + ':') &&
request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'][?0].orValue('') != '' &&
request.userInfo.?extra[?'authentication.kubernetes.io/pod-uid'][?0].orValue('') != '' ?
  request.userInfo.extra['authentication.kubernetes.io/pod-name'][0] + '/' +
  request.userInfo.extra['authentication.kubernetes.io/pod-uid'][0] : ''
{{- end -}}

{{- /* The resources with a pod template whose pods a controller of Kubernetes makes. */ -}}
{{- define "inject.templates" -}}
- {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [podtemplates, replicationcontrollers]}
- apiGroups: [apps]
  apiVersions: [v1]
  operations: [CREATE, UPDATE]
  resources: [daemonsets, deployments, replicasets, statefulsets]
- {apiGroups: [batch], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [cronjobs, jobs]}
{{- end -}}

{{- /*
The pod template of an object of these resources, or a pod itself, as a map with metadata and spec.
It is empty if there is none.
*/ -}}
{{- define "inject.template" -}}
({{ . }} == null ? optional.none() :
 request.kind.kind in ['Binding', 'Pod'] ? optional.of(dyn({{ . }})) :
 request.kind.kind == 'PodTemplate' ? dyn({{ . }}).?template :
 request.kind.kind == 'CronJob' ? dyn({{ . }}).?spec.?jobTemplate.?spec.?template :
 dyn({{ . }}).?spec.?template).orValue({})
{{- end -}}

{{- /* All containers of the pod whose spec is a variable of this name, as a list. */ -}}
{{- define "inject.containers" -}}
variables.spec.?containers.orValue([]) + variables.spec.?initContainers.orValue([]) +
variables.spec.?ephemeralContainers.orValue([])
{{- end -}}

{{- /* The accounts of Flyte's own services, as a list of user names. */ -}}
{{- define "inject.flyte" -}}
{{- $all := list -}}
{{- range .Values.claimers.accounts -}}
{{- $all = append $all (printf "system:serviceaccount:%s:%s" .namespace .name) -}}
{{- end -}}
{{- $all | uniq | sortAlpha | toJson -}}
{{- end -}}
