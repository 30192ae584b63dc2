package kubeapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/internal/harness"
	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

var shared harness.SharedKubernetes

func TestMain(m *testing.M) {
	runInPod()
	code := m.Run()
	shared.Stop()
	os.Exit(code)
}

func connect(t *testing.T, o kubeapi.Options) *kubeapi.Client {
	t.Helper()
	cluster, err := kubeapi.Find(o)
	require.NoError(t, err)
	c, err := cluster.Connect(16)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// everything is what a user needs for all that the tests do in a namespace.
var everything = []harness.Rule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}
}

// The verbs do what they say on a real API server, and the errors are those of package secret.
func TestVerbs(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.User(t, ns, everything)})
	ctx := t.Context()
	maps := kubeapi.ConfigMaps

	_, err := maps.Get(ctx, c, ns, "a")
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.ErrorContains(t, err, `secret not found: Kubernetes: get configmaps a in namespace `+ns)
	made, err := maps.Create(ctx, c, ns, "a", configMap("a"))
	require.NoError(t, err)
	require.NotEmpty(t, made.UID)
	_, err = maps.Create(ctx, c, ns, "a", configMap("a"))
	require.ErrorIs(t, err, secret.ErrExists)
	got, err := maps.Get(ctx, c, ns, "a")
	require.NoError(t, err)
	require.Equal(t, made, got)

	got.Data["k"] = "w"
	updated, err := maps.Update(ctx, c, ns, "a", got)
	require.NoError(t, err)
	require.Equal(t, "w", updated.Data["k"])
	_, err = maps.Update(ctx, c, ns, "a", got)
	require.ErrorIs(t, err, kubeapi.ErrConflict, "an older resource version")
	_, err = maps.Update(ctx, c, ns, "b", configMap("b"))
	require.ErrorIs(t, err, secret.ErrNotFound)

	version := updated.ResourceVersion
	patch := func(name, data string) (*corev1.ConfigMap, error) {
		return maps.Patch(ctx, c, ns, name,
			fmt.Appendf(nil, `{"metadata": {"resourceVersion": %q}, "data": %s}`, version, data))
	}
	updated, err = patch("a", `{"more": "x"}`)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"k": "w", "more": "x"}, updated.Data)
	_, err = patch("a", `{"k": "y"}`)
	require.ErrorIs(t, err, kubeapi.ErrConflict, "an older resource version")
	_, err = patch("b", `{"k": "y"}`)
	require.ErrorIs(t, err, secret.ErrNotFound)
	_, err = patch("a", `{"k": {}}`)
	require.ErrorIs(t, err, secret.ErrInvalid)

	_, err = maps.Create(ctx, c, ns, "b", configMap("b"))
	require.NoError(t, err)
	list, err := maps.List(ctx, c, ns, metav1.ListOptions{Limit: 1})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	require.Equal(t, "a", list.Items[0].Name)
	meta, err := maps.ListMetadata(ctx, c, ns, metav1.ListOptions{Continue: list.Continue})
	require.NoError(t, err)
	require.Len(t, meta.Items, 1)
	require.Equal(t, "b", meta.Items[0].Name)
	_, err = maps.List(ctx, c, ns, metav1.ListOptions{Continue: "nonsense"})
	require.ErrorIs(t, err, secret.ErrInvalid)

	other := metav1.Preconditions{UID: &meta.Items[0].UID}
	_, err = maps.Delete(ctx, c, ns, "a", other)
	require.ErrorIs(t, err, kubeapi.ErrConflict, "the uid of another object")
	gone, err := maps.Delete(ctx, c, ns, "b", other)
	require.NoError(t, err)
	require.True(t, gone)
	_, err = maps.Delete(ctx, c, ns, "b", other)
	require.ErrorIs(t, err, secret.ErrNotFound)

	updated.Finalizers = []string{"example.com/wait"}
	updated, err = maps.Update(ctx, c, ns, "a", updated)
	require.NoError(t, err)
	gone, err = maps.Delete(ctx, c, ns, "a", metav1.Preconditions{})
	require.NoError(t, err)
	require.False(t, gone, "a finalizer keeps it")
	require.NotEmpty(t, updated.UID)

	long := configMap("long")
	long.Data["k"] = strings.Repeat("x", 1<<20+1)
	_, err = maps.Create(ctx, c, ns, "long", long)
	require.ErrorIs(t, err, secret.ErrInvalid)
	_, err = maps.Create(ctx, c, ns, "A b", configMap("A b"))
	require.ErrorIs(t, err, secret.ErrInvalid)
}

