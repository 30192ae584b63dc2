# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The chart's policies say in the cluster which pods may claim a scope. Its servers give a pod what it
# declares there, by the token that kubelet mounts, and inject finds all it needs in /run/inject.

# The pods of this test are written by hand. stranger may create pods, as a person with the role edit does.
flyte_parts
kube -n "$tasks" create rolebinding stranger --role=maker --user=stranger >/dev/null
echo 'mutation: {mode: "off"}' >>"$work/values.yaml"
release install

kube get configmap inject-identity -o 'jsonpath={.data.identity\.yaml}' >"$work/identity.yaml"
# doctor prints what an administrator is told about the cluster.
doctor() {
  "$here/cluster.sh" exec "$work" "$work/injectd" doctor --kube --kube-identity "$work/identity.yaml" --store "kube://$secrets" 2>&1 || true
}
value=$(random) other=$(random)
{ secret fraud MY_SECRET_KEY "$value"; secret fraud OTHER "$other"; } | kube -n "$secrets" create -f - >/dev/null

# pod NAME PROJECT COMMAND prints a pod of a task that declares MY_SECRET_KEY, as a person writes it for
# an image that has inject.
pod() {
  cat <<POD
apiVersion: v1
kind: Pod
metadata:
  name: $1
  labels: {organization: flyte, project: $2, domain: development, inject-flyte-secrets: "true"}
  annotations:
    $declaration
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  volumes:
    - name: inject
      projected:
        sources:
          - {serviceAccountToken: {audience: inject, expirationSeconds: 600, path: token}}
          - {configMap: {name: inject-ca}}
          - downwardAPI:
              items:
                - {path: labels, fieldRef: {fieldPath: metadata.labels}}
                - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
  containers:
    - name: main
      image: inject.test/task:1
      command: $3
      env: [{name: INJECT_STORE, value: "grpcs://injectd.$namespace.svc:8093"}]
      securityContext: $hardened
      volumeMounts: [{name: inject, mountPath: /run/inject, readOnly: true}]
POD
}
declaration=$("$work/inject" explain --secret MY_SECRET_KEY -o annotations | grep 'flyte.secrets/')
# shellcheck disable=SC2016 # the pod's shell expands it
task='[/inject, run, --, sh, -c, "echo \"$MY_SECRET_KEY\"; printf %s \"$MY_SECRET_KEY\" | sha256sum"]'
asks='[/inject, run, --secret, MY_SECRET_KEY, --project, fraud, --domain, development, --, "true"]'
more='[/inject, run, --secret, OTHER, --, "true"]'
# make USER creates the pod in stdin as USER, and prints why it is refused.
make() { { kube -n "$tasks" --as "$1" create -f - >/dev/null; } 2>&1; }
# refused POD TEXT fails unless the log of POD contains TEXT. The log is read to its end first: grep -q ends at
# the first match, and kubectl could fail because it then writes into a closed pipe.
refused() {
  local log
  log=$(in_tasks logs "$1")
  [[ "$log" == *"$2"* ]] || fail "the pod $1 says: $log"
}

denied() { [[ "$(pod forged fraud "$task" | make stranger)" == *"stranger may not claim the scope fraud/development"* ]]; }
try 20 denied || fail "a stranger may claim a scope: $(pod forged fraud "$task" | make stranger)"
sleep 4 # by so much the pods must be younger than the policies: see --kube-identity-margin
expect "what Flyte is told" "" "$(pod task fraud "$task" | make "$flyte")"
in_tasks wait_done task
expect "the log" "[REDACTED:MY_SECRET_KEY]
$(printf %s "$value" | sha256sum)" "$(in_tasks logs task)"
expect "what Flyte is told" "" "$(pod wrong-scope other "$task" | make "$flyte")"
expect "what Flyte is told" "" "$(pod undeclared fraud "$more" | make "$flyte")"
pod plain fraud "$asks" | sed -e '/^  labels:/d' -e '/^  annotations:/,/^    flyte/d' | make stranger >"$work/plain"
expect "what the stranger is told of a pod that says nothing" "" "$(cat "$work/plain")"
for name in wrong-scope undeclared plain; do
  in_tasks wait_done "$name"
  expect "the exit code of $name" 125 "$(in_tasks ended "$name" exitCode)"
done
refused wrong-scope "MY_SECRET_KEY"
refused undeclared "OTHER"
refused plain "needs the labels project and domain"
for name in task wrong-scope undeclared plain; do
  log=$(in_tasks logs "$name")
  for part in "$value" "$other"; do
    [[ "$log" != *"$part"* ]] || fail "the value is in the log of $name"
  done
done
ok "a pod of Flyte's account gets what it declares in its scope, found in /run/inject, and no other pod gets anything"

if why=$(kube -n "$tasks" create token default --audience inject 2>&1); then fail "an administrator minted a token for inject"; fi
[[ "$why" == *inject-tokens* ]] || fail "the administrator is told: $why"
expect "what doctor finds wrong" "" "$(doctor | grep '^fail' || true)"
binding=$(kube get validatingadmissionpolicybindings -o name | grep '/inject-claims-')
kube delete "$binding" >/dev/null 2>&1 || fail "the binding is not deleted"
expect "what Flyte is told" "" "$(pod between fraud "$task" | make "$flyte")"
[[ "$(doctor)" =~ fail\ +policies\ +inject-claims ]] || fail "doctor says: $(doctor)"
in_tasks wait_done between
expect "the exit code without a policy" 125 "$(in_tasks ended between exitCode)"
release upgrade
sleep 4
expect "what Flyte is told" "" "$(pod again fraud "$task" | make "$flyte")"
in_tasks wait_done again
expect "the exit code when the policy is back" 0 "$(in_tasks ended again exitCode)"
ok "without one of the policies no pod is served, and pods that are made when it is back are"
helm uninstall inject --wait --timeout 60s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
