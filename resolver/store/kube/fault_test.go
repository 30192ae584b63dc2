package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/kube"
	"inject/resolver/store/storetest"
)

var (
	scope = secret.Scope{Org: "flyte", Domain: "development", Project: "fraud"}
	ref   = secret.Ref{Scope: scope, Key: "API_KEY"}
)

// needed is what the store needs to do in its namespace.
var needed = []string{"create", "delete", "get", "list", "update"}

func role(verbs ...string) []harness.Rule {
	return []harness.Rule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: verbs}}
}

// A role with the verbs needed is enough, and without one of them the operations that need it are denied,
// name it, and are never taken for absence.
func TestRoles(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	operations := map[string]struct {
		needs []string
		do    func(*kube.Store) error
	}{
		"get": {[]string{"get"}, func(s *kube.Store) error {
			_, _, err := s.Get(t.Context(), ref)
			return err
		}},
		"describe": {[]string{"get"}, func(s *kube.Store) error {
			_, err := s.Describe(t.Context(), ref)
			return err
		}},
		"list": {[]string{"list"}, func(s *kube.Store) error {
			_, _, err := s.List(t.Context(), store.Filter{}, 0, "")
			return err
		}},
		"update": {[]string{"get", "update"}, func(s *kube.Store) error {
			return s.Update(t.Context(), ref, secret.NewValue([]byte("w")))
		}},
		"delete": {[]string{"get", "delete"}, func(s *kube.Store) error { return s.Delete(t.Context(), ref) }},
		"create": {[]string{"create"}, func(s *kube.Store) error {
			return s.Create(t.Context(), secret.Ref{Scope: scope, Key: "NEW"}, secret.Value{}, store.Regular)
		}},
	}
	for _, lacking := range append(needed, "nothing") {
		t.Run(lacking, func(t *testing.T) {
			t.Parallel()
			ns := k.Namespace(t)
			admin := open(t, k, ns)
			var verbs []string
			for _, v := range needed {
				if v != lacking {
					verbs = append(verbs, v)
				}
			}
			s := openAs(t, k.User(t, ns, role(verbs...)), ns)
			for name, op := range operations {
				if err := admin.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular); err != nil {
					require.ErrorIs(t, err, secret.ErrExists)
				}
				err := op.do(s)
				if !strings.Contains(strings.Join(op.needs, " "), lacking) {
					require.NoError(t, err, name)
					continue
				}
				require.ErrorIs(t, err, secret.ErrDenied, name)
				require.NotErrorIs(t, err, secret.ErrNotFound)
				require.ErrorContains(t, err, `cannot `+lacking+` resource "secrets"`)
				require.ErrorContains(t, err, `in the namespace "`+ns+`"`)
				require.Contains(t, secret.Hint(err), "add the verb "+lacking+" on secrets to the Role of that user")
			}
		})
	}
}

// A namespace that is not there is no empty store.
func TestNoNamespace(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	_, err := kube.Open(t.Context(), kube.Options{Kubeconfig: k.Kubeconfig(), Namespace: "nowhere"})
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "Kubernetes has no namespace nowhere")
	require.Contains(t, secret.Hint(err), "kubectl create namespace nowhere")

	// A user who may not see namespaces has no role in one that is not there.
	s := openAs(t, k.User(t, k.Namespace(t), role(needed...)), "nowhere")
	_, _, err = s.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Contains(t, secret.Hint(err), "in namespace nowhere, if there is such a namespace")

	ns := k.Namespace(t)
	s = open(t, k, ns)
	require.NoError(t, s.Create(t.Context(), ref, secret.Value{}, store.Regular))
	k.Call(t, http.MethodDelete, "/api/v1/namespaces/"+ns, nil)
	err = s.Create(t.Context(), secret.Ref{Scope: scope, Key: "NEW"}, secret.Value{}, store.Regular)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.Contains(t, secret.Hint(err), "is being deleted")

	// Nor is an API server that is not there, or does not know us.
	g, kubeconfig := newGate(t, k)
	g.set(func(*http.Request) action { return drop })
	_, err = kube.Open(t.Context(), kube.Options{Kubeconfig: kubeconfig, Namespace: ns})
	require.ErrorIs(t, err, secret.ErrUnavailable)
	other := k.Namespace(t)
	expired := k.User(t, other, role(needed...), harness.Expires(time.Now().Add(-time.Minute)))
	_, err = kube.Open(t.Context(), kube.Options{Kubeconfig: expired, Namespace: other})
	require.ErrorIs(t, err, secret.ErrDenied)
	require.ErrorContains(t, err, "the client certificate expired on")
}

