// Package storetest is the test suite that every store passes: each backend, each wrapper of a
// store and the client of a server. It knows only the interfaces of package store.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// ReadLister is a store that can only be read, such as a mounted folder.
type ReadLister interface {
	store.Reader
	store.Lister
}

// Value returns n random bytes. They begin with bytes that careless code would change: quotes, $,
// backslash, newlines, NUL and bytes that are not UTF-8.
func Value(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	require.NoError(t, err)
	copy(b, "'\"$HOME`\\\r\n\x00\xff\xfe%s ")
	return b
}

// Values returns values that every store must keep byte for byte.
func Values(t testing.TB) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"awkward":  Value(t, 64),
		"empty":    {},
		"NUL":      {0},
		"newline":  []byte("\n"),
		"trailing": []byte("line\r\n \t\n"),
		"largest":  Value(t, store.MaxValue),
	}
}

// Scopes has a scope of each width, and scopes that differ in one name only.
var Scopes = []secret.Scope{
	{Org: "flyte"},
	{Org: "flyte", Domain: "development"},
	{Org: "flyte", Project: "development"},
	{Org: "flyte", Domain: "development", Project: "my_project"},
	{Org: "flyte", Domain: "production", Project: "my_project"},
	{Org: "flyte", Project: "my_project"},
}

// PullSecret returns a value for a secret of type [store.ImagePull]: a Docker config with a random
// password.
func PullSecret(t testing.TB) []byte {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString(append([]byte("me:"), Value(t, 40)...))
	return fmt.Appendf(nil, `{"auths":{"ghcr.example":{"auth":%q}}}`, auth)
}

// A Lack is something that a store cannot do, because of what keeps it. It must refuse it with
// [secret.ErrInvalid] and leave nothing behind.
type Lack int

// The lacks.
const (
	// OnlyLabels is the lack of a store whose domains and projects are values of labels of Kubernetes.
	OnlyLabels Lack = iota
	// OnlyDockerConfigs is the lack of a store that checks the values of image pull secrets.
	OnlyDockerConfigs
)

// Run tests everything that a [store.Store] promises, and what a [store.Importer] promises if the
// store is one. open returns an empty store and registers a cleanup of the test that closes it. lacks
// is what the store cannot do.
func Run(t *testing.T, open func(*testing.T) store.Store, lacks ...Lack) {
	RunReader(t, func(t *testing.T, seed map[secret.Ref][]byte) ReadLister {
		s := open(t)
		for ref, b := range seed {
			require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(b), store.Regular))
		}
		return s
	})
	t.Run("Create", func(t *testing.T) { testCreate(t, open(t)) })
	t.Run("Update", func(t *testing.T) { testUpdate(t, open(t)) })
	t.Run("Delete", func(t *testing.T) { testDelete(t, open(t)) })
	t.Run("Refusals", func(t *testing.T) { testRefusals(t, open(t)) })
	t.Run("ScopeNames", func(t *testing.T) { testScopeNames(t, open(t), slices.Contains(lacks, OnlyLabels)) })
	t.Run("ImagePull", func(t *testing.T) { testImagePull(t, open(t), slices.Contains(lacks, OnlyDockerConfigs)) })
	t.Run("TokensSurviveWrites", func(t *testing.T) {
		for name, f := range map[string]store.Filter{
			"all": {}, "org": {Org: "flyte"}, "domain": {Org: "flyte", Domain: "development"},
		} {
			t.Run(name, func(t *testing.T) { testTokens(t, open(t), f) })
		}
	})
	t.Run("Concurrent", func(t *testing.T) { testConcurrent(t, open(t)) })
	if _, ok := open(t).(store.Limiter); ok {
		t.Run("Limit", func(t *testing.T) { testLimit(t, open(t)) })
		t.Run("ConcurrentLimit", func(t *testing.T) { testConcurrentLimit(t, open(t)) })
	}
	if _, ok := open(t).(store.Importer); ok {
		t.Run("Import", func(t *testing.T) { testImport(t, open(t)) })
		t.Run("ConcurrentImport", func(t *testing.T) { testConcurrentImport(t, open(t)) })
	}
}

