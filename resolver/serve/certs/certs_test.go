package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/certs"
)

var shared harness.SharedKubernetes

func TestMain(m *testing.M) {
	code := m.Run()
	shared.Stop()
	os.Exit(code)
}

type object = map[string]any

// place is a namespace of servers and two of tasks, with the file that names them.
type place struct {
	*harness.Kubernetes

	t      *testing.T
	server string
	tasks  []string
	config *certs.Config
}

const (
	usual = "{leaf: 720h, renew: 480h, authority: 8760h, publish: 168h}"
	short = "{leaf: 30s, renew: 10s, authority: 90s, publish: 4s}"
	// With these, all is read every 0.4 s, and nothing is renewed while a test runs.
	steady = "{leaf: 720h, renew: 480h, authority: 8760h, publish: 4s}"
)

func newPlace(t *testing.T, k *harness.Kubernetes, lifetimes string) *place {
	t.Helper()
	p := &place{Kubernetes: k, t: t, server: k.Namespace(t), tasks: []string{k.Namespace(t), k.Namespace(t)}}
	p.config = p.parse("self", "injectd-tls, names: [injectd.test.svc]", "lifetimes: "+lifetimes)
	k.Call(t, http.MethodPost, mutating, object{
		"metadata": object{"name": p.server},
		"webhooks": []object{p.hook("a.inject.test"), p.hook("b.inject.test")},
	})
	return p
}

const mutating = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"

// hook is a webhook that is never called: it selects no namespace of the tests.
func (p *place) hook(name string) object {
	return object{
		"name": name, "sideEffects": "None", "admissionReviewVersions": []string{"v1"}, "failurePolicy": "Ignore",
		"clientConfig":      object{"service": object{"namespace": p.server, "name": "inject-webhook"}},
		"namespaceSelector": object{"matchLabels": object{"inject.test/none": "x"}},
		"rules": []object{{
			"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"pods"},
			"operations": []string{"CREATE"},
		}},
	}
}

func (p *place) parse(source, server, more string) *certs.Config {
	p.t.Helper()
	names := ""
	if source == "self" {
		names = "names: [inject-webhook.test.svc], "
	}
	c, err := certs.Parse(fmt.Appendf(nil, `version: 1
source: %s
namespace: %s
taskNamespaces: [%s]
configMap: inject-ca
server: {secret: %s}
webhook: {secret: inject-webhook-tls, %sconfiguration: %s}
pullSecret: inject-pull
%s
`, source, p.server, strings.Join(p.tasks, ", "), server, names, p.server, more))
	require.NoError(p.t, err)
	return c
}

// A replica is a Keeper that runs.
type replica struct {
	*certs.Keeper

	log *harness.Buffer // what it logs
}

// keeper makes a Keeper that does not run yet.
func (p *place) keeper(kubeconfig string) *replica {
	p.t.Helper()
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: kubeconfig})
	require.NoError(p.t, err)
	client, err := cluster.Connect(4)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = client.Close() })
	l := &harness.Buffer{}
	return &replica{certs.New(certs.Options{
		Config: func() *certs.Config { return p.config }, Client: client,
		Log: hclog.New(&hclog.LoggerOptions{Output: l, Level: hclog.Debug}),
	}), l}
}

