package serve_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serverFiles returns the certificate files of a server for clients of the authority.
func serverFiles(a *harness.Authority) transport.CertificateFiles {
	cert, key := a.Issue("server", harness.Local)
	return transport.CertificateFiles{Cert: cert, Key: key, ClientCA: a.CA()}
}

// certOf returns a client certificate with a SPIFFE ID.
func certOf(a *harness.Authority, name, id string) *tls.Certificate {
	pair := a.Pair(name, a.SPIFFE(id))
	return &pair
}

// setup configures the server of a test.
type setup struct {
	policy  string
	change  func(*serve.Options)
	chain   []identity.Authenticator // nil: mTLS
	limits  transport.Limits
	drain   time.Duration
	overdue bool // it will not have answered by the end of drain
}

// running is a server on a port of its own. Everything but the store is real.
type running struct {
	*harness.Authority

	t testing.TB

	address      string
	backend      store.Store
	audit        *lockedBuffer
	log          *lockedBuffer
	registry     *prometheus.Registry
	files        transport.CertificateFiles
	certificates *transport.Certificates
	policyPath   string
	policy       *policy.File
	ended        func() error // tells it to end, and returns how it has
}

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	fail error
	full bool // there are room bytes left
	room int
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	if l.full && len(p) > l.room {
		n, _ := l.b.Write(p[:l.room])
		l.room = 0
		return n, syscall.ENOSPC
	}
	return l.b.Write(p)
}

// setRoom leaves room for n more bytes, or without a limit if n is negative.
func (l *lockedBuffer) setRoom(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full, l.room = n >= 0, n
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// from returns the text after the first n bytes.
func (l *lockedBuffer) from(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b.Bytes()[n:])
}

func (l *lockedBuffer) setFail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// lines returns the lines after the first n.
func (l *lockedBuffer) lines(t testing.TB, n int) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m), "every line is one JSON object")
		all = append(all, m)
	}
	require.GreaterOrEqual(t, len(all), n)
	return all[n:]
}

// start starts a server with the policy and the chain of authenticators, by default mTLS.
func start(t testing.TB, policyText string, change func(*serve.Options), chain ...identity.Authenticator) *running {
	t.Helper()
	return setup{policy: policyText, change: change, chain: chain}.start(t)
}

func (s setup) start(t testing.TB) *running {
	t.Helper()
	r := &running{
		Authority: harness.NewAuthority(t, t.TempDir()), t: t, backend: storetest.Memory(),
		audit: &lockedBuffer{}, log: &lockedBuffer{}, registry: prometheus.NewRegistry(),
	}
	ctx, cancel := context.WithCancel(context.Background())
	logger := hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Debug})
	r.policyPath = r.Path("policy.yaml")
	require.NoError(t, os.WriteFile(r.policyPath, []byte(s.policy), 0o600))
	var err error
	r.policy, err = policy.Open(ctx, r.policyPath, secret.DefaultOrg, logger)
	require.NoError(t, err)
	r.files = serverFiles(r.Authority)
	r.certificates, err = transport.LoadCertificates(ctx, r.files, logger)
	require.NoError(t, err)
	chain := identity.Chain(s.chain)
	if chain == nil {
		chain = identity.Chain{identity.MTLS{}}
	}
	o := serve.Options{
		Store: r.backend, Authenticator: chain, Policy: r.policy.Current,
		Audit: serve.NewAudit(r.audit), Log: logger, Metrics: r.registry, Cluster: "test",
		Org: secret.DefaultOrg, AnyOrg: true,
	}
	if s.change != nil {
		s.change(&o)
	}
	limits := s.limits
	limits.Connections, limits.Streams = cmp.Or(limits.Connections, 2000), cmp.Or(limits.Streams, 100)
	port, err := transport.Listen(ctx, "127.0.0.1:0", r.certificates, limits)
	require.NoError(t, err)
	r.address = port.Addr().String()
	done := make(chan error, 1)
	go func() {
		server := transport.HTTP(serve.New(o).Handler(), limits, logger)
		r.certificates.Guard(server)
		done <- transport.Serve(ctx, server, port, cmp.Or(s.drain, 5*time.Second))
	}()
	r.ended = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.ended(); !s.overdue {
			require.NoError(t, err)
		}
	})
	return r
}

