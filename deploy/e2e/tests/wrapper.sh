# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# Flyte's runtime starts itself again through the command in _F_EXEC_WRAPPER. That command can be
# inject, even in an image whose entrypoint is inject.

value=$(random)
kube create secret generic secrets --from-literal="MY_SECRET_KEY=$value" >/dev/null

# Does the same as src/flyte/_bin/runtime.py of flyte-sdk, and then acts as the task.
cat >"$work/a0" <<'A0'
#!/bin/sh
if [ -n "$_F_EXEC_WRAPPER" ] && [ "$_F_EXEC_WRAPPED" != 1 ]; then
  export _F_EXEC_WRAPPED=1
  echo "before: $MY_SECRET_ENV_VAR"
  eval "exec $_F_EXEC_WRAPPER \"\$0\" \"\$@\"" # may have quotes and variables in it
fi
echo "$MY_SECRET_ENV_VAR"
printf %s "$MY_SECRET_ENV_VAR" | sha256sum
printf '(%s)' "$@"
echo
# The number of inject processes above the task.
grep -lxE 'Name:.inject' /proc/[0-9]*/status | wc -l
exit 7
A0
chmod 755 "$work/a0"
load_image flyte "$work/a0=/bin/a0"
load_image chained -user 65532:65532 -entrypoint '/inject run --' "$work/a0=/bin/a0" "$work/inject=/inject"

# pod NAME ENV... runs a pod of the image NAME with these variables.
pod() {
  local name=$1
  shift
  run_pod - "$name" <<POD
apiVersion: v1
kind: Pod
metadata:
  name: $name
  labels: {organization: flyte, project: flytesnacks, domain: development}
  annotations:
$("$work/inject" explain --secret MY_SECRET_KEY=MY_SECRET_ENV_VAR -o annotations | sed 's/^/    /')
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532, runAsUser: 65532, runAsGroup: 65532}
  volumes:
    - {name: secrets, secret: {secretName: secrets, defaultMode: 0440}}
    - {name: inject, emptyDir: {medium: Memory}}
    - name: podinfo
      downwardAPI:
        items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
  initContainers:
    - name: inject
      image: inject.test/inject:1
      args: [init, --copy-to, /copy]
      securityContext: $hardened
      volumeMounts: [{name: inject, mountPath: /copy}]
  containers:
    - name: main
      image: inject.test/$name:1
      args: [a0, --inputs, "two words", ""]
      env:
        - {name: INJECT_STORE, value: "dir:///secrets"}
$(printf '        - %s\n' "$@")
      securityContext: $hardened
      volumeMounts:
        - {name: secrets, mountPath: /secrets, readOnly: true}
        - {name: inject, mountPath: /inject-volume, readOnly: true}
        - {name: podinfo, mountPath: /etc/podinfo, readOnly: true}
POD
  wait_done "$name"
  expect "the exit code" 7 "$(ended "$name" exitCode)"
}
task="[REDACTED:MY_SECRET_KEY]
$(printf %s "$value" | sha256sum)
(--inputs)(two words)()
1"
# A wrapper with quotes and a variable in it.
pod flyte '{name: TOOLS, value: /inject-volume}' "{name: _F_EXEC_WRAPPER, value: '\"\$TOOLS/inject\" run --'}"
expect "the log" "before: 
$task" "$(logs flyte -c main)"
ok "Flyte's runtime starts itself again through inject"
# The inner inject has nothing to do: it replaces itself with the task.
pod chained '{name: _F_EXEC_WRAPPER, value: /inject-volume/inject run --}'
expect "the log" "before: [REDACTED:MY_SECRET_KEY]
$task" "$(logs chained -c main)"
ok "the same works in an image whose entrypoint is inject"
