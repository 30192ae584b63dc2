#!/usr/bin/env bash
# Imports a substitute for the golang image into the engine at DOCKER_HOST, for a machine that
# reaches no registry. It contains this machine's Go and CA certificates, and a static busybox.
#   go-image.sh IMAGE
set -euo pipefail

image=${1:?usage: go-image.sh IMAGE}
: "${DOCKER_HOST:?set it to the address of the engine}"
docker=docker
[ ! -x /usr/bin/docker ] || docker=/usr/bin/docker
goroot=$(go env GOROOT)
busybox=$(command -v busybox) || { echo "go-image.sh: no busybox (Debian: busybox-static)" >&2; exit 1; }

# The image has no libc, so its programs must be static.
for f in "$busybox" "$goroot/bin/go"; do
  if ldd "$f" >/dev/null 2>&1; then
    echo "go-image.sh: $f is dynamically linked, but it must be static" >&2
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
# The machine's CA certificates, because a private CA may have signed its module proxy's.
cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"

# Streamed, because a copy of Go would take some 250 MB. A build does not need Go's own tests and
# documents nor the source of its commands. --transform moves the names that begin with "./",
# which are those from GOROOT; its flag S keeps the targets of symbolic links.
tar -cf - --owner=0 --group=0 --numeric-owner \
  -C "$root" bin dev etc proc root sys tmp \
  -C "$goroot" --anchored --exclude=./test --exclude=./doc --exclude=./src/cmd --exclude=./.git \
  --transform 's,^\./,usr/local/go/,S' . |
  "$docker" import \
    -c 'ENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local CGO_ENABLED=0 HOME=/root' - "$image" >/dev/null
