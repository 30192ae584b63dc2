# shellcheck shell=bash
# shellcheck disable=SC2154 # set by lib.sh and test.sh
# The commands of docs/tutorial-kubernetes.md, and their outputs, on nodes. Flyte itself is not here. What the
# page needs of it has a stand-in: its command line is the real one, and asks a server of ours, on the same Secrets,
# in place of Flyte's SecretService; the pod of a task is made of the TaskTemplate that the real SDK sends.

[ -x "$root/bin/sdk/bin/flyte" ] || fail "run make sdk: there is no $root/bin/sdk/bin/flyte"
kubeconfig=$work/cluster/e2e/pki/admin.kubeconfig
for name in flyte-system flyte; do
  kube create namespace "$name" >/dev/null
  kube -n "$name" wait --for=create --timeout=30s serviceaccount/default >/dev/null
done
kube -n flyte-system create serviceaccount flyte-binary >/dev/null
kube -n flyte create role maker --resource=pods --verb=create >/dev/null
kube -n flyte create rolebinding maker --role=maker --serviceaccount=flyte-system:flyte-binary >/dev/null

# The images under the names that the page has.
for name in inject injectd; do released "$name" "registry.example.com/platform/$name:v1.2.3"; done
"$work/release/bin/image" tar -o "$work/images/alpine.tar" -tag docker.io/library/alpine:3.20 "${applets[@]}" "$busybox=/bin/busybox"
"$here/cluster.sh" load "$work" "$work"/images/{inject,injectd,alpine}.tar

mkdir "$work/flyte"
cat >"$work/flyte/config.yaml" <<CONFIG
admin: {endpoint: dns:///localhost:8090, insecure: true}
CONFIG
cat >"$work/flyte/flyte" <<FLYTE
#!/usr/bin/env bash
case \$1 in
  create)
    "$work/injectd" serve --insecure --listen 127.0.0.1:8090 --ops-listen '' --store "kube://inject-secrets?kubeconfig=$kubeconfig" >"$work/flyte/log" 2>&1 &
    until (: </dev/tcp/127.0.0.1/8090) 2>/dev/null; do sleep 0.1; done
    "$root/bin/sdk/bin/flyte" -c "$work/flyte/config.yaml" "\$@"
    kill \$!
    ;;
  run) "$root/bin/sdk/bin/python" "$root/deploy/sdk/pod.py" "\$2" "\$3" | kubectl -n flyte --as system:serviceaccount:flyte-system:flyte-binary create -f - ;;
esac
FLYTE
# Pods need not be a minute younger than the policies here.
cat >"$work/flyte/helm" <<HELM
#!/usr/bin/env bash
[ "\$1" != install ] || set -- "\$@" --set injectd.extraArgs={--kube-identity-margin=2s}
exec "$work/bin/helm" "\$@"
HELM
chmod 755 "$work"/flyte/{flyte,helm}
(
  cd "$root"
  "$here/cluster.sh" exec "$work" env INJECT_TEST_NODES="$kubeconfig" PATH="$work/flyte:$work/bin:$PATH" \
    go test -count 1 -run '^TestCommands$' -v ./docs
) >"$work/flyte/test" 2>&1 || fail "$(cat "$work/flyte/test" "$work/flyte/log")"
grep -q -- '--- PASS: TestCommands/docs/tutorial-kubernetes.md' "$work/flyte/test" || fail "the page was not run: $(cat "$work/flyte/test")"
ok "the commands of the tutorial do what it says"
kube delete namespace flyte flyte-system --wait=false >/dev/null