// Each kind is known to the API server under its name, and its answers are decoded.
func TestKinds(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.Kubeconfig()})
	ctx, all := t.Context(), metav1.ListOptions{}
	lists := map[string]func() (any, error){
		"secrets":             func() (any, error) { return kubeapi.Secrets.List(ctx, c, "", all) },
		"pods":                func() (any, error) { return kubeapi.Pods.List(ctx, c, "", all) },
		"config maps":         func() (any, error) { return kubeapi.ConfigMaps.List(ctx, c, "", all) },
		"namespaces":          func() (any, error) { return kubeapi.Namespaces.List(ctx, c, "", all) },
		"nodes":               func() (any, error) { return kubeapi.Nodes.List(ctx, c, "", all) },
		"roles":               func() (any, error) { return kubeapi.Roles.List(ctx, c, "", all) },
		"role bindings":       func() (any, error) { return kubeapi.RoleBindings.List(ctx, c, "", all) },
		"cluster roles":       func() (any, error) { return kubeapi.ClusterRoles.List(ctx, c, "", all) },
		"bindings of those":   func() (any, error) { return kubeapi.ClusterRoleBindings.List(ctx, c, "", all) },
		"mutating webhooks":   func() (any, error) { return kubeapi.MutatingWebhooks.List(ctx, c, "", all) },
		"validating webhooks": func() (any, error) { return kubeapi.ValidatingWebhooks.List(ctx, c, "", all) },
		"validating policies": func() (any, error) { return kubeapi.ValidatingPolicies.List(ctx, c, "", all) },
		"validating bindings": func() (any, error) { return kubeapi.ValidatingBindings.List(ctx, c, "", all) },
	}
	for _, kind := range kubeapi.Workloads {
		lists[kind.String()] = func() (any, error) { return kind.List(ctx, c, "", all) }
	}
	if k.Minor(t) >= 36 {
		lists["mutating policies"] = func() (any, error) { return kubeapi.MutatingPolicies.List(ctx, c, "", all) }
		lists["mutating bindings"] = func() (any, error) { return kubeapi.MutatingBindings.List(ctx, c, "", all) }
	} else {
		_, err := kubeapi.MutatingPolicies.List(ctx, c, "", all)
		require.ErrorIs(t, err, secret.ErrUnavailable, "a kind that this server does not know is not absent")
		require.Contains(t, secret.Hint(err), "does not know mutatingadmissionpolicies")
	}
	for name, list := range lists {
		_, err := list()
		require.NoError(t, err, name)
	}
	roles, err := kubeapi.ClusterRoles.List(ctx, c, "", all)
	require.NoError(t, err)
	require.NotEmpty(t, roles.Items)

	review, err := kubeapi.TokenReviews.Create(ctx, c, "", "", &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: "no token"},
	})
	require.NoError(t, err)
	require.False(t, review.Status.Authenticated)
	attributes := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: "default"}
	self, err := kubeapi.SelfSubjectAccessReviews.Create(ctx, c, "", "", &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
	})
	require.NoError(t, err)
	require.True(t, self.Status.Allowed)
	access, err := kubeapi.SubjectAccessReviews.Create(ctx, c, "", "", &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "nobody", ResourceAttributes: attributes},
	})
	require.NoError(t, err)
	require.False(t, access.Status.Allowed)
}

// Flyte's own object is read as Flyte wrote it.
func TestTaskAction(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.Kubeconfig()})
	_, err := kubeapi.TaskActions.Get(t.Context(), c, ns, "a")
	require.ErrorIs(t, err, secret.ErrUnavailable, "without Flyte there is no such kind, which is not absence")
	require.Contains(t, secret.Hint(err), "does not know taskactions.flyte.org")

	free := map[string]any{"openAPIV3Schema": map[string]any{
		"type": "object", "x-kubernetes-preserve-unknown-fields": true,
	}}
	k.Call(t, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", map[string]any{
		"metadata": map[string]any{"name": "taskactions.flyte.org"}, "spec": map[string]any{
			"group": "flyte.org", "scope": "Namespaced",
			"names":    map[string]any{"plural": "taskactions", "kind": "TaskAction"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": free}},
		},
	})
	text, err := os.ReadFile("testdata/taskaction.yaml")
	require.NoError(t, err)
	var o map[string]any
	require.NoError(t, yaml.Unmarshal(text, &o))
	metadata, ok := o["metadata"].(map[string]any)
	require.True(t, ok)
	spec, ok := o["spec"].(map[string]any)
	require.True(t, ok)
	metadata["namespace"] = ns
	path := "/apis/flyte.org/v1/namespaces/" + ns + "/taskactions"
	require.Eventually(t, func() bool {
		code, _, err := k.Try(t.Context(), http.MethodPost, path, o)
		return err == nil && code == http.StatusCreated
	}, time.Minute, 100*time.Millisecond)
	name, ok := metadata["name"].(string)
	require.True(t, ok)
	a, err := kubeapi.TaskActions.Get(t.Context(), c, ns, name)
	require.NoError(t, err)
	require.Equal(t, name, a.Name)
	require.NotEmpty(t, a.UID)
	require.Equal(t, spec["project"], a.Spec.Project)
	require.Equal(t, spec["domain"], a.Spec.Domain)
	require.Equal(t, spec["runName"], a.Spec.RunName)
	require.Equal(t, spec["actionName"], a.Spec.ActionName)
	require.Equal(t, spec["taskTemplate"], base64.StdEncoding.EncodeToString(a.Spec.TaskTemplate))
	require.Equal(t, a, a.DeepCopyObject())
	_, err = kubeapi.TaskActions.Get(t.Context(), c, ns, "absent")
	require.ErrorIs(t, err, secret.ErrNotFound)
}

