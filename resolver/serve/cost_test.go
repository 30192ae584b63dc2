package serve_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

// keysOf returns the body of a Resolve of n keys.
func keysOf(prefix string, n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"key":"%s%d"}`, prefix, i)
	}
	return `{"secrets":[` + strings.Join(all, ",") + `]}`
}

const attacker = "spiffe://example.org/project/web/domain/development/task/t"

// costly is a store in which some reads take as long as the request, and others return much.
type costly struct {
	serve.Backend

	reads atomic.Int64  // of large values
	ended chan struct{} // closed when the test has ended
}

// wait takes as long as the request, whose reads outlive it, or the test.
func (c *costly) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
		return secret.ErrUnavailable
	}
}

func (c *costly) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	switch {
	case strings.HasPrefix(ref.Key, "SLOW"):
		return secret.Value{}, store.Info{}, c.wait(ctx)
	case strings.HasPrefix(ref.Key, "LARGE"):
		c.reads.Add(1)
		return secret.NewValue(make([]byte, store.MaxValue)), store.Info{Ref: ref}, nil
	}
	return c.Backend.Get(ctx, ref)
}

func (c *costly) List(
	ctx context.Context, f store.Filter, limit int, token string,
) ([]store.Info, string, error) {
	if f.Project == "slow" {
		return nil, "", c.wait(ctx)
	}
	return c.Backend.List(ctx, f, limit, token)
}

// overCostly makes the store of a server a costly one.
func overCostly(t *testing.T) func(*serve.Options) {
	t.Helper()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	return func(o *serve.Options) { o.Store = &costly{Backend: o.Store, ended: ended} }
}

// The lists of one identity that are resolved at the same time are few, so that others are.
func TestClimbsAreShared(t *testing.T) {
	t.Parallel()
	r := start(t, matrixPolicy, overCostly(t))
	task := r.client(certOf(r.Authority, "task", attacker))
	answers, _ := r.withstands(t, task, 90, func(ctx context.Context) *http.Request {
		return r.request(resolve, keysOf("SLOW", 4)).WithContext(ctx)
	})
	require.Positive(t, answers[http.StatusTooManyRequests], answers)
	require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=climb"))
}

// So are the lists of secrets that are read.
func TestScansAreShared(t *testing.T) {
	t.Parallel()
	r := start(t, matrixPolicy, overCostly(t))
	lister := r.client(certOf(r.Authority, "lister", "spiffe://example.org/platform/lister"))
	answers, _ := r.withstands(t, lister, 20, func(ctx context.Context) *http.Request {
		return r.request(secrets+"ListSecrets", `{"project":"slow"}`).WithContext(ctx)
	})
	require.Positive(t, answers[http.StatusTooManyRequests], answers)
	require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=scan"))
}

// A climb stops at the largest answer while it reads.
func TestLargeAnswersStopWhileTheyAreRead(t *testing.T) {
	var all *costly
	r := start(t, matrixPolicy, func(o *serve.Options) {
		overCostly(t)(o)
		all, _ = o.Store.(*costly)
	})
	task := r.client(certOf(r.Authority, "task", attacker))
	a := r.ask(task, resolve, keysOf("LARGE", 400))
	require.Equal(t, http.StatusBadRequest, a.status, a.raw)
	require.Contains(t, a.raw, "more than 33554432 bytes")
	require.LessOrEqual(t, all.reads.Load(), int64(32+16), "no more than are read at the same time")
	lines := r.audit.lines(t, 0)
	require.Equal(t, "the answer is too large", lines[len(lines)-1]["reason"])

	a = r.ask(task, resolve, keysOf("LARGE", 32))
	require.Equal(t, http.StatusOK, a.status)
	a = r.ask(task, resolve, strings.Replace(keysOf("LARGE", 400), "{", `{"namesOnly":true,`, 1))
	require.Equal(t, http.StatusOK, a.status, "names take no memory")

	_, grown := r.withstands(t, task, 12, func(ctx context.Context) *http.Request {
		return r.request(resolve, keysOf("LARGE", 200)).WithContext(ctx)
	})
	require.Less(t, grown, uint64(200<<20))
}

// A rate is of keys, not of requests.
func TestKeysAreCharged(t *testing.T) {
	r := start(t, matrixPolicy, func(o *serve.Options) { o.Rate, o.Burst = 1, 200 })
	task := r.client(certOf(r.Authority, "task", attacker))
	answers, _ := r.withstands(t, task, 1, func(ctx context.Context) *http.Request {
		return r.request(resolve, keysOf("K", 60)).WithContext(ctx)
	})
	require.Equal(t, 3, answers[http.StatusOK], answers)
	require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=rate"))
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	many := strings.ReplaceAll(keysOf("K", 150), `"key"`, `"name"`)
	many = strings.Replace(many, "{", `{"scope":{"project":"web","domain":"development"},`, 1)
	require.Equal(t, http.StatusOK, r.ask(platform, imported, many).status)
	require.Equal(t, http.StatusTooManyRequests, r.ask(platform, imported, many).status)
}

// A line of the audit log has a bound, and so have the lines of one identity. Its requests are
// refused before they do anything, and others are served.
func TestAuditIsShared(t *testing.T) {
	r := start(t, matrixPolicy, func(o *serve.Options) { o.AuditRate, o.AuditBurst = 1, 100<<10 })
	task := r.client(certOf(r.Authority, "task", attacker))
	body := keysOf(strings.Repeat("K", 200), 512)
	answers, _ := r.withstands(t, task, 2, func(ctx context.Context) *http.Request {
		return r.request(resolve, body).WithContext(ctx)
	})
	require.Positive(t, answers[http.StatusOK], answers)
	require.Positive(t, answers[http.StatusTooManyRequests], answers)
	require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=audit"))
	own := 0
	for line := range strings.Lines(r.audit.String()) {
		require.LessOrEqual(t, len(line), 16<<10)
		if strings.Contains(line, attacker) {
			own += len(line)
		}
	}
	require.Less(t, own, 100<<10)
	for _, line := range r.audit.lines(t, 0) {
		if line["who"] == attacker && line["decision"] != "refused" {
			shown, _ := line["secrets"].([]any)
			omitted, _ := line["omitted"].(float64)
			require.NotEmpty(t, shown)
			require.InDelta(t, 512, float64(len(shown))+omitted, 0)
		}
	}

	// A denial of a list shows few of its keys.
	before := len(r.audit.lines(t, 0))
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	require.Equal(t, http.StatusForbidden, r.ask(platform, resolve, keysOf("K", 100)).status)
	line := r.audit.lines(t, before)[0]
	require.Len(t, line["secrets"], 8)
	require.InDelta(t, 92, line["omitted"], 0)
}

// With the default limits of injectd, ten thousand tasks of one identity can start at once, with
// five keys each.
func TestManyTasksStart(t *testing.T) {
	tasks, part := 10_000, 1
	if testing.Short() {
		part = 10
	}
	r := start(t, matrixPolicy, func(o *serve.Options) {
		o.Rate, o.Burst, o.AuditRate, o.AuditBurst = 0.001, 60_000/part, 0.001, 32<<20/part
	})
	cert := certOf(r.Authority, "task", attacker)
	var all sync.WaitGroup
	var failed atomic.Int64
	for range 50 {
		client := r.client(cert)
		all.Go(func() {
			for range tasks / part / 50 {
				if r.ask(client, resolve, keysOf("A_KEY_OF_A_USUAL_LENGTH_", 5)).status != http.StatusOK {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.Zero(t, failed.Load())
}

// A task that is told that the server is too busy comes back until it is served.
func TestClientsComeBack(t *testing.T) {
	r := start(t, matrixPolicy, func(o *serve.Options) { o.Rate, o.Burst = 20, 10 })
	cert, key := r.Issue("task", r.SPIFFE(attacker))
	client, err := rpc.Open(rpc.Options{
		Address: r.address, TLS: true, CAFile: r.CA(), CertFile: cert, KeyFile: key, Timeout: time.Minute,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	for range 4 { // each takes the whole burst
		declared := make([]secret.Declaration, 10)
		for i := range declared {
			declared[i].Key = fmt.Sprint("K", i)
		}
		climbs, err := client.Climb(t.Context(), webDevelopment, declared)
		require.NoError(t, err)
		require.Len(t, climbs, 10)
	}
	require.Positive(t, metric(t, r.registry, "inject_exhausted_total", "resource=rate"))

	// Within its own deadline, after which it says why.
	ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	for err == nil {
		_, err = client.Climb(ctx, webDevelopment, []secret.Declaration{{Key: "K"}, {Key: "L"}, {Key: "M"}, {Key: "N"}})
	}
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "too many requests from this identity")
}
