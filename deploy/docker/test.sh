#!/usr/bin/env bash
# Builds the Dockerfile with a real Docker engine, for both platforms and with both builders, and
# tests the images. Needs root, but no image registry.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin

fail() { echo "FAIL deploy/docker: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }

missing=()
command -v dockerd >/dev/null && command -v docker >/dev/null || missing+=(docker.io)
# The program of Debian's package busybox has the same name, but needs a libc.
if ! busybox=$(command -v busybox) || ldd "$busybox" >/dev/null 2>&1; then missing+=(busybox-static); fi
[ -s "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || missing+=(ca-certificates)
[ ${#missing[@]} = 0 ] || fail "missing packages: apt-get install --no-install-recommends ${missing[*]}"
[ "$(id -u)" = 0 ] || fail "needs root"
command -v go >/dev/null || fail "needs Go in PATH"

# Debian's client fits Debian's engine, and has BuildKit without a plugin. Another client may come
# first in PATH.
docker=docker
[ ! -x /usr/bin/docker ] || docker=/usr/bin/docker

# Not in TMPDIR, because the path of a socket is limited to 107 bytes.
work=$(mktemp -d /tmp/injd.XXXXXX)
cleanup() {
  local code=$?
  trap - EXIT
  if [ "$code" != 0 ] && [ -f "$work/engine/log" ]; then
    echo "the end of the engine's log:" >&2
    tail -n 15 "$work/engine/log" >&2
  fi
  "$here/engine.sh" down "$work" || code=1
  rm -rf --one-file-system "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A new configuration folder, because the client reads and writes settings there.
export DOCKER_CONFIG=$work/cli
mkdir "$DOCKER_CONFIG"
up=$("$here/engine.sh" up "$work" --iptables=false --ip6tables=false --bridge=none)
export DOCKER_HOST=${up#DOCKER_HOST=}
ok "engine $("$docker" version --format '{{.Server.Version}}') is up"

base=local/golang:test
"$here/go-image.sh" "$base"
ok "the base image has this machine's $(go env GOVERSION)"

# If this machine uses a mirror, the build must use it, too.
args=()
for v in GOPROXY GOSUMDB; do
  mine=$(go env "$v")
  default=$(env -u "$v" GOENV=off go env "$v")
  [ "$mine" = "$default" ] || args+=(--build-arg "$v=$mine")
done
for v in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
  [ -z "${!v:-}" ] || args+=(--build-arg "$v") # every builder accepts these without an ARG
done

version=v0.0.0-test
# build BUILDKIT IMAGE FLAGS... builds IMAGE. It uses the host's network to reach the module proxy.
build() {
  local buildkit=$1 image=$2
  shift 2
  DOCKER_BUILDKIT=$buildkit "$docker" build --network host \
    --build-arg GO_IMAGE="$base" --build-arg VERSION="$version" "${args[@]}" "$@" \
    -t "$image" "$root" >"$work/build.log" 2>&1 ||
    { cat "$work/build.log" >&2; fail "docker build of $image (DOCKER_BUILDKIT=$buildkit)"; }
}

# machine IMAGE ARCH BINARY prints e_machine of the binary's ELF header: two bytes at offset 18.
machine() {
  local id
  id=$("$docker" create --network none --platform "linux/$2" "$1")
  "$docker" cp "$id:/$3" - | tar -xOf - >"$work/elf"
  "$docker" rm "$id" >/dev/null
  od -An -tu1 -j18 -N2 "$work/elf" | xargs
}

# inspect WANT FORMAT IMAGE fails unless docker inspect prints WANT.
inspect() {
  local got
  got=$("$docker" inspect --format "$2" "$3")
  [ "$got" = "$1" ] || fail "$3: $2 is '$got', expected '$1'"
}

case $(go env GOHOSTARCH) in
  amd64) native=amd64 foreign=arm64 ;;
  arm64) native=arm64 foreign=amd64 ;;
  *) fail "runs on amd64 and arm64 only" ;;
esac
declare -A elf=([amd64]='62 0' [arm64]='183 0')

# One platform with each builder, so that both builders are tested. The legacy builder gets no
# platform, because it builds for its own machine only.
build 0 "local/injectd:$native" --target injectd
build 0 "local/inject:$native"
build 1 "local/injectd:$foreign" --target injectd --platform "linux/$foreign"
build 1 "local/inject:$foreign" --platform "linux/$foreign"
for binary in inject injectd; do
  for arch in "$native" "$foreign"; do
    inspect "$arch" '{{.Architecture}}' "local/$binary:$arch"
    got=$(machine "local/$binary:$arch" "$arch" "$binary")
    [ "$got" = "${elf[$arch]}" ] || fail "linux/$arch: ELF machine of $binary '$got', expected '${elf[$arch]}'"
    ok "linux/$arch: $binary builds, and its binary is for $arch ($(stat -c %s "$work/elf") bytes)"
  done
done

# make images makes the same images without docker.
mkdir "$work/saved"
for binary in inject injectd; do
  for arch in "$native" "$foreign"; do
    "$docker" save -o "$work/saved/$binary-$arch.tar" "local/$binary:$arch"
  done
done
make -s -C "$root" images VERSION="$version" IMAGES="$work/images" >"$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; fail "make images"; }
(cd "$root/tools/image" && INJECT_TEST_DOCKER=$work/saved INJECT_TEST_IMAGES=$work/images go test -count 1 -run '^TestDocker$' .) >"$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; fail "make images makes other images than docker"; }
ok "make images makes the same images, byte for byte in their files"

image=local/inject:$native
hard=(--network none --read-only --cap-drop ALL --security-opt no-new-privileges)

got=$("$docker" run --rm --network none "$image" version)
case $got in
  *"$version"*) ok "version prints the version of the build" ;;
  *) fail "version printed '$got', expected it to contain $version" ;;
esac

inspect 65532:65532 '{{.Config.User}}' "$image"
inspect '[/inject]' '{{.Config.Entrypoint}}' "$image"
for module in std github.com/spf13/cobra filippo.io/age; do
  "$docker" cp "$("$docker" create "$image")":/licenses/$module - > /dev/null || fail "no license of $module in the image"
done
ok "the image has the licenses of what it is linked from"
inspect Apache-2.0 '{{index .Config.Labels "org.opencontainers.image.licenses"}}' "$image"
ok "the user is 65532, not root"

# The engine looks a name up in the image's own /etc/passwd and /etc/group.
"$docker" run --rm --network none --user inject:inject "$image" version >/dev/null ||
  fail "the image does not know the user and group inject"
ok "the user has a name"

"$docker" run --rm "${hard[@]}" "$image" version >/dev/null ||
  fail "inject does not run read-only, without capabilities and new privileges"
ok "inject runs read-only, without capabilities and new privileges"

code=0
out=$("$docker" run --rm "${hard[@]}" "$image" -- /no/such/command 2>&1) || code=$?
[ "$code" = 127 ] || fail "a missing command exits with $code, expected 127: $out"
# The engine exits with 127, too, if the entrypoint is missing.
case $out in *"response from daemon"*) fail "127 came from the engine, not from inject: $out" ;; esac
ok "a missing command exits with 127"