// edit changes the Secret of ref by hand.
func edit(t *testing.T, k *harness.Kubernetes, ns, name string, change func(map[string]any)) {
	t.Helper()
	path := secrets(ns) + "/" + name
	var o map[string]any
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodGet, path, nil), &o))
	change(o)
	k.Call(t, http.MethodPut, path, o)
}

// A Secret that was edited by hand into something that Flyte and the store do not write is damaged: for
// reads, lists and changes. Nothing changes it. What is of no matter to the store is left alone.
func TestDamaged(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	id := ref.ID()
	part := func(o map[string]any, names ...string) map[string]any {
		for _, name := range names {
			next, ok := o[name].(map[string]any)
			if !ok {
				next = map[string]any{}
				o[name] = next
			}
			o = next
		}
		return o
	}
	labels := func(o map[string]any) map[string]any { return part(o, "metadata", "labels") }
	annotations := func(o map[string]any) map[string]any { return part(o, "metadata", "annotations") }
	set := func(of func(map[string]any) map[string]any, name string, value any) func(map[string]any) {
		return func(o map[string]any) {
			if of(o)[name] = value; value == nil {
				delete(of(o), name)
			}
		}
	}
	whole := func(o map[string]any) map[string]any { return o }
	meta := func(o map[string]any) map[string]any { return part(o, "metadata") }
	data := func(o map[string]any) map[string]any { return part(o, "data") }
	const managed, domain, project = "app.flyte.org/managed", "app.flyte.org/domain", "app.flyte.org/project"
	noNotes := set(meta, "managedFields", []any{map[string]any{}})
	for name, c := range map[string]struct {
		change func(map[string]any)
		why    string // "" if it is as good as before
	}{
		"untouched":         {func(map[string]any) {}, ""},
		"another data key":  {set(whole, "data", map[string]any{"API_KEY": "dg=="}), `entries ["API_KEY"]`},
		"two data keys":     {set(data, "more", "dg=="), "more"},
		"no data":           {set(whole, "data", nil), "entries []"},
		"many data keys":    {set(whole, "data", crowd(20_000)), "and 19997 more"},
		"another secret's":  {set(whole, "data", map[string]any{id + "2": "dg=="}), id + "2"},
		"not managed":       {set(labels, managed, nil), managed},
		"managed by nobody": {set(labels, managed, "false"), "false"},
		"no labels":         {set(meta, "labels", nil), domain},
		"another domain":    {set(labels, domain, "production"), "production"},
		"no project":        {set(labels, project, nil), project},
		"an unknown type":   {set(annotations, "inject.flyte.org/type", "secret"), "is no type"},
		"other labels":      {set(labels, "argocd.argoproj.io/instance", "x"), ""},
		"other annotations": {set(annotations, "x", "y"), ""},
		"no annotations":    {set(meta, "annotations", nil), ""},
		"no time":           {set(annotations, "inject.flyte.org/updated", "yesterday"), ""},
		"no notes":          {noNotes, ""},
		"no notes of two data keys": {func(o map[string]any) {
			noNotes(o)
			data(o)["more"] = "dg=="
		}, "more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := k.Namespace(t)
			s := open(t, k, ns)
			require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
			for object := range objects(t, k, ns) {
				edit(t, k, ns, object, c.change)
			}
			if c.why == "" {
				require.Equal(t, []secret.Ref{ref}, refs(t, s))
				v, _, err := s.Get(t.Context(), ref)
				require.NoError(t, err)
				require.Equal(t, "v", string(v.Reveal()))
				require.NoError(t, s.Update(t.Context(), ref, secret.NewValue([]byte("w"))))
				require.NoError(t, s.Delete(t.Context(), ref))
				require.Empty(t, objects(t, k, ns))
				return
			}
			storetest.RunFault(t, s, ref, secret.ErrCorrupt)
			before := objects(t, k, ns)
			require.Len(t, before, 1)
			for _, err := range []error{
				s.Update(t.Context(), ref, secret.NewValue([]byte("w"))), s.Delete(t.Context(), ref),
			} {
				require.ErrorIs(t, err, secret.ErrCorrupt)
				require.ErrorContains(t, err, c.why)
				require.Less(t, len(err.Error()), 2000)
				require.Contains(t, secret.Hint(err), "kubectl -n "+ns+" describe secret")
			}
			require.ErrorIs(t, s.Create(t.Context(), ref, secret.Value{}, store.Regular), secret.ErrExists)
			require.Equal(t, before, objects(t, k, ns))
			page, _, err := s.List(t.Context(), store.Filter{}, 0, "")
			if before[one(before)].Metadata.Labels["app.flyte.org/managed"] == "true" && len(page) == 0 {
				require.ErrorIs(t, err, secret.ErrCorrupt, "a list must not leave it out")
			}
		})
	}
}