// start runs Keepers from the same moment on.
func (p *place) start(n int, kubeconfig string) (all []*replica) {
	p.t.Helper()
	for range n {
		all = append(all, p.keeper(kubeconfig))
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	var group sync.WaitGroup
	for _, r := range all {
		group.Go(func() { r.Run(ctx) })
	}
	p.t.Cleanup(func() { cancel(); group.Wait() })
	return all
}

func (r *replica) first(t *testing.T) *tls.Certificate {
	t.Helper()
	select {
	case <-r.First():
	case <-time.After(time.Minute):
		require.Fail(t, "no certificate", r.log)
	}
	c, _ := r.Certificate()
	return c
}

// good waits until a replica has found everything as it should be.
func (r *replica) good(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		_, failed := r.Status()
		var errs []error
		for _, err := range failed {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func (r *replica) part(p certs.Part) error {
	_, failed := r.Status()
	return failed[p]
}

func eventually(t *testing.T, check func() error, about ...any) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	require.NoError(t, err, about...)
}

func (p *place) path(namespace, kind, name string) string {
	return "/api/v1/namespaces/" + namespace + "/" + kind + "/" + name
}

// entries returns the data of a Secret or a ConfigMap, nil if there is none.
func (p *place) entries(namespace, kind, name string) map[string]string {
	p.t.Helper()
	code, answer, err := p.Try(p.t.Context(), http.MethodGet, p.path(namespace, kind, name), nil)
	require.NoError(p.t, err)
	if code == http.StatusNotFound {
		return nil
	}
	var o struct{ Data map[string]string }
	require.NoError(p.t, json.Unmarshal(answer, &o))
	if kind == "secrets" {
		for key, value := range o.Data {
			b, err := base64.StdEncoding.DecodeString(value)
			require.NoError(p.t, err)
			o.Data[key] = string(b)
		}
	}
	return o.Data
}

// bundles returns the authorities at every place where they are published.
func (p *place) bundles() (all []string) {
	for _, namespace := range append(slices.Clip(p.tasks), p.server) {
		all = append(all, p.entries(namespace, "configmaps", "inject-ca")["ca.crt"])
	}
	var o struct {
		Webhooks []struct{ ClientConfig struct{ CABundle []byte } }
	}
	require.NoError(p.t, json.Unmarshal(p.Call(p.t, http.MethodGet, mutating+"/"+p.server, nil), &o))
	require.Len(p.t, o.Webhooks, 2)
	for _, w := range o.Webhooks {
		all = append(all, string(w.ClientConfig.CABundle))
	}
	return all
}

// trusts checks that a client with these authorities accepts a certificate for a name.
func trusts(bundle string, c *tls.Certificate, name string) error {
	o := x509.VerifyOptions{DNSName: name, Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	if !o.Roots.AppendCertsFromPEM([]byte(bundle)) {
		return errors.New("no authority")
	}
	for _, der := range c.Certificate[1:] {
		between, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		o.Intermediates.AddCert(between)
	}
	_, err := c.Leaf.Verify(o)
	return err
}

// published checks that all places have the same authorities, with which clients accept the certificates of
// the server and of the webhook.
func (p *place) published(r *replica) error {
	c, _ := r.Certificate()
	all := p.bundles()
	hook := p.entries(p.server, "secrets", "inject-webhook-tls")
	webhook, err := tls.X509KeyPair([]byte(hook["tls.crt"]), []byte(hook["tls.key"]))
	if err != nil {
		return err
	}
	for _, bundle := range all {
		if bundle != all[0] {
			return errors.New("the places have different authorities")
		}
		if err := errors.Join(trusts(bundle, c, "injectd.test.svc"),
			trusts(bundle, &webhook, "inject-webhook.test.svc")); err != nil {
			return err
		}
	}
	return nil
}

// written counts the calls of the audit log that changed a Secret, by verb and code.
func (p *place) written(name string) map[string]int {
	p.t.Helper()
	text, err := os.ReadFile(p.AuditLog())
	require.NoError(p.t, err)
	all := map[string]int{}
	for line := range bytes.Lines(text) {
		var e struct {
			Verb           string
			ObjectRef      struct{ Namespace, Name, Resource string }
			ResponseStatus struct{ Code int }
		}
		if json.Unmarshal(line, &e) == nil && e.ObjectRef.Namespace == p.server && e.ObjectRef.Resource == "secrets" &&
			(e.ObjectRef.Name == name || e.Verb == "create") && (e.Verb == "create" || e.Verb == "update") {
			all[fmt.Sprint(e.Verb, " ", e.ResponseStatus.Code)]++
		}
	}
	return all
}

// Replicas that start at the same moment agree on one authority and one certificate, and publish it at every
// place. Nothing of the keys is in their logs.
func TestReplicas(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), usual)
	all := p.start(5, p.Kubeconfig())
	first := all[0].first(t)
	for _, r := range all {
		require.Equal(t, first.Certificate, r.first(t).Certificate)
		r.good(t)
	}
	eventually(t, func() error { return p.published(all[0]) })
	data := p.entries(p.server, "secrets", "injectd-tls")
	require.Len(t, data, 4)
	got := p.written("injectd-tls")
	t.Log(got)
	require.Equal(t, 2, got["create 201"], "two Secrets are made once")
	require.Zero(t, got["update 200"])
	spans, _ := all[1].Status()
	require.Len(t, spans, 3)
	require.WithinDuration(t, time.Now().Add(720*time.Hour), spans["server"].End, time.Hour)
	require.WithinDuration(t, time.Now().Add(8760*time.Hour), spans["authority"].End, time.Hour)

	for _, r := range all {
		for _, entry := range []string{"ca.key", "tls.key"} {
			block, _ := pem.Decode([]byte(data[entry]))
			require.NotNil(t, block)
			for _, form := range harness.Forms(string(block.Bytes)) {
				require.NotContains(t, r.log.String(), form)
			}
		}
		require.NotContains(t, r.log.String(), "PRIVATE KEY")
		require.Contains(t, r.log.String(), "in use", "the canary")
	}
}

// What others change or delete is as it was before within moments, and the rest of an object stays.
func TestRestored(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), steady)
	r := p.start(1, p.Kubeconfig())[0]
	var mu sync.Mutex
	pulls := []certs.Pull{{Key: "R", Config: secret.NewValue([]byte(`{"auths":{"r.test":{"auth":"dTpw"}}}`))}}
	r.Pull(func(context.Context) ([]certs.Pull, error) {
		mu.Lock()
		defer mu.Unlock()
		return pulls, nil
	})
	r.first(t)
	r.good(t)
	whole := func() error { return p.published(r) }
	pulled := func(want string) func() error {
		return func() error {
			for _, namespace := range p.tasks {
				if got := p.entries(namespace, "secrets", "inject-pull")[".dockerconfigjson"]; got != want {
					return fmt.Errorf("%s has %s", namespace, got)
				}
			}
			return nil
		}
	}
	const config = `{"auths":{"r.test":{"auth":"dTpw"}}}`
	eventually(t, whole)
	eventually(t, pulled(config))

	configMap := p.path(p.tasks[0], "configmaps", "inject-ca")
	for _, one := range []struct { // the labels of the second stay, so nothing after it deletes the object
		name   string
		change func()
	}{
		{"ConfigMap deleted", func() { p.Call(t, http.MethodDelete, configMap, nil) }},
		{"ConfigMap changed", func() {
			p.Call(t, http.MethodPut, configMap, object{
				"metadata": object{"name": "inject-ca", "labels": object{"team": "x"}},
				"data":     object{"ca.crt": "mine"},
			})
		}},
		{"caBundle taken out", func() {
			p.Call(t, http.MethodPut, mutating+"/"+p.server, object{
				"metadata": object{
					"name": p.server, "labels": object{"team": "x"},
					"resourceVersion": p.version(mutating + "/" + p.server),
				},
				"webhooks": []object{p.hook("a.inject.test"), p.hook("b.inject.test")},
			})
		}},
		{"webhook's certificate deleted", func() {
			p.Call(t, http.MethodDelete, p.path(p.server, "secrets", "inject-webhook-tls"), nil)
		}},
		{"everything deleted", func() {
			before := p.entries(p.server, "secrets", "injectd-tls")["ca.crt"]
			p.Call(t, http.MethodDelete, p.path(p.server, "secrets", "injectd-tls"), nil)
			eventually(t, func() error { // the places are whole until then, with the authority before it
				if now := p.entries(p.server, "secrets", "injectd-tls")["ca.crt"]; now == "" || now == before {
					return fmt.Errorf("the authority is %q", now)
				}
				return nil
			}, "everything deleted")
		}},
	} {
		one.change()
		eventually(t, whole, one.name)
	}
	require.Contains(t, string(p.Call(t, http.MethodGet, mutating+"/"+p.server, nil)), `"team":"x"`)
	require.Contains(t, string(p.Call(t, http.MethodGet, configMap, nil)), `"team":"x"`)
	require.Contains(t, r.log.String(), "was restored")

	pull := p.path(p.tasks[1], "secrets", "inject-pull")
	p.Call(t, http.MethodDelete, pull, nil)
	eventually(t, pulled(config))
	mu.Lock()
	pulls = nil
	mu.Unlock()
	eventually(t, pulled(`{"auths":{}}`))
	r.good(t)
	require.NotContains(t, r.log.String(), "dTpw")
}

