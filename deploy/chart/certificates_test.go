package chart_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/certs"
)

// certificatesKept is the check of what injectd serve --kube-certificates keeps.
const certificatesKept = "certificates are kept"

// certificates keeps certificates as the account does, until they are as they should be, and again after others
// have changed each object.
func (l *least) certificates(ctx context.Context) error {
	of := func(name string) string { return name + "-" + l.name }
	const configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	l.do(l.t, admin, post(configurations, object{
		"metadata": object{"name": of("inject-webhook")},
		"webhooks": []object{{
			"name": "pods.inject.test", "sideEffects": "None", "admissionReviewVersions": []string{"v1"},
			"clientConfig": object{"service": object{"namespace": "inject-system", "name": "inject-webhook"}},
		}},
	}))
	roles := collection("rbac.authorization.k8s.io/v1", "roles", "flyte")
	l.do(l.t, admin, post(roles, object{"metadata": object{"name": of("injectd-pods")}}))
	c := &certs.Config{
		Namespace: "inject-system", TaskNamespaces: []string{"flyte"}, ConfigMap: of("inject-ca"),
		Server: certs.Leaf{Secret: of("injectd-tls"), Names: []string{"injectd.test"}},
		Webhook: certs.Leaf{
			Secret: of("inject-webhook-tls"), Names: []string{"webhook.test"}, Configuration: of("inject-webhook"),
		},
		PullSecret: of("inject-pull"), PullOwner: of("injectd-pods"),
		LeafTime: time.Hour, RenewTime: time.Hour - 10*time.Second,
		AuthorityTime: 3 * time.Hour, PublishTime: 2 * time.Second,
	}
	k := certs.New(certs.Options{
		Config: func() *certs.Config { return c }, Client: l.client(), Log: hclog.NewNullLogger(),
	})
	k.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	defer func() { cancel(); <-done }()

	settled := func(as func() error) error {
		var err error
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			_, failed := k.Status()
			var errs []error
			for _, err := range failed {
				errs = append(errs, err)
			}
			if err = errors.Join(append(errs, as())...); err == nil || errors.Is(err, secret.ErrDenied) {
				return err
			}
		}
		return err
	}
	if err := settled(func() error { return nil }); err != nil {
		return err
	}

	broken := base64.StdEncoding.EncodeToString([]byte("{}"))
	places := []place{
		{"inject-system", "secrets", c.Server.Secret, "ca.key", broken, false},
		{"inject-system", "secrets", c.Webhook.Secret, "tls.key", broken, false},
		{"inject-system", "configmaps", c.ConfigMap, "ca.crt", "{}", false},
		{"flyte", "configmaps", c.ConfigMap, "ca.crt", "{}", false},
		{"flyte", "secrets", c.PullSecret, ".dockerconfigjson", broken, false},
	}
	if err := settled(l.changed(places)); err != nil {
		return err
	}
	for i := range places { // what cannot be changed any more
		places[i].fixed = places[i].kind == "configmaps"
	}
	return settled(l.changed(places))
}

// A place is an entry of an object that others change.
type place struct {
	namespace, kind, name, entry, value string

	fixed bool // the object is then immutable
}

// changed changes objects, and returns the check that they are not as they were changed.
func (l *least) changed(places []place) func() error {
	path := func(p place) string { return collection("v1", p.kind, p.namespace) + "/" + p.name }
	for _, p := range places {
		o := l.do(l.t, admin, fetch(path(p)))
		in(o, "data")[p.entry] = p.value
		if p.fixed {
			o["immutable"] = true
		}
		l.do(l.t, admin, request{method: http.MethodPut, path: path(p), body: o})
	}
	return func() (err error) {
		for _, p := range places {
			a := l.try(l.t, admin, fetch(path(p)))
			if !a.ok() || text(a.object, "data", p.entry) == p.value {
				err = errors.Join(err, fmt.Errorf("%s: %s is as it was changed, or is not there", path(p), a))
			}
		}
		return err
	}
}

