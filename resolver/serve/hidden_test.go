package serve_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/identity"
	"inject/resolver/store"
	"inject/resolver/store/dir"
)

// The pages of a list reveal nothing about hidden secrets: neither how many there are, nor,
// in a token, their names.
func TestListTellsNothingOfTheRest(t *testing.T) {
	const hiddenPolicy = `
version: 1
rules:
  - {name: some, identity: {spiffe: "spiffe://example.org/some"}, list: [{project: "*", domain: seen}]}
  - {name: all, identity: {spiffe: "spiffe://example.org/all"}, list: [{project: "*", domain: "*"}]}
`
	type server struct {
		*running

		put func(domain, key string)
	}
	servers := map[string]func(t *testing.T) server{
		"memory": func(t *testing.T) server {
			t.Helper()
			r := start(t, hiddenPolicy, nil)
			return server{r, func(domain, key string) {
				ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: domain, Project: "p"}, Key: key}
				require.NoError(t, r.backend.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
			}}
		},
		"dir": func(t *testing.T) server {
			t.Helper()
			folder := t.TempDir()
			s, err := dir.Open(folder, "flyte")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			r := start(t, hiddenPolicy, func(o *serve.Options) { o.Store = s })
			return server{r, func(domain, key string) {
				path := filepath.Join(folder, domain, "p", key)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
				require.NoError(t, os.WriteFile(path, []byte("v"), 0o600))
			}}
		},
	}
	for name, begin := range servers {
		for _, hidden := range []int{0, 1, 3, 1200} {
			t.Run(fmt.Sprint(name, hidden), func(t *testing.T) {
				r := begin(t)
				for i := range 7 {
					r.put("seen", fmt.Sprint("SEEN_", i))
				}
				for i := range hidden { // before what may be seen, and behind it
					r.put([]string{"aaa", "zzz"}[i%2], fmt.Sprint("HIDDEN_", i))
				}
				some := r.client(certOf(r.Authority, "some", "spiffe://example.org/some"))
				for limit := 1; limit <= 9; limit++ {
					var sizes []int
					token, raw := "", ""
					for {
						body, err := json.Marshal(map[string]any{"limit": limit, "token": token})
						require.NoError(t, err)
						a := r.ask(some, secrets+"ListSecrets", string(body))
						require.Equal(t, http.StatusOK, a.status, a.raw)
						found, _ := a.body["secrets"].([]any)
						sizes = append(sizes, len(found))
						raw += a.raw
						if token, _ = a.body["token"].(string); token == "" {
							break
						}
					}
					var want []int
					for left := 7; left > 0; left -= limit {
						want = append(want, min(left, limit))
					}
					require.Equal(t, want, sizes, "as if there were seven")
					require.Equal(t, 7, strings.Count(raw, `"name":"SEEN_`))
					require.NotContains(t, raw, "HIDDEN")
				}
				a := r.ask(
					r.client(certOf(r.Authority, "all", "spiffe://example.org/all")),
					secrets+"ListSecrets", `{}`,
				)
				require.Equal(t, min(hidden, 3) > 0, strings.Contains(a.raw, "HIDDEN"), "they are there")
			})
		}
	}
}

// An import may have a limited number of secrets; one with more is refused as a whole.
func TestImportOfTooMany(t *testing.T) {
	r := start(t, rules, nil)
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform"))
	body := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(`{"name":"K%d","value":"dg=="}`, i)
		}
		return `{"scope":{"project":"p","domain":"d"},"secrets":[` + strings.Join(all, ",") + `]}`
	}
	const method = "inject.v1.ImportService/Import"
	a := r.ask(platform, method, body(4097))
	require.Equal(t, http.StatusBadRequest, a.status)
	require.Contains(t, a.raw, "the import has 4097 secrets (at most 4096)")
	line := r.audit.lines(t, 0)[0]
	require.Equal(t, "invalid", line["decision"])
	require.NotContains(t, line, "secrets")
	require.Equal(t, http.StatusOK, r.ask(platform, method, body(4096)).status)
}

// Unauthenticated requests do not fill the disk of the audit log, and other requests are
// answered meanwhile, even from the same address.
func TestStrangersAreBounded(t *testing.T) {
	known, _ := tokenFile(t, t.TempDir()+"/tokens", "alice")
	r := start(t, rules, nil, identity.MTLS{}, known)
	nobody, platform := r.client(nil), r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform"))
	counts := map[int]int{}
	for range 1300 {
		counts[r.ask(nobody, secrets+"ListSecrets", `{}`, "Authorization", "Bearer wrong").status]++
	}
	require.GreaterOrEqual(t, counts[http.StatusUnauthorized], 1000)
	require.Positive(t, counts[http.StatusTooManyRequests])
	require.Equal(t, 1300, counts[http.StatusUnauthorized]+counts[http.StatusTooManyRequests])
	require.Len(t, r.audit.lines(t, 0), counts[http.StatusUnauthorized])
	warnings := strings.Count(r.log.String(), "too many unauthenticated requests")
	require.Positive(t, warnings)
	require.LessOrEqual(t, warnings, 50)
	require.Equal(t, http.StatusOK, r.ask(platform, secrets+"ListSecrets", `{}`).status)

	// A request without any credentials is counted, and has no line.
	before := len(r.audit.lines(t, 0))
	refused := metric(t, r.registry, "inject_refusals_total", "unauthenticated")
	require.Equal(t, http.StatusUnauthorized, r.ask(nobody, secrets+"ListSecrets", `{}`).status)
	require.Len(t, r.audit.lines(t, 0), before)
	require.InDelta(t, refused+1, metric(t, r.registry, "inject_refusals_total", "unauthenticated"), 0)
}

