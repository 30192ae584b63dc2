package flight_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/flight"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store {
		s, ok := flight.New(storetest.Memory(), nil).Store().(store.Store)
		require.True(t, ok)
		return s
	})
}

// The store is a Manager or an Importer exactly if its backend is.
func TestKinds(t *testing.T) {
	memory := storetest.Memory()
	_, manages := flight.New(struct{ flight.Backend }{memory}, nil).Store().(store.Manager)
	require.False(t, manages)
	managed := flight.New(struct{ store.Store }{memory}, nil).Store()
	_, manages = managed.(store.Manager)
	require.True(t, manages)
	_, imports := managed.(store.Importer)
	require.False(t, imports)
	_, imports = flight.New(memory, nil).Store().(store.Importer)
	require.True(t, imports)
}

// Whether reads are round trips is what the backend says, of each kind of store.
func TestRemote(t *testing.T) {
	importer, ok := storetest.Memory().(store.Importer)
	require.True(t, ok)
	s := &slow{Store: storetest.Memory()}
	for _, is := range []remote{true, false} {
		for name, backend := range map[string]flight.Backend{
			"reader":   readOnly{s, is},
			"manager":  managed{s, is},
			"importer": importing{both{s, importer}, is},
		} {
			over := flight.New(backend, nil).Store()
			require.Equal(t, bool(is), store.IsRemote(over), name)
			_, manages := over.(store.Manager)
			require.Equal(t, name != "reader", manages)
			_, imports := over.(store.Importer)
			require.Equal(t, name == "importer", imports)
		}
	}
	require.False(t, store.IsRemote(flight.New(s, nil).Store()))
}

// remote says whether reads are round trips.
type remote bool

func (r remote) Remote() bool { return bool(r) }

type readOnly struct {
	flight.Backend
	remote
}

type managed struct {
	store.Store
	remote
}

type importing struct {
	both
	remote
}

// slow is a store whose reads get their result and then wait until hold is closed.
type slow struct {
	store.Store

	reads atomic.Int64
	hold  chan struct{}
	fail  error
	panic any
}

func (s *slow) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	s.reads.Add(1)
	v, info, err := s.Store.Get(ctx, ref)
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return secret.Value{}, store.Info{}, context.Cause(ctx)
		}
	}
	if s.panic != nil {
		panic(s.panic)
	}
	if s.fail != nil {
		return secret.Value{}, store.Info{}, s.fail
	}
	return v, info, err
}

var ref = secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "p", Domain: "d"}, Key: "K"}

// Ten thousand requests at the same time cost one read, and all get its result.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := storetest.Value(t, 40)
		s := &slow{Store: storetest.Memory(), hold: make(chan struct{})}
		var observed atomic.Int64
		f := flight.New(s, func(context.Context) func(time.Duration, error) {
			return func(time.Duration, error) { observed.Add(1) }
		}).Store()
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(value), store.Regular))
		var wg sync.WaitGroup
		var right atomic.Int64
		for range 10_000 {
			wg.Go(func() {
				v, info, err := f.Get(t.Context(), ref)
				if err == nil && v.Equal(secret.NewValue(value)) && info.Ref == ref {
					right.Add(1)
				}
			})
		}
		synctest.Wait() // until all of them wait
		close(s.hold)
		wg.Wait()
		require.EqualValues(t, 10_000, right.Load())
		require.EqualValues(t, 1, s.reads.Load())
		require.EqualValues(t, 1, observed.Load())
		_, _, err := f.Get(t.Context(), ref)
		require.NoError(t, err)
		require.EqualValues(t, 2, s.reads.Load(), "and nothing is kept")
	})
}

// Ten thousand tasks that start together cost one read for each rung of each secret, although each
// task reads the rungs one after the other and the tasks do not keep step. If others may change the
// store, they cost two: one for the first task, and one for all that start during it. They cost no more
// if each task reads all rungs at the same time, and gives up those that it does not need.
func TestTasks(t *testing.T) {
	t.Run("in order", func(t *testing.T) { testTasks(t, false, 5) }) // K at its first rung, LAST at all four
	t.Run("at once", func(t *testing.T) { testTasks(t, true, 16) })
}

