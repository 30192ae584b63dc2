# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The termination message in the pod's status is masked, both one that the task writes and one that
# kubelet takes from the log.

value=$(random)
kube create secret generic secrets --from-literal="MY_SECRET_KEY=$value" >/dev/null

# container NAME POLICY SCRIPT prints the spec of a container.
container() {
  cat <<CONTAINER
    - name: $1
      image: inject.test/task:1
      args: [sh, -c, '$3']
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      terminationMessagePolicy: $2
      securityContext: $hardened
      volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}]
CONTAINER
}
# shellcheck disable=SC2016 # the shell in the pod expands these
run_pod - task <<POD
apiVersion: v1
kind: Pod
metadata: {name: task}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532}
  volumes: [{name: secrets, secret: {secretName: secrets, defaultMode: 0440}}]
  containers:
$(container own File 'echo "no login with $MY_SECRET_KEY" >/dev/termination-log; exit 3')
$(container success File 'echo "done with $MY_SECRET_KEY" >/dev/termination-log')
$(container log FallbackToLogsOnError 'for i in 1 2 3; do echo "no login with $MY_SECRET_KEY" >&2; done; exit 4')
$(container both FallbackToLogsOnError 'echo "no login with $MY_SECRET_KEY"; echo "it was $MY_SECRET_KEY" >/dev/termination-log; exit 5')
$(container plain File 'echo fine >/dev/termination-log; exit 6')
POD
wait_done task
# message NAME CODE TEXT checks a container's exit code and termination message.
message() {
  expect "the exit code of $1" "$2" "$(ended task exitCode "$1")"
  expect "the termination message of $1" "$3" "$(ended task message "$1")"
}
message own 3 'no login with [REDACTED:MY_SECRET_KEY]'
message success 0 'done with [REDACTED:MY_SECRET_KEY]'
line='no login with [REDACTED:MY_SECRET_KEY]'
message log 4 "$line
$line
$line"
message both 5 'it was [REDACTED:MY_SECRET_KEY]'
message plain 6 fine
record task
holds "$line" object || fail "the search does not find the mask"
if holds "$value"; then fail "the value is in the record of the pod"; fi
ok "termination messages are masked, those that a task writes and those from its log"
