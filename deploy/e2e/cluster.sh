#!/usr/bin/env bash
# Starts a Kubernetes cluster of two nodes for one test: etcd, the API server, the controller manager
# and the scheduler, and on each node containerd, kubelet and kube-proxy. All its files are in
# WORKDIR/cluster. "down" ends it and removes everything that it made.
#   cluster.sh up WORKDIR [IMAGE.tar...]     starts the cluster and loads the images
#   cluster.sh load WORKDIR IMAGE.tar...     loads more images, on both nodes
#   cluster.sh exec WORKDIR COMMAND...       runs COMMAND in the cluster's network, as administrator
#   cluster.sh down WORKDIR
# WORKDIR/bin must contain the programs that build.sh builds of the modules kubernetes and
# containerd. One of the images must be inject.test/pause:1, which keeps the namespaces of a pod
# open. The names of Services work once the caller has applied dns.yaml, which needs the image
# inject.test/dns:1.
#
# The cluster has network namespaces of its own: it uses no port of the machine, it cannot reach
# other machines, and several clusters can run at the same time. Node N has the name nodeN and the
# address 10.88.N.1, its pods have others of 10.88.N.0/24. Services have addresses of 10.96.0.0/16.
# The control plane runs beside the services of node1, in its namespaces. "exec" runs there, too.
# Needs root and Debian's etcd-server, runc, containernetworking-plugins, iproute2, nftables and
# openssl.
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
nodes=2
# The prefix of the nodes' cgroups. Named after the folder, so that two clusters can run at the same
# time.
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

# cgroups_removed removes the cgroups, and fails while a process is still in one. cgroup v1 has a
# folder for each controller, v2 only one.
cgroups_removed() {
  local found
  found=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup-*")
  [ -n "$found" ] || return 0
  printf '%s\n' "$found" | while read -r c; do
    find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  return 1
}

