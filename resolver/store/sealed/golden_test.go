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

// The files testdata/format1.* are a store of format 1 made by an early binary, its key, the key
// that it had before a rotation, and its content: a line for each secret with org, domain,
// project, key, type and the SHA-256 of the value. Later binaries must be able to read and change
// it.

// golden is the expected state of one secret.
type golden struct {
	typ    string // "absent" if the secret was deleted
	digest string
}

func goldenSecrets(t *testing.T) map[secret.Ref]golden {
	t.Helper()
	text, err := os.ReadFile("testdata/format1.txt")
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

// goldenStore makes a copy of the golden store and returns options that open it.
func goldenStore(t *testing.T) sealed.Options {
	t.Helper()
	file, err := os.Open("testdata/format1.db.gz")
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // read only
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	b, err := io.ReadAll(unzipped)
	require.NoError(t, err)
	o := sealed.Options{
		Path: filepath.Join(t.TempDir(), "secrets.db"),
		Key:  sealed.Key{File: "testdata/format1.key.txt"},
	}
	require.NoError(t, os.WriteFile(o.Path, b, 0o600))
	return o
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
	listed := 0
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		require.NoError(t, err)
		require.NotContains(t, []string{"", "absent"}, secrets[info.Ref].typ, info.Ref)
		listed++
	}
	require.Equal(t, present, listed)
	verified, err := s.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, present, verified)
}

// Every secret of the golden store can be read, and reading changes no byte of the file.
func TestGoldenRead(t *testing.T) {
	t.Parallel()
	o := goldenStore(t)
	before, err := os.ReadFile(o.Path)
	require.NoError(t, err)
	s := open(t, o)
	requireGolden(t, s, goldenSecrets(t))
	require.NoError(t, s.Close())
	after, err := os.ReadFile(o.Path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))

	o.Key.File = "testdata/format1.old-key.txt"
	_, err = sealed.Open(t.Context(), o)
	require.ErrorIs(t, err, secret.ErrDenied, "the key from before the rotation")
}

// The golden store can be changed in every way, and what is not changed stays as it is.
func TestGoldenWrite(t *testing.T) {
	t.Parallel()
	o := goldenStore(t)
	o.Write = true
	s := open(t, o)
	secrets := goldenSecrets(t)
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
