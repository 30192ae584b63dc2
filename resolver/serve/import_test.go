package serve_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

// oneByOne is a store that imports nothing, as the one in Kubernetes.
type oneByOne struct{ store.Store }

// An import into a store that creates secrets one by one is not implemented, says so, and stores nothing;
// each of its secrets can be created alone.
func TestImportOneByOne(t *testing.T) {
	t.Parallel()
	memory := storetest.Memory()
	r := start(t, strings.Split(quotaPolicy, "quotas:")[0], func(o *serve.Options) { o.Store = oneByOne{memory} })
	web, shop := certOf(r.Authority, "web", "spiffe://example.org/team/web"), "shop"
	certOf(r.Authority, shop, "spiffe://example.org/team/shop")
	c := r.rpcClient(r.Path("web.pem"), r.Path("web.key"))
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Project: "web"}, Key: "K"}
	err := c.Import(t.Context(), []store.New{{Ref: ref, Value: secret.NewValue([]byte("canary"))}})
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorContains(t, err, " stores no secrets all at once: its store creates them one by one")
	require.Equal(t, "inject create secret --from-env-file FILE --upsert stores one after the other", secret.Hint(err))
	require.Empty(t, keysAt(t, memory, store.Filter{}))

	status, answer := r.call(r.client(web), "inject.v1.ImportService/Import",
		`{"scope":{"project":"web"},"secrets":[{"name":"K","value":"`+base64.StdEncoding.EncodeToString([]byte("v"))+`"}]}`)
	require.Equal(t, 501, status)
	require.Equal(t, "unimplemented", answer["code"])
	require.Equal(t, "inject.v1.ImportService stores all secrets or none, and this server's store creates them "+
		"one by one", answer["message"])

	outcomes := 0
	for line := range strings.Lines(r.audit.String()) {
		var l struct{ Event, Verb, Outcome string }
		require.NoError(t, json.Unmarshal([]byte(line), &l))
		if l.Event == "outcome" && l.Verb == "import" {
			require.Equal(t, "invalid", l.Outcome)
			outcomes++
		}
	}
	require.Equal(t, 2, outcomes)
	require.NotContains(t, r.log.String(), "a request failed", "it is no fault of the server")

	// One who may not is denied as before.
	denied := r.rpcClient(r.Path("shop.pem"), r.Path("shop.key"))
	require.ErrorIs(t, denied.Import(t.Context(), []store.New{{Ref: ref}}), secret.ErrDenied)

	require.NoError(t, c.Create(t.Context(), ref, secret.NewValue([]byte("v")), store.Regular))
	require.Equal(t, []string{"K"}, keysAt(t, memory, store.Filter{}))
}