// RunReader tests what a store that can only be read promises. open returns a store that contains
// exactly seed.
func RunReader(t *testing.T, open func(*testing.T, map[secret.Ref][]byte) ReadLister) {
	t.Run("Absent", func(t *testing.T) {
		s := open(t, nil)
		ref := secret.Ref{Scope: Scopes[0], Key: "absent"}
		_, _, err := s.Get(t.Context(), ref)
		requireError(t, err, secret.ErrNotFound, "get", ref)
		_, err = s.Describe(t.Context(), ref)
		requireError(t, err, secret.ErrNotFound, "describe", ref)
		require.Empty(t, list(t, s, store.Filter{}, 0))
	})

	t.Run("ExactScope", func(t *testing.T) {
		for _, at := range Scopes {
			ref := secret.Ref{Scope: at, Key: "K"}
			s := open(t, map[secret.Ref][]byte{ref: []byte("v")})
			for _, from := range Scopes {
				_, info, err := s.Get(t.Context(), secret.Ref{Scope: from, Key: "K"})
				if from == at {
					require.NoError(t, err)
					require.Equal(t, ref, info.Ref)
				} else {
					require.ErrorIsf(t, err, secret.ErrNotFound, "stored at %v, read at %v", at, from)
				}
			}
			_, _, err := s.Get(t.Context(), secret.Ref{Scope: at, Key: "k"})
			require.ErrorIs(t, err, secret.ErrNotFound, "keys are case-sensitive")
		}
	})

	t.Run("Bytes", func(t *testing.T) {
		seed := map[secret.Ref][]byte{}
		for name, b := range Values(t) {
			seed[secret.Ref{Scope: Scopes[0], Key: name}] = b
		}
		s := open(t, seed)
		for ref, want := range seed {
			requireValue(t, s, ref, want)
		}
	})

	t.Run("List", func(t *testing.T) {
		seed := map[secret.Ref][]byte{}
		for _, scope := range Scopes {
			for i := range 9 {
				seed[secret.Ref{Scope: scope, Key: fmt.Sprintf("K%d", i)}] = Value(t, 32)
			}
		}
		s := open(t, seed)
		for _, f := range []store.Filter{
			{},
			{Org: "flyte"},
			{Org: "other"},
			{Domain: "development"},
			{Project: "my_project"},
			{Domain: "development", Project: "my_project"},
			{Domain: "nowhere"},
			{Org: "flyte", Domain: "development"},
			{Org: "flyte", Project: "my_project"},
			{Org: "flyte", Domain: "development", Project: "my_project"},
			{Org: "other", Domain: "development"},
			{Org: "flyte", Domain: "nowhere"},
			{Org: "nowhere"},
		} {
			var want []secret.Ref
			for ref := range seed {
				if f.Match(ref) {
					want = append(want, ref)
				}
			}
			for _, limit := range []int{0, 1, 7, 1000} {
				require.ElementsMatchf(t, want, list(t, s, f, limit), "%+v, %d a page", f, limit)
			}
		}
		for info, err := range store.All(t.Context(), s, store.Filter{}) {
			require.NoError(t, err)
			dump := fmt.Sprintf("%+v %#v", info, info)
			require.NotContains(t, dump, string(seed[info.Ref]))
		}
		_, _, err := s.List(t.Context(), store.Filter{}, 1, "no token of yours")
		require.ErrorIs(t, err, secret.ErrInvalid)
	})

	t.Run("Cancelled", func(t *testing.T) {
		ref := secret.Ref{Scope: Scopes[0], Key: "K"}
		s := open(t, map[secret.Ref][]byte{ref: []byte("v")})
		requireValue(t, s, ref, []byte("v"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := s.Get(ctx, ref)
		require.ErrorIs(t, err, context.Canceled)
		_, err = s.Describe(ctx, ref)
		require.ErrorIs(t, err, context.Canceled)
		_, _, err = s.List(ctx, store.Filter{}, 0, "")
		require.ErrorIs(t, err, context.Canceled)
	})

	t.Run("BadRef", func(t *testing.T) {
		s := open(t, nil)
		for _, ref := range badRefs() {
			_, _, err := s.Get(t.Context(), ref)
			require.ErrorIsf(t, err, secret.ErrInvalid, "%v", ref)
			_, err = s.Describe(t.Context(), ref)
			require.ErrorIsf(t, err, secret.ErrInvalid, "%v", ref)
		}
	})
}

// RunFault tests a store from which ref cannot be read because of want, which is
// [secret.ErrDenied], [secret.ErrUnavailable] or [secret.ErrCorrupt]. The store must return want,
// never [secret.ErrNotFound].
func RunFault(t *testing.T, r ReadLister, ref secret.Ref, want error) {
	t.Helper()
	_, _, err := r.Get(t.Context(), ref)
	requireError(t, err, want, "get", ref)
	require.NotErrorIs(t, err, secret.ErrNotFound)
	_, err = r.Describe(t.Context(), ref)
	if err != nil { // a store may be able to describe a secret whose value it cannot read
		requireError(t, err, want, "describe", ref)
		require.NotErrorIs(t, err, secret.ErrNotFound)
	}
	for _, err := range store.All(t.Context(), r, store.Filter{}) {
		if err != nil {
			require.ErrorIs(t, err, want)
			return
		}
	}
}

func badRefs() []secret.Ref {
	return []secret.Ref{
		{},
		{Scope: Scopes[0]},
		{Scope: Scopes[0], Key: "../x"},
		{Scope: Scopes[0], Key: "a b"},
		{Key: "K"},
		{Scope: secret.Scope{Org: "flyte", Domain: "a__b"}, Key: "K"},
		{Scope: secret.Scope{Org: "flyte", Project: "../.."}, Key: "K"},
		{Scope: secret.Scope{Org: "flyte", Project: strings.Repeat("p", 64)}, Key: "K"},
	}
}

func testCreate(t *testing.T, s store.Store) {
	ref := secret.Ref{Scope: Scopes[3], Key: "K"}
	first := PullSecret(t)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(first), store.ImagePull))
	for _, typ := range []store.Type{store.Regular, store.ImagePull} {
		err := s.Create(t.Context(), ref, secret.NewValue(PullSecret(t)), typ)
		requireError(t, err, secret.ErrExists, "create", ref)
	}
	requireValue(t, s, ref, first)
	info, err := s.Describe(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, store.ImagePull, info.Type)
	require.Equal(t, ref, info.Ref)
	require.False(t, info.Created.IsZero())
	_, got, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, info, got)
}

