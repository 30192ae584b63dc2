package serve_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

const quotaPolicy = `
version: 1
rules:
  - name: teams
    identity: {spiffe: "spiffe://example.org/team/{team}"}
    manage: [{project: "{team}", domain: "*"}]
    list: [{project: "{team}", domain: "*"}]
quotas:
  - {name: few for web, project: web, domain: "*", secrets: 10, bytes: 2Ki}
  - {name: everybody, project: "*", domain: "*", secrets: 1000}
`

// quotaServer starts a server with quotas over a sealed store, and returns clients of two teams.
func quotaServer(t *testing.T) (r *running, web, shop *rpc.Client) {
	t.Helper()
	dir := t.TempDir()
	s, err := sealed.Open(t.Context(), sealed.Options{
		Path: filepath.Join(dir, "secrets.db"), Write: true, Key: sealed.Key{File: filepath.Join(dir, "key.txt")},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	r = start(t, quotaPolicy, func(o *serve.Options) { o.Store = s })
	client := func(team string) *rpc.Client {
		certOf(r.Authority, team, "spiffe://example.org/team/"+team)
		return r.rpcClient(r.Path(team+".pem"), r.Path(team+".key"))
	}
	return r, client("web"), client("shop")
}

func keysAt(t *testing.T, l store.Lister, f store.Filter) (keys []string) {
	t.Helper()
	for info, err := range store.All(t.Context(), l, f) {
		require.NoError(t, err)
		keys = append(keys, info.Ref.Key)
	}
	return keys
}

// An identity that has used up a quota is told so at once, by name and numbers, and nothing of what
// it sends is stored. The other identity and the other scopes are served.
func TestQuota(t *testing.T) {
	t.Parallel()
	r, web, shop := quotaServer(t)
	ref := func(project, domain, key string) secret.Ref {
		return secret.Ref{Scope: secret.Scope{Org: "flyte", Project: project, Domain: domain}, Key: key}
	}
	create := func(c *rpc.Client, ref secret.Ref, size int) error {
		return c.Create(t.Context(), ref, secret.NewValue(storetest.Value(t, size)), store.Regular)
	}
	for i := range 10 {
		require.NoError(t, create(web, ref("web", "development", fmt.Sprintf("K%d", i)), 100))
	}
	began := time.Now()
	err := create(web, ref("web", "development", "K10"), 1)
	require.ErrorIs(t, err, secret.ErrQuota)
	require.Equal(t, `create K10 at project web, domain development: quota exceeded: the quota "few for web" allows `+
		`10 secrets at project web, domain development, which has 10, and this would make 11`, err.Error())
	require.Contains(t, secret.Hint(err), "raise the quota")
	require.Less(t, time.Since(began), 5*time.Second, "it is not repeated, as a call of a busy server would be")
	err = web.Update(t.Context(), ref("web", "development", "K1"), secret.NewValue(storetest.Value(t, 1200)))
	require.ErrorIs(t, err, secret.ErrQuota)
	require.ErrorContains(t, err, "2048 bytes of values")
	require.ErrorContains(t, err, "which has 1000, and this would make 2100")
	err = web.Update(t.Context(), ref("web", "development", "K1"), secret.NewValue(storetest.Value(t, 1100)))
	require.NoError(t, err)

	a := r.ask(r.client(certOf(r.Authority, "again", "spiffe://example.org/team/web")),
		"flyteidl2.secret.SecretService/CreateSecret",
		`{"id":{"name":"K11","project":"web","domain":"development"},"secretSpec":{"stringValue":"x"}}`)
	require.Equal(t, http.StatusTooManyRequests, a.status)
	require.Equal(t, "resource_exhausted", a.body["code"])
	require.Empty(t, a.header.Get("Retry-After"))
	require.Contains(t, r.audit.String(), `"outcome":"over quota"`)
	require.InDelta(t, 3, metric(t, r.registry, "inject_exhausted_total", "resource=quota"), 0)

	// An import stores all or nothing.
	load := func(domain string, n int) error {
		var all []store.New
		for i := range n {
			at := ref("web", domain, fmt.Sprintf("L%d", i))
			all = append(all, store.New{Ref: at, Value: secret.NewValue([]byte("x"))})
		}
		return web.Import(t.Context(), all)
	}
	err = load("production", 11)
	require.ErrorIs(t, err, secret.ErrQuota)
	require.Contains(t, secret.Hint(err), "for more", "a value, x, is in the text of the server")
	require.Empty(t, keysAt(t, web, store.Filter{Org: "flyte", Project: "web", Domain: "production"}))
	require.NoError(t, load("production", 10))
	require.ErrorIs(t, load("development", 1), secret.ErrQuota)
	require.Len(t, keysAt(t, web, store.Filter{Org: "flyte", Project: "web", Domain: "development"}), 10)

	// Others are served, and the team is again once it has deleted something.
	for i := range 12 {
		require.NoError(t, create(shop, ref("shop", "development", fmt.Sprintf("K%d", i)), 3000))
	}
	require.NoError(t, web.Delete(t.Context(), ref("web", "development", "K2")))
	require.NoError(t, create(web, ref("web", "development", "K10"), 1))

	// A quota that was lowered deletes nothing, and one that was raised is in force at once.
	require.NoError(t, os.WriteFile(r.policyPath, []byte(quotaPolicy[:len(quotaPolicy)-len("secrets: 1000}\n")]+
		"secrets: 2}\n"), 0o600))
	require.Eventually(t, func() bool {
		err := create(shop, ref("shop", "development", "MORE"), 1)
		if err == nil {
			require.NoError(t, shop.Delete(t.Context(), ref("shop", "development", "MORE")))
		}
		return errors.Is(err, secret.ErrQuota)
	}, 20*time.Second, 100*time.Millisecond)
	require.Len(t, keysAt(t, shop, store.Filter{Org: "flyte", Project: "shop"}), 12)
	require.NoError(t, shop.Delete(t.Context(), ref("shop", "development", "K1")))
}

// Writers that run at the same time never store more than a quota allows, whatever they use.
func TestQuotaIsExact(t *testing.T) {
	t.Parallel()
	_, web, shop := quotaServer(t)
	at := secret.Scope{Org: "flyte", Project: "web", Domain: "staging"}
	var stored, refused atomic.Int64
	var wg sync.WaitGroup
	for w := range 12 {
		wg.Go(func() {
			for i := range 4 {
				n, key := 1, fmt.Sprintf("K_%d_%d", w, i)
				var err error
				if i%2 == 0 {
					n = 2
					err = web.Import(t.Context(), []store.New{
						{Ref: secret.Ref{Scope: at, Key: key}}, {Ref: secret.Ref{Scope: at, Key: key + "_2"}},
					})
				} else {
					err = web.Create(t.Context(), secret.Ref{Scope: at, Key: key}, secret.Value{}, store.Regular)
				}
				switch {
				case err == nil:
					stored.Add(int64(n))
				case errors.Is(err, secret.ErrQuota):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	for i := range 5 {
		ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "shop"}, Key: fmt.Sprintf("K%d", i)}
		require.NoError(t, shop.Create(t.Context(), ref, secret.Value{}, store.Regular))
	}
	wg.Wait()
	require.Len(t, keysAt(t, web, store.Filter(at)), int(stored.Load()))
	require.EqualValues(t, 10, stored.Load())
	require.Positive(t, refused.Load())
}

// A store that cannot count takes nothing more while the policy has quotas, but what it has can be
// deleted.
func TestQuotaNeedsCounts(t *testing.T) {
	t.Parallel()
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "web"}, Key: "K"}
	memory := storetest.Memory()
	r := start(t, quotaPolicy, func(o *serve.Options) {
		importer, ok := memory.(store.Importer)
		require.True(t, ok)
		o.Store = struct {
			store.Importer
			store.Reader
		}{importer, memory}
	})
	certOf(r.Authority, "web", "spiffe://example.org/team/web")
	c := r.rpcClient(r.Path("web.pem"), r.Path("web.key"))
	err := c.Create(t.Context(), ref, secret.Value{}, store.Regular)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, "quotas")
	require.ErrorContains(t, c.Import(t.Context(), []store.New{{Ref: ref}}), "quotas")

	kept := secret.Ref{Scope: ref.Scope, Key: "KEPT"}
	require.NoError(t, memory.Create(t.Context(), kept, secret.Value{}, store.Regular))
	require.ErrorContains(t, c.Update(t.Context(), kept, secret.Value{}), "quotas")
	require.NoError(t, c.Delete(t.Context(), kept))
	_, err = memory.Describe(t.Context(), kept)
	require.ErrorIs(t, err, secret.ErrNotFound)
}
