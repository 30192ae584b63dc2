#!/usr/bin/env bash
# Makes a certificate authority, certificates and kubeconfigs for a cluster of N nodes in DIR.
#   pki.sh DIR N
# The kubeconfigs have relative paths, so that the folder can be mounted elsewhere.
set -euo pipefail

[ $# = 2 ] || { sed -n '3s/^# *//p' "$0" >&2; exit 2; }
umask 077
mkdir -p "$1"
cd "$1"
count=$2

# certificate NAME SUBJECT FLAGS... makes a key and a certificate. It prints only errors.
certificate() {
  local name=$1 subject=$2
  shift 2
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
    -keyout "$name.key" -out "$name.crt" -subj "$subject" "$@" 2>log || { cat log >&2; return 1; }
}

# issue NAME SUBJECT [NAMES] makes a key, and a certificate that the authority signs.
issue() {
  local names=()
  [ -z "${3:-}" ] || names=(-addext "subjectAltName=$3")
  certificate "$1" "$2" -CA ca.crt -CAkey ca.key "${names[@]}" \
    -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth
}

# kubeconfig NAME writes a kubeconfig with the certificate NAME.
kubeconfig() {
  cat >"$1.kubeconfig" <<KUBECONFIG
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://10.88.1.1:6443", certificate-authority: ca.crt}}]
users: [{name: $1, user: {client-certificate: $1.crt, client-key: $1.key}}]
contexts: [{name: e2e, context: {cluster: e2e, user: $1}}]
current-context: e2e
KUBECONFIG
}

certificate ca /CN=e2e -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
# The API server also uses its certificate as a client of kubelet.
issue apiserver /O=system:masters/CN=kube-apiserver \
  DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:10.88.1.1,IP:10.96.0.1
issue admin /O=system:masters/CN=admin
issue controller-manager /CN=system:kube-controller-manager
issue scheduler /CN=system:kube-scheduler
issue proxy /CN=system:kube-proxy
nodes=()
for ((n = 1; n <= count; n++)); do
  issue "node$n" "/O=system:nodes/CN=system:node:node$n" "IP:10.88.$n.1"
  nodes+=("node$n")
done
for name in admin controller-manager scheduler proxy "${nodes[@]}"; do kubeconfig "$name"; done

# The key that signs the tokens of service accounts.
openssl genrsa -out tokens.key 2048 2>log || { cat log >&2; exit 1; }
openssl rsa -in tokens.key -pubout -out tokens.pub 2>log || { cat log >&2; exit 1; }
rm log
