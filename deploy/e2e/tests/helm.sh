# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The cluster itself: Helm installs a chart, upgrades it, rolls it back and uninstalls it.

chart=$work/chart
mkdir -p "$chart/templates"
cat >"$chart/Chart.yaml" <<'CHART'
apiVersion: v2
name: web
version: 1.0.0
CHART
cat >"$chart/templates/web.yaml" <<CHART
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {index.html: {{ .Values.text | quote }}}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: 2
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
      annotations: {text: {{ .Values.text | sha256sum }}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsUser: 1000}
      terminationGracePeriodSeconds: 1
      volumes: [{name: www, configMap: {name: {{ .Release.Name }}}}]
      containers:
        - name: main
          image: inject.test/busybox:1
          command: [httpd, -f, -p, "8080", -h, /www]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
          securityContext: $hardened
          volumeMounts: [{name: www, mountPath: /www}]
CHART
run_pod - client <<POD
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsUser: 1000}
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: inject.test/busybox:1, command: [sleep, inf], securityContext: $hardened}]
POD

# serves TEXT tells whether each request to the release is answered with TEXT. A pod that ends may
# answer for as long as kube-proxy needs.
serves() {
  local answers
  answers=$(kube exec client -- sh -c 'for i in 1 2 3 4 5 6 7 8; do timeout 5 wget -q -O - http://web/; echo; done' | sort -u) || return 1
  [ "$answers" = "$1" ]
}
# release COMMAND TEXT ARGS... runs Helm, and then checks the answers.
release() {
  local command=$1 text=$2
  shift 2
  helm "$command" web "$@" --wait --timeout 60s >"$work/helm.log" 2>&1 || fail "helm $command failed: $(cat "$work/helm.log")"
  try 20 serves "$text" || fail "after helm $command the Service does not answer with $text"
}
first=$(random) second=$(random)
helm lint "$chart" --set "text=$first" >"$work/helm.log" || fail "helm lint: $(cat "$work/helm.log")"
release install "$first" "$chart" --set "text=$first"
release upgrade "$second" "$chart" --set "text=$second"
release rollback "$first" 1
expect "the release's history" "superseded superseded deployed" "$(helm history web -o json | jq -r '[.[].status] | join(" ")')"
helm uninstall web --wait --timeout 60s >/dev/null
left() {
  kube get deployments,replicasets,pods,services,configmaps,secrets -o name |
    grep -v -e '^configmap/kube-root-ca.crt$' -e '^pod/client$'
}
nothing_left() { [ -z "$(left)" ]; }
try 30 nothing_left || fail "after helm uninstall there are still: $(left | xargs)"
ok "Helm $(helm version --template '{{.Version}}') installs, upgrades, rolls back and uninstalls a chart"
