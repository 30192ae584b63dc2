// Package resolvertest is the conformance suite of resolvers: the ladder in this process
// passes it, and so does the client of a server. It knows the interfaces of a store and a
// resolver, and no implementation.
package resolvertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// A Resolver also returns its climbs.
type Resolver interface {
	resolver.Resolver
	// Climb does what Climb of [resolver.Ladder] does.
	Climb(ctx context.Context, task secret.Scope, declared []secret.Declaration) ([]resolver.Climb, error)
}

// Task is the scope that the suite resolves for.
var Task = secret.Scope{Org: "flyte", Domain: "development", Project: "p"}

// beyond are scopes outside the ladder of [Task].
var beyond = []secret.Scope{
	{Org: "flyte", Project: "q"},
	{Org: "flyte", Domain: "production"},
	{Org: "flyte", Domain: "production", Project: "p"},
	{Org: "other"},
}

// errOther is of [secret.KindUnknown].
var errOther = errors.New("of no kind")

// Run asserts everything that a [resolver.Resolver] promises. open returns one
// over s, and closes it in a cleanup of the test.
func Run(t *testing.T, open func(t *testing.T, s store.Store) Resolver) {
	run(t, open, secret.ErrDenied)
}

// RunServed is Run for the client of a server that reads s as itself, and not as its caller. If s denies
// it something, the caller is not denied, and the server is unavailable.
func RunServed(t *testing.T, open func(t *testing.T, s store.Store) Resolver) {
	run(t, open, secret.ErrUnavailable)
}

// run is Run for a resolver whose error is denied if its store is denied access.
func run(t *testing.T, open func(t *testing.T, s store.Store) Resolver, denied error) {
	t.Run("EveryLadder", func(t *testing.T) { testLadders(t, open, denied) })
	t.Run("AllFailuresAtOnce", func(t *testing.T) { testFailures(t, open) })
	t.Run("Order", func(t *testing.T) { testOrder(t, open) })
	t.Run("Values", func(t *testing.T) { testValues(t, open) })
	t.Run("NarrowerTask", func(t *testing.T) { testScopes(t, open) })
	t.Run("Deadline", func(t *testing.T) { testDeadline(t, open) })
	t.Run("Refusals", func(t *testing.T) { testRefusals(t, open) })
}

// Declare returns a declaration of each key.
func Declare(keys ...string) []secret.Declaration {
	declared := make([]secret.Declaration, len(keys))
	for i, key := range keys {
		declared[i] = secret.Declaration{Key: key}
	}
	return declared
}

func create(t *testing.T, s store.Store, scope secret.Scope, key string, value []byte) {
	t.Helper()
	require.NoError(t, s.Create(t.Context(), secret.Ref{Scope: scope, Key: key}, secret.NewValue(value), store.Regular))
}

// failing is a store that fails for some secrets.
type failing struct {
	store.Store

	at map[secret.Ref]error
}

func (f failing) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	if err := f.at[ref]; err != nil {
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
	}
	return f.Store.Get(ctx, ref)
}

