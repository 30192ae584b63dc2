package kube_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/kube"
	"inject/resolver/store/storetest"
)

func numbered(i int) secret.Ref { return secret.Ref{Scope: scope, Key: fmt.Sprint("K", i)} }

// Salvage finds every secret, and names each Secret that is none: List ends at the damaged ones, and
// leaves out those whose id names no secret.
func TestSalvage(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	const many = 700 // more than a page
	for i := range many {
		require.NoError(t, s.Create(t.Context(), numbered(i), secret.NewValue([]byte("v")), store.Regular))
	}
	salvage := func() (found map[secret.Ref]store.Info, wrong []error) {
		found = map[secret.Ref]store.Info{}
		require.NoError(t, s.Salvage(t.Context(), func(info store.Info, err error) error {
			if err != nil {
				require.Zero(t, info)
				wrong = append(wrong, err)
				return nil
			}
			require.NotContains(t, found, info.Ref)
			found[info.Ref] = info
			return nil
		}))
		return found, wrong
	}
	found, wrong := salvage()
	require.Empty(t, wrong)
	require.Len(t, found, many)
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		require.NoError(t, err)
		require.Equal(t, info, found[info.Ref])
	}

	// One that is relabelled, and one as Flyte's service may make it, with an empty key.
	spoilt := flyteObject(numbered(3).ID(), "").Metadata.Name
	edit(t, k, ns, spoilt, func(o map[string]any) {
		meta, _ := o["metadata"].(map[string]any)
		meta["labels"] = map[string]string{
			"app.flyte.org/managed": "true", "app.flyte.org/domain": scope.Domain, "app.flyte.org/project": "another",
		}
	})
	nameless := flyteObject("u__org__flyte__domain____project____key__", "v")
	k.Call(t, http.MethodPost, secrets(ns), nameless)
	_, _, err := s.List(t.Context(), store.Filter{}, 0, "")
	require.ErrorIs(t, err, secret.ErrCorrupt)
	found, wrong = salvage()
	require.Len(t, found, many-1)
	require.NotContains(t, found, numbered(3))
	require.Len(t, wrong, 2)
	for _, err := range wrong {
		switch {
		case strings.Contains(err.Error(), spoilt):
			require.ErrorIs(t, err, secret.ErrCorrupt)
		default:
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.ErrorContains(t, err, nameless.Metadata.Name+" in namespace "+ns+
				` has the id "u__org__flyte__domain____project____key__", which names no secret`)
		}
	}

	calls := 0
	stop := os.ErrClosed
	require.ErrorIs(t, s.Salvage(t.Context(), func(store.Info, error) error { calls++; return stop }), stop)
	require.Equal(t, 1, calls)
}

// A copy may have a key with dots, which no new secret has; what Kubernetes cannot hold is told before it
// is tried.
func TestCopies(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	s := open(t, k, k.Namespace(t))
	odd := secret.Ref{Scope: scope, Key: "odd.name_x"}
	n := store.New{Ref: odd, Value: secret.NewValue(storetest.Value(t, 20)), Type: store.Regular, Copied: true}
	require.ErrorIs(t, s.Create(t.Context(), odd, n.Value, n.Type), secret.ErrInvalid)
	require.NoError(t, s.Holds(n))
	require.NoError(t, s.CreateCopy(t.Context(), n))
	v, info, err := s.Get(t.Context(), odd)
	require.NoError(t, err)
	require.True(t, v.Equal(n.Value))
	require.Equal(t, store.Regular, info.Type)
	require.ErrorIs(t, s.CreateCopy(t.Context(), n), secret.ErrExists)

	for name, bad := range map[string]store.New{
		"a domain that is no label": {Ref: secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "süd"}, Key: "K"}},
		"an id that is too long": {
			Ref: secret.Ref{Scope: scope, Key: strings.Repeat("K", 250)},
		},
		"a value that is too long":       {Ref: ref, Value: secret.NewValue(make([]byte, store.MaxValue+1))},
		"credentials that are none":      {Ref: ref, Type: store.ImagePull, Value: secret.NewValue([]byte("no JSON"))},
		"a name that no secret can have": {Ref: secret.Ref{Scope: scope, Key: "a b"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, s.Holds(bad), secret.ErrInvalid)
			require.ErrorIs(t, s.CreateCopy(t.Context(), bad), secret.ErrInvalid)
		})
	}
}

