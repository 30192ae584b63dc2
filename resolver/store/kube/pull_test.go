package kube_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/kube"
	"inject/resolver/store/storetest"
)

var pull = secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "MY_SECRET_KEY"}

// pulls returns the pull Secrets of a namespace.
func pulls(t *testing.T, k *harness.Kubernetes, ns string) map[string]object {
	t.Helper()
	all := objects(t, k, ns)
	for name, o := range all {
		if o.Type != "kubernetes.io/dockerconfigjson" {
			delete(all, name)
		}
	}
	return all
}

func encoded(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// A deletion that gives way to a change at the same time leaves the copy of what was written.
func TestPullKept(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	admin := open(t, k, ns)
	g, kubeconfig := newGate(t, k)
	s := openAs(t, kubeconfig, ns)
	first, second := secret.NewValue(storetest.PullSecret(t)), storetest.PullSecret(t)
	require.NoError(t, admin.Create(t.Context(), pull, first, store.ImagePull))
	g.set(func(r *http.Request) action {
		if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "img-pull-") {
			require.NoError(t, admin.Update(t.Context(), pull, secret.NewValue(second)))
		}
		return pass
	})
	done, err := s.DeleteFrom(t.Context(), pull, first)
	require.NoError(t, err)
	require.False(t, done)
	all := pulls(t, k, ns)
	require.Len(t, all, 1)
	require.Equal(t, encoded(second), all[one(all)].Data[".dockerconfigjson"])
}

// An image pull secret is also where Flyte looks for it and kubelet can use it.
func TestPull(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	for _, c := range []struct {
		ref  secret.Ref
		name string // as Flyte's ToImagePullK8sName has it
		want map[string]string
	}{
		{pull, "img-pull-ecc44ea0f5a10d2f", map[string]string{
			"union.ai/org": "flyte", "union.ai/domain": "none", "union.ai/project": "none",
			"union.ai/secret-name": "MY_SECRET_KEY", "union.ai/secret-type": "image-pull-secret",
		}},
		{
			secret.Ref{
				Scope: secret.Scope{Org: "flyte", Domain: "development", Project: "flytesnacks"}, Key: "MY_SECRET_KEY",
			}, "img-pull-26d38160209869be", map[string]string{
				"union.ai/org": "flyte", "union.ai/domain": "development", "union.ai/project": "flytesnacks",
				"union.ai/secret-name": "MY_SECRET_KEY", "union.ai/secret-type": "image-pull-secret",
			},
		},
		{secret.Ref{Scope: pull.Scope, Key: "_" + strings.Repeat("k", 61) + "_tail"}, "", map[string]string{
			"union.ai/org": "flyte", "union.ai/domain": "none", "union.ai/project": "none",
			"union.ai/secret-name": "x" + strings.Repeat("k", 61) + "x",
			"union.ai/secret-type": "image-pull-secret",
		}},
	} {
		first, second := storetest.PullSecret(t), storetest.PullSecret(t)
		require.NoError(t, s.Create(t.Context(), c.ref, secret.NewValue(first), store.ImagePull))
		all := pulls(t, k, ns)
		require.Len(t, all, 1)
		name := one(all)
		if c.name != "" {
			require.Equal(t, c.name, name)
		}
		require.Equal(t, c.want, all[name].Metadata.Labels)
		require.Equal(t, map[string]string{".dockerconfigjson": encoded(first)}, all[name].Data)

		require.NoError(t, s.Update(t.Context(), c.ref, secret.NewValue(second)))
		require.Equal(t, map[string]string{".dockerconfigjson": encoded(second)}, pulls(t, k, ns)[name].Data)
		require.Equal(t, []secret.Ref{c.ref}, refs(t, s), "the copy is no secret of its own")
		require.Equal(t, []secret.Ref{c.ref}, flyteList(objects(t, k, ns), "", ""))
		require.NoError(t, s.Delete(t.Context(), c.ref))
		require.Empty(t, objects(t, k, ns))
	}
}

