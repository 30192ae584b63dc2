# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# A task gets its secret from a mounted Kubernetes Secret. Its output is masked, the pod has its
# exit code, and no record of the cluster contains the value.

first=$(random)
second=$(random)
value="$first\"' \$HOME \`id\` &#x27;\\
$second"
kube create secret generic secrets --from-literal="key=$value" >/dev/null

canary=$(random)
run_pod - task <<POD
apiVersion: v1
kind: Pod
metadata:
  name: task
  annotations: {canary: "$canary"}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532}
  volumes:
    - name: secrets
      secret:
        secretName: secrets
        defaultMode: 0440
        items: [{key: key, path: MY_SECRET_KEY}]
  containers:
    - name: main
      image: inject.test/task:1
      args: [sh, -c, 'echo "\$MY_SECRET_ENV_VAR"; exit 7']
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY=MY_SECRET_ENV_VAR}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: $hardened
      volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}]
POD
wait_done task
expect "the log" '[REDACTED:MY_SECRET_KEY]' "$(logs task)"
expect "the exit code" 7 "$(ended task exitCode)"
expect "the termination message" '' "$(ended task message)"
ok "the output of a task is masked, and the pod has its exit code"

# Check the search first: it must find a canary or the mask in each part of the record.
kube create -f - >/dev/null <<EVENT
apiVersion: v1
kind: Event
metadata: {name: canary}
involvedObject: {kind: Pod, namespace: $namespace, name: task}
message: "$(printf '%s' "-$canary-" | base64 -w0)"
EVENT
record task
for part in object events logs/audit.log; do
  holds "$canary" "$part" || fail "the search does not find the canary in the record's $part"
done
node=$(kube get pod task -o 'jsonpath={.spec.nodeName}')
for part in output "logs/$node/pods"; do
  holds '[REDACTED:MY_SECRET_KEY]' "$part" || fail "the search does not find the mask in the record's $part"
done
for part in "logs/$node"/{kubelet,containerd}.log; do
  holds "$(kube get pod task -o 'jsonpath={.metadata.uid}')" "$part" ||
    fail "the search does not find the pod in the record's $part"
done
for half in "$first" "$second"; do
  if holds "$half"; then fail "the value is in the record of the pod"; fi
done
ok "the value is not in the pod, its events, its output, the audit log and the other logs"
