package evidence_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/kube/evidence"
)

var shared harness.SharedKubernetes

func TestMain(m *testing.M) {
	code := m.Run()
	shared.Stop()
	os.Exit(code)
}

func connect(t *testing.T, kubeconfig string) *kubeapi.Client {
	t.Helper()
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: kubeconfig})
	require.NoError(t, err)
	c, err := cluster.Connect(16)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

type object = map[string]any

const group = "/apis/admissionregistration.k8s.io/v1/"

// resource returns the path of the policies or the bindings of a kind.
func resource(p evidence.Policy, binding bool) string {
	kind := "validating"
	if p.Mutating {
		kind = "mutating"
	}
	if binding {
		return group + kind + "admissionpolicybindings"
	}
	return group + kind + "admissionpolicies"
}

// create makes an object whose name says what the API server makes of its spec, and returns the name.
func create(t *testing.T, k *harness.Kubernetes, path, base string, spec object) string {
	t.Helper()
	body := object{"metadata": object{"generateName": base + "-"}, "spec": spec}
	var dry struct{ Spec json.RawMessage }
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodPost, path+"?dryRun=All", body), &dry))
	var sorted any // what package json writes has sorted keys
	require.NoError(t, json.Unmarshal(dry.Spec, &sorted))
	text, err := json.Marshal(sorted)
	require.NoError(t, err)
	sum := sha256.Sum256(text)
	name := base + "-" + hex.EncodeToString(sum[:])[:16]
	k.Call(t, http.MethodPost, path, object{"metadata": object{"name": name}, "spec": spec})
	return name
}

// policySpec is the spec of a policy that no other has. It does no more than say its name.
func policySpec(mutating bool) object {
	rule := object{
		"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE"},
		"resources": []string{"configmaps"},
	}
	text := "'<&>" + rand.Text() + "' == 'x'"
	spec := object{"matchConstraints": object{"resourceRules": []any{rule}}}
	if mutating {
		spec["reinvocationPolicy"] = "Never"
		spec["matchConditions"] = []any{object{"name": "never", "expression": text}}
		spec["mutations"] = []any{object{
			"patchType": "ApplyConfiguration", "applyConfiguration": object{"expression": "Object{}"},
		}}
		return spec
	}
	spec["validations"] = []any{object{"expression": "!(" + text + ")", "reason": "Forbidden"}}
	return spec
}

func bindingSpec(policy string, mutating bool, namespaces ...string) object {
	spec := object{"policyName": policy, "matchResources": object{"namespaceSelector": object{"matchExpressions": []any{
		object{"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces},
	}}}}
	if !mutating {
		spec["validationActions"] = []string{"Deny"}
	}
	return spec
}

// add makes a policy and its binding to namespaces.
func add(t *testing.T, k *harness.Kubernetes, base string, mutating bool, namespaces ...string) evidence.Policy {
	t.Helper()
	p := evidence.Policy{Mutating: mutating}
	p.Name = create(t, k, resource(p, false), base, policySpec(mutating))
	p.Binding = create(t, k, resource(p, true), base, bindingSpec(p.Name, mutating, namespaces...))
	return p
}

var bases = []string{"inject-accounts", "inject-claims", "inject-hosts", "inject-tokens", "inject-workloads"}

// setUp makes all policies of a namespace.
func setUp(t *testing.T, k *harness.Kubernetes) (namespace string, c *evidence.Config) {
	t.Helper()
	namespace = k.Namespace(t)
	c = &evidence.Config{Organization: "flyte", TaskNamespaces: []string{namespace}}
	for _, base := range bases {
		c.Policies = append(c.Policies, add(t, k, base, false, namespace))
	}
	if k.Minor(t) >= 36 {
		c.Policies = append(c.Policies, add(t, k, "inject-inherits", true, namespace))
	}
	return namespace, c
}

func reader(c *kubeapi.Client, config *evidence.Config) *evidence.Reader {
	return evidence.NewReader(c, func() *evidence.Config { return config })
}

func read(t *testing.T, r *evidence.Reader) *evidence.Report {
	t.Helper()
	report, err := r.Read(t.Context())
	require.NoError(t, err)
	return report
}

func created(t *testing.T, k *harness.Kubernetes, path string) time.Time {
	t.Helper()
	var o struct {
		Metadata struct{ CreationTimestamp time.Time }
	}
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodGet, path, nil), &o))
	return o.Metadata.CreationTimestamp
}

