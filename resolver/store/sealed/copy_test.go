package sealed_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

// content creates awkward values of at most longest bytes at every scope, and deletes one of them.
// It returns the expected content, nil for the deleted secret.
func content(t *testing.T, s *sealed.Store, longest int) map[secret.Ref][]byte {
	t.Helper()
	want := map[secret.Ref][]byte{}
	for name, b := range storetest.Values(t) {
		for i, scope := range storetest.Scopes {
			if ref := (secret.Ref{Scope: scope, Key: name}); len(b) <= longest && (len(b) < 1000 || i == 0) {
				want[ref] = b
				require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(b), store.Regular))
			}
		}
	}
	gone := secret.Ref{Scope: storetest.Scopes[0], Key: "awkward"}
	require.NoError(t, s.Delete(t.Context(), gone))
	want[gone] = nil
	return want
}

func count(want map[secret.Ref][]byte) (n int) {
	for _, b := range want {
		if b != nil {
			n++
		}
	}
	return n
}

// verify opens the store at o, which must be whole, and returns the number of its secrets.
func verify(t *testing.T, o sealed.Options) int {
	t.Helper()
	o.Write = false
	s := open(t, o)
	n, err := s.Verify(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	return n
}

func TestBackup(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	s := open(t, o)
	want := content(t, s, store.MaxValue)
	for _, write := range []bool{true, false} {
		if !write {
			require.NoError(t, s.Close())
			o.Write = false
			s = open(t, o)
		}
		to := o
		to.Path = filepath.Join(t.TempDir(), "made", "backup")
		require.NoError(t, s.Backup(t.Context(), to.Path))
		info, err := os.Stat(to.Path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
		entries, err := os.ReadDir(filepath.Dir(to.Path))
		require.NoError(t, err)
		require.Len(t, entries, 1, "nothing temporary is left")

		require.NoError(t, checkWhole(to, want))
		require.Equal(t, count(want), verify(t, to))
		b, err := os.ReadFile(to.Path)
		require.NoError(t, err)
		for ref, v := range want {
			for _, form := range [][]byte{
				v, []byte(base64.StdEncoding.EncodeToString(v)), []byte(ref.Key),
				[]byte(ref.Project),
			} {
				if len(form) < 6 { // megabytes of ciphertext contain any four bytes by chance
					continue
				}
				require.True(t, bytes.Contains(append(bytes.Clone(b), form...), form),
					"the search must find a planted value")
				require.False(t, bytes.Contains(b, form), "neither names nor values are in the file")
			}
		}

		err = s.Backup(t.Context(), to.Path)
		require.ErrorIs(t, err, secret.ErrExists)
		require.Contains(t, secret.Hint(err), "give another name")
		again, err := os.ReadFile(to.Path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, again), "the existing backup is not changed")
	}
}

// A backup is a store like any other: it can be changed, whatever the number of transactions
// before it.
func TestBackupGoesOn(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	s := open(t, o)
	want := content(t, s, 100)
	for i := range 4 {
		ref := secret.Ref{Scope: storetest.Scopes[1], Key: fmt.Sprintf("K%d", i)}
		want[ref] = storetest.Value(t, 50)
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(want[ref]), store.Regular))
		to, now := o, maps.Clone(want)
		to.Path = filepath.Join(t.TempDir(), "backup")
		require.NoError(t, s.Backup(t.Context(), to.Path))
		for j := range 3 {
			ref.Key = fmt.Sprintf("after%d", j)
			now[ref] = storetest.Value(t, 6000) // large enough to use free pages
			w := open(t, to)
			require.NoError(t, w.Create(t.Context(), ref, secret.NewValue(now[ref]), store.Regular))
			require.NoError(t, w.Close())
			require.NoError(t, checkWhole(to, now))
			require.Equal(t, count(now), verify(t, to))
		}
	}
}

