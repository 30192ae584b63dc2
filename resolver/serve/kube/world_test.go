package kube_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"inject/internal/annotation"
	"inject/internal/harness"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/kube"
	"inject/resolver/serve/kube/evidence"
)

// The tests share an API server, with the kinds of Flyte and of operators.
var shared struct {
	server harness.SharedKubernetes
	once   sync.Once
}

func TestMain(m *testing.M) {
	code := m.Run()
	shared.server.Stop()
	os.Exit(code)
}

type object = map[string]any

// A world is a task namespace with the chart's policies.
type world struct {
	*harness.Kubernetes
	*kube.Authenticator

	namespace string
	config    *evidence.Config
	bindings  []object // of the policies, in their order
	proxy     *proxy   // in front of the API server, for the authenticator
	options   kube.Options
}

// A user is who sends a request; nil for the administrator.
type user struct {
	name   string
	groups []string
	extra  map[string]string
}

func (w *world) send(t testing.TB, u *user, method, path string, body any) (code int, answer object) {
	t.Helper()
	return send(t, w.Kubernetes, u, method, path, body)
}

func send(t testing.TB, k *harness.Kubernetes, u *user, method, path string, body any) (code int, answer object) {
	t.Helper()
	var text []byte
	if body != nil {
		var err error
		text, err = json.Marshal(body)
		require.NoError(t, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+k.Addr+path, bytes.NewReader(text))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if u != nil {
		r.Header.Set("Impersonate-User", u.name)
		r.Header["Impersonate-Group"] = append([]string{"system:authenticated"}, u.groups...)
		for key, value := range u.extra {
			r.Header["Impersonate-Extra-"+url.PathEscape(key)] = []string{value}
		}
	}
	resp, err := k.Transport().RoundTrip(r)
	require.NoError(t, err)
	defer resp.Body.Close() //nolint:errcheck // was read
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &answer), string(data))
	return resp.StatusCode, answer
}

