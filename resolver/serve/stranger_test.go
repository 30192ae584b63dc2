package serve

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/store/storetest"
)

// down is an authenticator that cannot know anybody now.
type down struct{}

func (down) Authenticate(context.Context, identity.Credentials) (identity.Identity, error) {
	return identity.Identity{}, fmt.Errorf("%w: the keys of the issuer", secret.ErrUnavailable)
}

// Callers without rights have few lines in the logs: of one network, and of all networks.
func TestStrangersOfAllNetworks(t *testing.T) {
	logged := func() (*Server, *strings.Builder) {
		var b strings.Builder
		return New(Options{
			Store: storetest.Memory(), Log: hclog.New(&hclog.LoggerOptions{Output: &b}),
			Metrics: prometheus.NewRegistry(), Authenticator: down{},
		}), &b
	}
	lines := func(s *Server, n int, remote func(int) string) (allowed int) {
		for i := range n {
			if s.stranger(&caller{remote: remote(i)}) {
				allowed++
			}
		}
		return allowed
	}
	for name, test := range map[string]struct {
		remote func(i int) string
		most   int
	}{
		"one address":      {func(i int) string { return fmt.Sprintf("192.0.2.1:%d", 1+i) }, strangerBurst},
		"one /64 of IPv6":  {func(i int) string { return fmt.Sprintf("[2001:db8::%x]:1", i) }, strangerBurst},
		"many /64 of IPv6": {func(i int) string { return fmt.Sprintf("[2001:db8:%x::1]:1", i) }, allStrangersBurst},
		"many addresses": {
			func(i int) string { return fmt.Sprintf("10.0.%d.%d:1", i/256, i%256) }, allStrangersBurst,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, b := logged()
			allowed := lines(s, 2*allStrangersBurst, test.remote)
			require.GreaterOrEqual(t, allowed, test.most)
			require.Less(t, allowed, test.most+500, "and some more each second")
			require.Contains(t, b.String(), "the logs leave out the rest")
		})
	}

	// While callers cannot be identified, each is told that, and few are in the log.
	s, b := logged()
	handler := s.Handler()
	for range 3 * strangerBurst {
		r := httptest.NewRequest(http.MethodPost, "/inject.v1.ResolveService/Resolve", nil)
		r.Header.Set("Authorization", "Bearer x")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
	}
	n := strings.Count(b.String(), "could not be identified")
	require.GreaterOrEqual(t, n, strangerBurst)
	require.Less(t, n, strangerBurst+500)
}
