# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# shellcheck disable=SC2016 # the shells in the pods expand these
# The chart alone, and fifty tasks in pods as Flyte makes them, each with random secrets. Five are Python
# tasks, which upload their outputs themselves. All get their secrets, and none of the values is then in
# what the cluster has stored and logged since it began, or in the bucket.

for program in bin/sdk/bin/a0 bin/versitygw; do
  [ -x "$root/$program" ] || fail "run make sdk storage: there is no $program"
done
many=50 python=5
flyte_parts

# The bucket is a folder of this pod, with one empty input for all Python tasks.
load_image bucket "$root/bin/versitygw=/versitygw"
access=$(random) key=$(random) canary=$(random)
kube create service clusterip bucket --tcp=9000 >/dev/null
kube create -f - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata: {name: bucket, labels: {app: bucket}}
spec:
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532}
  volumes: [{name: data, emptyDir: {}}]
  containers:
    - name: main
      image: inject.test/bucket:1
      command: [sh, -ec, "mkdir -p /data/all/flyte; : >/data/all/flyte/inputs.pb; exec /versitygw --port :9000 --region eu-north-1 posix /data/all"]
      env: [{name: ROOT_ACCESS_KEY, value: "$access"}, {name: ROOT_SECRET_KEY, value: "$key"}, {name: HOME, value: /data}]
      readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
      securityContext: ${hardened/\{/\{runAsUser: 65532, }
      volumeMounts: [{name: data, mountPath: /data}]
POD
# The image of Python tasks: the SDK that the other tests use, with its files at the same paths.
sdk=$(realpath "$root/bin/sdk")
"$sdk/bin/python" "$here/python.py" >"$work/python.files"
echo 'task:x:65532:65532:task:/tmp:/nonexistent' >"$work/passwd" # Python asks for the user's name
load_image python -from "$work/python.files" "$root/deploy/sdk/job.py=/app/job.py" "$work/passwd=/etc/passwd"

release install
kube wait --for=condition=Ready --timeout=60s pod/bucket >/dev/null || fail "the bucket is not ready"

# pod NAME PROJECT IMAGE ARGS ENV prints a pod as Flyte makes it, with a security context that the namespace
# demands, which is the author's.
pod() {
  cat <<POD
---
apiVersion: v1
kind: Pod
metadata:
  name: $1
  labels: {organization: flyte, project: $2, domain: development, inject-flyte-secrets: "true", action: a0, run: $1}
  annotations:
    primary_container_name: $1
$declaration
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {runAsUser: 65532, runAsGroup: 65532}
  volumes: [{name: tmp, emptyDir: {}}]
  containers:
    - name: $1
      image: inject.test/$3:1
      args: $4
      env: [$5]
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext: $hardened
      volumeMounts: [{name: tmp, mountPath: /tmp}]
POD
}
prints='[/bin/sh, -c, "echo \"$V\"; echo \"$V\" | base64; cat \"${FLYTE_SECRETS_DEFAULT_DIR:-/etc/flyte/secrets}/f\"; printf \"%s \" \"$V\" | sha256sum"]'
where="{name: FLYTE_AWS_ENDPOINT, value: \"http://bucket.$namespace.svc.cluster.local:9000\"}, {name: AWS_REGION, value: eu-north-1},
  {name: FLYTE_AWS_ACCESS_KEY_ID, value: \"$access\"}, {name: FLYTE_AWS_SECRET_ACCESS_KEY, value: \"$key\"}"
a0() { # prints the arguments of the Python task NAME TASK
  echo "[a0, --inputs, s3://flyte/inputs.pb, --outputs-path, s3://flyte/$1/out, --version, v1, --run-base-dir, s3://flyte/$1,
    --raw-data-path, s3://flyte/$1/raw, --checkpoint-path, s3://flyte/$1/checkpoint, --prev-checkpoint, '\"\"', --run-name, $1, --name, a0,
    --resolver, flyte._internal.resolvers.default.DefaultTaskResolver, mod, job, instance, $2]"
}
declaration=$("$work/inject" explain --secret V --secret-file f -o annotations | grep 'flyte.secrets/' | sed 's/^ */    /')

values=()
for ((n = 0; n < many; n++)); do
  values+=("$(random)" "$(random)")
  secret "p$n" V "${values[-2]}"
  secret "p$n" f "${values[-1]}"
done >"$work/secrets.yaml"
kube -n "$secrets" create -f "$work/secrets.yaml" >/dev/null
for ((n = 0; n < many; n++)); do
  if [ "$n" -ge "$python" ]; then
    pod "task-$n" "p$n" busybox "$prints" ""
    continue
  fi
  task=everything
  [ "$n" -gt 0 ] || task=ends # it raises an error with the value
  pod "task-$n" "p$n" python "$(a0 "task-$n" "$task")" "$where, {name: FLYTE_INTERNAL_EXECUTION_PROJECT, value: p$n},
    {name: FLYTE_INTERNAL_EXECUTION_DOMAIN, value: development}, {name: _U_ORG_NAME, value: flyte}, {name: HOW, value: raised},
    {name: PATH, value: \"$sdk/bin:/bin\"}, {name: PYTHONPATH, value: /app}, {name: HOME, value: /tmp},
    {name: PYTHONDONTWRITEBYTECODE, value: '1'}, {name: FLYTE_DISABLE_SENTRY, value: 'true'}, {name: FLYTE_ATTEMPT_NUMBER, value: '0'}"
done >"$work/tasks.yaml"
sleep 3 # the pods must be younger than the policies
start=$SECONDS
kube -n "$tasks" --as "$flyte" create -f "$work/tasks.yaml" >"$work/made" 2>&1 || fail "Flyte is told: $(cat "$work/made")"
all_ended() {
  [ "$(kube -n "$tasks" get pods -o 'jsonpath={range .items[*]}{.status.phase}{"\n"}{end}' | grep -cE 'Succeeded|Failed')" = $many ]
}
try 240 all_ended || fail "some tasks have not ended: $(kube -n "$tasks" get pods)"
for ((n = 0; n < many; n++)); do
  log=$(kube -n "$tasks" logs "task-$n" -c "task-$n")
  if [ "$n" -ge "$python" ]; then
    want="[REDACTED:V]
[REDACTED:V]
[REDACTED:f]$(printf '%s ' "${values[2 * n]}" | sha256sum)"
    [ "$log" = "$want" ] || fail "the log of task-$n: $log"
  else
    [[ "$log" == *"Flyte runtime completed"* ]] || fail "the log of task-$n: $log"
  fi
done
ok "$many tasks ended in $((SECONDS - start)) s, each with its secrets"
# Flyte's attempts: no container has started twice. a0 of this version sometimes aborts when all its work is
# done; Flyte reads the outputs then, and so does this test.
for ((n = 0; n < many; n++)); do
  read -r phase code restarts < <(kube -n "$tasks" get pod "task-$n" -o \
    'jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].restartCount}{"\n"}')
  case "$phase $code $restarts" in
    'Succeeded 0 0') ;;
    'Failed 134 0') [ "$n" -lt "$python" ] || fail "task-$n ended with code 134" ;;
    *) fail "task-$n ended with: $phase, code $code, $restarts restarts" ;;
  esac
