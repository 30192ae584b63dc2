package main_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forbidden is what must never be linked into injectd, and why. A name that ends with a slash
// stands for everything below it, too.
var forbidden = map[string]string{
	"inject/injector/":                       "runs tasks; the server runs none",
	"inject/exec":                            "starts processes; the server starts none",
	"inject/exec/terminal":                   "a task's terminal; the server has no task",
	"inject/resolver/rpc/":                   "the client's end of the wire",
	"inject/resolver/resolvertest/":          "test code in the product",
	"inject/resolver/store/storetest/":       "test code in the product",
	"inject/resolver/store/sealed/disktest/": "test code in the product",
	"testing/":                               "test code in the product",
	"github.com/stretchr/":                   "test code in the product",
	"pgregory.net/":                          "test code in the product",
	"github.com/creack/pty":                  "a task's terminal; the server has no task",
	"golang.org/x/net/trace":                 "shows requests to HTTP clients; a build has the tag grpcnotrace",
	"net/http/pprof":                         "shows what is in memory to HTTP clients",
}

// TestDependencies compares the packages that injectd links with the forbidden ones.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", ".").Output()
	require.NoError(t, err)
	linked := strings.Fields(string(out))
	require.Contains(t, linked, "inject/resolver/serve", "the list is the real one")
	for _, dep := range linked {
		for name, why := range forbidden {
			if dep == strings.TrimSuffix(name, "/") || strings.HasSuffix(name, "/") && strings.HasPrefix(dep, name) {
				t.Errorf("injectd links %s: %s", dep, why)
			}
		}
	}
}
