package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

// history makes a store in which secrets were created, updated and deleted, so that the file has
// old pages of everything. It returns the current content by ref, nil for what must be absent.
func history(t *testing.T, o sealed.Options) map[secret.Ref][]byte {
	t.Helper()
	s := open(t, o)
	now := map[secret.Ref][]byte{}
	for round := range 3 {
		for i := range 12 {
			ref := secret.Ref{Scope: storetest.Scopes[i%len(storetest.Scopes)], Key: fmt.Sprintf("K%d", i/2)}
			v := fmt.Appendf(nil, "value %d of %v", round, ref)
			var err error
			switch old, known := now[ref]; {
			case !known:
				err = s.Create(t.Context(), ref, secret.NewValue(v), store.Regular)
			case i%4 == 3 && old != nil:
				v, err = nil, s.Delete(t.Context(), ref)
			case old != nil:
				err = s.Update(t.Context(), ref, secret.NewValue(v))
			default:
				v = nil
			}
			require.NoError(t, err)
			now[ref] = v
		}
	}
	require.NoError(t, s.Close())
	return now
}

// check reads everything from the store at o. It returns an error unless each answer is right, or
// an error other than absence; and if it met such an error, Verify must find damage, too.
func check(o sealed.Options, want map[secret.Ref][]byte) error {
	return checkAnswers(o, want, notAbsent)
}

// checkWhole is check for a store that must not be damaged.
func checkWhole(o sealed.Options, want map[secret.Ref][]byte) error {
	err := checkAnswers(o, want, func(err error) error { return err })
	if err != nil {
		return err
	}
	o.Write = false
	s, err := sealed.Open(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // read only
	n, err := s.Verify(ctx)
	if err == nil && n != count(want) {
		err = fmt.Errorf("Verify counts %d secrets of %d", n, count(want))
	}
	return err
}

func checkAnswers(o sealed.Options, want map[secret.Ref][]byte, notAbsent func(error) error) error {
	o.Write = false
	s, err := sealed.Open(ctx, o)
	if err != nil {
		return notAbsent(err)
	}
	defer s.Close() //nolint:errcheck // of a damaged store
	met, err := answers(s, want)
	if met != nil {
		if err := notAbsent(met); err != nil {
			return err
		}
		if _, err := s.Verify(ctx); !errors.Is(err, secret.ErrCorrupt) {
			return fmt.Errorf("Verify did not find what was met: %w: %w", met, err)
		}
	}
	return err
}

// answers reads everything from s. met is damage that it met. err is an answer that is wrong.
func answers(s *sealed.Store, want map[secret.Ref][]byte) (met, err error) {
	for ref, b := range want {
		v, info, err := s.Get(ctx, ref)
		switch {
		case err == nil && (b == nil || !bytes.Equal(v.Reveal(), b) || info.Ref != ref):
			return met, fmt.Errorf("%v: a wrong value", ref)
		case errors.Is(err, secret.ErrNotFound):
			if b != nil {
				return met, fmt.Errorf("%v: reported as absent", ref)
			}
		case err != nil:
			met = err
		}
	}
	listed := 0
	for info, err := range store.All(ctx, s, store.Filter{}) {
		if err != nil {
			return err, nil
		}
		if want[info.Ref] == nil {
			return met, fmt.Errorf("%v is listed", info.Ref)
		}
		listed++
	}
	if listed != count(want) {
		return met, errors.New("a wrong number of secrets is listed")
	}
	return met, nil
}

// notAbsent returns nil if err is an acceptable report of damage, which absence is not.
func notAbsent(err error) error {
	if errors.Is(err, secret.ErrNotFound) ||
		!errors.Is(err, secret.ErrCorrupt) && !errors.Is(err, secret.ErrInvalid) && !errors.Is(err, secret.ErrDenied) {
		return fmt.Errorf("reported as: %w", err)
	}
	return nil
}

// damageStore returns a store that was changed often, its content, and options that open copies of
// it without a key file.
func damageStore(t *testing.T) (o sealed.Options, file []byte, want map[secret.Ref][]byte) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	o = options(t.TempDir())
	o.Key = textKey(id.String())
	o.LockTimeout = time.Second
	want = history(t, o)
	file, err = os.ReadFile(o.Path)
	require.NoError(t, err)
	require.NoError(t, checkWhole(o, want))
	return o, file, want
}

// damageGolden is damageStore for a golden store, whose index has several levels.
func damageGolden(t *testing.T, name string) (o sealed.Options, file []byte, want map[secret.Ref][]byte) {
	t.Helper()
	o = goldenStore(t, name)
	text, err := os.ReadFile(o.Key.File)
	require.NoError(t, err)
	o.Key, o.Write, o.LockTimeout = textKey(string(text)), true, time.Second
	file, err = os.ReadFile(o.Path)
	require.NoError(t, err)
	return o, file, goldenContent(t, name)
}

