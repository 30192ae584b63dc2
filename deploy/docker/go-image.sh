#!/usr/bin/env bash
# Imports a stand-in for the golang base image into the engine at DOCKER_HOST, for a
# machine that reaches no registry: this machine's Go, its CA certificates, a static busybox.
#   go-image.sh IMAGE
set -euo pipefail

image=${1:?usage: go-image.sh IMAGE}
: "${DOCKER_HOST:?names the engine to import into}"
docker=docker
[ ! -x /usr/bin/docker ] || docker=/usr/bin/docker
goroot=$(go env GOROOT)
busybox=$(command -v busybox) || { echo "go-image.sh: no busybox (Debian: busybox-static)" >&2; exit 1; }

# The image has no libc: what runs in it must not want one.
for f in "$busybox" "$goroot/bin/go"; do
  if ldd "$f" >/dev/null 2>&1; then
    echo "go-image.sh: $f is dynamically linked, a static one is needed" >&2
    exit 1
  fi
done

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,etc/ssl/certs,proc,root,sys,tmp}
# The go command builds in /tmp.
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
"$busybox" --list | grep -vx busybox | (cd "$root/bin" && xargs -n1 ln -s busybox)
# The machine's own roots, in case its module proxy is behind a CA of its own.
cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"

# Streamed, not copied: Go is some 250 MB. Its own tests, documents and the compiler's
# source are no use to a build; the names with "./" are the ones from GOROOT, and "S"
# leaves symbolic links' targets alone.
tar -cf - --owner=0 --group=0 --numeric-owner \
  -C "$root" bin dev etc proc root sys tmp \
  -C "$goroot" --anchored --exclude=./test --exclude=./doc --exclude=./src/cmd --exclude=./.git \
  --transform 's,^\./,usr/local/go/,S' . |
  "$docker" import \
    -c 'ENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local CGO_ENABLED=0 HOME=/root' - "$image" >/dev/null
