package kube_test

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/kube"
	"inject/resolver/store/storetest"
)

// create creates n secrets of the scope.
func create(t *testing.T, s *kube.Store, n int, value func(i int) []byte) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			own := secret.Ref{Scope: scope, Key: fmt.Sprint("K", i)}
			return s.Create(t.Context(), own, secret.NewValue(value(i)), store.Regular)
		})
	}
	require.NoError(t, g.Wait())
}

// A list goes on after the API server has forgotten the time when it began. What is there all the time is
// listed exactly once.
func TestExpiredToken(t *testing.T) {
	t.Parallel()
	// The server keeps old lists for a minute and more, unless it has no cache.
	k := harness.StartKubernetes(t, harness.KubernetesOptions{Args: []string{"--watch-cache=false"}})
	ns := k.Namespace(t)
	var expired atomic.Int64
	g, kubeconfig := newGate(t, k)
	s := openAs(t, kubeconfig, ns)
	const n = 40
	create(t, s, n, func(int) []byte { return []byte("v") })
	g.set(func(r *http.Request) action {
		if r.URL.Query().Get("continue") != "" {
			code, _, err := k.Try(t.Context(), http.MethodGet, r.URL.RequestURI(), nil)
			if err == nil && code == http.StatusGone {
				expired.Add(1)
			}
		}
		return pass
	})

	listed := map[secret.Ref]int{}
	for token, pages := "", 0; ; pages++ {
		page, next, err := s.List(t.Context(), store.Filter{Domain: "development"}, 7, token)
		require.NoError(t, err)
		for _, info := range page {
			listed[info.Ref]++
		}
		if token = next; token == "" {
			break
		}
		if pages == 1 {
			gone, comes := page[0].Ref, secret.Ref{Scope: scope, Key: "COMES"}
			require.NoError(t, s.Delete(t.Context(), gone))
			require.NoError(t, s.Create(t.Context(), comes, secret.Value{}, store.Regular))
			k.Compact(t)
		}
	}
	require.Positive(t, expired.Load(), "the token has expired")
	for i := range n {
		own := secret.Ref{Scope: scope, Key: fmt.Sprint("K", i)}
		require.Equalf(t, 1, listed[own], "%v", own)
	}
}

// A token is taken only for the list that it is of.
func TestTokens(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	s := open(t, k, k.Namespace(t))
	create(t, s, 3, func(int) []byte { return []byte("v") })
	f := store.Filter{Org: "flyte", Domain: "development"}
	_, token, err := s.List(t.Context(), f, 1, "")
	require.NoError(t, err)
	require.NotEmpty(t, token)
	_, _, err = s.List(t.Context(), f, 1, token)
	require.NoError(t, err)
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	inside, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	for _, c := range []struct {
		f     store.Filter
		token string
	}{
		{store.Filter{}, token},
		{store.Filter{Org: "other", Domain: "development"}, token},
		{f, token + "x"},
		{f, encode("{}")},
		{f, encode(`{"Filter":{"Org":"flyte","Domain":"development","Project":""},"From":"nonsense"}`)},
		{f, encode(strings.ReplaceAll(string(inside), `"From":"`, `"From":"AAAA`))},
	} {
		_, _, err := s.List(t.Context(), c.f, 1, c.token)
		require.ErrorIsf(t, err, secret.ErrInvalid, "%s", c.token)
	}
}

// Two Secrets that Flyte can make and no task can ask for are left out of lists, which go on.
func TestUnnamed(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	create(t, s, 2, func(int) []byte { return []byte("v") })
	want := refs(t, s)
	for _, id := range []string{
		"u__org__flyte__domain____project____key__", "u__org__flyte__domain__a__b__project____key__K",
	} {
		k.Call(t, http.MethodPost, secrets(ns), flyteObject(id, "v"))
	}
	require.ElementsMatch(t, want, refs(t, s))
}

// listChild is the variable with which this binary lists what the kubeconfig in it leads to.
const listChild = "INJECT_TEST_LIST"

