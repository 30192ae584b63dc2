# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# Pods start while the servers of the chart, those that change pods among them, are killed, upgraded, rolled
# back and moved from their node, and while their certificates and authorities are renewed. Each pod runs with
# its secret, and none without. Flyte creates a pod again that the API server did not take because of an
# error of its own, and so does this test. E2E_PODS is how many pods start at least (20).

flyte_parts
cat >>"$work/values.yaml" <<VALUES
mutation: {mode: webhook}
certificates: {leaf: 20s, renew: 10s, authority: 2m, publish: 20s}
VALUES
release install
trusted() { kube get mutatingwebhookconfiguration inject-webhook -o 'jsonpath={.webhooks[*].clientConfig.caBundle}' | grep . >/dev/null; }
try 60 trusted || fail "the API server does not know the webhook's authority: $(logs deployment/injectd)"
value=$(random)
secret fraud MY_SECRET_KEY "$value" | kube -n "$secrets" create -f - >/dev/null

started=0 each=$((${E2E_PODS:-20} / 5))
# while_pods_start NAME COMMAND... starts pods, one after the other, as long as COMMAND runs, and fails unless
# each of them had the value, and has a mask in its log.
while_pods_start() {
  local name=$1 i count=0 command
  shift
  "$@" &
  command=$!
  while kill -0 "$command" 2>/dev/null || [ "$count" -lt "$each" ]; do
    try 60 created "$name$count" || fail "Flyte is told: $(cat "$work/created")"
    count=$((count + 1))
  done
  wait "$command" || fail "$name: the command failed"
  for ((i = 0; i < count; i++)); do
    masked "$name$i" "$value"
  done
  started=$((started + count))
}
ours='app.kubernetes.io/name in (injectd, inject-webhook)'
ready() {
  local name
  for name in injectd inject-webhook; do
    kube rollout status deployment "$name" --timeout=120s >/dev/null || fail "$name is not ready: $(kube get pods -o wide)"
  done
}
killed() {
  kube delete pods --selector "$ours" --grace-period=0 --force >/dev/null 2>&1
  ready
}
rolled_back() { helm rollback inject 1 --wait --timeout 120s >"$work/helm.log" 2>&1 || fail "helm rollback failed: $(cat "$work/helm.log")"; }
drained() {
  kube drain node2 --pod-selector "$ours" --timeout=120s >"$work/drain" 2>&1 || fail "the node is not drained: $(cat "$work/drain")"
  kube uncordon node2 >/dev/null
  ready
}
# issuer SECRET prints which key has signed the certificate in the Secret, and serial which one it is.
issuer() { kube get secret "$1" -o 'jsonpath={.data.tls\.crt}' | base64 -d | openssl x509 -noout -ext authorityKeyIdentifier; }
serial() { kube get secret "$1" -o 'jsonpath={.data.tls\.crt}' | base64 -d | openssl x509 -noout -serial; }
first=$(serial injectd-tls) first_issuer=$(issuer injectd-tls)

sleep 4 # the pods must be younger than the policies
while_pods_start killed killed
while_pods_start upgraded release upgrade --set injectd.logLevel=debug,webhook.logLevel=debug
while_pods_start rolled rolled_back
while_pods_start drained drained
ok "$started pods that start while the servers are killed, upgraded, rolled back and drained run with their secrets"

[ "$(serial injectd-tls)" != "$first" ] || fail "the certificate was not renewed"
of_next() { [ "$(issuer injectd-tls)" != "$first_issuer" ] && [ "$(issuer inject-webhook-tls)" != "$first_issuer" ]; }
try 180 of_next || fail "the next authority does not sign: $(logs deployment/injectd)"
while_pods_start renewed sleep 5
ok "pods that start after the certificates and their authority were renewed run with their secrets"
helm uninstall inject --wait --timeout 60s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
