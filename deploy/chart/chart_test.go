// Package chart_test holds the chart to a real API server: which requests its policies refuse, in
// whose hands, and with which code.
package chart_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// values are those of the tests.
const values = `
taskNamespaces: [flyte, leaving]
claimers:
  accounts: [{namespace: flyte-system, name: flyte-binary}]
  operators:
  - {namespace: ray-system, name: kuberay-operator, apiGroups: [ray.io]}
  - {namespace: argo, name: argo, apiGroups: [argoproj.io]}
policies: {exec: true}
`

// switches are what values of the chart switch on.
const switches = `
networkPolicy:
  {from: [{podSelector: {}}], opsFrom: [{podSelector: {}}], egress: [{ports: [{port: 6443}]}], taskEgress: true}
monitoring: {serviceMonitor: {enabled: true}, rules: {enabled: true}, dashboard: {enabled: true}}
route:
  gateway: {enabled: true, parents: [{name: flyte, sectionName: https}]}
  ingress: {enabled: true, host: flyte.example.org, tlsSecret: flyte-tls}
`

const everything = values + switches

// template runs helm template with the values of the tests, for a version of Kubernetes.
func template(t testing.TB, version string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return harness.Chart(t, version, values, args...)
}

// render returns the objects of the chart for a version of Kubernetes.
func render(t testing.TB, version string, args ...string) []object {
	t.Helper()
	return harness.ChartObjects(t, version, values, args...)
}

// digest returns what the name of a policy or a binding with this spec ends in.
func digest(t testing.TB, spec any) string {
	t.Helper()
	data, err := json.Marshal(spec)
	require.NoError(t, err)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:16]
}

// isPolicy tells whether an object is a policy or a binding of one.
func isPolicy(o object) bool {
	return strings.HasPrefix(text(o, "apiVersion"), "admissionregistration.k8s.io/") &&
		text(o, "kind") != "MutatingWebhookConfiguration"
}

// called returns the name of a policy or a binding without its digest.
func called(o object) string {
	name := text(o, "metadata", "name")
	return name[:max(strings.LastIndexByte(name, '-'), 0)]
}

func TestRendered(t *testing.T) {
	t.Parallel()
	names := func(version string, args ...string) (names []string) {
		for _, o := range render(t, version, args...) {
			name := text(o, "metadata", "name")
			if isPolicy(o) {
				require.Equal(t, called(o)+"-"+digest(t, o["spec"]), name)
				name = called(o)
			}
			names = append(names, text(o, "kind")+" "+name)
		}
		return names
	}
	all := []string{
		"ClusterRole inject-claimer", "RoleBinding inject-claimer", "RoleBinding inject-claimer",
		"ConfigMap inject-certificates", "Role injectd-certificates", "RoleBinding injectd-certificates",
		"Namespace inject-secrets", "ConfigMap inject-identity", "ConfigMap inject-policy", "Deployment injectd",
		"Service injectd", "PodDisruptionBudget injectd", "NetworkPolicy injectd",
		"ServiceAccount injectd", "ClusterRole injectd", "ClusterRoleBinding injectd",
		"Role injectd", "RoleBinding injectd",
		"Role injectd-pods", "RoleBinding injectd-pods", "Role injectd-pods", "RoleBinding injectd-pods",
	}
	for _, name := range []string{"inject-accounts", "inject-claims", "inject-tokens", "inject-workloads"} {
		all = append(all, "ValidatingAdmissionPolicy "+name, "ValidatingAdmissionPolicyBinding "+name)
	}
	const none = "policies.exec=false,policies.hosts=false,policies.injected=false,policies.objects=false"
	webhook := []string{
		"ConfigMap inject-mutation", "ServiceAccount inject-webhook", "Deployment inject-webhook",
		"Service inject-webhook", "PodDisruptionBudget inject-webhook", "NetworkPolicy inject-webhook",
		"MutatingWebhookConfiguration inject-webhook",
	}
	require.ElementsMatch(t, all, names("v1.30.0", "--set", none+",mutation.mode=off"))
	require.ElementsMatch(t, slices.Concat(all, webhook), names("v1.30.0", "--set", none))
	require.ElementsMatch(t, slices.Concat(all, webhook, []string{
		"Issuer inject-self", "Certificate inject-authority", "Issuer inject-authority", "Certificate injectd",
		"Certificate inject-webhook",
	}), names("v1.30.0", "--set", none+",certificates.source=cert-manager"))
	for _, name := range []string{"inject-exec", "inject-hosts", "inject-objects"} {
		all = append(all, "ValidatingAdmissionPolicy "+name, "ValidatingAdmissionPolicyBinding "+name)
	}
	injected := []string{
		"ValidatingAdmissionPolicy inject-injected", "ValidatingAdmissionPolicyBinding inject-injected",
	}
	const off, audit = "mutation.mode=off", "policies.enforce=audit"
	require.ElementsMatch(t, all, names("v1.35.9", "--set", off))
	require.ElementsMatch(t, slices.Concat(all, injected), names("v1.35.9", "--set", audit))
	require.ElementsMatch(t, slices.Concat(all, injected, webhook), names("v1.35.9"))
	all = append(all, "MutatingAdmissionPolicy inject-inherits", "MutatingAdmissionPolicyBinding inject-inherits")
	require.ElementsMatch(t, all, names("v1.36.0", "--set", off))
	require.ElementsMatch(t, all, names("v1.36.0", "--set", off+","+audit))
	require.ElementsMatch(t, slices.Concat(all, injected, webhook),
		names("v1.36.0", "--set", "mutation.mode=webhook"))
	all = append(slices.Concat(all, injected),
		"MutatingAdmissionPolicy inject-mutation", "MutatingAdmissionPolicyBinding inject-mutation")
	require.ElementsMatch(t, all, names("v1.36.0"))
}

