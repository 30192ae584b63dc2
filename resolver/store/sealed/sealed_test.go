package sealed_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) {
	runChild() // this binary is also the child processes that are killed
	goleak.VerifyTestMain(m)
}

var ctx = context.Background()

func options(dir string) sealed.Options {
	return sealed.Options{
		Path:        filepath.Join(dir, "data", "secrets.db"),
		Write:       true,
		Key:         sealed.Key{File: filepath.Join(dir, "config", "key.txt")},
		LockTimeout: 10 * time.Second,
	}
}

func open(t testing.TB, o sealed.Options) *sealed.Store {
	t.Helper()
	s, err := sealed.Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, options(t.TempDir())) })
}

// The suite on a store that was closed and opened again, so that every secret is read from the
// file.
func TestConformanceReopened(t *testing.T) {
	t.Parallel()
	storetest.RunReader(t, func(t *testing.T, seed map[secret.Ref][]byte) storetest.ReadLister {
		o := options(t.TempDir())
		s := open(t, o)
		for ref, b := range seed {
			require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(b), store.Regular))
		}
		require.NoError(t, s.Close())
		o.Write = false
		return open(t, o)
	})
}

func TestFilesAndModes(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "findme-project"}, Key: "findme-key"}
	s := open(t, o)
	_, _, err := s.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.NoFileExists(t, o.Path, "reading makes no file")
	require.NoFileExists(t, o.Key.File)
	require.ErrorIs(t, s.Delete(t.Context(), ref), secret.ErrNotFound)
	require.NoFileExists(t, o.Path, "nor does deleting")

	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("findme-value")), store.Regular))
	require.NoError(t, s.Close())
	for path, mode := range map[string]os.FileMode{
		o.Path:                   0o600,
		o.Key.File:               0o600,
		filepath.Dir(o.Path):     0o700 | os.ModeDir,
		filepath.Dir(o.Key.File): 0o700 | os.ModeDir,
	} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}
	for _, dir := range []string{filepath.Dir(o.Path), filepath.Dir(o.Key.File)} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1, "nothing temporary is left")
	}
	b, err := os.ReadFile(o.Path)
	require.NoError(t, err)
	require.True(t, bytes.Contains(append(b, "findme-value"...), []byte("findme-")),
		"the search must find a planted value")
	require.False(t, bytes.Contains(b, []byte("findme-")), "neither names nor values are in the file")
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "K"}
	w := open(t, o)
	require.NoError(t, w.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
	require.NoError(t, w.Close())
	o.Write = false
	a, b := open(t, o), open(t, o) // readers share the lock
	for _, s := range []*sealed.Store{a, b} {
		_, _, err := s.Get(t.Context(), ref)
		require.NoError(t, err)
		require.ErrorIs(t, s.Create(t.Context(), ref, secret.Value{}, store.Regular), secret.ErrInvalid)
		require.ErrorIs(t, s.Delete(t.Context(), ref), secret.ErrInvalid)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "K"}
	first := open(t, o)
	require.NoError(t, first.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))

	second := o
	second.LockTimeout = 50 * time.Millisecond
	var waited []string
	second.Waiting = func(holder string) { waited = append(waited, holder) }
	_, err := sealed.Open(t.Context(), second)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "held by sealed.test (process ")
	require.Contains(t, secret.Hint(err), "--lock-timeout")
	require.Empty(t, waited, "a short wait is not told")

	second.LockTimeout = time.Second // twice as long as the patience
	_, err = sealed.Open(t.Context(), second)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.Len(t, waited, 1)

	ctx, cancel := context.WithCancel(t.Context())
	second.LockTimeout = time.Hour
	second.Waiting = func(string) { cancel() }
	_, err = sealed.Open(ctx, second)
	require.ErrorIs(t, err, context.Canceled)

	// It stops waiting as soon as the lock is free.
	second.Waiting = func(string) { require.NoError(t, first.Close()) }
	require.NoError(t, open(t, second).Close())
}

func TestHeldByServer(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	served := o
	served.Address = "grpcs://127.0.0.1:8093"
	s := open(t, served)
	require.NoError(t,
		s.Create(t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "K"}, secret.Value{}, store.Regular))
	start := time.Now()
	_, err := sealed.Open(t.Context(), o)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.Contains(t, secret.Hint(err), "--store grpcs://127.0.0.1:8093")
	require.Less(t, time.Since(start), o.LockTimeout, "there is no use in waiting for a server")
	end := fmt.Sprintf("end process %d first", os.Getpid())
	require.Contains(t, secret.Hint(err), "to use the file itself, "+end)

	// A second server is told to end the first one, which may run on another machine or in another
	// container: its number alone would be that of another process here.
	_, err = sealed.Open(t.Context(), served)
	require.ErrorContains(t, err, fmt.Sprintf("held by sealed.test (process %d)", os.Getpid()))
	require.True(t, strings.HasPrefix(secret.Hint(err), end), secret.Hint(err))
	require.NotContains(t, secret.Hint(err), "--store")
	note, err := os.ReadFile(o.Path + ".holder")
	require.NoError(t, err)
	host, err := os.Hostname()
	require.NoError(t, err)
	there := strings.Replace(string(note), strconv.Quote(host), `"injectd-0\n"`, 1)
	require.NotEqual(t, string(note), there)
	require.NoError(t, os.WriteFile(o.Path+".holder", []byte(there), 0o600))
	_, err = sealed.Open(t.Context(), served)
	require.ErrorContains(t, err, fmt.Sprintf(`process %d on "injectd-0`, os.Getpid()))
	require.NotContains(t, err.Error(), "\n")
	require.NoError(t, s.Close())
	require.NoFileExists(t, o.Path+".holder")

	// A note of a process that has ended is not believed.
	require.NoError(t,
		os.WriteFile(o.Path+".holder", []byte(`{"pid":4194303,"program":"injectd","address":"grpcs://gone"}`), 0o600))
	holds := open(t, o)
	o.LockTimeout = time.Millisecond
	_, err = sealed.Open(t.Context(), o)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotContains(t, secret.Hint(err), "gone")
	require.NoError(t, holds.Close())
}

func TestNotAStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		make func(path string) error
		want error
		text string
	}{
		"folder": {func(p string) error { return os.Mkdir(p, 0o700) }, secret.ErrInvalid, "is not a file"},
		"text": {
			func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("hello "), 9000), 0o600) },
			secret.ErrInvalid, "not a store file",
		},
		"short": {
			func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, secret.ErrInvalid,
			"not a store file",
		},
		"empty": {func(p string) error { return os.WriteFile(p, nil, 0o600) }, secret.ErrCorrupt, "no meta page"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(dir)
			o.Path = filepath.Join(dir, name)
			require.NoError(t, c.make(o.Path))
			for _, write := range []bool{false, true} {
				o.Write = write
				_, err := sealed.Open(t.Context(), o)
				require.ErrorIs(t, err, c.want)
				require.ErrorContains(t, err, c.text)
				require.NotEmpty(t, secret.Hint(err))
			}
		})
	}
}