# make_cgroup NAME makes the cgroup for all pods of a node, because kubelet uses it but does not make
# it.
make_cgroup() {
  local parent controller controllers
  # cgroup v2, written after the kernel's documentation and not tested: we had only v1.
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    read -ra controllers </sys/fs/cgroup/cgroup.controllers
    for controller in "${controllers[@]}"; do
      echo "+$controller" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    mkdir -p "/sys/fs/cgroup/$1"
    return
  fi
  for parent in /sys/fs/cgroup/*; do
    [ "$parent" != /sys/fs/cgroup/unified ] || continue
    mkdir -p "$parent/$1"
    # A new cpuset has no CPU and no memory node, and takes no process until it has both.
    [ ! -e "$parent/cpuset.cpus" ] || cat "$parent/cpuset.cpus" >"$parent/$1/cpuset.cpus"
    [ ! -e "$parent/cpuset.mems" ] || cat "$parent/cpuset.mems" >"$parent/$1/cpuset.mems"
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

# service COMMAND... starts COMMAND in the background, with a log of the same name in $logs.
service() { "$@" >"$logs/$1.log" 2>&1 & }

# init is PID 1 of the new namespaces, and the first process of node 1. It starts the control plane
# and the nodes, and ends when one of their services ends.
init() {
  local pid n
  # /proc is still the caller's here, so this is the PID by which the caller can kill us.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$dir/pid"
  mount -n -t proc proc /proc # -n: mount would otherwise record the mounts under /run
  hide_tunables
  begin_node 1
  for ((n = 2; n <= nodes; n++)); do
    # When PID 1 ends, the kernel kills this process and its children, too.
    unshare --net --mount --propagation private bash "$0" node "$work" "$n" &
    connect "$n" $!
  done

  local pki=/var/lib/e2e/pki logs=$dir/log
  service etcd --data-dir /var/lib/etcd
  try 30 etcd_listens || die "etcd does not listen"
  # With --enable-aggregator-routing the API server calls a webhook at one of its pods. The node's own network has
  # no route to the addresses of Services, which only pods need.
  service kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address 10.88.1.1 \
    --tls-cert-file $pki/apiserver.crt --tls-private-key-file $pki/apiserver.key --client-ca-file $pki/ca.crt \
    --kubelet-client-certificate $pki/apiserver.crt --kubelet-client-key $pki/apiserver.key \
    --kubelet-certificate-authority $pki/ca.crt --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-signing-key-file $pki/tokens.key --service-account-key-file $pki/tokens.pub \
    --service-cluster-ip-range 10.96.0.0/16 --allow-privileged=true --enable-aggregator-routing=true \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --etcd-compaction-interval 0 --audit-policy-file /var/lib/e2e/audit.yaml --audit-log-path "$logs/audit.log"
  try 60 kubectl --kubeconfig $pki/admin.kubeconfig get --raw /readyz >/dev/null 2>&1 ||
    die "the API server is not ready"
  touch "$dir/api-ready"
  # The default limit of 20 requests a second would make every test 4 s slower.
  service kube-controller-manager --kubeconfig $pki/controller-manager.kubeconfig --leader-elect=false \
    --kube-api-qps 1000 --kube-api-burst 1000 --flex-volume-plugin-dir /var/lib/kubelet/volumeplugins \
    --use-service-account-credentials --service-account-private-key-file $pki/tokens.key --root-ca-file $pki/ca.crt
  service kube-scheduler --kubeconfig $pki/scheduler.kubeconfig --leader-elect=false
  finish_node 1
}

# node N is the first process in the namespaces of another node. It ends when one of the node's
# services ends.
node() {
  begin_node "$1"
  try 30 linked 1 || die "node$1 is not connected"
  route "$1" 1
  try 120 test -e "$dir/api-ready" || die "the API server is not ready"
  finish_node "$1"
}

# begin_node N makes the folders and the address of node N, and starts containerd.
begin_node() {
  local file logs=$dir/log/node$1
  # The services have fixed paths in these folders, so give each node private ones.
  mkdir -p "$dir/node$1"/{lib,run} "$logs"
  cp -R "$dir/e2e" "$dir/node$1/lib"
  for file in crt key kubeconfig; do ln -s "node$1.$file" "$dir/node$1/lib/e2e/pki/kubelet.$file"; done
  sed -i "s,SUBNET,10.88.$1.0/24," "$dir/node$1/lib/e2e/cni/pods.conflist"
  mount -n --bind "$dir/node$1/run" /run
  mount -n --bind "$dir/node$1/lib" /var/lib
  mount -n --bind "$logs" /var/log
  # Some volumes need mount propagation, which works on shared mounts only.
  mount -n --make-rshared /

  # The CNI plugin connects each pod to its node by a network card of its own, not by a bridge, which
  # would need br_netfilter for kube-proxy.
  ip link set lo up
  ip address add "10.88.$1.1/32" dev lo
  echo 1 >/proc/sys/net/ipv4/ip_forward # of this network namespace
  make_cgroup "$cgroup-node$1"
  service containerd --config /var/lib/e2e/containerd.toml
}

# finish_node N starts the services of node N that need the API server, and waits until a service
# ends.
finish_node() {
  local logs=$dir/log/node$1
  service kubelet --config /var/lib/e2e/kubelet.yaml --kubeconfig /var/lib/e2e/pki/kubelet.kubeconfig \
    --hostname-override "node$1" --node-ip "10.88.$1.1" --cgroup-root "/$cgroup-node$1"
  service kube-proxy --config /var/lib/e2e/kube-proxy.yaml --hostname-override "node$1"
  wait -n || true
  die "a service of node$1 or of the control plane has ended unexpectedly"
}

# connect N PID makes a link between node 1, whose namespaces we are in, and node N, whose first
# process is PID. At each end it has the name of the other node.
connect() {
  try 10 own_network "$2" || die "node$1 has no network namespace"
  ip link add "node$1" type veth peer name node1 netns "$2"
  route 1 "$1"
}
own_network() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink "/proc/$$/ns/net")" ]; }
linked() { ip link show "node$1" >/dev/null 2>&1; }

# route FROM TO is run by node FROM. It sends packets for node TO and its pods through their link.
route() {
  ip link set "node$2" up
  ip route add "10.88.$2.1" dev "node$2" src "10.88.$1.1"
  ip route add "10.88.$2.0/24" via "10.88.$2.1" src "10.88.$1.1"
}

etcd_listens() { (: </dev/tcp/127.0.0.1/2379) 2>/dev/null; }

# in_cluster CMD... runs CMD with the network of node 1 and the caller's files.
in_cluster() {
  local pid
  pid=$(init_pid) || die "no cluster is up in $dir"
  # Keep kubectl and Helm out of the caller's home: they must not read preferences there nor write
  # their caches.
  KUBECONFIG=$dir/e2e/pki/admin.kubeconfig KUBERC=off KUBECACHEDIR=$dir/kubectl \
    HELM_CACHE_HOME=$dir/helm/cache HELM_CONFIG_HOME=$dir/helm/config HELM_DATA_HOME=$dir/helm/data \
    nsenter --net="/proc/$pid/ns/net" -- "$@"
}

# load IMAGE.tar... loads images on all nodes, as soon as their containerd listens.
load() {
  local n loaders=()
  for ((n = 1; n <= nodes; n++)); do
    load_node "$n" "$@" &
    loaders+=($!)
  done
  for n in "${loaders[@]}"; do wait "$n" || return 1; done
}
load_node() {
  local image socket=$dir/node$1/run/containerd/containerd.sock
  try 30 test -S "$socket" || die "containerd of node$1 does not listen"
  for image in "${@:2}"; do
    CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1 ctr --address "$socket" -n k8s.io images import "$image" >/dev/null || return 1
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
  [ -x "$work/bin/kubelet" ] || die "no kubelet in $work/bin: build.sh builds it"
  # init hides the folders below.
  for folder in "$dir" "$(dirname "$(realpath "$work/bin/kubelet")")"; do
    case $folder/ in /run/* | /var/lib/* | /var/log/*)
      die "$folder cannot be under /run, /var/lib or /var/log" ;;
    esac
  done
  if init_pid >/dev/null; then die "already up in $dir"; fi

  mkdir -p "$dir"/{log,tmp,tunables}
  chmod 700 "$dir"
  rm -rf "$dir"/{pid,api-ready,e2e,node*}
  cp -R "$here/node" "$dir/e2e"
  "$here/pki.sh" "$dir/e2e/pki" "$nodes"
  # Without the caller's environment: all services read proxies from it, and etcd its flags.
  env -i PATH="$PATH" TMPDIR="$dir/tmp" \
    setsid unshare --net --mount --propagation private --pid --fork --kill-child \
    bash "$0" init "$work" </dev/null >"$dir/log/init.log" 2>&1 &
  launcher=$!
  local expected
  expected=$(printf 'True %.0s' $(seq $nodes))
  ready() {
    [ "$(in_cluster kubectl get nodes -o \
      jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{.spec.taints} {end}' 2>/dev/null)" = "$expected" ] ||
      ! kill -0 "$launcher" 2>/dev/null
  }
  if ! load "$@" || ! try 120 ready || ! kill -0 "$launcher" 2>/dev/null; then
    echo "cluster.sh: the cluster did not come up; the ends of its logs:" >&2
    tail -n 5 "$dir"/log/*.log "$dir"/log/*/*.log >&2
    down || true
    exit 1
  fi
}

case $cmd in
  up) up "$@" ;;
  load) init_pid >/dev/null || die "no cluster is up in $dir"; load "$@" ;;
  exec) in_cluster "$@" ;;
  down) down ;;
  init) init ;;
  node) node "$@" ;;
  *) usage ;;
esac
