package sealed_test

import (
	"fmt"
	"maps"
	"slices"
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

// Orgs returns every organization that has secrets, up to a limit, in both formats.
func TestOrgs(t *testing.T) {
	t.Parallel()
	s := open(t, options(t.TempDir()))
	requireOrgs := func(s *sealed.Store) {
		t.Helper()
		want := map[string]bool{}
		for info, err := range store.All(t.Context(), s, store.Filter{}) {
			require.NoError(t, err)
			want[info.Ref.Org] = true
		}
		got, err := s.Orgs(t.Context(), 100)
		require.NoError(t, err)
		require.ElementsMatch(t, slices.Collect(maps.Keys(want)), got)
		got, err = s.Orgs(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, got, min(1, len(want)))
	}
	requireOrgs(s) // without a file
	var refs []secret.Ref
	for i := range 300 {
		ref := secret.Ref{Scope: secret.Scope{Org: fmt.Sprintf("o%d", i%9), Project: fmt.Sprint("p", i%4)}}
		ref.Key = fmt.Sprintf("K%d", i)
		refs = append(refs, ref)
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
		if i < 20 {
			requireOrgs(s)
		}
	}
	requireOrgs(s)
	for _, ref := range refs { // the last secret of an org takes it away
		if ref.Org == "o3" {
			require.NoError(t, s.Delete(t.Context(), ref))
		}
	}
	requireOrgs(s)
	require.NoError(t, s.Close())

	s = open(t, goldenStore(t, "format1"))
	requireOrgs(s)
	require.NoError(t, s.Close())
}