// Backups are made while secrets are created, updated, deleted and read.
func TestBackupWhileWriting(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	s := open(t, o)
	content(t, s, 100)
	var mu sync.Mutex
	acked := map[secret.Ref][]byte{} // the acknowledged secrets; each writer has refs of its own

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ref := secret.Ref{Scope: storetest.Scopes[w], Key: fmt.Sprintf("w%d-%d", w, i)}
				v := storetest.Value(t, i%3000)
				if err := s.Create(ctx, ref, secret.NewValue(v), store.Regular); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acked[ref] = v
				mu.Unlock()
				if _, _, err := s.Get(ctx, ref); err != nil {
					t.Error(err)
				}
				// Acknowledged secrets stay. Another one is created and deleted all the time.
				ref.Key = "shortlived"
				if err := errors.Join(s.Create(ctx, ref, secret.NewValue(v), store.Regular),
					s.Update(ctx, ref, secret.NewValue(v)), s.Delete(ctx, ref)); err != nil {
					t.Error(err)
				}
			}
		})
	}

	for range 6 {
		mu.Lock()
		before := maps.Clone(acked)
		mu.Unlock()
		to := o
		to.Path = filepath.Join(t.TempDir(), "backup")
		require.NoError(t, s.Backup(t.Context(), to.Path))
		require.GreaterOrEqual(t, verify(t, to), len(before))
		to.Write = false
		b := open(t, to)
		for ref, v := range before {
			got, _, err := b.Get(t.Context(), ref)
			require.NoError(t, err)
			require.True(t, bytes.Equal(v, got.Reveal()), ref)
		}
	}

	close(stop)
	wg.Wait()
	require.NotEmpty(t, acked)
	_, err := s.Verify(t.Context())
	require.NoError(t, err)
}

// cancelAfter is a context that is cancelled after Err was called n times.
type cancelAfter struct {
	context.Context //nolint:containedctx // it is one

	n *atomic.Int64
}

func (c cancelAfter) Err() error {
	if c.n.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// everyCancel calls do with contexts that are cancelled later and later, until do succeeds. After
// each failure it calls left.
func everyCancel(t *testing.T, do func(context.Context) error, left func()) {
	t.Helper()
	for n := int64(0); ; n++ {
		c := cancelAfter{t.Context(), &atomic.Int64{}}
		c.n.Store(n)
		err := do(c)
		if err == nil {
			require.Positive(t, n)
			return
		}
		require.ErrorIs(t, err, context.Canceled)
		left()
	}
}

func TestBackupRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := options(dir)
	s := open(t, o)
	to := filepath.Join(dir, "backups", "b")
	err := s.Backup(t.Context(), to)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "no file yet")
	require.NotEmpty(t, secret.Hint(err))
	require.NoFileExists(t, to)

	content(t, s, 100)
	everyCancel(t, func(c context.Context) error { return s.Backup(c, to) }, func() {
		entries, err := os.ReadDir(filepath.Dir(to))
		require.True(t, err == nil || errors.Is(err, os.ErrNotExist))
		require.Empty(t, entries)
	})
	require.FileExists(t, to)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	err = s.Backup(t.Context(), filepath.Join(dir, "file", "b"))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotEmpty(t, secret.Hint(err))
	require.NoError(t, os.Symlink("nothing", filepath.Join(dir, "link")))
	require.ErrorIs(t, s.Backup(t.Context(), filepath.Join(dir, "link")), secret.ErrExists)

	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Backup(t.Context(), to+"2"), secret.ErrUnavailable)
	require.NoFileExists(t, to+"2")
}

// backedUp returns the backup of a store that was changed often, its content, and options that
// restore it without a key file.
func backedUp(t *testing.T) (o sealed.Options, from string, want map[secret.Ref][]byte) {
	t.Helper()
	o, _, want = damageStore(t)
	from = filepath.Join(t.TempDir(), "backup")
	s := open(t, o)
	require.NoError(t, s.Backup(t.Context(), from))
	require.NoError(t, s.Close())
	o.Path = filepath.Join(t.TempDir(), "data", "restored.db")
	return o, from, want
}

