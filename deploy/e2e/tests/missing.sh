# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# If its secret is missing, a task does not start, and the pod's status says why.

kube create secret generic secrets --from-literal=OTHER_KEY="$(random)" >/dev/null
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
    - name: main
      image: inject.test/task:1
      args: [echo, started]
      env:
        - {name: INJECT_SECRETS, value: "NO_SUCH_KEY OTHER_KEY"}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: $hardened
      volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}]
POD
wait_done task
expect "the exit code" 125 "$(ended task exitCode)"
message=$(ended task message)
for part in '"reason":"not_found"' '"retryable":false' '"keys":["NO_SUCH_KEY"]'; do
  case $message in '{'*"$part"*'}') ;; *) fail "the termination message lacks $part: $message" ;; esac
done
case $(logs task) in
  *started*) fail "the task was started without its secret" ;;
  *'NO_SUCH_KEY: secret not found'*) ;;
  *) fail "the log does not name the secret: $(logs task)" ;;
esac
ok "if a secret is missing, the exit code is 125 and the pod's status names it"
