package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver"
	"inject/resolver/resolvertest"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// A gauge is how many there are of something, and how many there were at most.
type gauge struct {
	mu        sync.Mutex
	now, most int
}

// add counts n more, or less if it is negative, and returns how many there are then.
func (g *gauge) add(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
	return g.now
}

// bounds count what a ladder holds, and limit nothing.
type bounds struct {
	gauge // of the values that climbs may hold

	kept []string
	err  error // of Enter
}

func (b *bounds) Enter(ctx context.Context, n int) (context.Context, func(), error) {
	if b.err != nil {
		return nil, nil, b.err
	}
	b.add(n)
	return ctx, func() { b.add(-n) }, nil
}

func (b *bounds) Keep(_ context.Context, v secret.Value) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, string(v.Reveal()))
	return nil
}

// barrier is a store in which nothing is found, and whose reads return only when as many as want are
// under way.
type barrier struct {
	store.Store
	gauge // of the reads under way

	want int
	all  chan struct{}
}

func newBarrier(want int) *barrier {
	return &barrier{Store: storetest.Memory(), want: want, all: make(chan struct{})}
}

func (b *barrier) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	defer b.add(-1)
	if b.add(1) == b.want {
		close(b.all)
	}
	select {
	case <-b.all:
		return b.Store.Get(ctx, ref)
	case <-ctx.Done():
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: ctx.Err()}
	}
}

func keys(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("K%d", i))
	}
	return all
}

// A remote store is asked at all rungs of all declarations at the same time, and never for more than
// sixteen secrets.
func TestAllRungsAtOnce(t *testing.T) {
	for _, n := range []int{1, 5, 16, 1000} {
		for _, over := range []func(store.Reader) *resolver.Ladder{
			resolver.Over,
			func(r store.Reader) *resolver.Ladder { return resolver.OverShared(r, &bounds{}) },
		} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					want := 4 * min(n, 16)
					s := newBarrier(want)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					climbs, err := over(remote{s}).Climb(ctx, resolvertest.Task, resolvertest.Declare(keys(n)...))
					require.NoError(t, err)
					require.NoError(t, ctx.Err(), "the reads waited for each other in vain")
					for _, c := range climbs {
						require.ErrorIs(t, c.Err, secret.ErrNotFound)
						require.Len(t, c.Tried, 4)
					}
					require.Equal(t, want, s.most)
				})
			})
		}
	}
	// The twin: one that is not remote never has two rungs of a key under way.
	synctest.Test(t, func(t *testing.T) {
		s := newBarrier(2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		climbs, err := resolver.Over(s).Climb(ctx, resolvertest.Task, resolvertest.Declare("K"))
		require.NoError(t, err)
		require.ErrorIs(t, climbs[0].Err, context.DeadlineExceeded)
		require.Equal(t, 1, s.most)
	})
}

// A behaviour is what a scripted store does at one ref.
type behaviour struct {
	after time.Duration // until it answers
	hangs bool          // until ctx ends
	err   error         // nil for what is in the store
}

// scripted is a store that is slow, or fails, at some refs.
type scripted struct {
	store.Store

	at        map[secret.Ref]behaviour
	now       atomic.Int64 // reads under way
	gets, cut atomic.Int64 // reads in all, and those that ctx has ended
}

func (s *scripted) Get(ctx context.Context, ref secret.Ref) (v secret.Value, info store.Info, err error) {
	s.gets.Add(1)
	s.now.Add(1)
	defer s.now.Add(-1)
	b := s.at[ref]
	if b.after == 0 && ctx.Err() != nil {
		b.hangs = true // until now
	}
	var answers <-chan time.Time
	if !b.hangs {
		answers = time.After(b.after)
	}
	if b.after > 0 || b.hangs {
		select {
		case <-answers:
		case <-ctx.Done():
			s.cut.Add(1)
			return v, info, &secret.Error{Op: "get", Ref: ref, Err: ctx.Err()}
		}
	}
	if b.err != nil {
		return v, info, &secret.Error{Op: "get", Ref: ref, Err: b.err}
	}
	return s.Store.Get(ctx, ref)
}

// shown is a climb with all that a caller can see of it, in a form that can be compared.
func shown(c resolver.Climb) string {
	text := fmt.Sprintf("%+v = %q of %+v, elsewhere %v\n", c.Declaration, c.Value.Reveal(), c.Info, c.Elsewhere)
	for _, rung := range c.Tried {
		text += fmt.Sprintf("  %v: %v %v\n", rung.Scope, rung.Err, secret.KindOf(rung.Err))
	}
	return text + fmt.Sprintf("  %v %v", c.Err, secret.KindOf(c.Err))
}