// crowd returns the data of a Secret with n entries.
func crowd(n int) map[string]any {
	data := map[string]any{}
	for i := range n {
		data[fmt.Sprintf("%d-%s", i, strings.Repeat("x", 20))] = ""
	}
	return data
}

func one(objects map[string]object) string {
	for name := range objects {
		return name
	}
	return ""
}

func refs(t *testing.T, l store.Lister) (all []secret.Ref) {
	t.Helper()
	for info, err := range store.All(t.Context(), l, store.Filter{}) {
		require.NoError(t, err)
		all = append(all, info.Ref)
	}
	return all
}

// A Secret that cannot be changed or removed says so. One that stays although it was deleted is neither
// there nor absent: it is not given out, a change of it would be lost, and a wider scope's must not take its
// place.
func TestHeld(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
	name := one(objects(t, k, ns))
	edit(t, k, ns, name, func(o map[string]any) { o["immutable"] = true })
	err := s.Update(t.Context(), ref, secret.NewValue([]byte("w")))
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "immutable")

	edit(t, k, ns, name, func(o map[string]any) {
		metadata, ok := o["metadata"].(map[string]any)
		require.True(t, ok)
		metadata["finalizers"] = []string{"example.com/wait"}
	})
	v, _, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, "v", string(v.Reveal()))
	for range 2 {
		err = s.Delete(t.Context(), ref)
		require.ErrorIs(t, err, secret.ErrUnavailable)
		require.ErrorContains(t, err, "until its finalizers have ended")
		storetest.RunFault(t, s, ref, secret.ErrUnavailable)
		require.ErrorIs(t, s.Update(t.Context(), ref, secret.Value{}), secret.ErrUnavailable)
		require.ErrorIs(t, s.Create(t.Context(), ref, secret.Value{}, store.Regular), secret.ErrExists)
	}
	edit(t, k, ns, name, func(o map[string]any) {
		metadata, ok := o["metadata"].(map[string]any)
		require.True(t, ok)
		delete(metadata, "finalizers")
	})
	_, _, err = s.Get(t.Context(), ref)
	require.ErrorIs(t, err, secret.ErrNotFound)
}

