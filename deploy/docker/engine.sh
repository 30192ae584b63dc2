#!/usr/bin/env bash
# Starts a Docker engine for one test. All its files are in WORKDIR/engine. "down" ends it and
# removes everything that it made.
#   engine.sh up WORKDIR [DOCKERD_FLAGS...]   prints DOCKER_HOST=...
#   engine.sh down WORKDIR
# The engine uses the network of the caller. With its default flags it would write iptables rules
# there, so pass --iptables=false --ip6tables=false --bridge=none, or give it a network namespace
# of its own ("unshare -n engine.sh up ...").
# Needs root and Debian's docker.io (dockerd, containerd, runc).
set -euo pipefail

usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
cmd=$1
dir=$(realpath -m "$2")/engine
shift 2
export PATH=$PATH:/usr/sbin:/sbin
sock=$dir/docker.sock
# Named after the folder, so that two engines can run at the same time.
cgroup=inject-engine-$(printf %s "$dir" | cksum | cut -d' ' -f1)

# init_pid prints the PID of the first process in the namespace. The PID in the file may belong to
# another process by now, so check that this process was started for this folder.
init_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "${dir%/engine}" || return 1
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

# init is PID 1 of the new namespaces. dockerd must not be PID 1: if a stale pid file says 1, it
# would take itself for another engine and refuse to start.
init() {
  local pid
  # /proc is still the caller's here, so this is the PID by which the caller can kill us.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$dir/pid"

  # dockerd and containerd have fixed paths in these folders, so give them private ones. In the
  # machine's /run they would even find and use its containerd. Keep the files of
  # systemd-resolved, because /etc/resolv.conf may be a link to them. -n: mount would otherwise
  # record the mounts under /run.
  if [ -d /run/systemd/resolve ]; then
    mkdir -p "$dir/run/systemd/resolve"
    cp -L /run/systemd/resolve/*.conf "$dir/run/systemd/resolve/" 2>/dev/null || true
  fi
  mount -n --bind "$dir/run" /run
  mount -n --bind "$dir/lib" /var/lib
  mount -n --bind "$dir/opt" /opt
  mount -n -t proc proc /proc

  # cgroupfs, because there is no systemd. ip-forward would change a setting of the whole machine.
  TMPDIR=$dir/tmp dockerd --host "unix://$sock" --config-file "$dir/daemon.json" \
    --data-root "$dir/data" --exec-root /run/docker --pidfile /run/docker.pid \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup" \
    --ip-forward=false "$@" &
  wait $!
}

down() {
  local pid
  if pid=$(init_pid); then
    # When the first process of a PID namespace ends, the kernel kills all others in it, those
    # of the containers too. The mounts go with the last process.
    kill -9 "$pid"
    try 20 gone "$pid" || { echo "engine.sh: process $pid does not end" >&2; return 1; }
  fi
  try 10 cgroups_removed || { echo "engine.sh: cgroups $cgroup are still in use" >&2; return 1; }
  rm -rf --one-file-system "$dir"
}

up() {
  local docker=docker launcher
  [ "$(id -u)" = 0 ] || { echo "engine.sh: needs root" >&2; exit 1; }
  # The kernel limits the paths of sockets to 107 bytes. init hides the folders below.
  [ ${#sock} -lt 108 ] || { echo "engine.sh: $sock is too long for a socket" >&2; exit 1; }
  case $dir/ in /run/* | /var/lib/* | /opt/*)
    echo "engine.sh: WORKDIR cannot be under /run, /var/lib or /opt" >&2; exit 1 ;;
  esac
  if init_pid >/dev/null; then echo "engine.sh: already up in $dir" >&2; exit 1; fi
  # Debian's client fits Debian's engine. Another client may come first in PATH.
  [ ! -x /usr/bin/docker ] || docker=/usr/bin/docker

  mkdir -p "$dir"/{cli,data,lib,opt,run,tmp}
  chmod 700 "$dir"
  rm -f "$dir/pid"
  # Use a new configuration: the machine's daemon.json is for the machine's engine. Older engines
  # write an identity key into /etc/docker unless this setting names another place. The newest
  # engines refuse the setting.
  if grep -q deprecated-key-path "$(command -v dockerd)"; then
    echo "{\"deprecated-key-path\": \"$dir/key.json\"}" >"$dir/daemon.json"
  else
    echo '{}' >"$dir/daemon.json"
  fi
  # With private propagation, mounts of the engine do not appear on the machine.
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
