# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# shellcheck disable=SC2016 # the shells in the pods, and jq, expand these
# How long pods take from the API server's receipt of their creation to their first line, as containerd reads
# it, on a cluster without other work: a plain pod, one with an init container that does nothing, and tasks of
# the chart's users with one secret, with both ways of delivery. They take turns, and a ratio is the median of
# the rounds' own. docs/explanation/benchmarks.md has the figures of a run. E2E_ROUNDS is the number of
# rounds (2). Targets that are missed are named; they do not fail the test, because the machine may be the
# reason.

rounds=${E2E_ROUNDS:-2}
flyte_parts
release install
value=$(random)
secret fraud V "$value" | kube -n "$secrets" create -f - >/dev/null
declaration=$("$work/inject" explain --secret V -o annotations | grep 'flyte.secrets/')

# pod NAME KIND prints a pod. It ends after one line.
pod() {
  local labels='{}' annotations='{}' init='' line=first
  case $2 in
    nothing) init="initContainers: [{name: nothing, image: inject.test/busybox:1, command: [/bin/true], securityContext: $hardened}]" ;;
    task) labels='{organization: flyte, project: fraud, domain: development, inject-flyte-secrets: "true"}' annotations="{$declaration}" line='$V' ;;
  esac
  cat <<POD
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: $labels, annotations: $annotations}
spec:
  restartPolicy: Never
  enableServiceLinks: false
  securityContext: {runAsUser: 65534, runAsGroup: 65534}
  $init
  containers:
    - name: main
      image: inject.test/busybox:1
      args: [/bin/sh, -c, 'echo "$line"']
      securityContext: $hardened
POD
}

# The chart has one way of delivery at a time, so pods of the other one are created as the policy made them.
sleep 4 # the pods must be younger than the policies
pod pod-name task | as_flyte -f - --dry-run=server -o json | jq 'del(.status, .metadata.uid, .metadata.creationTimestamp)' >"$work/init.json"
jq -e '.spec.initContainers[0].name == "inject"' "$work/init.json" >/dev/null || fail "the pod has no init container of ours"
release upgrade --set mutation.delivery=image
sleep 4

# one NAME KIND starts a pod, and waits until it has ended.
one() {
  case $2 in
    init) sed "s/pod-name/$1/" "$work/init.json" ;;
    image) pod "$1" task ;;
    *) pod "$1" "$2" ;;
  esac | as_flyte -f - >"$work/created" 2>&1 || fail "Flyte is told: $(cat "$work/created")"
  in_tasks wait_done "$1" 120
}
kinds=(plain nothing init image)
for ((round = 0; round <= rounds; round++)); do # round 0 is not counted
  for ((k = 0; k < 4; k++)); do
    kind=${kinds[(round + k) % 4]}
    one "$kind.$round" "$kind"
    sleep 0.5 # until the nodes have cleaned up
  done
done

# When the API server received each creation, and when the container's first line was read.
jq -rR --arg tasks "$tasks" 'fromjson? | select(.verb == "create" and .objectRef.resource == "pods" and .objectRef.subresource == null and
  .objectRef.namespace == $tasks and .responseStatus.code == 201 and (.objectRef.name | test("[.][1-9]"))) | "\(.objectRef.name) \(.requestReceivedTimestamp)"' \
  < <(grep -hF '"verb":"create"' "$work"/cluster/log/audit*.log | grep -F '"resource":"pods"') >"$work/received"
while read -r name received; do
  read -r at _ _ line < <(cat "$work"/cluster/log/node*/pods/"${tasks}_${name}_"*/main/0.log) || fail "$name has no line in its log"
  case $name in
    init.* | image.*) expect "the first line of $name" '[REDACTED:V]' "$line" ;;
    *) expect "the first line of $name" first "$line" ;;
  esac
  echo "${name/./ } $(date -d "$at" +%s.%N) $(date -d "$received" +%s.%N)"
done <"$work/received" >"$work/times"
expect "the number of pods" $((4 * rounds)) "$(wc -l <"$work/times")"
jq -rRn '
  def at($q): sort as $v | ($q * (($v | length) - 1)) as $x | ($x | floor) as $i | $v[$i] + ($x - $i) * (($v[$i + 1] // $v[$i]) - $v[$i]);
  def digits: . * 1000 | round / 1000;
  def stat: "\(at(0.5) | digits) (\(at(0.25) | digits)-\(at(0.75) | digits))";
  [inputs / " " | {kind: .[0], round: .[1], took: ((.[2] | tonumber) - (.[3] | tonumber))}] as $all
  | ($all | group_by(.round) | map(map({(.kind): .took}) | add)) as $rounds
  | def ratio($a; $b; $most): [$rounds[] | .[$a] / .[$b]]
      | "\($a) to \($b): \(stat) times, at most \($most): \(if at(0.5) <= $most then "met" else "NOT MET" end)";
  (("plain", "nothing", "init", "image") as $kind | "\($kind): \([$rounds[] | .[$kind]] | stat) s"),
  ratio("init"; "nothing"; 1.10), ratio("image"; "plain"; 1.15)' "$work/times"
ok "pods were started in $rounds rounds; their medians and quartiles are above"
helm uninstall inject --wait --timeout 120s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
