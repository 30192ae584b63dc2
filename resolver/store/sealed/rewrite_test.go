package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/durable"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

// rewrittenRef is what the first change of a store of format 1 creates in these tests. No golden
// store has it.
var rewrittenRef = secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "new", Project: "new"}, Key: "NEW"}

// rewriter puts the golden store of format 1 into dir and changes it twice. It acknowledges all
// three.
func rewriter(dir string) error {
	o := options(dir)
	b, err := goldenFile("format1")
	if err != nil {
		return err
	}
	err = durable.Create(o.Path, func(temp string) error {
		return durable.WriteNew(temp, func(f *os.File) error { _, err := f.Write(b); return err })
	})
	if err != nil {
		return err
	}
	fmt.Println("ack copied")
	o.Key.File = os.Getenv("SEALED_TEST_KEY")
	s, err := sealed.Open(ctx, o)
	if err != nil {
		return err
	}
	if err := s.Create(ctx, rewrittenRef, secret.NewValue([]byte("v0")), store.Regular); err != nil {
		return err
	}
	fmt.Println("ack created")
	if err := s.Update(ctx, rewrittenRef, secret.NewValue([]byte("v1"))); err != nil {
		return err
	}
	fmt.Println("ack updated")
	return s.Close()
}

// A power cut while a store of format 1 is rewritten leaves it whole, in format 1 or in format 2.
func TestRewriteSyncPoints(t *testing.T) {
	t.Parallel()
	want := goldenContent(t, "format1")
	dir := t.TempDir()
	cmd := writerCommand(dir, 0, 0)
	key := goldenKey(t, "testdata/format1.key.txt").File
	cmd.Env = append(cmd.Env, "SEALED_TEST_REWRITE=1", "SEALED_TEST_KEY="+key)
	formats, created, unfinished := map[int]int{}, 0, 0
	everySyncPoint(t, dir, cmd, 3, func(state string, acked int) error {
		o := options(state)
		o.Key.File = key
		if _, err := os.Stat(o.Path); errors.Is(err, fs.ErrNotExist) && acked == 0 {
			return nil
		}
		o.Write = false
		s, err := sealed.Open(ctx, o)
		if err != nil {
			return err
		}
		defer s.Close() //nolint:errcheck // read only
		format, err := s.Format()
		if err != nil {
			return err
		}
		formats[format]++
		stale, err := s.Stale()
		if err != nil {
			return err
		}
		if stale {
			unfinished++
		}

		now := maps.Clone(want)
		v, _, err := s.Get(ctx, rewrittenRef)
		switch {
		case err == nil && format == 2:
			created++
			now[rewrittenRef] = v.Reveal()
			if text := string(v.Reveal()); text != "v0" && text != "v1" || text == "v0" && acked == 3 {
				return errors.New("a wrong value of the new secret")
			}
		case !errors.Is(err, secret.ErrNotFound) || acked > 1:
			return fmt.Errorf("format %d, the new secret: %w", format, err)
		}
		// Whole for the next change, too.
		o.Write = true
		if err := s.Close(); err != nil {
			return err
		}
		if err := checkWhole(o, now); err != nil {
			return fmt.Errorf("format %d: %w", format, err)
		}
		w, err := sealed.Open(ctx, o)
		if err != nil {
			return err
		}
		defer w.Close() //nolint:errcheck // checked below
		other := rewrittenRef
		other.Key = "OTHER"
		if err := w.Create(ctx, other, secret.NewValue([]byte("after the cut")), store.Regular); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		now[other] = []byte("after the cut")
		return checkWhole(o, now)
	})
	require.Positive(t, formats[1])
	require.Positive(t, formats[2])
	require.Greater(t, formats[2], created, "the rewriting ends with a transaction of its own")
	require.Positive(t, unfinished, "power was cut between the parts of the rewriting")
	require.Positive(t, created)
}

