package serve_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

// soon bounds the wait for events that take moments on an idle machine.
const soon = 30 * time.Second

// askReused is ask, and also reports whether the request reused a connection.
func (r *running) askReused(c *http.Client, method, body string) (status int, reused bool) {
	r.t.Helper()
	request := r.request(method, body)
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	answer, err := c.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	require.NoError(r.t, err)
	_, err = io.Copy(io.Discard, answer.Body)
	require.NoError(r.t, err)
	require.NoError(r.t, answer.Body.Close())
	return answer.StatusCode, reused
}

// shown returns the certificate of the server for a new connection.
func (r *running) shown() *x509.Certificate {
	r.t.Helper()
	conn := r.dial(nil, "h2")
	defer conn.Close() //nolint:errcheck // a test's
	require.NoError(r.t, conn.HandshakeContext(r.t.Context()))
	return conn.ConnectionState().PeerCertificates[0]
}

// replace replaces one file by another atomically.
func replace(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to+".new", b, 0o600))
	require.NoError(t, os.Rename(to+".new", to))
}

// New connections get the new certificate as soon as its key is replaced, too. Existing
// connections go on, until the CA of their client is no longer trusted.
func TestCertificatesReload(t *testing.T) {
	t.Parallel()
	r := start(t, matrixPolicy, nil)
	platform := "spiffe://example.org/platform/p"
	cert := certOf(r.Authority, "platform", platform)
	clients := []*http.Client{r.client(cert), r.http1(cert)}
	for _, c := range clients {
		status, reused := r.askReused(c, secrets+"ListSecrets", `{}`)
		require.Equal(t, http.StatusOK, status)
		require.False(t, reused)
	}
	old := r.shown()
	next, key := r.Issue("next", func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	pair, err := tls.LoadX509KeyPair(next, key)
	require.NoError(t, err)

	// A certificate that does not match the key is not used, and the log says so.
	replace(t, next, r.files.Cert)
	require.Eventually(t, func() bool { return r.certificates.Err() != nil }, soon, 10*time.Millisecond)
	require.ErrorIs(t, r.certificates.Err(), secret.ErrInvalid)
	require.Contains(t, r.log.String(), "the certificates cannot be used, so the previous ones stay in use")
	require.Equal(t, old.SerialNumber, r.shown().SerialNumber)
	replace(t, key, r.files.Key)
	require.Eventually(t, func() bool { return r.certificates.Err() == nil }, soon, 10*time.Millisecond)
	require.Equal(t, pair.Leaf.SerialNumber, r.shown().SerialNumber)
	require.NotEqual(t, old.SerialNumber, pair.Leaf.SerialNumber)
	require.Equal(t, pair.Leaf.NotAfter, r.certificates.NotAfter())
	for _, c := range clients {
		status, reused := r.askReused(c, secrets+"ListSecrets", `{}`)
		require.Equal(t, http.StatusOK, status)
		require.True(t, reused, "it is the connection from before")
	}

	// After a change of the client CA only the new one admits: connections of the old one end.
	other := harness.NewAuthority(t, t.TempDir())
	replace(t, other.Path("ca.pem"), r.files.ClientCA)
	fresh := r.client(certOf(other, "platform", platform))
	require.Eventually(t, func() bool {
		answer, err := fresh.Do(r.request(secrets+"ListSecrets", `{}`))
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}, soon, 10*time.Millisecond)
	answer, err := r.client(cert).Do(r.request(secrets+"ListSecrets", `{}`))
	if err == nil {
		_ = answer.Body.Close()
	}
	require.Error(t, err)
	for _, c := range clients {
		answer, err := c.Do(r.request(secrets+"ListSecrets", `{}`))
		if err == nil {
			_ = answer.Body.Close()
		}
		require.Error(t, err)
	}
}

// An edited policy is in force for the next request. One with a mistake, or a missing one, is
// not used, which the log and the file's Err report.
func TestPolicyReload(t *testing.T) {
	t.Parallel()
	r := start(t, matrixPolicy, nil)
	client := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	allowed := func() bool { return r.ask(client, secrets+"ListSecrets", `{}`).status == http.StatusOK }
	edit := func(text string) { require.NoError(t, os.WriteFile(r.policyPath, []byte(text), 0o600)) }
	require.True(t, allowed())
	for i, bad := range []string{
		"version: 1\nrules: [", "version: 2\nrules: []\n",
		strings.ReplaceAll(matrixPolicy, "manage", "manages"), "\x00",
	} {
		edit(bad)
		require.Eventually(t, func() bool { return r.policy.Err() != nil }, soon, 10*time.Millisecond)
		require.Contains(t, r.policy.Err().Error(), r.policyPath)
		require.True(t, allowed(), "the one from before")
		require.Equal(
			t, i+1, strings.Count(r.log.String(), "the file cannot be used; its previous contents stay in use"),
		)
		edit(matrixPolicy)
		require.Eventually(t, func() bool { return r.policy.Err() == nil }, soon, 10*time.Millisecond)
	}
	require.NoError(t, os.Remove(r.policyPath))
	require.Eventually(t, func() bool { return r.policy.Err() != nil }, soon, 10*time.Millisecond)
	require.True(t, allowed(), "the one from before")
	edit("version: 1\nrules: []\n")
	require.Eventually(t, func() bool { return !allowed() }, soon, 10*time.Millisecond)
	require.NoError(t, r.policy.Err())
	edit(matrixPolicy)
	require.Eventually(t, allowed, soon, 10*time.Millisecond)
}

// waiting is a store whose reads wait until the test lets them go on.
type waiting struct {
	store.Store

	reading chan struct{}
	release chan struct{}
}

func (h *waiting) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	h.reading <- struct{}{}
	<-h.release
	return h.Store.Get(ctx, ref)
}