// An invalid key is reported as invalid, not as a denial; a key that the policy does not list
// looks absent.
func TestResolveOfNoKey(t *testing.T) {
	r := start(t, `
version: 1
rules:
  - {name: one key, identity: {spiffe: "spiffe://example.org/task"}, resolve: {project: p, domain: d, keys: [K]}}
`, nil)
	task := r.client(certOf(r.Authority, "task", "spiffe://example.org/task"))
	a := r.ask(task, resolve, `{"secrets":[{"key":"not a key"}]}`)
	require.Equal(t, http.StatusOK, a.status, a.raw)
	require.Contains(t, a.raw, "CODE_INVALID")
	line := r.audit.lines(t, 0)[0]
	require.Equal(t, "allowed", line["decision"])
	require.Equal(t, []any{map[string]any{"outcome": "invalid"}}, line["secrets"])
	before := len(r.audit.lines(t, 0))
	a = r.ask(task, resolve, `{"secrets":[{"key":"OTHER"}]}`)
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.raw, "CODE_NOT_FOUND")
	require.Equal(t, "denied", r.audit.lines(t, before)[0]["decision"])
}

// A store that cannot read its own file is unavailable; the caller is not denied.
func TestStoreThatIsDenied(t *testing.T) {
	r := start(t, rules, func(o *serve.Options) { o.Store = deniedStore{} })
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform"))
	a := r.ask(platform, secrets+"GetSecret", `{"id":{"name":"K","project":"p","domain":"d"}}`)
	require.Equal(t, http.StatusServiceUnavailable, a.status, a.raw)
	a = r.ask(
		r.client(certOf(r.Authority, "task", "spiffe://example.org/project/p/domain/d")),
		resolve, `{"secrets":[{"key":"K"}]}`,
	)
	require.Equal(t, http.StatusOK, a.status)
	require.Contains(t, a.raw, "CODE_UNAVAILABLE")
	require.NotContains(t, a.raw, "CODE_DENIED")
	require.Equal(t, 2, strings.Count(r.log.String(), "this key does not open it"))
}

type deniedStore struct{}

var errDeniedStore = fmt.Errorf("%w: this key does not open it", secret.ErrDenied)

func (deniedStore) Get(_ context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: errDeniedStore}
}

func (deniedStore) Describe(_ context.Context, ref secret.Ref) (store.Info, error) {
	return store.Info{}, &secret.Error{Op: "describe", Ref: ref, Err: errDeniedStore}
}

func (deniedStore) List(context.Context, store.Filter, int, string) ([]store.Info, string, error) {
	return nil, "", errDeniedStore
}

// No secret is stored under a project that looks like another one. One that is there can be
// read, changed and deleted.
func TestNamesThatMislead(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	for name, project := range map[string]string{
		"not seen": "web\u200b", "right to left": "\u202ebew", "full width": "\uff57eb",
		"wildcard": "*",
	} {
		t.Run(name, func(t *testing.T) {
			at := secret.Scope{Org: "flyte", Project: project, Domain: "development"}
			body := func(more map[string]any) string {
				b, err := json.Marshal(more)
				require.NoError(t, err)
				return string(b)
			}
			with := body(map[string]any{"id": idJSON(at, "K"), "secretSpec": map[string]any{"stringValue": "v"}})
			a := r.ask(platform, secrets+"CreateSecret", with)
			require.Equal(t, http.StatusBadRequest, a.status, a.raw)
			require.Contains(t, a.raw, "has the character")
			a = r.ask(platform, imported, body(map[string]any{
				"scope": scopeJSON(at), "secrets": []any{map[string]any{"name": "K", "value": "dg=="}},
			}))
			require.Contains(t, a.raw, "has the character")
			require.Empty(t, everything(t, r))

			r.seedAt(secret.Ref{Scope: at, Key: "K"})
			id := body(map[string]any{"id": idJSON(at, "K")})
			require.Equal(t, http.StatusOK, r.ask(platform, secrets+"GetSecret", id).status)
			require.Equal(t, http.StatusOK, r.ask(platform, secrets+"UpdateSecret", with).status)
			require.Equal(t, http.StatusOK, r.ask(platform, secrets+"DeleteSecret", id).status)
		})
	}
}
