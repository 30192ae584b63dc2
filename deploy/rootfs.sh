#!/bin/sh
# Makes the files of the images besides their program, for the Dockerfile and make images: the user, CA
# certificates, and the licenses of inject, of the modules of both programs and of the certificates.
#   rootfs.sh FOLDER PROGRAM...
set -eu
to=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$to/etc/ssl/certs"
to=$(cd "$to" && pwd)
# The user needs a name, because programs that look up their own uid fail without one.
echo 'inject:x:65532:65532:inject:/:/nonexistent' > "$to/etc/passwd"
echo 'inject:x:65532:' > "$to/etc/group"
"$here/notices.sh" "$to/licenses" "$@"
cp "$here/../LICENSE" "$to/licenses/"
# The certificates are those of a Go module, and not of the machine, so that each build has the same.
roots=$(mktemp)
trap 'rm -f "$roots"' EXIT
cd "$here/../tools/image"
go build -trimpath -buildvcs=false -o "$roots" ./roots
"$roots" > "$to/etc/ssl/certs/ca-certificates.crt"
"$here/notices.sh" "$to/licenses" "$roots"