# listing IMAGE [COMMAND] prints the names of all files in a container of IMAGE.
listing() {
  local id
  id=$("$docker" create --network none "$@")
  "$docker" export "$id" | tar -tf - | sed 's,/$,,' | sort
  "$docker" rm "$id" >/dev/null
}
# The engine adds files to every container. They are those in a container of an empty image.
tar -cf - --files-from /dev/null | "$docker" import - local/empty:test >/dev/null
listing local/empty:test /none >"$work/empty"
# holds IMAGE NAMES fails unless the files of IMAGE are exactly NAMES and the licenses of others.
holds() {
  local got
  listing "$1" >"$work/full"
  got=$(comm -13 "$work/empty" "$work/full" | sed '/^licenses\//d' | xargs)
  [ "$got" = "$2" ] || fail "$1 holds '$got', expected '$2'"
}
certificates='etc/group etc/passwd etc/ssl etc/ssl/certs etc/ssl/certs/ca-certificates.crt'
holds "$image" "$certificates inject licenses"
holds "local/injectd:$native" "$certificates injectd licenses var var/lib var/lib/inject"
ok "the images contain their binary, the certificates, the user, licenses, and nothing else"

id=$("$docker" create --network none "$image")
got=$("$docker" cp "$id:/etc/ssl/certs/ca-certificates.crt" - | tar -xOf - | grep -c 'BEGIN CERTIFICATE') || true
"$docker" rm "$id" >/dev/null
[ "$got" -gt 0 ] || fail "no certificate in the CA bundle"
ok "the CA bundle holds $got certificates"

