#!/usr/bin/env bash
# A Docker engine for one test, started by hand, private to WORKDIR, gone without a trace
# after "down". Everything it has is in WORKDIR/engine.
#   engine.sh up WORKDIR [DOCKERD_FLAGS...]   prints DOCKER_HOST=...
#   engine.sh down WORKDIR
# The engine shares the network with its caller: with its default flags it writes iptables
# rules there. Give it --iptables=false --ip6tables=false --bridge=none, or a network
# namespace of its own ("unshare -n engine.sh up ...").
# Needs root and Debian's docker.io (dockerd, containerd, runc).
set -euo pipefail

usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
cmd=$1
dir=$(realpath -m "$2")/engine
shift 2
export PATH=$PATH:/usr/sbin:/sbin
sock=$dir/docker.sock
# Named after the folder: two engines side by side do not remove each other's.
cgroup=inject-engine-$(printf %s "$dir" | cksum | cut -d' ' -f1)

# The PID of the namespace's first process. A stale file may name a stranger: believe it
# only if that process was started for this folder.
init_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "${dir%/engine}" || return 1
  echo "$pid"
}

# try SECONDS CMD...: until CMD succeeds.
try() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

gone() { [ ! -e "/proc/$1" ]; }

# cgroup v1 has the folder once per controller, v2 once.
cgroups_removed() {
  local found
  found=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup")
  [ -n "$found" ] || return 0
  printf '%s\n' "$found" | while read -r c; do
    find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
  return 1
}

# PID 1 of the new namespaces. It stays in front of dockerd, which must not be PID 1 itself:
# it would take its own number in a leftover pid file for another engine.
init() {
  local pid
  # /proc still is the caller's, so this is the PID the caller can kill.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$dir/pid"

  # Hidden: the folders where dockerd and containerd have paths that no flag moves. Under
  # /run they would even find, and use, a system containerd. systemd-resolved's files are
  # kept, /etc/resolv.conf may be a link to them. -n: mount keeps books under /run as well.
  if [ -d /run/systemd/resolve ]; then
    mkdir -p "$dir/run/systemd/resolve"
    cp -L /run/systemd/resolve/*.conf "$dir/run/systemd/resolve/" 2>/dev/null || true
  fi
  mount -n --bind "$dir/run" /run
  mount -n --bind "$dir/lib" /var/lib
  mount -n --bind "$dir/opt" /opt
  mount -n -t proc proc /proc

  # cgroupfs: there is no systemd to ask. ip-forward: that switch is the machine's.
  TMPDIR=$dir/tmp dockerd --host "unix://$sock" --config-file "$dir/daemon.json" \
    --data-root "$dir/data" --exec-root /run/docker --pidfile /run/docker.pid \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup" \
    --ip-forward=false "$@" &
  wait $!
}

down() {
  local pid
  if pid=$(init_pid); then
    # The kernel ends the whole PID namespace with its first process, containers and all,
    # and the mounts with their last user.
    kill -9 "$pid"
    try 20 gone "$pid" || { echo "engine.sh: process $pid does not end" >&2; return 1; }
  fi
  try 10 cgroups_removed || { echo "engine.sh: cgroups $cgroup are still in use" >&2; return 1; }
  rm -rf --one-file-system "$dir"
}

up() {
  local docker=docker launcher
  [ "$(id -u)" = 0 ] || { echo "engine.sh: needs root" >&2; exit 1; }
  # The kernel's limit on socket paths, and the folders init hides.
  [ ${#sock} -lt 108 ] || { echo "engine.sh: $sock is too long for a socket" >&2; exit 1; }
  case $dir/ in /run/* | /var/lib/* | /opt/*)
    echo "engine.sh: WORKDIR cannot be under /run, /var/lib or /opt" >&2; exit 1 ;;
  esac
  if init_pid >/dev/null; then echo "engine.sh: already up in $dir" >&2; exit 1; fi
  # Debian's client fits Debian's engine; another one may come first in PATH.
  [ ! -x /usr/bin/docker ] || docker=/usr/bin/docker

  mkdir -p "$dir"/{cli,data,lib,opt,run,tmp}
  chmod 700 "$dir"
  rm -f "$dir/pid"
  # A configuration of its own: the machine's daemon.json is for the machine's engine. Older
  # engines write an identity key into /etc/docker if not told another place, newer ones
  # know neither the key nor, at some point, the setting.
  if grep -q deprecated-key-path "$(command -v dockerd)"; then
    echo "{\"deprecated-key-path\": \"$dir/key.json\"}" >"$dir/daemon.json"
  else
    echo '{}' >"$dir/daemon.json"
  fi
  # Mount propagation is private: nothing mounted in there shows out here.
  setsid unshare --mount --propagation private --pid --fork --kill-child \
    bash "$0" init "${dir%/engine}" "$@" </dev/null >"$dir/log" 2>&1 &
  launcher=$!
  answers() {
    DOCKER_CONFIG=$dir/cli "$docker" -H "unix://$sock" version >/dev/null 2>&1 ||
      ! kill -0 "$launcher" 2>/dev/null
  }
  if ! try 30 answers || ! kill -0 "$launcher" 2>/dev/null; then
    echo "engine.sh: the engine did not come up; the end of its log:" >&2
    tail -n 20 "$dir/log" >&2
    down || true
    exit 1
  fi
  echo "DOCKER_HOST=unix://$sock"
}

case $cmd in
  up) up "$@" ;;
  down) down ;;
  init) init "$@" ;;
  *) usage ;;
esac