func TestRestore(t *testing.T) {
	t.Parallel()
	o, from, want := backedUp(t)
	o.Write = false // has no effect, nor has Address
	o.Address = "grpcs://127.0.0.1:8093"
	n, err := sealed.Restore(t.Context(), o, from, "copy")
	require.NoError(t, err)
	require.Equal(t, count(want), n)
	require.NoFileExists(t, o.Path+".holder")
	for path, mode := range map[string]os.FileMode{o.Path: 0o600, filepath.Dir(o.Path): 0o700 | os.ModeDir} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}
	entries, err := os.ReadDir(filepath.Dir(o.Path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing temporary is left")
	require.NoError(t, checkWhole(o, want))

	o.Write, o.Address = true, ""
	s := open(t, o)
	ref := secret.Ref{Scope: storetest.Scopes[0], Key: "new"}
	want[ref] = storetest.Value(t, 100)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(want[ref]), store.Regular))
	before, err := os.ReadFile(o.Path)
	require.NoError(t, err)
	for _, open := range []bool{true, false} {
		_, err = sealed.Restore(t.Context(), o, from, "copy")
		require.ErrorIs(t, err, secret.ErrExists)
		require.Contains(t, secret.Hint(err), "move it away first")
		after, err := os.ReadFile(o.Path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after))
		if open {
			require.NoError(t, s.Close())
		}
	}
	require.NoError(t, checkWhole(o, want))
}

// A server keeps its store when the file is moved away.
func TestRestoreUnderServer(t *testing.T) {
	t.Parallel()
	o, from, want := backedUp(t)
	_, err := sealed.Restore(t.Context(), o, from, "copy")
	require.NoError(t, err)
	served := o
	served.Address = "grpcs://127.0.0.1:8093"
	s := open(t, served)
	require.NoError(t, os.Rename(o.Path, o.Path+".old"))
	_, err = sealed.Restore(t.Context(), o, from, "copy")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "held by")
	require.NotEmpty(t, secret.Hint(err))
	require.NoFileExists(t, o.Path)
	require.NoError(t, s.Close())
	_, err = sealed.Restore(t.Context(), o, from, "copy")
	require.NoError(t, err)
	require.NoError(t, checkWhole(o, want))
}

// Restore makes no file from a backup that is damaged or that another key opens.
func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	o, from, want := backedUp(t)
	file, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Dir(o.Path), 0o700))
	bad := filepath.Join(t.TempDir(), "bad")
	restore := func(o sealed.Options, b []byte) error {
		require.NoError(t, os.WriteFile(bad, b, 0o600))
		_, err := sealed.Restore(t.Context(), o, bad, "copy")
		if err != nil {
			entries, err := os.ReadDir(filepath.Dir(o.Path))
			require.NoError(t, err)
			require.Empty(t, entries)
		}
		return err
	}

	stride := 97
	if testing.Short() {
		stride *= 11
	}
	refused := 0
	for i := 0; i < len(file); i += stride {
		b := bytes.Clone(file)
		b[i] ^= 1 << (i % 8)
		err := restore(o, b)
		if err != nil {
			require.NoError(t, notAbsent(err))
			refused++
			continue
		}
		// The byte is not used: the restored store is complete and can be changed.
		require.NoErrorf(t, checkWhole(o, want), "byte %d", i)
		require.NoError(t, os.Remove(o.Path))
	}

	require.Positive(t, refused)
	for size := range len(file) / os.Getpagesize() {
		for _, within := range []int{0, 100} {
			err := restore(o, file[:size*os.Getpagesize()+within])
			require.NoError(t, notAbsent(err))
			require.Errorf(t, err, "cut to %d pages", size)
		}
	}
	require.ErrorIs(t, restore(o, bytes.Repeat([]byte("hello "), 9000)), secret.ErrInvalid)

	other, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	wrong := o
	wrong.Key = textKey(other.String())
	require.ErrorIs(t, restore(wrong, file), secret.ErrDenied)
	wrong.Key = sealed.Key{File: filepath.Join(t.TempDir(), "none")}
	require.ErrorIs(t, restore(wrong, file), secret.ErrDenied)
	require.NoFileExists(t, wrong.Key.File)
	_, err = sealed.Restore(t.Context(), o, bad+".none", "copy")
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.NotErrorIs(t, err, secret.ErrNotFound)

	everyCancel(t, func(c context.Context) error { _, err := sealed.Restore(c, o, from, "copy"); return err }, func() {
		entries, err := os.ReadDir(filepath.Dir(o.Path))
		require.NoError(t, err)
		require.Empty(t, entries)
	})
	require.NoError(t, checkWhole(o, want))
}

