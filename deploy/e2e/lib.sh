# shellcheck shell=bash
# Functions for the tests in tests/. test.sh sources this file and then each test, one after the
# other. Each test has a subshell and a namespace of its own. The namespace accepts only pods that
# meet the Pod Security Standard "restricted". test.sh sets
#   here  this folder
#   work  the temporary folder of the run, with the cluster in it

fail() { echo "FAIL deploy/e2e: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }

# expect NAME WANT GOT fails unless GOT is WANT. NAME is for the error.
expect() { [ "$3" = "$2" ] || fail "$1 is '$3', expected '$2'"; }

# try SECONDS CMD... repeats CMD until it succeeds. It fails after SECONDS.
try() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# random prints 24 random hexadecimal digits, which are the same in every quoting.
random() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }

# The securityContext that a restricted namespace demands, with a read-only root file system.
# shellcheck disable=SC2034 # the tests use it
hardened='{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}'

# kube ARGS... runs kubectl in the test's namespace.
# shellcheck disable=SC2154 # set by test.sh
kube() { "$here/cluster.sh" exec "$work" kubectl --namespace "$namespace" "$@"; }

# helm ARGS... runs Helm in the test's namespace.
helm() { "$here/cluster.sh" exec "$work" helm --namespace "$namespace" "$@"; }

# new_namespace NAME makes the namespace NAME, which is $namespace from then on.
new_namespace() {
  namespace=$1
  kube create namespace "$namespace" >/dev/null
  kube label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
  # Pods are refused until the service account exists, a moment later.
  kube wait --for=create --timeout=30s serviceaccount/default >/dev/null
}

# run_pod FILE NAME creates the objects in FILE (- for stdin), and waits until the pod NAME has
# started or ended.
run_pod() {
  kube create -f "$1" >/dev/null || fail "$1 was refused"
  try 60 phase_is "$2" Running Succeeded Failed || fail "the pod $2 did not start"
}

# load_image NAME FLAGS... makes the image inject.test/NAME:1, which has busybox, and loads it.
# shellcheck disable=SC2154 # set by test.sh
load_image() {
  local name=$1
  shift
  image "$name" "${applets[@]}" "$@" "$busybox=/bin/busybox"
  "$here/cluster.sh" load "$work" "$work/images/$name.tar"
}

# injectd_parts makes what servers of injectd need in the test's namespace: the Secret tls with a
# certificate of the Service injectd. $work/tls.crt is the certificate, and its own authority.
injectd_parts() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=injectd \
    -addext "subjectAltName=DNS:injectd.$namespace.svc,DNS:injectd.$namespace.svc.cluster.local" -keyout "$work/tls.key" -out "$work/tls.crt" 2>"$work/openssl" ||
    fail "no certificate: $(cat "$work/openssl")"
  kube create secret generic tls --from-file=ca.crt="$work/tls.crt" --from-file="$work/tls.crt" \
    --from-file="$work/tls.key" >/dev/null
}

# flyte_parts makes what a release of the chart needs: the namespace $tasks, in which the account $flyte makes
# pods as Flyte's services do, and the values $work/values.yaml. $secrets is the namespace of the secrets.
# shellcheck disable=SC2034 # the tests use them
flyte_parts() {
  tasks=$namespace-tasks secrets=$namespace-secrets flyte=system:serviceaccount:$namespace:flyte
  (new_namespace "$tasks") # in a subshell: the test's own stays $namespace
  kube create serviceaccount flyte >/dev/null
  kube -n "$tasks" create role maker --resource=pods --verb=create >/dev/null
  kube -n "$tasks" create rolebinding maker --role=maker --serviceaccount="$namespace:flyte" >/dev/null
  cat >"$work/values.yaml" <<VALUES
images: {registry: inject.test, tag: "1"}
taskNamespaces: [$tasks]
secretsNamespace: $secrets
claimers: {accounts: [{namespace: $namespace, name: flyte}]}
# Pods must be younger than the policies by so much.
injectd: {extraArgs: [--kube-identity-margin=2s]}
VALUES
}
in_tasks() { namespace=$tasks "$@"; }

# What the pods of task declare, as annotations of Flyte, and the script that they run.
declared=(--secret MY_SECRET_KEY)
# shellcheck disable=SC2016 # the shell in the pod expands it
script='echo "$MY_SECRET_KEY"; printf %s "$MY_SECRET_KEY" | sha256sum'

# task NAME prints a pod as Flyte makes it of a raw container: without a word of inject. Its security context is
# its author's, who must meet what the namespace demands.
task() {
  cat <<POD
---
apiVersion: v1
kind: Pod
metadata:
  name: $1
  labels: {organization: flyte, project: fraud, domain: development, inject-flyte-secrets: "true"}
  annotations:
$("$work/inject" explain "${declared[@]}" -o annotations | sed -n 's,^ *flyte.secrets/,    &,p')
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000}
  containers:
    - name: $1
      image: inject.test/busybox:1
      args: [/bin/sh, -c, '$script']
      securityContext: $hardened
POD
}

# as_flyte ARGS... runs kubectl create as Flyte's account.
as_flyte() { in_tasks kube --as "$flyte" create "$@"; }

# created NAME makes the pod of a task as Flyte does, and tells whether it was taken. If not, $work/created has
# the answer of the API server.
created() { task "$1" | as_flyte -f - >"$work/created" 2>&1; }
# start_task NAME fails unless the pod is taken.
start_task() { created "$1" || fail "Flyte is told: $(cat "$work/created")"; }

# masked NAME VALUE waits for the pod, and fails unless it had the value, and its log has a mask in its place.
masked() {
  in_tasks wait_done "$1" 120
  expect "the log of $1" "[REDACTED:MY_SECRET_KEY]
$(printf %s "$2" | sha256sum)" "$(in_tasks logs "$1" -c "$1")"
}

