package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// fill makes a store of n secrets at path, in few transactions: a million of one secret would take
// hours. The records come first, in the order of their keys, and the index afterwards in its own
// order, so that each page is written about once.
func fill(tb testing.TB, path string, key Key, n int) {
	tb.Helper()
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: path, Write: true, Key: key})
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // a benchmark's
	if err := s.make(ctx); err != nil {
		tb.Fatal(err)
	}

	changes := make([]change, n)
	for i := range changes {
		ref := benchRef(i)
		changes[i] = change{ref: ref, entry: index.Entry{Name: s.keys.nameOf(ref)}}
	}
	inParts := func(from int, do func(t *tx, part []change) error) {
		slices.SortFunc(changes, func(a, b change) int {
			return bytes.Compare(a.entry.Name[from:], b.entry.Name[from:])
		})
		for part := range slices.Chunk(changes, 20_000) {
			if err := s.update(ctx, func(t *tx) error { return do(t, part) }); err != nil {
				tb.Fatal(err)
			}
		}
	}
	value := secret.NewValue([]byte("the value of a benchmark's secret"))
	inParts(scopeSize, func(t *tx, part []change) (err error) {
		for i, c := range part {
			info := store.Info{Ref: c.ref, Created: time.Now(), Updated: time.Now()}
			if part[i].entry, err = t.putRecord(c.entry.Name, info, value); err != nil {
				return err
			}
		}
		return t.enter(nil, nil)
	})
	inParts(0, func(t *tx, part []change) error { return t.enter(part, nil) })
}

func benchRef(i int) secret.Ref {
	return secret.Ref{
		Scope: secret.Scope{Org: secret.DefaultOrg, Project: fmt.Sprintf("p%d", i/10)},
		Key:   fmt.Sprintf("KEY_%d", i),
	}
}

// alternating calls each in turn until b ends, so that other load on the machine affects all of
// them, and in another order each time, because what one leaves in the caches affects the next. It
// returns the median of the times of each.
func alternating(b *testing.B, each ...func()) []float64 {
	b.Helper()
	times := make([][]time.Duration, len(each))
	b.ResetTimer()
	for b.Loop() {
		for _, i := range rand.Perm(len(each)) {
			start := time.Now()
			each[i]()
			times[i] = append(times[i], time.Since(start))
		}
	}
	b.ReportMetric(0, "ns/op") // hides the time of all together, which means nothing
	medians := make([]float64, len(each))
	for i, t := range times {
		slices.Sort(t)
		medians[i] = float64(t[len(t)/2])
	}
	return medians
}

// BenchmarkOpenResolve opens the store, resolves five secrets through the ladder and closes it, as
// every start of a task does, among ten secrets, a thousand and a million. The three alternate, so
// that other load on the machine affects all of them. The result is the ratio of the medians,
// which should be under 2.
func BenchmarkOpenResolve(b *testing.B) {
	dir := b.TempDir()
	key := Key{File: filepath.Join(dir, "key.txt")}
	sizes := []int{10, 1000, 1_000_000}
	for _, n := range sizes {
		fill(b, filepath.Join(dir, fmt.Sprint(n)), key, n)
	}
	runtime.GC() // frees what fill has used
	times := map[int][]time.Duration{}
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		for _, n := range sizes {
			start := time.Now()
			openResolve(b, filepath.Join(dir, fmt.Sprint(n)), key, i*7919%(n/10)*10)
			times[n] = append(times[n], time.Since(start))
		}
	}
	median := func(n int) float64 {
		slices.Sort(times[n])
		return float64(times[n][len(times[n])/2])
	}
	b.ReportMetric(0, "ns/op") // hides the time of all three together, which means nothing
	for _, n := range sizes {
		b.ReportMetric(median(n)/1e3, fmt.Sprintf("µs-among-%d", n))
		b.ReportMetric(median(n)/median(10), fmt.Sprintf("x-of-10-among-%d", n))
	}
}

// BenchmarkMany uses stores that are open for writing, as in a server, of a thousand secrets and of a
// million. It gets random secrets, and lists pages of ten: the secrets of a project, and the first
// ones of the org. All of them take turns, so that other load on the machine affects all. The
// results are the ratios of the medians, which should be under 3, and the memory that the store of a
// million needs.
func BenchmarkMany(b *testing.B) {
	dir := b.TempDir()
	key := Key{File: filepath.Join(dir, "key.txt")}
	sizes := []int{1000, 1_000_000}
	var stores []*Store
	var each []func()
	for _, n := range sizes {
		path := filepath.Join(dir, fmt.Sprint(n))
		fill(b, path, key, n)
		s, err := Open(b.Context(), Options{Path: path, Write: true, Key: key})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		stores = append(stores, s)
		list := func(f store.Filter) {
			page, _, err := s.List(context.Background(), f, 10, "")
			if err != nil || len(page) != 10 {
				b.Fatal(len(page), err)
			}
		}
		each = append(each,
			func() { getRandom(b, s, n) },
			func() { list(store.Filter(benchRef(rand.IntN(n)).Scope)) },
			func() { list(store.Filter{Org: secret.DefaultOrg}) },
		)
	}
	runtime.GC() // frees what fill has used
	medians := alternating(b, each...)
	for i, what := range []string{"get", "list-project", "list-org"} {
		few, many := medians[i], medians[i+3]
		b.ReportMetric(few/1e3, "µs-"+what+"-among-1000")
		b.ReportMetric(many/1e3, "µs-"+what+"-among-1000000")
		b.ReportMetric(many/few, "x-"+what)
	}
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "MiB-heap")
	runtime.KeepAlive(stores)
}