// registriesEnd takes a namespace out of those of tasks, as an upgrade of the chart does, which deletes its Role. The
// credentials of registries go with it, and those of another namespace stay.
func (c *cluster) registriesEnd(t *testing.T, status func(path string) func() string) {
	t.Helper()
	config := &certs.Config{
		Given: true, Namespace: "inject-system", TaskNamespaces: []string{"flyte", "leaving"}, ConfigMap: "inject-ca",
		Server: certs.Leaf{Secret: "none"}, PullSecret: "inject-pull", PullOwner: "injectd-pods",
	}
	found, err := kubeapi.Find(kubeapi.Options{Kubeconfig: c.Kubeconfig()})
	require.NoError(t, err)
	client, err := found.Connect(4)
	require.NoError(t, err)
	k := certs.New(certs.Options{
		Config: func() *certs.Config { return config }, Client: client, Log: hclog.NewNullLogger(),
	})
	k.Pull(func(context.Context) ([]certs.Pull, error) { return nil, nil })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	pull := func(namespace string) string { return collection("v1", "secrets", namespace) + "/inject-pull" }
	for _, namespace := range config.TaskNamespaces {
		c.until(t, "the credentials of "+namespace, status(pull(namespace)), "200")
	}
	cancel()
	<-done
	require.NoError(t, client.Close())
	c.do(t, admin, remove(collection(rbac+"/v1", "roles", "leaving")+"/injectd-pods"))
	c.until(t, "the end of the credentials", status(pull("leaving")), "404")
	c.do(t, admin, fetch(pull("flyte")))
}

// managed are the fields of cert-manager's Certificate and Issuer that the chart uses, as cert-manager documents them
// (https://cert-manager.io/docs/reference/api-docs). cert-manager itself is not run.
type managed struct {
	APIVersion, Kind string
	Metadata         struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Spec struct {
		// of an Issuer
		SelfSigned *struct{}
		CA         struct{ SecretName string }
		// of a Certificate
		IsCA                             bool
		CommonName, SecretName, Duration string
		DNSNames                         []string
		Usages                           []string
		PrivateKey                       struct {
			Algorithm      string
			Size           int
			RotationPolicy string
		}
		IssuerRef struct{ Group, Kind, Name string }
	}
}

// TestCertManager checks what the chart asks of cert-manager: an authority that keeps its key when it is renewed, and
// certificates that it signs, in the Secrets that the servers read. TestRenewed shows why the key stays.
func TestCertManager(t *testing.T) {
	t.Parallel()
	got := map[string]managed{}
	for _, o := range render(t, "v1.30.0", "--set", "certificates.source=cert-manager") {
		if !strings.HasPrefix(text(o, "apiVersion"), "cert-manager.io/") {
			continue
		}
		data, err := json.Marshal(o)
		require.NoError(t, err)
		var m managed
		strict := json.NewDecoder(bytes.NewReader(data))
		strict.DisallowUnknownFields()
		require.NoError(t, strict.Decode(&m))
		require.Equal(t, "cert-manager.io/v1", m.APIVersion)
		require.Equal(t, "inject-system", m.Metadata.Namespace)
		got[m.Kind+" "+m.Metadata.Name] = m
	}
	require.Len(t, got, 5)
	require.NotNil(t, got["Issuer inject-self"].Spec.SelfSigned)
	authority := got["Certificate inject-authority"].Spec
	require.True(t, authority.IsCA)
	require.Equal(t, "inject-self", authority.IssuerRef.Name)
	require.Equal(t, "Never", authority.PrivateKey.RotationPolicy)
	require.Equal(t, authority.SecretName, got["Issuer inject-authority"].Spec.CA.SecretName)
	for name, secret := range map[string]string{"injectd": "injectd-tls", "inject-webhook": "inject-webhook-tls"} {
		leaf := got["Certificate "+name].Spec
		require.Equal(t, secret, leaf.SecretName)
		require.Equal(t, "Issuer inject-authority", leaf.IssuerRef.Kind+" "+leaf.IssuerRef.Name)
		require.Contains(t, leaf.DNSNames, name+".inject-system.svc")
		require.Equal(t, "Always", leaf.PrivateKey.RotationPolicy)
	}
}