// do sends a request until it succeeds: the API server learns of what allows it a moment later.
func (w *world) do(t testing.TB, u *user, method, path string, body any) object {
	t.Helper()
	for began := time.Now(); ; {
		code, answer := w.send(t, u, method, path, body)
		if code/100 == 2 {
			return answer
		}
		late := code == http.StatusForbidden || code == http.StatusNotFound
		if !late || time.Since(began) > 20*time.Second {
			require.FailNow(t, "refused", "%s %s: %d %v", method, path, code, answer["message"])
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// in returns the path of a collection of the namespace, or of a part of it.
func (w *world) in(group, resource string, more ...string) string {
	return strings.Join(append([]string{group, "namespaces", w.namespace, resource}, more...), "/")
}

const (
	core1  = "/api/v1"
	apps   = "/apis/apps/v1"
	flyte1 = "/apis/flyte.org/v1"
	ray    = "/apis/ray.io/v1"
)

func at(o object, path ...string) any {
	for i, name := range path {
		next, ok := o[name].(object)
		if i == len(path)-1 {
			return o[name]
		}
		if !ok {
			return nil
		}
		o = next
	}
	return o
}

func text(o object, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

func uid(o object) string { return text(o, "metadata", "uid") }

func name(o object) string { return text(o, "metadata", "name") }

// within returns the fields at a path, which it makes.
func within(o object, path ...string) object {
	for _, name := range path {
		next, ok := o[name].(object)
		if !ok {
			next = object{}
			o[name] = next
		}
		o = next
	}
	return o
}

// newWorld makes a namespace with the chart's policies in force. changes apply to the options.
func newWorld(t testing.TB, changes ...func(*kube.Options)) *world {
	t.Helper()
	harness.Bin(t, "helm")
	k := shared.server.Get(t)
	shared.once.Do(func() { definitions(t, k) })
	w := &world{Kubernetes: k, namespace: k.Namespace(t)}
	w.config = &evidence.Config{Organization: "flyte", TaskNamespaces: []string{w.namespace}}
	policies := map[string]evidence.Policy{}
	for _, o := range render(t, w) {
		kind := text(o, "kind")
		if !strings.Contains(kind, "Admission") {
			continue
		}
		if p := text(o, "spec", "policyName"); p != "" {
			policy := evidence.Policy{Name: p, Binding: name(o), Mutating: strings.HasPrefix(kind, "Mutating")}
			policies[policy.Base()] = policy
			w.config.Policies = append(w.config.Policies, policy)
			w.bindings = append(w.bindings, o)
		}
		code, answer := w.send(t, nil, http.MethodPost, home(o), o)
		if code/100 != 2 && code != http.StatusConflict { // a policy of an earlier world
			require.FailNow(t, "no policy", "%v", answer)
		}
	}
	require.Contains(t, policies, "inject-claims")
	for _, account := range []string{"default", "spark"} {
		w.do(t, nil, http.MethodPost, w.in(core1, "serviceaccounts"), object{"metadata": object{"name": account}})
	}
	w.until(t, "the policies", func() bool {
		code, _ := w.send(t, &user{name: "mallory", groups: []string{"system:masters"}}, http.MethodPost,
			w.in(core1, "serviceaccounts", "default", "token"),
			object{"spec": object{"audiences": []string{"inject"}}})
		return code == http.StatusForbidden
	})

	w.proxy = newProxy(t, k)
	w.options = kube.Options{
		Config: func() *evidence.Config { return w.config },
		Places: func() evidence.Places { return evidence.Places{} },
	}
	w.options.Policies = evidence.NewReader(w.client(t), w.options.Config)
	w.options.Reviews, w.options.Objects = w.client(t), w.client(t)
	for _, change := range changes {
		change(&w.options)
	}
	w.Authenticator = kube.New(w.options)
	return w
}

func (w *world) client(t testing.TB) *kubeapi.Client { return connect(t, w.proxy.kubeconfig) }

func connect(t testing.TB, kubeconfig string) *kubeapi.Client {
	t.Helper()
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: kubeconfig})
	require.NoError(t, err)
	c, err := cluster.Connect(64)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// until waits until something is so.
func (w *world) until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		require.Less(t, time.Since(began), 30*time.Second, what)
	}
}

// home returns the path of the collection of a policy or a binding.
func home(o object) string {
	resource := strings.ToLower(text(o, "kind")) + "s"
	if s, ok := strings.CutSuffix(resource, "ys"); ok {
		resource = s + "ies"
	}
	return "/apis/admissionregistration.k8s.io/v1/" + resource
}

// render returns the objects of the chart for a namespace.
func render(t testing.TB, w *world) []object {
	t.Helper()
	var version struct{ GitVersion string }
	require.NoError(t, json.Unmarshal(w.Call(t, http.MethodGet, "/version", nil), &version))
	return harness.ChartObjects(t, version.GitVersion, `
taskNamespaces: [`+w.namespace+`]
claimers: {accounts: [{namespace: flyte-system, name: flyte-binary}]}
mutation: {mode: "off"}
`)
}

// definitions makes the kinds of Flyte and of operators, which take any object, and the nodes.
func definitions(t testing.TB, k *harness.Kubernetes) {
	t.Helper()
	for _, kind := range []struct{ group, version, kind string }{
		{"flyte.org", "v1", "TaskAction"},
		{"ray.io", "v1", "RayCluster"},
		{"ray.io", "v1", "RayJob"},
		{"jobset.x-k8s.io", "v1", "Layer"},
	} {
		plural := strings.ToLower(kind.kind) + "s"
		k.Call(t, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", object{
			"metadata": object{"name": plural + "." + kind.group},
			"spec": object{
				"group": kind.group, "scope": "Namespaced",
				"names": object{"kind": kind.kind, "plural": plural, "singular": strings.ToLower(kind.kind)},
				"versions": []object{{
					"name": kind.version, "served": true, "storage": true,
					"schema": object{"openAPIV3Schema": object{
						"type": "object", "x-kubernetes-preserve-unknown-fields": true,
					}},
				}},
			},
		})
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			path := "/apis/" + kind.group + "/" + kind.version + "/namespaces/default/" + plural
			if code, _, err := k.Try(t.Context(), http.MethodGet, path, nil); err == nil && code == http.StatusOK {
				break
			}
			require.Less(t, time.Since(began), 30*time.Second, path)
		}
	}
	for _, node := range []string{"node-1", "node-2"} {
		k.Call(t, http.MethodPost, core1+"/nodes", object{"metadata": object{"name": node}})
	}
}

