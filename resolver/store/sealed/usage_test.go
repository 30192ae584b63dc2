package sealed_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
)

// What a store says that its secrets take is what they do, after changes at several scopes and in a
// new process. A store of format 1 says nothing until its first change.
func TestUsage(t *testing.T) {
	t.Parallel()
	requireUsage := func(s *sealed.Store) {
		t.Helper()
		var want store.Usage
		all, next, err := s.List(t.Context(), store.Filter{}, 10_000, "")
		require.NoError(t, err)
		require.Empty(t, next)
		for _, info := range all {
			v, _, err := s.Get(t.Context(), info.Ref)
			require.NoError(t, err)
			want.Secrets++
			want.Bytes += int64(v.Len())
		}
		got, counted, err := s.Usage(t.Context())
		require.NoError(t, err)
		require.True(t, counted)
		require.Equal(t, want, got)
	}

	o := options(t.TempDir())
	s := open(t, o)
	requireUsage(s) // without a file
	ref := func(i int) secret.Ref {
		at := secret.Scope{Org: "flyte", Project: fmt.Sprintf("p%d", i%7)}
		return secret.Ref{Scope: at, Key: fmt.Sprintf("K%d", i)}
	}
	for i := range 300 { // more than one node of the index
		require.NoError(t, s.Create(t.Context(), ref(i), secret.NewValue(make([]byte, i)), store.Regular))
	}
	requireUsage(s)
	require.NoError(t, s.Update(t.Context(), ref(3), secret.NewValue(make([]byte, 1000))))
	require.NoError(t, s.Delete(t.Context(), ref(200)))
	requireUsage(s)
	require.NoError(t, s.Close())
	s = open(t, o)
	requireUsage(s)
	require.NoError(t, s.Close())

	o = goldenStore(t, "format1")
	o.Write = true
	s = open(t, o)
	_, counted, err := s.Usage(t.Context())
	require.NoError(t, err)
	require.False(t, counted)
	require.NoError(t, s.Create(t.Context(), rewrittenRef, secret.NewValue([]byte("v")), store.Regular))
	requireUsage(s)
	require.NoError(t, s.Close())
}
