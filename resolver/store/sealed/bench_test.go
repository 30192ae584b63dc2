package sealed

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// fill makes a store of n secrets at path, in transactions of 50,000. A million transactions of
// one secret would take hours.
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

	type item struct {
		name index.Name
		info store.Info
	}
	items := make([]item, n)
	for i := range items {
		ref := benchRef(i)
		items[i] = item{s.keys.nameOf(ref), store.Info{Ref: ref, Created: time.Now(), Updated: time.Now()}}
	}
	slices.SortFunc(items, func(a, b item) int { return bytes.Compare(a.name[:], b.name[:]) })

	for batch := range slices.Chunk(items, 50_000) {
		err := s.db.Update(func(bt *bbolt.Tx) error {
			t, err := s.beginUpdate(bt)
			if err != nil {
				return err
			}
			// Skip the walk of each path: these pages were written by this transaction.
			entries := make([]index.Entry, len(batch))
			for i, it := range batch {
				t.walked = map[string]bool{string(recordKey(it.name)): true}
				if err := t.putRecord(it.name, it.info,
					secret.NewValue([]byte("the value of a benchmark's secret"))); err != nil {
					return err
				}
				entries[i] = index.Entry{Name: it.name, Version: t.id}
			}
			return t.index.SetAll(entries)
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func benchRef(i int) secret.Ref {
	return secret.Ref{
		Scope: secret.Scope{Org: secret.DefaultOrg, Project: fmt.Sprintf("p%d", i/10)},
		Key:   fmt.Sprintf("KEY_%d", i),
	}
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

// BenchmarkGetMany gets random secrets from a store that is open for writing, as in a server,
// among a thousand and a million. The two alternate with every call, so that other load on the
// machine affects both. The results are the ratio of the medians, which should be under 3, and the
// memory that the store of a million needs.
func BenchmarkGetMany(b *testing.B) {
	dir := b.TempDir()
	key := Key{File: filepath.Join(dir, "key.txt")}
	sizes := []int{1000, 1_000_000}
	stores := map[int]*Store{}
	for _, n := range sizes {
		path := filepath.Join(dir, fmt.Sprint(n))
		fill(b, path, key, n)
		s, err := Open(b.Context(), Options{Path: path, Write: true, Key: key})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		stores[n] = s
	}
	times := map[int][]time.Duration{}
	b.ResetTimer()
	for b.Loop() {
		for _, n := range sizes {
			start := time.Now()
			getRandom(b, stores[n], n)
			times[n] = append(times[n], time.Since(start))
		}
	}
	median := func(n int) float64 {
		slices.Sort(times[n])
		return float64(times[n][len(times[n])/2])
	}
	b.ReportMetric(0, "ns/op") // hides the time of both together, which means nothing
	for _, n := range sizes {
		b.ReportMetric(median(n)/1e3, fmt.Sprintf("µs-among-%d", n))
	}
	b.ReportMetric(median(1_000_000)/median(1000), "x-of-1000-among-1000000")
	times = nil
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "MiB-heap")
	runtime.KeepAlive(stores)
}

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
