package main_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// forbidden maps packages that inject must not link to the reasons. inject starts in front of every
// task, so its size and start time count in every pod.
var forbidden = map[string]string{
	"k8s.io/":                              "client-go alone adds 26 MB and 10 ms to every task",
	"sigs.k8s.io/":                         "the same",
	"github.com/aws/aws-sdk-go-v2/service": "10 MB; only the signer, which has no client, is linked",
	"github.com/aws/aws-sdk-go-v2/config":  "it links clients of services",
	"cloud.google.com/":                    "17 MB; a cloud's store is behind injectd",
	"google.golang.org/api/":               "the same",
	"github.com/Azure/":                    "9 MB; a cloud's store is behind injectd",
	"github.com/hashicorp/vault":           "8 MB; Vault is behind injectd",
	"github.com/openbao/":                  "the same",
	"go.etcd.io/etcd":                      "the store of Kubernetes, which is behind injectd",
	"connectrpc.com/":                      "the server's protocols; a task's entrypoint speaks gRPC",
	"github.com/cpuguy83/":                 "for man pages, which a test makes",
	"github.com/prometheus/":               "metrics; a task's entrypoint has no port to scrape",
	"github.com/go-jose/":                  "the server checks tokens, not the client",
	"golang.org/x/net/trace":               "3 MB of pages that are never served; the tag grpcnotrace leaves them out",
	"html/template":                        "the same",
	"testing":                              "test code in the product",
	"github.com/stretchr/":                 "test code in the product",
	"pgregory.net/":                        "test code in the product",
	"inject/resolver/resolvertest":         "test code in the product",
	"inject/injector/webhook":              "it changes pods for the API server, before a task runs",
	"inject/resolver/serve":                "the server's end of the wire",
	"inject/resolver/store/all":            "the list of all backends, which only injectd may link",
	"inject/resolver/kubeapi":              "the API of Kubernetes, which the server calls",
	"inject/resolver/store/flight":         "it merges lookups of many clients; a task looks up once",
	"inject/resolver/store/migrate":        "it copies whole stores; a task reads what it declares",
	"expvar":                               "it would publish parts of the memory",
	"net/http/pprof":                       "it would publish parts of the memory",
}

// tags are those of a build of inject. nethttpomithttp2 leaves out HTTP/2 of net/http, 0.5 MB: inject has
// that of gRPC.
const tags = "grpcnotrace,nethttpomithttp2"

// What is built for users has the tags that the tests have.
func TestTags(t *testing.T) {
	t.Parallel()
	dockerfile, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	made, err := exec.CommandContext(t.Context(), "make", "-n", "-C", "../..", "build", "images").Output()
	require.NoError(t, err)
	builds := regexp.MustCompile(`go build .*\./cmd/inject\b[^d].*`).FindAllString(string(dockerfile)+string(made), -1)
	require.Len(t, builds, 3, "of the Dockerfile, make build and make images")
	for _, build := range builds {
		require.Contains(t, build, "-tags "+tags+" ")
	}
}

// listed is the output of go list for inject and all that it links. Two tests need it, and it takes
// a second.
var listed = sync.OnceValues(func() ([]byte, error) {
	return exec.Command("go", "list", "-tags", tags, "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`,
		".").Output()
})

// linked returns the packages that are linked into inject, each with its imports.
func linked(t *testing.T) map[string][]string {
	t.Helper()
	out, err := listed()
	require.NoError(t, err)
	deps := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		deps[words[0]] = words[1:]
	}
	require.Contains(t, deps, "inject/resolver/rpc", "the list is the real one")
	return deps
}

// inject links none of the forbidden packages.
func TestDependencies(t *testing.T) {
	t.Parallel()
	for dep := range linked(t) {
		for prefix, why := range forbidden {
			if dep == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(dep, strings.TrimSuffix(prefix, "/")+"/") {
				t.Errorf("inject links %s: %s", dep, why)
			}
		}
	}
}