// A Docker config in a Secret of Flyte's, or in a regular one, stays as it is.
func TestRegularPull(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	flytes := secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "PULL"}
	o, ok := flyteSecrets(t)[flytes]
	require.True(t, ok)
	k.Call(t, http.MethodPost, secrets(ns), o)
	require.NoError(t, s.Create(t.Context(), pull, secret.NewValue(storetest.PullSecret(t)), store.Regular))
	for _, r := range []secret.Ref{flytes, pull} {
		_, info, err := s.Get(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, store.Regular, info.Type)
		require.NoError(t, s.Update(t.Context(), r, secret.NewValue([]byte("anything"))))
		require.Empty(t, pulls(t, k, ns))
		require.NoError(t, s.Delete(t.Context(), r))
	}
	require.Empty(t, objects(t, k, ns))
}

// A Secret of another where the copy would be is neither overwritten nor deleted, and nothing is written.
func TestForeignPull(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	config := storetest.PullSecret(t)
	foreign := object{
		Metadata: metadata{Name: "img-pull-ecc44ea0f5a10d2f"}, Type: "kubernetes.io/dockerconfigjson",
		Data: map[string]string{".dockerconfigjson": encoded(config)},
	}
	k.Call(t, http.MethodPost, secrets(ns), foreign)
	err := s.Create(t.Context(), pull, secret.NewValue(storetest.PullSecret(t)), store.ImagePull)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "img-pull-ecc44ea0f5a10d2f")
	require.Contains(t, secret.Hint(err), "kubectl -n "+ns+" delete secret img-pull-ecc44ea0f5a10d2f")
	require.Len(t, objects(t, k, ns), 1)

	path := secrets(ns) + "/" + foreign.Metadata.Name
	k.Call(t, http.MethodDelete, path, nil)
	require.NoError(t, s.Create(t.Context(), pull, secret.NewValue(config), store.ImagePull))
	k.Call(t, http.MethodDelete, path, nil)
	k.Call(t, http.MethodPost, secrets(ns), foreign)
	require.ErrorIs(t, s.Update(t.Context(), pull, secret.NewValue(storetest.PullSecret(t))), secret.ErrInvalid)
	v, _, err := s.Get(t.Context(), pull)
	require.NoError(t, err)
	require.Equal(t, config, v.Reveal(), "a refused update changes nothing")
	require.NoError(t, s.Delete(t.Context(), pull))
	require.Len(t, objects(t, k, ns), 1)
	require.Equal(t, foreign.Data, pulls(t, k, ns)[foreign.Metadata.Name].Data)
}

// A process ends between two steps of a change, before the API server gets the next request or before the
// answer comes. The copy is never there without the secret, and each next change puts it right.
func TestPullCrash(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	change := map[string]func(*kube.Store, []byte) error{
		"create": func(s *kube.Store, b []byte) error {
			return s.Create(t.Context(), pull, secret.NewValue(b), store.ImagePull)
		},
		"update": func(s *kube.Store, b []byte) error { return s.Update(t.Context(), pull, secret.NewValue(b)) },
		"delete": func(s *kube.Store, _ []byte) error { return s.Delete(t.Context(), pull) },
	}
	// state returns the value of the secret and that of its copy, "" if there is none.
	state := func(t *testing.T, direct *kube.Store, ns string) (value, copied string) {
		t.Helper()
		v, _, err := direct.Get(t.Context(), pull)
		if !errors.Is(err, secret.ErrNotFound) {
			require.NoError(t, err)
			value = encoded(v.Reveal())
		}
		all := pulls(t, k, ns)
		return value, all[one(all)].Data[".dockerconfigjson"]
	}
	unfinished := 0
	for name, crash := range change {
		for step := range 3 {
			for how, what := range map[string]action{"request": drop, "answer": lose} {
				for next, repair := range change {
					t.Run(fmt.Sprint(name, " ", step, " ", how, " ", next), func(t *testing.T) {
						ns := k.Namespace(t)
						g, kubeconfig := newGate(t, k)
						s, direct := openAs(t, kubeconfig, ns), open(t, k, ns)
						if name != "create" {
							require.NoError(t, change["create"](direct, storetest.PullSecret(t)))
						}
						g.set(fromChange(step, what))
						crashed := crash(s, storetest.PullSecret(t))
						value, copied := state(t, direct, ns)
						if step < 2 {
							require.ErrorIs(t, crashed, secret.ErrUnavailable)
						} else { // a change has two steps
							require.NoError(t, crashed)
							require.Equal(t, value, copied)
						}
						if value == "" {
							require.Empty(t, copied, "a copy without its secret")
						}
						if value != copied {
							unfinished++
						}

						err := repair(direct, storetest.PullSecret(t))
						switch {
						case next == "create" && value != "":
							require.ErrorIs(t, err, secret.ErrExists)
						case next != "create" && value == "":
							require.ErrorIs(t, err, secret.ErrNotFound)
						default:
							require.NoError(t, err)
						}
						value, copied = state(t, direct, ns)
						require.Equal(t, value, copied)
						require.Equal(t, next == "delete" || next == "update" && value == "", value == "")
					})
				}
			}
		}
	}
	require.Positive(t, unfinished, "there was something to put right")
}