// client returns a client with the certificate cert, or without one if it is nil.
func (r *running) client(cert *tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(r.Cert)
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// answered is a decoded answer.
type answered struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

// request returns a Connect request in JSON.
func (r *running) request(method, body string, header ...string) *http.Request {
	r.t.Helper()
	request, err := http.NewRequestWithContext(
		r.t.Context(), http.MethodPost,
		"https://"+r.address+"/"+method,
		strings.NewReader(body),
	)
	require.NoError(r.t, err)
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return request
}

// ask sends a request and returns the answer.
func (r *running) ask(c *http.Client, method, body string, header ...string) answered {
	r.t.Helper()
	answer, err := c.Do(r.request(method, body, header...))
	require.NoError(r.t, err)
	defer answer.Body.Close() //nolint:errcheck // read whole
	b, err := io.ReadAll(answer.Body)
	require.NoError(r.t, err)
	a := answered{status: answer.StatusCode, header: answer.Header, raw: string(b)}
	require.NoErrorf(r.t, json.Unmarshal(b, &a.body), "%s", b)
	return a
}

// call is ask, but returns only the status and the decoded answer.
func (r *running) call(c *http.Client, method, body string, header ...string) (int, map[string]any) {
	r.t.Helper()
	a := r.ask(c, method, body, header...)
	return a.status, a.body
}

const rules = `
version: 1
rules:
  - name: platform
    identity: {spiffe: "spiffe://example.org/platform"}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
  - name: tasks
    identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}"}
    resolve: {project: "{project}", domain: "{domain}"}
`

// A manager creates, and a task resolves at its own scope; each is refused the permissions of
// the other. Every decision is a line of the audit log, without values.
func TestDecisions(t *testing.T) {
	r := start(t, rules, nil)
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform"))
	task := r.client(certOf(r.Authority, "task", "spiffe://example.org/project/p/domain/d"))
	value := rand.Text()
	create := fmt.Sprintf(`{"id":{"name":"K","project":"p","domain":"d"},"secretSpec":{"stringValue":%q}}`, value)
	const createSecret, resolve = "flyteidl2.secret.SecretService/CreateSecret", "inject.v1.ResolveService/Resolve"

	status, answer := r.call(task, createSecret, create)
	require.Equal(t, http.StatusForbidden, status, answer)
	status, answer = r.call(platform, createSecret, create)
	require.Equal(t, http.StatusOK, status, answer)
	status, answer = r.call(platform, resolve, `{"secrets":[{"key":"K"}]}`)
	require.Equal(t, http.StatusForbidden, status, answer)
	status, answer = r.call(task, resolve, `{"scope":{"project":"other","domain":"d"},"secrets":[{"key":"K"}]}`)
	require.Equal(t, http.StatusForbidden, status, answer)
	status, answer = r.call(task, resolve, `{"secrets":[{"key":"K"}]}`, "X-Request-Id", "of-the-client")
	require.Equal(t, http.StatusOK, status, answer)
	require.Contains(t, r.audit.String(), `"client":"of-the-client"`)
	require.Contains(t, fmt.Sprint(answer), base64.StdEncoding.EncodeToString([]byte(value)))
	status, answer = r.call(r.client(nil), resolve, `{"secrets":[{"key":"K"}]}`)
	require.Equal(t, http.StatusUnauthorized, status, answer)

	// Absent and denied secrets have the same answer.
	status, absent := r.call(platform, "flyteidl2.secret.SecretService/GetSecret", `{"id":{"name":"N"}}`)
	require.Equal(t, http.StatusNotFound, status)
	status, answer = r.call(task, "flyteidl2.secret.SecretService/GetSecret", `{"id":{"name":"N"}}`)
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, absent, answer)

	var decisions []any
	for _, line := range r.audit.lines(t, 0) {
		if line["event"] == "decision" {
			decisions = append(decisions, line["decision"])
		}
	}
	require.Equal(
		t,
		[]any{"denied", "allowed", "denied", "denied", "allowed", "allowed", "denied"},
		decisions,
	)
	require.Contains(t, r.audit.String()+value, value, "the search finds what is there")
	require.NotContains(t, r.audit.String()+r.log.String(), value)

	// Without an audit line nothing is answered.
	r.audit.setFail(os.ErrClosed)
	status, answer = r.call(task, resolve, `{"secrets":[{"key":"K"}]}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.NotContains(t, fmt.Sprint(answer), base64.StdEncoding.EncodeToString([]byte(value)))
}
