# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# A volume can be an image: inject runs from one, and a task cannot change it.

value=$(random)
kube create secret generic secrets --from-literal="MY_SECRET_KEY=$value" >/dev/null
run_pod - task <<POD
apiVersion: v1
kind: Pod
metadata: {name: task}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532, runAsUser: 65532}
  volumes:
    - {name: secrets, secret: {secretName: secrets, defaultMode: 0440}}
    - {name: inject, image: {reference: "inject.test/inject:1", pullPolicy: Never}}
  containers:
    - name: main
      image: inject.test/busybox:1
      command: [/inject/inject, run, --]
      args:
        - sh
        - -c
        - |
          exec 2>&1
          echo "\$MY_SECRET_KEY"
          printf %s "\$MY_SECRET_KEY" | sha256sum
          touch /inject/inject
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: $hardened
      volumeMounts:
        - {name: secrets, mountPath: /secrets, readOnly: true}
        - {name: inject, mountPath: /inject, readOnly: true}
POD
wait_done task
expect "the log" "[REDACTED:MY_SECRET_KEY]
$(printf %s "$value" | sha256sum)
touch: /inject/inject: Read-only file system" "$(logs task)"
ok "inject runs from a volume that is its image, which the task cannot change"