// testLadders climbs every possible ladder: on each of the four rungs the secret is
// absent, present, or fails in one of the ways. The first rung that is not absent decides.
func testLadders(t *testing.T, open func(*testing.T, store.Store) Resolver, denied error) {
	rungs := Task.Ladder()
	require.Len(t, rungs, 4)
	states := []error{secret.ErrNotFound, nil, secret.ErrDenied, secret.ErrUnavailable, secret.ErrCorrupt, errOther}
	s := failing{storetest.Memory(), map[secret.Ref]error{}}
	type ladder struct {
		key     string
		decides int // the rung; 4 for none
		want    error
	}

	var ladders []ladder
	for n := range len(states) * len(states) * len(states) * len(states) {
		l := ladder{fmt.Sprintf("K%d", n), len(rungs), secret.ErrNotFound}
		for i, scope := range rungs {
			state := states[n%len(states)]
			n /= len(states)
			ref := secret.Ref{Scope: scope, Key: l.key}
			if state == nil {
				create(t, s.Store, scope, l.key, []byte(ref.String()))
			} else {
				s.at[ref] = state
			}
			if l.decides == len(rungs) && !errors.Is(state, secret.ErrNotFound) {
				l.decides, l.want = i, state
				if errors.Is(state, secret.ErrDenied) {
					l.want = denied
				}
			}
		}
		for _, scope := range beyond {
			create(t, s.Store, scope, l.key, []byte("beyond"))
		}
		ladders = append(ladders, l)
	}

	r := open(t, s)
	check := func(l ladder, c resolver.Climb) {
		require.Equal(t, l.key, c.Declaration.Key)
		require.Len(t, c.Tried, min(l.decides+1, len(rungs)))
		for i, rung := range c.Tried {
			require.Equal(t, rungs[i], rung.Scope)
			if i < l.decides {
				require.ErrorIs(t, rung.Err, secret.ErrNotFound)
			} else {
				requireKind(t, rung.Err, l.want)
			}
		}
		requireKind(t, c.Err, l.want)
		if l.want == nil {
			require.Equal(t, secret.Ref{Scope: rungs[l.decides], Key: l.key}, c.Info.Ref)
		}
		if errors.Is(l.want, secret.ErrNotFound) {
			require.ElementsMatch(t, beyond[:3], c.Elsewhere, "scopes of this org, and of no other")
		} else {
			require.Empty(t, c.Elsewhere)
		}
	}

	var keys []string
	for _, l := range ladders {
		keys = append(keys, l.key)
	}
	climbs, err := r.Climb(t.Context(), Task, Declare(keys...))
	require.NoError(t, err)
	require.Len(t, climbs, len(ladders))
	values := 0
	for i, l := range ladders {
		check(l, climbs[i])
	}

	for n, l := range ladders {
		if n%7 != 0 && l.want != nil { // resolve only some of those that fail
			continue
		}
		got, err := r.Resolve(t.Context(), Task, Declare(l.key))
		if l.want == nil {
			require.NoError(t, err)
			require.Equal(t, got[0].Info.Ref.String(), string(got[0].Value.Reveal()))
			require.Equal(t, rungs[l.decides], got[0].Info.Ref.Scope)
			values++
			continue
		}
		require.Nil(t, got)
		e, ok := errors.AsType[*resolver.Error](err)
		require.True(t, ok)
		require.Len(t, e.Failed, 1)
		check(l, e.Failed[0])
	}
	require.Equal(t, 6*6*6+6*6+6+1, values)
}

// requireKind asserts that err is of the kind of want and of no other.
func requireKind(t *testing.T, err, want error) {
	t.Helper()
	if want == nil {
		require.NoError(t, err)
		return
	}
	require.Error(t, err)
	for _, kind := range secret.Kinds() {
		require.Equalf(
			t, errors.Is(kind.Err(), want), errors.Is(err, kind.Err()), "%v: %v", kind, err,
		)
	}
}

func testFailures(t *testing.T, open func(*testing.T, store.Store) Resolver) {
	s := storetest.Memory()
	create(t, s, secret.Scope{Org: "flyte"}, "HERE", []byte("v"))
	create(t, s, secret.Scope{Org: "flyte", Domain: "production"}, "THERE", []byte("v"))
	declared := Declare("HERE", "ABSENT", "THERE", "HERE", "ABSENT", "no key")
	declared[3].Version = "v1"
	got, err := open(t, s).Resolve(t.Context(), Task, declared)
	require.Nil(t, got)
	e, ok := errors.AsType[*resolver.Error](err)
	require.True(t, ok)
	require.Len(t, e.Failed, 5)
	for i, want := range declared[1:] {
		require.Equal(t, want, e.Failed[i].Declaration)
	}
	requireKind(t, e.Failed[0].Err, secret.ErrNotFound)
	require.Len(t, e.Failed[0].Tried, 4)
	require.Empty(t, e.Failed[0].Elsewhere)
	requireKind(t, e.Failed[1].Err, secret.ErrNotFound)
	require.Equal(t, []secret.Scope{{Org: "flyte", Domain: "production"}}, e.Failed[1].Elsewhere)
	requireKind(t, e.Failed[2].Err, secret.ErrInvalid)
	require.ErrorContains(t, e.Failed[2].Err, "v1")
	requireKind(t, e.Failed[3].Err, secret.ErrNotFound)
	requireKind(t, e.Failed[4].Err, secret.ErrInvalid)
}

