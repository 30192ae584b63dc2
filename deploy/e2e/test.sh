#!/usr/bin/env bash
# Tests inject in the pods of a real Kubernetes cluster, which this script builds, starts and ends.
#   test.sh [TEST...]     runs these tests of the folder tests, or all of them
# Needs root, but no image registry. The first run builds Kubernetes, containerd, CoreDNS and Helm,
# which takes minutes. Like cluster.sh, it does not work in a chroot.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=/dev/null # it is checked as a script of its own
. "$here/lib.sh"

tests=()
for name; do
  [ -f "$here/tests/$name.sh" ] || fail "there is no test $name"
  tests+=("$here/tests/$name.sh")
done
[ ${#tests[@]} -gt 0 ] || tests=("$here"/tests/*.sh)

missing=()
# need PACKAGE COMMAND... notes PACKAGE as missing if COMMAND fails.
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
static_busybox() { busybox=$(command -v busybox) && ! ldd "$busybox"; }
need etcd-server command -v etcd
need etcd-client command -v etcdctl
need runc command -v runc
need containernetworking-plugins test -x /usr/lib/cni/bridge
need busybox-static static_busybox # the program of Debian's package busybox has the same name, but needs a libc
need iproute2 command -v ip
need nftables command -v nft
need openssl command -v openssl
need jq command -v jq
[ ${#missing[@]} = 0 ] || fail "missing packages: apt-get install --no-install-recommends ${missing[*]}"
[ "$(id -u)" = 0 ] || fail "needs root"
command -v go >/dev/null || fail "needs Go in PATH"

# The settings of the machine that a cluster could change, as far as their modules are loaded.
mapfile -t settings < <(ls /proc/sys/kernel/{panic,panic_on_oops} /proc/sys/vm/overcommit_memory /proc/sys/net/ipv4/ip_forward \
  /proc/sys/net/netfilter/nf_conntrack_{max,buckets,tcp_timeout_established} 2>/dev/null)
# around prints the state of the machine that a cluster could change, to compare before and after.
around() {
  ls -d /opt/* /usr/libexec/* /var/lib/* /etc/{cni,containerd,kubernetes} /run/{containerd,netns,runc} \
    /var/log/{containers,pods} ~/.kube ~/.{cache,config,local/share}/helm 2>/dev/null || true
  ip -o link | cut -d: -f2
  nft list tables
  find /sys/fs/cgroup -maxdepth 2 -type d -name 'inject-e2e-*'
  cat "${settings[@]}"
}

# Not in TMPDIR, which may be in /run or /var/lib: cluster.sh hides those folders.
work=$(mktemp -d /tmp/inje.XXXXXX)
namespace=
cleanup() {
  local code=$?
  trap - EXIT
  if [ "$code" != 0 ] && [ -n "$namespace" ]; then
    echo "the pods and events of $namespace, and the ends of the logs:" >&2
    kube get pods --all-namespaces -o wide >&2 || true
    kube describe pods >&2 || true
    kube get events >&2 || true
    tail -n 15 "$work"/cluster/log/node*/*.log >&2 || true
  fi
  "$here/cluster.sh" down "$work" || code=1
  rm -rf --one-file-system "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for module in kubernetes containerd dns helm; do "$here/build.sh" "$module" "$work/bin"; done
arch=$(go env GOARCH)
nice make -s -C "$root" images IMAGES="$work/release" PLATFORMS="linux/$arch"
ln -s "$work/release/bin/linux/$arch"/* "$work"
ok "the images of inject and injectd and the programs of the cluster are built"

mkdir "$work/images"
# released NAME REFERENCE writes the image NAME of a release to images/NAME.tar, with this reference.
released() {
  jq --arg name "$2" '.manifests[0].annotations = {"io.containerd.image.name": $name}' "$work/release/$1/index.json" >"$work/index.json"
  cp "$work/index.json" "$work/release/$1"
  tar -cf "$work/images/$1.tar" -C "$work/release/$1" .
}
for name in inject injectd; do released "$name" "inject.test/$name:1"; done
# image NAME FLAGS... makes the image inject.test/NAME:1.
image() {
  local name=$1
  shift
  "$work/release/bin/image" tar -o "$work/images/$name.tar" -tag "inject.test/$name:1" "$@"
}
applets=()
while read -r name; do
  [ "$name" = busybox ] || applets+=(-link "/bin/$name=busybox")
done < <("$busybox" --list)
# The pause container keeps the namespaces of a pod open, and does nothing else.
image pause -entrypoint '/busybox sleep inf' "$busybox=/busybox"
image busybox "${applets[@]}" "$busybox=/bin/busybox"
image dns -user 65532:65532 -entrypoint /dns "$work/bin/dns=/dns"
# Kubernetes takes the group from the image's passwd, not from its user.
image task -user 65532:65532 -entrypoint '/inject run --' "${applets[@]}" "$busybox=/bin/busybox" \
  "$work/inject=/inject" "$work/release/rootfs/etc/passwd=/etc/passwd"

around >"$work/before"
start=$SECONDS
"$here/cluster.sh" up "$work" "$work"/images/*.tar
ok "a cluster is up in $((SECONDS - start)) s, with $("$work/bin/kubelet" --version) and $("$work/bin/containerd" --version | cut -d' ' -f1,3)"
start=$SECONDS
namespace=kube-system
kube apply -f "$here/dns.yaml" >/dev/null
kube rollout status deployment coredns --timeout=60s >/dev/null || fail "CoreDNS is not ready"
ok "the names of Services work after $((SECONDS - start)) s"

for test in "${tests[@]}"; do
  new_namespace "$(basename "$test" .sh)"
  # shellcheck source=/dev/null
  (. "$test")
done
namespace=

"$here/cluster.sh" down "$work"
[ ! -e "$work/cluster" ] || fail "the cluster's folder is still there"
around | diff "$work/before" - >&2 || fail "the machine is not as it was before"
if grep -F "$work" /proc/mounts >&2; then fail "something is still mounted"; fi
if grep -lsF "$work" /proc/[0-9]*/cmdline >&2; then fail "processes are still there"; fi
ok "the cluster is gone, and the machine as it was before"
echo "PASS deploy/e2e"
