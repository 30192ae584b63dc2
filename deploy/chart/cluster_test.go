package chart_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// The tests share an API server: that of bin, or of INJECT_TEST_KUBE_APISERVER.
var shared struct {
	server harness.SharedKubernetes
	once   sync.Once
	*cluster
}

func TestMain(m *testing.M) {
	// What mutation puts in a pod needs the pod's account.
	shared.server.Options.Accounts = true
	code := m.Run()
	shared.server.Stop()
	if injectdDir != "" {
		_ = os.RemoveAll(injectdDir)
	}
	os.Exit(code)
}

// A cluster is an API server with the chart's policies in force in the namespaces flyte and leaving, and
// none in elsewhere.
type cluster struct {
	*harness.Kubernetes
	version  string // such as v1.37.2
	mutating bool   // it has MutatingAdmissionPolicies
	objects  []object
}

// get returns the shared cluster. It skips the test if a program is missing, and fails it in CI.
func get(t testing.TB) *cluster {
	t.Helper()
	harness.Bin(t, "helm")
	k := shared.server.Get(t)
	shared.once.Do(func() { shared.cluster = setUp(t, k) })
	require.NotNil(t, shared.cluster, "an earlier test could not set the cluster up")
	return shared.cluster
}

// mutation returns the arguments for Helm with which pods are changed by what the API server has itself.
func (c *cluster) mutation() []string {
	if c.mutating {
		return nil
	}
	return []string{"--set", "mutation.mode=off"}
}

// A user is who sends a request. The administrator of the tests impersonates it.
type user struct {
	name   string
	groups []string
	extra  map[string]string
}

func person(name string) user { return user{name: name, groups: []string{"system:authenticated"}} }

func node(name string) user {
	return user{name: "system:node:" + name, groups: []string{"system:nodes", "system:authenticated"}}
}

func account(namespace, name string) user {
	return user{
		name:   "system:serviceaccount:" + namespace + ":" + name,
		groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
}

// of returns the account with a token of a pod, as kubelet mounts it.
func (u user) of(pod object) user {
	u.extra = map[string]string{
		"authentication.kubernetes.io/pod-name": text(pod, "metadata", "name"),
		"authentication.kubernetes.io/pod-uid":  text(pod, "metadata", "uid"),
	}
	return u
}

// Users of the tests. All but the administrator may do everything in the namespaces except claim: what
// they are then refused, a policy refuses.
var (
	admin      = user{}                                       // of the cluster, who may claim too
	stranger   = person("mallory")                            // claims nothing
	member     = person("fran")                               // claims fraud/development
	flyte      = account("flyte-system", "flyte-binary")      // claims all, by the chart's values
	operator   = account("ray-system", "kuberay-operator")    // claims all, by the chart's values
	controller = account("kube-system", "job-controller")     // claims all, by the chart's values
	unlisted   = account("kube-system", "cronjob-controller") // claims nothing
	collector  = account("kube-system", "generic-garbage-collector")
	injectd    = account("inject-system", "injectd")
	driver     = account("flyte", "spark") // of a task's pods
	others     = []user{
		person("system:node:node-1"), account("flyte", "injectd"), account("elsewhere", "spark"),
	}
)

// A request is one to the API server, with a body as JSON.
type request struct {
	method, path, media string
	body                any
}

func fetch(path string) request { return request{method: http.MethodGet, path: path} }

func remove(path string) request {
	return request{method: http.MethodDelete, path: path + "?gracePeriodSeconds=0"}
}

func post(path string, body any) request {
	return request{method: http.MethodPost, path: path, body: body}
}

// An answer is what the API server says of a request: the status of a failure, or an object.
type answer struct {
	code                     int
	reason, message, warning string
	object                   object
}

func (a answer) ok() bool { return a.code/100 == 2 }

func (a answer) String() string { return fmt.Sprintf("%d %s: %s", a.code, a.reason, a.message) }

// try sends a request that persists nothing.
func (c *cluster) try(t testing.TB, u user, r request) answer {
	t.Helper()
	a, err := c.send(t.Context(), u, r, true)
	require.NoError(t, err)
	return a
}

// do sends a request. It fails the test unless that succeeds.
func (c *cluster) do(t testing.TB, u user, r request) object {
	t.Helper()
	a, err := c.send(t.Context(), u, r, false)
	require.NoError(t, err)
	require.True(t, a.ok(), "%s %s by %s: %s", r.method, r.path, u.name, a)
	return a.object
}

func (c *cluster) send(ctx context.Context, u user, r request, dry bool) (a answer, err error) {
	target, err := url.Parse("https://" + c.Addr + r.path)
	if err != nil {
		return a, err
	}
	if dry && r.method != http.MethodGet {
		q := target.Query()
		q.Set("dryRun", "All")
		target.RawQuery = q.Encode()
	}
	var body []byte
	if r.body != nil {
		if body, err = json.Marshal(r.body); err != nil {
			return a, err
		}
	}
	h, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	h.Header.Set("Content-Type", "application/json")
	if r.media != "" {
		h.Header.Set("Content-Type", r.media)
	}
	if u.name != "" {
		h.Header.Set("Impersonate-User", u.name)
		h.Header["Impersonate-Group"] = u.groups
		for key, value := range u.extra {
			h.Header["Impersonate-Extra-"+url.PathEscape(key)] = []string{value}
		}
	}
	resp, err := c.Transport().RoundTrip(h)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close() //nolint:errcheck // was read
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	a.code, a.warning = resp.StatusCode, strings.Join(resp.Header.Values("Warning"), "; ")
	if json.Unmarshal(data, &a.object) != nil {
		a.message = string(data)
	} else if text(a.object, "kind") == "Status" {
		a.reason, a.message = text(a.object, "reason"), text(a.object, "message")
	}
	return a, nil
}

// collection returns the path of the objects of a resource in a namespace, or in none.
func collection(apiVersion, resource, namespace string) string {
	path := "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		path = "/api/" + apiVersion
	}
	if namespace != "" {
		path += "/namespaces/" + namespace
	}
	return path + "/" + resource
}

