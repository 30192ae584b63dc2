#!/bin/sh
# Copies the licenses and notices of all modules that programs are linked from, as those ask for.
#   notices.sh FOLDER PROGRAM...
# Each module gets a folder of its path in FOLDER; Go itself is in std. Needs Go and the module cache.
set -eu
to=$1
shift
# copy FROM NAME copies the licenses in the folder FROM as those of the module NAME.
copy() {
  found=
  for file in "$1"/[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]* "$1"/NOTICE* "$1"/COPYING* "$1"/PATENTS*; do
    if [ -f "$file" ]; then
      mkdir -p "$to/$2"
      cp "$file" "$to/$2/"
      chmod 644 "$to/$2/${file##*/}"
      found=yes
    fi
  done
  [ -n "$found" ] || { echo "notices: the module $2 has no license file in $1" >&2; exit 1; }
}
copy "$(go env GOROOT)" std
go version -m "$@" | awk '$1 == "dep" { print $2 }' | sort -u | while read -r module; do
  copy "$(go list -m -f '{{.Dir}}' "$module")" "$module"
done
