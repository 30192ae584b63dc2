package sealed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
	"inject/resolver/store/sealed/page"
	"inject/resolver/store/storetest"
)

// newStore makes a store of n secrets, opens it, and returns it with its options.
func newStore(t *testing.T, n int) (Options, *Store) {
	t.Helper()
	dir := t.TempDir()
	o := Options{Path: filepath.Join(dir, "db"), Write: true, Key: Key{File: filepath.Join(dir, "key.txt")}}
	s := reopen(t, o)
	if n > 0 {
		require.NoError(t, s.Import(t.Context(), someSecrets(t, 0, n)))
	}
	return o, s
}

func reopen(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// someSecrets returns n secrets, numbered from first.
func someSecrets(t *testing.T, first, n int) []store.New {
	t.Helper()
	secrets := make([]store.New, n)
	for i := range secrets {
		secrets[i] = store.New{Ref: benchRef(first + i), Value: secret.NewValue(storetest.Value(t, 40))}
	}
	return secrets
}

// tamper changes the file at path in place, only where change changes its content.
func tamper(t *testing.T, path string, change func(b []byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	was := bytes.Clone(b)
	change(b)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // what was written is read again
	changed := 0
	for i := range b {
		if b[i] != was[i] {
			_, err := f.WriteAt(b[i:i+1], int64(i))
			require.NoError(t, err)
			changed++
		}
	}
	require.Positive(t, changed)
}

// heldUnder returns the bytes stored under key.
func heldUnder(t *testing.T, s *Store, key []byte) (held []byte) {
	t.Helper()
	require.NoError(t, s.view(func(tx *tx) error {
		v, err := tx.get(key)
		held = bytes.Clone(v)
		return err
	}))
	return held
}

// leafOf returns the prefix of the leaf of the index that has n.
func leafOf(t *testing.T, s *Store, n index.Name) (leaf []byte) {
	t.Helper()
	require.NoError(t, s.view(func(tx *tx) error {
		return tx.index.Visit(func(prefix []byte, entries []index.Entry, err error) error {
			if slices.ContainsFunc(entries, func(e index.Entry) bool { return e.Name == n }) {
				leaf = bytes.Clone(prefix)
			}
			return err
		})
	}))
	require.NotEmpty(t, leaf)
	return leaf
}

// spoil changes the byte at of held, wherever held is in the file b: bbolt leaves old copies.
func spoil(b, held []byte, at int) {
	for i := bytes.Index(b, held); i >= 0; i = bytes.Index(b, held) {
		b[i+at] ^= 1
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	o, s := newStore(t, 0)
	n, err := s.Verify(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoFileExists(t, o.Path)
	require.NoError(t, s.Import(t.Context(), someSecrets(t, 0, 1000)))
	for i := 1000; i > 0; i /= 2 {
		n, err = s.Verify(t.Context())
		require.NoError(t, err)
		require.Equal(t, i, n)
		for j := i / 2; j < i; j++ {
			require.NoError(t, s.Delete(t.Context(), benchRef(j)))
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Verify(cancelled)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Close())
	_, err = s.Verify(t.Context())
	require.ErrorIs(t, err, secret.ErrUnavailable)
}

// Damage that happens while the store is open is found. The secret is named if its name can still
// be read, and whole secrets are counted.
func TestVerifyNames(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]bool{"for writing": true, "for reading": false} {
		t.Run(name, func(t *testing.T) {
			const secrets = 300
			o, s := newStore(t, secrets)
			require.NoError(t, s.Close())
			o.Write = write
			s = reopen(t, o)
			for i := range secrets {
				_, _, err := s.Get(t.Context(), benchRef(i))
				require.NoError(t, err)
			}
			record := func(i int) []byte { return recordKey(s.keys.nameOf(benchRef(i))) }
			records := make([][]byte, secrets)
			for i := range records {
				records[i] = heldUnder(t, s, record(i))
			}
			tamper(t, o.Path, func(b []byte) {
				spoil(b, records[3], 100)                                           // in the info
				spoil(b, records[4], 2+int(binary.BigEndian.Uint16(records[4]))+30) // in the value
			})
			n, err := s.Verify(t.Context())
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.NotEmpty(t, secret.Hint(err))
			require.Equal(t, secrets-2, n)
			require.ErrorContains(t, err, benchRef(4).String())
			require.ErrorContains(t, err, fmt.Sprintf("%x", record(3)[1:9]))
			require.Equal(t, 2, strings.Count(err.Error(), "sealed was changed"))

			// With a node, all secrets below it are lost.
			prefix := leafOf(t, s, s.keys.nameOf(benchRef(5)))
			node := heldUnder(t, s, nodeKey(prefix))
			tamper(t, o.Path, func(b []byte) { spoil(b, node, 30) })
			n, err = s.Verify(t.Context())
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.ErrorContains(t, err, fmt.Sprintf("the index at %x", prefix))
			require.Less(t, n, secrets-2)

			// The error stays short however much is damaged.
			tamper(t, o.Path, func(b []byte) {
				for _, r := range records {
					spoil(b, r, 50)
				}
			})
			n, err = s.Verify(t.Context())
			require.Zero(t, n)
			require.ErrorContains(t, err, "times more")
			require.Less(t, strings.Count(err.Error(), "\n"), maxDamage+2)
		})
	}
}

// The sizes of bbolt's format: see package page.
const (
	headerSize  = 16 // in bytes
	elementSize = 16 // in bytes
)

var native = binary.NativeEndian

// Damage that no read meets, but that a change would build on, is found.
func TestVerifyFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(b []byte, m page.Meta)
		text  string
	}{
		"a meta page": {
			func(b []byte, m page.Meta) { b[int64(1-m.TxID%2)*m.PageSize+headerSize+60] ^= 1 },
			"is not whole",
		},
		"a page in use is free": {func(b []byte, m page.Meta) {
			free := b[int64(m.Freelist)*m.PageSize:]
			native.PutUint64(free[headerSize:], m.Root)
		}, "not as free"},
		"no list of free pages": {
			func(b []byte, m page.Meta) { b[int64(m.Freelist)*m.PageSize+8] ^= 1 },
			"of a wrong kind",
		},
		"more free pages": {
			func(b []byte, m page.Meta) { b[int64(m.Freelist)*m.PageSize+11] = 0xfe },
			"malformed",
		},
		"an endless list": {func(b []byte, m page.Meta) {
			free := b[int64(m.Freelist)*m.PageSize:]
			native.PutUint16(free[10:], 0xffff)
			native.PutUint64(free[headerSize:], 1<<60)
		}, "not as free"},
		"no bucket": {func(b []byte, m page.Meta) { b[int64(m.Root)*m.PageSize+headerSize] ^= 1 }, "bucket is missing"},
		"something beside a bucket": {func(b []byte, m page.Meta) {
			root := b[int64(m.Root)*m.PageSize:][:m.PageSize]
			first, second := root[headerSize:], root[headerSize+elementSize:]
			held := bytes.Clone(first[native.Uint32(first[4:]):][:native.Uint32(first[8:])+native.Uint32(first[12:])])
			copy(first[200:], held)
			native.PutUint32(first[4:], 200)
			copy(second, make([]byte, elementSize)) // no flags and no value
			native.PutUint32(second[4:], 400)
			native.PutUint32(second[8:], 1)
			second[400] = 'z'
			native.PutUint16(root[10:], 2)
		}, "beside its bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			o, s := newStore(t, 300)
			for i := range 10 {
				require.NoError(t, s.Update(t.Context(), benchRef(i), secret.Value{})) // frees pages
			}
			_, err := s.Verify(t.Context())
			require.NoError(t, err)
			m, _, err := s.readHead()
			require.NoError(t, err)
			tamper(t, o.Path, func(b []byte) { c.spoil(b, m) })
			_, err = s.Verify(t.Context())
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.ErrorContains(t, err, c.text)
			err = s.Backup(t.Context(), o.Path+".copy")
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.NoFileExists(t, o.Path+".copy")
		})
	}
}

func TestVerifyStray(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{recordKey(index.Name{1}), nodeKey([]byte{1, 2, 3})} {
		_, s := newStore(t, 10)
		require.NoError(t, s.update(t.Context(),
			func(t *tx) error { return errors.Join(t.put(key, []byte("x")), t.index.SetAll(nil)) }))
		n, err := s.Verify(t.Context())
		require.ErrorIs(t, err, secret.ErrCorrupt)
		require.ErrorContains(t, err, "does not know")
		require.Equal(t, 10, n)
	}
	_, s := newStore(t, 10)
	require.NoError(t, s.update(t.Context(), func(t *tx) error {
		return errors.Join(t.put(wrappedKey, bytes.Repeat([]byte("x"), 200)), t.index.SetAll(nil))
	}))
	_, err := s.Verify(t.Context())
	require.ErrorContains(t, err, "wrapped data key")
}

// A change whose context has ended when its turn comes is not made.
func TestAbandonedChange(t *testing.T) {
	t.Parallel()
	_, s := newStore(t, 1)
	ref := secret.Ref{Scope: secret.Scope{Org: "o"}, Key: "LATE"}
	ctx, cancel := context.WithCancel(t.Context())
	s.writing.Lock()
	done := make(chan error)
	go func() { done <- s.Create(ctx, ref, secret.NewValue([]byte("v")), store.Regular) }()
	time.Sleep(20 * time.Millisecond) // enough for Create to wait for its turn; if not, the test passes all the same
	cancel()
	s.writing.Unlock()
	require.ErrorIs(t, <-done, context.Canceled)
	_, _, err := s.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
}

// A list loads the nodes of its page, and an index without damage knows the usage of each scope,
// among many secrets.
func TestListCost(t *testing.T) {
	t.Parallel()
	_, s := newStore(t, 0)
	for first := 0; first < 3000; first += 1000 { // of which benchRef puts ten into each project
		require.NoError(t, s.Import(t.Context(), someSecrets(t, first, 1000)))
	}
	domain := secret.Scope{Org: secret.DefaultOrg, Domain: "rare"}
	var rare []store.New
	for i := range 10 {
		scope := domain
		scope.Project = fmt.Sprintf("p%d", i*30)
		ref := secret.Ref{Scope: scope, Key: "RARE"}
		rare = append(rare, store.New{Ref: ref, Value: secret.NewValue([]byte("abc"))})
	}
	require.NoError(t, s.Import(t.Context(), rare))
	for name, c := range map[string]struct {
		f     store.Filter
		loads int
	}{
		"a project":                   {store.Filter{Org: secret.DefaultOrg, Project: "p77"}, 8},
		"a scope":                     {store.Filter(benchRef(777).Scope), 8},
		"the org":                     {store.Filter{Org: secret.DefaultOrg}, 8},
		"a domain in all projects":    {store.Filter(domain), 10 * 6},
		"a domain without any secret": {store.Filter{Org: secret.DefaultOrg, Domain: "none"}, 3},
		"an org without any secret":   {store.Filter{Org: "none"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			loads, walked := 0, 0
			require.NoError(t, s.view(func(tx *tx) error {
				load := tx.index.Load
				tx.index.Load = func(prefix []byte, version uint64) ([]byte, error) {
					loads++
					return load(prefix, version)
				}
				return tx.walkFilter(c.f, nil, func(index.Entry) (bool, error) { walked++; return walked < 10, nil })
			}))
			want := 10
			if strings.Contains(name, "without") {
				want = 0
			}
			require.Equal(t, want, walked)
			require.LessOrEqual(t, loads, c.loads)
		})
	}
	require.NoError(t, s.view(func(tx *tx) error {
		sum, err := tx.index.Sum(tx.keys.scopeOf(benchRef(777).Scope))
		require.Equal(t, index.Weight{Secrets: 10, Bytes: 400}, sum)
		return err
	}))
}

// The hashes of scopes that are remembered are those that are computed, and few.
func TestScopeHashes(t *testing.T) {
	t.Parallel()
	k, fresh := deriveKeys(make([]byte, dataKeySize)), deriveKeys(make([]byte, dataKeySize))
	scope := func(i int) secret.Scope { return benchRef(i * 10).Scope }
	want := fresh.scopeOf(scope(3))
	for i := range 2*maxScopeHashes + 100 {
		n := k.scopeOf(scope(i))
		require.Equal(t, n, k.scopeOf(scope(i)))
		clear(n) // the caller's own
		require.LessOrEqual(t, len(k.scopes.of), maxScopeHashes)
	}
	require.Equal(t, want, k.scopeOf(scope(3)))
	require.NotEqual(t, want, k.scopeOf(scope(4)))
}