// In a namespace that is being deleted, or is gone, no Secret is absent: its Secrets go one by one, and a task
// must not get a wider scope's. What is left can be read, and copied to another store.
func TestNamespaceDeleted(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	gone, left := ref, secret.Ref{Scope: secret.Scope{Org: scope.Org}, Key: ref.Key}
	for _, r := range []secret.Ref{gone, left} {
		require.NoError(t, s.Create(t.Context(), r, secret.NewValue([]byte("v")), store.Regular))
	}
	require.NoError(t, s.Delete(t.Context(), gone))
	_, _, err := s.Get(t.Context(), gone)
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.Equal(t, []secret.Ref{left}, refs(t, s))

	path := "/api/v1/namespaces/" + ns
	k.Call(t, http.MethodDelete, path, nil)
	for _, why := range []string{"the namespace " + ns + " is being deleted", "Kubernetes has no namespace " + ns} {
		require.Eventually(t, func() bool {
			_, _, err = s.Get(t.Context(), gone)
			return err != nil && strings.Contains(err.Error(), why)
		}, time.Minute, 50*time.Millisecond)
		storetest.RunFault(t, s, gone, secret.ErrUnavailable)
		for _, err := range []error{
			s.Update(t.Context(), gone, secret.Value{}), s.Delete(t.Context(), gone),
			s.Create(t.Context(), gone, secret.Value{}, store.Regular),
		} {
			require.ErrorIs(t, err, secret.ErrUnavailable)
			require.NotErrorIs(t, err, secret.ErrNotFound)
		}
		v, _, err := s.Get(t.Context(), left)
		require.NoError(t, err)
		require.Equal(t, "v", string(v.Reveal()))
		_, _, err = s.List(t.Context(), store.Filter{}, 0, "")
		require.ErrorIs(t, err, secret.ErrUnavailable)
		var found []secret.Ref
		err = s.Salvage(t.Context(), func(info store.Info, err error) error {
			found = append(found, info.Ref)
			return err
		})
		require.ErrorContains(t, err, why)
		require.Equal(t, []secret.Ref{left}, found)
		// As the controller of namespaces does at the end, which this API server is without.
		_, _, err = k.Try(t.Context(), http.MethodPut, path+"/finalize",
			map[string]any{"metadata": map[string]any{"name": ns}, "spec": map[string]any{}})
		require.NoError(t, err)
	}
}

// The time of a secret is that of its value, whoever writes it, and not that of a label or an annotation:
// a migration would take the value for a newer one.
func TestUpdated(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
	name := one(objects(t, k, ns))
	before, err := s.Describe(t.Context(), ref)
	require.NoError(t, err)
	// Kubernetes notes whole seconds.
	for n := 0; time.Since(before.Updated) < 1100*time.Millisecond; n++ {
		edit(t, k, ns, name, func(o map[string]any) {
			metadata, _ := o["metadata"].(map[string]any)
			annotations, ok := metadata["annotations"].(map[string]any)
			require.True(t, ok)
			annotations["note"] = fmt.Sprint(n)
		})
		time.Sleep(100 * time.Millisecond)
	}
	info, err := s.Describe(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, before, info)

	edit(t, k, ns, name, func(o map[string]any) { o["data"] = map[string]any{ref.ID(): "dw=="} })
	info, err = s.Describe(t.Context(), ref)
	require.NoError(t, err)
	require.True(t, info.Updated.After(before.Updated))
}

// A change whose answer is lost is reported as one that may have been made, and not as somebody else's.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	for name, what := range map[string]action{"answer": lose, "request": drop} {
		t.Run(name, func(t *testing.T) {
			ns := k.Namespace(t)
			g, kubeconfig := newGate(t, k)
			s, direct := openAs(t, kubeconfig, ns), open(t, k, ns)
			v, w := secret.NewValue([]byte("v")), secret.NewValue([]byte("w"))
			there := func() string {
				got, _, err := direct.Get(t.Context(), ref)
				if errors.Is(err, secret.ErrNotFound) {
					return ""
				}
				require.NoError(t, err)
				return string(got.Reveal())
			}
			expect := func(lost, kept string) {
				t.Helper()
				if what == lose {
					require.Equal(t, lost, there())
				} else {
					require.Equal(t, kept, there())
				}
			}
			g.set(fromChange(0, what))
			require.ErrorIs(t, s.Create(t.Context(), ref, v, store.Regular), secret.ErrUnavailable)
			expect("v", "")
			if there() == "" {
				require.NoError(t, direct.Create(t.Context(), ref, v, store.Regular))
			}
			g.set(fromChange(0, what))
			require.ErrorIs(t, s.Update(t.Context(), ref, w), secret.ErrUnavailable)
			expect("w", "v")
			g.set(fromChange(0, what))
			require.ErrorIs(t, s.Delete(t.Context(), ref), secret.ErrUnavailable)
			expect("", "v")
		})
	}
}

