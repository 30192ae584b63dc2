package main_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forbidden is what must never be linked into inject, and why: it starts in
// front of every task, in every pod.
var forbidden = map[string]string{
	"k8s.io/":                    "client-go alone adds 26 MB and 10 ms to every task",
	"sigs.k8s.io/":               "the same",
	"github.com/aws/":            "10 MB; a cloud's store is behind injectd",
	"cloud.google.com/":          "17 MB; a cloud's store is behind injectd",
	"github.com/Azure/":          "9 MB; a cloud's store is behind injectd",
	"github.com/hashicorp/vault": "8 MB; Vault is behind injectd",
	"net/http":                   "6 MB, and an HTTP server or client is nothing that a task's entrypoint has",
	"testing":                    "test code in the product",
	"github.com/stretchr/":       "test code in the product",
	"pgregory.net/":              "test code in the product",
	"inject/resolver/serve":      "the server's end of the wire",
	"inject/resolver/store/all":  "every backend; only injectd has them",
	"expvar":                     "opens a door to what is in memory",
	"net/http/pprof":             "opens a door to what is in memory",
}

func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, "inject/exec", "the list is the real one")
	for _, dep := range deps {
		for prefix, why := range forbidden {
			if dep == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(dep, strings.TrimSuffix(prefix, "/")+"/") {
				t.Errorf("inject links %s: %s", dep, why)
			}
		}
	}
}

// floors is the design's: an import only ever goes down.
var floors = []struct {
	floor  int
	prefix string
}{
	{4, "inject/cmd/"},
	{2, "inject/injector/task"},
	{2, "inject/injector/outputs"},
	{3, "inject/injector"},
	{3, "inject/resolver/rpc"},
	{1, "inject/resolver/serve/watch"},
	{2, "inject/resolver/serve/identity"},
	{2, "inject/resolver/serve/policy"},
	{3, "inject/resolver/serve"},
	{3, "inject/resolver/store/all"},
	{1, "inject/resolver/store/storetest"}, // for tests
	{2, "inject/resolver/store/"},
	{1, "inject/resolver/store"},
	{0, "inject/resolver/secret"},
	{0, "inject/resolver/idl"},
	{3, "inject/resolver/resolvertest"}, // for tests
	{2, "inject/resolver"},
	{-1, "inject/exec/terminal"},
	{0, "inject/exec"},
}

func floorOf(t *testing.T, path string) int {
	for _, f := range floors {
		if strings.HasPrefix(path, f.prefix) {
			return f.floor
		}
	}
	t.Errorf("%s is on no floor: give it one in design and here", path)
	return -1
}

func TestFloors(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "inject/...").Output()
	require.NoError(t, err)
	checked := 0
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		for dep := range strings.FieldsSeq(imports) {
			if dep == "os/exec" && path != "inject/exec" {
				t.Errorf("%s imports os/exec: only package exec starts processes", path)
			}
			if path == "inject/resolver/secret" && strings.Contains(dep, ".") {
				t.Errorf("%s imports %s: it is standard library only", path, dep)
			}
			if !strings.HasPrefix(dep, "inject/") {
				continue
			}
			checked++
			down := floorOf(t, path) > floorOf(t, dep)
			if strings.HasPrefix(path, "inject/resolver/idl/") { // messages that know each other
				down = strings.HasPrefix(dep, "inject/resolver/idl/")
			}
			if strings.HasSuffix(path, "/storetest") {
				down = dep == "inject/resolver/store" || floorOf(t, dep) == 0
			}
			if !down {
				t.Errorf("%s imports %s: an import only goes down the floors", path, dep)
			}
		}
	}
	require.Greater(t, checked, 10)
}