// Only gRPC may import net/http, for the protocol, and what else speaks HTTP: what logs a person in, and the
// guard, with the signer and the credentials of its store. The decoder of brotli has a helper for HTTP
// servers in the same package, which inject does not call, so the linker leaves it out.
func TestWhoHasHTTP(t *testing.T) {
	t.Parallel()
	var users []string
	for dep, imports := range linked(t) {
		first, _, _ := strings.Cut(dep, "/")
		standard := first != "inject" && !strings.Contains(first, ".")
		if !standard && slices.Contains(imports, "net/http") {
			users = append(users, dep)
		}
	}
	require.NotEmpty(t, users)
	for _, dep := range users {
		if !strings.HasPrefix(dep+"/", "google.golang.org/grpc/") && !strings.HasPrefix(dep, "golang.org/x/net/http") &&
			!slices.ContainsFunc(haveHTTP, func(prefix string) bool { return strings.HasPrefix(dep, prefix) }) &&
			dep != "github.com/andybalholm/brotli" {
			t.Errorf("%s imports net/http: only gRPC, the login and the guard may", dep)
		}
	}
}

// haveHTTP are the login and the guard, and the libraries that only they import.
var haveHTTP = []string{
	"inject/cli/login", "golang.org/x/oauth2", "inject/injector/guard", "github.com/aws/",
}

// floors are those of docs/architecture.md: imports only go down. The first prefix that matches
// counts.
var floors = []struct {
	floor  float64 // a part of a package may be half a floor below it
	prefix string
}{
	{4, "inject/cmd/"},
	{2, "inject/cli/"},
	{1, "inject/cli"},
	{2, "inject/injector/task"},
	{1, "inject/injector/outputs/archive"},
	{1.5, "inject/injector/outputs/content"},
	{2, "inject/injector/outputs"},
	{2, "inject/injector/place"},
	{2.5, "inject/injector/guard"},
	{3, "inject/injector/webhook"},
	{3, "inject/injector"},
	{3, "inject/resolver/rpc"},
	{1, "inject/resolver/serve/watch"},
	{2, "inject/resolver/serve/certs"},
	{2, "inject/resolver/serve/identity"},
	{2, "inject/resolver/serve/kube/evidence"},
	{2.5, "inject/resolver/serve/kube"},
	{2.5, "inject/resolver/serve/kube/inspect"},
	{2, "inject/resolver/serve/policy"},
	{2, "inject/resolver/serve/transport"},
	{3, "inject/resolver/serve"},
	{3, "inject/resolver/store/all"},
	{1, "inject/resolver/store/storetest"},       // for tests
	{0, "inject/resolver/store/sealed/disktest"}, // for tests
	{1, "inject/resolver/store/sealed/index"},
	{1, "inject/resolver/store/sealed/page"},
	{2, "inject/resolver/store/"},
	{1, "inject/resolver/store"},
	{0, "inject/resolver/secret"},
	{0, "inject/resolver/idl"},
	{1, "inject/resolver/kubeapi"},
	{3, "inject/resolver/resolvertest"}, // for tests
	{2, "inject/resolver"},
	{-1, "inject/exec/harden"},
	{-1, "inject/exec/terminal"},
	{-1, "inject/exec/redact/forms"},
	{-0.5, "inject/exec/redact/parts"},
	{-1, "inject/internal/tty"},
	{0, "inject/internal/durable"},
	{0, "inject/internal/keyfile"},
	{0, "inject/internal/printable"},
	{0, "inject/internal/shares"},
	{0, "inject/internal/spelling"},
	{1, "inject/internal/annotation"},
	{1, "inject/internal/strictyaml"},
	{0, "inject/internal/harness"}, // for tests
	{0, "inject/exec"},
}

func floorOf(t *testing.T, path string) float64 {
	for _, f := range floors {
		if strings.HasPrefix(path, f.prefix) {
			return f.floor
		}
	}
	t.Errorf("%s has no floor: give it one here and in .golangci.yml", path)
	return -1
}

// Every import of a package of this module goes to a lower floor.
func TestFloors(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "inject/...").Output()
	require.NoError(t, err)
	checked := 0
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		for dep := range strings.FieldsSeq(imports) {
			if dep == "os/exec" && path != "inject/exec" && !strings.HasPrefix(path, "inject/internal/harness") {
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
			if strings.HasPrefix(path, "inject/resolver/idl/") { // messages import each other
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
