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

# new_namespace NAME makes the namespace NAME for the next test.
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

# holds TEXT [PART] tells whether the record, or a part of it, contains TEXT, plain or in base64.
# TEXT must be made by random, so that quoting does not change it.
holds() {
  local forms=(-e "$1") offset encoded
  for offset in 0 1 2; do
    # Base64 writes three bytes as four letters, so TEXT has three encodings: it may begin at the
    # first, second or third byte of a group. Leave out the letters at both ends that depend on the
    # bytes beside TEXT.
    encoded=$(printf "%${offset}s%s" '' "$1" | base64 -w0)
    encoded=${encoded%%=*}
    encoded=${encoded:$(((offset * 4 + 2) / 3))}
    forms+=(-e "${encoded%?}")
  done
  grep -rqF "${forms[@]}" "$work/record/${2:-}"
}