# people_values writes further values of the chart, by which the servers know the account people as that of a
# person who manages secrets. Give release "${people[@]}".
# shellcheck disable=SC2034 # the tests use it
people_values() {
  local own=/var/run/secrets/kubernetes.io/serviceaccount issuer=https://kubernetes.default.svc
  cat >"$work/people.yaml" <<VALUES
policy:
  rules:
  - name: people
    identity: {issuer: "$issuer", subject: "system:serviceaccount:$namespace:people"}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
networkPolicy: {from: [{podSelector: {}}]}
injectd:
  extraArgs:
  - --kube-identity-margin=2s
  - --jwt=issuer=$issuer,audience=injectd,keys=$issuer/openid/v1/jwks,ca=$own/ca.crt,token=$own/token
VALUES
  people=(--values "$work/people.yaml")
}
# people_parts makes that account, and a pod for person.
people_parts() {
  kube create serviceaccount people >/dev/null
  run_pod - people <<POD
apiVersion: v1
kind: Pod
metadata: {name: people}
spec:
  automountServiceAccountToken: false
  serviceAccountName: people
  terminationGracePeriodSeconds: 0
  volumes:
    - {name: token, projected: {sources: [{serviceAccountToken: {audience: injectd, path: token}}]}}
    - {name: authority, configMap: {name: inject-ca}}
  containers:
    - name: main
      image: inject.test/task:1
      command: [sleep, inf]
      env:
        - {name: INJECT_STORE, value: "grpcs://injectd.$namespace.svc:8093"}
        - {name: INJECT_TOKEN_FILE, value: /token/token}
        - {name: INJECT_CA_FILE, value: /authority/ca.crt}
      securityContext: $hardened
      volumeMounts: [{name: token, mountPath: /token, readOnly: true}, {name: authority, mountPath: /authority, readOnly: true}]
POD
}
# person ARGS... runs inject as that person.
person() { kube exec -i people -- /inject "$@"; }

# release COMMAND ARGS... installs or upgrades the chart, and waits until its servers are ready and pods can
# trust them.
# shellcheck disable=SC2154 # set by test.sh
release() {
  helm "$1" inject "$root/deploy/chart" --values "$work/values.yaml" "${@:2}" --wait --timeout 120s >"$work/helm.log" 2>&1 ||
    fail "helm $1 failed: $(cat "$work/helm.log"); $(kube describe pods; logs deployment/injectd)"
  in_tasks kube wait --for=create --timeout=60s configmap/inject-ca >/dev/null ||
    fail "the servers published no authority: $(logs deployment/injectd)"
}

# secret PROJECT KEY VALUE prints a secret of the project in the domain development, as Flyte stores it.
secret() {
  local id=u__org__flyte__domain__development__project__$1__key__$2
  cat <<SECRET
---
apiVersion: v1
kind: Secret
metadata:
  name: $(printf %s "$id" | md5sum | cut -d' ' -f1)
  labels: {app.flyte.org/managed: "true", app.flyte.org/project: "$1", app.flyte.org/domain: development}
stringData: {$id: "$3"}
SECRET
}

# wait_done NAME [SECONDS] waits until all containers of the pod have ended.
wait_done() { try "${2:-60}" phase_is "$1" Succeeded Failed || fail "the pod $1 did not end"; }

# phase_is NAME PHASE... tells whether the pod is in one of the phases.
phase_is() {
  local phase want
  phase=$(kube get pod "$1" -o 'jsonpath={.status.phase}')
  shift
  for want; do [ "$phase" != "$want" ] || return 0; done
  return 1
}

# ended NAME FIELD [CONTAINER] prints a field of a container that has ended: exitCode, reason,
# message or signal. Without CONTAINER it is the pod's first one.
ended() {
  local which=0
  [ $# -lt 3 ] || which="?(@.name==\"$3\")"
  kube get pod "$1" -o "jsonpath={.status.containerStatuses[$which].state.terminated.$2}"
}

# logs NAME [ARGS...] prints the output of the pod.
logs() { kube logs "$@"; }

# record NAME saves everything that the cluster shows of the pod, for holds to search: the object,
# its events, its output, and all logs of the cluster. The audit log among them has the requests and
# responses of the API server about pods.
record() {
  rm -rf "$work/record"
  mkdir "$work/record"
  kube get pod "$1" -o yaml >"$work/record/object"
  kube get events --field-selector "involvedObject.name=$1" -o yaml >"$work/record/events"
  logs "$1" --all-containers >"$work/record/output"
  cp -R "$work/cluster/log" "$work/record/logs"
}

# forms TEXT prints the forms in which holds finds TEXT, each in a line: plain, in hexadecimal digits and in
# base64. TEXT must be made by random, so that quoting does not change it.
forms() {
  local offset encoded
  printf '%s\n' "$1" "$(printf %s "$1" | od -An -v -tx1 | tr -d ' \n')"
  for offset in 0 1 2; do
    # Base64 writes three bytes as four letters, so TEXT has three encodings: it may begin at the
    # first, second or third byte of a group. Leave out the letters at both ends that depend on the
    # bytes beside TEXT.
    encoded=$(printf "%${offset}s%s" '' "$1" | base64 -w0)
    encoded=${encoded%%=*}
    encoded=${encoded:$(((offset * 4 + 2) / 3))}
    printf '%s\n' "${encoded%?}"
  done
}

# holds TEXT [PART] tells whether the record, or a part of it, contains a form of TEXT.
holds() { grep -rqF -f <(forms "$1") "$work/record/${2:-}"; }
