package sealed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// changing is a store that is changed at random, and what must be in it.
type changing struct {
	o    Options
	s    *Store
	want map[secret.Ref][]byte // nil for what is absent
	next int                   // the number of a secret that there never was
}

func newChanging(t *testing.T) *changing {
	o, s := newStore(t, 0)
	c := &changing{o: o, s: s, want: map[secret.Ref][]byte{}}
	require.NoError(t, c.add(t.Context(), t, 300, nil))
	return c
}

// add imports n secrets and, if it is not nil, taken, which is there.
func (c *changing) add(ctx context.Context, t *testing.T, n int, taken *secret.Ref) error {
	secrets := someSecrets(t, c.next, n)
	c.next += n
	if taken != nil {
		secrets = append(secrets, store.New{Ref: *taken})
	}
	err := c.s.Import(ctx, secrets)
	for _, n := range secrets {
		if c.want[n.Ref] == nil {
			c.want[n.Ref] = nil
			if err == nil {
				c.want[n.Ref] = n.Value.Reveal()
			}
		}
	}
	return err
}

// one returns a secret that is there, or is not.
func (c *changing) one(there bool) secret.Ref {
	for ref, b := range c.want { // begins anywhere
		if (b != nil) == there {
			return ref
		}
	}
	c.next++
	return benchRef(c.next - 1)
}

// step changes the store in one of the ways in which it can be changed, or not.
func (c *changing) step(t *testing.T) {
	v := storetest.Value(t, rand.IntN(600))
	switch rand.IntN(8) {
	case 0:
		ref := c.one(false)
		require.NoError(t, c.s.Create(t.Context(), ref, secret.NewValue(v), store.Regular))
		c.want[ref] = v
	case 1:
		ref := c.one(true)
		require.NoError(t, c.s.Update(t.Context(), ref, secret.NewValue(v)))
		c.want[ref] = v
	case 2:
		ref := c.one(true)
		require.NoError(t, c.s.Delete(t.Context(), ref))
		c.want[ref] = nil
	case 3:
		require.NoError(t, c.add(t.Context(), t, 1+rand.IntN(60), nil))
	case 4:
		taken := c.one(true)
		require.ErrorIs(t, c.add(t.Context(), t, 1+rand.IntN(50), &taken), secret.ErrExists)
	case 5:
		require.ErrorIs(t, c.s.Create(t.Context(), c.one(true), secret.NewValue(v), store.Regular), secret.ErrExists)
	case 6:
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
		defer cancel()
		if err := c.add(ctx, t, 100, nil); err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	case 7:
		c.failing(t)
		c.s.doubtful.Store(false) // we know that nothing was written
		c.s.unsynced = false
	}
}

// failing lets a commit fail: the descriptor becomes one that cannot be written.
func (c *changing) failing(t *testing.T) {
	fd := int(c.s.file.Fd())
	kept, err := unix.Dup(fd)
	require.NoError(t, err)
	readOnly, err := unix.Open(c.o.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Dup3(readOnly, fd, unix.O_CLOEXEC))
	err = c.add(t.Context(), t, 1+rand.IntN(100), nil)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "may not have been made")
	require.True(t, c.s.doubtful.Load())
	require.NoError(t, unix.Dup3(kept, fd, unix.O_CLOEXEC))
	require.NoError(t, errors.Join(unix.Close(kept), unix.Close(readOnly)))
}

// agree compares what the store says with what must be, and with what the file says
// to one who has just opened it.
func (c *changing) agree(t *testing.T) {
	b, err := os.ReadFile(c.o.Path) // as it is: it is ours, and nobody writes now
	require.NoError(t, err)
	o := c.o
	o.Path, o.Write = filepath.Join(t.TempDir(), "copy"), false
	require.NoError(t, os.WriteFile(o.Path, b, 0o600))
	fresh := reopen(t, o)
	n := 0
	for ref, want := range c.want {
		for who, s := range map[string]*Store{"the writer": c.s, "a reader": fresh} {
			v, info, err := s.Get(t.Context(), ref)
			if want == nil {
				require.ErrorIs(t, err, secret.ErrNotFound, who)
				continue
			}
			require.NoError(t, err, who)
			require.True(t, bytes.Equal(want, v.Reveal()), who)
			require.Equal(t, ref, info.Ref)
		}
		if want != nil {
			n++
		}
	}
	for _, s := range []*Store{c.s, fresh} {
		listed := 0
		for _, err := range store.All(t.Context(), s, store.Filter{}) {
			require.NoError(t, err)
			listed++
		}
		require.Equal(t, n, listed)
		verified, err := s.Verify(t.Context())
		require.NoError(t, err)
		require.Equal(t, n, verified)
	}
	require.NoError(t, fresh.Close())
}

