# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# shellcheck disable=SC2016 # the shells in the pods expand these
# mutation.delivery: image. The program comes read-only from a volume of the image, without an init container
# of ours, into a pod that may neither be root nor write to its root file system.

flyte_parts
release install --set mutation.delivery=image
value=$(random)
secret fraud V "$value" | kube -n "$secrets" create -f - >/dev/null
secret fraud f "$(random)" | kube -n "$secrets" create -f - >/dev/null
declaration=$("$work/inject" explain --secret V --secret-file f -o annotations | grep 'flyte.secrets/' | sed 's/^ */    /')

# task NAME USER prints a pod as Flyte makes it of a raw container. It says what it has, and what it can write.
task() {
  cat <<POD
apiVersion: v1
kind: Pod
metadata:
  name: $1
  labels: {organization: flyte, project: fraud, domain: development, inject-flyte-secrets: "true"}
  annotations:
$declaration
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {runAsUser: $2, runAsGroup: $2}
  containers:
    - name: $1
      image: inject.test/busybox:1
      args: [/bin/sh, -c, 'echo "\$(id -u) \$V"; cat /etc/flyte/secrets/f; echo; printf %s "\$V" | sha256sum; sha256sum </inject/inject;
        for at in / /inject/ /etc/flyte/secrets/; do touch \${at}made || echo "\$at is closed"; done 2>&1; rm /etc/flyte/secrets/made;
        grep " /inject " /proc/mounts | cut -d " " -f 4 | cut -d , -f 1']
      securityContext: $hardened
POD
}
sleep 4 # the pods must be younger than the policies
for user in 65534 1000; do
  task "as$user" "$user" | as_flyte -f - >"$work/created" 2>&1 || fail "Flyte is told: $(cat "$work/created")"
done
digest() { sha256sum | cut -d' ' -f1; }
for user in 65534 1000; do
  in_tasks wait_done "as$user" 120
  expect "the log of the user $user" "$user [REDACTED:V]
[REDACTED:f]
$(printf %s "$value" | digest)  -
$(digest <"$work/inject")  -
touch: /made: Read-only file system
/ is closed
touch: /inject/made: Read-only file system
/inject/ is closed
ro" "$(in_tasks logs "as$user")"
  expect "the pod of the user $user" "Succeeded  inject.test/inject:1" \
    "$(in_tasks kube get pod "as$user" -o 'jsonpath={.status.phase} {.spec.initContainers[*].name} {.spec.volumes[?(@.name=="inject")].image.reference}')"
done
ok "with mutation.delivery=image tasks of users other than root run with their secrets, masked, from a read-only volume"

# The same pod gets an init container with the other delivery, so the search above finds one.
release upgrade
inits() { task init 65534 | as_flyte -f - --dry-run=server -o 'jsonpath={.spec.initContainers[*].name}' >"$work/created" 2>&1; }
copied() { inits && [ "$(cat "$work/created")" = inject ]; }
try 30 copied || fail "with mutation.delivery=init the init containers are: $(cat "$work/created")"

doctor() { { "$here/cluster.sh" exec "$work" "$work/injectd" doctor --kube || true; } >"$work/doctor" 2>&1; }
doctor
grep -E '^ok +nodes +2 nodes, all with volumes of images$' "$work/doctor" >/dev/null || fail "doctor says: $(cat "$work/doctor")"
ok "injectd doctor says that all nodes of the cluster have volumes of images"
helm uninstall inject --wait --timeout 120s >/dev/null
kube delete namespace "$secrets" --wait=false >/dev/null
