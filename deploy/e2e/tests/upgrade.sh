# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# shellcheck disable=SC2016 # the shells in the pods expand these
# shellcheck disable=SC2034 # lib.sh uses them
# The steps of docs/how-to/kubernetes.md from Flyte's own webhook to the chart, and back. Tasks start all the
# time. None is refused, and each has its secrets, a variable and a file: at first in clear text in its spec and
# its log, with both masked in its log, and in the end in no spec.

flyte_parts
people_values
declared=(--secret MY_SECRET_KEY --secret-file f)
script='echo "$MY_SECRET_KEY"; cat "$FLYTE_SECRETS_DEFAULT_DIR/f"; echo; { printf %s "$MY_SECRET_KEY"; cat "$FLYTE_SECRETS_DEFAULT_DIR/f"; } | sha256sum'
value=my_secret_value file=$(random)
# Flyte's service keeps the secrets in its own namespace, which is that of the release here.
{ secret fraud MY_SECRET_KEY "$value"; secret fraud f "$file"; } | kube create -f - >/dev/null

# flyte_webhook stands in for Flyte's webhook, which is not a part of this repository. It makes the change that
# Flyte v2.0.43's made of a task with a variable and a file, in the pods that deploy/chart/testdata/pods/coexist
# has: the value in a variable of all containers, and all files in one of an init container, which writes them into
# a volume. The init container also has the security context that this namespace demands, and runs our busybox.
flyte_webhook() {
  local mount='{"name": "embedded-secret-vol", "mountPath": "/etc/flyte/secrets"}' env
  env=$(jq -n --arg value "$value" '[{name: "MY_SECRET_KEY", value: $value}, {name: "FLYTE_SECRETS_ENV_PREFIX", value: "_UNION_"},
    {name: "FLYTE_SECRETS_FILE_PREFIX", value: ""}, {name: "FLYTE_SECRETS_DEFAULT_DIR", value: "/etc/flyte/secrets"}]')
  # An expression of CEL has no lists and maps of mixed types: what is in a map is dyn.
  jq -n --argjson env "$env" --argjson mount "$mount" --arg files "f=$(printf %s "$file" | base64 -w0)" --arg tasks "$tasks" --argjson security \
    '{"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}' '
    def cel: if type == "object" then "{" + (to_entries | map("\(.key | @json): dyn(\(.value | cel))") | join(", ")) + "}"
      elif type == "array" then "[" + (map(cel) | join(", ")) + "]" else @json end;
    def add($list; $value): "(has(object.spec." + ($list | sub("^containers/0/"; "containers[0].")) + ") ? [] :
      [JSONPatch{op: \"add\", path: \"/spec/" + $list + "\", value: []}]) +
      [JSONPatch{op: \"add\", path: \"/spec/" + $list + "/-\", value: " + ($value | cel) + "}]";
    {apiVersion: "v1", kind: "List", items: [
      {apiVersion: "admissionregistration.k8s.io/v1", kind: "MutatingAdmissionPolicy", metadata: {name: "flyte-webhook"}, spec: {
        failurePolicy: "Fail", reinvocationPolicy: "Never",
        matchConstraints: {objectSelector: {matchLabels: {"inject-flyte-secrets": "true"}},
          resourceRules: [{apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["pods"]}]},
        mutations: [{patchType: "JSONPatch", jsonPatch: {expression: ([
          "[JSONPatch{op: \"add\", path: \"/spec/containers/0/env\", value: " + ($env | cel) + "}]",
          "object.spec.?initContainers.orValue([]).transformList(i, c, JSONPatch{op: \"add\",
            path: \"/spec/initContainers/\" + string(i) + \"/env\", value: " + ($env | cel) + "})",
          add("containers/0/volumeMounts"; $mount + {readOnly: true}),
          add("volumes"; {name: "embedded-secret-vol", emptyDir: {medium: "Memory"}}),
          add("initContainers"; {name: "init-embedded-secret", image: "inject.test/busybox:1", securityContext: $security,
            env: ($env + [{name: "SECRETS", value: $files}]), volumeMounts: [$mount],
            command: ["sh", "-c", "echo \"$SECRETS\" | while IFS== read -r name text; do echo \"$text\" | base64 -d >/etc/flyte/secrets/$name; done"]})
          ] | join(" + "))}}]}},
      {apiVersion: "admissionregistration.k8s.io/v1", kind: "MutatingAdmissionPolicyBinding", metadata: {name: "flyte-webhook"}, spec: {
        policyName: "flyte-webhook", matchResources: {namespaceSelector: {matchLabels: {"kubernetes.io/metadata.name": $tasks}}}}}]}' |
    kube "$1" -f - >/dev/null
}
# has_value NAME tells whether the spec of the pod has the value in clear text.
has_value() { in_tasks kube get pod "$1" -o yaml | grep -F "$value" >/dev/null; }
count=0
changed() {
  start_task "try$((count += 1))"
  has_value "try$count"
}

# What a pod shows is known if the state is the same before and after it was created:
#   flyte  its log and its spec have the value
#   both   its log has masks, and its spec has the value
#   ours   its log has masks, and its spec has no value
# In the state "between" it may be any of them.
is() { echo "$1" >"$work/state"; }
tasks_start() {
  local n state
  for ((n = 0; ; n++)); do
    state=$(cat "$work/state")
    [ "$state" != end ] || return 0
    start_task "task$n"
    [ "$(cat "$work/state")" = "$state" ] || state=between
    echo "task$n $state $SECONDS" >>"$work/tasks"
    sleep 1
  done
}
seen=0
digest=$(printf %s "$value$file" | sha256sum)
clear=$(printf '%s\n%s\n%s' "$value" "$file" "$digest") masks=$(printf '[REDACTED:MY_SECRET_KEY]\n[REDACTED:f]\n%s' "$digest")
# done_all N tells whether the first N tasks have ended.
done_all() {
  in_tasks kube get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.status.phase}{"\n"}{end}' >"$work/phases"
  ! grep -vE ' (Succeeded|Failed)$' "$work/phases" | cut -d' ' -f1 | grep -qxFf <(head -n "$1" "$work/tasks" | cut -d' ' -f1)
}
# still STEP waits for the pods that were made until now. So no pod of a step starts in the next one.
still() {
  local name state log kind to
  kill -0 "$starting" 2>/dev/null || fail "$1: tasks no longer start"
  to=$(wc -l <"$work/tasks")
  try 60 done_all "$to" || fail "$1: not all tasks have ended: $(cat "$work/phases")"
  # All specs at once, and the logs as kubelet writes them: kubectl takes a moment for each pod.
  in_tasks kube get pods -o json | jq -r --arg value "$value" --arg file "$(printf %s "$file" | base64 -w0)" \
    '.items[] | select(.spec | tostring | contains($value) or contains($file)) | .metadata.name' >"$work/clear"
  while read -r name state _; do
    log=$(cut -d' ' -f4- "$work"/cluster/log/node*/pods/"${tasks}_${name}_"*/"$name"/0.log)
    kind=ours
    ! grep -qxF "$name" "$work/clear" || kind=both
    case $log in
      "$clear") kind=${kind/both/flyte} ;; # the spec must have it, or the search for it finds nothing
      "$masks") ;;
      *) fail "$1: the log of $name is '$log'" ;;
    esac
    [ "$state" = between ] || [ "$state" = "$kind" ] || fail "$1: $name is of the state '$kind', expected '$state'"
  done < <(sed -n "$((seen + 1)),${to}p" "$work/tasks")
  ok "$1: $((to - seen)) tasks had their secrets"
  seen=$to
}

