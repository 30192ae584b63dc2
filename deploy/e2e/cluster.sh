#!/usr/bin/env bash
# Starts a Kubernetes cluster of one node for one test: etcd, the API server, the controller
# manager, the scheduler, containerd and kubelet. All its files are in WORKDIR/cluster. "down" ends
# it and removes everything that it made.
#   cluster.sh up WORKDIR [IMAGE.tar...]     starts the cluster and loads the images
#   cluster.sh load WORKDIR IMAGE.tar...     loads more images
#   cluster.sh exec WORKDIR COMMAND...       runs COMMAND in the cluster's network, as administrator
#   cluster.sh down WORKDIR
# WORKDIR/bin must contain the programs that kubernetes/build.sh builds. One of the images must be
# inject.test/pause:1, which keeps the namespaces of a pod open. The cluster has a network namespace
# of its own: it uses no port of the machine, it cannot reach other machines, and several clusters
# can run at the same time. The node has the address 10.88.0.1, pods have others of 10.88.0.0/24.
# There is no kube-proxy and no DNS, so the names and addresses of Services do not work.
# Needs root and Debian's etcd-server, containerd, runc, containernetworking-plugins, iproute2
# and openssl.
set -euo pipefail

die() { echo "cluster.sh: $*" >&2; exit 1; }
usage() { sed -n '5,8s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
cmd=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(realpath -m "$2")
dir=$work/cluster
shift 2
export PATH=$work/bin:$PATH:/usr/sbin:/sbin
# Named after the folder, so that two clusters can run at the same time.
cgroup=inject-e2e-$(printf %s "$dir" | cksum | cut -d' ' -f1)

# init_pid prints the PID of the first process in the namespaces. The PID in the file may belong to
# another process by now, so check that this process was started for this folder.
init_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$work" || return 1
  echo "$pid"
}

# try SECONDS CMD... repeats CMD until it succeeds. It fails after SECONDS.
try() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# gone PID tells whether the process has ended.
gone() { [ ! -e "/proc/$1" ]; }

# cgroups_removed removes the cgroup, and fails while a process is still in it. cgroup v1 has a
# folder for each controller, v2 only one.
cgroups_removed() {
  local found
  found=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup")
  [ -n "$found" ] || return 0
  printf '%s\n' "$found" | while read -r c; do
    find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  return 1
}

# make_cgroups makes the cgroup for all pods, because kubelet uses it but does not make it.
make_cgroups() {
  local parent controller controllers
  # cgroup v2, written after the kernel's documentation and not tested: we had only v1.
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    read -ra controllers </sys/fs/cgroup/cgroup.controllers
    for controller in "${controllers[@]}"; do
      echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    mkdir -p "/sys/fs/cgroup/$cgroup"
    return
  fi
  for parent in /sys/fs/cgroup/*; do
    [ "$parent" != /sys/fs/cgroup/unified ] || continue
    mkdir -p "$parent/$cgroup"
    # A new cpuset has no CPU and no memory node, and takes no process until it has both.
    [ ! -e "$parent/cpuset.cpus" ] || cat "$parent/cpuset.cpus" >"$parent/$cgroup/cpuset.cpus"
    [ ! -e "$parent/cpuset.mems" ] || cat "$parent/cpuset.mems" >"$parent/$cgroup/cpuset.mems"
  done
}

# hide_tunables keeps kubelet from changing settings of the whole machine. kubelet needs these
# values, sets them if they differ, and ends if it cannot. So mount files with the values there.
hide_tunables() {
  local name value
  while read -r name value; do
    echo "$value" >"$dir/tunables/${name##*/}"
    mount -n --bind "$dir/tunables/${name##*/}" "/proc/sys/$name"
  done <<TUNABLES
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
TUNABLES
}

# service COMMAND... starts COMMAND in the background, with a log of the same name.
service() { "$@" >"/var/log/$1.log" 2>&1 & }