// A call that RBAC refuses says which verb on which resource in which namespace which user may not
// perform, and what to add to the role.
func TestDenied(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.User(t, ns, []harness.Rule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}},
	})})
	_, err := kubeapi.ConfigMaps.Get(t.Context(), c, ns, "a")
	require.ErrorIs(t, err, secret.ErrNotFound, "the counterpart that is allowed")
	for verb, call := range map[string]func() error{
		"list": func() error {
			_, err := kubeapi.ConfigMaps.List(t.Context(), c, ns, metav1.ListOptions{})
			return err
		},
		"create": func() error {
			_, err := kubeapi.ConfigMaps.Create(t.Context(), c, ns, "a", configMap("a"))
			return err
		},
		"update": func() error {
			_, err := kubeapi.ConfigMaps.Update(t.Context(), c, ns, "a", configMap("a"))
			return err
		},
		"delete": func() error {
			_, err := kubeapi.ConfigMaps.Delete(t.Context(), c, ns, "a", metav1.Preconditions{})
			return err
		},
	} {
		err := call()
		require.ErrorIs(t, err, secret.ErrDenied, verb)
		require.NotErrorIs(t, err, secret.ErrNotFound)
		require.ErrorContains(t, err, "access denied: Kubernetes: "+verb+" configmaps")
		require.ErrorContains(t, err, `User "user-`)
		require.ErrorContains(t, err, `cannot `+verb+` resource "configmaps"`)
		require.ErrorContains(t, err, `in the namespace "`+ns+`"`)
		require.Equal(t, fmt.Sprintf("RBAC: add the verb %s on configmaps to the Role of that user in namespace %s, "+
			"if there is such a namespace", verb, ns), secret.Hint(err))
	}
	_, err = kubeapi.ValidatingPolicies.List(t.Context(), c, "", metav1.ListOptions{})
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Equal(t, "RBAC: add the verb list on validatingadmissionpolicies.admissionregistration.k8s.io to the "+
		"ClusterRole of that user", secret.Hint(err))
}