func testUpdate(t *testing.T, s store.Store) {
	ref := secret.Ref{Scope: Scopes[0], Key: "K"}
	err := s.Update(t.Context(), ref, secret.NewValue([]byte("v")))
	requireError(t, err, secret.ErrNotFound, "update", ref)
	_, _, err = s.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrNotFound, "an update must not create")

	pull := secret.Ref{Scope: Scopes[0], Key: "PULL"}
	configs := map[string][]byte{"a": PullSecret(t), "b": PullSecret(t)}
	for ref, values := range map[secret.Ref]map[string][]byte{ref: Values(t), pull: configs} {
		typ := store.Regular
		if ref == pull {
			typ = store.ImagePull
		}
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(PullSecret(t)), typ))
		before, err := s.Describe(t.Context(), ref)
		require.NoError(t, err)
		for name, b := range values {
			require.NoErrorf(t, s.Update(t.Context(), ref, secret.NewValue(b)), name)
			requireValue(t, s, ref, b)
		}
		after, err := s.Describe(t.Context(), ref)
		require.NoError(t, err)
		require.Equal(t, typ, after.Type)
		require.Equal(t, before.Created, after.Created)
		require.False(t, after.Updated.Before(before.Updated))
	}
	other := secret.Ref{Scope: Scopes[1], Key: "K"}
	require.ErrorIs(t, s.Update(t.Context(), other, secret.Value{}), secret.ErrNotFound, "another scope")
}

func testDelete(t *testing.T, s store.Store) {
	ref, other := secret.Ref{Scope: Scopes[0], Key: "K"}, secret.Ref{Scope: Scopes[1], Key: "K"}
	requireError(t, s.Delete(t.Context(), ref), secret.ErrNotFound, "delete", ref)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
	require.ErrorIs(t, s.Delete(t.Context(), other), secret.ErrNotFound, "another scope")
	requireValue(t, s, ref, []byte("v"))
	require.NoError(t, s.Delete(t.Context(), ref))
	_, _, err := s.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.ErrorIs(t, s.Delete(t.Context(), ref), secret.ErrNotFound)
	require.Empty(t, list(t, s, store.Filter{}, 0))
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("again")), store.Regular))
	requireValue(t, s, ref, []byte("again"))
}