func testTasks(t *testing.T, is remote, reads int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: storetest.Memory(), hold: make(chan struct{})}
		flights := flight.New(managed{s, is}, nil)
		org := ref
		org.Scope, org.Key = secret.Scope{Org: ref.Org}, "LAST"
		values := map[string]secret.Value{
			"K":    secret.NewValue(storetest.Value(t, 20)),
			"LAST": secret.NewValue(storetest.Value(t, 20)),
		}
		require.NoError(t, s.Create(t.Context(), ref, values["K"], store.Regular))
		require.NoError(t, s.Create(t.Context(), org, values["LAST"], store.Regular))
		var wg sync.WaitGroup
		var right atomic.Int64
		for range 10_000 {
			wg.Go(func() {
				ctx, end := flights.Begin(t.Context())
				defer end()
				climbs, err := resolver.Over(flights.Store()).Climb(ctx, ref.Scope,
					[]secret.Declaration{{Key: "K"}, {Key: "LAST"}})
				if err == nil && climbs[0].Value.Equal(values["K"]) && climbs[1].Value.Equal(values["LAST"]) {
					right.Add(1)
				}
			})
		}
		synctest.Wait()
		close(s.hold)
		wg.Wait()
		require.EqualValues(t, 10_000, right.Load())
		require.EqualValues(t, reads, s.reads.Load())
	})
}

// Reads of wider rungs that are given up go on. Tasks that ask meanwhile share the reads that begin
// next, so giving up does not make each task begin its own; and a change ends that.
func TestGivenUpReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: storetest.Memory(), hold: make(chan struct{})}
		quick := &slow{Store: s.Store}
		var under, began atomic.Int64
		flights := flight.New(narrowFirst{s, quick}, func(context.Context) func(time.Duration, error) {
			began.Add(1)
			under.Add(1)
			return func(time.Duration, error) { under.Add(-1) }
		})
		f, ok := flights.Store().(store.Store)
		require.True(t, ok)
		first, second := secret.NewValue(storetest.Value(t, 20)), secret.NewValue(storetest.Value(t, 20))
		wide := secret.Ref{Scope: secret.Scope{Org: ref.Org}, Key: ref.Key}
		require.NoError(t, f.Create(t.Context(), ref, first, store.Regular))
		require.NoError(t, f.Create(t.Context(), wide, first, store.Regular))
		climb := func() resolver.Climb {
			ctx, end := flights.Begin(t.Context())
			defer end()
			climbs, err := resolver.Over(f).Climb(ctx, ref.Scope, []secret.Declaration{{Key: ref.Key}})
			require.NoError(t, err)
			return climbs[0]
		}
		for i := range 1000 {
			c := climb()
			require.True(t, c.Value.Equal(first))
			require.Len(t, c.Tried, 1)
			require.EqualValues(t, i+1, quick.reads.Load())
			require.EqualValues(t, 3, s.reads.Load())
			require.EqualValues(t, min(i+1, 2)*3, under.Load(), "they are observed until they end, and while they wait")
		}

		require.NoError(t, f.Update(t.Context(), wide, second))
		require.NoError(t, f.Delete(t.Context(), ref))
		done := make(chan resolver.Climb)
		go func() { done <- climb() }()
		synctest.Wait()
		close(s.hold) // also for the reads from before the changes
		c := <-done
		require.True(t, c.Value.Equal(second), "a read from before the change is not used after it")
		require.Len(t, c.Tried, 4)
		synctest.Wait()
		require.Zero(t, under.Load())
		require.EqualValues(t, 1001+3+3+1, began.Load())
	})
}

// narrowFirst is a remote store that answers soon at the scope of ref, and slowly at wider ones.
type narrowFirst struct {
	*slow
	quick *slow
}

func (narrowFirst) Remote() bool { return true }

func (n narrowFirst) Get(ctx context.Context, at secret.Ref) (secret.Value, store.Info, error) {
	if at.Scope == ref.Scope {
		time.Sleep(time.Millisecond) // until all have been asked
		return n.quick.Get(ctx, at)
	}
	return n.slow.Get(ctx, at)
}