// field returns a field that has fields.
func field(t *testing.T, o object, path ...string) object {
	t.Helper()
	for _, name := range path {
		next, ok := o[name].(object)
		require.True(t, ok, name)
		o = next
	}
	return o
}

// patch sets fields of the spec of an object.
func patch(t *testing.T, k *harness.Kubernetes, path string, spec object) {
	t.Helper()
	var o object
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodGet, path, nil), &o))
	maps.Copy(field(t, o, "spec"), spec)
	k.Call(t, http.MethodPut, path, o)
}

func TestInForce(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	namespace, config := setUp(t, k)
	r := reader(connect(t, k.Kubeconfig()), config)
	before := time.Now()
	report := read(t, r)
	require.False(t, report.Began.Before(before))
	since, err := report.InForce(namespace)
	require.NoError(t, err)
	var last time.Time
	for i, p := range config.Policies {
		require.Nil(t, report.Findings[i].Problems)
		for _, path := range []string{resource(p, false) + "/" + p.Name, resource(p, true) + "/" + p.Binding} {
			if at := created(t, k, path); at.After(last) {
				last = at
			}
		}
	}
	require.True(t, last.Equal(since), "%v %v", last, since)
	require.Nil(t, report.Gaps(evidence.Places{Store: "inject-secrets", Server: "inject-system"}))

	_, err = report.InForce("default")
	for _, p := range config.Policies {
		require.ErrorContains(t, err, "binding "+p.Binding+": it does not select the namespace default")
	}

	// One that is made again is as old as its second creation.
	p := config.Policies[1]
	path := resource(p, true) + "/" + p.Binding
	k.Call(t, http.MethodDelete, path, nil)
	_, err = read(t, r).InForce(namespace)
	require.EqualError(t, err, "binding "+p.Binding+": missing")
	require.NoError(t, waitFor(t, func() bool { return time.Since(last) > 1500*time.Millisecond }))
	again := create(t, k, resource(p, true), p.Base(), bindingSpec(p.Name, false, namespace))
	require.Equal(t, p.Binding, again)
	since, err = read(t, r).InForce(namespace)
	require.NoError(t, err)
	require.True(t, since.After(last))
	require.True(t, since.Equal(created(t, k, path)))
}