// What refuses a call besides RBAC is told apart: a quota, a policy, a namespace that is not there or is
// being deleted, credentials that are not accepted.
func TestRefused(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.Kubeconfig()})
	create := func(ns string) error {
		_, err := kubeapi.ConfigMaps.Create(t.Context(), c, ns, "a", configMap("a"))
		return err
	}

	t.Run("no namespace", func(t *testing.T) {
		err := create("nowhere")
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.NotErrorIs(t, err, secret.ErrNotFound)
		require.ErrorContains(t, err, `namespaces "nowhere" not found`)
		require.Contains(t, secret.Hint(err), "kubectl create namespace nowhere")
	})
	t.Run("a namespace that ends", func(t *testing.T) {
		ns := k.Namespace(t)
		require.NoError(t, create(ns))
		k.Call(t, http.MethodDelete, "/api/v1/namespaces/"+ns, nil)
		_, err := kubeapi.ConfigMaps.Create(t.Context(), c, ns, "b", configMap("b"))
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.Contains(t, secret.Hint(err), "is being deleted")
	})
	t.Run("a quota", func(t *testing.T) {
		ns := k.Namespace(t)
		quota := map[string]any{
			"metadata": map[string]any{"name": "q"},
			"spec":     map[string]any{"hard": map[string]string{"configmaps": "1"}},
		}
		path := "/api/v1/namespaces/" + ns + "/resourcequotas"
		k.Call(t, http.MethodPost, path, quota)
		quota["status"] = map[string]any{
			"hard": map[string]string{"configmaps": "1"}, "used": map[string]string{"configmaps": "1"},
		}
		k.Call(t, http.MethodPut, path+"/q/status", quota)
		refused := func() bool { return errors.Is(create(ns), secret.ErrQuota) }
		require.Eventually(t, refused, time.Minute, 100*time.Millisecond)
		err := create(ns)
		require.ErrorContains(t, err, "exceeded quota: q")
		require.Contains(t, secret.Hint(err), "raise the ResourceQuota of namespace "+ns)
	})
	t.Run("an admission policy", func(t *testing.T) {
		ns := k.Namespace(t)
		const path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
		name := map[string]any{"name": ns}
		k.Call(t, http.MethodPost, path+"ies", map[string]any{
			"metadata": name, "spec": map[string]any{
				"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
					"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"configmaps"},
					"operations": []string{"CREATE"},
				}}},
				"validations": []any{map[string]any{
					"expression": "request.namespace != '" + ns + "'", "message": "not here", "reason": "Forbidden",
				}},
			},
		})
		k.Call(t, http.MethodPost, path+"ybindings", map[string]any{
			"metadata": name, "spec": map[string]any{"policyName": ns, "validationActions": []string{"Deny"}},
		})
		refused := func() bool { return errors.Is(create(ns), secret.ErrDenied) }
		require.Eventually(t, refused, time.Minute, 100*time.Millisecond)
		err := create(ns)
		require.ErrorContains(t, err, "not here")
		require.Empty(t, secret.Hint(err), "no role would help")
	})
	t.Run("an expired certificate", func(t *testing.T) {
		ns := k.Namespace(t)
		ended := time.Now().Add(-time.Hour)
		kubeconfig := k.User(t, ns, everything, harness.Expires(ended))
		_, err := kubeapi.ConfigMaps.Get(t.Context(), connect(t, kubeapi.Options{Kubeconfig: kubeconfig}), ns, "a")
		require.ErrorIs(t, err, secret.ErrDenied)
		require.ErrorContains(t, err, "the client certificate expired on "+ended.UTC().Format(time.RFC3339))
		require.Contains(t, secret.Hint(err), "does not accept the credentials of context test of "+kubeconfig)
	})
	t.Run("another authority", func(t *testing.T) {
		ns := k.Namespace(t)
		kubeconfig := k.User(t, ns, everything)
		other := harness.NewAuthority(t, t.TempDir()).CA()
		text, err := os.ReadFile(kubeconfig)
		require.NoError(t, err)
		text = []byte(strings.ReplaceAll(string(text), filepath.Join(k.Dir, "pki", "ca.pem"), other))
		require.NoError(t, os.WriteFile(kubeconfig, text, 0o600))
		_, err = kubeapi.ConfigMaps.Get(t.Context(), connect(t, kubeapi.Options{Kubeconfig: kubeconfig}), ns, "a")
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.Contains(t, secret.Hint(err), "is not that of the API server at https://"+k.Addr)
	})
}

// fileAt writes a kubeconfig for a server without TLS and returns its path. user is what follows the
// user's name, as YAML.
func fileAt(t *testing.T, address, user string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: %s}]
contexts:
- {name: x, context: {cluster: c, user: u, namespace: inner}}
- {name: other, context: {cluster: c, user: u}}
current-context: x
`, address, user), 0o600))
	return path
}

// answers serves canned answers, as something between a client and an API server may give them.
func answers(t *testing.T, h http.HandlerFunc) *kubeapi.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return connect(t, kubeapi.Options{Kubeconfig: fileAt(t, server.URL, "{}")})
}

// Only the API server's word that this object is not there is absence.
func TestNotAbsent(t *testing.T) {
	t.Parallel()
	status := func(details string) string {
		return `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"m"` +
			details + `}`
	}
	for name, c := range map[string]struct {
		code       int
		kind, body string
		absent     bool
	}{
		"absent":          {404, "application/json", status(`,"details":{"kind":"secrets","name":"a"}`), true},
		"another object":  {404, "application/json", status(`,"details":{"kind":"secrets","name":"b"}`), false},
		"another kind":    {404, "application/json", status(`,"details":{"kind":"pods","name":"a"}`), false},
		"another group":   {404, "application/json", status(`,"details":{"kind":"secrets","name":"a","group":"g"}`), false},
		"the namespace":   {404, "application/json", status(`,"details":{"kind":"namespaces","name":"a"}`), false},
		"no details":      {404, "application/json", status(""), false},
		"text":            {404, "text/plain", "404 page not found", false},
		"a page":          {404, "text/html", "<h1>Not Found</h1>", false},
		"other JSON":      {404, "application/json", `{"message":"no Route matched"}`, false},
		"nothing":         {404, "", "", false},
		"a page with 200": {200, "text/html", "<h1>Log in</h1>", false},
		"another object with 200": {
			200, "application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}`, false,
		},
		"an unknown kind with 200": {200, "application/json", `{"kind":"Other","apiVersion":"x/v1"}`, false},
		"nothing with 200":         {200, "application/json", "", false},
		"half of it with 200":      {200, "application/json", `{"kind":"Secret","apiVersion":"v1","metadata":{`, false},
		"a gateway":                {502, "text/html", "<h1>Bad Gateway</h1>", false},
		"an error":                 {500, "application/json", "{}", false},
	} {
		t.Run(name, func(t *testing.T) {
			client := answers(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.code)
				_, _ = w.Write([]byte(c.body))
			})
			_, err := kubeapi.Secrets.Get(t.Context(), client, "ns", "a")
			if c.absent {
				require.ErrorIs(t, err, secret.ErrNotFound)
				return
			}
			require.ErrorIs(t, err, secret.ErrUnavailable)
			require.NotErrorIs(t, err, secret.ErrNotFound)
			require.ErrorContains(t, err, "get secrets a in namespace ns")
		})
	}
}

