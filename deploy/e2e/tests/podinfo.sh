# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The example pod: its annotations declare a variable and a file, its labels name the scope, and its
# image has no inject in it.

# value FIRST SECOND prints a value with texts that kubelet or a shell would expand. The record is
# searched for both halves.
value() { printf '%s %s\n%s' "$1" "\$\$ \$(FLYTE_INTERNAL_EXECUTION_ID) \$(X) \$HOME \"'\`id\`\\" "$2"; }
halves=("$(random)" "$(random)" "$(random)" "$(random)")
variable=$(value "${halves[0]}" "${halves[1]}")
file=$(value "${halves[2]}" "${halves[3]}")
keys=(--from-literal="tls-key=$file" --from-literal="both=$variable")
for wider in org domain project; do
  keys+=(--from-literal="$wider=$(random)")
done
kube create secret generic inject-store "${keys[@]}" >/dev/null

# A substitute for Flyte's runtime.
cat >"$work/a0" <<'A0'
#!/bin/sh
exec 2>&1
echo "$MY_SECRET_ENV_VAR"
cat /etc/flyte/secrets/tls-key
echo
printf %s "$MY_SECRET_ENV_VAR" | sha256sum
sha256sum </etc/flyte/secrets/tls-key
sha256sum <"$FLYTE_SECRETS_DEFAULT_DIR/tls-key"
echo "$FLYTE_SECRETS_ENV_PREFIX $INJECT_STORE $# $1"
touch /inject/inject /etc/flyte/secrets/tls-key
A0
chmod 755 "$work/a0"
load_image flyte "$work/a0=/bin/a0"

sed -e 's,registry.example/inject:v1,inject.test/inject:1,' -e 's,registry.example/my-task:v1,inject.test/flyte:1,' \
  "$here/../../examples/pod.yaml" >"$work/pod.yaml"
canary=$(random)
sed -i "s/^  annotations:/&\n    canary: '$canary'/" "$work/pod.yaml"
# There is no bucket here, so that the guard in front of it would not let the task start.
sed -i 's/^\( *\)- {name: INJECT_STORE, .*not passed on.*/&\n\1- {name: INJECT_STORAGE, value: "off"}/' "$work/pod.yaml"
run_pod "$work/pod.yaml" my-task
wait_done my-task
expect "the log" "[REDACTED:MY_SECRET_KEY]
[REDACTED:tls-key]
$(printf %s "$variable" | sha256sum)
$(printf %s "$file" | sha256sum)
$(printf %s "$file" | sha256sum)
_UNION_  16 --inputs
touch: /inject/inject: Read-only file system
touch: /etc/flyte/secrets/tls-key: Read-only file system" "$(logs my-task -c main)"
expect "the exit code" 1 "$(ended my-task exitCode)"
expect "the exit code of init" 0 \
  "$(kube get pod my-task -o 'jsonpath={.status.initContainerStatuses[0].state.terminated.exitCode}')"
expect "the log of init" '' "$(logs my-task -c inject)"
ok "the example's pod gets its secrets, to the byte, and cannot change the program that masks it"

record my-task
for part in object logs/audit.log; do
  holds "$canary" "$part" || fail "the search does not find the canary in the record's $part"
done
holds '[REDACTED:tls-key]' output || fail "the search does not find the mask in the record's output"
for half in "${halves[@]}"; do
  if holds "$half"; then fail "a value is in the record of the pod"; fi
done
ok "no value is in the pod, its events, its output, the audit log and the other logs"
