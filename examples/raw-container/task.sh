#!/bin/sh
# What a raw container task (flyte.extras.ContainerTask) runs. What is in /var/outputs when it ends are its outputs;
# _ERROR there is why it failed. Here the password is, carelessly, in all of them.
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