// waitFor waits until done returns true.
func waitFor(t *testing.T, done func() bool) error {
	t.Helper()
	for !done() {
		select {
		case <-t.Context().Done():
			return t.Context().Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func TestFindings(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	namespace, config := setUp(t, k)
	r := reader(connect(t, k.Kubeconfig()), config)
	_, err := read(t, r).InForce(namespace)
	require.NoError(t, err)
	p := config.Policies

	// Each with another mistake, and one without.
	k.Call(t, http.MethodDelete, resource(p[0], false)+"/"+p[0].Name, nil)
	for _, action := range []string{"Audit", "Deny"} { // and back
		patch(t, k, resource(p[1], true)+"/"+p[1].Binding, object{"validationActions": []string{action}})
	}
	patch(t, k, resource(p[2], false)+"/"+p[2].Name, object{"failurePolicy": "Ignore"})
	k.Call(t, http.MethodDelete, resource(p[3], true)+"/"+p[3].Binding, nil)
	k.Call(t, http.MethodPost, resource(p[3], true), object{
		"metadata": object{"name": p[3].Binding}, "spec": bindingSpec(p[3].Name, false, namespace, "other"),
	})
	report := read(t, r)
	_, err = report.InForce(namespace)
	want := []string{
		"policy " + p[0].Name + ": missing",
		"binding " + p[1].Binding + ": changed after it was made (generation 3)",
		"policy " + p[2].Name + ": changed after it was made (generation 2)",
		"binding " + p[3].Binding + ": another content than its name says (digest ",
	}
	for _, says := range want {
		require.ErrorContains(t, err, says)
	}
	require.Equal(t, len(want)-1, strings.Count(err.Error(), "; "), err)
	require.Nil(t, report.Findings[4].Problems)
	require.Equal(t, []evidence.Gap{{namespace, "pods of the namespace " + namespace +
		" may reach their node: policy " + p[2].Name + ": changed after it was made (generation 2)"}},
		report.Gaps(evidence.Places{}))

	// A reader that sees them first says the same.
	_, again := read(t, reader(connect(t, k.Kubeconfig()), config)).InForce(namespace)
	require.EqualError(t, again, err.Error())
}

// TestBindings has bindings whose names say what they do, which is not what they should.
func TestBindings(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	namespace, config := setUp(t, k)
	client := connect(t, k.Kubeconfig())
	good := config.Policies[1]
	rules := []any{object{
		"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE"},
		"resources": []string{"pods"},
	}}
	match := func(spec object, name string, value any) { field(t, spec, "matchResources")[name] = value }
	for says, change := range map[string]func(object){
		"": func(s object) { match(s, "objectSelector", object{}) },
		"it does not refuse (validationActions [Audit Warn])": func(s object) {
			s["validationActions"] = []string{"Audit", "Warn"}
		},
		"it does not refuse (validationActions [Deny Audit])": func(s object) {
			s["validationActions"] = []string{"Deny", "Audit"}
		},
		"it binds another policy": func(s object) { s["policyName"] = config.Policies[0].Name },
		"it does not select the namespace " + namespace: func(s object) {
			match(s, "namespaceSelector", object{"matchLabels": object{"kubernetes.io/metadata.name": "other"}})
		},
		"it is not for all objects of some namespaces": func(s object) {
			match(s, "objectSelector", object{"matchLabels": object{"a": "b"}})
		},
		"it is not for all objects of some namespaces ": func(s object) { match(s, "resourceRules", rules) },
		"it is not for all objects of some namespaces  ": func(s object) {
			match(s, "excludeResourceRules", rules)
		},
		"it is not for all objects of some namespaces   ": func(s object) {
			s["paramRef"] = object{"name": "x", "parameterNotFoundAction": "Allow"}
		},
		"it is not for all objects of some namespaces    ": func(s object) { delete(s, "matchResources") },
	} {
		spec := bindingSpec(good.Name, false, namespace)
		change(spec)
		p := good
		if says == "" {
			k.Call(t, http.MethodDelete, resource(good, true)+"/"+good.Binding, nil) // the same content
		}
		p.Binding = create(t, k, resource(p, true), p.Base(), spec)
		changed := *config
		changed.Policies = slices.Clone(config.Policies)
		changed.Policies[1] = p
		_, err := read(t, reader(client, &changed)).InForce(namespace)
		if says == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, "binding "+p.Binding+": "+strings.TrimSpace(says))
	}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	namespace, config := setUp(t, k)
	other := k.Namespace(t)
	client := connect(t, k.Kubeconfig())
	gaps := func(c evidence.Config, p evidence.Places) string {
		var all []string
		for _, g := range read(t, reader(client, &c)).Gaps(p) {
			all = append(all, g.Namespace+": "+g.Text)
		}
		return strings.Join(all, "\n")
	}
	c := *config
	c.Claimers = []evidence.Account{{"flyte-system", "flyte-binary"}}
	require.Empty(t, gaps(c, evidence.Places{Store: "secrets", Server: other}))
	c.Claimers = append(c.Claimers, evidence.Account{namespace, "flyte-binary"})
	require.Contains(t, gaps(c, evidence.Places{}), ": the account "+namespace+"/flyte-binary may claim every scope")
	require.Equal(t, 0, strings.Count(gaps(c, evidence.Places{}), "\n"))
	all := gaps(c, evidence.Places{Store: namespace, Server: namespace})
	require.Contains(t, all, "the namespace of the secrets, "+namespace)
	require.Contains(t, all, "the namespace of this server, "+namespace)

	// Without the policy inject-hosts the namespaces must have Pod Security.
	c = *config
	c.Policies = slices.DeleteFunc(slices.Clone(c.Policies), func(p evidence.Policy) bool {
		return p.Base() == "inject-hosts"
	})
	c.TaskNamespaces = []string{namespace, other, "does-not-exist"}
	enforce := func(namespace, level string) {
		var o object
		path := "/api/v1/namespaces/" + namespace
		require.NoError(t, json.Unmarshal(k.Call(t, http.MethodGet, path, nil), &o))
		field(t, o, "metadata", "labels")["pod-security.kubernetes.io/enforce"] = level
		k.Call(t, http.MethodPut, path, o)
	}
	enforce(other, "baseline")
	require.Equal(t, namespace+": pods of the namespace "+namespace+" may reach their node: there is no policy "+
		"inject-hosts, and the namespace has not the label pod-security.kubernetes.io/enforce: baseline",
		gaps(c, evidence.Places{}))
	enforce(namespace, "restricted")
	require.Empty(t, gaps(c, evidence.Places{}))
	enforce(namespace, "privileged")
	require.NotEmpty(t, gaps(c, evidence.Places{}))
}

func TestDenied(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	namespace, config := setUp(t, k)
	rule := func(resources ...string) harness.Rule {
		return harness.Rule{
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: resources, Verbs: []string{"get", "list"},
		}
	}
	all := []string{
		"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies",
		"mutatingadmissionpolicybindings",
	}
	allowed := reader(connect(t, k.User(t, "", []harness.Rule{rule(all...)})), config)
	require.NoError(t, waitFor(t, func() bool { _, err := allowed.Read(t.Context()); return err == nil }))
	_, err := read(t, allowed).InForce(namespace)
	require.NoError(t, err)

	denied := reader(connect(t, k.User(t, "", []harness.Rule{rule(all[0], all[2], all[3])})), config)
	for range 2 {
		_, err = denied.Read(t.Context())
		require.ErrorIs(t, err, secret.ErrDenied)
	}
	require.NoError(t, waitFor(t, func() bool {
		_, err = denied.Read(t.Context())
		return strings.Contains(err.Error(), "list validatingadmissionpolicybindings.admissionregistration.k8s.io")
	}))
}

// counted is a proxy in front of an API server that counts calls, and the reads of single objects among
// them. It answers none while it is down.
type counted struct {
	calls, objects atomic.Int64
	down           atomic.Bool
	*httptest.Server
}

func proxy(t *testing.T, k *harness.Kubernetes) (c *counted, kubeconfig string) {
	t.Helper()
	c = &counted{}
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: k.Addr})
	to.Transport = k.Transport()
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.calls.Add(1)
		if strings.Contains(r.URL.Path, "/inject-") {
			c.objects.Add(1)
		}
		if c.down.Load() {
			panic(http.ErrAbortHandler)
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: %q}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
users: [{name: a, user: {}}]
current-context: a
`, c.URL), 0o600))
	return c, kubeconfig
}

// TestFresh has many callers at once, of whom each gets a report that began after its call, and all
// together cause a few reads.
func TestFresh(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	namespace, config := setUp(t, k)
	p, kubeconfig := proxy(t, k)
	r := reader(connect(t, kubeconfig), config)
	read(t, r)
	require.Equal(t, int64(2*len(config.Policies)), p.objects.Load())
	p.calls.Store(0)
	read(t, r)
	perRead := p.calls.Load() // one list has a page more while TestPages runs
	require.Equal(t, int64(2*len(config.Policies)), p.objects.Load(), "an object that is known is not read again")

	p.calls.Store(0)
	var wait sync.WaitGroup
	const callers = 400
	failures := make(chan error, callers)
	for range callers {
		wait.Go(func() {
			called := time.Now()
			report, err := r.Fresh(t.Context())
			if err == nil {
				_, err = report.InForce(namespace)
			}
			if err == nil && report.Began.Before(called) {
				err = fmt.Errorf("a report of %v for a call at %v", report.Began, called)
			}
			failures <- err
		})
	}
	wait.Wait()
	for range callers {
		require.NoError(t, <-failures)
	}
	require.Less(t, p.calls.Load(), callers*perRead/4)

	// While the API server does not answer there is no report, and then there is one again.
	p.down.Store(true)
	_, err := r.Fresh(t.Context())
	require.ErrorIs(t, err, secret.ErrUnavailable)
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the caller has left"))
	_, err = r.Fresh(ended)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "the caller has left")
	p.down.Store(false)
	_, err = r.Fresh(t.Context())
	require.NoError(t, err)

	// What was seen before is told: here that a binding is gone.
	k.Call(t, http.MethodDelete, resource(config.Policies[0], true)+"/"+config.Policies[0].Binding, nil)
	report, err := r.Fresh(t.Context())
	require.NoError(t, err)
	_, err = report.InForce(namespace)
	require.ErrorContains(t, err, config.Policies[0].Binding+": missing")
}

// TestPages has more bindings than are on one page of a list.
func TestPages(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	for i := range 260 {
		k.Call(t, http.MethodPost, resource(evidence.Policy{}, true), object{
			"metadata": object{"name": fmt.Sprintf("inject-a-%016x", i)}, "spec": bindingSpec("none", false, "none"),
		})
	}
	namespace, config := setUp(t, k)
	_, err := read(t, reader(connect(t, k.Kubeconfig()), config)).InForce(namespace)
	require.NoError(t, err)
}
