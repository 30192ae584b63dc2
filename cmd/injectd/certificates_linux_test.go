package main_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// certified are servers that keep their certificates in Kubernetes.
type certified struct {
	*replicas

	server, tasks string // namespaces
}

func newCertified(t *testing.T, k *harness.Kubernetes, lifetimes string) *certified {
	t.Helper()
	c := &certified{newReplicas(t, k), k.Namespace(t), k.Namespace(t)}
	file := filepath.Join(c.dir, "certificates.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `version: 1
source: self
namespace: %s
taskNamespaces: [%s]
configMap: inject-ca
server: {secret: injectd-tls, names: [localhost]}
pullSecret: inject-pull
lifetimes: %s
`, c.server, c.tasks, lifetimes), 0o600))
	user := k.User(t, "", []harness.Rule{{
		APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"},
		Verbs: []string{"get", "create", "update"},
	}})
	flags := []string{"--kube-certificates", file, "--kube-certificates-kubeconfig", user}
	for i := 0; i < len(c.flags); i += 2 {
		if !strings.HasPrefix(c.flags[i], "--cert") {
			flags = append(flags, c.flags[i], c.flags[i+1])
		}
	}
	c.flags = flags
	return c
}

// bundle returns the authorities that are published.
func (c *certified) bundle(t *testing.T) []byte {
	t.Helper()
	var o struct{ Data map[string]string }
	require.NoError(t, json.Unmarshal(
		c.Call(t, http.MethodGet, "/api/v1/namespaces/"+c.tasks+"/configmaps/inject-ca", nil), &o))
	return []byte(o.Data["ca.crt"])
}

// dial makes a handshake with a server, and returns its certificate.
func dial(ctx context.Context, address string, bundle []byte) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return nil, errors.New("not TLS")
	}
	return secure.ConnectionState().PeerCertificates[0], nil
}

// Under load, certificates are renewed at least three times and the authority once, and no handshake fails: of
// a client that reads the authorities as they are, nor of one that has those of the start. An open connection
// stays. No private key leaves its Secret.
func TestCertificatesUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCertified(t, kubernetes.Get(t), "{leaf: 24s, renew: 10s, authority: 80s, publish: 6s}")
	servers := []*process{c.start(t), c.start(t)}
	first := c.bundle(t)
	authority, _ := pem.Decode(first)
	oldest, err := x509.ParseCertificate(authority.Bytes)
	require.NoError(t, err)

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(first)
	open := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true,
	}}
	_, port, err := net.SplitHostPort(servers[0].host())
	require.NoError(t, err)
	ask := func() error {
		resp, err := open.Get("https://" + net.JoinHostPort("localhost", port) + "/")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	require.NoError(t, ask())

	var mu sync.Mutex
	serials, issuers, keys := map[string]bool{}, map[string]bool{}, map[string]string{}
	var failed []error
	var handshakes atomic.Int64
	note := func(cert *x509.Certificate, err error) {
		handshakes.Add(1)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed = append(failed, err)
			return
		}
		serials[cert.SerialNumber.String()], issuers[cert.Issuer.String()] = true, true
	}
	ctx, cancel := context.WithDeadline(t.Context(), oldest.NotAfter.Add(-2*time.Second))
	defer cancel()
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				note(dial(t.Context(), servers[i%2].host(), first))
			}
		})
	}
	for ctx.Err() == nil {
		bundle := c.bundle(t)
		for _, p := range servers {
			note(dial(t.Context(), p.host(), bundle))
		}
		require.NoError(t, ask())
		for entry, value := range c.secret(t, c.server, "injectd-tls") {
			if strings.HasSuffix(entry, ".key") {
				keys[value] = entry
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	group.Wait()
	t.Log(handshakes.Load(), "handshakes,", len(serials), "certificates,", len(issuers), "authorities")
	require.Empty(t, failed)
	require.GreaterOrEqual(t, len(serials), 4, "certificates")
	require.Len(t, issuers, 2, "authorities")
	require.Greater(t, handshakes.Load(), int64(100))

	texts := map[string]string{}
	for i, p := range servers {
		_, metrics := scrape(t, p)
		texts[fmt.Sprint("log ", i)], texts[fmt.Sprint("audit ", i)] = p.stderr.String(), p.stdout.String()
		texts[fmt.Sprint("metrics ", i)] = metrics
	}
	audit, err := os.ReadFile(c.AuditLog())
	require.NoError(t, err)
	texts["audit log of the API server"] = string(audit)
	values := map[string]string{}
	for key, entry := range keys {
		block, _ := pem.Decode([]byte(key))
		require.NotNil(t, block)
		values[entry+" "+fmt.Sprint(len(values))] = base64.StdEncoding.EncodeToString(block.Bytes)[60:]
	}
	require.Greater(t, len(values), 4)
	canary := map[string]string{"canary": texts["log 0"]}
	for _, v := range values {
		canary["canary"] += v
		break
	}
	require.Error(t, harness.FindLeak(canary, values), "the search finds a key")
	require.NoError(t, harness.FindLeak(texts, values))
}

// secret returns the entries of a Secret.
func (c *certified) secret(t *testing.T, namespace, name string) map[string]string {
	t.Helper()
	var o struct{ Data map[string][]byte }
	require.NoError(t, json.Unmarshal(
		c.Call(t, http.MethodGet, "/api/v1/namespaces/"+namespace+"/secrets/"+name, nil), &o))
	all := map[string]string{}
	for entry, value := range o.Data {
		all[entry] = string(value)
	}
	return all
}

// A server waits for the API server when it starts, says so on /readyz, and serves once it answers. The image
// pull secrets of the org, and no others, reach the task namespace. The metrics are those of the reference.
func TestCertificatesAtStart(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	c := newCertified(t, k, "{leaf: 720h, renew: 480h, authority: 8760h, publish: 168h}")
	k.KillAPI()
	p, err := launch(filepath.Join(binaries, "injectd"), "serve", c.dir, []string{"HOME=" + c.dir}, c.flags...)
	require.NoError(t, err)
	defer p.cmd.Process.Kill() //nolint:errcheck // it has ended
	address := regexp.MustCompile(`"operations are served".*"address":"([^"]+)"`)
	require.Eventually(t, func() bool { return address.MatchString(p.stderr.String()) }, time.Minute,
		50*time.Millisecond)
	ops := address.FindStringSubmatch(p.stderr.String())[1]
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + ops + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close() //nolint:errcheck // read whole
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	answers := func(path string) {
		t.Helper()
		ok := func() bool { code, _ := get(path); return code == http.StatusOK }
		require.Eventually(t, ok, time.Minute, 50*time.Millisecond)
	}
	code, _ := get("/livez")
	require.Equal(t, http.StatusOK, code)
	code, text := get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "there is no certificate yet: the API server of Kubernetes has not answered\n", text)
	_, text = get("/metrics")
	require.Contains(t, text, `inject_certificates_kept{part="server"} 0`)
	require.Contains(t, text, "\ninject_ready 0\n")
	require.Contains(t, text, "\ninject_build_info{")
	require.NoError(t, k.StartAPI())
	require.NoError(t, p.wait())
	answers("/readyz")

	ca := filepath.Join(c.dir, "published.pem")
	require.NoError(t, os.WriteFile(ca, c.bundle(t), 0o600))
	_, port, err := net.SplitHostPort(p.host())
	require.NoError(t, err)
	manager, err := rpc.Open(rpc.Options{
		Address: net.JoinHostPort("localhost", port), TLS: true, CAFile: ca, Timeout: time.Minute,
		CertFile: filepath.Join(c.dir, "pki", "platform.pem"), KeyFile: filepath.Join(c.dir, "pki", "platform.key"),
	})
	require.NoError(t, err)
	defer manager.Close() //nolint:errcheck // of the test
	for scope, registry := range map[secret.Scope]string{
		{Org: "flyte"}:                            "org.test",
		{Org: "flyte", Domain: "d"}:               "domain.test",
		{Org: "flyte", Project: "none"}:           "project.test",
		{Org: "flyte", Project: "p", Domain: "d"}: "narrow.test",
	} {
		ref := secret.Ref{Scope: scope, Key: "REGISTRY"}
		config := fmt.Appendf(nil, `{"auths":{%q:{"auth":"dTpw"}}}`, registry)
		require.NoError(t, manager.Create(t.Context(), ref, secret.NewValue(config), store.ImagePull))
	}
	require.NoError(t, manager.Create(t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "OTHER"},
		secret.NewValue([]byte(`{"auths":{"regular.test":{"auth":"dTpw"}}}`)), store.Regular))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM)) // a new start looks at once
	<-p.ended
	p = c.start(t)
	require.Eventually(t, func() bool {
		return strings.Contains(c.secret(t, c.tasks, "inject-pull")[".dockerconfigjson"], "org.test")
	}, time.Minute, 50*time.Millisecond)
	require.JSONEq(t, `{"auths":{"org.test":{"auth":"dTpw"}}}`, c.secret(t, c.tasks, "inject-pull")[".dockerconfigjson"])

	_, text = scrape(t, p)
	reference, err := os.ReadFile("../../docs/reference/certificates.md")
	require.NoError(t, err)
	names := regexp.MustCompile(`inject_certificates_[a-z_]+`)
	documented := map[string]bool{}
	for _, name := range names.FindAllString(string(reference), -1) {
		documented[name] = true
		require.Contains(t, text, "# TYPE "+name+" gauge")
	}
	require.Len(t, documented, 3)
	for _, name := range names.FindAllString(text, -1) {
		require.True(t, documented[name], name)
	}
	require.Contains(t, text, `inject_certificates_kept{part="server"} 1`)
	require.Contains(t, text, "\ninject_ready 1\n")
	require.Contains(t, text, `inject_source_stale{source="kube-certificates"} 0`)
}

// A server that waits for a certificate ends when it is asked to.
func TestCertificatesStop(t *testing.T) {
	t.Parallel()
	c := newCertified(t, kubernetes.Get(t), "{leaf: 720h, renew: 480h, authority: 8760h, publish: 168h}")
	c.Call(t, http.MethodPost, "/api/v1/namespaces/"+c.server+"/secrets", map[string]any{
		"metadata": map[string]any{"name": "injectd-tls"}, "stringData": map[string]string{"mine": "canary"},
	})
	cmd := exec.Command(filepath.Join(binaries, "injectd"), append([]string{
		"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
	}, c.flags...)...)
	cmd.Env = []string{"HOME=" + c.dir}
	said := &harness.Buffer{}
	cmd.Stderr = said
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill() //nolint:errcheck // it has ended
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "is not injectd's") }, time.Minute,
		50*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	require.NotContains(t, said.String(), "canary")
	require.NotContains(t, said.String(), `"serving"`)
}