// TestValues has values that the chart must refuse, each with what the error names, and some that it takes.
func TestValues(t *testing.T) {
	t.Parallel()
	for set, says := range map[string]string{
		"organization=a'b":                                     "organization",
		`organization=a"b`:                                     "organization",
		"organization=a\nb":                                    "organization",
		`organization=a\\b`:                                    "organization",
		`taskNamespaces[0]=\{\{x\}\}`:                          "taskNamespaces",
		"taskNamespaces[0]=Flyte":                              "taskNamespaces",
		"taskNamespaces[0]=":                                   "taskNamespaces",
		"taskNamespaces[1]=flyte":                              "taskNamespaces",
		"taskNamespaces=null":                                  "taskNamespaces",
		"claimers.accounts=null":                               "accounts",
		"claimers.accounts[0].name=a'":                         "accounts",
		"claimers.accounts[0].name=a/b":                        "accounts",
		"claimers.operators[0].apiGroups=null":                 "apiGroups",
		"claimers.operators[0].apiGroups[0]=ray.']":            "apiGroups",
		"claimers.controllers[0]=node-controller":              "controllers",
		"policies.enforce=warn":                                "enforce",
		"secretsNamespace=":                                    "secretsNamespace",
		"secretsNamespace=flyte":                               "secretsNamespace flyte: a task namespace",
		"secretsNamespace=inject-system":                       "secretsNamespace inject-system: the namespace of",
		"policies.host=false":                                  "host",
		"policies.exec=null":                                   "exec",
		"injector.image=x":                                     "injector",
		"serviceAccount.name=x:y":                              "serviceAccount",
		"claimers.accounts[0].namespace=flyte":                 "flyte/flyte-binary: in a task namespace",
		"claimers.operators[0].namespace=flyte":                "flyte/kuberay-operator: in a task namespace",
		"taskNamespaces[1]=inject-system":                      "inject-system/injectd: in a task namespace",
		"images.registry=":                                     "images.registry: the registry",
		"images.injectd.digest=sha256:00":                      "digest",
		"labels.team=a b":                                      "labels",
		"injectd.replicas=many":                                "replicas",
		"injectd.replica=3":                                    "replica",
		"injectd.logLevel=loud":                                "logLevel",
		"injectd.extraArgs[0]=serve":                           "extraArgs",
		"injectd.files[0].mountPath=/etc/x":                    "files",
		"injectd.files[0].secret=x":                            "mountPath",
		"injectd.resources.requests.cpu=much":                  "cpu",
		"injectd.resources.request.cpu=1":                      "request",
		"injectd.podLabels.team=a b":                           "team",
		"injectd.podAnnotations.a b=c":                         "podAnnotations",
		"injectd.nodeSelector.pool=a b":                        "pool",
		"injectd.tolerations[0].effekt=x":                      "effekt",
		"injectd.tolerations[0].effect=x":                      "effect",
		"injectd.affinity.node=x":                              "node",
		"injectd.spread=Never":                                 "spread",
		"injectd.priorityClassName=A":                          "priorityClassName",
		"service.type=NodePort":                                "type",
		"service.annotation.x=y":                               "annotation",
		"certificates.secretName=":                             "secretName",
		"certificates.source=vault":                            "source",
		"certificates.leaf=30d":                                "leaf",
		"certificates.publish=":                                "publish",
		"certificates.issuer=x":                                "issuer",
		"policy.rules[0].name=people":                          "identity",
		"policy.rules[0].resolves=x":                           "resolves",
		"policy.also[0]=A B":                                   "also",
		"oidc.clientId=inject":                                 "issuer",
		"oidc.issuer=https://i.test":                           "audience",
		"oidc.keys=http://i.test":                              "keys",
		"networkPolicy.from[0].pods=x":                         "pods",
		"networkPolicy.opsFrom[0].ipBlock.cidr=x":              "cidr",
		"networkPolicy.egress[0].ports[0].ports=x":             "ports",
		"networkPolicy.taskEgress=null":                        "taskEgress",
		"monitoring.serviceMonitor.interval=soon":              "interval",
		"monitoring.rules.enabled=null":                        "enabled",
		"monitoring.dashboard.label.x=y":                       "label",
		"route.gateway.enabled=true":                           "parents",
		"route.ingress.enabled=true":                           "host",
		"route.ingress.host=*":                                 "host",
		"route.gateway.hostnames[0]=a_b":                       "hostnames",
		"route.ingress.host=a.test,route.ingress.enabled=true": "networkPolicy.from",
		"networkPolicy.webhookFrom[0].cidr=10.0.0.0/8":         "cidr",
		"policies.injected=null":                               "injected",
		"mutation.mode=on":                                     "mode",
		"mutation.delivery=copy":                               "delivery",
		"mutation.outputs[0]=var":                              "outputs",
		`mutation.outputs[0]=/a"`:                              "outputs",
		"mutation.storage=on":                                  "storage",
		"mutation.entrypoints[0].image=/x":                     "image",
		`mutation.entrypoints[0].image=a"`:                     "image",
		"mutation.entrypoints[0].command[0]=a\nb":              "command",
		"mutation.entrypoints[0].command=null":                 "command",
		"mutation.pythonEntrypoint=allow":                      "pythonEntrypoint",
		"mutation.pullSecret=a'":                               "pullSecret",
		"mutation.resources.limits.memory=much":                "memory",
		"mutation.resources.claims=x":                          "claims",
	} {
		flag := "--set-string"
		if strings.HasSuffix(set, "=null") || strings.HasSuffix(set, "=true") {
			flag = "--set"
		}
		_, stderr, err := template(t, "v1.37.2", flag, set)
		require.Error(t, err, set)
		require.Contains(t, stderr, says, set)
	}
	for _, set := range []string{
		"organization=my.org_2", "global.x=y", "claimers.controllers={cronjob-controller}", "policies.enforce=audit",
		"claimers.accounts[0].namespace=flyte,policies.acceptUnprotected=true", "mutation.mode=off",
		"mutation.pullSecret=", "mutation.resources.limits=null",
	} {
		_, stderr, err := template(t, "v1.37.2", "--set", set)
		require.NoError(t, err, "%s: %s", set, stderr)
	}
}

