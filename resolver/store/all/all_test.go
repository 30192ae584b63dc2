package all_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/all"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

// The scheme of the address selects the backend, and the backend decides whether the store can be
// changed.
func TestOpen(t *testing.T) {
	folder, value := t.TempDir(), storetest.Value(t, 30)
	key := sealed.Key{File: filepath.Join(folder, "key.txt")}
	mounted := filepath.Join(folder, "mounted")
	require.NoError(t, os.Mkdir(mounted, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(mounted, "K"), value, 0o600))
	ref := secret.Ref{Scope: secret.Scope{Org: "acme"}, Key: "K"}

	s, err := all.Open(t.Context(), "file://"+folder+"/secrets.db", all.Options{Sealed: sealed.Options{Key: key}})
	require.NoError(t, err)
	importer, ok := s.(store.Importer)
	require.True(t, ok)
	require.NoError(t, importer.Create(t.Context(), ref, secret.NewValue(value), store.Regular))
	v, _, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, v.Equal(secret.NewValue(value)))
	require.NoError(t, s.Close())

	s, err = all.Open(t.Context(), "dir://"+mounted, all.Options{Org: "acme"})
	require.NoError(t, err)
	v, _, err = s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, v.Equal(secret.NewValue(value)))
	_, manages := s.(store.Manager)
	require.False(t, manages)
	require.NoError(t, s.Close())

	for _, address := range []string{"grpcs://localhost:1", "secrets.db", "file://host/path", "vault:///x"} {
		t.Run(address, func(t *testing.T) {
			_, err := all.Open(t.Context(), address, all.Options{})
			require.ErrorIs(t, err, secret.ErrInvalid)
		})
	}
}
