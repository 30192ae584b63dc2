package chart_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/serve/kube/evidence"
)

// identityFile returns the file of injectd serve --kube-identity that is among the objects of the chart.
func identityFile(t testing.TB, objects []object) *evidence.Config {
	t.Helper()
	for _, o := range objects {
		if text(o, "kind") == "ConfigMap" && text(o, "metadata", "name") == "inject-identity" {
			config, err := evidence.Parse([]byte(text(o, "data", "identity.yaml")))
			require.NoError(t, err)
			return config
		}
	}
	require.Fail(t, "the chart has no file for --kube-identity")
	return nil
}

// The file names the policies and the bindings that are rendered with it, and no others. Those of mutation
// vouch for nothing: a pod that does not run inject gets nothing by it, and a change of how it runs must not
// take their secrets from pods that are there. Neither does inject-objects, which is switched on while tasks start.
func TestIdentityFile(t *testing.T) {
	t.Parallel()
	const none = "policies.exec=false,policies.hosts=false,policies.objects=false"
	for _, version := range []string{"v1.30.0", "v1.36.0"} {
		for _, set := range []string{"policies.exec=true", none} {
			objects := render(t, version, "--set", set)
			var rendered []evidence.Policy
			for _, o := range objects {
				policy := text(o, "spec", "policyName")
				none := []string{"inject-injected", "inject-mutation", "inject-objects"}
				if policy != "" && !slices.Contains(none, called(o)) {
					rendered = append(rendered, evidence.Policy{
						Name: policy, Binding: text(o, "metadata", "name"),
						Mutating: strings.HasPrefix(text(o, "kind"), "Mutating"),
					})
				}
			}
			config := identityFile(t, objects)
			require.ElementsMatch(t, rendered, config.Policies)
			require.Equal(t, "flyte", config.Organization)
			require.Equal(t, []string{"flyte", "leaving"}, config.TaskNamespaces)
			require.Equal(t, []evidence.Account{
				{Namespace: "flyte-system", Name: "flyte-binary"},
				{Namespace: "ray-system", Name: "kuberay-operator"},
				{Namespace: "argo", Name: "argo"},
			}, config.Claimers)
		}
	}
}
