package serve

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"inject/internal/shares"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
)

// Requests that wait, or are turned away, take no place in which those of others are served, those
// beyond are dropped, and all places are given back.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const callers, each = 4, 3
	c := newCrowd(callers*each, each)
	var mu sync.Mutex
	var holds []*shares.Hold
	outcomes := map[string]int{}
	var all sync.WaitGroup
	enter := func(who, kind string) {
		at, served := c.enter(t.Context(), who)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case served:
			kind += " served"
		case at != nil:
			kind += " turned away"
		default:
			kind += " dropped"
		}
		outcomes[kind]++
		holds = append(holds, at)
	}
	for i := range callers - 1 {
		for range 5 * each {
			all.Go(func() { enter(fmt.Sprint("greedy ", i), "greedy") })
		}
	}
	for range each {
		enter("modest", "modest")
	}
	all.Wait()
	for i := range each {
		all.Go(func() { enter(fmt.Sprint("late ", i), "late") }) // all places are taken
	}
	all.Wait()
	require.Equal(t, map[string]int{
		"modest served": each, "late turned away": each,
		"greedy served": (callers - 1) * each, "greedy turned away": (callers - 1) * each,
		"greedy dropped": (callers - 1) * 3 * each,
	}, outcomes)
	for _, at := range holds {
		at.Close()
	}
	for _, s := range []*shares.Shares{c.served, c.waiting} {
		require.Zero(t, s.Callers())
		for i := range callers {
			require.True(t, s.Hold(fmt.Sprint(i)).Try(each))
		}
	}
}

// One that waits is served as soon as there is a place.
func TestCrowdWaits(t *testing.T) {
	t.Parallel()
	c := newCrowd(2, 1)
	first, served := c.enter(t.Context(), "one")
	require.True(t, served)
	time.AfterFunc(shares.Patience/20, first.Close)
	second, served := c.enter(t.Context(), "one")
	require.True(t, served)
	second.Close()
}

type panics struct{}

func (panics) Authenticate(context.Context, identity.Credentials) (identity.Identity, error) {
	panic("an authenticator")
}

// A panic while a caller is identified, or the policy is asked, gives its place back.
func TestPanicGivesThePlaceBack(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"authenticator": {Metrics: prometheus.NewRegistry(), Authenticator: panics{}},
		"policy": {
			Metrics: prometheus.NewRegistry(), Authenticator: known{},
			Policy: func() *policy.Policy { panic("a policy") },
		},
	} {
		s := New(o)
		require.Panics(t, func() {
			s.identify(nil).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
		}, name)
		for _, c := range []*crowd{s.arrivals, s.requests} {
			require.Zero(t, c.served.Callers(), name)
			require.Zero(t, c.waiting.Callers(), name)
		}
	}
}

type known struct{}

func (known) Authenticate(context.Context, identity.Credentials) (identity.Identity, error) {
	return identity.Identity{Method: "mtls", Name: "known"}, nil
}
