#!/bin/sh
# A raw container task (flyte.extras.ContainerTask). The files in /var/outputs are its outputs when it ends; the file
# _ERROR says why it failed. This task carelessly writes the password into all of them.
#   task.sh [OUTPUTS [USER]]
# In a pod, set INJECT_OUTPUTS=/var/outputs.
set -eu
outputs=${1:-/var/outputs} user=${2:-app}
if [ "$user" != app ]; then
  printf '%s may not log in with %s\n' "$user" "$DB_PASSWORD" >"$outputs/_ERROR"
  exit 1
fi
printf 'postgres://%s:%s@db/orders\n' "$user" "$DB_PASSWORD" >"$outputs/url"
basic=$(printf '%s:%s' "$user" "$DB_PASSWORD" | base64 | tr -d '\n')
printf '{"rows": 3, "authorization": "Basic %s"}\n' "$basic" >"$outputs/report"