// Whatever a store does at each rung, asking all rungs at once has the same results as asking one
// after the other, which are those of the plain rule: the narrowest rung that does not answer "not
// found" decides.
func TestSameAsInOrder(t *testing.T) {
	seeds := 2000
	if testing.Short() {
		seeds = 300
	}
	outcomes := map[secret.Kind]int{}
	found, gaveUp := 0, int64(0)
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			task := secret.Scope{Org: []string{"flyte", "other"}[r.IntN(2)]}
			if r.IntN(4) > 0 {
				task.Project = "p"
			}
			if r.IntN(4) > 0 {
				task.Domain = "d"
			}
			s := &scripted{Store: storetest.Memory(), at: map[secret.Ref]behaviour{}}
			declared := resolvertest.Declare(keys(1 + r.IntN(40))...)
			for i := range declared {
				for _, scope := range append(task.Ladder(), secret.Scope{Org: task.Org, Project: "elsewhere"}) {
					ref := secret.Ref{Scope: scope, Key: declared[i].Key}
					var b behaviour
					switch r.IntN(12) {
					case 0:
						b.err = secret.ErrDenied
					case 1:
						b.err = secret.ErrUnavailable
					case 2:
						b.err = fmt.Errorf("%w: of seed %d", secret.ErrCorrupt, seed)
					case 3:
						b.hangs = r.IntN(8) == 0
					case 4, 5:
						err := s.Create(t.Context(), ref, secret.NewValue(storetest.Value(t, 30)), store.Regular)
						require.NoError(t, err)
					}
					b.after = time.Duration(r.IntN(3)) * time.Duration(r.IntN(1000)) * time.Millisecond
					s.at[ref] = b
				}
				switch r.IntN(20) {
				case 0:
					declared[i].Key = "no key"
				case 1:
					declared[i].Version = "v1"
				case 2:
					declared = append(declared, declared[i])
				}
			}
			climb := func(l *resolver.Ladder) []resolver.Climb {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				climbs, err := l.Climb(ctx, task, declared)
				require.NoError(t, err)
				require.Zero(t, s.now.Load(), "a read outlives the call")
				return climbs
			}
			want := climb(resolver.Over(s))
			inOrder := s.gets.Load()
			s.cut.Store(0)
			counted := &bounds{}
			for _, l := range []*resolver.Ladder{
				resolver.Over(remote{s}), resolver.OverShared(remote{s}, counted),
			} {
				got := climb(l)
				require.Len(t, got, len(want))
				for i := range want {
					require.Equal(t, shown(want[i]), shown(got[i]), "seed %d", seed)
				}
			}
			require.GreaterOrEqual(t, s.gets.Load(), 2*inOrder)
			gaveUp += s.cut.Load()
			require.Zero(t, counted.now)
			require.LessOrEqual(t, counted.most, 64)

			kept := map[string]int{} // exactly the values that decide, each once
			for _, c := range want {
				if outcomes[secret.KindOf(c.Err)]++; c.Err == nil {
					found++
				}
				if len(c.Tried) > 0 && c.Tried[len(c.Tried)-1].Err == nil {
					v, _, err := s.Store.Get(t.Context(), secret.Ref{
						Scope: c.Tried[len(c.Tried)-1].Scope, Key: c.Declaration.Key,
					})
					require.NoError(t, err)
					kept[string(v.Reveal())] = 1
				}
				plainly(t, s, task, c)
			}
			for _, v := range counted.kept {
				kept[v]--
			}
			for _, n := range kept {
				require.Zero(t, n)
			}
		})
	}
	for _, err := range []error{
		secret.ErrNotFound, secret.ErrDenied, secret.ErrUnavailable, secret.ErrCorrupt, secret.ErrInvalid,
	} {
		require.Greater(t, outcomes[secret.KindOf(err)], seeds/10, err)
	}
	require.Greater(t, found, seeds)
	require.Greater(t, gaveUp, int64(seeds), "some reads of wider rungs are given up")
}

// plainly asserts that c is what the script of s and the plain rule say.
func plainly(t *testing.T, s *scripted, task secret.Scope, c resolver.Climb) {
	t.Helper()
	if secret.ValidKey(c.Declaration.Key) != nil || secret.KindOf(c.Err) == secret.KindUnavailable {
		return // the store says so, or too many reads hang
	}
	for i, scope := range task.Ladder() {
		ref := secret.Ref{Scope: scope, Key: c.Declaration.Key}
		_, err := s.Describe(t.Context(), ref)
		if b := s.at[ref]; b.err != nil {
			err = b.err
		}
		require.Greater(t, len(c.Tried), i)
		require.Equal(t, scope, c.Tried[i].Scope)
		require.Equal(t, secret.KindOf(err), secret.KindOf(c.Tried[i].Err))
		if !errors.Is(err, secret.ErrNotFound) {
			require.Len(t, c.Tried, i+1)
			return
		}
	}
	require.ErrorIs(t, c.Err, secret.ErrNotFound)
}

// A narrow rung decides although wider ones have not answered: their reads are given up, and end
// before the call returns.
func TestWiderRungsAreGivenUp(t *testing.T) {
	for name, narrow := range map[string]error{"found": nil, "failed": secret.ErrCorrupt} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scripted{Store: storetest.Memory(), at: map[secret.Ref]behaviour{}}
				for i, scope := range resolvertest.Task.Ladder() {
					s.at[secret.Ref{Scope: scope, Key: "K"}] = behaviour{after: time.Second, hangs: i > 0}
				}
				ref := secret.Ref{Scope: resolvertest.Task, Key: "K"}
				require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
				s.at[ref] = behaviour{after: time.Second, err: narrow}
				start := time.Now()
				climbs, err := resolver.Over(remote{s}).Climb(t.Context(), resolvertest.Task, resolvertest.Declare("K"))
				require.NoError(t, err)
				require.Equal(t, time.Second, time.Since(start))
				require.ErrorIs(t, climbs[0].Err, narrow)
				require.Len(t, climbs[0].Tried, 1)
				require.EqualValues(t, 4, s.gets.Load())
				require.EqualValues(t, 3, s.cut.Load())
				require.Zero(t, s.now.Load())
			})
		})
	}
}

// A climb that may not enter reads nothing, and fails with the reason.
func TestEnterRefuses(t *testing.T) {
	s := &counting{Store: storetest.Memory()}
	refusal := fmt.Errorf("%w: no place", secret.ErrUnavailable)
	climbs, err := resolver.OverShared(remote{s}, &bounds{err: refusal}).
		Climb(t.Context(), resolvertest.Task, resolvertest.Declare("K", "L"))
	require.NoError(t, err)
	for _, c := range climbs {
		require.ErrorIs(t, c.Err, refusal)
	}
	require.Zero(t, s.gets.Load())
}
