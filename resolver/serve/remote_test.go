package serve_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

// distant is a store whose reads are round trips. It counts them, but not those of the key K, which the
// others ask for that must be served.
type distant struct {
	serve.Backend
	remote

	get getter

	mu                 sync.Mutex
	now, most          int                  // reads under way, at most
	narrow, mostNarrow int                  // those at webDevelopment
	at                 map[secret.Scope]int // all that there were
}

// A getter is the method Get of a store.
type getter func(context.Context, secret.Ref) (secret.Value, store.Info, error)

func (d *distant) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	if ref.Key == "K" {
		return d.Backend.Get(ctx, ref)
	}
	d.count(ref.Scope, 1)
	defer d.count(ref.Scope, -1)
	return d.get(ctx, ref)
}

func (d *distant) count(at secret.Scope, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now += n; at == webDevelopment {
		d.narrow += n
	}
	d.most, d.mostNarrow = max(d.most, d.now), max(d.mostNarrow, d.narrow)
	d.at[at] += max(n, 0)
}

// reads returns how many reads there were at most at the same time, and at the narrowest scope of the
// attacker; and how many there were in all at each scope since it was last called.
func (d *distant) reads() (most, narrow int, at map[secret.Scope]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, d.at = d.at, map[secret.Scope]int{}
	return d.most, d.mostNarrow, at
}

// overDistant makes the store of a server a remote one, in which other keys than K are read with get. It
// is given the store, and a channel that is closed when the test has ended.
func overDistant(
	t *testing.T, get func(s serve.Backend, ended <-chan struct{}) getter,
) (*distant, func(*serve.Options)) {
	t.Helper()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	d := &distant{at: map[secret.Scope]int{}}
	return d, func(o *serve.Options) {
		d.Backend, d.get = o.Store, get(o.Store, ended)
		o.Store = d
	}
}

// A server asks a remote store for all secrets of a list at all scopes at the same time: none of what
// is between the ladder and the store loses that it is remote. That holds for a caller who may list, too.
func TestRemoteIsAskedAtOnce(t *testing.T) {
	t.Parallel()
	const policy = `
version: 1
rules:
  - name: task
    identity: {spiffe: "spiffe://example.org/task"}
    resolve: {project: web, domain: development}
  - name: lister
    identity: {spiffe: "spiffe://example.org/lister"}
    resolve: {project: web, domain: development}
    list: [{project: "*", domain: "*"}]
`
	for _, who := range []string{"task", "lister"} {
		for _, n := range []int{1, 5, 16} {
			var under atomic.Int64
			all := make(chan struct{})
			d, over := overDistant(t, func(s serve.Backend, ended <-chan struct{}) getter {
				return func(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
					if under.Add(1) == int64(4*n) {
						close(all)
					}
					select {
					case <-all:
					case <-ended:
					}
					return s.Get(ctx, ref)
				}
			})
			r := start(t, policy, over)
			value := base64.StdEncoding.EncodeToString(r.seedAt(secret.Ref{Scope: webDevelopment, Key: "K0"}))
			a := r.ask(r.client(certOf(r.Authority, who, "spiffe://example.org/"+who)), resolve, keysOf("K", n))
			require.Equal(t, http.StatusOK, a.status, a.raw)
			require.Equal(t, n == 1, strings.Contains(a.raw, value), "values only if all are found")
			most, _, at := d.reads()
			require.Equal(t, 4*n, most)
			require.Len(t, at, 4)
		}
	}
}

// What an identity has under way in a remote store, and holds of its values, is bounded, so that others
// are served. They are never denied a read by lists of others that are long or hang, that hold large
// values of wide scopes while a narrow one does not answer, or that are taken back while their reads
// go on.
func TestReadsAreShared(t *testing.T) {
	for name, test := range map[string]struct {
		keys      int
		takenBack time.Duration // after which a request is taken back, if not 0
		narrow    func(ctx context.Context, ended <-chan struct{}) error
		wide      func(ref secret.Ref) (secret.Value, store.Info, error)
		grown     uint64
	}{
		"long lists": {
			keys:   1000,
			narrow: func(context.Context, <-chan struct{}) error { time.Sleep(5 * time.Millisecond); return nil },
			grown:  100 << 20,
		},
		"hanging": {keys: 16, narrow: hang, grown: 100 << 20},
		// Of each of the sixteen secrets that may be read there are three values; and what flights keep.
		"large values": {keys: 16, narrow: hang, wide: large, grown: 128 << 20},
		"taken back":   {keys: 16, takenBack: 30 * time.Millisecond, narrow: hang, wide: large, grown: 128 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			d, over := overDistant(t, func(_ serve.Backend, ended <-chan struct{}) getter {
				return func(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
					if test.wide != nil && ref.Scope != webDevelopment {
						return test.wide(ref)
					}
					err := test.narrow(ctx, ended)
					if err == nil {
						err = secret.ErrNotFound
					}
					return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
				}
			})
			r := start(t, matrixPolicy, over)
			task := r.client(certOf(r.Authority, "task", attacker))
			var lists atomic.Int64
			_, grown := r.withstands(t, task, 40, func(ctx context.Context) *http.Request {
				if test.takenBack > 0 {
					taken, cancel := context.WithCancel(ctx)
					time.AfterFunc(test.takenBack, cancel)
					ctx = taken
				}
				return r.request(resolve, keysOf(fmt.Sprintf("OF%d_", lists.Add(1)), test.keys)).WithContext(ctx)
			})
			most, narrow, at := d.reads()
			require.LessOrEqual(t, most, 64)
			require.Equal(t, 16, narrow, "the attacker has tried to have more")
			require.Len(t, at, 4)
			require.Less(t, grown, test.grown)
		})
	}
}