// read gets secrets until the function that it returns is called.
func (c *changing) read(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				ref := benchRef(rand.IntN(1000))
				if _, info, err := c.s.Get(context.Background(), ref); err == nil && info.Ref != ref || err != nil && !errors.Is(err, secret.ErrNotFound) {
					t.Errorf("%v: %v", ref, err)
					return
				}
			}
		})
	}
	return func() { cancel(); readers.Wait() }
}

// TestCacheAgrees changes a store while it is read: what is known of the file must
// never be of another time.
func TestCacheAgrees(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{keepLeaves, 6 << 10} { // of those, one that makes it forget
		c := newChanging(t)
		nodes := &c.s.seen.nodes
		nodes.inner.limit, nodes.leaves.limit = limit, limit
		stop := sync.OnceFunc(c.read(t))
		t.Cleanup(stop)
		for range 10 {
			for range 8 {
				c.step(t)
			}
			c.agree(t)
		}
		stop()
		require.NotEmpty(t, nodes.leaves.known)
		require.NotEmpty(t, nodes.inner.known)
		require.LessOrEqual(t, nodes.leaves.size, limit)
		require.Equal(t, limit == keepLeaves, len(nodes.leaves.known) > 100, "it has forgotten some")
	}
}

// Nothing is kept any more when nobody knows what is on the disk.
func TestCacheDoubtful(t *testing.T) {
	t.Parallel()
	c := newChanging(t)
	c.agree(t)
	c.failing(t)
	c.s.seen.nodes = newSeen().nodes
	for range 10 {
		require.NoError(t, c.add(t.Context(), t, 20, nil))
	}
	c.agree(t)
	require.Empty(t, c.s.seen.nodes.inner.known)
	require.Empty(t, c.s.seen.nodes.leaves.known)
}

// A lookup that knows the way reads the page of the record alone, and does so again
// after a write elsewhere.
func TestCacheReads(t *testing.T) {
	t.Parallel()
	_, s := newStore(t, 5000)
	count := func(i int) (pages int) {
		file := s.file
		require.NoError(t, s.view(func(tx *tx) error {
			e, err := tx.find(benchRef(i))
			require.NoError(t, err)
			reads := &countingReader{f: file}
			_, _, err = lookup(reads, tx.meta.pageSize, tx.root, recordKey(e.name), tx.pages)
			require.NotNil(t, tx.pages)
			pages = reads.n
			return err
		}))
		return pages
	}
	require.Greater(t, count(7), 1, "at first it does not know the way")
	require.Equal(t, 1, count(7))
	require.NoError(t, s.Update(t.Context(), benchRef(4999), secret.Value{}))
	require.Greater(t, count(7), 1, "the pages are those of another transaction")
	require.Equal(t, 1, count(7))

	// The nodes that the write left alone are known.
	_, ok := s.seen.nodes.get(nil, s.version(t))
	require.True(t, ok)
	_, ok = s.seen.nodes.get(nil, s.version(t)-1)
	require.False(t, ok)
}

func (s *Store) version(t *testing.T) (v uint64) {
	require.NoError(t, s.view(func(tx *tx) error { v = tx.id; return nil }))
	return v
}

type countingReader struct {
	f *os.File
	n int
}

func (r *countingReader) ReadAt(b []byte, at int64) (int, error) {
	r.n++
	return r.f.ReadAt(b, at)
}

