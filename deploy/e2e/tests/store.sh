# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# Two injectd pods serve the Secrets of a namespace with the Role of docs/how-to/kubernetes.md. People
# and tasks reach them by the name of a Service, with the tokens of their service accounts. What is
# written through one is read through the other, also while both are replaced.

injectd_parts
kube create service clusterip injectd --tcp=8093 >/dev/null
cat >"$work/policy.yaml" <<POLICY
version: 1
rules:
  - name: people
    identity: {issuer: "https://kubernetes.default.svc", subject: "system:serviceaccount:$namespace:people"}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
  - name: tasks
    identity: {issuer: "https://kubernetes.default.svc", subject: "system:serviceaccount:$namespace:tasks"}
    resolve: {project: my_project, domain: development}
POLICY
kube create namespace kept >/dev/null
for account in injectd people tasks; do kube create serviceaccount "$account" >/dev/null; done
kube -n kept create role injectd --resource=secrets --verb=get,list,create,update,delete >/dev/null
kube -n kept create rolebinding injectd --role=injectd --serviceaccount="$namespace:injectd" >/dev/null
kube create configmap access --from-file="$work/policy.yaml" --from-file=ca.crt="$work/tls.crt" >/dev/null

jwt=issuer=https://kubernetes.default.svc,audience=injectd,keys=https://kubernetes.default.svc/openid/v1/jwks
own=/var/run/secrets/kubernetes.io/serviceaccount
kube create -f - >/dev/null <<OBJECTS
apiVersion: apps/v1
kind: Deployment
metadata: {name: injectd}
spec:
  replicas: 2
  selector: {matchLabels: {app: injectd}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: injectd}}
    spec:
      serviceAccountName: injectd
      securityContext: {fsGroup: 65532}
      topologySpreadConstraints:
        - {topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: injectd}}}
      volumes:
        - {name: tls, secret: {secretName: tls, defaultMode: 0440}}
        - {name: access, configMap: {name: access}}
      containers:
        - name: main
          image: inject.test/injectd:1
          command: [/injectd, serve, --store, kube://kept, --listen, ":8093", --ops-listen, ":8094", --drain-delay, 2s]
          args: [--cert-file, /tls/tls.crt, --cert-key-file, /tls/tls.key, --policy, /access/policy.yaml,
            --jwt, "$jwt,ca=$own/ca.crt,token=$own/token"]
          readinessProbe: {httpGet: {path: /readyz, port: 8094}, periodSeconds: 1}
          securityContext: $hardened
          volumeMounts: [{name: tls, mountPath: /tls, readOnly: true}, {name: access, mountPath: /access, readOnly: true}]
OBJECTS

# client NAME ACCOUNT COMMAND prints a pod that calls the servers as ACCOUNT.
client() {
  cat <<POD
---
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {client: $2}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  serviceAccountName: $2
  volumes:
    - {name: token, projected: {sources: [{serviceAccountToken: {audience: injectd, path: token}}]}}
    - {name: access, configMap: {name: access}}
  containers:
    - name: main
      image: inject.test/task:1
      command: $3
      env:
        - {name: INJECT_STORE, value: "grpcs://injectd.$namespace.svc:8093"}
        - {name: INJECT_TOKEN_FILE, value: /token/token}
        - {name: INJECT_CA_FILE, value: /access/ca.crt}
      securityContext: $hardened
      volumeMounts: [{name: token, mountPath: /token, readOnly: true}, {name: access, mountPath: /access, readOnly: true}]
POD
}
# task NAME prints a pod of a task that prints the digest of its secret.
# shellcheck disable=SC2016 # the pod's shell expands it
task() { client "$1" tasks '[/inject, run, --secret, MY_SECRET_KEY, --, sh, -c, "printf %s \"$MY_SECRET_KEY\" | sha256sum"]'; }
# person WORDS... runs inject with WORDS as a person, with the caller's stdin.
person() { kube exec -i people -- /inject "$@"; }
digest() { printf %s "$1" | sha256sum; }

kube rollout status deployment injectd --timeout=60s >/dev/null || fail "injectd is not ready: $(logs deployment/injectd)"
expect "the nodes of the servers" "node1 node2" \
  "$(kube get pods --selector app=injectd -o 'jsonpath={.items[*].spec.nodeName}' | xargs -n 1 | sort | xargs)"
client people people '[sleep, inf]' | run_pod - people

value=$(random)
printf %s "$value" | person create secret MY_SECRET_KEY --from-file - >/dev/null || fail "the secret was not created"
task task | run_pod - task
wait_done task
expect "the digest of the value" "$(digest "$value")" "$(logs task)"
record task
for part in object events logs; do if holds "$value" "$part"; then fail "the value is in the $part of the task"; fi; done
# The search finds what is there: the value's own Secret.
kube -n kept get secrets -o yaml >"$work/record/secrets"
holds "$value" secrets || fail "the value is in no Secret of the namespace"
ok "a task pod gets what a person stored, from two servers on the Secrets of a namespace, and its value is in no other object"

# Each connection goes to either server, so of twenty changes and reads many are made through both.
for i in $(seq 10); do
  random | person create secret NARROW --project my_project --domain development --from-file - >/dev/null || fail "create $i"
  person get secret NARROW --project my_project --domain development >/dev/null || fail "what was created is not there ($i)"
  person delete secret NARROW --project my_project --domain development >/dev/null || fail "delete $i"
  if person get secret NARROW --project my_project --domain development >/dev/null 2>&1; then fail "what was deleted is there ($i)"; fi
done
served() { logs "$1" | grep -c '"key":"NARROW"' || true; }
for pod in $(kube get pods --selector app=injectd -o name); do
  [ "$(served "$pod")" -gt 0 ] || fail "the server $pod was not asked"
done
ok "what is created and deleted through one server is there, and gone, for the next read through the other"

kube rollout restart deployment injectd >/dev/null
for i in $(seq 8); do task "rolled$i"; done | kube create -f - >/dev/null
kube rollout status deployment injectd --timeout=120s >/dev/null || fail "injectd is not ready after a restart"
for i in $(seq 8); do
  wait_done "rolled$i" 90
  expect "the digest of the value of task $i" "$(digest "$value")" "$(logs "rolled$i")"
done
ok "tasks that start while both servers are replaced get their secrets"