// stanzas returns all wrapped data keys in the file, old and current.
func stanzas(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	all := regexp.MustCompile(`-> (X25519|scrypt) [A-Za-z0-9+/]{22,}`).FindAllString(string(b), -1)
	slices.Sort(all)
	return slices.Compact(all)
}

func TestRewrap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := options(dir)
	s := open(t, o)
	want := content(t, s, 100)
	require.NoError(t, s.Backup(t.Context(), filepath.Join(dir, "backup")))
	var notices []string
	keys := []sealed.Key{
		{File: filepath.Join(dir, "new", "key.txt"), Notice: func(text string) { notices = append(notices, text) }},
		{Passphrase: true, Ask: func(_ string, confirm bool) (secret.Value, error) {
			require.True(t, confirm)
			return secret.NewValue([]byte("correct horse")), nil
		}},
		{File: o.Key.File}, // the first key again
	}

	again := []sealed.Key{{File: keys[0].File}, textKey("correct horse"), o.Key}
	for i, key := range keys {
		ref := secret.Ref{Scope: storetest.Scopes[0], Key: fmt.Sprintf("before%d", i)}
		want[ref] = storetest.Value(t, 300)
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(want[ref]), store.Regular))
		old := stanzas(t, o.Path)
		require.Len(t, old, 1)
		require.NoError(t, s.Rewrap(t.Context(), key))
		now := stanzas(t, o.Path)
		require.Len(t, now, 1, "the old one is nowhere in the file")
		require.NotEqual(t, old, now)

		// The open store can still be used.
		ref.Key = fmt.Sprintf("after%d", i)
		want[ref] = storetest.Value(t, 300)
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(want[ref]), store.Regular))
		got, _, err := s.Get(t.Context(), ref)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want[ref], got.Reveal()))
		n, err := s.Verify(t.Context())
		require.NoError(t, err)
		require.Equal(t, count(want), n)
		require.NoError(t, s.Close())

		for j, key := range again {
			o := o
			o.Key = key
			if err := checkWhole(o, want); i == j {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, secret.ErrDenied, "key %d after %d", j, i)
			}
		}
		o.Key = again[i]
		s = open(t, o)
	}
	require.Len(t, notices, 1)
	require.Contains(t, notices[0], keys[0].File)
	info, err := os.Stat(keys[0].File)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	// A backup is opened by the key that the store had when it was made.
	back := options(t.TempDir())
	back.Key = again[0]
	_, err = sealed.Restore(t.Context(), back, filepath.Join(dir, "backup"), "copy")
	require.ErrorIs(t, err, secret.ErrDenied)
}

func TestRewrapRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := options(dir)
	s := open(t, o)
	to := sealed.Key{File: filepath.Join(dir, "new.txt")}
	require.ErrorIs(t, s.Rewrap(t.Context(), to), secret.ErrInvalid)
	require.NoFileExists(t, to.File, "no key file is made if there is nothing to rewrap")
	want := content(t, s, 100)
	file, err := os.ReadFile(o.Path)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.Error(t, s.Rewrap(t.Context(), sealed.Key{File: filepath.Join(dir, "file", "key.txt")}))
	require.ErrorContains(t,
		s.Rewrap(t.Context(), sealed.Key{Passphrase: true, Ask: func(string, bool) (secret.Value, error) {
			return secret.Value{}, errors.New("interrupted")
		}}), "interrupted")
	cancelled, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, s.Rewrap(cancelled, sealed.Key{Passphrase: true, Ask: func(string, bool) (secret.Value, error) {
		cancel()
		return secret.NewValue([]byte("p")), nil
	}}), context.Canceled)
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Rewrap(t.Context(), to), secret.ErrUnavailable)
	o.Write = false
	r := open(t, o)
	require.ErrorIs(t, r.Rewrap(t.Context(), to), secret.ErrInvalid)
	require.NoFileExists(t, to.File)

	after, err := os.ReadFile(o.Path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(file, after), "nothing was changed")
	require.NoError(t, checkWhole(o, want))
}

