package webhook_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/injector/webhook"
	"inject/resolver/secret"
)

func fromYAML(t *testing.T, text string) (o object) {
	t.Helper()
	require.NoError(t, yaml.Unmarshal([]byte(text), &o))
	return o
}

// Every mistake of a file is reported at once, with its field, and no value is quoted.
func TestParse(t *testing.T) {
	t.Parallel()
	c := parse(t)
	require.Equal(t, []string{"flyte"}, c.TaskNamespaces)
	require.Equal(t, map[string]string{"cpu": "10m", "memory": "16Mi"}, c.Resources["requests"])
	require.False(t, c.DenyPython || c.DenyRaw)
	require.True(t, c.Files)

	bad := strings.NewReplacer("version: 1", "version: 2", "files: true", "files: maybe-canary", "delivery: init",
		"delivery: canary", "outputs: [/var/outputs]\n", "", "rawEntrypoint", "canary: 1\nrawEntrypoint",
		"image: inject.test/inject:1", `image: ""`, "memory: 64Mi", "memory: 64", "/inject/inject, run, ", "",
		"pullSecret: inject-pull", "pullSecret: 1", "requests:", "request:", "command: []", "args: []",
	).Replace(configFile)
	_, err := webhook.Parse([]byte(bad))
	require.ErrorIs(t, err, secret.ErrInvalid)
	for _, field := range []string{
		"version", "files", "delivery", "outputs: missing", "canary: unknown", "image: empty",
		"resources.limits.memory",
		"pullSecret", "resources.request", "entrypoints[2].args", "entrypoints[2].command: missing",
	} {
		require.ErrorContains(t, err, field)
	}
	require.NotContains(t, err.Error(), "maybe-canary")
	for _, text := range []string{"", "[", "x", "[]", "version: 1"} {
		_, err := webhook.Parse([]byte(text))
		require.ErrorIs(t, err, secret.ErrInvalid, text)
	}
	for _, text := range []string{"command: [x]", "command: []", "command: x"} {
		_, err := webhook.Parse([]byte(strings.Replace(configFile, "command: [/inject/inject, run, --store, "+
			`"grpcs://injectd.inject-system.svc.cluster.local.:8093"]`, text, 1)))
		require.ErrorContains(t, err, ": command: ", text)
	}
}
