# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# When a pod is deleted, its task gets SIGTERM and time to stop, and is masked until its end.

kube create secret generic secrets --from-literal=MY_SECRET_KEY="$(random)" >/dev/null
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
      args:
        - sh
        - -c
        - |
          trap 'echo "stopping with \$MY_SECRET_KEY"; exit 0' TERM
          echo ready
          sleep 1000 & wait
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: $hardened
      volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}]
POD
logs task --follow >"$work/followed" &
follower=$!
try 30 grep -q ready "$work/followed" || fail "the task does not start"
start=$SECONDS
kube delete pod task >/dev/null
took=$((SECONDS - start))
wait "$follower"
expect "the log" "ready
stopping with [REDACTED:MY_SECRET_KEY]" "$(cat "$work/followed")"
# Kubernetes waits 30 s before it kills a pod, inject 20 s before it kills the task.
[ "$took" -lt 15 ] || fail "the pod took $took s to go"
ok "the task of a deleted pod can stop by itself, and the pod is gone in $took s"
