#!/usr/bin/env bash
# Runs the tests of Flyte's command line, SDK and runtime with the newest release on PyPI, and says
# how they end. It exits with 0 in any case: a release of another project, or a registry that does
# not answer, must not stop a change of this one.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
dir=$PWD/bin/newest
log=$dir/log
mkdir -p "$dir"

report() {
  printf 'newest flyte %s\n' "$*"
  exit 0
}

pinned=$(sed -n 's/^flyte==\([^ ]*\).*/\1/p' deploy/sdk/requirements.txt)
[ -x "$dir/bin/pip" ] || python3 -m venv "$dir" > "$log" 2>&1 || report "is not tried: no virtual environment: $(tail -n 1 "$log")"
pip=("$dir/bin/pip" --disable-pip-version-check --no-input --timeout 10 --retries 1)
newest=$(timeout 20 "${pip[@]}" index versions flyte 2> "$log" | sed -n '1s/.*(\(.*\)).*/\1/p')
[ -n "$newest" ] || report "is not tried: PyPI does not tell it: $(tail -n 1 "$log")"
[ "$newest" != "$pinned" ] || report "$newest: the tests above ran with it"
timeout 60 "${pip[@]}" install --quiet --only-binary :all: "flyte==$newest" > "$log" 2>&1 ||
  report "$newest is not tried: it is not installed: $(tail -n 1 "$log")"
touch "$dir/installed"
INJECT_TEST_SDK=$dir timeout 120 go test -count 1 \
  -run '^(TestFlyteSDK|TestFlyteCommands|TestStructuredOutputs|TestLocalRun)$/^(insecure)?$' ./cmd/inject ./cmd/injectd ./python > "$log" 2>&1
case $? in
0) report "$newest: passed (the repository pins $pinned)" ;;
124) report "$newest: not finished within two minutes" ;;
esac
cat "$log"
report "$newest: failed, see above (the repository pins $pinned): $(grep -- '--- FAIL' "$log" | tr -s ' \n' ' ')"
