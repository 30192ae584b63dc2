package sealed_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

// The files testdata/format1.* and format2.* are a store of each format made by an early binary, its
// key, the key that it had before a rotation, and its content: a line for each secret with org,
// domain, project, key, type and the SHA-256 of the value. Later binaries must be able to read and
// change them.
var goldens = []string{"format1", "format2"}

// golden is the expected state of one secret.
type golden struct {
	typ    string // "absent" if the secret was deleted
	digest string
}

func goldenSecrets(t *testing.T, name string) map[secret.Ref]golden {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name + ".txt")
	require.NoError(t, err)
	secrets := map[secret.Ref]golden{}
	for line := range strings.Lines(string(text)) {
		word := strings.Fields(line)
		require.Len(t, word, 6, line)
		for i := range word {
			word[i] = strings.TrimPrefix(word[i], "-")
		}
		ref := secret.Ref{Scope: secret.Scope{Org: word[0], Domain: word[1], Project: word[2]}, Key: word[3]}
		secrets[ref] = golden{typ: word[4], digest: word[5]}
	}
	require.Greater(t, len(secrets), 128, "more than a leaf of the index has room for")
	return secrets
}

// goldenFile returns the content of a golden store.
func goldenFile(name string) ([]byte, error) {
	file, err := os.Open("testdata/" + name + ".db.gz")
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(unzipped)
}

// goldenStore makes a copy of a golden store and returns options that open it.
func goldenStore(t *testing.T, name string) sealed.Options {
	t.Helper()
	b, err := goldenFile(name)
	require.NoError(t, err)
	o := sealed.Options{
		Path: filepath.Join(t.TempDir(), "secrets.db"), Key: goldenKey(t, "testdata/"+name+".key.txt"),
	}
	require.NoError(t, os.WriteFile(o.Path, b, 0o600))
	return o
}

// goldenContent returns the values of a golden store, nil for what must be absent.
func goldenContent(t *testing.T, name string) map[secret.Ref][]byte {
	t.Helper()
	s := open(t, goldenStore(t, name))
	secrets := goldenSecrets(t, name)
	requireGolden(t, s, secrets)
	want := map[secret.Ref][]byte{}
	for ref, g := range secrets {
		if want[ref] = nil; g.typ != "absent" {
			v, _, err := s.Get(t.Context(), ref)
			require.NoError(t, err)
			want[ref] = append([]byte{}, v.Reveal()...)
		}
	}
	return want
}

// goldenKey returns a copy of the key file at path that only its owner can read: git does not keep
// such a mode, and a key that is open to others is refused.
func goldenKey(t *testing.T, path string) sealed.Key {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	key := sealed.Key{File: filepath.Join(t.TempDir(), "key.txt")}
	require.NoError(t, os.WriteFile(key.File, b, 0o600))
	return key
}

// requireGolden asserts that s contains exactly secrets and that all of it is whole.
func requireGolden(t *testing.T, s *sealed.Store, secrets map[secret.Ref]golden) {
	t.Helper()
	present := 0
	for ref, want := range secrets {
		v, info, err := s.Get(t.Context(), ref)
		if want.typ == "absent" {
			require.ErrorIs(t, err, secret.ErrNotFound, ref)
			continue
		}
		present++
		require.NoError(t, err)
		require.Equal(t, want.digest, fmt.Sprintf("%x", sha256.Sum256(v.Reveal())), ref)
		require.Equal(t, want.typ, info.Type.String(), ref)
		require.Equal(t, ref, info.Ref)
		require.False(t, info.Created.IsZero() || info.Updated.Before(info.Created), ref)
	}
	for _, f := range []store.Filter{
		{},
		{Org: "flyte"},
		{Org: "flyte", Domain: "production"},
		{Org: "flyte", Domain: "staging"},
		{Org: "flyte", Project: "project-7"},
		{Org: "flyte", Domain: "development", Project: "my_project"},
	} {
		var want, listed []secret.Ref
		for ref, g := range secrets {
			if f.Match(ref) && g.typ != "absent" {
				want = append(want, ref)
			}
		}
		for info, err := range store.All(t.Context(), s, f) {
			require.NoError(t, err)
			listed = append(listed, info.Ref)
		}
		require.ElementsMatch(t, want, listed, f)
	}
	verified, err := s.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, present, verified)
}

// Every secret of a golden store can be read, and reading changes no byte of the file, also in a
// process that may change it.
func TestGoldenRead(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			for _, write := range []bool{false, true} {
				o := goldenStore(t, name)
				o.Write = write
				before, err := os.ReadFile(o.Path)
				require.NoError(t, err)
				s := open(t, o)
				requireGolden(t, s, goldenSecrets(t, name))
				format, err := s.Format()
				require.NoError(t, err)
				require.Equal(t, name, fmt.Sprintf("format%d", format))
				require.NoError(t, s.Close())
				after, err := os.ReadFile(o.Path)
				require.NoError(t, err)
				require.True(t, bytes.Equal(before, after))

				o.Key = goldenKey(t, "testdata/"+name+".old-key.txt")
				_, err = sealed.Open(t.Context(), o)
				require.ErrorIs(t, err, secret.ErrDenied, "the key from before the rotation")
			}
		})
	}
}

// A golden store can be changed in every way, and what is not changed stays as it is.
func TestGoldenWrite(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) { testGoldenWrite(t, name) })
	}
}

func testGoldenWrite(t *testing.T, name string) {
	t.Helper()
	o := goldenStore(t, name)
	o.Write = true
	s := open(t, o)
	secrets := goldenSecrets(t, name)
	digest := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

	var absent, present []secret.Ref
	for ref, g := range secrets {
		if g.typ == "absent" {
			absent = append(absent, ref)
		} else {
			present = append(present, ref)
		}
	}
	require.NotEmpty(t, absent)
	created := storetest.Value(t, 700)
	require.NoError(t, s.Create(t.Context(), absent[0], secret.NewValue(created), store.Regular))
	secrets[absent[0]] = golden{"regular", digest(created)}
	require.NoError(t, s.Delete(t.Context(), present[0]))
	secrets[present[0]] = golden{typ: "absent"}
	for _, ref := range present[1:20] {
		updated := storetest.Value(t, 90)
		require.NoError(t, s.Update(t.Context(), ref, secret.NewValue(updated)))
		secrets[ref] = golden{secrets[ref].typ, digest(updated)}
	}
	var more []store.New
	for i := range 300 {
		n := store.New{
			Ref:   secret.Ref{Scope: storetest.Scopes[i%6], Key: fmt.Sprintf("MORE_%d", i)},
			Value: secret.NewValue(storetest.Value(t, i)),
		}
		more = append(more, n)
		secrets[n.Ref] = golden{"regular", digest(n.Value.Reveal())}
	}
	require.NoError(t, s.Import(t.Context(), more))
	requireGolden(t, s, secrets)
	require.NoError(t, s.Close())

	o.Write = false
	requireGolden(t, open(t, o), secrets)
}

// Salvage reads stores of each format.
func TestGoldenSalvage(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			s := open(t, goldenStore(t, name))
			want := 0
			for _, g := range goldenSecrets(t, name) {
				if g.typ != "absent" {
					want++
				}
			}
			got := 0
			require.NoError(t, s.Salvage(t.Context(), func(info store.Info, err error) error {
				require.NoError(t, err)
				_, _, err = s.Get(t.Context(), info.Ref)
				require.NoError(t, err)
				got++
				return nil
			}))
			require.Equal(t, want, got)
		})
	}
}