// version returns the resource version of an object.
func (p *place) version(path string) string {
	p.t.Helper()
	var o struct {
		Metadata struct{ ResourceVersion string }
	}
	require.NoError(p.t, json.Unmarshal(p.Call(p.t, http.MethodGet, path, nil), &o))
	return o.Metadata.ResourceVersion
}

// A Secret that injectd did not make is named, and stays as it is. The certificate that is in use stays in
// use. A damaged one of its own is put right.
func TestForeign(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), steady)
	r := p.start(1, p.Kubeconfig())[0]
	r.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
	before := r.first(t)
	r.good(t)
	whole := p.entries(p.server, "secrets", "injectd-tls")

	// In one call: of a Secret that is deleted first, the replica may make its own before the other one is there.
	replace := func(namespace, name, kind string, data map[string]string) {
		p.Call(t, http.MethodPut, p.path(namespace, "secrets", name), object{
			"metadata": object{"name": name}, "type": "kubernetes.io/" + kind, "stringData": data,
		})
	}
	names := func(part certs.Part, name string) {
		t.Helper()
		eventually(t, func() error {
			err := r.part(part)
			if err == nil || !strings.Contains(err.Error(), "the Secret "+name+" in namespace ") {
				return fmt.Errorf("it says %w", err)
			}
			return nil
		})
		require.ErrorContains(t, r.part(part), "is not injectd's")
	}
	// The webhook's before the server's: without an authority nothing is done for the webhook.
	pair := map[string]string{"mine": "canary", "tls.crt": "", "tls.key": ""}
	three := []struct {
		namespace, name, kind string
		part                  certs.Part
		data                  map[string]string
	}{
		{p.server, "inject-webhook-tls", "tls", certs.PartWebhook, pair},
		{p.server, "injectd-tls", "tls", certs.PartServer, pair},
		{p.tasks[0], "inject-pull", "dockerconfigjson", certs.PartPull, map[string]string{
			".dockerconfigjson": `{"auths":{"canary":{}}}`,
		}},
	}
	for _, one := range three {
		replace(one.namespace, one.name, one.kind, one.data)
		names(one.part, one.name)
	}
	time.Sleep(time.Second) // more than two readings of all
	for _, one := range three {
		require.Equal(t, one.data, p.entries(one.namespace, "secrets", one.name))
	}
	now, err := r.Certificate()
	require.Equal(t, before.Certificate, now.Certificate)
	require.ErrorContains(t, err, "injectd-tls")
	require.Contains(t, r.log.String(), "stays in use until it ends")
	require.NotContains(t, r.log.String(), "canary")

	for _, one := range three {
		p.Call(t, http.MethodDelete, p.path(one.namespace, "secrets", one.name), nil)
	}
	r.good(t)
	require.NoError(t, p.published(r))
	other := p.entries(p.server, "secrets", "injectd-tls")
	require.NotEqual(t, whole["ca.crt"], other["ca.crt"])

	// Its own, with the key of another one.
	path := p.path(p.server, "secrets", "injectd-tls")
	p.Call(t, http.MethodPut, path, object{
		"metadata": object{"name": "injectd-tls", "labels": object{"inject.flyte.org/kept-by": "injectd"}},
		"type":     "kubernetes.io/tls",
		"stringData": object{
			"tls.crt": other["tls.crt"], "tls.key": whole["tls.key"], "ca.crt": other["ca.crt"], "ca.key": "canary",
		},
	})
	eventually(t, func() error {
		now := p.entries(p.server, "secrets", "injectd-tls")
		_, err := tls.X509KeyPair([]byte(now["tls.crt"]), []byte(now["tls.key"]))
		_, err2 := tls.X509KeyPair([]byte(now["ca.crt"]), []byte(now["ca.key"]))
		return errors.Join(err, err2)
	})
	eventually(t, func() error { return p.published(r) })
	require.Contains(t, p.bundles()[0], strings.TrimSpace(other["ca.crt"]), "clients trust the one before, too")
	require.Contains(t, r.log.String(), "ca.crt and ca.key: ")
	require.Contains(t, r.log.String(), "tls.crt and tls.key: ")
	require.NotContains(t, r.log.String(), "canary")
}