// hang ends with the read, which outlives its request, or the test.
func hang(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", secret.ErrUnavailable, ctx.Err())
	case <-ended:
		return secret.ErrUnavailable
	}
}

func large(ref secret.Ref) (secret.Value, store.Info, error) {
	return secret.NewValue(make([]byte, store.MaxValue)), store.Info{Ref: ref}, nil
}

// Reads beyond the bounds of an identity, and of all, wait until others have ended. One that waits in vain
// takes nothing.
func TestReadsWait(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	d, over := overDistant(t, func(s serve.Backend, ended <-chan struct{}) getter {
		return func(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
			select {
			case <-hold:
			case <-ended:
			}
			return s.Get(ctx, ref)
		}
	})
	r := start(t, matrixPolicy, over)
	victim := r.client(certOf(r.Authority, "victim", "spiffe://example.org/project/shop/domain/production/task/t"))
	serves := func() bool { return r.ask(victim, resolve, `{"secrets":[{"key":"K"}]}`).status == http.StatusOK }
	var clients []*http.Client
	for i := range 3 {
		id := fmt.Sprintf("spiffe://example.org/project/p%d/domain/d/task/t", i)
		clients = append(clients, r.client(certOf(r.Authority, fmt.Sprint("caller", i), id)))
	}
	lists, done := 0, make(chan answered, 10)
	most := func() int {
		most, _, _ := d.reads()
		return most
	}
	under := func(calls int) { // waits until so many Resolves are under way
		t.Helper()
		require.Eventually(t, func() bool {
			return metric(t, r.registry, "inject_requests_in_flight") == float64(calls)
		}, soon, time.Millisecond)
	}
	ask := func(client *http.Client) {
		lists++
		body := keysOf(fmt.Sprintf("OF%d_", lists), 16)
		go func() { done <- r.ask(client, resolve, body) }()
		under(lists)
	}
	reads := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return most() == n }, soon, time.Millisecond)
	}

	ask(clients[0])
	reads(64)
	ask(clients[0])
	require.True(t, serves(), "another identity has a share of its own")
	require.Equal(t, 64, most())
	ask(clients[1])
	reads(128)
	ask(clients[2])
	for _, client := range clients { // in vain
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		answer, err := client.Do(r.request(resolve, keysOf("VAIN", 16)).WithContext(ctx))
		if err == nil {
			_ = answer.Body.Close()
		}
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	under(lists)
	require.Equal(t, 128, most())
	require.Zero(t, metric(t, r.registry, "inject_exhausted_total"))

	close(hold)
	for range lists {
		require.Equal(t, http.StatusOK, (<-done).status)
	}
	require.True(t, serves())
	require.Equal(t, 128, most())
}