// A request after a change sees it, even if a read from before the change is still under way.
func TestChangesAreSeen(t *testing.T) {
	first, second := storetest.Value(t, 20), storetest.Value(t, 20)
	for name, change := range map[string]func(context.Context, store.Importer) error{
		"update": func(ctx context.Context, s store.Importer) error {
			return s.Update(ctx, ref, secret.NewValue(second))
		},
		"delete and create": func(ctx context.Context, s store.Importer) error {
			return errors.Join(s.Delete(ctx, ref), s.Create(ctx, ref, secret.NewValue(second), store.Regular))
		},
		"delete and import": func(ctx context.Context, s store.Importer) error {
			return errors.Join(s.Delete(ctx, ref),
				s.Import(ctx, []store.New{{Ref: ref, Value: secret.NewValue(second)}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory, ok := storetest.Memory().(store.Importer)
				require.True(t, ok)
				s := &slow{Store: memory.(store.Store), hold: make(chan struct{})} //nolint:errcheck // it is one
				f, ok := flight.New(both{s, memory}, nil).Store().(store.Importer)
				require.True(t, ok)
				reader, ok := f.(store.Reader)
				require.True(t, ok)
				require.NoError(t, f.Create(t.Context(), ref, secret.NewValue(first), store.Regular))
				get := func(want []byte) func() {
					var v secret.Value
					var err error
					done := make(chan struct{})
					go func() {
						defer close(done)
						v, _, err = reader.Get(t.Context(), ref)
					}()
					synctest.Wait()
					return func() {
						<-done
						require.NoError(t, err)
						require.True(t, v.Equal(secret.NewValue(want)))
					}
				}

				before := get(first)
				joined := get(first)
				require.NoError(t, change(t.Context(), f))
				after := get(second)

				close(s.hold)
				before()
				joined()
				after()
				require.EqualValues(t, 2, s.reads.Load())
			})
		})
	}
}

// If other processes change the store, a request that begins after a change sees it, even if a read
// from before the change is still under way. Requests share reads all the same.
func TestChangesOfOthersAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stepped{Store: storetest.Memory(), reads: make(chan chan struct{}, 10)}
		flights := flight.New(s, nil)
		values := []secret.Value{
			secret.NewValue(storetest.Value(t, 20)), secret.NewValue(storetest.Value(t, 20)),
			secret.NewValue(storetest.Value(t, 20)),
		}
		task, end := flights.Begin(t.Context())
		defer end()
		get := func(ctx context.Context) (expect func(want secret.Value)) {
			var got secret.Value
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				got, _, err = flights.Store().Get(ctx, ref)
			}()
			synctest.Wait()
			return func(want secret.Value) {
				t.Helper()
				<-done
				require.NoError(t, err)
				require.True(t, got.Equal(want))
			}
		}
		require.NoError(t, s.Create(t.Context(), ref, values[0], store.Regular))
		first := get(t.Context())
		release := <-s.reads
		require.NoError(t, s.Update(t.Context(), ref, values[1])) // not through the flights
		var second []func(secret.Value)
		for range 1000 {
			second = append(second, get(t.Context()))
		}
		require.Empty(t, s.reads, "they wait for the read that is under way")
		close(release)
		first(values[0])

		release = <-s.reads
		require.NoError(t, s.Update(t.Context(), ref, values[2]))
		second = append(second, get(task)) // had begun before this read
		third := get(t.Context())
		later, endLater := flights.Begin(t.Context())
		defer endLater()
		thirdOfTask := get(later)
		require.Empty(t, s.reads)
		close(release)
		for _, expect := range second {
			expect(values[1])
		}
		close(<-s.reads)
		third(values[2])
		thirdOfTask(values[2])
		get(later)(values[2]) // the read that ended has begun after this task
		synctest.Wait()
		require.Empty(t, s.reads)
	})
}

// stepped is a remote store. Each of its reads gets its result, and then waits until the channel that it
// sends is closed.
type stepped struct {
	store.Store

	reads chan chan struct{}
}

func (*stepped) Remote() bool { return true }