// A user of a task namespace can make the ConfigMap before injectd does, and fix what it has. Replicas take it
// over: after what the user made kubelet sees none, or the right one, and nothing else.
func TestTaken(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), steady)
	wrong, ending := object{"ca.crt": "mine"}, object{"name": "inject-ca", "finalizers": []string{"user.test/keep"}}
	pinned := map[string]object{
		"mutable":              {"data": wrong},
		"immutable":            {"data": wrong, "immutable": true},
		"immutable, finalizer": {"data": wrong, "immutable": true, "metadata": ending},
		"immutable, ending":    {"data": wrong, "immutable": true, "metadata": ending},
		"immutable, empty":     {"immutable": true},
		"binary":               {"binaryData": object{"ca.crt": []byte("mine")}},
		"binary, immutable":    {"binaryData": object{"ca.crt": []byte("mine")}, "immutable": true},
		"binary beside it":     {"data": wrong, "binaryData": object{"x": []byte("mine")}},
		"more":                 {"data": object{"ca.crt": "mine", "x": "y"}},
	}
	names := slices.Sorted(maps.Keys(pinned))
	path := func(namespace string) string { return p.path(namespace, "configmaps", "inject-ca") }
	p.tasks = nil
	for _, name := range names {
		namespace, o := p.Namespace(t), pinned[name]
		p.tasks = append(p.tasks, namespace)
		if o["metadata"] == nil {
			o["metadata"] = object{"name": "inject-ca"}
		}
		p.Call(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/configmaps", o)
		if name == "immutable, ending" {
			p.Call(t, http.MethodDelete, path(namespace), nil)
		}
	}
	p.config = p.parse("self", "injectd-tls, names: [injectd.test.svc]", "lifetimes: "+steady)

	seen := p.watch()
	all := p.start(3, p.Kubeconfig())
	eventually(t, func() (err error) {
		for i, namespace := range p.tasks {
			err = errors.Join(err, p.taken(namespace, names[i]))
		}
		return err
	})
	for _, r := range all {
		r.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
		r.good(t)
	}
	require.NoError(t, p.published(all[0]))
	for _, namespace := range p.tasks {
		require.NoError(t, p.taken(namespace, namespace))
	}
	logs := ""
	for _, r := range all {
		logs += r.log.String()
	}
	require.Contains(t, logs, "the ConfigMap was immutable, and another one was made")
	states := seen()
	for i, namespace := range p.tasks {
		require.Contains(t, states[namespace][0], "others'", "the canary")
		want := "others' true, none, injectd's false"
		if !strings.HasPrefix(names[i], "immutable") && names[i] != "binary, immutable" {
			want = "others' false, injectd's false"
		}
		require.Equal(t, want, strings.Join(states[namespace], ", "), names[i])
	}

	// One that is fixed with the right authorities could not get the next ones.
	fixed := p.configMap(p.tasks[0])
	require.NotEmpty(t, fixed.Data["ca.crt"])
	p.Call(t, http.MethodPut, path(p.tasks[0]), object{
		"metadata": object{"name": "inject-ca"}, "data": fixed.Data, "immutable": true,
	})
	eventually(t, func() error {
		if o := p.configMap(p.tasks[0]); o.Immutable || o.Data["ca.crt"] != fixed.Data["ca.crt"] {
			return fmt.Errorf("it is %+v", o)
		}
		return nil
	})
}