// A server that is asked to stop accepts no more connections and answers the requests in
// progress; if that takes too long, they are cut off.
func TestDrain(t *testing.T) {
	for name, overdue := range map[string]bool{"in time": false, "overdue": true} {
		t.Run(name, func(t *testing.T) {
			var h *waiting
			s := setup{
				policy: matrixPolicy, drain: soon, overdue: overdue,
				change: func(o *serve.Options) {
					backend, ok := o.Store.(store.Store)
					require.True(t, ok)
					h = &waiting{Store: backend, reading: make(chan struct{}, 10), release: make(chan struct{})}
					o.Store = h
				},
			}
			if overdue {
				s.drain = 100 * time.Millisecond
			}
			r := s.start(t)
			release := sync.OnceFunc(func() { close(h.release) })
			t.Cleanup(release)
			cert := certOf(r.Authority, "task", "spiffe://example.org/project/web/domain/development/task/t")
			type result struct {
				status int
				body   string
				err    error
			}
			results := make(chan result, 2)
			for key, c := range map[string]*http.Client{"ONE": r.client(cert), "TWO": r.http1(cert)} {
				r.seedAt(secret.Ref{Scope: webDevelopment, Key: key})
				go func() {
					answer, err := c.Do(r.request(resolve, `{"secrets":[{"key":"`+key+`"}]}`))
					if err != nil {
						results <- result{err: err}
						return
					}
					defer answer.Body.Close() //nolint:errcheck // read whole
					b, err := io.ReadAll(answer.Body)
					results <- result{answer.StatusCode, string(b), err}
				}()
				<-h.reading
			}
			ended := make(chan error, 1)
			go func() { ended <- r.ended() }()
			require.Eventually(t, func() bool {
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.address)
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			}, soon, time.Millisecond, "no other connection is accepted")
			if overdue {
				err := <-ended
				require.ErrorIs(t, err, secret.ErrUnavailable)
				require.ErrorContains(t, err, "cut off")
				release()
				for range 2 {
					require.Error(t, (<-results).err)
				}
				return
			}
			select {
			case err := <-ended:
				require.FailNow(t, "it has ended before it has answered", "%v", err)
			default:
			}
			release()
			for range 2 {
				got := <-results
				require.NoError(t, got.err)
				require.Equal(t, http.StatusOK, got.status)
				require.Contains(t, got.body, `"value":`)
			}
			require.NoError(t, <-ended)
		})
	}
}
