package sealed

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/page"
	"inject/resolver/store/storetest"
)

// changing is a store that is changed at random, beside its expected content.
type changing struct {
	o    Options
	s    *Store
	want map[secret.Ref][]byte // nil for a secret that must be absent
	next int                   // the number of a secret that has never existed
}

func newChanging(t *testing.T) *changing {
	o, s := newStore(t, 0)
	c := &changing{o: o, s: s, want: map[secret.Ref][]byte{}}
	require.NoError(t, c.add(t.Context(), t, 300, nil))
	return c
}

// add imports n new secrets and, unless taken is nil, one at taken, which exists.
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

// one returns the ref of a secret that exists or, if there is false, of one that does not.
func (c *changing) one(there bool) secret.Ref {
	for ref, b := range c.want { // in random order
		if (b != nil) == there {
			return ref
		}
	}
	c.next++
	return benchRef(c.next - 1)
}

// step makes one change at random, or an attempt that must change nothing.
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
		c.s.unsynced = false // nothing was written, so there is nothing to sync
	}
}

// failing makes a commit fail: it replaces the descriptor of the file by one that cannot be
// written.
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
	require.True(t, c.s.unsynced)
	require.NoError(t, unix.Dup3(kept, fd, unix.O_CLOEXEC))
	require.NoError(t, errors.Join(unix.Close(kept), unix.Close(readOnly)))
}

// agree compares the expected content with the answers of the store, and with those of a store
// that has just been opened on a copy of the file.
func (c *changing) agree(t *testing.T) {
	b, err := os.ReadFile(c.o.Path) // read directly: its lock is ours, and no change is under way
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

// read gets secrets in the background until the returned function is called.
func (c *changing) read(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				ref := benchRef(rand.IntN(1000))
				if _, info, err := c.s.Get(context.Background(), ref); err == nil && info.Ref != ref ||
					err != nil && !errors.Is(err, secret.ErrNotFound) {
					t.Errorf("%v: %v", ref, err)
					return
				}
			}
		})
	}
	return func() { cancel(); readers.Wait() }
}

// TestChangesAgree changes a store at random while it is read. The store and its file must always
// have exactly the expected content.
func TestChangesAgree(t *testing.T) {
	t.Parallel()
	c := newChanging(t)
	stop := sync.OnceFunc(c.read(t))
	t.Cleanup(stop)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		for range 8 {
			c.step(t)
		}
		c.agree(t)
	}
	stop()
}

// While the whole file is read, as by a backup, other reads and changes go on, and the file can
// grow to many times its size.
func TestSnapshotHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	_, s := newStore(t, 10)
	require.NoError(t, s.snapshot(func(old *tx, m page.Meta, _ []byte) error {
		for i := range 5 {
			require.NoError(t, s.Import(t.Context(), someSecrets(t, 10+500*i, 500)))
			_, _, err := s.Get(t.Context(), benchRef(10+500*i))
			require.NoError(t, err)
		}
		now, _, err := s.readHead()
		require.NoError(t, err)
		require.Greater(t, now.Pages, 5*m.Pages)
		_, err = old.find(benchRef(10))
		require.ErrorIs(t, err, secret.ErrNotFound, "the snapshot does not change")
		e, err := old.find(benchRef(9))
		require.NoError(t, err)
		_, _, err = old.loadValue(e)
		return err
	}))
}