// home returns the path of the collection that an object of the chart belongs to.
func home(o object) string {
	resource := strings.ToLower(text(o, "kind")) + "s"
	if s, ok := strings.CutSuffix(resource, "ys"); ok {
		resource = s + "ies"
	} else if strings.HasSuffix(resource, "ss") {
		resource = strings.TrimSuffix(resource, "s") + "es"
	}
	return collection(text(o, "apiVersion"), resource, text(o, "metadata", "namespace"))
}

const rbac = "rbac.authorization.k8s.io"

// claims is the rule of a role with the verb claim, for the scopes with these names or for all.
func claims(names ...any) object {
	rule := object{"apiGroups": []any{"inject.flyte.org"}, "resources": []any{"scopes"}, "verbs": []any{"claim"}}
	if names != nil {
		rule["resourceNames"] = names
	}
	return rule
}

// grant binds a role, with these rules or of a cluster, to users in a namespace, and waits until RBAC knows.
func (c *cluster) grant(t testing.TB, namespace, name string, rules []object, users ...user) {
	t.Helper()
	c.bindRole(t, namespace, name, rules, users...)
	// RBAC hears of roles in their order, and so of bindings. What it knows of the last it knows of all.
	last := person("last-" + rand.Text())
	c.bindRole(t, namespace, strings.ToLower(last.name), []object{
		{"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"list"}},
	}, last)
	path := collection("v1", "pods", namespace)
	c.until(t, name, func() string { return c.try(t, last, fetch(path)).String() }, "200")
}

func (c *cluster) bindRole(t testing.TB, namespace, name string, rules []object, users ...user) {
	t.Helper()
	role := "ClusterRole"
	if rules != nil {
		role = "Role"
		o := object{"metadata": object{"name": name}, "rules": rules}
		c.do(t, admin, post(collection(rbac+"/v1", "roles", namespace), o))
	}
	var subjects []object
	for _, u := range users {
		subjects = append(subjects, object{"apiGroup": rbac, "kind": "User", "name": u.name})
	}
	c.do(t, admin, post(collection(rbac+"/v1", "rolebindings", namespace), object{
		"metadata": object{"generateName": "test-"}, "subjects": subjects,
		"roleRef": object{"apiGroup": rbac, "kind": role, "name": name},
	}))
}

// tasks makes a namespace with labels, and the accounts of pods in it.
func (c *cluster) tasks(t testing.TB, name string, labels object) {
	t.Helper()
	c.do(t, admin, post("/api/v1/namespaces", object{"metadata": object{"name": name, "labels": labels}}))
	for _, account := range []string{"default", "spark", "flyte-binary"} {
		accounts := collection("v1", "serviceaccounts", name)
		c.do(t, admin, post(accounts, object{"metadata": object{"name": account}}))
	}
}

func setUp(t testing.TB, k *harness.Kubernetes) *cluster {
	t.Helper()
	c := &cluster{Kubernetes: k, mutating: k.Minor(t) >= 36}
	c.version = text(c.do(t, admin, fetch("/version")), "gitVersion")
	c.definitions(t)
	groups := append([]string{""}, ours...)
	for _, g := range list(c.do(t, admin, fetch("/apis")), "groups") {
		groups = append(groups, text(g, "name"))
	}
	c.do(t, admin, post(collection(rbac+"/v1", "clusterroles", ""), object{
		"metadata": object{"name": "all-but-claim"},
		"rules":    []object{{"apiGroups": groups, "resources": []string{"*"}, "verbs": []string{"*"}}},
	}))
	for _, namespace := range []string{"flyte", "leaving", "elsewhere"} {
		c.tasks(t, namespace, nil)
		c.grant(t, namespace, "all-but-claim", nil, append([]user{
			stranger, member, flyte, operator, controller, unlisted, collector, injectd, driver,
		}, others...)...)
	}
	for _, namespace := range []string{"inject-system", "inject-secrets"} {
		c.do(t, admin, post("/api/v1/namespaces", object{"metadata": object{"name": namespace}}))
	}
	c.objects = render(t, c.version, c.mutation()...)
	for _, o := range c.objects {
		if text(o, "kind") != "Namespace" { // it is there
			c.do(t, admin, post(home(o)+"?fieldValidation=Strict", o))
		}
	}
	c.grant(t, "flyte", "team-fraud", []object{claims("fraud/development")}, member)
	// An account of the task namespace, which may claim though the chart's values do not have it.
	c.grant(t, "flyte", "inject-claimer", nil, account("flyte", "flyte-binary"))
	c.inForce(t)
	return c
}

// inForce waits until each policy refuses what it is there to refuse.
func (c *cluster) inForce(t testing.TB) {
	t.Helper()
	exec := request{method: http.MethodGet, path: pods.path("canary", "exec?command=x&stdout=true")}
	for name, canary := range map[string]request{
		"inject-accounts":  pods.post(pod("canary", runsAs("flyte-binary"))),
		"inject-claims":    pods.post(pod("canary", mine)),
		"inject-exec":      exec,
		"inject-hosts":     pods.post(pod("canary", set(true, "spec", "hostNetwork"))),
		"inject-objects":   pods.post(pod("canary", volume(object{"secret": object{"secretName": md5}}))),
		"inject-tokens":    configMaps.post(configMaps.empty("inject-ca")),
		"inject-workloads": rayClusters.post(rayClusters.empty("canary")),
	} {
		c.until(t, name, func() string { return c.try(t, stranger, canary).message }, name)
	}
	if c.mutating {
		maker := driver.of(object{"metadata": object{"name": "canary", "uid": "1"}})
		c.until(t, "inject-inherits", func() string {
			a := c.try(t, maker, pods.post(pod("canary", mine)))
			return text(a.object, "metadata", "annotations", "inject.flyte.org/inherits")
		}, "canary/1")
	}
}

// until waits until what fn returns contains want.
func (c *cluster) until(t testing.TB, name string, fn func() string, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got := fn()
		if strings.Contains(got, want) {
			return
		}
		require.True(t, time.Now().Before(end), "%s: not after a minute: %q", name, got)
	}
}
