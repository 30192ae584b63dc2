package kubeapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

// Every user learns the version of the API server, and by how much its clock differs.
func TestVersion(t *testing.T) {
	t.Parallel()
	k := shared.Get(t)
	c := connect(t, kubeapi.Options{Kubeconfig: k.User(t, k.Namespace(t), nil)})
	require.Zero(t, c.Skew(), "nothing was answered yet")
	version, err := c.Version(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `^v1\.\d+\.\d+`, version)
	require.Zero(t, c.Skew())

	for name, a := range map[string]struct {
		code  int
		body  string
		ahead time.Duration
		want  error
	}{
		"ahead":        {200, `{"gitVersion":"v1.37.2"}`, time.Hour, nil},
		"behind":       {200, `{"gitVersion":"v1.37.2"}`, -time.Hour, nil},
		"a page":       {200, `<h1>Log in</h1>`, 0, secret.ErrUnavailable},
		"other JSON":   {200, `{}`, 0, secret.ErrUnavailable},
		"no such path": {404, `404 page not found`, 0, secret.ErrUnavailable},
		"denied":       {403, `{"kind":"Status","apiVersion":"v1","code":403,"reason":"Forbidden"}`, 0, secret.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			client := answers(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Date", time.Now().Add(a.ahead).UTC().Format(http.TimeFormat))
				w.WriteHeader(a.code)
				_, _ = w.Write([]byte(a.body))
			})
			version, err := client.Version(t.Context())
			if a.want != nil {
				require.ErrorIs(t, err, a.want)
				require.ErrorContains(t, err, "get version")
				return
			}
			require.NoError(t, err)
			require.Equal(t, "v1.37.2", version)
			require.InDelta(t, a.ahead.Seconds(), client.Skew().Seconds(), 60)
		})
	}
	silent := answers(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		_, _ = w.Write([]byte(`{"gitVersion":"v1.37.2"}`))
	})
	_, err = silent.Version(t.Context())
	require.NoError(t, err)
	require.Zero(t, silent.Skew())
}
