# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The cluster itself: pods of both nodes reach the pods of a Service by the Service's name and
# address, and each of them by a name of its own if the Service is headless.

# web NAME prints a pod that serves its own name, on another node than the other one.
web() {
  cat <<POD
---
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: web}}
spec:
  automountServiceAccountToken: false
  hostname: $1
  subdomain: each
  securityContext: {runAsUser: 1000}
  topologySpreadConstraints:
    - {topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
  volumes: [{name: www, emptyDir: {}}]
  containers:
    - name: main
      image: inject.test/busybox:1
      command: [sh, -c, 'hostname >/www/index.html; exec httpd -f -p 8080 -h /www']
      ports: [{name: http, containerPort: 8080}]
      readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
      securityContext: $hardened
      volumeMounts: [{name: www, mountPath: /www}]
POD
}
kube create -f - >/dev/null <<OBJECTS
$(web first)
$(web second)
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}
OBJECTS
kube wait --for=condition=Ready --timeout=60s pod/first pod/second >/dev/null || fail "the servers are not ready"

# fetch POD URL [TIMES] prints what the pod gets from the URL. The -T of Debian's static wget crashes.
fetch() {
  kube exec "$1" -- sh -c "for i in \$(seq ${3:-1}); do timeout 5 wget -q -O - $2 || exit; done"
}
# both POD URL tells whether some of the pod's requests reach each of the servers.
both() { [ "$(fetch "$1" "$2" 20 | sort -u | xargs)" = "first second" ]; }

# A moment after they are ready the nodes know it.
for client in first second; do
  try 30 both "$client" http://web/ || fail "the pod $client does not reach both pods of the Service"
done
address=$(kube get service web -o 'jsonpath={.spec.clusterIP}')
for host in web web.services web.services.svc.cluster.local "$address"; do
  # Each server is a client, too, because a pod must also reach itself.
  for client in first second; do
    both "$client" "http://$host/" || fail "the pod $client does not reach both pods of the Service at http://$host"
  done
done
expect "the nodes of the pods" "node1 node2" "$(kube get pods -o 'jsonpath={.items[*].spec.nodeName}' | xargs -n 1 | sort | xargs)"
ok "pods of two nodes reach the pods of a Service, themselves among them, by its name and its address $address"

for name in first second; do
  expect "the answer of http://$name.each:8080" "$name" "$(fetch first "http://$name.each:8080/")"
done
addresses=$(kube get pods -o 'jsonpath={.items[*].status.podIP}' | tr ' ' '\n' | sort)
expect "the addresses of each" "$addresses" \
  "$(kube exec first -- nslookup -type=a each.services.svc.cluster.local | sed -n '/^Name:/{n;s/^Address: //p}' | sort)"
ok "the name of a headless Service has the addresses of its pods, and each pod has a name of its own"

if kube exec first -- nslookup -type=a absent.services.svc.cluster.local >"$work/absent" 2>&1; then fail "a name without a Service has an address"; fi
grep -q NXDOMAIN "$work/absent" || fail "the answer is not that the name does not exist: $(cat "$work/absent")"
kube delete pod second >/dev/null
only() { [ "$(fetch first http://web/ 10 | sort -u)" = first ]; }
try 30 only || fail "the Service still has the pod that is deleted"
ok "other names do not exist, and a Service loses the pods that are deleted"