// Rewrap while the store is changed, read, verified and backed up.
func TestRewrapMeanwhile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := options(dir)
	s := open(t, o)
	content(t, s, 100)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w, do := range []func(i int) error{
		func(i int) error {
			return s.Create(ctx, secret.Ref{Scope: storetest.Scopes[0], Key: fmt.Sprintf("a%d", i)},
				secret.NewValue(storetest.Value(t, 40)), store.Regular)
		},
		func(int) error {
			_, _, err := s.Get(ctx, secret.Ref{Scope: storetest.Scopes[1], Key: "awkward"})
			return err
		},
		func(int) error { _, err := s.Verify(ctx); return err },
		func(i int) error { return s.Backup(ctx, filepath.Join(dir, fmt.Sprintf("backup%d", i))) },
	} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					if err := do(i); err != nil {
						t.Errorf("%d: %v", w, err)
						return
					}
				}
			}
		})
	}

	key := o.Key
	for i := range 5 {
		key = sealed.Key{File: filepath.Join(dir, fmt.Sprintf("key%d.txt", i))}
		require.NoError(t, s.Rewrap(t.Context(), key))
		time.Sleep(10 * time.Millisecond)
	}

	close(stop)
	wg.Wait()
	require.NoError(t, s.Close())
	o.Key = key
	require.Positive(t, verify(t, o))
	require.Len(t, stanzas(t, o.Path), 1)
}

// stalled is a writer that does not take what it gets before end is closed.
type stalled struct{ begun, end chan struct{} }

func (w *stalled) Write(p []byte) (int, error) {
	select {
	case <-w.begun:
	default:
		close(w.begun)
	}
	<-w.end
	return len(p), nil
}

// A backup that nothing reads keeps neither reads nor changes waiting.
func TestStalledBackup(t *testing.T) {
	t.Parallel()
	const soon = 30 * time.Second
	s := open(t, options(t.TempDir()))
	ref := func(key string) secret.Ref { return secret.Ref{Scope: storetest.Scopes[0], Key: key} }
	v := secret.NewValue(storetest.Value(t, 77))
	require.NoError(t, s.Create(t.Context(), ref("FIRST"), v, store.Regular))
	w := &stalled{begun: make(chan struct{}), end: make(chan struct{})}
	backup := make(chan error, 1)
	go func() { backup <- s.BackupTo(t.Context(), w) }()
	<-w.begun

	others := map[string]func() error{
		"create": func() error { return s.Create(t.Context(), ref("SECOND"), v, store.Regular) },
		"import": func() error {
			return s.Import(t.Context(), []store.New{{Ref: ref("THIRD"), Value: v}})
		},
		"update": func() error { return s.Update(t.Context(), ref("FIRST"), v) },
	}
	done := make(chan error, len(others))
	for name, change := range others {
		go func() {
			if err := change(); err != nil {
				done <- fmt.Errorf("%s: %w", name, err)
				return
			}
			_, _, err := s.Get(t.Context(), ref("FIRST"))
			done <- err
		}()
	}
	timeout := time.After(soon)
	for range others {
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-timeout:
			close(w.end)
			require.Fail(t, "they wait for the backup")
		}
	}
	close(w.end)
	require.NoError(t, <-backup)
}

// A new key that waits for a long change, such as the rewriting of an old format, keeps no reader
// waiting.
func TestRewrapWaitsWithoutReaders(t *testing.T) {
	t.Parallel()
	want := goldenContent(t, "format1")
	o := goldenStore(t, "format1")
	o.Write = true
	s := open(t, o)
	release := s.HoldChanges()
	rewrapped, read := make(chan error, 1), make(chan error, 1)
	to := newKey(t.TempDir())
	go func() { rewrapped <- s.Rewrap(t.Context(), to) }()
	time.Sleep(300 * time.Millisecond) // until it waits
	go func() {
		met, err := answers(s, want)
		read <- errors.Join(met, err)
	}()
	select {
	case err := <-read:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		release()
		require.Fail(t, "readers wait for the key")
	}
	select {
	case err := <-rewrapped:
		require.Fail(t, "it did not wait", err)
	default:
	}
	release()
	require.NoError(t, <-rewrapped)
	format, err := s.Format()
	require.NoError(t, err)
	require.Equal(t, 2, format)
	require.NoError(t, s.Close())
	o.Key = to
	require.NoError(t, checkWhole(o, want))
}