func (s *stepped) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	v, info, err := s.Store.Get(ctx, ref)
	release := make(chan struct{})
	s.reads <- release
	<-release
	return v, info, err
}

// both reads slowly and imports immediately.
type both struct {
	*slow
	importer store.Importer
}

func (b both) Import(ctx context.Context, secrets []store.New) error {
	return b.importer.Import(ctx, secrets)
}

// A task that began before a read gets its result, even after the read ended. A task that begins
// later does not, nor does a request after a change, and no result is kept that no task can use.
func TestBegin(t *testing.T) {
	s := &slow{Store: storetest.Memory()}
	flights := flight.New(s, nil)
	f, ok := flights.Store().(store.Store)
	require.True(t, ok)
	first, second := secret.NewValue(storetest.Value(t, 20)), secret.NewValue(storetest.Value(t, 20))
	require.NoError(t, f.Create(t.Context(), ref, first, store.Regular))
	get := func(ctx context.Context, want secret.Value, reads int) {
		t.Helper()
		v, _, err := f.Get(ctx, ref)
		require.NoError(t, err)
		require.True(t, v.Equal(want))
		require.EqualValues(t, reads, s.reads.Load())
	}

	early, endEarly := flights.Begin(t.Context())
	earlier, endEarlier := flights.Begin(t.Context())
	get(early, first, 1)
	get(earlier, first, 1)
	get(early, first, 1)
	get(t.Context(), first, 2) // without Begin, so it causes a read
	get(early, first, 2)

	late, endLate := flights.Begin(t.Context())
	get(late, first, 3)
	require.NoError(t, f.Update(t.Context(), ref, second))
	get(early, second, 4)
	get(late, second, 4)

	endLate()
	endEarly()
	get(earlier, second, 4)
	endEarlier()
	again, endAgain := flights.Begin(t.Context())
	get(again, second, 5)
	endAgain()

	// Results beyond the bounds are dropped and read again.
	long, endLong := flights.Begin(t.Context())
	other := ref
	for i := range 5000 {
		other.Key = fmt.Sprintf("K%d", i)
		_, _, err := f.Get(long, other)
		require.ErrorIs(t, err, secret.ErrNotFound)
	}
	require.EqualValues(t, 5005, s.reads.Load())
	_, _, err := f.Get(long, other)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.EqualValues(t, 5005, s.reads.Load(), "the last is there")
	other.Key = "K0"
	_, _, err = f.Get(long, other)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.EqualValues(t, 5006, s.reads.Load(), "the first is not")
	endLong()
}

// A request that gives up returns, and the others still get the result, even if it was the one that
// caused the read.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: storetest.Memory(), hold: make(chan struct{})}
		f := flight.New(s, nil).Store()
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(storetest.Value(t, 9)), store.Regular))
		ctx, cancel := context.WithCancel(t.Context())
		gone, stays := make(chan error, 1), make(chan error, 1)
		get := func(ctx context.Context, to chan error) {
			_, _, err := f.Get(ctx, ref)
			to <- err
		}
		go get(ctx, gone)
		synctest.Wait()
		go get(t.Context(), stays)
		synctest.Wait()
		cancel()
		err := <-gone
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.ErrorIs(t, err, context.Canceled)
		close(s.hold)
		require.NoError(t, <-stays)
		require.EqualValues(t, 1, s.reads.Load())
	})
}

// A read of a backend that never answers ends after a while, so that goroutines do not pile up.
func TestNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := flight.New(&slow{Store: storetest.Memory(), hold: make(chan struct{})}, nil).Store()
		_, _, err := f.Get(t.Context(), ref)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// All requests get the error of a failed read. A panic of the backend is such an error, without the
// text of the panic.
func TestFailures(t *testing.T) {
	s := &slow{Store: storetest.Memory(), fail: secret.ErrCorrupt}
	f := flight.New(s, nil).Store()
	_, _, err := f.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrCorrupt)
	s.fail, s.panic = nil, "canary"
	_, _, err = f.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotContains(t, err.Error(), "canary")
	s.panic = nil
	_, _, err = f.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrNotFound)
}
