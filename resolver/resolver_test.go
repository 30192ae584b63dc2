package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var task = secret.Scope{Org: "flyte", Domain: "development", Project: "p"}

func declare(keys ...string) []secret.Declaration {
	d := make([]secret.Declaration, len(keys))
	for i, key := range keys {
		d[i] = secret.Declaration{Key: key}
	}
	return d
}

func create(t require.TestingT, s store.Store, scope secret.Scope, key, value string) {
	require.NoError(t, s.Create(context.Background(), secret.Ref{Scope: scope, Key: key}, secret.NewValue([]byte(value)), store.Regular))
}

// failing is a store in which Get fails at some scopes.
type failing struct {
	store.Store
	at map[secret.Scope]error
}

func (f failing) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	if err := f.at[ref.Scope]; err != nil {
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
	}
	return f.Store.Get(ctx, ref)
}

// The result is the first rung that has the secret, over every subset of the
// rungs, and a rung that fails before it fails the whole.
func TestFirstRung(t *testing.T) {
	rungs := task.Ladder()
	unreachable := []secret.Scope{{Org: "flyte", Project: "q"}, {Org: "flyte", Domain: "production"}, {Org: "flyte", Domain: "production", Project: "p"}, {Org: "other"}}
	rapid.Check(t, func(t *rapid.T) {
		s := failing{storetest.Memory(), map[secret.Scope]error{}}
		for _, scope := range unreachable {
			create(t, s.Store, scope, "K", "unreachable")
		}
		want, wantErr := "", error(nil)
		for i, scope := range rungs {
			has := rapid.Bool().Draw(t, fmt.Sprintf("has %d", i))
			fails := rapid.IntRange(0, 3).Draw(t, fmt.Sprintf("fails %d", i)) == 0
			if has {
				create(t, s.Store, scope, "K", scope.String())
			}
			if fails {
				s.at[scope] = rapid.SampledFrom([]error{secret.ErrDenied, secret.ErrUnavailable, secret.ErrCorrupt, errors.New("other")}).Draw(t, "error")
			}
			if want == "" && wantErr == nil {
				switch {
				case fails:
					wantErr = s.at[scope]
				case has:
					want = scope.String()
				}
			}
		}
		if want == "" && wantErr == nil {
			wantErr = secret.ErrNotFound
		}
		got, err := resolver.Over(s).Resolve(context.Background(), task, declare("K"))
		if wantErr != nil {
			require.ErrorIs(t, err, wantErr)
			require.Nil(t, got)
			if !errors.Is(wantErr, secret.ErrNotFound) {
				require.NotErrorIs(t, err, secret.ErrNotFound)
			}
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, string(got[0].Value.Reveal()))
		require.Equal(t, want, got[0].Info.Ref.Scope.String())
	})
}

func TestAllFailuresAtOnce(t *testing.T) {
	s := storetest.Memory()
	create(t, s, secret.Scope{Org: "flyte"}, "HERE", "v")
	create(t, s, secret.Scope{Org: "flyte", Domain: "production"}, "THERE", "v")
	declared := declare("HERE", "ABSENT", "THERE", "VERSIONED", "ABSENT")
	declared[3] = secret.Declaration{Key: "HERE", Version: "v1"}
	got, err := resolver.Over(s).Resolve(t.Context(), task, declared)
	require.Nil(t, got)
	var e *resolver.Error
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Failed, 4)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.Equal(t, "ABSENT", e.Failed[0].Declaration.Key)
	require.Len(t, e.Failed[0].Tried, 4)
	require.Empty(t, e.Failed[0].Elsewhere)
	require.Equal(t, []secret.Scope{{Org: "flyte", Domain: "production"}}, e.Failed[1].Elsewhere)
	require.ErrorIs(t, e.Failed[2].Err, secret.ErrInvalid)
	require.ErrorContains(t, err, "v1")
}

func TestOrderAndDuplicates(t *testing.T) {
	s := &counting{Store: storetest.Memory()}
	var keys []string
	for i := range 50 {
		key := fmt.Sprintf("K%d", i)
		create(t, s, secret.Scope{Org: "flyte"}, key, key)
		keys = append(keys, key, "K0")
	}
	got, err := resolver.Over(s).Resolve(t.Context(), task, declare(keys...))
	require.NoError(t, err)
	for i, key := range keys {
		require.Equal(t, key, string(got[i].Value.Reveal()))
		require.Equal(t, key, got[i].Declaration.Key)
	}
	require.EqualValues(t, 50*4, s.gets.Load(), "each key climbs once")
	require.Greater(t, s.most.Load(), int64(1), "keys climb side by side")
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

func TestOneDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("K%d", i))
	}
	_, err := resolver.Over(hanging{storetest.Memory()}).Resolve(ctx, task, declare(keys...))
	var e *resolver.Error
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Failed, 100)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "no answer in time")
}

func TestBadScope(t *testing.T) {
	_, err := resolver.Over(storetest.Memory()).Resolve(t.Context(), secret.Scope{Org: "a__b"}, nil)
	require.ErrorIs(t, err, secret.ErrInvalid)
	got, err := resolver.Over(storetest.Memory()).Resolve(t.Context(), task, nil)
	require.NoError(t, err)
	require.Empty(t, got)
}
