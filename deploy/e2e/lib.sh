# shellcheck shell=bash
# What the tests in tests/ are written with. test.sh sources this and then, one after the
# other, each test, in a shell of its own and with a namespace of its own, which refuses every
# pod that is not "restricted". test.sh has set
#   here  this folder
#   work  the run's folder, with the cluster in it

fail() { echo "FAIL deploy/e2e: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }

# expect WHAT WANT GOT
expect() { [ "$3" = "$2" ] || fail "$1 is '$3', expected '$2'"; }

# try SECONDS CMD...: until CMD succeeds.
try() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# random: 24 hexadecimal digits, which no quoting changes.
random() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }

# What a container needs in a namespace that is restricted, and a root that it cannot write.
# shellcheck disable=SC2034 # for the tests
hardened='{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}'

# kube ARGS...: kubectl in the test's namespace.
# shellcheck disable=SC2154 # set by test.sh
kube() { "$here/cluster.sh" exec "$work" kubectl --namespace "$namespace" "$@"; }

# new_namespace NAME: makes it the test's.
new_namespace() {
  namespace=$1
  kube create namespace "$namespace" >/dev/null
  kube label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
  # Without it, which appears a moment later, pods are refused.
  kube wait --for=create --timeout=30s serviceaccount/default >/dev/null
}

# run_pod FILE NAME: makes what is in FILE, - for stdin, and waits until its pod NAME has
# started, or ended already.
run_pod() {
  kube create -f "$1" >/dev/null || fail "$1 was refused"
  try 60 phase_is "$2" Running Succeeded Failed || fail "the pod $2 did not start"
}

# load_image NAME FLAGS...: gives the cluster an image inject.test/NAME:1, with busybox in it.
# shellcheck disable=SC2154 # set by test.sh
load_image() {
  local name=$1
  shift
  image "$name" "${applets[@]}" "$@" "$busybox=/bin/busybox"
  "$here/cluster.sh" load "$work" "$work/images/$name.tar"
}

# wait_done NAME [SECONDS]: until all containers of the pod have ended.
wait_done() { try "${2:-60}" phase_is "$1" Succeeded Failed || fail "the pod $1 did not end"; }

# phase_is NAME PHASE...
phase_is() {
  local phase want
  phase=$(kube get pod "$1" -o 'jsonpath={.status.phase}')
  shift
  for want; do [ "$phase" != "$want" ] || return 0; done
  return 1
}

# ended NAME FIELD [CONTAINER]: exitCode, reason, message or signal of a pod's container that
# has ended, of its first one if none is named.
ended() {
  local which=0
  [ $# -lt 3 ] || which="?(@.name==\"$3\")"
  kube get pod "$1" -o "jsonpath={.status.containerStatuses[$which].state.terminated.$2}"
}

# logs NAME [ARGS...]: what its containers have printed.
logs() { kube logs "$@"; }

# record NAME: keeps all that the cluster has to show of the pod, for holds: the object, its
# events, its output, and all logs of the cluster with what the API server has told and was
# told of pods.
record() {
  rm -rf "$work/record"
  mkdir "$work/record"
  kube get pod "$1" -o yaml >"$work/record/object"
  kube get events --field-selector "involvedObject.name=$1" -o yaml >"$work/record/events"
  logs "$1" --all-containers >"$work/record/output"
  cp -R "$work/cluster/log" "$work/record/logs"
}

# holds TEXT [PART]: whether the record, or one part of it, holds TEXT, as it is or in base64.
# TEXT is of random's kind: quoted or not, it is the same.
holds() {
  local forms=(-e "$1") offset encoded
  for offset in 0 1 2; do
    # Three bytes are four letters. TEXT may begin at each of the three; letters that what
    # stands beside it has a part in are not looked for.
    encoded=$(printf "%${offset}s%s" '' "$1" | base64 -w0)
    encoded=${encoded%%=*}
    encoded=${encoded:$(((offset * 4 + 2) / 3))}
    forms+=(-e "${encoded%?}")
  done
  grep -rqF "${forms[@]}" "$work/record/${2:-}"
}
