package page_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"inject/resolver/secret"
	"inject/resolver/store/sealed/page"
)

var bucket = []byte("bucket")

// newFile makes a file of bbolt that was changed often, so that it has free pages, and returns its
// content. Some keys have a common beginning, and some values are longer than a page.
func newFile(t *testing.T) (path string, held map[string][]byte) {
	t.Helper()
	path, held = filepath.Join(t.TempDir(), "db"), map[string][]byte{}
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	for range 4 {
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucket)
			require.NoError(t, err)
			for range 300 {
				key := make([]byte, 1+rand.IntN(40))
				for i := range key {
					key[i] = byte(rand.IntN(3))
				}
				value := bytes.Repeat(key[:1], rand.IntN(200))
				if rand.IntN(50) == 0 {
					value = bytes.Repeat([]byte("x"), 9000)
				}
				require.NoError(t, b.Put(key, value))
				held[string(key)] = value
			}
			for key := range held { // in random order
				if rand.IntN(10) == 0 {
					break
				}
				require.NoError(t, b.Delete([]byte(key)))
				delete(held, key)
			}
			return nil
		}))
	}
	require.NoError(t, db.Close())
	return path, held
}

// read looks up all keys of held, and some absent ones, in the file whose content is b.
func read(b []byte, held map[string][]byte) error {
	file := bytes.NewReader(b)
	m, err := page.ReadMetas(file, int64(len(b)))
	if err != nil {
		return err
	}
	r := page.NewReader(file, m.PageSize)
	root, err := r.Bucket(m.Root, bucket)
	if err != nil {
		return err
	}
	for key, want := range held {
		v, _, err := r.Lookup(root, []byte(key))
		if err != nil {
			return err
		}
		if v == nil || !bytes.Equal(want, v) {
			return fmt.Errorf("%x: a wrong value", key)
		}
		if v, _, err := r.Lookup(root, []byte(key+"absent")); err != nil || v != nil {
			return fmt.Errorf("%x: there is something at a key that is absent: %w", key, err)
		}
	}
	return nil
}

// survey surveys the file whose content is b. It returns the number of keys, the number of pages
// that the meta page counts, and those that are used.
func survey(ctx context.Context, b []byte) (keys int, pages uint64, used page.Set, err error) {
	file := bytes.NewReader(b)
	m, err := page.ReadMetas(file, int64(len(b)))
	if err != nil {
		return 0, 0, nil, err
	}
	used, err = page.Survey(ctx, file, m, bucket, func([]byte) { keys++ })
	return keys, m.Pages, used, err
}

// A file that bbolt wrote is read as bbolt would read it.
func TestReads(t *testing.T) {
	t.Parallel()
	path, held := newFile(t)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, read(b, held))
	keys, pages, used, err := survey(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, held, keys)

	// Pages that are not used may contain anything.
	size, wiped := uint64(os.Getpagesize()), 0
	for id := uint64(2); id < pages; id++ {
		if !used.Has(id) {
			clear(b[id*size:][:size])
			wiped++
		}
	}
	require.Positive(t, wiped)
	require.NoError(t, read(b, held))

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, _, err = survey(cancelled, b)
	require.ErrorIs(t, err, context.Canceled)
}

func TestSetEnd(t *testing.T) {
	t.Parallel()
	path, _ := newFile(t)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	_, pages, used, err := survey(t.Context(), b)
	require.NoError(t, err)
	for id := uint64(0); id < pages; {
		end := used.End(id, pages)
		for i := id; i < end; i++ {
			require.Equal(t, used.Has(id), used.Has(i))
		}
		require.True(t, end == pages || used.Has(end) != used.Has(id))
		require.Greater(t, end, id)
		id = end
	}
}

// On randomly damaged files reading ends without a panic, and surveys report nothing but damage. A
// lookup may return a wrong value: it is for the caller to notice.
func TestDamaged(t *testing.T) {
	t.Parallel()
	path, held := newFile(t)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	size := os.Getpagesize()
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	refused := 0
	for range rounds {
		b := bytes.Clone(whole)
		at := rand.IntN(len(b))
		switch rand.IntN(4) {
		case 0:
			b[at] ^= 1 << rand.IntN(8)
		case 1: // another header or element
			binary.NativeEndian.PutUint32(b[at/size*size+rand.IntN(16)*4:], rand.Uint32())
		case 2: // a page in place of another
			copy(b[at/size*size:][:size], whole[rand.IntN(len(b)/size)*size:])
		case 3:
			b = b[:at]
		}
		_ = read(b, held)
		if _, _, _, err := survey(t.Context(), b); err != nil {
			refused++
			require.True(t, errors.Is(err, secret.ErrCorrupt) || errors.Is(err, secret.ErrInvalid), err)
		}
	}
	require.Positive(t, refused)
}
