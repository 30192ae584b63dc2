package evidence_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve/kube/evidence"
)

const good = `version: 1
organization: flyte
taskNamespaces: [flyte, team-a]
claimers:
- {namespace: flyte-system, name: flyte-binary}
- {namespace: kube-system, name: job.controller}
policies:
- {name: inject-accounts-0123456789abcdef, binding: inject-accounts-fedcba9876543210}
- {name: inject-claims-0123456789abcdef, binding: inject-claims-fedcba9876543210}
- {name: inject-inherits-0123456789abcdef, binding: inject-inherits-fedcba9876543210, kind: Mutating}
- {name: inject-tokens-0123456789abcdef, binding: inject-tokens-fedcba9876543210, kind: Validating}
- {name: inject-workloads-0123456789abcdef, binding: inject-workloads-fedcba9876543210}
`

func TestParse(t *testing.T) {
	t.Parallel()
	c, err := evidence.Parse([]byte(good))
	require.NoError(t, err)
	require.Equal(t, "flyte", c.Organization)
	require.Equal(t, []string{"flyte", "team-a"}, c.TaskNamespaces)
	require.Equal(t, "[flyte-system/flyte-binary kube-system/job.controller]", fmt.Sprint(c.Claimers))
	require.Len(t, c.Policies, 5)
	require.Equal(t, evidence.Policy{
		Name: "inject-inherits-0123456789abcdef", Binding: "inject-inherits-fedcba9876543210", Mutating: true,
	}, c.Policies[2])
	require.Equal(t, "inject-inherits", c.Policies[2].Base())
	require.True(t, c.Has("inject-tokens"))
	require.False(t, c.Has("inject-hosts"))
	require.True(t, c.Serves("team-a"))
	require.False(t, c.Serves("team"))

	path := filepath.Join(t.TempDir(), "kube.yaml")
	_, err = evidence.LoadOnce(path)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, path)
	_, err = evidence.Load(t.Context(), path, hclog.NewNullLogger())
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.NoError(t, os.WriteFile(path, []byte(good), 0o600))
	once, err := evidence.LoadOnce(path)
	require.NoError(t, err)
	require.Equal(t, c, once)
	file, err := evidence.Load(t.Context(), path, hclog.NewNullLogger())
	require.NoError(t, err)
	require.Equal(t, c, file.Current())
	require.NoError(t, os.WriteFile(path, []byte("version: 2"), 0o600))
	_, err = evidence.LoadOnce(path)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, path)
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ old, new, says string }{
		{"version: 1\n", "", "line 1: version: missing"},
		{"version: 1\n", "version: '1'\n", "line 1: version: not 1"},
		{"organization: flyte\n", "", "organization: missing"},
		{"organization: flyte", "organization: ''", "organization: not a label's value"},
		{"organization: flyte", "organization: a b", "organization: not a label's value"},
		{"[flyte, team-a]", "flyte", "taskNamespaces: expected a list"},
		{"[flyte, team-a]", "[flyte, flyte]", "taskNamespaces[1]: given twice"},
		{"[flyte, team-a]", "[Flyte, 'a b']", "taskNamespaces[1]: not the name of a namespace"},
		{"taskNamespaces", "taskNamespace", "taskNamespace: unknown field, did you mean taskNamespaces?"},
		{", name: flyte-binary", "", "claimers[0].name: missing"},
		{"name: flyte-binary", "name: ../x", "claimers[0].name: not the name of a service account"},
		{"namespace: flyte-system", "namespace: a.b", "claimers[0].namespace: not the name of a namespace"},
		{"inject-claims-0123456789abcdef", "inject-claims", "policies[1].name: not a name of inject-"},
		{"inject-claims-0123456789abcdef", "inject-claims-0123456789ABCDEF", "policies[1].name: not a name of inject-"},
		{"inject-claims-fedcba9876543210", "other-claims-fedcba9876543210", "policies[1].binding: not a name"},
		{"inject-claims-fedcba9876543210", "inject-hosts-fedcba9876543210", "policies[1]: the policy and its binding"},
		{", binding: inject-claims-fedcba9876543210", "", "policies[1].binding: missing"},
		{"kind: Mutating", "kind: mutating", "policies[2].kind: neither Validating nor Mutating"},
		{"kind: Mutating", "kind: 1", "policies[2].kind: expected text"},
		{"inject-claims-", "inject-tokens-", "policies[3]: inject-tokens is given twice"},
		{"inject-claims-", "inject-hosts-", "policies: inject-claims is missing: without it nothing vouches for a pod"},
		{good, good[:strings.Index(good, "- {name: inject-acc")] + "  []", "inject-accounts is missing"},
		{good, "", "the file is empty"},
		{good, "a: [", "not YAML"},
	} {
		require.Contains(t, good, row.old)
		_, err := evidence.Parse([]byte(strings.ReplaceAll(good, row.old, row.new)))
		require.ErrorIs(t, err, secret.ErrInvalid, row.says)
		require.ErrorContains(t, err, row.says)
	}
	// All of them at once.
	_, err := evidence.Parse([]byte("version: 1\ntaskNamespaces: [A, B]\nclaimers: [{}]\npolicies: [{}]"))
	for _, says := range []string{
		"organization: missing", "taskNamespaces[0]", "taskNamespaces[1]", "claimers[0].namespace: missing",
		"claimers[0].name: missing", "policies[0].name: missing", "policies[0].binding: missing",
	} {
		require.ErrorContains(t, err, says)
	}
	_, err = evidence.Parse([]byte(strings.Replace(good, "[flyte, team-a]",
		"["+strings.Repeat("x, ", 1000)+"x]", 1)))
	require.ErrorContains(t, err, "over 1000 items")
}