// What something in between answers to a change says nothing of the object.
func TestNotRefused(t *testing.T) {
	t.Parallel()
	for _, code := range []int{400, 404, 405, 409, 410, 413, 422, 500, 502, 504} {
		client := answers(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(code)
			_, _ = w.Write([]byte("<h1>a proxy</h1>"))
		})
		_, create := kubeapi.Secrets.Create(t.Context(), client, "ns", "a", &corev1.Secret{})
		_, update := kubeapi.Secrets.Update(t.Context(), client, "ns", "a", &corev1.Secret{})
		_, list := kubeapi.Secrets.ListMetadata(t.Context(), client, "ns", metav1.ListOptions{Continue: "x"})
		for _, err := range []error{create, update, list} {
			require.ErrorIsf(t, err, secret.ErrUnavailable, "%d", code)
			require.Equal(t, secret.KindUnavailable, secret.KindOf(err))
			require.NotErrorIs(t, err, kubeapi.ErrConflict)
			require.Empty(t, kubeapi.Continue(err))
		}
	}
}

// A server that is busy is asked again when it says so, if there is time. A change that it may have
// begun is not repeated.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	busy := func(t *testing.T, code, times int, after string) (*kubeapi.Client, *atomic.Int64) {
		var calls atomic.Int64
		return answers(t, func(w http.ResponseWriter, _ *http.Request) {
			if calls.Add(1) > int64(times) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}`))
				return
			}
			w.Header().Set("Retry-After", after)
			w.WriteHeader(code)
		}), &calls
	}
	get := func(c *kubeapi.Client) error {
		_, err := kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
		return err
	}
	create := func(c *kubeapi.Client) error {
		_, err := kubeapi.Secrets.Create(t.Context(), c, "ns", "a", &corev1.Secret{})
		return err
	}
	for _, c := range []struct {
		name        string
		call        func(*kubeapi.Client) error
		code, times int
		after       string
		calls       int
		fails       bool
	}{
		{"a read", get, 429, 2, "0", 3, false},
		{"a read of a server that stops", get, 503, 1, "1", 2, false},
		{"a change that was not begun", create, 429, 1, "1", 2, false},
		{"a change that may have been begun", create, 503, 1, "1", 1, true},
		{"an hour", get, 429, 1, "3600", 1, true},
		{"an hour, for a change", create, 429, 1, "3600", 1, true},
		{"no time", get, 503, 1, "", 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client, calls := busy(t, c.code, c.times, c.after)
			err := c.call(client)
			require.EqualValues(t, c.calls, calls.Load())
			if !c.fails {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, secret.ErrUnavailable)
		})
	}
}

// Every call ends, even if the server says nothing, and a call that its caller gives up ends at once.
func TestSlow(t *testing.T) {
	t.Parallel()
	var once sync.Once
	began, stop := make(chan struct{}), make(chan struct{})
	c := answers(t, func(_ http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(began) })
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(stop) }) // before the server closes
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-began
		cancel(errors.New("the task ended"))
	}()
	_, err := kubeapi.Secrets.Get(ctx, c, "ns", "a")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "the task ended")

	c = kubeapi.WithCallTime(c, 50*time.Millisecond)
	_, err = kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "no answer in time")
}

// A client has at most as many calls under way as it was made with, and two clients of a cluster share
// no connection.
func TestBounds(t *testing.T) {
	t.Parallel()
	var inside, most atomic.Int64
	var mu sync.Mutex
	connections := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		connections[r.RemoteAddr] = true
		most.Store(max(most.Load(), inside.Add(1)))
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		inside.Add(-1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}`))
	}))
	t.Cleanup(server.Close)
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: fileAt(t, server.URL, "{}")})
	require.NoError(t, err)
	const limit = 3
	c, err := cluster.Connect(limit)
	require.NoError(t, err)
	other, err := cluster.Connect(limit)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(c.Close(), other.Close())) })
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			_, err := kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
			if err != nil {
				t.Errorf("get: %v", err)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(limit))
	before := len(connections)
	_, err = kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
	require.NoError(t, err)
	require.Len(t, connections, before, "connections are used again")
	_, err = kubeapi.Secrets.Get(t.Context(), other, "ns", "a")
	require.NoError(t, err)
	require.Len(t, connections, before+1)
}