// Everything that is done with a store works in format 1 without rewriting it, and what changes it
// rewrites it.
func TestFormat1(t *testing.T) {
	t.Parallel()
	want := goldenContent(t, "format1")
	format := func(t *testing.T, o sealed.Options) int {
		t.Helper()
		o.Write = false
		s := open(t, o)
		f, err := s.Format()
		require.NoError(t, errors.Join(err, s.Close()))
		return f
	}
	for name, write := range map[string]bool{"for writing": true, "for reading": false} {
		t.Run("backup and restore, open "+name, func(t *testing.T) {
			o := goldenStore(t, "format1")
			o.Write = write
			s := open(t, o)
			backup, restored := o, o
			backup.Path, restored.Path = o.Path+".backup", o.Path+".restored"
			require.NoError(t, s.Backup(t.Context(), backup.Path))
			n, err := sealed.Restore(t.Context(), restored, backup.Path, "copy")
			require.NoError(t, err)
			require.Equal(t, count(want), n)
			require.NoError(t, s.Close())
			for _, o := range []sealed.Options{o, backup, restored} {
				require.NoError(t, checkWhole(o, want))
				require.Equal(t, 1, format(t, o))
			}
			restored.Write = true
			r, now := open(t, restored), maps.Clone(want)
			require.NoError(t, r.Create(t.Context(), rewrittenRef, secret.NewValue([]byte("v")), store.Regular))
			require.NoError(t, r.Backup(t.Context(), backup.Path+"2"))
			require.NoError(t, r.Close())
			now[rewrittenRef] = []byte("v")
			backup.Path += "2"
			for _, o := range []sealed.Options{restored, backup} {
				require.NoError(t, checkWhole(o, now))
				require.Equal(t, 2, format(t, o))
			}
		})
	}
	t.Run("rewrap", func(t *testing.T) {
		o := goldenStore(t, "format1")
		o.Write = true
		s := open(t, o)
		to := newKey(t.TempDir())
		require.NoError(t, s.Rewrap(t.Context(), to))
		require.NoError(t, s.Close())
		_, err := sealed.Open(t.Context(), o)
		require.ErrorIs(t, err, secret.ErrDenied)
		o.Key = to
		require.NoError(t, checkWhole(o, want))
		require.Equal(t, 2, format(t, o))
	})
	t.Run("a change that is refused", func(t *testing.T) {
		o := goldenStore(t, "format1")
		o.Write = true
		s := open(t, o)
		require.ErrorIs(t, s.Delete(t.Context(), rewrittenRef), secret.ErrNotFound)
		require.NoError(t, s.Close())
		require.NoError(t, checkWhole(o, want))
	})
	t.Run("a change whose caller has given up", func(t *testing.T) {
		o := goldenStore(t, "format1")
		o.Write = true
		s := open(t, o)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.Create(gone, rewrittenRef, secret.Value{}, store.Regular), context.Canceled)
		require.NoError(t, s.Close())
		require.NoError(t, checkWhole(o, want))
		require.Equal(t, 1, format(t, o))
	})
}

// Readers are answered while the store is rewritten, also after a rewriting that has failed, and a
// token of before is refused as such.
func TestRewriteWhileReading(t *testing.T) {
	for _, failures := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("after %d failures", failures), func(t *testing.T) {
			t.Parallel()
			rewriteWhileReading(t, failures)
		})
	}
}

