package resolver_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/resolver"
	"inject/resolver/resolvertest"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLadder(t *testing.T) {
	resolvertest.Run(t, func(_ *testing.T, s store.Store) resolvertest.Resolver { return resolver.Over(s) })
}

// Nobody can tell by its results that a store is remote.
func TestLadderOfRemote(t *testing.T) {
	resolvertest.Run(t, func(_ *testing.T, s store.Store) resolvertest.Resolver { return resolver.Over(remote{s}) })
}

// remote is a store whose reads are round trips.
type remote struct{ store.Store }

func (remote) Remote() bool { return true }

// The keys of a list are looked up concurrently, each once; those of a long list in a server one
// after the other.
func TestSideBySide(t *testing.T) {
	overShared := func(r store.Reader) *resolver.Ladder { return resolver.OverShared(r, &bounds{}) }
	for _, c := range []struct {
		over       func(store.Reader) *resolver.Ladder
		keys       int
		concurrent bool
	}{
		{resolver.Over, 16, true},
		{resolver.Over, 50, true},
		{overShared, 16, true},
		{overShared, 17, false},
	} {
		s := &counting{Store: storetest.Memory()}
		var keys []string
		for i := range c.keys {
			keys = append(keys, fmt.Sprintf("K%d", i), "K0")
		}
		_, err := c.over(s).Resolve(t.Context(), resolvertest.Task, resolvertest.Declare(keys...))
		require.ErrorIs(t, err, secret.ErrNotFound)
		require.EqualValues(t, c.keys*4, s.gets.Load(), "each key climbs once")
		require.Equal(t, c.concurrent, s.most.Load() > 1, "%d keys: %d at the same time", c.keys, s.most.Load())
	}
}

type counting struct {
	store.Store
	gets, now, most atomic.Int64
}

func (c *counting) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	c.gets.Add(1)
	if n := c.now.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	defer c.now.Add(-1)
	time.Sleep(time.Millisecond)
	return c.Store.Get(ctx, ref)
}

// hanging is a store that never answers.
type hanging struct{ store.Store }

func (hanging) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	<-ctx.Done()
	return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: ctx.Err()}
}

// When the deadline passes, every declaration fails and is named.
func TestDeadlineNamesAll(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("K%d", i))
	}
	_, err := resolver.Over(hanging{storetest.Memory()}).Resolve(ctx, resolvertest.Task, resolvertest.Declare(keys...))
	var e *resolver.Error
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Failed, 100)
	require.ErrorContains(t, err, "no answer in time")
}