# Build the example with the command in its README, but with a local base image.
"$docker" tag "$image" inject
# shellcheck disable=SC2016 # the README's backquotes
read -ra words < <(sed -n 's/.*`docker build \(-t my-task [^`]*\)`.*/\1/p' "$root/examples/README.md")
value="$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')\"' \$HOME \`id\` \\"
mkdir "$work/store"
printf %s "$value" >"$work/store/MY_SECRET_KEY"
chmod -R a+rX "$work/store"
task=("${hard[@]}" -v "$work/store:/store:ro" -e INJECT_STORE=dir:///store -e INJECT_SECRETS=MY_SECRET_KEY=MY_SECRET_ENV_VAR my-task)
for buildkit in 0 1; do
  (cd "$root" && DOCKER_BUILDKIT=$buildkit "$docker" build --build-arg BASE="$base" "${words[@]}") >"$work/build.log" 2>&1 ||
    { cat "$work/build.log" >&2; fail "docker build ${words[*]} (DOCKER_BUILDKIT=$buildkit)"; }
  inspect 65532:65532 '{{.Config.User}}' my-task
  inspect '[python3 /task.py]' '{{.Config.Cmd}}' my-task
  # shellcheck disable=SC2016 # for the shell in the container
  got=$("$docker" run --rm "${task[@]}" sh -c 'echo "$MY_SECRET_ENV_VAR"; printf %s "$MY_SECRET_ENV_VAR" | sha256sum; ls /task.py')
  want="[REDACTED:MY_SECRET_KEY]
$(printf %s "$value" | sha256sum)
/task.py"
  [ "$got" = "$want" ] || fail "the example's task printed '$got', expected '$want'"
done
ok "the task in the example's image gets the secret, and its output is masked"

# The image of the example for Flyte differs from the other's in its base.
# shellcheck disable=SC2016 # the README's backquotes
read -ra words < <(sed -n 's/.*`docker build \(-t registry[^`]*\)`.*/\1/p' "$root/examples/README.md")
(cd "$root" && DOCKER_BUILDKIT=1 "$docker" build --build-arg BASE="$base" "${words[@]}") >"$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; fail "docker build ${words[*]}"; }
inspect '[/inject run --]' '{{.Config.Entrypoint}}' "${words[1]}"
# shellcheck disable=SC2016 # for the shell in the container
got=$("$docker" run --rm "${task[@]/#my-task/${words[1]}}" sh -c 'echo "$MY_SECRET_ENV_VAR"')
[ "$got" = '[REDACTED:MY_SECRET_KEY]' ] || fail "the task in the example for Flyte printed '$got'"
ok "the example's image for Flyte starts its task through inject"

# The server's image: make certificates and tokens as an operator does, and let the example's task
# resolve its secret over TLS.
server=local/injectd:$native
inspect 65532:65532 '{{.Config.User}}' "$server"
inspect '[/injectd]' '{{.Config.Entrypoint}}' "$server"
inspect '[serve]' '{{.Config.Cmd}}' "$server"
mkdir "$work/etc"
for name in platform task; do
  "$docker" run --rm --network none "$server" token "$name" >"$work/etc/$name.token" 2>"$work/line"
  sed -n "/^$name sha256:/p" "$work/line" >>"$work/etc/tokens"
done
[ "$(wc -l <"$work/etc/tokens")" = 2 ] || fail "injectd token printed no line for the tokens file: $(cat "$work/line")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca \
  -keyout "$work/ca.key" -out "$work/etc/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=injectd \
  -keyout "$work/etc/server.key" -out "$work/server.csr" 2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/etc/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
  -extfile <(echo 'subjectAltName=IP:127.0.0.1') -out "$work/etc/server.pem" 2>/dev/null
cat >"$work/etc/policy.yaml" <<'POLICY'
version: 1
rules:
  - name: platform
    identity: {token: platform}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
  - name: task
    identity: {token: task}
    resolve: {project: p, domain: d}
POLICY
chmod -R a+rX,go-w "$work/etc"
port=$((20000 + $$ % 10000))
# up starts the server with its volume, without privileges, and waits until it is ready.
up() {
  "$docker" run -d --name injectd --network host --read-only --cap-drop ALL --security-opt no-new-privileges \
    -v state:/var/lib/inject -v "$work/etc:/etc/inject:ro" \
    -e "INJECTD_LISTEN=127.0.0.1:$port" -e "INJECTD_OPS_LISTEN=127.0.0.1:$((port + 1))" \
    -e INJECTD_CERT_FILE=/etc/inject/server.pem -e INJECTD_CERT_KEY_FILE=/etc/inject/server.key \
    -e INJECTD_TOKENS_FILE=/etc/inject/tokens -e INJECTD_POLICY=/etc/inject/policy.yaml "$server" >/dev/null
  for _ in $(seq 100); do
    if exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))"; then
      printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
      grep -q '200 OK' <&3 && return
    fi 2>/dev/null
    sleep 0.1
  done
  fail "the server is not ready: $("$docker" logs injectd 2>&1)"
}
# down stops the server. It must exit with 0, and its log must not contain the value.
down() {
  "$docker" stop -t 30 injectd >/dev/null
  inspect 0 '{{.State.ExitCode}}' injectd
  "$docker" logs injectd >"$work/log" 2>&1
  "$docker" rm injectd >/dev/null
  ! grep -qF "$value" "$work/log" || fail "the value is in the server's log"
}
# of NAME sets client to the docker flags of a client with the token NAME.
of() { client=(--network host -v "$work/etc:/etc/inject:ro" -e "INJECT_STORE=grpcs://127.0.0.1:$port" -e INJECT_CA_FILE=/etc/inject/ca.pem -e "INJECT_TOKEN_FILE=/etc/inject/$1.token"); }
up
of platform
printf %s "$value" | "$docker" run --rm -i "${client[@]}" "$image" create secret MY_SECRET_KEY --from-file - -p p -d d
got=$("$docker" run --rm "${client[@]}" "$image" get secret -p p -d d -o name)
[ "$got" = MY_SECRET_KEY ] || fail "get secret printed '$got'"
down
grep -qF '"key":"MY_SECRET_KEY","decision":"allowed"' "$work/log" || fail "the audit log has no line of the create: $(cat "$work/log")"
up # the stored secret must still be there
of task
# shellcheck disable=SC2016 # for the shell in the container
got=$("$docker" run --rm "${client[@]}" -e INJECT_SECRETS=MY_SECRET_KEY=MY_SECRET_ENV_VAR my-task sh -c 'echo "$MY_SECRET_ENV_VAR"; printf %s "$MY_SECRET_ENV_VAR" | sha256sum')
want="[REDACTED:MY_SECRET_KEY]
$(printf %s "$value" | sha256sum)"
[ "$got" = "$want" ] || fail "the task printed '$got', expected '$want'"
! "$docker" run --rm "${client[@]}" "$image" get secret >"$work/denied" 2>&1 || fail "a task may list: $(cat "$work/denied")"
grep -q denied "$work/denied" || fail "the error of a task that lists is not a denial: $(cat "$work/denied")"
# For root in the container the token, which others may read, is its own file: it passes from a
# mount that is read-only, as those of secrets are, and is refused from one that is not.
root_task=(--user 0:0 -e INJECT_SECRETS=MY_SECRET_KEY=MY_SECRET_ENV_VAR my-task true)
"$docker" run --rm "${client[@]}" "${root_task[@]}" || fail "root may not use a token on a read-only mount"
code=0
"$docker" run --rm "${client[@]/:ro/}" "${root_task[@]}" >"$work/open" 2>&1 || code=$?
{ [ "$code" = 125 ] && grep -q 'task.token: it is open to others' "$work/open"; } ||
  fail "root used a token that others may read (exit code $code): $(cat "$work/open")"
down
ok "the server's image serves the example's task over TLS, keeps its store and ends with 0"

# down fails if a process or a cgroup is left.
"$here/engine.sh" down "$work"
[ ! -e "$work/engine" ] || fail "the engine's folder is still there"
ok "the engine is gone"
echo "PASS deploy/docker"