// A branch page is searched as bbolt does, whatever its keys.
func TestBranch(t *testing.T) {
	t.Parallel()
	for range 300 {
		// Keys that begin alike, some with zeros, where their heads are the same.
		keys := map[string]bool{}
		for range 1 + rand.IntN(60) {
			k := make([]byte, rand.IntN(12))
			for i := range k {
				k[i] = byte(rand.IntN(3)) * byte(rand.IntN(2))
			}
			keys[string(k)] = true
		}
		sorted := slices.Sorted(maps.Keys(keys))
		p := branchOf(sorted)
		b, err := newBranch(p)
		require.NoError(t, err)
		for range 100 {
			k := make([]byte, rand.IntN(12))
			for i := range k {
				k[i] = byte(rand.IntN(3)) * byte(rand.IntN(2))
			}
			i, exact, err := p.search(k)
			require.NoError(t, err)
			if !exact && i > 0 {
				i--
			}
			require.Equal(t, uint64(i), b.child(k), "%q in %q", k, sorted)
		}
	}
}

// branchOf returns a branch page whose children have the numbers 0, 1, ….
func branchOf(keys []string) page {
	b := make([]byte, 4096)
	native.PutUint16(b[8:], branchPage)
	native.PutUint16(b[10:], uint16(len(keys)))
	at := pageHeaderSize + len(keys)*elementSize
	for i, k := range keys {
		e := b[pageHeaderSize+i*elementSize:]
		native.PutUint32(e, uint32(at-pageHeaderSize-i*elementSize))
		native.PutUint32(e[4:], uint32(len(k)))
		native.PutUint64(e[8:], uint64(i))
		at += copy(b[at:], k)
	}
	return page{size: int64(len(b)), first: b}
}

// A short leaf knows what the leaf knows.
func TestShortLeaf(t *testing.T) {
	t.Parallel()
	var n node
	var names []name
	for i := range 200 {
		var e entry
		copy(e.name[:], storetest.Value(t, 5)) // alike, as the names below one prefix are
		binary.BigEndian.PutUint64(e.name[5:], rand.Uint64())
		names = append(names, e.name)
		if e.version = rand.Uint64(); i%2 == 0 {
			n.setLeaf(e)
		}
	}
	for depth := range 6 {
		short := shorten(n, depth)
		for _, want := range names {
			version := uint64(0)
			if i, ok := n.search(want); ok {
				version = n.leaf[i].version
			}
			require.Equal(t, version, searchShort(short, want[depth:depth+shortSize]))
		}
	}
}

func TestCacheBounded(t *testing.T) {
	t.Parallel()
	const limit = 10_000
	c := newCache[int, string](limit)
	for i := range 2000 {
		key := rand.IntN(300)
		c.put(key, fmt.Sprint(key, i), rand.IntN(200))
		size := 0
		for _, s := range c.known {
			size += s.size
		}
		require.Equal(t, size, c.size)
		require.LessOrEqual(t, c.size, limit)
		if v, ok := c.get(key); ok {
			require.Equal(t, fmt.Sprint(key, i), v)
		}
	}
	require.Greater(t, len(c.known), limit/400)
	c.put(1, "too large", limit)
	require.LessOrEqual(t, c.size, limit)
}

// While all of the file is read, as for a backup, others read and write, and the
// file may grow by far.
func TestSnapshotHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	_, s := newStore(t, 10)
	require.NoError(t, s.snapshot(func(old *tx, m meta, _ []byte) error {
		for i := range 5 {
			require.NoError(t, s.Import(t.Context(), someSecrets(t, 10+500*i, 500)))
			_, _, err := s.Get(t.Context(), benchRef(10+500*i))
			require.NoError(t, err)
		}
		now, _, err := s.readHead()
		require.NoError(t, err)
		require.Greater(t, now.pages, 5*m.pages)
		_, err = old.find(benchRef(10))
		require.ErrorIs(t, err, secret.ErrNotFound, "it is as it was")
		e, err := old.find(benchRef(9))
		require.NoError(t, err)
		_, _, err = old.loadValue(e)
		return err
	}))
}