# init is PID 1 of the new namespaces. It starts all services, and ends when one of them ends.
init() {
  local pid
  # /proc is still the caller's here, so this is the PID by which the caller can kill us.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$dir/pid"

  # The CNI plugin connects pods to this bridge. The node uses it as its network card, too.
  ip link set lo up
  ip link add pods0 type bridge
  ip address add 10.88.0.1/24 dev pods0
  ip link set pods0 up

  # The services have fixed paths in these folders, so give them private ones.
  # -n: mount would otherwise record the mounts under /run.
  mount -n -t proc proc /proc
  hide_tunables
  mount -n --bind "$dir/run" /run
  mount -n --bind "$dir/lib" /var/lib
  mount -n --bind "$dir/log" /var/log
  # Some volumes need mount propagation, which works on shared mounts only.
  mount -n --make-rshared /
  make_cgroups

  local pki=/var/lib/e2e/pki
  service etcd --data-dir /var/lib/etcd
  service containerd --config /var/lib/e2e/containerd.toml
  try 30 etcd_listens || die "etcd does not listen"
  service kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address 10.88.0.1 \
    --tls-cert-file $pki/apiserver.crt --tls-private-key-file $pki/apiserver.key --client-ca-file $pki/ca.crt \
    --kubelet-client-certificate $pki/apiserver.crt --kubelet-client-key $pki/apiserver.key \
    --kubelet-certificate-authority $pki/ca.crt --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-signing-key-file $pki/tokens.key --service-account-key-file $pki/tokens.pub \
    --service-cluster-ip-range 10.96.0.0/16 --allow-privileged=true \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --audit-policy-file /var/lib/e2e/audit.yaml --audit-log-path /var/log/audit.log
  try 60 kubectl --kubeconfig $pki/admin.kubeconfig get --raw /readyz >/dev/null 2>&1 ||
    die "the API server is not ready"
  # The default limit of 20 requests a second would make every test 4 s slower.
  service kube-controller-manager --kubeconfig $pki/controller-manager.kubeconfig --leader-elect=false \
    --kube-api-qps 1000 --kube-api-burst 1000 --flex-volume-plugin-dir /var/lib/kubelet/volumeplugins \
    --use-service-account-credentials --service-account-private-key-file $pki/tokens.key --root-ca-file $pki/ca.crt
  service kube-scheduler --kubeconfig $pki/scheduler.kubeconfig --leader-elect=false
  service kubelet --config /var/lib/e2e/kubelet.yaml --kubeconfig $pki/kubelet.kubeconfig \
    --hostname-override node --node-ip 10.88.0.1 --cgroup-root "/$cgroup"
  wait -n || true
  die "a service has ended unexpectedly"
}

etcd_listens() { (: </dev/tcp/127.0.0.1/2379) 2>/dev/null; }

# in_cluster CMD... runs CMD with the cluster's network and the caller's files.
in_cluster() {
  local pid
  pid=$(init_pid) || die "no cluster is up in $dir"
  # Keep kubectl out of ~/.kube: it must not read preferences there nor write its cache.
  KUBECONFIG=$dir/lib/e2e/pki/admin.kubeconfig KUBERC=off KUBECACHEDIR=$dir/kubectl \
    nsenter --net="/proc/$pid/ns/net" -- "$@"
}

# load IMAGE.tar... loads images. The caller's shell opens the files, because the node may have
# other folders at their paths.
load() {
  local pid image
  pid=$(init_pid) || die "no cluster is up in $dir"
  for image; do
    nsenter --mount="/proc/$pid/ns/mnt" -- ctr -n k8s.io images import - <"$image" >/dev/null
  done
}

down() {
  local pid
  if pid=$(init_pid); then
    # When the first process of a PID namespace ends, the kernel kills all others in it, those of
    # the containers too. The mounts and the network go with the last process.
    kill -9 "$pid"
    try 20 gone "$pid" || { echo "cluster.sh: process $pid does not end" >&2; return 1; }
  fi
  try 10 cgroups_removed || { echo "cluster.sh: cgroups $cgroup are still in use" >&2; return 1; }
  rm -rf --one-file-system "$dir"
}

up() {
  local launcher folder
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -x "$work/bin/kubelet" ] || die "no kubelet in $work/bin: kubernetes/build.sh builds it"
  # init hides the folders below.
  for folder in "$dir" "$(dirname "$(realpath "$work/bin/kubelet")")"; do
    case $folder/ in /run/* | /var/lib/* | /var/log/*)
      die "$folder cannot be under /run, /var/lib or /var/log" ;;
    esac
  done
  if init_pid >/dev/null; then die "already up in $dir"; fi

  mkdir -p "$dir"/{lib/e2e,log,run,tmp,tunables}
  chmod 700 "$dir"
  rm -f "$dir/pid"
  cp -R "$here/node/." "$dir/lib/e2e"
  "$here/pki.sh" "$dir/lib/e2e/pki"
  # Without the caller's environment: all services read proxies from it, and etcd its flags.
  env -i PATH="$PATH" TMPDIR="$dir/tmp" \
    setsid unshare --net --mount --propagation private --pid --fork --kill-child \
    bash "$0" init "$work" </dev/null >"$dir/log/init.log" 2>&1 &
  launcher=$!
  ready() {
    [ "$(in_cluster kubectl get node node -o \
      jsonpath='{.status.conditions[?(@.type=="Ready")].status}{.spec.taints}' 2>/dev/null)" = True ] ||
      ! kill -0 "$launcher" 2>/dev/null
  }
  if ! try 120 ready || ! kill -0 "$launcher" 2>/dev/null || ! load "$@"; then
    echo "cluster.sh: the cluster did not come up; the ends of its logs:" >&2
    tail -n 5 "$dir"/log/*.log >&2
    down || true
    exit 1
  fi
}

case $cmd in
  up) up "$@" ;;
  load) load "$@" ;;
  exec) in_cluster "$@" ;;
  down) down ;;
  init) init "$@" ;;
  *) usage ;;
esac