done

# Search what the cluster keeps. Each part must hold a canary or a mask, or the search finds nothing.
kube create -f - >/dev/null <<EVENT
apiVersion: v1
kind: Event
metadata: {name: canary}
involvedObject: {kind: Pod, namespace: $namespace, name: bucket}
message: "$(printf '%s' "-$canary-" | base64 -w0)"
EVENT
kube exec bucket -- sh -c "printf %s '$canary' | base64 >/data/all/flyte/canary"
rm -rf "$work/record"
mkdir "$work/record"
kube exec bucket -- tar -C /data/all/flyte -c . >"$work/record/bucket"
cp -R "$work/cluster/log" "$work/record/logs"
# Every state of every object since the cluster began, but for the Secrets of the store. The watch does not end.
{ "$here/cluster.sh" exec "$work" timeout 20 etcdctl --endpoints 127.0.0.1:2379 watch / --prefix --rev=1 -w json || true; } |
  jq -Rr --arg store "/registry/secrets/$secrets/" \
    'fromjson? | .Events[]? | select(.kv.key | @base64d | startswith($store) | not) | (.kv.key, .kv.value // "") | @base64d' >"$work/record/etcd"
for part in etcd bucket logs/audit.log; do
  holds "$canary" "$part" || fail "the search does not find the canary in the record's $part"
done
for part in logs/node1/pods logs/node2/pods bucket; do
  grep -rqF '[REDACTED:V]' "$work/record/$part" || fail "there is no mask in the record's $part"
done
for ((n = 0; n < python; n++)); do
  file=outputs.pb
  [ "$n" -gt 0 ] || file=error.pb
  tar -xOf "$work/record/bucket" "./task-$n/out/$file" | grep -F '[REDACTED:V]' >/dev/null || fail "$file of task-$n has no mask"
done
for ((n = 0; n < 2 * many; n++)); do
  forms "${values[n]}"
done >"$work/forms"
if grep -rlF -f "$work/forms" "$work/record" >"$work/found"; then fail "a value is in $(cat "$work/found")"; fi
ok "no value is in the $(wc -c <"$work/record/etcd") bytes of all that etcd has had, the logs or the bucket"
helm uninstall inject --wait --timeout 60s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