// Updates and deletes that meet others' changes are tried again; a delete does not remove a secret that
// was created since.
func TestMeetOthers(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	g, kubeconfig := newGate(t, k)
	s, direct := openAs(t, kubeconfig, ns), open(t, k, ns)
	value := func(text string) secret.Value { return secret.NewValue([]byte(text)) }
	require.NoError(t, direct.Create(t.Context(), ref, value("v"), store.Regular))

	// others makes somebody else's change before each of the first n changes of ours.
	others := func(n int, change func(i int)) {
		seen := 0
		g.set(func(r *http.Request) action {
			if changes(r) && seen < n {
				change(seen)
				seen++
			}
			return pass
		})
	}
	updated := func(i int) { require.NoError(t, direct.Update(t.Context(), ref, value(fmt.Sprint("other", i)))) }
	others(4, updated)
	require.NoError(t, s.Update(t.Context(), ref, value("ours")))
	got, _, err := direct.Get(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, "ours", string(got.Reveal()))

	others(5, updated)
	err = s.Update(t.Context(), ref, value("ours"))
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorContains(t, err, "5 tries")

	others(1, func(int) { require.NoError(t, direct.Delete(t.Context(), ref)) })
	require.ErrorIs(t, s.Update(t.Context(), ref, value("ours")), secret.ErrNotFound)

	require.NoError(t, direct.Create(t.Context(), ref, value("v"), store.Regular))
	others(5, func(int) {
		require.NoError(t, direct.Delete(t.Context(), ref))
		require.NoError(t, direct.Create(t.Context(), ref, value("new"), store.Regular))
	})
	require.ErrorIs(t, s.Delete(t.Context(), ref), secret.ErrUnavailable)
	got, _, err = direct.Get(t.Context(), ref)
	require.NoError(t, err, "a secret that was created since is another one")
	require.Equal(t, "new", string(got.Reveal()))
	others(1, func(int) { require.NoError(t, direct.Delete(t.Context(), ref)) })
	require.ErrorIs(t, s.Delete(t.Context(), ref), secret.ErrNotFound)
}

// An API server that is slow is unavailable, and the caller decides how long it waits.
func TestSlow(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	g, kubeconfig := newGate(t, k)
	s := openAs(t, kubeconfig, ns)
	g.set(func(r *http.Request) action {
		<-r.Context().Done()
		return drop
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _, err := s.Get(ctx, ref)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, secret.ErrNotFound)
}

// A busy API server answers 429. Its words are heeded, so that every call succeeds.
func TestBusy(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{Args: []string{
		"--enable-priority-and-fairness=false", "--max-requests-inflight=1", "--max-mutating-requests-inflight=1",
	}})
	ns := k.Namespace(t)
	s := openAs(t, k.User(t, ns, role(needed...)), ns)
	const callers = 12
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			own := secret.Ref{Scope: scope, Key: fmt.Sprint("K", i)}
			if err := s.Create(t.Context(), own, secret.NewValue([]byte("v")), store.Regular); err != nil {
				t.Errorf("create: %v", err)
			}
			for range 5 {
				if _, _, err := s.Get(t.Context(), own); err != nil {
					t.Errorf("get: %v", err)
				}
			}
		})
	}
	wg.Wait()
	log, err := os.ReadFile(k.AuditLog())
	require.NoError(t, err)
	require.Contains(t, string(log), `"code":429`, "the server was busy")
}