func rewriteWhileReading(t *testing.T, failures int) {
	t.Helper()
	want := goldenContent(t, "format1")
	o := goldenStore(t, "format1")
	o.Write = true
	s := open(t, o)
	page, token, err := s.List(t.Context(), store.Filter{Org: "flyte"}, 3, "")
	require.NoError(t, err)
	require.Len(t, page, 3)

	var wg sync.WaitGroup
	begun, end := make(chan struct{}, 4), make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				met, err := answers(s, want)
				if err := errors.Join(met, err); err != nil {
					t.Errorf("round %d: %v", i, err)
				}
				select {
				case begun <- struct{}{}:
				default:
				}
				select {
				case <-end:
					return
				default:
				}
			}
		})
	}
	<-begun
	for range failures {
		require.NoError(t, s.FailRewrite())
		format, err := s.Format()
		require.NoError(t, err)
		require.Equal(t, 1, format)
	}
	var gone secret.Ref
	for ref, b := range want {
		if b == nil {
			gone = ref
		}
	}
	require.NotZero(t, gone)
	require.ErrorIs(t, s.Delete(t.Context(), gone), secret.ErrNotFound) // rewrites, and changes nothing
	time.Sleep(20 * time.Millisecond)                                   // some more rounds
	close(end)
	wg.Wait()
	format, err := s.Format()
	require.NoError(t, err)
	require.Equal(t, 2, format)

	_, _, err = s.List(t.Context(), store.Filter{Org: "flyte"}, 3, token)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "rewritten")
	require.Contains(t, secret.Hint(err), "from the beginning")
	_, _, err = s.List(t.Context(), store.Filter{}, 3, token[:len(token)-1]+"A")
	require.ErrorContains(t, err, "not of this store")
}

// A store of format 1 with a damaged secret is not changed: the index by scope cannot be made of
// it. What is whole can be read all the same.
func TestRewriteDamaged(t *testing.T) {
	t.Parallel()
	o, file, want := damageGolden(t, "format1")
	spoilt := false
	for at := 2*4096 + 2000; !spoilt && at < len(file); at += 1111 { // until it hits the name of a secret
		b := bytes.Clone(file)
		b[at] ^= 1
		require.NoError(t, os.WriteFile(o.Path, b, 0o600))
		o.Write = false
		if r, err := sealed.Open(t.Context(), o); err == nil {
			_, err = r.Verify(t.Context())
			spoilt = err != nil && strings.Contains(err.Error(), "a secret whose name cannot be read")
			require.NoError(t, r.Close())
		}
	}
	require.True(t, spoilt)
	o.Write = true
	s := open(t, o)
	err := s.Create(t.Context(), rewrittenRef, secret.Value{}, store.Regular)
	require.ErrorIs(t, err, secret.ErrCorrupt)
	require.ErrorContains(t, err, "format 1")
	require.Contains(t, secret.Hint(err), "doctor")
	format, err := s.Format()
	require.NoError(t, err)
	require.Equal(t, 1, format)
	require.NoError(t, s.Close())
	require.NoError(t, check(o, want))
	whole := 0
	r := open(t, o)
	for ref, b := range want {
		if _, _, err := r.Get(t.Context(), ref); err == nil && b != nil {
			whole++
		}
	}
	require.Greater(t, whole, count(want)/3)
}

// The index of a store that was rewritten is that of one that was made so.
func TestRewriteIsComplete(t *testing.T) {
	t.Parallel()
	want := goldenContent(t, "format1")
	o := goldenStore(t, "format1")
	o.Write = true
	s := open(t, o)
	limited := s.WithLimit(func(_ secret.Scope, now, then store.Usage) error {
		return fmt.Errorf("%w: %+v %+v", secret.ErrQuota, now, then)
	})
	sums := map[secret.Scope]store.Usage{}
	for ref, b := range want {
		if b != nil {
			u := sums[ref.Scope]
			sums[ref.Scope] = store.Usage{Secrets: u.Secrets + 1, Bytes: u.Bytes + int64(len(b))}
		}
	}
	for scope, u := range sums {
		err := limited.Create(t.Context(), secret.Ref{Scope: scope, Key: "NEW"}, secret.NewValue(storetest.Value(t, 7)),
			store.Regular)
		require.ErrorIs(t, err, secret.ErrQuota)
		then := store.Usage{Secrets: u.Secrets + 1, Bytes: u.Bytes + 7}
		require.ErrorContains(t, err, fmt.Sprintf("%+v %+v", u, then))
	}
	require.NoError(t, s.Close())
	require.NoError(t, checkWhole(o, want))
}
