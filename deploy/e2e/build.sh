#!/usr/bin/env bash
# Builds the programs of MODULE from the Go module proxy, in the versions in its go.mod, and links
# them into DIR.
#   build.sh MODULE DIR [NAME...]     builds these programs of the module, or all
# MODULE is a folder beside this script. Its programs are the tools in its go.mod, or its own main
# package. They are kept in ${XDG_CACHE_HOME:-~/.cache}/inject-e2e. The first build of all modules
# takes a quarter of an hour on two cores, and 8 GB of Go's caches.
set -euo pipefail

usage() { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
module=$1
mkdir -p "$2"
dir=$(realpath "$2")
shift 2
cd "$(dirname "$0")/$module"

pattern=tool sources=(go.mod go.sum)
[ ! -e main.go ] || pattern=. sources+=(*.go)
found=$(go list -find "$pattern")
declare -A paths
while read -r path; do paths[${path##*/}]=$path; done <<<"$found"
[ $# -gt 0 ] || set -- "${!paths[@]}"

ldflags="-s -w" tags=
# Set the version as Kubernetes' own build does. Otherwise all its programs report v0.0.0.
version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
if [ -n "$version" ]; then
  minor=${version#v1.}
  v=k8s.io/component-base/version
  ldflags+=" -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*}"
  tags=providerless # leaves out the libraries of clouds, which 1.30 still links
fi

# A change of what a program is built from gives it another folder, and so a new build.
sum=$( (cat "${sources[@]}"; echo "$ldflags $tags") | sha256sum)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/inject-e2e/$module-$(go env GOARCH)-${sum:0:12}
mkdir -p "$cache"
trap 'rm -f "$cache"/*.$$' EXIT

for name; do
  [ -n "${paths[$name]:-}" ] || { echo "build.sh: $module has no program $name" >&2; exit 2; }
  if [ ! -x "$cache/$name" ]; then
    start=$SECONDS
    # Build under another name: the next run takes a file with the final name for a finished build.
    CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -tags "$tags" -ldflags "$ldflags" \
      -o "$cache/$name.$$" "${paths[$name]}" 2>"$cache/log.$$" || { cat "$cache/log.$$" >&2; exit 1; }
    mv "$cache/$name.$$" "$cache/$name"
    echo "ok: built $name${version:+ $version} in $((SECONDS - start)) s"
  fi
  ln -sfn "$cache/$name" "$dir/$name"
done