// An answer without an end is not held.
func TestLongAnswer(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	c := answers(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		block := make([]byte, 1<<16)
		for {
			n, err := w.Write(block)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	_, err := kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.True(t, kubeapi.IsTooLong(err))
	require.ErrorContains(t, err, strconv.Itoa(kubeapi.MaxBody))
}

// The credentials of a managed cloud come from a program that the kubeconfig names.
func TestExecPlugin(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	dir := t.TempDir()
	user := k.User(t, ns, everything)
	base := strings.TrimSuffix(user, ".kubeconfig")
	plugin := filepath.Join(dir, "cloud login") // a name that needs quotes
	require.NoError(t, os.WriteFile(plugin, fmt.Appendf(nil, `#!/bin/sh
echo run >> %[1]q
exec python3 -c '
import json, os
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {
    "clientCertificateData": open(os.environ["BASE"] + ".pem").read(),
    "clientKeyData": open(os.environ["BASE"] + ".key").read()}}))'
`, filepath.Join(dir, "runs")), 0o700))
	harness.Need(t, "python3")
	file := func(command string) string {
		text, err := os.ReadFile(user)
		require.NoError(t, err)
		before, _, ok := strings.Cut(string(text), "  user: {client-certificate")
		require.True(t, ok)
		path := filepath.Join(dir, filepath.Base(command)+".config")
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `%s  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: %q
      env: [{name: BASE, value: %q}]
      interactiveMode: Never
      installHint: install the program of the cloud
contexts:
- {name: test, context: {cluster: test, user: %s, namespace: %s}}
current-context: test
`, before, command, base, filepath.Base(base), ns), 0o600))
		return path
	}
	c := connect(t, kubeapi.Options{Kubeconfig: file(plugin)})
	for range 3 {
		_, err := kubeapi.ConfigMaps.Get(t.Context(), c, ns, "a")
		require.ErrorIs(t, err, secret.ErrNotFound)
	}
	runs, err := os.ReadFile(filepath.Join(dir, "runs"))
	require.NoError(t, err)
	require.Equal(t, "run\n", string(runs), "the plugin runs once, not for each call")

	c = connect(t, kubeapi.Options{Kubeconfig: file("login-that-is-not-there")})
	_, err = kubeapi.ConfigMaps.Get(t.Context(), c, ns, "a")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "login-that-is-not-there")
	require.ErrorContains(t, err, "install the program of the cloud")
}

// A call ends in time also if the program for credentials does not end, and no more of them wait for it than the
// client may have under way.
func TestHangingPlugin(t *testing.T) { //nolint:paralleltest // counts goroutines
	dir := t.TempDir()
	fifo, plugin := filepath.Join(dir, "fifo"), filepath.Join(dir, "login")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	pipe, err := os.OpenFile(fifo, os.O_RDWR, 0)
	require.NoError(t, err)
	defer pipe.Close() //nolint:errcheck // has nothing
	require.NoError(t, os.WriteFile(plugin, fmt.Appendf(nil, "#!/bin/sh\nread x < %q\n", fifo), 0o700))
	config := fileAt(t, "https://127.0.0.1:1", fmt.Sprintf(
		"{exec: {apiVersion: client.authentication.k8s.io/v1, command: %q, interactiveMode: Never}}", plugin))
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: config})
	require.NoError(t, err)
	const limit = 2
	c, err := cluster.Connect(limit)
	require.NoError(t, err)
	kubeapi.WithCallTime(c, 50*time.Millisecond)
	waiting := func() int {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]),
			"created by inject/resolver/kubeapi.(*credentialed)")
	}
	for range 20 {
		_, err = kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "no answer in time (from the API server, or from "+plugin)
	}
	require.Equal(t, limit, waiting())
	_, err = pipe.WriteString(strings.Repeat("end\n", limit)) // one for each run
	require.NoError(t, err)
	require.Eventually(t, func() bool { return waiting() == 0 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, c.Close())
}