// A change from a value is made only if the secret has that value, also if another change comes in
// between.
func TestChangeFrom(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	admin := open(t, k, ns)
	g, kubeconfig := newGate(t, k)
	s := openAs(t, kubeconfig, ns)
	value := func(text string) secret.Value { return secret.NewValue([]byte(text)) }
	has := func(want string) {
		t.Helper()
		v, _, err := admin.Get(t.Context(), ref)
		require.NoError(t, err)
		require.True(t, v.Equal(value(want)), want)
	}
	// before makes the next change through the gate come after one of the value to text.
	before := func(method, text string) {
		done := false
		g.set(func(r *http.Request) action {
			if r.Method == method && !done {
				done = true
				require.NoError(t, admin.Update(t.Context(), ref, value(text)))
			}
			return pass
		})
	}
	for name, change := range map[string]struct {
		method string
		do     func(was string) (bool, error)
	}{
		"update": {http.MethodPut, func(was string) (bool, error) {
			return s.UpdateFrom(t.Context(), ref, value(was), value("new"))
		}},
		"delete": {http.MethodDelete, func(was string) (bool, error) {
			return s.DeleteFrom(t.Context(), ref, value(was))
		}},
	} {
		done, err := change.do("a")
		require.ErrorIs(t, err, secret.ErrNotFound, name)
		require.False(t, done)
		require.NoError(t, admin.Create(t.Context(), ref, value("a"), store.Regular))
		done, err = change.do("b")
		require.NoError(t, err)
		require.False(t, done)
		has("a")

		before(change.method, "of another")
		done, err = change.do("a")
		require.NoError(t, err, name)
		require.False(t, done, "the change in between wins")
		has("of another")

		before(change.method, "of another") // the same value again: a new version of the object
		done, err = change.do("of another")
		require.NoError(t, err, name)
		require.True(t, done)
		if name == "update" {
			has("new")
			require.NoError(t, admin.Delete(t.Context(), ref))
		}
		_, err = admin.Describe(t.Context(), ref)
		require.ErrorIs(t, err, secret.ErrNotFound)
	}
}

// Two addresses of one namespace are known to be one store.
func TestSameAs(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	a := open(t, k, ns)
	require.True(t, a.SameAs(t.Context(), openAs(t, k.User(t, ns, role(needed...)), ns)), "another user")
	require.False(t, a.SameAs(t.Context(), open(t, k, k.Namespace(t))))
	_, kubeconfig := newGate(t, k)
	require.True(t, a.SameAs(t.Context(), openAs(t, kubeconfig, ns)), "another address")

	// Nor does a user who may not read the namespace hide that two addresses are of one.
	require.NoError(t, a.Create(t.Context(), ref, secret.Value{}, store.Regular))
	user := k.User(t, ns, role(needed...))
	text, err := os.ReadFile(user)
	require.NoError(t, err)
	elsewhere := user + ".localhost"
	require.NoError(t, os.WriteFile(elsewhere, bytes.ReplaceAll(text, []byte("127.0.0.1"), []byte("localhost")), 0o600))
	b := openAs(t, elsewhere, ns)
	require.True(t, openAs(t, user, ns).SameAs(t.Context(), b))
	require.True(t, a.SameAs(t.Context(), b))

	other := harness.StartKubernetes(t, harness.KubernetesOptions{})
	other.Call(t, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": ns}})
	require.False(t, a.SameAs(t.Context(), open(t, other, ns)), "another cluster")
}

// The store tells what its user may not do, what answers, and which organizations there are.
func TestChecks(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	missing, err := openAs(t, k.User(t, ns, role("get", "list")), ns).Missing(t.Context(), needed...)
	require.NoError(t, err)
	require.Equal(t, []string{"create", "delete", "update"}, missing)
	s := openAs(t, k.User(t, ns, role(needed...)), ns)
	missing, err = s.Missing(t.Context(), needed...)
	require.NoError(t, err)
	require.Empty(t, missing)

	version, ahead, err := s.Server(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `^v1\.\d+\.\d+$`, version)
	require.Less(t, ahead.Abs(), time.Second)
	name, who := s.Namespace()
	require.Equal(t, ns, name)
	require.Contains(t, who, "context test of ")

	orgs, err := s.Orgs(t.Context())
	require.NoError(t, err)
	require.Empty(t, orgs)
	for _, org := range []string{"flyte", "acme", "flyte"} {
		at := secret.Ref{Scope: secret.Scope{Org: org}, Key: "K" + org}
		if err := s.Create(t.Context(), at, secret.Value{}, store.Regular); err != nil {
			require.ErrorIs(t, err, secret.ErrExists)
		}
	}
	orgs, err = s.Orgs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"acme", "flyte"}, orgs)

	_, kubeconfig := newGate(t, k)
	gated, err := kube.Open(t.Context(), kube.Options{Kubeconfig: kubeconfig, Namespace: ns})
	require.NoError(t, err)
	defer gated.Close() //nolint:errcheck // keeps only connections
	_, _, err = gated.Server(t.Context())
	require.NoError(t, err)
}
