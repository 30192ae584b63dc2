# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# A container that kubelet restarts gets its secrets again, without another run of init.

variable=$(random)
file=$(random)
kube create secret generic secrets --from-literal="MY_SECRET_KEY=$variable" --from-literal="tls-key=$file" >/dev/null
run_pod - task <<POD
apiVersion: v1
kind: Pod
metadata: {name: task}
spec:
  restartPolicy: OnFailure
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532, runAsUser: 65532, runAsGroup: 65532}
  volumes:
    - {name: secrets, secret: {secretName: secrets, defaultMode: 0440}}
    - {name: inject, emptyDir: {medium: Memory}}
    - {name: files, emptyDir: {medium: Memory}}
    - {name: marker, emptyDir: {}}
  initContainers:
    - name: inject
      image: inject.test/inject:1
      args: [init, --copy-to, /copy, --files]
      env:
        - {name: INJECT_SECRET_FILES, value: tls-key}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: $hardened
      volumeMounts:
        - {name: secrets, mountPath: /secrets, readOnly: true}
        - {name: inject, mountPath: /copy}
        - {name: files, mountPath: /etc/flyte/secrets}
  containers:
    - name: main
      image: inject.test/busybox:1
      command: [/inject/inject, run, --]
      args:
        - sh
        - -c
        - |
          {
            printf %s "\$MY_SECRET_KEY" | sha256sum
            sha256sum </etc/flyte/secrets/tls-key
            sha256sum <"\$FLYTE_SECRETS_DEFAULT_DIR/tls-key"
            ls -d /dev/shm/.inject-* | wc -l
          } >>/marker/seen
          cat /marker/seen
          echo "\$MY_SECRET_KEY"
          mv /marker/first /marker/second 2>/dev/null || { touch /marker/first; exit 1; }
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_SECRET_FILES, value: tls-key}
        - {name: INJECT_STORE, value: "dir:///secrets"}
      securityContext: ${hardened/%\}/, runAsUser: 1000\}} # another user, who reads the files as a member of the group
      volumeMounts:
        - {name: secrets, mountPath: /secrets, readOnly: true}
        - {name: inject, mountPath: /inject, readOnly: true}
        - {name: files, mountPath: /etc/flyte/secrets, readOnly: true}
        - {name: marker, mountPath: /marker}
POD
wait_done task
seen="$(printf %s "$variable" | sha256sum)
$(printf %s "$file" | sha256sum)
$(printf %s "$file" | sha256sum)
1"
expect "the digests of both runs" "$seen
$seen
[REDACTED:MY_SECRET_KEY]" "$(logs task -c main)"
expect "the exit code" 0 "$(ended task exitCode)"
expect "the restarts of init and of the task" '0 1' "$(kube get pod task -o \
  'jsonpath={.status.initContainerStatuses[0].restartCount} {.status.containerStatuses[0].restartCount}')"
ok "a restarted container gets its secrets without another run of init"
