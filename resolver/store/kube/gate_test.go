package kube_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// What a gate does with a request.
type action int

const (
	pass action = iota
	drop        // the request is lost: the API server does not get it
	lose        // the answer is lost: the API server has done it
)

// gate is a proxy in front of the API server, which decides on each request. What goes through it is
// done as an administrator.
type gate struct {
	mu     sync.Mutex
	decide func(*http.Request) action
}

// newGate returns a gate that lets everything pass, and a kubeconfig that leads through it.
func newGate(t *testing.T, k *harness.Kubernetes) (g *gate, kubeconfig string) {
	t.Helper()
	g = &gate{decide: func(*http.Request) action { return pass }}
	forward := &httputil.ReverseProxy{
		Transport: k.Transport(),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", k.Addr, k.Addr
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		what := g.decide(r)
		g.mu.Unlock()
		switch what {
		case pass:
			forward.ServeHTTP(w, r)
		case lose:
			forward.ServeHTTP(httptest.NewRecorder(), r)
			fallthrough
		case drop:
			panic(http.ErrAbortHandler) // closes the connection
		}
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `
clusters: [{name: c, cluster: {server: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: x
`, server.URL), 0o600))
	return g, kubeconfig
}

// set replaces the rule of the gate. It is called for one request at a time.
func (g *gate) set(decide func(*http.Request) action) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decide = decide
}

// changes reports whether a request changes something.
func changes(r *http.Request) bool { return r.Method != http.MethodGet }

// fromChange returns a rule: changes before number n, counted from 0, pass, change n is treated as first
// says, and after it nothing passes, as if the process had ended.
func fromChange(n int, first action) func(*http.Request) action {
	seen := 0
	return func(r *http.Request) action {
		switch {
		case seen > n:
			return drop
		case !changes(r):
			return pass
		}
		seen++
		if seen <= n {
			return pass
		}
		return first
	}
}