// configMap is that of the authorities in a namespace, empty if there is none.
func (p *place) configMap(namespace string) (o configMap) {
	p.t.Helper()
	code, answer, err := p.Try(p.t.Context(), http.MethodGet, p.path(namespace, "configmaps", "inject-ca"), nil)
	require.NoError(p.t, err)
	if code != http.StatusNotFound {
		require.NoError(p.t, json.Unmarshal(answer, &o))
	}
	return o
}

type configMap struct {
	Data, BinaryData map[string]string
	Immutable        bool
}

// ours reports whether it has the authorities of injectd, as kubelet reads them.
func (c configMap) ours() bool { return strings.HasPrefix(c.Data["ca.crt"], "-----BEGIN CERTIFICATE") }

// watch begins to watch all ConfigMaps of the authorities, as kubelet does. The function that it returns ends
// that, and returns the states of each, by namespace: whose it was, and whether it was immutable.
func (p *place) watch() func() map[string][]string {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	p.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"https://"+p.Addr+"/api/v1/configmaps?watch=1&fieldSelector=metadata.name%3Dinject-ca", nil)
	require.NoError(p.t, err)
	resp, err := (&http.Client{Transport: p.Transport()}).Do(r)
	require.NoError(p.t, err)
	states, done := map[string][]string{}, make(chan struct{})
	go func() {
		defer close(done)
		defer resp.Body.Close() //nolint:errcheck // it was read
		for events := json.NewDecoder(resp.Body); ; {
			var e struct {
				Type   string
				Object struct {
					configMap

					Metadata struct{ Namespace string }
				}
			}
			if events.Decode(&e) != nil {
				return
			}
			now, of := "none", states[e.Object.Metadata.Namespace]
			if e.Type != "DELETED" {
				whose := map[bool]string{true: "injectd's", false: "others'"}[e.Object.ours()]
				now = fmt.Sprint(whose, " ", e.Object.Immutable)
			}
			if len(of) == 0 || of[len(of)-1] != now {
				states[e.Object.Metadata.Namespace] = append(of, now)
			}
		}
	}()
	return func() map[string][]string { cancel(); <-done; return states }
}

// taken checks that a ConfigMap has the authorities of injectd and nothing else, and is not fixed.
func (p *place) taken(namespace, name string) error {
	o := p.configMap(namespace)
	if o.Immutable || o.BinaryData != nil || len(o.Data) != 1 || !o.ours() {
		return fmt.Errorf("%s: it is %+v", name, o)
	}
	return nil
}