// TestRoutes has routes that a proxy would also serve over plain HTTP. The error names all of them, and why.
func TestRoutes(t *testing.T) {
	t.Parallel()
	with := func(sectionName, tlsSecret string) string {
		return values + `networkPolicy: {enabled: false}
route:
  gateway: {enabled: true, parents: [{name: g, sectionName: s}, {name: h` + sectionName + `}]}
  ingress: {enabled: true, host: a.test` + tlsSecret + `}
`
	}
	_, stderr, err := harness.Chart(t, "v1.37.2", with("", ""))
	require.Error(t, err)
	const why = "without it the proxy also takes values and tokens over plain HTTP"
	require.Contains(t, stderr, "): route.gateway.parents[1].sectionName: the listener of the Gateway h that ends "+
		"TLS; "+why+"\nroute.ingress.tlsSecret: the Secret with the certificate of a.test; "+why+"\n")
	_, stderr, err = harness.Chart(t, "v1.37.2", with(", sectionName: s", ", tlsSecret: s"))
	require.NoError(t, err, stderr)
}

// TestModes has modes of mutation that the chart refuses, and how auto is read.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, row := range [][3]string{
		{"v1.35.9", "mutation.mode=policy", "are in Kubernetes 1.36 and later, and this is v1.35.9; use webhook"},
		{"v1.37.2", "mutation.mode=policy,policies.enforce=audit", "injectd serves no pod"},
		{"v1.37.2", "mutation.mode=webhook,policies.enforce=audit", "injectd serves no pod"},
	} {
		_, stderr, err := template(t, row[0], "--set", row[1])
		require.Error(t, err, row)
		require.Contains(t, stderr, row[2])
	}
	// In a file of values, off is false to YAML.
	for _, off := range []string{"off", `"off"`, "false"} {
		with := values + "mutation: {mode: " + off + "}\n"
		audit := []string{"--set", "policies.enforce=audit"}
		denied, audited := harness.ChartObjects(t, "v1.37.2", with), harness.ChartObjects(t, "v1.37.2", with, audit...)
		for _, o := range append(denied, audited...) {
			require.NotEqual(t, "inject-mutation", called(o))
			require.NotEqual(t, "inject-injected", called(o))
		}
	}
}