// A redirect is not followed: credentials and values would go to wherever it leads.
func TestRedirect(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		c := answers(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, code) })
		_, err := kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
		require.ErrorIs(t, err, secret.ErrUnavailable)
		_, err = kubeapi.Secrets.Create(t.Context(), c, "ns", "a", &corev1.Secret{})
		require.ErrorIs(t, err, secret.ErrUnavailable)
	}
	require.Zero(t, elsewhere.Load())
}

// A kubeconfig says which namespace; what is wrong with one is named, and never quoted.
func TestKubeconfig(t *testing.T) {
	t.Parallel()
	good := fileAt(t, "https://h", `{token: findme}`)
	for _, c := range []struct{ context, namespace, want string }{
		{"", "", "inner"}, {"other", "", "default"}, {"other", "given", "given"}, {"", "given", "given"},
	} {
		cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: good, Context: c.context, Namespace: c.namespace})
		require.NoError(t, err)
		require.Equal(t, c.want, cluster.Namespace())
	}
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "config")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for name, c := range map[string]struct {
		o          kubeapi.Options
		want, hint string
	}{
		"not there":   {kubeapi.Options{Kubeconfig: "/not/there"}, "kubeconfig /not/there", ""},
		"no pod":      {kubeapi.Options{}, "this process is in no pod", "kube://NAMESPACE?kubeconfig=PATH"},
		"not YAML":    {kubeapi.Options{Kubeconfig: write("findme: [")}, "cannot be parsed", "config view"},
		"a list":      {kubeapi.Options{Kubeconfig: write("[findme]")}, "cannot be parsed", ""},
		"wrong types": {kubeapi.Options{Kubeconfig: write("users: findme")}, "cannot be parsed", ""},
		"empty":       {kubeapi.Options{Kubeconfig: write("")}, `has no context ""`, "get-contexts"},
		"no context":  {kubeapi.Options{Kubeconfig: good, Context: "z"}, `has no context "z"`, "get-contexts"},
		"no cluster": {
			kubeapi.Options{Kubeconfig: write("contexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n")},
			"context x", "",
		},
		"in the clear": {
			kubeapi.Options{Kubeconfig: fileAt(t, "http://h", `{token: findme}`)}, "in the clear", "https://h",
		},
		"a password in the address": {
			kubeapi.Options{Kubeconfig: fileAt(t, "https://u:findme@h", "{}")}, "has a user", "",
		},
		"no address": {
			kubeapi.Options{Kubeconfig: fileAt(t, "https://u:findme@h:x", "{}")}, "is not a URL", "",
		},
		"a password of a proxy": {
			kubeapi.Options{Kubeconfig: write(`
clusters: [{name: c, cluster: {server: https://h, proxy-url: "u:findme@p:1"}}]
contexts: [{name: x, context: {cluster: c}}]
current-context: x
`)}, "proxy-url", "",
		},
		"no file of a key": {
			kubeapi.Options{Kubeconfig: fileAt(t, "https://h", `{client-certificate: /not/there, client-key: /not/there}`)},
			"/not/there", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := kubeapi.Find(c.o)
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.Contains(t, secret.Hint(err), c.hint)
			require.NotContains(t, err.Error()+secret.Hint(err), "findme")
		})
	}
}

// Nothing is written to standard error, whatever the server sends: client-go would log warnings and, at
// a high level, bodies.
func TestQuiet(t *testing.T) { //nolint:paralleltest // replaces os.Stderr
	r, w, err := os.Pipe()
	require.NoError(t, err)
	stderr := os.Stderr
	os.Stderr = w
	t.Cleanup(func() { os.Stderr = stderr })
	c := answers(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Warning", `299 - "findme warning"`)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte("findme body"))
	})
	_, err = kubeapi.Secrets.Get(t.Context(), c, "ns", "a")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NoError(t, w.Close())
	os.Stderr = stderr
	text := make([]byte, 1000)
	n, _ := r.Read(text)
	require.Empty(t, string(text[:n]))
}

// What a closed client had is gone, with the goroutines that watch the files of its certificate.
func TestClose(t *testing.T) { //nolint:paralleltest // counts goroutines
	k := shared.Get(t)
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: k.Kubeconfig()})
	require.NoError(t, err)
	before := runtime.NumGoroutine()
	for range 20 {
		c, err := cluster.Connect(1)
		require.NoError(t, err)
		_, err = kubeapi.Namespaces.Get(t.Context(), c, "", "default")
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return runtime.NumGoroutine() < before+10
	}, time.Minute, 100*time.Millisecond, "of 20 clients")
}