// atOnce makes the ladder ask the store at all rungs at the same time, as it asks one over a network.
type atOnce struct{ *Store }

func (atOnce) Remote() bool { return true }

// rungByRung looks each key up at one rung after the other, and up to sixteen keys at the same time. It
// is the least that a ladder does.
func rungByRung(ctx context.Context, r store.Reader, task secret.Scope, keys []string) (found int) {
	values := make([]secret.Value, len(keys))
	var g errgroup.Group
	g.SetLimit(16)
	for i, key := range keys {
		climb := func() error {
			for _, scope := range task.Ladder() {
				v, _, err := r.Get(ctx, secret.Ref{Scope: scope, Key: key})
				if !errors.Is(err, secret.ErrNotFound) {
					values[i] = v
					return err
				}
			}
			return nil
		}
		if len(keys) == 1 {
			_ = climb()
			break
		}
		g.Go(climb)
	}
	_ = g.Wait()
	for _, v := range values {
		found += min(v.Len(), 1)
	}
	return found
}

// BenchmarkRungs looks secrets up in a store of a thousand that are at the narrowest rung of the ladder,
// at the widest, and at none. The results are the ratios of the medians to that of the plain loop: of
// the ladder as it is, which should be under 1.2, and of one that asks at all rungs at the same time,
// which says why a store on this machine is asked at one after the other.
func BenchmarkRungs(b *testing.B) {
	dir := b.TempDir()
	key := Key{File: filepath.Join(dir, "key.txt")}
	path := filepath.Join(dir, "db")
	fill(b, path, key, 1000)
	s, err := Open(b.Context(), Options{Path: path, Write: true, Key: key})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	task := secret.Scope{Org: secret.DefaultOrg, Project: "p", Domain: "d"}
	const keys = 5
	all := map[string][]string{}
	for _, at := range []struct {
		rung  string
		scope secret.Scope
	}{{"narrowest", task}, {"widest", secret.Scope{Org: task.Org}}, {"none", secret.Scope{}}} {
		for i := range keys {
			name := fmt.Sprintf("%s_%d", at.rung, i)
			all[at.rung] = append(all[at.rung], name)
			if at.rung == "none" {
				continue
			}
			v := secret.NewValue([]byte("the value of a benchmark's secret"))
			if err := s.Create(b.Context(), secret.Ref{Scope: at.scope, Key: name}, v, store.Regular); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, rung := range []string{"narrowest", "widest", "none"} {
		for _, n := range []int{1, keys} {
			b.Run(fmt.Sprintf("%s-%d", rung, n), func(b *testing.B) {
				want := n
				if rung == "none" {
					want = 0
				}
				names := all[rung][:n]
				declared := make([]secret.Declaration, n)
				for i := range declared {
					declared[i].Key = names[i]
				}
				climb := func(l *resolver.Ladder) func() {
					return func() {
						climbs, err := l.Climb(context.Background(), task, declared)
						found := 0
						for _, c := range climbs {
							found += min(c.Value.Len(), 1)
						}
						if err != nil || found != want {
							b.Fatal(found, err)
						}
					}
				}
				medians := alternating(b, func() {
					if found := rungByRung(context.Background(), s, task, names); found != want {
						b.Fatal(found)
					}
				}, climb(resolver.Over(reader{s})), climb(resolver.Over(reader{atOnce{s}})))
				b.ReportMetric(medians[1]/medians[0], "x-ladder")
				b.ReportMetric(medians[2]/medians[0], "x-at-once")
			})
		}
	}
}

// reader hides that the store can list, because the ladder would look for missing secrets elsewhere.
type reader struct{ store.Reader }

func (r reader) Remote() bool { return store.IsRemote(r.Reader) }

func getRandom(b *testing.B, s *Store, n int) {
	b.Helper()
	if _, _, err := s.Get(context.Background(), benchRef(rand.IntN(n))); err != nil {
		b.Fatal(err)
	}
}

func openResolve(b *testing.B, path string, key Key, first int) {
	b.Helper()
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: path, Key: key, LockTimeout: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	task := secret.Scope{Org: secret.DefaultOrg, Domain: "development", Project: benchRef(first).Project}
	var declared []secret.Declaration
	for j := range 5 {
		declared = append(declared, secret.Declaration{Key: benchRef(first + j).Key})
	}
	if _, err := resolver.Over(s).Resolve(ctx, task, declared); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// A store made by fill is like one that the package makes: it can be read, changed and listed.
func TestFill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := Key{File: filepath.Join(dir, "key.txt")}
	path := filepath.Join(dir, "db")
	n := 40_000 // three levels
	if testing.Short() {
		n = 4_000 // two
	}
	fill(t, path, key, n)
	s, err := Open(t.Context(), Options{Path: path, Write: true, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // asserted elsewhere
	for i := 0; i < n; i += 997 {
		if _, info, err := s.Get(t.Context(), benchRef(i)); err != nil || info.Ref != benchRef(i) {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), benchRef(i)); err != nil {
			t.Fatal(err)
		}
	}
	left := 0
	for _, err := range store.All(t.Context(), s, store.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		left++
	}
	if want := n - (n+996)/997; left != want {
		t.Fatalf("%d secrets are listed instead of %d", left, want)
	}
}