// The API server is killed and started again while secrets are read and changed. Then every change that
// was acknowledged is there, and none that was refused.
func TestRestart(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	ns := k.Namespace(t)
	s := open(t, k, ns)
	const writers, absent = 8, ""
	var stop atomic.Bool
	var failures, successes atomic.Int64
	possible := make([]map[string]bool, writers) // what each writer's secret may be
	var wg sync.WaitGroup
	for i := range writers {
		possible[i] = map[string]bool{absent: true}
		own := secret.Ref{Scope: scope, Key: fmt.Sprint("K", i)}
		may := possible[i]
		now := func(v string) {
			clear(may)
			may[v] = true
		}
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				next := fmt.Sprint("value ", i, n)
				var err error
				op := rand.IntN(4)
				switch op {
				case 0:
					err = s.Create(t.Context(), own, secret.NewValue([]byte(next)), store.Regular)
				case 1:
					err = s.Update(t.Context(), own, secret.NewValue([]byte(next)))
				case 2:
					next, err = absent, s.Delete(t.Context(), own)
				default:
					var v secret.Value
					if v, _, err = s.Get(t.Context(), own); err == nil && !may[string(v.Reveal())] {
						t.Errorf("it is %q, and may be one of %v", v.Reveal(), may)
					}
				}
				switch {
				case errors.Is(err, secret.ErrUnavailable) && !errors.Is(err, secret.ErrNotFound):
					failures.Add(1)
					if op < 3 {
						may[next] = true
					}
				case errors.Is(err, secret.ErrNotFound) && op > 0 && may[absent]:
					now(absent)
				case errors.Is(err, secret.ErrExists) && op == 0 && (len(may) > 1 || !may[absent]):
					delete(may, absent)
				case err != nil:
					t.Errorf("%d: %v, and it may be one of %v", op, err, may)
					return
				default:
					successes.Add(1)
					if op < 3 {
						now(next)
					}
				}
			}
		})
	}
	kills := 3
	if testing.Short() {
		kills = 1
	}
	for range kills {
		before := successes.Load()
		require.Eventually(t, func() bool { return successes.Load() > before+100 }, time.Minute, 10*time.Millisecond)
		k.KillAPI()
		failed := failures.Load()
		require.Eventually(t, func() bool { return failures.Load() > failed+10 }, time.Minute, 10*time.Millisecond)
		require.NoError(t, k.StartAPI())
	}
	before := successes.Load()
	require.Eventually(t, func() bool { return successes.Load() > before+100 }, time.Minute, 10*time.Millisecond)
	stop.Store(true)
	wg.Wait()
	for i, may := range possible {
		v, _, err := s.Get(t.Context(), secret.Ref{Scope: scope, Key: fmt.Sprint("K", i)})
		got := absent
		if !errors.Is(err, secret.ErrNotFound) {
			require.NoError(t, err)
			got = string(v.Reveal())
		}
		require.Containsf(t, maps.Collect(maps.All(may)), got, "of writer %d", i)
	}
}

// The Role in the documentation is enough for everything, and has nothing that is not needed.
func TestDocumentedRole(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	page, err := os.ReadFile(filepath.Join(harness.Root(t), "docs", "reference", "kubernetes.md"))
	require.NoError(t, err)
	_, block, ok := strings.Cut(string(page), "```yaml\n")
	require.True(t, ok)
	block, _, _ = strings.Cut(block, "```")
	ns := k.Namespace(t)
	var role struct {
		Rules []struct {
			APIGroups     []string `yaml:"apiGroups"`
			Resources     []string `yaml:"resources"`
			ResourceNames []string `yaml:"resourceNames"`
			Verbs         []string `yaml:"verbs"`
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(strings.ReplaceAll(block, "inject-secrets", ns)), &role))
	require.Len(t, role.Rules, 2)
	require.Equal(t, needed, role.Rules[0].Verbs)
	var rules []harness.Rule
	for _, r := range role.Rules {
		rules = append(rules, harness.Rule(r))
	}
	s := openAs(t, k.User(t, ns, rules), ns)
	value := secret.NewValue(storetest.PullSecret(t))
	require.NoError(t, s.Create(t.Context(), ref, value, store.ImagePull))
	require.NoError(t, s.Update(t.Context(), ref, value))
	_, _, err = s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, []secret.Ref{ref}, refs(t, s))
	require.NoError(t, s.Delete(t.Context(), ref))

	// The second rule is what tells that a namespace is not there. Here one is not, and the rule is of all.
	rules[1].ResourceNames = nil
	user := k.User(t, "", rules[1:])
	_, err = kube.Open(t.Context(), kube.Options{Kubeconfig: user, Namespace: "nowhere"})
	require.ErrorContains(t, err, "Kubernetes has no namespace nowhere")
}
