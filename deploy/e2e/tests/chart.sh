# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The whole chart, as a platform engineer installs it: afterwards a pod that Flyte labels, and that its author
# has not changed, runs with its secret, and its log has a mask in place of the value. So do pods that start
# while the servers are replaced. The secret outlives the release.

flyte_parts
kube create serviceaccount people >/dev/null
own=/var/run/secrets/kubernetes.io/serviceaccount issuer=https://kubernetes.default.svc
cat >"$work/people.yaml" <<VALUES
policy:
  rules:
  - name: people
    identity: {issuer: "$issuer", subject: "system:serviceaccount:$namespace:people"}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
networkPolicy: {from: [{podSelector: {}}]}
injectd:
  extraArgs:
  - --kube-identity-margin=2s
  - --jwt=issuer=$issuer,audience=injectd,keys=$issuer/openid/v1/jwks,ca=$own/ca.crt,token=$own/token
VALUES
people=(--values "$work/people.yaml")
release install "${people[@]}"
expect "the nodes of the servers" "node1 node2" \
  "$(kube get pods --selector app.kubernetes.io/name=injectd -o 'jsonpath={.items[*].spec.nodeName}' | xargs -n 1 | sort | xargs)"
in_tasks kube get configmap inject-ca -o 'jsonpath={.data.ca\.crt}' >"$work/ca.crt"

# A person stores the secret through the servers.
kube create configmap authority --from-file=ca.crt="$work/ca.crt" >/dev/null
run_pod - people <<POD
apiVersion: v1
kind: Pod
metadata: {name: people}
spec:
  automountServiceAccountToken: false
  serviceAccountName: people
  terminationGracePeriodSeconds: 0
  volumes:
    - {name: token, projected: {sources: [{serviceAccountToken: {audience: injectd, path: token}}]}}
    - {name: authority, configMap: {name: authority}}
  containers:
    - name: main
      image: inject.test/task:1
      command: [sleep, inf]
      env:
        - {name: INJECT_STORE, value: "grpcs://injectd.$namespace.svc:8093"}
        - {name: INJECT_TOKEN_FILE, value: /token/token}
        - {name: INJECT_CA_FILE, value: /authority/ca.crt}
      securityContext: $hardened
      volumeMounts: [{name: token, mountPath: /token, readOnly: true}, {name: authority, mountPath: /authority, readOnly: true}]
POD
person() { kube exec -i people -- /inject "$@"; }
value=$(random)
printf %s "$value" | person create secret MY_SECRET_KEY --project fraud --domain development --from-file - >/dev/null ||
  fail "the secret was not created"

# task NAME prints a pod as Flyte makes it of a raw container: without a word of inject.
task() {
  cat <<POD
---
apiVersion: v1
kind: Pod
metadata:
  name: $1
  labels: {organization: flyte, project: fraud, domain: development, inject-flyte-secrets: "true"}
  annotations:
    $declaration
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000}
  containers:
    - name: $1
      image: inject.test/busybox:1
      args: [/bin/sh, -c, 'echo "\$MY_SECRET_KEY"; printf %s "\$MY_SECRET_KEY" | sha256sum']
      securityContext: $hardened
POD
}
declaration=$("$work/inject" explain --secret MY_SECRET_KEY -o annotations | grep 'flyte.secrets/')
# as_flyte creates the pods in stdin, and fails unless they are taken.
as_flyte() { in_tasks kube --as "$flyte" create -f - >"$work/created" 2>&1 || fail "Flyte is told: $(cat "$work/created")"; }
digest=$(printf %s "$value" | sha256sum)
# masked NAME waits for the pod, and fails unless it had the value, and its log has a mask in its place.
masked() {
  in_tasks wait_done "$1" 120
  expect "the log of $1" "[REDACTED:MY_SECRET_KEY]
$digest" "$(in_tasks logs "$1" -c "$1")"
}
sleep 4 # the pods must be younger than the policies
task task | as_flyte
masked task
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
    -e 's|^      args: .*|      args: ["$(MODE) $$"]\n      env: [{name: MODE, value: fast}]|' | as_flyte
  in_tasks wait_done words 120
  expect "the log of words" '$(MODE) $$ $ fast $' "$(in_tasks logs words -c words)"
}
ok "kubelet expands no word of an entrypoint in the annotation, and those of the pod as before"

release upgrade "${people[@]}" --set injectd.logLevel=debug &
upgrade=$! count=0
while kill -0 "$upgrade" 2>/dev/null; do
  task "upgraded$count" | as_flyte
  count=$((count + 1))
done
wait "$upgrade" || fail "the upgrade failed"
for ((i = 0; i < count; i++)); do masked "upgraded$i"; done
ok "$count pods that start while the chart is upgraded run with their secrets"

release upgrade "${people[@]}" --set mutation.mode=webhook
called() { kube get mutatingwebhookconfiguration inject-webhook -o 'jsonpath={.webhooks[0].clientConfig.caBundle}' | grep -q .; }
try 60 called || fail "the API server does not know the webhook's authority: $(logs deployment/injectd)"
# The API server may know the authority a moment later.
changed() { task webhook | in_tasks kube --as "$flyte" create -f - >"$work/created" 2>&1; }
try 30 changed || fail "Flyte is told: $(cat "$work/created")"
masked webhook
same() { in_tasks kube get pod "$1" -o json | jq -S '.spec | del(.nodeName, .serviceAccount) | .containers[].name = "-"' | sed "s/kube-api-access-[a-z0-9]*/kube-api-access/"; }
expect "the pod of the webhook" "$(same task)" "$(same webhook)"
ok "in the mode webhook the same pod comes of it"

helm uninstall inject --wait --timeout 120s >/dev/null
release install "${people[@]}"
sleep 4
task again | as_flyte
masked again
ok "the secret outlives helm uninstall, and the servers of the next release serve it"
helm uninstall inject --wait --timeout 120s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
