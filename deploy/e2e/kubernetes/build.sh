#!/usr/bin/env bash
# Builds Kubernetes from the Go module proxy, in the version in go.mod, and links its programs
# into DIR.
#   build.sh DIR
# The programs are kept in ${XDG_CACHE_HOME:-~/.cache}/inject-e2e. The first build takes five
# minutes on two cores, and 4 GB of Go's caches.
set -euo pipefail

[ $# = 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
mkdir -p "$1"
dir=$(realpath "$1")
cd "$(dirname "$0")"

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/inject-e2e/k8s-$version-$(go env GOARCH)
mkdir -p "$cache"
trap 'rm -f "$cache"/*.$$' EXIT

# Set the version as Kubernetes' own build does. Otherwise all programs report v0.0.0.
minor=${version#v1.}
minor=${minor%%.*}
v=k8s.io/component-base/version
ldflags="-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$minor"

for name in kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet; do
  if [ ! -x "$cache/$name" ]; then
    start=$SECONDS
    # Build under another name: the next run takes a file with the final name for a finished build.
    CGO_ENABLED=0 nice go build -trimpath -ldflags "$ldflags" -o "$cache/$name.$$" "k8s.io/kubernetes/cmd/$name" \
      2>"$cache/log.$$" || { cat "$cache/log.$$" >&2; exit 1; }
    mv "$cache/$name.$$" "$cache/$name"
    echo "ok: built $name $version in $((SECONDS - start)) s"
  fi
  ln -sfn "$cache/$name" "$dir/$name"
done