// runChild lists a namespace and prints how many secrets there are, and how much memory it took in KiB.
func runChild() {
	where := os.Getenv(listChild)
	if where == "" {
		return
	}
	kubeconfig, ns, _ := strings.Cut(where, " ")
	ctx := context.Background()
	s, err := kube.Open(ctx, kube.Options{Kubeconfig: kubeconfig, Namespace: ns})
	n := 0
	if err == nil {
		for _, err = range store.All(ctx, s, store.Filter{}) {
			if err != nil {
				break
			}
			n++
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	status, _ := os.ReadFile("/proc/self/status") // getrusage(2) has the most of the parent, too
	_, most, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(n, strings.Fields(most)[0])
	os.Exit(0)
}

// A list takes little memory, whatever the number and the lengths of values, and whoever wrote them.
func TestListMemory(t *testing.T) {
	t.Parallel()
	if raced {
		t.Skip("the race detector takes memory of its own")
	}
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	ns := k.Namespace(t)
	s := open(t, k, ns)
	n, large := 10_000, 200
	if testing.Short() {
		n, large = 300, 30
	}
	value := storetest.Value(t, store.MaxValue)
	create(t, s, n, func(i int) []byte {
		if i < large/2 {
			return value
		}
		return value[:1000]
	})
	var g errgroup.Group
	g.SetLimit(8)
	for i := range large / 2 {
		g.Go(func() error {
			id := secret.Ref{Scope: scope, Key: fmt.Sprint("FLYTES_", i)}.ID()
			o := flyteObject(id, string(value))
			if _, answer, err := k.Try(t.Context(), http.MethodPost, secrets(ns), o); err != nil {
				return fmt.Errorf("%s: %w", answer, err)
			}
			o.Metadata.ManagedFields = []any{map[string]any{}} // removes the notes, so that it must be read
			code, answer, err := k.Try(t.Context(), http.MethodPut, secrets(ns)+"/"+o.Metadata.Name, o)
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("%d: %s", code, answer)
			}
			return err
		})
	}
	require.NoError(t, g.Wait())

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), listChild+"="+k.Kubeconfig()+" "+ns)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	words := strings.Fields(string(out))
	require.Len(t, words, 2, string(out))
	require.Equal(t, strconv.Itoa(n+large/2), words[0])
	memory, err := strconv.Atoi(words[1])
	require.NoError(t, err)
	t.Logf("%d secrets, %d of 1 MiB: %d KiB", n+large/2, large, memory)
	require.Less(t, memory, 60<<10)
}

// flyteObject returns a Secret as Flyte writes it.
func flyteObject(id, value string) object {
	r := refOf(id)
	labels := map[string]string{"app.flyte.org/managed": "true"}
	if r.Domain != "" {
		labels["app.flyte.org/domain"] = r.Domain
	}
	if r.Project != "" {
		labels["app.flyte.org/project"] = r.Project
	}
	sum := md5.Sum([]byte(id))
	return object{
		Metadata: metadata{Name: hex.EncodeToString(sum[:]), Labels: labels},
		Data:     map[string]string{id: base64.StdEncoding.EncodeToString([]byte(value))},
	}
}

// flyteList is what Flyte's ListSecrets makes of a namespace (secret_service.go, ListSecrets, and
// DecodeSecretName of flyteplugins/go/tasks/pluginmachinery/secret/utils.go): objects with the labels of
// the filter, less those with other than one entry and those whose key it cannot decode.
func flyteList(all map[string]object, domain, project string) (refs []secret.Ref) {
	for _, o := range all {
		l := o.Metadata.Labels
		if l["app.flyte.org/managed"] != "true" || domain != "" && l["app.flyte.org/domain"] != domain ||
			project != "" && l["app.flyte.org/project"] != project || len(o.Data) != 1 {
			continue
		}
		for key := range o.Data {
			parts := strings.Split(key, "__")
			if len(parts) < 9 || parts[0] != "u" || parts[1] != "org" || parts[3] != "domain" ||
				parts[5] != "project" || parts[7] != "key" {
				continue
			}
			at := secret.Scope{Org: parts[2], Domain: parts[4], Project: parts[6]}
			refs = append(refs, secret.Ref{Scope: at, Key: strings.Join(parts[8:], "__")})
		}
	}
	return refs
}

