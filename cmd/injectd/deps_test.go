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
	"k8s.io/client-go/informers/":            "caches of all objects; a write must be seen by the next read",
	"k8s.io/client-go/kubernetes/":           "23 MB more than the REST client",
	"sigs.k8s.io/controller-runtime/":        "brings both",
	"net/http/pprof":                         "shows what is in memory to HTTP clients",
}

// TestDependencies compares the packages that injectd links with the forbidden ones.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", ".").Output()
	require.NoError(t, err)
	linked := strings.Fields(string(out))
	require.Contains(t, linked, "inject/resolver/serve", "the list is the real one")
	for _, dep := range linked {
		if dep == "inject/injector/webhook" {
			continue // it changes pods, and runs no task
		}
		for name, why := range forbidden {
			if dep == strings.TrimSuffix(name, "/") || strings.HasSuffix(name, "/") && strings.HasPrefix(dep, name) {
				t.Errorf("injectd links %s: %s", dep, why)
			}
		}
	}
}

// clientGo is what injectd may link of client-go, and of the API's types: a new entry is a decision. The
// packages of util are small.
var clientGo = map[string]string{
	"k8s.io/client-go/rest":                           "the calls themselves",
	"k8s.io/client-go/rest/watch":                     "rest needs it",
	"k8s.io/client-go/transport":                      "TLS and credentials",
	"k8s.io/client-go/tools/clientcmd":                "reads a kubeconfig as kubectl does",
	"k8s.io/client-go/tools/clientcmd/api/":           "its types",
	"k8s.io/client-go/tools/auth":                     "clientcmd needs it",
	"k8s.io/client-go/tools/metrics":                  "rest needs it",
	"k8s.io/client-go/plugin/pkg/client/auth/exec":    "programs that kubeconfigs name for credentials",
	"k8s.io/client-go/pkg/apis/clientauthentication/": "what that program answers",
	"k8s.io/client-go/pkg/version":                    "rest needs it",
	"k8s.io/client-go/features":                       "rest needs it",
	"k8s.io/client-go/util/":                          "small parts of the above",
	"k8s.io/api/core/v1":                              "Secrets, and pods",
	"k8s.io/api/authentication/v1":                    "whose a token is",
	"k8s.io/api/authorization/v1":                     "who may do what",
	"k8s.io/api/rbac/v1":                              "who was given what",
	"k8s.io/api/admissionregistration/v1":             "the policies that vouch for pods",
}

// TestKubernetesDependencies compares the packages of Kubernetes that injectd links with the intended ones.
func TestKubernetesDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", ".").Output()
	require.NoError(t, err)
	used := map[string]bool{}
	for dep := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(dep, "k8s.io/client-go/") && !strings.HasPrefix(dep, "k8s.io/api/") {
			continue
		}
		known := false
		for name := range clientGo {
			if dep == strings.TrimSuffix(name, "/") || strings.HasSuffix(name, "/") && strings.HasPrefix(dep, name) {
				known, used[name] = true, true
			}
		}
		require.True(t, known, "injectd links %s, which is not in the list: each adds to its memory and its start", dep)
	}
	for name := range clientGo {
		require.True(t, used[name], "injectd no longer links %s", name)
	}
}