func testRefusals(t *testing.T, s store.Store) {
	good := secret.Ref{Scope: Scopes[0], Key: "K"}
	v := secret.NewValue([]byte("v"))
	for _, ref := range badRefs() {
		require.ErrorIsf(t, s.Create(t.Context(), ref, v, store.Regular), secret.ErrInvalid, "%v", ref)
		require.ErrorIsf(t, s.Update(t.Context(), ref, v), secret.ErrInvalid, "%v", ref)
		require.ErrorIsf(t, s.Delete(t.Context(), ref), secret.ErrInvalid, "%v", ref)
	}
	large := secret.NewValue(make([]byte, store.MaxValue+1))
	require.ErrorIs(t, s.Create(t.Context(), good, large, store.Regular), secret.ErrInvalid)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Create(ctx, good, v, store.Regular), context.Canceled)
	require.Empty(t, list(t, s, store.Filter{}, 0), "a refused change must leave nothing behind")

	require.NoError(t, s.Create(t.Context(), good, v, store.Regular))
	require.ErrorIs(t, s.Update(t.Context(), good, large), secret.ErrInvalid)
	require.ErrorIs(t, s.Update(ctx, good, secret.NewValue([]byte("w"))), context.Canceled)
	require.ErrorIs(t, s.Delete(ctx, good), context.Canceled)
	requireValue(t, s, good, []byte("v"))
}

// testScopeNames stores secrets at scopes whose names are no values of labels of Kubernetes.
func testScopeNames(t *testing.T, s store.Store, lacks bool) {
	var made []secret.Ref
	for _, name := range []string{"caf\u00e9", "\u6771\u4eac", "team+web:eu@example", "-x", "x.", "a$b"} {
		for _, scope := range []secret.Scope{
			{Org: "flyte", Domain: name}, {Org: "flyte", Project: name}, {Org: "flyte", Domain: name, Project: name},
		} {
			ref, v := secret.Ref{Scope: scope, Key: "K"}, Value(t, 20)
			err := s.Create(t.Context(), ref, secret.NewValue(v), store.Regular)
			if lacks {
				requireError(t, err, secret.ErrInvalid, "create", ref)
				require.ErrorContains(t, err, name, "the error names what cannot be stored")
				_, _, err = s.Get(t.Context(), ref)
				requireError(t, err, secret.ErrNotFound, "get", ref)
				require.Empty(t, list(t, s, store.Filter(scope), 0))
				continue
			}
			require.NoError(t, err)
			requireValue(t, s, ref, v)
			made = append(made, ref)
		}
	}
	require.ElementsMatch(t, made, list(t, s, store.Filter{}, 0))
}

// testImagePull stores credentials of registries, and values that are none.
func testImagePull(t *testing.T, s store.Store, lacks bool) {
	ref := secret.Ref{Scope: Scopes[3], Key: "PULL"}
	for name, b := range map[string][]byte{
		"empty": {}, "text": []byte("hunter2"), "JSON": []byte(`"hunter2"`), "a list": []byte(`["hunter2"]`),
		"no auths": []byte(`{}`), "no object": []byte(`{"auths":["hunter2"]}`), "an empty one": []byte(`{"auths":{}}`),
		"null": []byte(`{"auths":{"h":null}}`), "not base64": []byte(`{"auths":{"h":{"auth":"hunter2!"}}}`),
		"no password": []byte(`{"auths":{"h":{"auth":"aHVudGVyMg=="}}}`), "two": []byte(`{"auths":{"h":{}}}{}`),
	} {
		err := s.Create(t.Context(), ref, secret.NewValue(b), store.ImagePull)
		if lacks {
			requireError(t, err, secret.ErrInvalid, "create", ref)
			require.NotContains(t, err.Error(), "hunter2", name)
			require.Empty(t, list(t, s, store.Filter{}, 0), name)
			continue
		}
		require.NoError(t, err, name)
		requireValue(t, s, ref, b)
		require.NoError(t, s.Delete(t.Context(), ref))
	}
	v := PullSecret(t)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(v), store.ImagePull))
	if lacks {
		err := s.Update(t.Context(), ref, secret.NewValue([]byte("hunter2")))
		requireError(t, err, secret.ErrInvalid, "update", ref)
	}
	requireValue(t, s, ref, v)
	require.NoError(t, s.Delete(t.Context(), ref))
	require.Empty(t, list(t, s, store.Filter{}, 0))
}

