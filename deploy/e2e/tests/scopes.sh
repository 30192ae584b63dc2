# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The folders of a mounted Secret are scopes: a task gets the value of its narrowest scope, to the
# byte.

declare -A digest
keys=()
for scope in org domain project; do
  value="$(random)
"
  digest[$scope]=$(printf %s "$value" | sha256sum)
  keys+=(--from-literal="$scope=$value")
done
kube create secret generic secrets "${keys[@]}" >/dev/null

# container NAME PROJECT DOMAIN prints the spec of a container.
container() {
  cat <<CONTAINER
    - name: $1
      image: inject.test/task:1
      args: [sh, -c, 'printf %s "\$MY_SECRET_KEY" | sha256sum']
      env:
        - {name: INJECT_SECRETS, value: MY_SECRET_KEY}
        - {name: INJECT_STORE, value: "dir:///secrets"}
        - {name: INJECT_PROJECT, value: "$2"}
        - {name: INJECT_DOMAIN, value: "$3"}
      securityContext: $hardened
      volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}]
CONTAINER
}
run_pod - task <<POD
apiVersion: v1
kind: Pod
metadata: {name: task}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {fsGroup: 65532}
  volumes:
    - name: secrets
      secret:
        secretName: secrets
        defaultMode: 0440
        items:
          - {key: org, path: MY_SECRET_KEY}
          - {key: domain, path: development/MY_SECRET_KEY}
          - {key: project, path: development/my_project/MY_SECRET_KEY}
  containers:
$(container project my_project development)
$(container domain other_project development)
$(container org my_project production)
POD
wait_done task
for scope in org domain project; do
  expect "the digest of the $scope's value" "${digest[$scope]}" "$(logs task -c $scope)"
done
ok "a task gets the value of its narrowest scope, to the byte"