// With certificates of others, the Secret is read, its authorities are published, and it is never written.
func TestGiven(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), usual)
	p.config = p.parse("secret", "mine", "")
	r := p.start(1, p.Kubeconfig())[0]
	eventually(t, func() error {
		if err := r.part(certs.PartServer); !strings.Contains(fmt.Sprint(err), "there is no Secret mine") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	a := harness.NewAuthority(t, t.TempDir())
	p.give(a, "mine", "injectd.test.svc")
	p.give(a, "inject-webhook-tls", "inject-webhook.test.svc")
	version := p.version(p.path(p.server, "secrets", "mine"))
	r.first(t)
	r.good(t)
	require.NoError(t, p.published(r))
	require.Equal(t, version, p.version(p.path(p.server, "secrets", "mine")))
	authority, err := os.ReadFile(a.CA())
	require.NoError(t, err)
	require.Equal(t, string(authority), p.bundles()[0])
}

// give puts a certificate for a host into a Secret, as cert-manager does, with that of its authority.
func (p *place) give(a *harness.Authority, name, host string) {
	p.t.Helper()
	authority, err := os.ReadFile(a.CA())
	require.NoError(p.t, err)
	cert, key := a.Issue(name, func(c *x509.Certificate) { c.DNSNames = []string{host} })
	data := object{"ca.crt": string(authority)}
	for entry, path := range map[string]string{"tls.crt": cert, "tls.key": key} {
		text, err := os.ReadFile(path)
		require.NoError(p.t, err)
		data[entry] = string(text)
	}
	method, path := http.MethodPost, "/api/v1/namespaces/"+p.server+"/secrets"
	if p.entries(p.server, "secrets", name) != nil {
		method, path = http.MethodPut, path+"/"+name
	}
	p.Call(p.t, method, path, object{"metadata": object{"name": name}, "stringData": data})
}

// An authority of others that is renewed in one step, as by cert-manager: with the same key and name each client
// accepts each server, whichever of the two certificates of the authority it has. With another key clients from before
// do not accept the certificates from then on, so the chart has the key kept.
func TestRenewed(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), usual)
	p.config = p.parse("secret", "mine", "")
	const host, hook = "injectd.test.svc", "inject-webhook.test.svc"
	first := harness.NewAuthority(t, t.TempDir())
	p.give(first, "mine", host)
	p.give(first, "inject-webhook-tls", hook)
	// run starts a server that reads what is there now, and returns its certificate, and what is published.
	run := func() (c *tls.Certificate, bundle string) {
		r := p.start(1, p.Kubeconfig())[0]
		c = r.first(t)
		eventually(t, func() error { return p.published(r) })
		return c, p.bundles()[0]
	}
	before, old := run()

	renewed := first.Renewed(t.TempDir())
	p.give(renewed, "mine", host)
	p.give(renewed, "inject-webhook-tls", hook)
	after, now := run()
	require.NotEqual(t, old, now)
	require.NotEqual(t, before.Certificate, after.Certificate)
	require.NoError(t, trusts(old, after, host), "a pod that began before")
	require.NoError(t, trusts(now, before, host), "a pod that asks a server that has not read it yet")

	other := harness.NewAuthority(t, t.TempDir())
	p.give(other, "mine", host)
	p.give(other, "inject-webhook-tls", hook)
	changed, next := run()
	require.NoError(t, trusts(next, changed, host))
	require.Error(t, trusts(old, changed, host))
	require.Error(t, trusts(next, after, host))
}

