#!/usr/bin/env bash
# Builds Kubernetes from the Go module proxy, at the version in go.mod, and links the
# commands into DIR.
#   build.sh DIR
# What is built stays in ${XDG_CACHE_HOME:-~/.cache}/inject-e2e: the first time takes five
# minutes on two cores, and 4 GB of Go's own caches.
set -euo pipefail

[ $# = 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
mkdir -p "$1"
dir=$(realpath "$1")
cd "$(dirname "$0")"

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/inject-e2e/k8s-$version-$(go env GOARCH)
mkdir -p "$cache"
trap 'rm -f "$cache"/*.$$' EXIT

# Kubernetes' own build says its version this way; without it everything calls itself v0.0.0.
minor=${version#v1.}
minor=${minor%%.*}
v=k8s.io/component-base/version
ldflags="-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$minor"

for name in kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet; do
  if [ ! -x "$cache/$name" ]; then
    start=$SECONDS
    # Under another name until it is whole: what has the name is believed.
    CGO_ENABLED=0 nice go build -trimpath -ldflags "$ldflags" -o "$cache/$name.$$" "k8s.io/kubernetes/cmd/$name" \
      2>"$cache/log.$$" || { cat "$cache/log.$$" >&2; exit 1; }
    mv "$cache/$name.$$" "$cache/$name"
    echo "ok: built $name $version in $((SECONDS - start)) s"
  fi
  ln -sfn "$cache/$name" "$dir/$name"
done
