package inspect_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/kube/inspect"
)

var shared harness.SharedKubernetes

func TestMain(m *testing.M) {
	code := m.Run()
	shared.Stop()
	os.Exit(code)
}

type object = map[string]any

// questions are those by which the API server tells who has a power.
var questions = map[string][]object{
	"run commands in pods (exec)": {{"verb": "create", "resource": "pods", "subresource": "exec"}},
	"attach to pods":              {{"verb": "create", "resource": "pods", "subresource": "attach"}},
	"forward ports of pods":       {{"verb": "create", "resource": "pods", "subresource": "portforward"}},
	"make tokens of accounts":     {{"verb": "create", "resource": "serviceaccounts", "subresource": "token"}},
	"act as accounts":             {{"verb": "impersonate", "resource": "serviceaccounts"}},
	"run commands by the kubelets (nodes/proxy)": {
		{"verb": "get", "resource": "nodes", "subresource": "proxy"},
		{"verb": "create", "resource": "nodes", "subresource": "proxy"},
	},
	"act as users or groups": {
		{"verb": "impersonate", "resource": "users"}, {"verb": "impersonate", "resource": "groups"},
	},
}

// What is read of a role is what the API server's authorizer makes of it: every rule of a few words is
// asked for every power.
func TestAllows(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	require.Len(t, inspect.Powers(), len(questions))
	groups := [][]string{{""}, {"*"}, {"apps", ""}, {"apps"}, {"inject.flyte.org"}}
	resources := [][]string{
		{"*"},
		{"pods"},
		{"pods/exec"},
		{"*/exec"},
		{"pods/*"},
		{"pods/attach", "pods/portforward"},
		{"serviceaccounts"},
		{"serviceaccounts/token"},
		{"*/token"},
		{"nodes/proxy"},
		{"*/proxy"},
		{"users"},
		{"groups", "secrets"},
		{"scopes"},
	}
	verbs := [][]string{{"*"}, {"create"}, {"get", "list"}, {"impersonate"}, {"claim"}}
	names, n := [][]string{nil, {"fraud/development"}}, 0
	for _, g := range groups {
		for _, r := range resources {
			for _, v := range verbs {
				if n++; testing.Short() && n%4 != 0 {
					continue
				}
				for _, only := range names {
					rule := rbacv1.PolicyRule{APIGroups: g, Resources: r, Verbs: v, ResourceNames: only}
					t.Run(fmt.Sprint(g, r, v, only), func(t *testing.T) { compare(t, k, rule) })
				}
			}
		}
	}
}

// known is a rule by which a test sees that the API server has read a role.
var known = harness.Rule{APIGroups: []string{"test"}, Resources: []string{"roles"}, Verbs: []string{"see"}}

func compare(t *testing.T, k *harness.Kubernetes, rule rbacv1.PolicyRule) {
	t.Helper()
	user := strings.TrimSuffix(filepath.Base(k.User(t, "", []harness.Rule{{
		APIGroups: rule.APIGroups, Resources: rule.Resources, Verbs: rule.Verbs, ResourceNames: rule.ResourceNames,
	}, known})), ".kubeconfig")
	asks := func(question object) bool {
		if rule.ResourceNames != nil && question["group"] != "test" {
			question["name"] = rule.ResourceNames[0]
		}
		var review struct{ Status struct{ Allowed bool } }
		require.NoError(t, json.Unmarshal(k.Call(t, http.MethodPost,
			"/apis/authorization.k8s.io/v1/subjectaccessreviews", object{
				"spec": object{"user": user, "resourceAttributes": question},
			}), &review))
		return review.Status.Allowed
	}
	require.Eventually(t, func() bool { return asks(object{"verb": "see", "group": "test", "resource": "roles"}) },
		time.Minute, 10*time.Millisecond, "the API server has not read the role")
	got, scopes := inspect.Allows([]rbacv1.PolicyRule{rule}, k.Minor(t))
	for text, all := range questions {
		may := slices.ContainsFunc(all, asks)
		if first := all[0]; k.Minor(t) < 35 && first["resource"] == "pods" { // there a GET is enough
			may = may || asks(object{"verb": "get", "resource": "pods", "subresource": first["subresource"]})
		}
		require.Equal(t, may, strings.Contains(got, text), text)
	}
	claims := asks(object{"verb": "claim", "group": "inject.flyte.org", "resource": "scopes"})
	require.Equal(t, claims, scopes != nil, "claim")
	if claims && rule.ResourceNames != nil {
		require.Equal(t, rule.ResourceNames, scopes)
	}
}