# shown FILE COMMAND... writes to FILE what a terminal shows of the pod hello, which only prints its secret.
shown() {
  local file=$1 command
  (
    declared=(--secret MY_SECRET_KEY) script='echo "the key is $MY_SECRET_KEY"'
    in_tasks kube delete pod hello --ignore-not-found >/dev/null
    start_task hello
  )
  in_tasks wait_done hello
  kubectl() { in_tasks kube "$@"; }
  for command in "${@:2}"; do
    echo "$ $command"
    eval "$command" || true # grep fails if there is nothing
  done >"$work/$file"
}

flyte_webhook create
try 30 changed || fail "the policy that stands in for Flyte's webhook does not change pods"
is flyte
: >"$work/tasks"
tasks_start &
starting=$!
sleep 2
still "0: Flyte's webhook alone, values in specs and logs"
shown terminal-before 'kubectl logs hello -c hello' 'kubectl get pod hello -o yaml | grep -m 1 -B 1 my_secret_value'

upgrade() { release upgrade "${people[@]}" "$@"; }
off=policies.objects=false,mutation.mode=off beside=policies.objects=false,mutation.coexist=true
release install "${people[@]}" --set policies.enforce=audit
still "1: the policies audit"

people_parts
at="kubeconfig=$work/cluster/e2e/pki/admin.kubeconfig"
"$here/cluster.sh" exec "$work" "$work/injectd" migrate --from "kube://$namespace?$at" --to "kube://$secrets?$at" >"$work/migrate" 2>&1 ||
  fail "migrate: $(cat "$work/migrate")"