func testOrder(t *testing.T, open func(*testing.T, store.Store) Resolver) {
	s := storetest.Memory()
	var keys []string
	for i := range 50 {
		key := fmt.Sprintf("K%d", i)
		create(t, s, secret.Scope{Org: "flyte"}, key, []byte(key))
		keys = append(keys, key, "K0")
	}
	declared := Declare(keys...)
	for i := range declared { // the declaration comes back unchanged, to the last field
		declared[i].Group, declared[i].EnvVar, declared[i].Mount = "g", fmt.Sprintf("V%d", i), secret.EnvVar
	}
	r := open(t, s)
	got, err := r.Resolve(t.Context(), Task, declared)
	require.NoError(t, err)
	require.Len(t, got, len(keys))
	for i, key := range keys {
		require.Equal(t, key, string(got[i].Value.Reveal()))
		require.Equal(t, declared[i], got[i].Declaration)
	}
	got, err = r.Resolve(t.Context(), Task, nil)
	require.NoError(t, err)
	require.Empty(t, got)
}

// testValues asserts that values and their metadata arrive unchanged.
func testValues(t *testing.T, open func(*testing.T, store.Store) Resolver) {
	s := storetest.Memory()
	values := storetest.Values(t)
	var keys []string
	for name, b := range values {
		ref := secret.Ref{Scope: Task, Key: name}
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(b), store.ImagePull))
		keys = append(keys, name)
	}
	got, err := open(t, s).Resolve(t.Context(), Task, Declare(keys...))
	require.NoError(t, err)
	for i, key := range keys {
		require.True(t, got[i].Value.Equal(secret.NewValue(values[key])), key)
		want, err := s.Describe(t.Context(), secret.Ref{Scope: Task, Key: key})
		require.NoError(t, err)
		require.Equal(t, want.Ref, got[i].Info.Ref)
		require.Equal(t, want.Type, got[i].Info.Type)
		require.True(t, want.Created.Equal(got[i].Info.Created))
		require.True(t, want.Updated.Equal(got[i].Info.Updated))
	}
}

// testScopes asserts that a task without a project or domain reads no secrets of one.
func testScopes(t *testing.T, open func(*testing.T, store.Store) Resolver) {
	s := storetest.Memory()
	for _, scope := range Task.Ladder() {
		create(t, s, scope, "K", []byte(scope.String()))
	}
	r := open(t, s)
	for _, task := range Task.Ladder() {
		got, err := r.Resolve(t.Context(), task, Declare("K"))
		require.NoError(t, err)
		require.Equal(t, task.String(), string(got[0].Value.Reveal()))
	}
	got, err := r.Resolve(
		t.Context(), secret.Scope{Org: "other", Domain: Task.Domain, Project: Task.Project}, Declare("K"),
	)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.Nil(t, got)
}

// hanging is a store that never answers.
type hanging struct{ store.Store }

func (hanging) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	<-ctx.Done()
	return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: ctx.Err()}
}

// testDeadline asserts that one deadline holds for the whole list.
func testDeadline(t *testing.T, open func(*testing.T, store.Store) Resolver) {
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("K%d", i))
	}
	r := open(t, hanging{storetest.Memory()})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := r.Resolve(ctx, Task, Declare(keys...))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "no answer")
	require.Error(t, ctx.Err(), "it must use all of its time")

	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = r.Resolve(ctx, Task, Declare(keys...))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.Canceled)
}

func testRefusals(t *testing.T, open func(*testing.T, store.Store) Resolver) {
	s := storetest.Memory()
	create(t, s, secret.Scope{Org: "flyte"}, "K", []byte("v"))
	r := open(t, s)
	for _, task := range []secret.Scope{{}, {Org: "a__b"}, {Org: "flyte", Project: "../p"}, {
		Org: "flyte", Domain: strings.Repeat("d", 64),
	}} {
		_, err := r.Resolve(t.Context(), task, Declare("K"))
		require.ErrorIs(t, err, secret.ErrInvalid)
		_, err = r.Climb(t.Context(), task, nil)
		require.ErrorIs(t, err, secret.ErrInvalid)
	}
	got, err := r.Resolve(t.Context(), Task, Declare("K"))
	require.NoError(t, err)
	require.Len(t, got, 1)
}