// Before 1.35 the API server lets a user run commands who may get pods/exec.
func TestGetRunsCommands(t *testing.T) {
	t.Parallel()
	rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods/exec"}, Verbs: []string{"get"}}}
	got, _ := inspect.Allows(rules, 34)
	require.Equal(t, "run commands in pods (exec)", got)
	got, _ = inspect.Allows(rules, 35)
	require.Empty(t, got)
}

func TestParseSubject(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]inspect.Subject{
		"user:alice":                   {Kind: inspect.User, Name: "alice"},
		"user:https://idp.example#bob": {Kind: inspect.User, Name: "https://idp.example#bob"},
		"group:system:serviceaccounts": {Kind: inspect.Group, Name: "system:serviceaccounts"},
		"account:flyte-system/flyte":   {Kind: inspect.Account, Namespace: "flyte-system", Name: "flyte"},
	} {
		got, err := inspect.ParseSubject(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, text := range []string{
		"", "alice", "user:", "account:a", "account:/a", "account:a/", "account:a/b/c", "role:a",
	} {
		_, err := inspect.ParseSubject(text)
		require.ErrorIs(t, err, secret.ErrInvalid, text)
		require.Contains(t, secret.Hint(err), "account:NAMESPACE/NAME")
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"v1.35.0": true, "v1.37.2": true, "v2.0.0": true, "1.100.0": true, "v1.35.0-eks-1": true,
		"v1.34.9": false, "v0.99.0": false, "": false, "unknown": false,
	} {
		require.Equal(t, want, inspect.AtLeast(text, 1, 35), text)
	}
}

// A finding names a hundred nodes, and counts the others.
func TestManyNodes(t *testing.T) {
	t.Parallel()
	var all []corev1.Node
	for i := range 300 {
		var n corev1.Node
		n.Name = fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/250, i%250)
		has := &n.Status.NodeInfo
		has.KubeletVersion = []string{"v1.36.1", "v1.32.0", "v1.37.0-rc.0+k3s1"}[i%3]
		has.ContainerRuntimeVersion = []string{"containerd://1.7.28", "cri-o://1.32.0", "containerd://v2.2.3-k3s1"}[i%3]
		all = append(all, n)
	}
	text := inspect.Nodes(all)
	require.Equal(t, 101, strings.Count(text, ".internal"))
	require.Contains(t, text, "200 of 300 nodes have no volumes of images")
	require.True(t, strings.HasSuffix(text, " and 99 more (kubelet v1.32.0)"), text)
	require.Less(t, len(text), inspect.MaxText)
}

// Lists are read a page at a time and end at a bound, which is said; what was read until then counts.
func TestBounded(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	asked := 0
	proxied := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: k.Addr})
	proxied.Transport = k.Transport()
	const path = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			proxied.ServeHTTP(w, r)
			return
		}
		asked++
		var page struct {
			rbacv1.ClusterRoleList `json:",inline"`
		}
		page.Kind, page.APIVersion = "ClusterRoleList", "rbac.authorization.k8s.io/v1"
		page.Continue = fmt.Sprint("more", asked)
		for i := range 250 {
			var role rbacv1.ClusterRole
			role.Name = fmt.Sprint("r", asked, "-", i)
			page.Items = append(page.Items, role)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(page)
	}))
	defer front.Close()
	config := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c,
clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}],
contexts: [{name: c, context: {cluster: c, user: u}}]}`, front.URL), 0o600))
	found, err := inspect.Run(t.Context(),
		inspect.Options{Kubeconfig: config, TaskNamespaces: []string{k.Namespace(t)}})
	require.NoError(t, err)
	require.Equal(t, inspect.MaxObjects/250, asked)
	at := slices.IndexFunc(found, func(f inspect.Finding) bool {
		return strings.Contains(f.Text, "was not looked at to its end: only the first 20000 objects were read")
	})
	require.GreaterOrEqual(t, at, 0, found)
	require.Equal(t, inspect.Warning, found[at].Level)
}

// A kubeconfig that leads nowhere is an error, and no finding.
func TestNowhere(t *testing.T) {
	t.Parallel()
	_, err := inspect.Run(t.Context(), inspect.Options{Kubeconfig: filepath.Join(t.TempDir(), "none")})
	require.ErrorIs(t, err, secret.ErrInvalid)
}