// testTokens lists what f selects, two secrets a page. Between the pages it deletes secrets that
// were listed, and creates and deletes others. The secrets are in many scopes, so that some scopes
// come and go.
func testTokens(t *testing.T, s store.Store, f store.Filter) {
	stays := map[secret.Ref]int{}
	made := 0
	create := func(key string) secret.Ref {
		made++
		ref := secret.Ref{
			Scope: secret.Scope{Org: "flyte", Domain: "development", Project: fmt.Sprintf("p%d", made/3)}, Key: key,
		}
		require.NoError(t, s.Create(t.Context(), ref, secret.Value{}, store.Regular))
		return ref
	}
	for i := range 50 {
		stays[create(fmt.Sprintf("stays%d", i))] = 0
	}

	var last secret.Ref
	for token, n := "", 0; ; n++ {
		page, next, err := s.List(t.Context(), f, 2, token)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), 2)
		for _, info := range page {
			if _, ok := stays[info.Ref]; ok {
				stays[info.Ref]++
				last = info.Ref
			}
		}
		if next == "" {
			break
		}
		token = next
		// Sometimes delete the very secret that the page ended with.
		if n%5 == 4 {
			require.NoError(t, s.Delete(t.Context(), last))
			require.Equal(t, 1, stays[last])
			delete(stays, last)
		}
		comes := create(fmt.Sprintf("comes%d", n))
		if n%2 == 0 {
			require.NoError(t, s.Delete(t.Context(), comes))
		}
		require.Less(t, n, 10000, "the listing must end")
	}

	for ref, n := range stays {
		require.Equalf(t, 1, n, "%v", ref)
	}
}