// Flyte's service lists our secrets as the store does, with each filter that it knows, and finds their
// values where it looks for them.
func TestFlyteLists(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	ns := k.Namespace(t)
	s := open(t, k, ns)
	pull := secret.Ref{Scope: storetest.Scopes[0], Key: "PULL"}
	require.NoError(t, s.Create(t.Context(), pull, secret.NewValue(storetest.PullSecret(t)), store.ImagePull))
	for i, at := range storetest.Scopes {
		for _, key := range []string{"K", "a__b", "__key__", "my-key", strings.Repeat("L", 180)} {
			r := secret.Ref{Scope: at, Key: key}
			value := fmt.Sprint("value ", i, key)
			require.NoError(t, s.Create(t.Context(), r, secret.NewValue([]byte(value)), store.Regular))
			sum := md5.Sum([]byte(r.ID()))
			o := objects(t, k, ns)[hex.EncodeToString(sum[:])]
			require.Equal(t, base64.StdEncoding.EncodeToString([]byte(value)), o.Data[r.ID()])
			require.Equal(t, "Opaque", o.Type)
		}
	}
	all := objects(t, k, ns)
	for _, f := range []store.Filter{
		{}, {Domain: "development"}, {Domain: "development", Project: "my_project"}, {Domain: "nowhere"},
	} {
		var ours []secret.Ref
		for info, err := range store.All(t.Context(), s, f) {
			require.NoError(t, err)
			ours = append(ours, info.Ref)
		}
		require.ElementsMatch(t, flyteList(all, f.Domain, f.Project), ours)
		require.Equal(t, f.Domain == "nowhere", len(ours) == 0)
	}

	// What Flyte's UpdateSecret does: other data, and all else as it was.
	sum := md5.Sum([]byte(ref.ID()))
	require.NoError(t, s.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
	before, err := s.Describe(t.Context(), ref)
	require.NoError(t, err)
	edit(t, k, ns, hex.EncodeToString(sum[:]), func(o map[string]any) {
		delete(o, "data")
		o["stringData"] = map[string]string{ref.ID(): "flyte's"}
	})
	v, after, err := s.Get(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, "flyte's", string(v.Reveal()))
	require.Equal(t, before.Created, after.Created)
	require.False(t, after.Updated.Before(after.Created))
}

// The longest key that Kubernetes takes is stored, and one byte more is refused with how long it may be.
func TestLongKeys(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	s := open(t, k, k.Namespace(t))
	for _, at := range storetest.Scopes {
		fits := 253 - len(secret.Ref{Scope: at}.ID())
		r := secret.Ref{Scope: at, Key: strings.Repeat("K", fits)}
		require.NoError(t, s.Create(t.Context(), r, secret.NewValue([]byte("v")), store.Regular))
		v, _, err := s.Get(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, "v", string(v.Reveal()))
		r.Key += "K"
		err = s.Create(t.Context(), r, secret.NewValue([]byte("v")), store.Regular)
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.ErrorContains(t, err, "would be 254 bytes long (at most 253)")
		require.Contains(t, secret.Hint(err), fmt.Sprintf("the key may be %d bytes long at this scope", fits))
		_, _, err = s.Get(t.Context(), r)
		require.ErrorIs(t, err, secret.ErrNotFound)
	}
	org := secret.Ref{Scope: secret.Scope{Org: "caf\u00e9"}, Key: "K"}
	err := s.Create(t.Context(), org, secret.Value{}, store.Regular)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "cannot be part of a key of a Secret")
}

// Values are in Secret objects and nowhere else: neither in other keys of etcd nor in the audit log.
func TestOnlyInSecrets(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	ns := k.Namespace(t)
	s := open(t, k, ns)
	values := map[string]string{}
	for i, at := range storetest.Scopes {
		own := secret.Ref{Scope: at, Key: "FINDME"}
		for _, step := range []string{"created", "updated"} {
			name := fmt.Sprint(step, i)
			values[name] = string(storetest.Value(t, 60))
			v := secret.NewValue([]byte(values[name]))
			if step == "created" {
				require.NoError(t, s.Create(t.Context(), own, v, store.Regular))
			} else {
				require.NoError(t, s.Update(t.Context(), own, v))
			}
		}
		_, _, err := s.Get(t.Context(), own)
		require.NoError(t, err)
	}
	pull := secret.Ref{Scope: storetest.Scopes[0], Key: "PULL"}
	values["pull"] = string(storetest.PullSecret(t))
	require.NoError(t, s.Create(t.Context(), pull, secret.NewValue([]byte(values["pull"])), store.ImagePull))
	_ = refs(t, s)
	require.NoError(t, s.Delete(t.Context(), secret.Ref{Scope: storetest.Scopes[0], Key: "FINDME"}))
	// Refused and failed calls are logged, too.
	require.Error(t, s.Create(t.Context(), pull, secret.NewValue([]byte(values["created1"])), store.Regular))

	elsewhere, found := map[string]string{}, map[string]bool{}
	for key, value := range k.Dump(t) {
		if !strings.HasPrefix(key, "/registry/secrets/") {
			elsewhere[key] = value
			continue
		}
		for name, v := range values {
			found[name] = found[name] || strings.Contains(value, v)
		}
	}
	require.True(t, found["updated1"] && found["pull"], "the search finds what is there: %v", found)
	require.False(t, found["updated0"], "a deleted secret is gone")
	log, err := os.ReadFile(k.AuditLog())
	require.NoError(t, err)
	elsewhere["audit log"] = string(log)
	for _, verb := range []string{"create", "update", "get", "list", "delete"} {
		require.Contains(t, string(log), `"verb":"`+verb+`"`)
	}
	require.Contains(t, string(log), `"objectRef":{"resource":"secrets","namespace":"`+ns)
	require.NoError(t, harness.FindLeak(elsewhere, values))
}