// TestEveryFlippedByte changes every byte of a file in turn, in two ways: its lowest bit, which
// turns a page number into that of a neighbour, and all its bits. With -short it changes every
// 61st byte. Of the golden stores, which are larger, it changes every 311th, or every 2203rd.
func TestEveryFlippedByte(t *testing.T) {
	t.Parallel()
	t.Run("small", func(t *testing.T) {
		o, file, want := damageStore(t)
		// 61 is a prime, so that the sample meets every field of the elements of a page.
		flipBytes(t, o, file, want, 1, 61)
	})
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			o, file, want := damageGolden(t, name)
			flipBytes(t, o, file, want, 311, 2203)
		})
	}
}

func flipBytes(t *testing.T, o sealed.Options, file []byte, want map[secret.Ref][]byte, every, everyShort int) {
	t.Helper()
	if testing.Short() {
		every = everyShort
	}
	t.Logf("%d bytes", len(file))
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			o := o
			o.Path = filepath.Join(filepath.Dir(o.Path), fmt.Sprintf("copy%d", w))
			if err := os.WriteFile(o.Path, file, 0o600); err != nil {
				return err
			}
			f, err := os.OpenFile(o.Path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close() //nolint:errcheck // a copy
			for i := w * every; i < len(file); i += every * workers {
				for _, mask := range []byte{0x01, 0xff} {
					if _, err := f.WriteAt([]byte{file[i] ^ mask}, int64(i)); err != nil {
						return err
					}
					if err := check(o, want); err != nil {
						return fmt.Errorf("byte %d (page %d) ^ %#x: %w", i, i/os.Getpagesize(), mask, err)
					}
				}
				if _, err := f.WriteAt(file[i:i+1], int64(i)); err != nil {
					return err
				}
			}
			return check(o, want)
		})
	}
	require.NoError(t, g.Wait())
}

// TestEveryCut shortens the file to every page boundary and to places inside pages.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	o, file, want := damageStore(t)
	for _, within := range []int{0, 1, 17, 512, os.Getpagesize() - 1} {
		for size := within; size < len(file); size += os.Getpagesize() {
			require.NoError(t, os.WriteFile(o.Path, file[:size], 0o600))
			require.NoErrorf(t, check(o, want), "cut to %d bytes", size)
		}
	}
}

// TestOldPages puts every page of every earlier state of the file back, one at a time and in pairs
// of the same state, as a disk that loses writes does.
func TestOldPages(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	page := os.Getpagesize()
	s := open(t, o)
	ref := secret.Ref{Scope: storetest.Scopes[3], Key: "K"}
	wide := secret.Ref{Scope: storetest.Scopes[0], Key: "K"}
	require.NoError(t, s.Create(t.Context(), wide, secret.NewValue([]byte("wide")), store.Regular))
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v0")), store.Regular))
	var states [][]byte
	for i := range 6 {
		b, err := os.ReadFile(o.Path)
		require.NoError(t, err)
		states = append(states, b)
		require.NoError(t, s.Update(t.Context(), ref, secret.NewValue(fmt.Appendf(nil, "v%d", i+1))))
	}
	require.NoError(t, s.Close())
	file, err := os.ReadFile(o.Path)
	require.NoError(t, err)

	want := map[secret.Ref][]byte{ref: []byte("v6"), wide: []byte("wide")}
	require.NoError(t, check(o, want))

	pages := len(file) / page
	if testing.Short() {
		states = states[len(states)-1:]
	}
	for n, old := range states {
		// Meta pages are left out: with an old one the file is as it was before the last
		// transactions, which cannot be detected.
		for i := 2; i < pages; i++ {
			for j := i; j < pages; j++ {
				b := bytes.Clone(file)
				for _, p := range []int{i, j} {
					if (p+1)*page <= len(old) {
						copy(b[p*page:(p+1)*page], old[p*page:])
					}
				}
				require.NoError(t, os.WriteFile(o.Path, b, 0o600))
				require.NoErrorf(t, check(o, want), "pages %d and %d of state %d", i, j, n)
			}
		}
	}
}

// TestPageLoop makes branch pages point at themselves. bbolt would recurse until its stack is
// exhausted, which ends the process.
func TestPageLoop(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	s := open(t, o)
	want := map[secret.Ref][]byte{}
	for i := range 200 {
		ref := secret.Ref{Scope: storetest.Scopes[0], Key: fmt.Sprintf("K%d", i)}
		want[ref] = storetest.Value(t, 64)
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(want[ref]), store.Regular))
	}
	require.NoError(t, s.Close())
	file, err := os.ReadFile(o.Path)
	require.NoError(t, err)

	page, loops, refused := os.Getpagesize(), 0, 0
	for at := 0; at < len(file); at += page {
		if file[at+8] != 1 || file[at+9] != 0 { // not a branch page
			continue
		}
		count := int(file[at+10]) | int(file[at+11])<<8
		// All elements, and all but the first half, so that the store can be opened.
		for _, first := range []int{0, count / 2} {
			b := bytes.Clone(file)
			for e := first; e < count; e++ {
				copy(b[at+16+16*e+8:], b[at:at+8]) // the page below becomes the page itself
			}
			loops++
			require.NoError(t, os.WriteFile(o.Path, b, 0o600))
			require.NoError(t, check(o, want))
			w, err := sealed.Open(t.Context(), o)
			if err != nil {
				require.NoError(t, notAbsent(err))
				continue
			}
			for ref := range want {
				err := w.Update(t.Context(), ref, secret.Value{})
				require.NotErrorIs(t, err, secret.ErrNotFound)
				if err != nil {
					refused++
				}
			}
			_ = w.Close()
		}
	}

	require.Positive(t, loops, "there must be a branch page to break")
	require.Positive(t, refused, "some updates must meet a loop")
}