// testConcurrent has 64 writers change one shared secret and one of their own each, while they also
// read and list.
func testConcurrent(t *testing.T, s store.Store) {
	const writers = 64
	shared := secret.Ref{Scope: Scopes[0], Key: "shared"}
	created := make(chan int, writers)
	var wg sync.WaitGroup
	for i := range writers {
		own := secret.Ref{Scope: Scopes[i%len(Scopes)], Key: fmt.Sprintf("own%d", i)}
		mine := bytes.Repeat([]byte{byte(i)}, 100+i)
		wg.Go(func() {
			switch err := s.Create(t.Context(), shared, secret.NewValue(mine), store.Regular); {
			case err == nil:
				created <- i
			case !errors.Is(err, secret.ErrExists):
				t.Errorf("create: %v", err)
			}
			if err := s.Create(t.Context(), own, secret.NewValue(mine), store.Regular); err != nil {
				t.Errorf("create: %v", err)
			}
			if err := s.Update(t.Context(), own, secret.NewValue(append(mine, "2"...))); err != nil {
				t.Errorf("update: %v", err)
			}
			v, _, err := s.Get(t.Context(), own)
			if err != nil || !bytes.Equal(v.Reveal(), append(mine, "2"...)) {
				t.Errorf("get after update: wrong value or %v", err)
			}
			for _, err := range store.All(t.Context(), s, store.Filter{}) {
				if err != nil {
					t.Errorf("list: %v", err)
				}
			}
			if i%2 == 0 {
				if err := s.Delete(t.Context(), own); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}

	wg.Wait()
	close(created)
	var winners []int
	for i := range created {
		winners = append(winners, i)
	}

	require.Len(t, winners, 1, "exactly one create of a secret succeeds")
	requireValue(t, s, shared, bytes.Repeat([]byte{byte(winners[0])}, 100+winners[0])) //nolint:gosec // under 64
	require.Len(t, list(t, s, store.Filter{}, 0), writers/2+1)
}

// testImport imports secrets that can be created and secrets that cannot, for several reasons. The
// error must name all reasons.
func testImport(t *testing.T, s store.Store) {
	i, ok := s.(store.Importer)
	require.True(t, ok)
	ref := func(key string) secret.Ref { return secret.Ref{Scope: Scopes[3], Key: key} }
	small := func(key string) store.New {
		return store.New{Ref: ref(key), Value: secret.NewValue([]byte("value of " + key))}
	}
	require.NoError(t, i.Import(t.Context(), nil))
	require.Empty(t, list(t, s, store.Filter{}, 0))

	// Each is refused for its own reason, together with one that could be created alone.
	require.NoError(t, s.Create(t.Context(), ref("old"), secret.NewValue([]byte("old")), store.Regular))
	refused := []store.New{small("fine"), small("old"), small("twice"), small("twice"), small("twice")}
	large := small("large")
	large.Value = secret.NewValue(make([]byte, store.MaxValue+1))
	refused = append(refused, large)
	type refusal struct {
		ref secret.Ref
		err error
	}
	want := []refusal{
		{ref("old"), secret.ErrExists},
		{ref("twice"), secret.ErrInvalid},
		{ref("twice"), secret.ErrInvalid},
		{ref("large"), secret.ErrInvalid},
	}
	for _, bad := range badRefs() {
		refused = append(refused, store.New{Ref: bad})
		want = append(want, refusal{bad, secret.ErrInvalid})
	}
	got := joined(i.Import(t.Context(), refused))
	require.Len(t, got, len(want), "the error names every secret that cannot be created, and no other")
	for n, w := range want {
		requireError(t, got[n], w.err, "create", w.ref)
		require.NotContains(t, got[n].Error(), "value of")
	}
	require.Equal(t, []secret.Ref{ref("old")}, list(t, s, store.Filter{}, 0), "none of them is stored")
	requireValue(t, s, ref("old"), []byte("old"))

	// Each reason alone is enough.
	requireError(t, i.Import(t.Context(), []store.New{small("fine"), small("old")}), secret.ErrExists, "create",
		ref("old"))
	require.ErrorIs(t, i.Import(t.Context(), []store.New{small("fine"), small("fine")}), secret.ErrInvalid)
	require.ErrorIs(t, i.Import(t.Context(), []store.New{small("fine"), large}), secret.ErrInvalid)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, i.Import(ctx, []store.New{small("fine")}), context.Canceled)
	require.Equal(t, []secret.Ref{ref("old")}, list(t, s, store.Filter{}, 0))

	// The counterpart that is allowed: every scope and kind of value, and many secrets.
	var all []store.New
	for _, scope := range Scopes {
		for name, b := range Values(t) {
			all = append(all,
				store.New{Ref: secret.Ref{Scope: scope, Key: name}, Value: secret.NewValue(b), Type: store.ImagePull})
		}
	}
	for n := range 300 {
		all = append(all, small(fmt.Sprintf("many%d", n)))
	}

	refs := []secret.Ref{ref("old")}
	require.NoError(t, i.Import(t.Context(), all))
	for _, n := range all {
		refs = append(refs, n.Ref)
		requireValue(t, s, n.Ref, n.Value.Reveal())
		info, err := s.Describe(t.Context(), n.Ref)
		require.NoError(t, err)
		require.Equal(t, n.Type, info.Type)
		require.False(t, info.Created.IsZero())
		require.Equal(t, info.Created, info.Updated)
	}
	require.ElementsMatch(t, refs, list(t, s, store.Filter{}, 0))
	require.Len(t, joined(i.Import(t.Context(), all)), len(all))

	// An imported secret can be changed like any other.
	require.NoError(t, s.Update(t.Context(), ref("many0"), secret.NewValue([]byte("new"))))
	requireValue(t, s, ref("many0"), []byte("new"))
	require.NoError(t, s.Delete(t.Context(), ref("many1")))
	require.NoError(t, i.Import(t.Context(), []store.New{small("many1")}))
	requireValue(t, s, ref("many1"), []byte("value of many1"))
}

// testConcurrentImport has several importers import the same secrets. Exactly one succeeds, and
// readers see all of its secrets or none.
func testConcurrentImport(t *testing.T, s store.Store) {
	i, ok := s.(store.Importer)
	require.True(t, ok)
	const importers, secrets = 16, 20
	ref := func(n int) secret.Ref {
		return secret.Ref{Scope: Scopes[n%len(Scopes)], Key: fmt.Sprintf("K%d", n)}
	}

	won := make(chan int, importers)
	var wg sync.WaitGroup
	for mine := range importers {
		set := make([]store.New, secrets)
		for n := range set {
			set[n] = store.New{Ref: ref(n), Value: secret.NewValue(fmt.Appendf(nil, "importer %d", mine))}
		}
		wg.Go(func() {
			switch err := i.Import(t.Context(), set); {
			case err == nil:
				won <- mine
			case !errors.Is(err, secret.ErrExists) || len(joined(err)) != secrets:
				t.Errorf("import: %v", err)
			}
		})
		wg.Go(func() {
			// Once one secret exists, all that are read later must exist.
			there := false
			for n := range set {
				_, _, err := s.Get(t.Context(), set[n].Ref)
				if err != nil && (there || !errors.Is(err, secret.ErrNotFound)) {
					t.Errorf("half an import was seen: %v", err)
				}
				there = there || err == nil
			}
		})
	}

	wg.Wait()
	close(won)
	var winners []int
	for mine := range won {
		winners = append(winners, mine)
	}

	require.Len(t, winners, 1, "exactly one import of the same secrets succeeds")
	for n := range secrets {
		requireValue(t, s, ref(n), fmt.Appendf(nil, "importer %d", winners[0]))
	}
	require.Len(t, list(t, s, store.Filter{}, 0), secrets)
}

// limitTo returns a limit for each scope on its own.
func limitTo(secrets, bytes int64) store.Limit {
	return func(at secret.Scope, now, then store.Usage) error {
		if then.Secrets > secrets || then.Bytes > bytes {
			return fmt.Errorf("%w: %v has %d secrets and %d bytes", secret.ErrQuota, at, now.Secrets, now.Bytes)
		}
		return nil
	}
}

// testLimit changes secrets up to a limit and over it. What is refused changes nothing, another
// scope has a limit of its own, and what takes less is always possible.
func testLimit(t *testing.T, s store.Store) {
	l, ok := s.(store.Limiter)
	require.True(t, ok)
	limited := l.WithLimit(limitTo(3, 1000))
	require.Equal(t, store.IsRemote(s), store.IsRemote(limited), "its reads are the same")
	ref := func(key string) secret.Ref { return secret.Ref{Scope: Scopes[0], Key: key} }
	value := func(n int) secret.Value { return secret.NewValue(Value(t, n)) }
	create := func(key string, n int) error {
		return limited.Create(t.Context(), ref(key), value(n), store.Regular)
	}
	load := func(scope secret.Scope, sizes ...int) error {
		var all []store.New
		for i, n := range sizes {
			ref := secret.Ref{Scope: scope, Key: fmt.Sprintf("LOADED_%d", i)}
			all = append(all, store.New{Ref: ref, Value: value(n)})
		}
		return limited.Import(t.Context(), all)
	}

	require.NoError(t, create("A", 400))
	require.NoError(t, create("B", 600))
	refused := create("C", 1)
	requireError(t, refused, secret.ErrQuota, "create", ref("C"))
	require.ErrorContains(t, refused, "has 2 secrets and 1000 bytes")
	require.NoError(t, create("C", 0))
	require.ErrorContains(t, create("D", 0), "has 3 secrets and 1000 bytes")
	require.ErrorIs(t, create("A", 1), secret.ErrExists, "not a matter of quota")

	requireError(t, limited.Update(t.Context(), ref("A"), value(401)), secret.ErrQuota, "update", ref("A"))
	require.NoError(t, limited.Update(t.Context(), ref("A"), value(399)))
	require.NoError(t, limited.Update(t.Context(), ref("C"), value(1)))
	require.ErrorIs(t, limited.Update(t.Context(), ref("D"), value(1)), secret.ErrNotFound)

	require.ErrorIs(t, load(Scopes[0], 0), secret.ErrQuota)
	require.ErrorIs(t, load(Scopes[1], 0, 0, 0, 0), secret.ErrQuota)
	require.ErrorIs(t, load(Scopes[1], 500, 501), secret.ErrQuota)
	require.Empty(t, list(t, s, store.Filter(Scopes[2]), 0))
	require.ElementsMatch(t, []secret.Ref{ref("A"), ref("B"), ref("C")}, list(t, s, store.Filter{}, 0))
	require.NoError(t, load(Scopes[1], 500, 500))

	require.NoError(t, limited.Delete(t.Context(), ref("B")))
	require.NoError(t, create("E", 600))

	// Over a new limit everything may become less, and nothing more.
	lower := l.WithLimit(limitTo(1, 10))
	require.NoError(t, lower.Update(t.Context(), ref("E"), value(599)))
	require.ErrorIs(t, lower.Update(t.Context(), ref("C"), value(2)), secret.ErrQuota)
	require.NoError(t, lower.Update(t.Context(), ref("C"), value(1)), "as much as before")
	require.NoError(t, lower.Delete(t.Context(), ref("E")))
	require.NoError(t, l.Create(t.Context(), ref("E"), value(5000), store.Regular), "the store itself has no limit")
}

// testConcurrentLimit has many writers create, grow and import more than a limit allows in all. At
// no time is more stored.
func testConcurrentLimit(t *testing.T, s store.Store) {
	l, ok := s.(store.Limiter)
	require.True(t, ok)
	const most, size, writers = 20, 10, 16
	limited := l.WithLimit(limitTo(most, most*size))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range 8 {
				ref := secret.Ref{Scope: Scopes[0], Key: fmt.Sprintf("K_%d_%d", w, i)}
				var err error
				switch i % 4 {
				case 0:
					more := ref
					more.Key += "_more"
					err = limited.Import(t.Context(), []store.New{
						{Ref: ref, Value: secret.NewValue(Value(t, size))},
						{Ref: more, Value: secret.NewValue(Value(t, size))},
					})
				case 3:
					ref.Key = fmt.Sprintf("K_%d_%d", w, i-1)
					err = limited.Update(t.Context(), ref, secret.NewValue(Value(t, 2*size)))
				default:
					err = limited.Create(t.Context(), ref, secret.NewValue(Value(t, size)), store.Regular)
				}
				if err != nil && !errors.Is(err, secret.ErrQuota) && !errors.Is(err, secret.ErrNotFound) {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	var total int
	refs := list(t, s, store.Filter(Scopes[0]), 0)
	for _, ref := range refs {
		v, _, err := s.Get(t.Context(), ref)
		require.NoError(t, err)
		total += v.Len()
	}
	require.LessOrEqual(t, len(refs), most)
	require.LessOrEqual(t, total, most*size)
	require.Greater(t, total, (most-2)*size, "and the limit is reached")
}

// joined returns the errors that were joined to err, or nil.
func joined(err error) []error {
	var j interface{ Unwrap() []error }
	if errors.As(err, &j) {
		return j.Unwrap()
	}
	return nil
}

// list returns the refs that f selects. It reads pages of at most limit secrets and checks them.
func list(t *testing.T, l store.Lister, f store.Filter, limit int) []secret.Ref {
	t.Helper()
	var refs []secret.Ref
	for token := ""; ; {
		page, next, err := l.List(t.Context(), f, limit, token)
		require.NoError(t, err)
		if limit > 0 {
			require.LessOrEqual(t, len(page), limit)
		}
		for _, info := range page {
			require.Falsef(t, slices.Contains(refs, info.Ref), "%v is listed twice", info.Ref)
			refs = append(refs, info.Ref)
		}
		if next == "" {
			return refs
		}
		require.NotEqual(t, token, next, "the listing must go on")
		token = next
	}
}

func requireValue(t *testing.T, r store.Reader, ref secret.Ref, want []byte) {
	t.Helper()
	v, info, err := r.Get(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, ref, info.Ref)
	require.Truef(t, bytes.Equal(want, v.Reveal()), "%v: %d bytes instead of %d, or others", ref, len(v.Reveal()),
		len(want))
}

func requireError(t *testing.T, err, want error, op string, ref secret.Ref) {
	t.Helper()
	require.ErrorIs(t, err, want)
	var e *secret.Error
	require.ErrorAs(t, err, &e, "the error must name the operation and the secret")
	require.Equal(t, op, e.Op)
	require.Equal(t, ref, e.Ref)
}
