package serve_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/resolver/idl/flyteidl2/auth/authconnect"
	"inject/resolver/serve"
	"inject/resolver/serve/identity"
)

// Clients without credentials learn how to get some. That is no refusal, so the audit log has no
// line of it. A server without a login names the flag.
func TestLoginService(t *testing.T) {
	const (
		metadata = authconnect.AuthMetadataServiceName + "/GetOAuth2Metadata"
		config   = authconnect.AuthMetadataServiceName + "/GetPublicClientConfig"
	)
	down := false
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintf(w, `{"issuer":"http://%s","token_endpoint":"http://%[1]s/token","scopes_supported":["openid"]}`,
			r.Host)
	}))
	defer issuer.Close()
	newLogin := func() *identity.Login {
		l, err := identity.NewLogin(identity.LoginOptions{
			Issuer: issuer.URL, ClientID: "inject", Audience: "secrets", Scopes: []string{"openid", "offline_access"},
			RedirectURI: "http://localhost:53593/callback", Log: hclog.NewNullLogger(),
		})
		require.NoError(t, err)
		return l
	}
	const rules = "version: 1\nrules: []\n"

	r := start(t, rules, func(o *serve.Options) { o.Login = newLogin() })
	c := r.client(nil)
	a := r.ask(c, metadata, `{}`)
	require.Equal(t, http.StatusOK, a.status, a.raw)
	require.Equal(t, map[string]any{
		"issuer": issuer.URL, "tokenEndpoint": issuer.URL + "/token", "scopesSupported": []any{"openid"},
	}, a.body)
	a = r.ask(c, config, `{}`)
	require.Equal(t, http.StatusOK, a.status, a.raw)
	require.Equal(t, map[string]any{
		"clientId": "inject", "redirectUri": "http://localhost:53593/callback", "audience": "secrets",
		"scopes": []any{"openid", "offline_access"}, "authorizationMetadataKey": "authorization",
	}, a.body)
	require.Equal(t, http.StatusUnauthorized, r.ask(c, secrets+"ListSecrets", `{}`).status, "and nothing else")
	require.Empty(t, r.audit.lines(t, 0))

	down = true
	r = start(t, rules, func(o *serve.Options) { o.Login = newLogin() })
	a = r.ask(r.client(nil), metadata, `{}`)
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Equal(t, fmt.Sprintf("the issuer %s does not tell how to log in: %s: HTTP status 503; hint: "+
		"try again later, or use a token that you have", issuer.URL, issuer.Listener.Addr()), a.body["message"])

	r = start(t, rules, nil)
	for _, method := range []string{metadata, config} {
		a = r.ask(r.client(nil), method, `{}`)
		require.Equal(t, "unimplemented", a.body["code"], a.raw)
		require.Contains(t, a.body["message"], "its operator has not started it with --login")
		require.Contains(t, a.body["message"], "use authType ExternalCommand with a command that prints a token")
	}
}