// Whatever writers do at the same time, the copy is that of the secret in the end.
func TestPullConcurrent(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		var wg sync.WaitGroup
		for i := range 6 {
			s := open(t, k, ns) // as a replica has it
			config := storetest.PullSecret(t)
			wg.Go(func() {
				for range 4 {
					var err error
					switch i % 3 {
					case 0:
						err = s.Create(t.Context(), pull, secret.NewValue(config), store.ImagePull)
					case 1:
						err = s.Update(t.Context(), pull, secret.NewValue(config))
					default:
						err = s.Delete(t.Context(), pull)
					}
					for _, allowed := range []error{secret.ErrExists, secret.ErrNotFound, secret.ErrUnavailable} {
						if errors.Is(err, allowed) {
							err = nil
						}
					}
					if err != nil {
						t.Errorf("%d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
		all, copies := objects(t, k, ns), pulls(t, k, ns)
		require.Len(t, all, 2*len(copies))
		for name, o := range all {
			if _, ok := copies[name]; !ok {
				require.Equal(t, o.Data[pull.ID()], copies[one(copies)].Data[".dockerconfigjson"])
			}
		}
	}
}

// The image pull secrets of an org are those of no project and no domain, whatever the labels of others say, and
// too many are refused.
func TestPulls(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	create := func(key string, scope secret.Scope, v []byte, typ store.Type) {
		t.Helper()
		ref := secret.Ref{Scope: scope, Key: key}
		require.NoError(t, s.Create(t.Context(), ref, secret.NewValue(v), typ))
	}
	org, v := secret.Scope{Org: "flyte"}, storetest.PullSecret(t)
	create("B", org, v, store.ImagePull)
	create("A", org, storetest.PullSecret(t), store.ImagePull)
	create("C", org, storetest.PullSecret(t), store.Regular)
	create("D", secret.Scope{Org: "other"}, storetest.PullSecret(t), store.ImagePull)
	create("E", secret.Scope{Org: "flyte", Project: "none"}, storetest.PullSecret(t), store.ImagePull)
	create("F", secret.Scope{Org: "flyte", Domain: "none"}, storetest.PullSecret(t), store.ImagePull)
	all, err := s.Pulls(t.Context(), "flyte")
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "A", all[0].Ref.Key)
	require.Equal(t, secret.Ref{Scope: org, Key: "B"}, all[1].Ref)
	require.True(t, all[1].Value.Equal(secret.NewValue(v)))

	for i := range kube.MaxPulls - 2 {
		create(fmt.Sprint("G", i), org, storetest.PullSecret(t), store.ImagePull)
	}
	all, err = s.Pulls(t.Context(), "flyte")
	require.NoError(t, err)
	require.Len(t, all, kube.MaxPulls)
	create("H", org, storetest.PullSecret(t), store.ImagePull)
	_, err = s.Pulls(t.Context(), "flyte")
	require.ErrorContains(t, err, "over 64 image pull secrets")
	_, err = s.Pulls(t.Context(), "other")
	require.NoError(t, err, "the one beside it")
}
