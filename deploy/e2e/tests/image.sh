# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# inject runs in an image that contains nothing else.

run_pod - inject <<POD
apiVersion: v1
kind: Pod
metadata: {name: inject}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  containers:
    - {name: main, image: inject.test/inject:1, args: [version], securityContext: $hardened}
POD
wait_done inject
expect "the exit code" 0 "$(ended inject exitCode)"
case $(logs inject) in *inject*) ;; *) fail "version printed '$(logs inject)'" ;; esac
ok "inject runs in an image of its own"
