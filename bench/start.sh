#!/usr/bin/env bash
# What it costs to start `true` through inject, beside tini: whole commands, the
# rounds alternated, medians, as ratios of this one run.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in tini hyperfine; do
  command -v "$tool" > /dev/null || { echo "bench: $tool is not installed (apt-get install tini hyperfine)" >&2; exit 1; }
done
HOME=$(mktemp -d)
export HOME
trap 'rm -rf "$HOME"' EXIT
bin/inject create secret K the-value-of-k 2> /dev/null
# shellcheck disable=SC2016 # the child's variable
bin/inject --secret K -- sh -c 'test "$K" = the-value-of-k' # it does what is measured
commands=('tini -s -- true' 'bin/inject --secret K -- true' 'bin/inject -- true')
rounds=${ROUNDS:-15}
for ((i = 0; i < rounds; i++)); do
  hyperfine -N --warmup 3 --runs 20 --export-csv "$HOME/$i.csv" "${commands[@]}" > /dev/null 2>&1
done
# Columns of hyperfine's CSV: command,mean,stddev,median,user,system,min,max
for n in 2 3 4; do
  for ((i = 0; i < rounds; i++)); do sed -n "${n}p" "$HOME/$i.csv" | awk -F, '{ print $4 }'; done | sort -n > "$HOME/$n.sorted"
done
median() { sed -n "$(((rounds + 1) / 2))p" "$HOME/$1.sorted"; }
spread() { printf '%s %s' "$(head -n 1 "$HOME/$1.sorted")" "$(tail -n 1 "$HOME/$1.sorted")"; }
echo "start of true: medians of $rounds alternating rounds of 20"
base=$(median 2)
for n in 2 3 4; do
  # shellcheck disable=SC2046 # two numbers
  awk -v name="${commands[n - 2]}" -v m="$(median $n)" -v base="$base" -v lo="$(spread $n | cut -d' ' -f1)" -v hi="$(spread $n | cut -d' ' -f2)" \
    'BEGIN { printf "  %-32s %6.2f ms  (%.2f-%.2f)  %5.2fx tini\n", name, m * 1000, lo * 1000, hi * 1000, m / base }'
done
wc -c < bin/inject | awk '{ printf "bin/inject: %.1f MB stripped\n", $1 / 1e6 }'