upgrade --set "$off"
sleep 4 # pods must be younger than the policies
still "2 and 3: the secrets are copied, and the policies refuse"

is between
upgrade --set "$beside"
sleep 2 # the API server reads policies once a second
is both
sleep 2
still "4: both change pods, and logs have masks"

is between
kube delete mutatingadmissionpolicybinding,mutatingadmissionpolicy flyte-webhook >/dev/null 2>&1
sleep 2
is ours
still "5: Flyte's webhook is off"
upgrade
sleep 2
still "6: the chart alone, no value in a spec"
shown terminal-after 'kubectl logs hello -c hello' 'kubectl get pod hello -o yaml | grep -c my_secret_value' \
  "kubectl get pod hello -o jsonpath='{.spec.containers[0].command[0]}{\"\\n\"}'"
# The picture in the documentation is what these two show.
"$here/picture.sh" "Flyte alone" "$work/terminal-before" "The same task with inject" "$work/terminal-after" >"$work/kubernetes.svg"
[ -z "${INJECT_TEST_UPDATE:-}" ] || cp "$work/kubernetes.svg" "$root/docs"
cmp "$work/kubernetes.svg" "$root/docs/kubernetes.svg" || fail "run this test with INJECT_TEST_UPDATE=1: docs/kubernetes.svg is not what it shows"
ok "the picture in the documentation is what the pod shows before and after"

# Flyte's service and ours manage the same objects. One makes a secret, and the other one changes it.
managed=$(random) id=u__org__flyte__domain__development__project__fraud__key__MANAGED
printf %s "$managed" | person create secret MANAGED --project fraud --domain development --from-file - >/dev/null || fail "the secret was not created"
secret fraud MANAGED "$managed" >"$work/managed"
expect "what Flyte's service would have written" \
  "$(kube create --dry-run=client -o json -f "$work/managed" | jq -c "[.metadata.name, .metadata.labels, .stringData[\"$id\"]]")" \
  "$(kube -n "$secrets" get -f "$work/managed" -o json | jq -c "[.metadata.name, .metadata.labels, (.data[\"$id\"] | @base64d)]")"
managed=$(random)
secret fraud MANAGED "$managed" | kube -n "$secrets" replace -f - >/dev/null
(
  declared=(--secret MANAGED) script='printf %s "$MANAGED" | sha256sum'
  start_task managed
)
in_tasks wait_done managed
expect "the value that Flyte's service wrote" "$(printf %s "$managed" | sha256sum)" "$(in_tasks logs managed -c managed)"
ok "a secret of ours is one of Flyte's, and what Flyte's service writes reaches a task"

upgrade --set "$beside"
sleep 2
still "back to 5: Flyte's webhook is off"
is between
flyte_webhook create
try 30 changed || fail "the policy that stands in for Flyte's webhook does not change pods"
is both
sleep 2
still "back to 4: both change pods"
is between
upgrade --set "$off"
sleep 2
is flyte
sleep 2
still "back to 3: Flyte's webhook alone, and the policies refuse"
upgrade --set policies.enforce=audit
still "back to 1: the policies audit"
helm uninstall inject --wait --timeout 60s >/dev/null
sleep 2
still "back to 0: Flyte's webhook alone"

is end
wait "$starting" || fail "tasks no longer start"
read -r _ _ first <"$work/tasks"
read -r _ _ last < <(tail -n 1 "$work/tasks")
[ $((seen * 2)) -ge $((last - first)) ] || fail "only $seen tasks started in $((last - first)) s"
ok "$seen tasks started in $((last - first)) s, and all had their secrets"
kube delete mutatingadmissionpolicybinding,mutatingadmissionpolicy flyte-webhook >/dev/null 2>&1
kube delete namespace "$secrets" --wait=false >/dev/null
