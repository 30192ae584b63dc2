# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# A task gets its secret without root, without capabilities or new privileges, with the default
# seccomp profile and with a read-only root file system.

if kube create -f - 2>"$work/refusal" <<POD
apiVersion: v1
kind: Pod
metadata: {name: soft}
spec: {containers: [{name: main, image: inject.test/busybox:1}]}
POD
then fail "the namespace accepts a pod that is not restricted"; fi
grep -q 'violates PodSecurity "restricted' "$work/refusal" || fail "the pod was not refused for its security: $(cat "$work/refusal")"

kube create secret generic secrets --from-literal="key=$(random)" >/dev/null
run_pod - task <<POD
apiVersion: v1
kind: Pod
metadata: {name: task}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532}
  volumes:
    - name: secrets
      secret: {secretName: secrets, defaultMode: 0440, items: [{key: key, path: MY_SECRET_KEY}]}
  containers:
    - name: main
      image: inject.test/task:1
      args:
        - sh
        - -c
        - |
          exec 2>&1
          echo "\$MY_SECRET_KEY"
          for id in 1 self; do
            grep -E '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/\$id/status | xargs
          done
          touch /file
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: $hardened
      volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}]
POD
wait_done task
status='Uid: 65532 65532 65532 65532 Gid: 65532 65532 65532 65532 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2'
expect "the privileges of inject and of the task" "[REDACTED:MY_SECRET_KEY]
$status
$status
touch: /file: Read-only file system" "$(logs task)"
ok "inject and its task run as 65532, read-only, without capabilities and new privileges, under seccomp"
