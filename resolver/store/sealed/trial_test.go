package sealed_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// A key is tried against the wrapped data key without the file, and asks nobody.
func TestOpens(t *testing.T) {
	dir := t.TempDir()
	key := sealed.Key{File: filepath.Join(dir, "key.txt")}
	open := func(name string, key sealed.Key) *sealed.Store {
		s, err := sealed.Open(t.Context(), sealed.Options{Path: filepath.Join(dir, name), Write: true, Key: key})
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	create := func(s *sealed.Store) []byte {
		none, err := s.Wrapped(t.Context())
		require.NoError(t, err)
		require.Nil(t, none, "there is no file yet")
		ref := secret.Ref{Scope: secret.Scope{Org: secret.DefaultOrg}, Key: "K"}
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
		wrapped, err := s.Wrapped(t.Context())
		require.NoError(t, err)
		return wrapped
	}
	wrapped := create(open("a.db", key))
	tried, err := key.Opens(wrapped)
	require.NoError(t, err)
	require.True(t, tried)

	other := sealed.Key{File: filepath.Join(dir, "other.txt")}
	_, err = other.Opens(wrapped)
	require.ErrorIs(t, err, secret.ErrDenied, "it does not exist, and is not made")
	require.NoFileExists(t, other.File)
	create(open("b.db", sealed.Key{File: other.File}))
	other = sealed.Key{File: other.File}
	tried, err = other.Opens(wrapped)
	require.ErrorIs(t, err, secret.ErrDenied)
	require.True(t, tried)

	asked := sealed.Key{Ask: func(string, bool) (secret.Value, error) {
		t.Error("it asks")
		return secret.Value{}, nil
	}}
	byPhrase := create(open("c.db", textKey("a passphrase")))
	tried, err = asked.Opens(byPhrase)
	require.NoError(t, err)
	require.False(t, tried)
	phrase := textKey("a passphrase")
	tried, err = phrase.Opens(byPhrase)
	require.NoError(t, err)
	require.True(t, tried)
}