// The Secret of registries has the Role as its owner, also one that was there before and after the Role was made
// again. Without the Role none is made, because it would stay for ever.
func TestOwned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), steady)
	p.Call(t, http.MethodPost, "/api/v1/namespaces/"+p.tasks[0]+"/secrets", object{
		"metadata": object{"name": "inject-pull", "labels": object{"inject.flyte.org/kept-by": "injectd"}},
		"type":     "kubernetes.io/dockerconfigjson", "stringData": object{".dockerconfigjson": `{"auths":{}}`},
	})
	owners := func(namespace string) string {
		var o struct {
			Metadata struct {
				OwnerReferences []struct{ Kind, Name, UID string }
			}
		}
		path := p.path(namespace, "secrets", "inject-pull")
		require.NoError(t, json.Unmarshal(p.Call(t, http.MethodGet, path, nil), &o))
		return fmt.Sprint(o.Metadata.OwnerReferences)
	}
	require.Equal(t, "[]", owners(p.tasks[0]))

	roles := func(namespace string) string {
		return "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace + "/roles"
	}
	role := func(namespace string) string {
		var o struct{ Metadata struct{ UID string } }
		answer := p.Call(t, http.MethodPost, roles(namespace), object{"metadata": object{"name": "injectd-pods"}})
		require.NoError(t, json.Unmarshal(answer, &o))
		return "[{Role injectd-pods " + o.Metadata.UID + "}]"
	}
	p.config = p.parse("self", "injectd-tls, names: [injectd.test.svc]", "pullOwner: injectd-pods\nlifetimes: "+steady)
	want := role(p.tasks[0])
	r := p.start(1, p.Kubeconfig())[0]
	r.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
	eventually(t, func() error {
		err := r.part(certs.PartPull)
		if err == nil || !strings.Contains(err.Error(), "there is no Role injectd-pods in namespace "+p.tasks[1]) {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	require.Equal(t, want, owners(p.tasks[0]))
	role(p.tasks[1])
	r.good(t)
	p.Call(t, http.MethodDelete, roles(p.tasks[1])+"/injectd-pods", nil)
	want = role(p.tasks[1])
	eventually(t, func() error {
		if now := owners(p.tasks[1]); now != want {
			return errors.New(now)
		}
		return nil
	})
}

// Without a right the error names it, and with it everything is kept.
func TestRights(t *testing.T) {
	t.Parallel()
	admissions := []string{"admissionregistration.k8s.io"}
	rule := func(group []string, resource string, verbs ...string) harness.Rule {
		return harness.Rule{APIGroups: group, Resources: []string{resource}, Verbs: verbs}
	}
	core := []string{""}
	all := []harness.Rule{
		rule(core, "secrets", "get", "create", "update"),
		rule(core, "configmaps", "get", "create", "update", "delete"),
		rule(admissions, "mutatingwebhookconfigurations", "get", "patch"),
	}
	for lacks, rules := range map[string][]harness.Rule{
		"get secrets injectd-tls in namespace SERVER": {
			rule(core, "configmaps", "get", "create", "update"), rule(admissions, "*", "get", "patch"),
		},
		"create secrets injectd-tls in namespace SERVER": {
			rule(core, "secrets", "get", "update"), rule(core, "configmaps", "*"),
			rule(admissions, "*", "get", "patch"),
		},
		"create configmaps inject-ca in namespace TASKS": {
			rule(core, "secrets", "*"), rule(core, "configmaps", "get", "update"),
			rule(admissions, "*", "get", "patch"),
		},
		"patch mutatingwebhookconfigurations.admissionregistration.k8s.io SERVER": {
			rule(core, "secrets", "*"), rule(core, "configmaps", "*"), rule(admissions, "*", "get"),
		},
	} {
		// A place of its own: what a replica of another case has made needs no right to make it.
		p := newPlace(t, shared.Get(t), steady)
		lacks = strings.NewReplacer("SERVER", p.server, "TASKS", p.tasks[0]).Replace(lacks)
		r := p.start(1, p.User(t, "", rules))[0]
		eventually(t, func() error {
			_, failed := r.Status()
			said := fmt.Sprint(failed)
			if !strings.Contains(said, lacks) || !strings.Contains(said, "access denied") {
				return fmt.Errorf("it says %s, not %s", said, lacks)
			}
			return nil
		})
		may := p.start(1, p.User(t, "", all))[0]
		may.good(t)
		eventually(t, func() error { return p.published(may) }, lacks)
	}
}

// A server whose API server does not answer waits, and uses the certificate that it has on.
func TestOutage(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	p := newPlace(t, k, short)
	k.KillAPI()
	r := p.start(1, k.Kubeconfig())[0]
	eventually(t, func() error {
		_, err := r.Certificate()
		if !errors.Is(err, secret.ErrUnavailable) || strings.Contains(err.Error(), "not been") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	require.NoError(t, k.StartAPI())
	r.good(t)
	before, _ := r.Certificate()
	k.KillAPI()
	time.Sleep(time.Until(before.Leaf.NotAfter.Add(-15 * time.Second))) // it would have been renewed 5 s before
	now, err := r.Certificate()
	require.Equal(t, before.Certificate, now.Certificate)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.Contains(t, r.log.String(), "the present one stays in use until it ends")
	require.NoError(t, k.StartAPI())
	eventually(t, func() error {
		if now, _ := r.Certificate(); !now.Leaf.NotAfter.After(before.Leaf.NotAfter) {
			return errors.New("it is the one before")
		}
		return p.published(r)
	})
	require.Contains(t, r.log.String(), "kept again")
}

// later returns the kubeconfig of an API server whose clock is ahead of ours.
func (p *place) later(by time.Duration) string {
	return p.proxy(func(*http.Request) {}, func(r *http.Response) error {
		r.Header.Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		return nil
	})
}

// proxy returns the kubeconfig of an API server that is reached through a proxy, which shows each request before it
// is passed on, and each answer.
func (p *place) proxy(asked func(*http.Request), answered func(*http.Response) error) string {
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: p.Transport(),
		Rewrite: func(r *httputil.ProxyRequest) {
			asked(r.Out)
			r.Out.URL.Scheme, r.Out.URL.Host = "https", p.Addr
		},
		ModifyResponse: answered,
	})
	p.t.Cleanup(proxy.Close)
	file := filepath.Join(p.t.TempDir(), "kubeconfig")
	require.NoError(p.t, os.WriteFile(file, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c,
clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c}}]}`, proxy.URL), 0o600))
	return file
}

// A replica that is held up after it has read the authorities does not publish them when there are others by then.
// It reads again, and finds those published.
func TestSlow(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), steady)
	var mu sync.Mutex
	var sent []byte // all that the slow replica writes
	var hold chan struct{}
	reached := make(chan struct{}, 1)
	slow := p.start(1, p.proxy(func(r *http.Request) {
		mu.Lock()
		held := hold
		if r.Body != nil && r.Method != http.MethodGet {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(text))
			sent = append(sent, text...)
		}
		mu.Unlock()
		if held != nil && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/configmaps/inject-ca") {
			select {
			case reached <- struct{}{}:
			default:
			}
			<-held
		}
	}, nil))[0]
	slow.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
	slow.first(t)
	slow.good(t)
	before := p.bundles()[0]
	// A ConfigMap has a line of the certificate as it is, and a caBundle has all of it in base64. These are of the
	// signature, because names and times of two authorities may be equal.
	lines := strings.Split(strings.TrimSpace(before), "\n")
	line := lines[len(lines)-3]
	encoded := base64.StdEncoding.EncodeToString([]byte(before))
	inBase64 := encoded[len(encoded)-160 : len(encoded)-60]
	mu.Lock()
	require.Contains(t, string(sent), line, "the canary")
	require.Contains(t, string(sent), inBase64, "the canary")
	sent, hold = nil, make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	mu.Unlock()

	<-reached // it has read the Secret
	p.Call(t, http.MethodDelete, p.path(p.server, "secrets", "injectd-tls"), nil)
	r := p.start(1, p.Kubeconfig())[0]
	r.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
	r.first(t)
	r.good(t)
	require.NoError(t, p.published(r))
	now := p.bundles()[0]
	require.NotContains(t, now, line)
	require.NotContains(t, base64.StdEncoding.EncodeToString([]byte(now)), inBase64)

	release()
	want, _ := r.Certificate()
	eventually(t, func() error {
		if got, _ := slow.Certificate(); !bytes.Equal(got.Certificate[0], want.Certificate[0]) {
			return errors.New("it has the certificate from before")
		}
		return nil
	})
	slow.good(t)
	require.Equal(t, now, p.bundles()[0])
	mu.Lock()
	defer mu.Unlock()
	require.NotContains(t, string(sent), line)
	require.NotContains(t, string(sent), inBase64)
}

// What is due is decided by the clock of the API server, and not by that of a replica: one with another clock
// would renew what is not due, or not renew what is.
func TestClock(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), usual)
	before := p.start(1, p.Kubeconfig())[0].first(t)
	same := p.start(1, p.later(19*24*time.Hour))[0]
	same.good(t)
	require.Equal(t, before.Certificate, same.first(t).Certificate, "19 days later it is not due")
	r := p.start(1, p.later(21*24*time.Hour))[0]
	r.good(t)
	after := r.first(t)
	require.WithinDuration(t, before.Leaf.NotAfter.AddDate(0, 0, 21), after.Leaf.NotAfter, time.Minute)
	require.WithinDuration(t, before.Leaf.NotBefore.AddDate(0, 0, 21), after.Leaf.NotBefore, time.Minute)
}

// Three replicas renew certificates, and change the authority: each renewal is one write, the next authority
// is everywhere before it signs, and a client that knows only the first authority is served until that ends.
func TestChange(t *testing.T) {
	t.Parallel()
	p := newPlace(t, shared.Get(t), "{leaf: 20s, renew: 8s, authority: 60s, publish: 4s}")
	all := p.start(3, p.Kubeconfig())
	all[0].first(t)
	all[0].good(t)
	first := p.bundles()[0]
	ends := all[0].first(t).Leaf.NotAfter
	issuers, serials := map[string]bool{}, map[string]bool{}
	spans, _ := all[0].Status()
	last := spans["authority"].End.Add(-2 * time.Second)
	for ; time.Now().Before(last); time.Sleep(100 * time.Millisecond) {
		for _, r := range all {
			c, err := r.Certificate()
			require.NoError(t, err)
			require.NoError(t, trusts(first, c, "injectd.test.svc"), "a client that knows the first authority")
			issuers[c.Leaf.Issuer.String()], serials[c.Leaf.SerialNumber.String()] = true, true
			require.NoError(t, trusts(p.bundles()[0], c, "injectd.test.svc"))
		}
	}
	require.Len(t, issuers, 2)
	require.Greater(t, len(serials), 3)
	require.Greater(t, time.Since(ends), time.Duration(0))
	got := p.written("injectd-tls")
	t.Log(got, len(serials))
	require.Less(t, got["update 200"], 2*len(serials)+6, "replicas do not renew what another one has renewed")
}