// podChild is the variable with which this binary calls the API server as a process in a pod does.
const podChild = "INJECT_TEST_POD"

func runInPod() {
	if os.Getenv(podChild) == "" {
		return
	}
	cluster, err := kubeapi.Find(kubeapi.Options{})
	if err == nil {
		var c *kubeapi.Client
		if c, err = cluster.Connect(1); err == nil {
			_, err = kubeapi.ConfigMaps.Get(context.Background(), c, cluster.Namespace(), "a")
			fmt.Println(cluster.Namespace())
		}
	}
	if err != nil {
		fmt.Println(err)
		fmt.Println(secret.Hint(err))
	}
	os.Exit(0)
}

// In a pod the API server is that of the variables, and the files of the service account have the
// credentials and the namespace.
func TestInPod(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t) // for a mount namespace, because the files are at a fixed place
	harness.Need(t, "unshare", "mount")
	k := shared.Get(t)
	ns := k.Namespace(t)
	account := map[string]any{"metadata": map[string]any{"name": "injectd"}}
	k.Call(t, http.MethodPost, "/api/v1/namespaces/"+ns+"/serviceaccounts", account)
	var token struct{ Status struct{ Token string } }
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodPost,
		"/api/v1/namespaces/"+ns+"/serviceaccounts/injectd/token", map[string]any{}), &token))
	files := t.TempDir()
	for name, text := range map[string]string{"token": token.Status.Token, "namespace": ns + "\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(files, name), []byte(text), 0o600))
	}
	ca, err := os.ReadFile(filepath.Join(k.Dir, "pki", "ca.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(files, "ca.crt"), ca, 0o600))

	run := func() string {
		host, port, _ := strings.Cut(k.Addr, ":")
		cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /run &&
			mkdir -p /run/secrets/kubernetes.io/serviceaccount &&
			cp "$FILES"/* /run/secrets/kubernetes.io/serviceaccount && exec "$0"`, os.Args[0])
		cmd.Env = append(os.Environ(), podChild+"=1", "FILES="+files, "KUBERNETES_SERVICE_HOST="+host,
			"KUBERNETES_SERVICE_PORT="+port)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	out := run()
	require.Contains(t, out, ns+"\naccess denied: ")
	require.Contains(t, out, `User "system:serviceaccount:`+ns+`:injectd" cannot get resource "configmaps"`)
	require.NoError(t, os.WriteFile(filepath.Join(files, "token"), []byte("no token"), 0o600))
	require.Contains(t, run(), "does not accept the credentials of the service account of this pod")
}

// The owner of an object may be of any kind, also of one that the API server does not have.
func TestOwner(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	c, ns := connect(t, kubeapi.Options{Kubeconfig: k.Kubeconfig()}), k.Namespace(t)
	made, err := kubeapi.ConfigMaps.Create(t.Context(), c, ns, "m", configMap("m"))
	require.NoError(t, err)
	owner := func(version, kind, name string) (*metav1.PartialObjectMetadata, error) {
		return kubeapi.Owner(t.Context(), c, ns, &metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name})
	}
	got, err := owner("v1", "ConfigMap", "m")
	require.NoError(t, err)
	require.Equal(t, made.UID, got.UID)
	require.Equal(t, made.CreationTimestamp.Time, got.CreationTimestamp.Time)
	_, err = owner("v1", "ConfigMap", "n")
	require.ErrorIs(t, err, secret.ErrNotFound)
	_, err = owner("apps/v1", "Deployment", "m")
	require.ErrorIs(t, err, secret.ErrNotFound)
	for _, unknown := range []string{"a.example.org/v1", "v2", "apps/v9"} {
		_, err = owner(unknown, "ConfigMap", "m")
		require.ErrorIs(t, err, secret.ErrUnavailable, unknown)
	}
	for _, bad := range [][3]string{
		{"a/b/c", "ConfigMap", "m"},
		{"", "ConfigMap", "m"},
		{"v1", "", "m"},
		{"v1", "ConfigMap", ""},
		{"v1", "ConfigMap", "../secrets"},
		{"v1", "a/b", "m"},
		{"..", "ConfigMap", "m"},
		{"v1", "ConfigMap", "a%2fb"},
	} {
		_, err = owner(bad[0], bad[1], bad[2])
		require.ErrorIs(t, err, secret.ErrInvalid, bad)
	}
}