// TestClaimers compares who may claim by the roles with the values.
func TestClaimers(t *testing.T) {
	t.Parallel()
	subjects := map[string][]string{}
	for _, o := range render(t, "v1.37.2") {
		if text(o, "metadata", "name") != "inject-claimer" {
			require.NotContains(t, fmt.Sprint(o["rules"]), "claim", "another role")
			continue
		}
		switch text(o, "kind") {
		case "RoleBinding":
			namespace := text(o, "metadata", "namespace")
			for _, s := range list(o, "subjects") {
				require.Equal(t, "ServiceAccount", text(s, "kind"))
				subjects[namespace] = append(subjects[namespace], text(s, "namespace")+"/"+text(s, "name"))
			}
			require.Equal(t, object{"apiGroup": rbac, "kind": "ClusterRole", "name": "inject-claimer"}, o["roleRef"])
		case "ClusterRole":
			require.Equal(t, []object{claims()}, list(o, "rules"))
		}
	}
	want := []string{
		"flyte-system/flyte-binary", "ray-system/kuberay-operator", "argo/argo",
		"kube-system/deployment-controller", "kube-system/job-controller", "kube-system/replicaset-controller",
	}
	require.Equal(t, map[string][]string{"flyte": want, "leaving": want}, subjects)

	// An account of a task namespace may claim only if that is accepted.
	const not = `split(':')[2] in ["flyte","leaving"]) &&`
	out, stderr, err := template(t, "v1.37.2")
	require.NoError(t, err, stderr)
	require.Contains(t, out, not)
	out, stderr, err = template(t, "v1.37.2", "--set", "policies.acceptUnprotected=true")
	require.NoError(t, err, stderr)
	require.NotContains(t, out, not)
}

// TestHelm3 compares what Helm 3 renders with what Helm 4 does.
func TestHelm3(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1.30.0", "v1.37.2"} {
		four, stderr, err := harness.Chart(t, version, everything)
		require.NoError(t, err, stderr)
		three, stderr, err := harness.ChartBy(t, harness.Bin(t, "helm3/helm"), version, everything)
		require.NoError(t, err, stderr)
		// The order of some kinds differs, and 4 writes more empty lines.
		require.ElementsMatch(t, harness.Objects(t, four), harness.Objects(t, three))
	}
	helm3 := harness.Bin(t, "helm3/helm")
	_, stderr, err := harness.ChartBy(t, helm3, "v1.37.2", values, "--set", "policies.host=false")
	require.Error(t, err)
	require.Contains(t, stderr, "policies")
	require.Contains(t, stderr, "host")
}
