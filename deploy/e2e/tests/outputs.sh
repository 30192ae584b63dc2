# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# shellcheck disable=SC2016 # the shells in the pods expand these
# The outputs of a raw container, in /var/outputs, are masked before Flyte's copilot uploads them.
# The copilot is a sidecar that gets SIGTERM when the task has ended.

value=$(random)
kube create secret generic secrets --from-literal="MY_SECRET_KEY=$value" >/dev/null

# pod NAME ON-LEAK SCRIPT creates a pod whose sidecar prints the outputs on SIGTERM.
pod() {
  kube create -f - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532, runAsUser: 65532, runAsGroup: 65532}
  volumes:
    - {name: secrets, secret: {secretName: secrets, defaultMode: 0440}}
    - {name: outputs, emptyDir: {}}
  initContainers:
    - name: copilot
      image: inject.test/busybox:1
      restartPolicy: Always
      command:
        - sh
        - -c
        - |
          trap 'cd /var/outputs; for f in *; do echo "\$f: \$(cat "\$f")"; done; exit 0' TERM
          while :; do sleep 0.1; done
      securityContext: $hardened
      volumeMounts: [{name: outputs, mountPath: /var/outputs}]
  containers:
    - name: main
      image: inject.test/task:1
      args: [sh, -ec, '$3']
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_STORE, value: "dir:///secrets"}
        - {name: INJECT_OUTPUTS, value: /var/outputs}
        - {name: INJECT_ON_LEAK, value: "$2"}
        - {name: INJECT_GRACE, value: 6s}
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext: $hardened
      volumeMounts:
        - {name: secrets, mountPath: /secrets, readOnly: true}
        - {name: outputs, mountPath: /var/outputs}
POD
}

texts='cd /var/outputs; printf "a %s" "$MY_SECRET_KEY" >text; printf "{\"b\": \"%s\"}" "$MY_SECRET_KEY" >json; echo fine >other'
binary='cd /var/outputs; printf "%s\0" "$MY_SECRET_KEY" >binary; echo fine >other'
pod warn warn "$texts"
pod mask mask "$texts"
pod fail fail "$texts"
pod error mask "$texts"'; printf "no login with %s" "$MY_SECRET_KEY" >_ERROR; exit 3'
pod binary mask "$binary"
# A task that ignores SIGTERM, and has a child that writes one more output on SIGTERM.
pod stop mask "$texts"'; (trap "echo \$MY_SECRET_KEY >late" TERM; while :; do sleep 0.1; done) & trap "" TERM; echo ready; sleep 1000'

masked='json: {"b": "[REDACTED:MY_SECRET_KEY]"}
other: fine
text: a [REDACTED:MY_SECRET_KEY]'
# left NAME CODE TEXT checks that the task exited with CODE and the sidecar found TEXT.
left() {
  wait_done "$1"
  expect "the exit code of $1" "$2" "$(ended "$1" exitCode main)"
  expect "the outputs that the sidecar of $1 found" "$3" "$(logs "$1" -c copilot)"
}
left warn 0 "${masked//"[REDACTED:MY_SECRET_KEY]"/"$value"}"
left mask 0 "$masked"
left fail 125 "$masked"
left error 3 "_ERROR: no login with [REDACTED:MY_SECRET_KEY]
$masked"
ok "the outputs of a task are masked before the sidecar sees them"
left binary 125 'other: fine'
for pod in fail binary; do
  message=$(ended "$pod" message main)
  for part in '"reason":"leak"' '"retryable":false' '"keys":["MY_SECRET_KEY"]'; do
    case $message in '{'*"$part"*'}') ;; *) fail "the termination message of $pod lacks $part: $message" ;; esac
  done
done
ok "a file that cannot be masked is no longer among the outputs, and the task fails"

ready() { [ "$(logs stop -c main 2>/dev/null)" = ready ]; }
try 60 ready || fail "the task does not start"
logs stop -c copilot --follow >"$work/followed" &
follower=$!
start=$SECONDS
kube delete pod stop >/dev/null
took=$((SECONDS - start))
wait "$follower"
expect "the outputs that the sidecar found" "${masked/other/late: [REDACTED:MY_SECRET_KEY]
other}" "$(cat "$work/followed")"
[ "$took" -lt 15 ] || fail "the pod took $took s to go"
ok "a task that does not stop is killed in time to mask its outputs, and its pod is gone in $took s"

record warn
holds "$value" output || fail "the search does not find the value in the output of the pod warn"
for pod in mask fail error binary; do
  record "$pod"
  if holds "$value" object || holds "$value" events || holds "$value" output; then fail "the value is in the record of $pod"; fi
done
ok "the value is not in the pods, their events and their output"
