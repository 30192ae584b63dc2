#!/usr/bin/env bash
# Tests inject in the pods of a real Kubernetes cluster, which this script builds, starts and ends.
#   test.sh [TEST...]     runs these tests of the folder tests, or all of them
# Needs root, but no image registry. The first run builds Kubernetes, which takes minutes.
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
need containerd command -v containerd
need runc command -v runc
need containernetworking-plugins test -x /usr/lib/cni/bridge
need busybox-static static_busybox # the program of Debian's package busybox has the same name, but needs a libc
need iproute2 command -v ip
need openssl command -v openssl
[ ${#missing[@]} = 0 ] || fail "missing packages: apt-get install --no-install-recommends ${missing[*]}"
[ "$(id -u)" = 0 ] || fail "needs root"
command -v go >/dev/null || fail "needs Go in PATH"

# around prints the state of the machine that a cluster could change, to compare before and after.
around() {
  ls -d /opt/* /usr/libexec/* /var/lib/* /etc/{cni,containerd,kubernetes} /run/{containerd,netns,runc} \
    /var/log/{containers,pods} ~/.kube 2>/dev/null || true
  ip -o link | cut -d: -f2
  find /sys/fs/cgroup -maxdepth 2 -type d -name 'inject-e2e-*'
  cat /proc/sys/kernel/{panic,panic_on_oops} /proc/sys/vm/overcommit_memory /proc/sys/net/ipv4/ip_forward
}

# Not in TMPDIR, which may be in /run or /var/lib: cluster.sh hides those folders.
work=$(mktemp -d /tmp/inje.XXXXXX)
namespace=
cleanup() {
  local code=$?
  trap - EXIT
  if [ "$code" != 0 ] && [ -n "$namespace" ]; then
    echo "the pods of $namespace, and the end of kubelet's log:" >&2
    kube describe pods >&2 || true
    tail -n 15 "$work/cluster/log/kubelet.log" >&2 || true
  fi
  "$here/cluster.sh" down "$work" || code=1
  rm -rf --one-file-system "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$here/kubernetes/build.sh" "$work/bin"
(cd "$root" && CGO_ENABLED=0 nice go build -tags grpcnotrace,nethttpomithttp2 -trimpath -buildvcs=false -o "$work/inject" ./cmd/inject)
(cd "$here/image" && CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -o "$work/bin/image" .)
ok "inject and Kubernetes are built"

mkdir "$work/images"
# image NAME FLAGS... makes the image inject.test/NAME:1.
image() {
  local name=$1
  shift
  "$work/bin/image" -o "$work/images/$name.tar" -tag "inject.test/$name:1" "$@"
}
applets=()
while read -r name; do
  [ "$name" = busybox ] || applets+=(-link "/bin/$name=busybox")
done < <("$busybox" --list)
# The pause container keeps the namespaces of a pod open, and does nothing else.
image pause -entrypoint '/busybox sleep inf' "$busybox=/busybox"
image busybox "${applets[@]}" "$busybox=/bin/busybox"
# As in the Dockerfile. Kubernetes takes the group from the image's passwd, not from its user.
echo 'inject:x:65532:65532:inject:/:/nonexistent' >"$work/passwd"
ours=(-user 65532:65532 "$work/inject=/inject" "$work/passwd=/etc/passwd")
image inject -entrypoint /inject "${ours[@]}"
image task -entrypoint '/inject run --' "${applets[@]}" "${ours[@]}" "$busybox=/bin/busybox"

around >"$work/before"
start=$SECONDS
"$here/cluster.sh" up "$work" "$work"/images/*.tar
ok "a cluster is up in $((SECONDS - start)) s, with $("$work/bin/kubelet" --version) and $(containerd --version | cut -d' ' -f1,3)"

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