// Several lookups meet the same damage at the same time.
func TestConcurrentDamage(t *testing.T) {
	t.Parallel()
	o, file, want := damageStore(t)
	stride := 131
	if testing.Short() {
		stride *= 7
	}
	for i := 0; i < len(file); i += stride {
		b := bytes.Clone(file)
		b[i] ^= 0xff
		require.NoError(t, os.WriteFile(o.Path, b, 0o600))
		o.Write = false
		s, err := sealed.Open(t.Context(), o)
		if err != nil {
			continue
		}
		var wg sync.WaitGroup
		for ref, b := range want {
			wg.Go(func() {
				if _, _, err := s.Get(ctx, ref); b != nil && err != nil && notAbsent(err) != nil {
					t.Errorf("%v: %v", ref, err)
				}
			})
		}
		wg.Wait()
		_ = s.Close()
	}
}

// The file is cut while it is open.
func TestCutWhileOpen(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]bool{"for reading": false, "for writing": true} {
		t.Run(name, func(t *testing.T) {
			o, file, want := damageStore(t)
			o.Write = write
			s, err := sealed.Open(t.Context(), o)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(o.Path, int64(2*os.Getpagesize())))
			for ref, b := range want {
				_, _, err := s.Get(t.Context(), ref)
				if b != nil {
					require.ErrorIs(t, err, secret.ErrCorrupt)
					storetest.RunFault(t, s, ref, secret.ErrCorrupt)
				}
			}
			added := secret.Ref{Scope: storetest.Scopes[0], Key: "new"}
			require.Error(t, s.Create(t.Context(), added, secret.Value{}, store.Regular))
			_ = s.Close()
			require.NoError(t, os.WriteFile(o.Path, file, 0o600))
			require.NoError(t, checkWhole(o, want), "nothing was changed")
		})
	}
}

// A change that meets damage must neither crash nor report absence, also if it rewrites the file in
// a new format.
func TestWriteToDamaged(t *testing.T) {
	t.Parallel()
	t.Run("small", func(t *testing.T) {
		o, file, want := damageStore(t)
		writeDamaged(t, o, file, want, 37)
	})
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			o, file, want := damageGolden(t, name)
			writeDamaged(t, o, file, want, 1777)
		})
	}
}

func writeDamaged(t *testing.T, o sealed.Options, file []byte, want map[secret.Ref][]byte, stride int) {
	t.Helper()
	ref := secret.Ref{Scope: storetest.Scopes[0], Key: "new"}
	if testing.Short() {
		stride *= 19
	}
	for i := 0; i < len(file); i += stride {
		b := bytes.Clone(file)
		b[i] ^= 0xff
		require.NoError(t, os.WriteFile(o.Path, b, 0o600))
		s, err := sealed.Open(t.Context(), o)
		if err != nil {
			require.NoError(t, notAbsent(err))
			continue
		}
		if err := s.Create(t.Context(), ref, secret.NewValue([]byte("x")), store.Regular); err != nil &&
			!errors.Is(err, secret.ErrUnavailable) {
			require.NoError(t, notAbsent(err))
		}
		_ = s.Close()
		want[ref] = nil
		if _, _, err := get(o, ref); err == nil {
			want[ref] = []byte("x")
		}
		require.NoErrorf(t, check(o, want), "byte %d", i)
	}
}

func get(o sealed.Options, ref secret.Ref) (secret.Value, store.Info, error) {
	o.Write = false
	s, err := sealed.Open(ctx, o)
	if err != nil {
		return secret.Value{}, store.Info{}, err
	}
	defer s.Close() //nolint:errcheck // of a damaged store
	return s.Get(ctx, ref)
}

// A store of a later format is refused with the number of the format, and not taken for damaged.
func TestNewerFormat(t *testing.T) {
	t.Parallel()
	o, file, _ := damageStore(t)
	at := bytes.LastIndex(file, []byte("format\x00\x00\x00\x02"))
	for at >= 0 {
		copy(file[at:], "format\x00\x00\x00\x03")
		at = bytes.LastIndex(file, []byte("format\x00\x00\x00\x02"))
	}
	require.NoError(t, os.WriteFile(o.Path, file, 0o600))
	_, err := sealed.Open(t.Context(), o)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "format 3")
	require.ErrorContains(t, err, "formats 1 and 2")
	require.Contains(t, secret.Hint(err), "upgrade")
}
