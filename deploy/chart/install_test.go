package chart_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// installs are the files of objects that are there without Helm: for which Kubernetes, and with which values.
var installs = map[string]struct{ version, oldest, mode string }{
	"install-policy.yaml":  {"v1.37.2", "1.36", "policy"},
	"install-webhook.yaml": {"v1.30.0", "1.30", "webhook"},
}

// installHead is what such a file begins with.
const installHead = `# Written by make chart: what the chart deploy/chart renders for Kubernetes %s or later, with mutation.mode %s.
#
# To read, and to try in a cluster that is set up as this file says: tasks in the namespace flyte, and Flyte's
# services as the account flyte-binary of flyte-system. No registry has the images: registry.invalid is a name
# that can never exist (RFC 6761), so the servers' pods stay in ImagePullBackOff. Neither sed nor kustomize
# makes a file for another cluster of this one: names of namespaces, accounts and images are in the expressions
# of the policies, and each policy's name says its content. injectd and doctor take one that was changed for
# forged. Render a file of your own:
#
#   helm template inject deploy/chart --namespace inject-system --kube-version %s --values values.yaml
#
# docs/how-to/kubernetes.md has the values. Nothing here deletes what a later version does not have any more.
apiVersion: v1
kind: Namespace
metadata:
  name: inject-system
  labels: {pod-security.kubernetes.io/enforce: restricted}
`

// installFile renders a file.
func installFile(t *testing.T, name string) string {
	t.Helper()
	of := installs[name]
	out, stderr, err := harness.Chart(t, of.version, `
images: {registry: registry.invalid}
taskNamespaces: [flyte]
claimers: {accounts: [{namespace: flyte-system, name: flyte-binary}]}
`)
	require.NoError(t, err, stderr)
	return fmt.Sprintf(installHead, of.oldest, of.mode, of.oldest) + out
}

// TestInstallFiles compares the files with what the chart renders, and has the API server take all objects.
// INJECT_TEST_UPDATE writes them.
func TestInstallFiles(t *testing.T) {
	t.Parallel()
	for name := range installs {
		want := installFile(t, name)
		file := "../" + name
		if os.Getenv("INJECT_TEST_UPDATE") != "" {
			require.NoError(t, os.WriteFile(file, []byte(want), 0o600))
		}
		got, err := os.ReadFile(file)
		require.NoError(t, err)
		// Equal would print all of it.
		require.Empty(t, differ(string(got), want), "%s: make chart", name)
	}

	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	k.Kubectl(t, "", "create", "namespace", "flyte")
	fits := "install-policy.yaml"
	if k.Minor(t) < 36 {
		fits = "install-webhook.yaml"
	}
	for range 2 {
		k.Kubectl(t, "", "apply", "--server-side", "--validate=strict", "-f", "../"+fits)
	}
	// Who applies it again must not change a policy: pods from before would not be served any more.
	generations := k.Kubectl(t, "", "get", "validatingadmissionpolicies,validatingadmissionpolicybindings",
		"-o", "jsonpath={.items[*].metadata.generation}")
	require.Regexp(t, `^1( 1){10,}$`, generations)
}

// differ returns the first line of each of two texts that the other one does not have there.
func differ(a, b string) (lines []string) {
	one, two := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(one), len(two)) {
		at := func(of []string) string {
			if i < len(of) {
				return of[i]
			}
			return ""
		}
		if at(one) != at(two) {
			return []string{at(one), at(two)}
		}
	}
	return nil
}

// TestNotes has what Helm tells after an installation.
func TestNotes(t *testing.T) {
	t.Parallel()
	notes := func(set string) string {
		out, stderr, err := harness.Helm(t, harness.Bin(t, "helm"), values, "install", "inject", ".",
			"-n", "inject-system", "--dry-run=client", "-f", "-",
			"--set", "images.registry=inject.test", "--set-json", set)
		require.NoError(t, err, stderr)
		_, notes, found := strings.Cut(out, "NOTES:\n")
		require.True(t, found)
		return notes
	}
	plain := notes("policies={}")
	require.Contains(t, plain, "grpcs://injectd.inject-system.svc.cluster.local.:8093")
	require.Contains(t, plain, "no person may create secrets")
	require.NotContains(t, plain, "no pod is served")
	require.Contains(t, notes(`policies={"enforce": "audit"}`), "no pod is served")
	const rules = `policy.rules=[{"name": "people", "identity": {"token": "alice"}}]`
	require.NotContains(t, notes(rules), "no person may create secrets")
}
