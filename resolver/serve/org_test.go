package serve_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/idl/inject/v1/injectv1connect"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
)

// A server of one org takes requests that manage secrets for it, whichever org they name, as
// Flyte's server does: its clients guess an org from the address. A task or an import that names
// another org would get or make the wrong secrets, so it is denied by name. With AnyOrg each names
// its own.
func TestOneOrg(t *testing.T) {
	const rules = `
version: 1
rules:
  - {name: all, identity: {spiffe: "spiffe://example.org/all"}, manage: [{org: "*"}], list: [{org: "*"}]}
  - {name: task, identity: {spiffe: "spiffe://example.org/task"}, resolve: {}}
`
	const denial = "this server has the secrets of the org flyte and not those of %q; hint: leave the org out or " +
		"give --org flyte; a server for several orgs is started with --orgs requested"
	const importing = injectv1connect.ImportServiceName + "/Import"
	for _, open := range []bool{false, true} {
		for _, anyOrg := range []bool{false, true} {
			t.Run(fmt.Sprintf("open %v, any org %v", open, anyOrg), func(t *testing.T) {
				r := start(t, rules, func(o *serve.Options) {
					if o.AnyOrg = anyOrg; open {
						o.Authenticator, o.Policy = nil, nil
					}
				})
				admin, task := r.client(nil), r.client(nil)
				if !open {
					admin = r.client(certOf(r.Authority, "all", "spiffe://example.org/all"))
					task = r.client(certOf(r.Authority, "task", "spiffe://example.org/task"))
				}
				for i, named := range []string{"", "flyte", "127", "secrets"} {
					meant := "flyte"
					if anyOrg && named != "" {
						meant = named
					}
					ref := secret.Ref{Scope: secret.Scope{Org: meant}, Key: fmt.Sprint("K", i)}
					id := fmt.Sprintf(`{"id":{"name":%q,"organization":%q}`, ref.Key, named)
					spec := `,"secretSpec":{"stringValue":"value of ` + ref.Key + `"}}`
					require.Equal(t, http.StatusOK, r.ask(admin, secrets+"CreateSecret", id+spec).status)
					_, _, err := r.backend.Get(t.Context(), ref)
					require.NoError(t, err)
					got := r.ask(admin, secrets+"GetSecret", id+"}")
					require.Equal(t, http.StatusOK, got.status, got.raw)
					require.Contains(t, got.raw, fmt.Sprintf(`"organization":%q`, meant))
					require.Equal(t, http.StatusOK, r.ask(admin, secrets+"UpdateSecret", id+spec).status)
					got = r.ask(admin, secrets+"ListSecrets", fmt.Sprintf(`{"organization":%q}`, named))
					require.Equal(t, http.StatusOK, got.status, got.raw)
					require.Contains(t, got.raw, fmt.Sprintf(`%q`, ref.Key))
					require.Equal(t, http.StatusOK, r.ask(admin, secrets+"DeleteSecret", id+"}").status)
					_, _, err = r.backend.Get(t.Context(), ref)
					require.ErrorIs(t, err, secret.ErrNotFound)

					v := secret.NewValue([]byte("v"))
					require.NoError(t, r.backend.Create(t.Context(), ref, v, store.Regular))
					scope := fmt.Sprintf(`{"scope":{"organization":%q},"secrets":[`, named)
					resolved := r.ask(task, resolve, scope+fmt.Sprintf(`{"key":%q}]}`, ref.Key))
					names := r.ask(task, resolve, scope+fmt.Sprintf(`{"key":%q}],"namesOnly":true}`, ref.Key))
					imported := r.ask(admin, importing, scope+`{"name":"I","value":"dg=="}]}`)
					_, _, err = r.backend.Get(t.Context(), secret.Ref{Scope: ref.Scope, Key: "I"})
					for _, a := range []answered{resolved, names, imported} {
						if anyOrg || named == "" || named == meant {
							continue
						}
						require.Equal(t, http.StatusForbidden, a.status, a.raw)
						require.Contains(t, withoutCaller(t, a, ""), fmt.Sprintf(denial, named))
					}
					if named == "" || anyOrg { // the first import of each org
						require.Equal(t, http.StatusOK, imported.status, imported.raw)
						require.NoError(t, err)
						require.NoError(t, r.backend.Delete(t.Context(), secret.Ref{Scope: ref.Scope, Key: "I"}))
					}
					if named == "" || named == "flyte" || anyOrg && open {
						require.Equal(t, http.StatusOK, resolved.status, resolved.raw)
						require.Contains(t, resolved.raw, `"found"`)
						require.Equal(t, http.StatusOK, names.status, names.raw)
					}
				}
			})
		}
	}
}