// A proxy is in front of the API server. It counts calls.
type proxy struct {
	kubeconfig string
	calls      atomic.Int64
	down       atomic.Bool
	hold       atomic.Pointer[chan struct{}] // calls wait until it is closed
	date       atomic.Int64                  // by how many seconds the API server's clock is ahead
}

func newProxy(t testing.TB, k *harness.Kubernetes) *proxy {
	t.Helper()
	p := &proxy{}
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: k.Addr})
	to.Transport = k.Transport()
	to.ModifyResponse = func(r *http.Response) error {
		ahead := time.Duration(p.date.Load()) * time.Second
		r.Header.Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.calls.Add(1)
		if wait := p.hold.Load(); wait != nil {
			select {
			case <-*wait:
			case <-r.Context().Done():
			}
		}
		if p.down.Load() {
			panic(http.ErrAbortHandler)
		}
		to.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(p.kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: %q}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
users: [{name: a, user: {}}]
current-context: a
`, server.URL), 0o600))
	return p
}

// A scope is a project and a domain that no other test has.
type scope struct{ project, domain string }

func newScope() scope {
	domains := []string{"development", "staging", "production"}
	return scope{"p-" + strings.ToLower(rand.Text()), domains[time.Now().Nanosecond()%len(domains)]}
}

// taskAction makes the TaskAction of a task that declares keys.
func (w *world) taskAction(t testing.TB, s scope, keys []string, edits ...func(object)) object {
	t.Helper()
	template := &core.TaskTemplate{
		Id: &core.Identifier{Project: s.project, Domain: s.domain, Name: "t"}, Type: "python",
		SecurityContext: &core.SecurityContext{},
	}
	for _, key := range keys {
		template.SecurityContext.Secrets = append(template.SecurityContext.Secrets, &core.Secret{Key: key})
	}
	binary, err := proto.Marshal(template)
	require.NoError(t, err)
	o := object{
		"apiVersion": "flyte.org/v1", "kind": "TaskAction",
		"metadata": object{"name": "r" + strings.ToLower(rand.Text()[:19]) + "-a0"},
		"spec":     object{"project": s.project, "domain": s.domain, "taskTemplate": binary, "taskType": "python"},
	}
	for _, edit := range edits {
		edit(o)
	}
	return w.do(t, nil, http.MethodPost, w.in(flyte1, "taskactions"), o)
}

// owner returns the owner reference of an object.
func owner(o object) object {
	return object{
		"apiVersion": o["apiVersion"], "kind": o["kind"], "name": name(o), "uid": uid(o), "controller": true,
	}
}

func ownedBy(owners ...object) func(object) {
	return func(o object) { within(o, "metadata")["ownerReferences"] = owners }
}

func label(key string, value any) func(object) {
	return func(o object) { within(o, "metadata", "labels")[key] = value }
}

func annotate(key, value string) func(object) {
	return func(o object) { within(o, "metadata", "annotations")[key] = value }
}

func scoped(s scope) func(object) {
	return func(o object) {
		labels := within(o, "metadata", "labels")
		labels["organization"], labels["project"], labels["domain"] = "flyte", s.project, s.domain
		labels["inject-flyte-secrets"] = "true"
	}
}

func declaring(keys ...string) func(object) {
	return func(o object) {
		for i, key := range keys {
			annotations := within(o, "metadata", "annotations")
			annotations[fmt.Sprint(annotation.Prefix, i)] = annotation.Encode(secret.Declaration{Key: key})
		}
	}
}

func called(name string) func(object) {
	return func(o object) { within(o, "metadata")["name"] = name }
}

func runsAs(account string) func(object) {
	return func(o object) { within(o, "spec")["serviceAccountName"] = account }
}

// newPod returns a pod that says nothing, with the volume that kubelet mounts the token in.
func newPod(edits ...func(object)) object {
	o := object{
		"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "pod-" + strings.ToLower(rand.Text())},
		"spec": object{
			"serviceAccountName": "default", "nodeName": "node-1",
			"containers": []object{{"name": "main", "image": "x:1"}},
			"volumes": []object{{"name": "inject-pod", "projected": object{"sources": []object{
				{"serviceAccountToken": object{"audience": "inject", "expirationSeconds": 600, "path": "token"}},
			}}}},
		},
	}
	for _, edit := range edits {
		edit(o)
	}
	return o
}

// pod makes a pod as a user.
func (w *world) pod(t testing.TB, u *user, edits ...func(object)) object {
	t.Helper()
	return w.do(t, u, http.MethodPost, w.in(core1, "pods"), newPod(edits...))
}

// task makes a TaskAction and its pod, as Flyte does.
func (w *world) task(t testing.TB, s scope, keys []string, edits ...func(object)) object {
	t.Helper()
	action := w.taskAction(t, s, keys)
	return w.pod(t, nil, append([]func(object){
		called(name(action) + "-0"), scoped(s), declaring(keys...), ownedBy(owner(action)),
	}, edits...)...)
}

// kubelet returns the kubelet of a pod's node.
func kubelet(pod object) *user {
	return &user{name: "system:node:" + text(pod, "spec", "nodeName"), groups: []string{"system:nodes"}}
}

// tokenFor returns the request for a token of a pod.
func tokenFor(pod object, audiences ...string) object {
	return object{"spec": object{
		"audiences": audiences, "expirationSeconds": 600,
		"boundObjectRef": object{"apiVersion": "v1", "kind": "Pod", "name": name(pod), "uid": uid(pod)},
	}}
}

// token mints the token of a pod, as its kubelet does.
func (w *world) token(t testing.TB, pod object) string {
	t.Helper()
	path := w.in(core1, "serviceaccounts", text(pod, "spec", "serviceAccountName"), "token")
	return text(w.do(t, kubelet(pod), http.MethodPost, path, tokenFor(pod, "inject")), "status", "token")
}

// forge signs a token with the key of the API server, with the claims of a pod's token, changed.
func (w *world) forge(t testing.TB, pod object, change func(claims object)) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.Dir, "pki", "accounts.key"))
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	require.NoError(t, err)
	return sign(t, key, w.keyID(t), w.claims(t, pod, change))
}

// claims returns those of the token of a pod, changed.
func (w *world) claims(t testing.TB, pod object, change func(claims object)) object {
	t.Helper()
	token, err := jwt.ParseSigned(w.token(t, pod), []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	var claims object
	require.NoError(t, token.UnsafeClaimsWithoutVerification(&claims))
	change(claims)
	return claims
}

// keyID returns the id that the API server gives its key.
func (w *world) keyID(t testing.TB) string {
	t.Helper()
	var keys jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(w.Call(t, http.MethodGet, "/openid/v1/jwks", nil), &keys))
	return keys.Keys[0].KeyID
}

func sign(t testing.TB, key *ecdsa.PrivateKey, id string, claims object) string {
	t.Helper()
	jwk := jose.JSONWebKey{Key: key, KeyID: id}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, nil)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}

func bearer(token string) identity.Credentials {
	return identity.Credentials{Bearer: secret.NewValue([]byte(token))}
}

func (w *world) ask(token string) (identity.Identity, error) {
	return w.Authenticate(context.Background(), bearer(token))
}

// served fails the test unless a token is that of a pod with this scope and these keys.
func (w *world) served(t testing.TB, token string, s scope, keys ...string) identity.Identity {
	t.Helper()
	id, err := w.ask(token)
	require.NoError(t, err)
	require.Equal(t, "kubernetes", id.Method)
	require.Equal(t, []string{w.namespace}, id.Attribute("kubernetes.namespace"))
	require.Equal(t, []string{s.project}, id.Attribute("kubernetes.project"))
	require.Equal(t, []string{s.domain}, id.Attribute("kubernetes.domain"))
	require.ElementsMatch(t, keys, id.Attribute("kubernetes.declared"))
	return id
}

// refused fails the test unless a token is refused for a reason.
func (w *world) refused(t testing.TB, reason, token string) {
	t.Helper()
	_ = w.refusal(t, reason, token)
}

// refusal is refused, and returns the error.
func (w *world) refusal(t testing.TB, reason, token string) error {
	t.Helper()
	id, err := w.ask(token)
	require.ErrorIs(t, err, identity.ErrUnauthenticated, reason)
	require.Equal(t, reason, identity.Reason(err), err)
	require.Empty(t, id.Method)
	require.NotContains(t, err.Error(), token)
	return err
}