// Long lists of many identities share what all may have under way with each other, and with others.
func TestReadsOfAllAreBounded(t *testing.T) {
	d, over := overDistant(t, func(s serve.Backend, _ <-chan struct{}) getter {
		return func(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
			time.Sleep(5 * time.Millisecond)
			return s.Get(ctx, ref)
		}
	})
	r := start(t, matrixPolicy, over)
	var clients []*http.Client
	for i := range 6 {
		id := fmt.Sprintf("spiffe://example.org/project/p%d/domain/d/task/t", i)
		clients = append(clients, r.client(certOf(r.Authority, fmt.Sprint("caller", i), id)))
	}
	var asked atomic.Int64
	some := &http.Client{Transport: transportFunc(func(request *http.Request) (*http.Response, error) {
		return clients[asked.Add(1)%6].Transport.RoundTrip(request)
	})}
	r.withstands(t, some, 24, func(ctx context.Context) *http.Request {
		return r.request(resolve, keysOf(fmt.Sprintf("OF%d_", asked.Load()), 250)).WithContext(ctx)
	})
	most, _, at := d.reads()
	require.LessOrEqual(t, most, 128)
	for i := range 6 {
		require.Positive(t, at[secret.Scope{Org: "flyte", Project: fmt.Sprintf("p%d", i), Domain: "d"}])
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The values of wider scopes that a narrower one makes needless do not count in the answer.
func TestNeedlessValuesDoNotCount(t *testing.T) {
	t.Parallel()
	_, over := overDistant(t, func(serve.Backend, <-chan struct{}) getter {
		return func(_ context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
			if ref.Scope != webDevelopment {
				return large(ref)
			}
			time.Sleep(10 * time.Millisecond) // all wider ones have answered before
			return secret.NewValue([]byte("narrow")), store.Info{Ref: ref}, nil
		}
	})
	r := start(t, matrixPolicy, over)
	a := r.ask(r.client(certOf(r.Authority, "task", attacker)), resolve, keysOf("L", 40))
	require.Equal(t, http.StatusOK, a.status, "a hundred and twenty values of 1 MiB exceed the largest answer")
	require.Equal(t, 40, strings.Count(a.raw, base64.StdEncoding.EncodeToString([]byte("narrow"))))

	wide := r.client(certOf(r.Authority, "wide", "spiffe://example.org/project/p/domain/d/task/t"))
	a = r.ask(wide, resolve, keysOf("L", 40)) // the twin, for which they are the values
	require.Equal(t, http.StatusBadRequest, a.status)
	require.Contains(t, a.raw, "more than 33554432 bytes")
	a = r.ask(wide, resolve, keysOf("L", 20))
	require.Equal(t, http.StatusOK, a.status)
}

// What a wider scope than the deciding one has answered is neither answered, nor audited, nor logged.
func TestNeedlessErrorsAreDropped(t *testing.T) {
	t.Parallel()
	const canary = "the disk of the wider scope"
	_, over := overDistant(t, func(s serve.Backend, _ <-chan struct{}) getter {
		return func(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
			if ref.Scope != webDevelopment {
				err := fmt.Errorf("%w: %s", secret.ErrCorrupt, canary)
				return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
			}
			time.Sleep(10 * time.Millisecond)
			return s.Get(ctx, ref)
		}
	})
	r := start(t, matrixPolicy, over)
	task := r.client(certOf(r.Authority, "task", attacker))
	value := r.seedAt(secret.Ref{Scope: webDevelopment, Key: "THERE"})
	a := r.ask(task, resolve, `{"secrets":[{"key":"THERE"}]}`)
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.raw, base64.StdEncoding.EncodeToString(value))
	climbs, _ := a.body["climbs"].([]any)
	require.Len(t, climbs, 1)
	climb, _ := climbs[0].(map[string]any)
	require.Len(t, climb["tried"], 1)
	line := r.audit.lines(t, 0)[0]
	require.Equal(t, []any{map[string]any{
		"key": "THERE", "outcome": "done",
		"at": map[string]any{"org": "flyte", "project": "web", "domain": "development"},
	}}, line["secrets"])
	require.NotContains(t, a.raw+r.audit.String()+r.log.String(), canary)
	require.NotContains(t, a.raw+r.audit.String()+r.log.String(), "CORRUPT")

	a = r.ask(task, resolve, `{"secrets":[{"key":"ABSENT"}]}`) // the twin
	require.Contains(t, a.raw, "CODE_CORRUPT")
	require.Contains(t, r.log.String(), canary)
	require.NotContains(t, a.raw, canary)
}

// A secret that the policy keeps from a task costs the store the same reads as an absent one, and the
// answer is the same.
func TestDeniedReadsLikeAbsent(t *testing.T) {
	t.Parallel()
	d, over := overDistant(t, func(s serve.Backend, _ <-chan struct{}) getter {
		return s.Get
	})
	r := start(t, hiddenPolicy, over)
	r.seedAt(secret.Ref{Scope: webDevelopment, Key: "THERE"})
	value := r.seedAt(secret.Ref{Scope: webDevelopment, Key: "ANOTHER"})
	blind := r.client(certOf(r.Authority, "blind", "spiffe://example.org/blind"))
	seeing := r.client(certOf(r.Authority, "seeing", "spiffe://example.org/seeing"))
	all := map[secret.Scope]int{}
	for _, scope := range webDevelopment.Ladder() {
		all[scope] = 1
	}
	for range 20 {
		denied := r.ask(blind, resolve, `{"secrets":[{"key":"THERE"}]}`)
		_, _, at := d.reads()
		require.Equal(t, all, at)
		absent := r.ask(seeing, resolve, `{"secrets":[{"key":"WHERE"}]}`)
		_, _, at = d.reads()
		require.Equal(t, all, at)
		require.Equal(t, http.StatusOK, denied.status)
		require.Equal(t, absent.raw, denied.raw)
	}
	a := r.ask(blind, resolve, `{"secrets":[{"key":"ANOTHER"}]}`)
	require.Contains(t, a.raw, base64.StdEncoding.EncodeToString(value))
}
