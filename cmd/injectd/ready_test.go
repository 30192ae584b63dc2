package main

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

// lookedUp is a store that may only be asked for one secret: everything else reads as much as the
// store holds.
type lookedUp struct {
	store.Lister

	t     *testing.T
	calls atomic.Int32
	err   error
}

func (s *lookedUp) Describe(context.Context, secret.Ref) (store.Info, error) {
	s.calls.Add(1)
	return store.Info{}, s.err
}

func (s *lookedUp) List(context.Context, store.Filter, int, string) ([]store.Info, string, error) {
	s.t.Error("a probe lists the store")
	return nil, "", nil
}

// A probe costs one look-up, and one that is under way or just over is shared.
func TestReadyIsShared(t *testing.T) {
	log, lines := harness.Logger()
	buffer := &harness.Buffer{}
	s := &lookedUp{t: t, err: secret.ErrNotFound}
	h := &health{
		audit: serve.NewAudit(buffer), access: &access{}, store: s, log: log,
		file: filepath.Join(t.TempDir(), "secrets.db"),
	}
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() { require.NoError(t, h.ready(t.Context())) })
	}
	all.Wait()
	require.EqualValues(t, 1, s.calls.Load())

	s.err = errors.New("read /the/path/secrets.db")
	require.NoError(t, h.ready(t.Context()), "the answer of a moment ago")
	require.Eventually(t, func() bool { return h.ready(t.Context()) != nil }, 10*time.Second, 100*time.Millisecond)
	require.EqualError(t, h.ready(t.Context()), "the store cannot be read")
	require.Contains(t, lines.String(), "/the/path")
	require.LessOrEqual(t, s.calls.Load(), int32(3))
}

// A scrape costs one look-up at most, however often it is done: never a list of the store.
func TestScrapeCost(t *testing.T) {
	log, _ := harness.Logger()
	s := &lookedUp{t: t, err: secret.ErrNotFound}
	file := filepath.Join(t.TempDir(), "secrets.db")
	h := &health{
		audit: serve.NewAudit(&harness.Buffer{}), access: &access{}, store: s, log: log, file: file,
	}
	registry := prometheus.NewRegistry()
	gauges{registry}.server(h.ready)
	h.register(registry)
	began := time.Now()
	for range 50 {
		families, err := registry.Gather()
		require.NoError(t, err)
		require.Greater(t, len(families), 5)
	}
	require.Positive(t, s.calls.Load())
	require.LessOrEqual(t, s.calls.Load(), int32(2+time.Since(began)/time.Second))
}

// A look that does not end is given up by those who ask, and not begun a second time.
func TestReadyHangs(t *testing.T) {
	var p probe
	begun := make(chan struct{}, 9)
	end := make(chan struct{})
	look := func(context.Context) error { begun <- struct{}{}; <-end; return nil }
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		require.ErrorContains(t, p.ask(ctx, look), "do not end")
		cancel()
	}
	require.Len(t, begun, 1)
	close(end)
	require.NoError(t, p.ask(t.Context(), look))
}
