# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The cluster itself: when a node is drained, the pods of a Deployment move to the other node.

kube create -f - >/dev/null <<OBJECTS
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsUser: 1000}
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - {topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers: [{name: main, image: inject.test/busybox:1, command: [sleep, inf], securityContext: $hardened}]
OBJECTS
kube rollout status deployment web --timeout=60s >/dev/null || fail "the Deployment is not ready"
# on prints how many pods of the Deployment run on the node $1.
on() { kube get pods --selector app=web --field-selector "spec.nodeName=$1,status.phase=Running" -o name | wc -l; }
expect "the number of pods on each node" "2 2" "$(on node1) $(on node2)"

kube drain node2 --pod-selector app=web --timeout=60s >"$work/drain" 2>&1 || fail "the node is not drained: $(cat "$work/drain")"
kube rollout status deployment web --timeout=60s >/dev/null || fail "the Deployment is not ready after a drain"
moved() { [ "$(on node1) $(on node2)" = "4 0" ]; }
try 30 moved || fail "the pods did not move: $(kube get pods -o wide)"
kube uncordon node2 >/dev/null
kube rollout restart deployment web >/dev/null
kube rollout status deployment web --timeout=60s >/dev/null || fail "the Deployment is not ready after a restart"
back() { [ "$(on node2)" -gt 0 ]; }
try 30 back || fail "no pod is on the node again: $(kube get pods -o wide)"
ok "the pods of a Deployment leave a node that is drained, and come back to it"
