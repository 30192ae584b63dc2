# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The whole chart, as a platform engineer installs it: afterwards a pod that Flyte labels, and that its author
# has not changed, runs with its secret, and its log has a mask in place of the value. So do pods that start
# while the servers are replaced. The secret outlives the release.

flyte_parts
people_values
release install "${people[@]}"
expect "the nodes of the servers" "node1 node2" \
  "$(kube get pods --selector app.kubernetes.io/name=injectd -o 'jsonpath={.items[*].spec.nodeName}' | xargs -n 1 | sort | xargs)"

# A person stores the secret through the servers.
people_parts
value=$(random)
printf %s "$value" | person create secret MY_SECRET_KEY --project fraud --domain development --from-file - >/dev/null ||
  fail "the secret was not created"

sleep 4 # the pods must be younger than the policies
start_task task
masked task "$value"
expect "the entrypoint" /inject/inject "$(in_tasks kube get pod task -o 'jsonpath={.spec.containers[0].command[0]}')"
in_tasks record task
for part in object events output logs; do
  if holds "$value" "$part"; then fail "the value is in the $part of the task"; fi
done
# The search finds what is there: the value's own Secret.
kube -n "$secrets" get secrets -o yaml >"$work/record/secrets"
holds "$value" secrets || fail "the value is in no Secret of the namespace"
ok "after helm install a pod that Flyte labels runs with its secret, masked, and the value is in no other object"

# shellcheck disable=SC2016 # words for kubelet, not for this shell
{
  task words | sed -e 's|^    flyte.secrets/.*|&\n    inject.flyte.org/entrypoint: "[\\"/bin/echo\\",\\"$(MODE) $$ $\\"]"|' \
    -e 's|^      args: .*|      args: ["$(MODE) $$"]\n      env: [{name: MODE, value: fast}]|' | as_flyte -f -
  in_tasks wait_done words 120
  expect "the log of words" '$(MODE) $$ $ fast $' "$(in_tasks logs words -c words)"
}
ok "kubelet expands no word of an entrypoint in the annotation, and those of the pod as before"

release upgrade "${people[@]}" --set injectd.logLevel=debug &
upgrade=$! count=0
while kill -0 "$upgrade" 2>/dev/null; do
  start_task "upgraded$count"
  count=$((count + 1))
done
wait "$upgrade" || fail "the upgrade failed"
for ((i = 0; i < count; i++)); do masked "upgraded$i" "$value"; done
ok "$count pods that start while the chart is upgraded run with their secrets"

release upgrade "${people[@]}" --set mutation.mode=webhook
called() { kube get mutatingwebhookconfiguration inject-webhook -o 'jsonpath={.webhooks[0].clientConfig.caBundle}' | grep -q .; }
try 60 called || fail "the API server does not know the webhook's authority: $(logs deployment/injectd)"
# The API server may know the authority a moment later.
try 30 created webhook || fail "Flyte is told: $(cat "$work/created")"
masked webhook "$value"
same() { in_tasks kube get pod "$1" -o json | jq -S '.spec | del(.nodeName, .serviceAccount) | .containers[].name = "-"' | sed "s/kube-api-access-[a-z0-9]*/kube-api-access/"; }
expect "the pod of the webhook" "$(same task)" "$(same webhook)"
ok "in the mode webhook the same pod comes of it"

helm uninstall inject --wait --timeout 120s >/dev/null
release install "${people[@]}"
sleep 4
start_task again
masked again "$value"
ok "the secret outlives helm uninstall, and the servers of the next release serve it"
helm uninstall inject --wait --timeout 120s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
