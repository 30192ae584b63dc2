package identity_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/serve/identity"
)

// A discoverable is an issuer with metadata.
type discoverable struct {
	*httptest.Server

	ca    string
	asked atomic.Int64
	mu    sync.Mutex
	body  string
}

func (d *discoverable) answer(body string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.body = body
}

// metadata returns what the issuer says of itself, with changes.
func (d *discoverable) metadata(changes map[string]any) string {
	m := map[string]any{
		"issuer": d.URL + "/realm", "authorization_endpoint": d.URL + "/auth", "token_endpoint": d.URL + "/token",
		"device_authorization_endpoint": d.URL + "/device", "jwks_uri": d.URL + "/keys",
		"response_types_supported": []string{"code"}, "grant_types_supported": []string{"authorization_code"},
		"code_challenge_methods_supported": []string{"S256"}, "other": []any{1, true, nil},
	}
	maps.Copy(m, changes)
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func newDiscoverable(t *testing.T) *discoverable {
	t.Helper()
	d := &discoverable{}
	d.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked.Add(1)
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.URL.Path != "/realm/.well-known/openid-configuration" || d.body == "" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(d.body))
	}))
	t.Cleanup(d.Close)
	d.Config.ErrorLog = nil
	d.ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw})
	require.NoError(t, os.WriteFile(d.ca, block, 0o600))
	return d
}

func (d *discoverable) options() identity.LoginOptions {
	return identity.LoginOptions{
		Issuer: d.URL + "/realm", ClientID: "inject", Scopes: []string{"openid"},
		RedirectURI: "http://localhost:53593/callback", CAFile: d.ca, Log: hclog.NewNullLogger(),
	}
}

// The metadata are the issuer's, who is asked once by many callers.
func TestLogin(t *testing.T) {
	d := newDiscoverable(t)
	d.answer(d.metadata(nil))
	l, err := identity.NewLogin(d.options())
	require.NoError(t, err)
	require.Zero(t, d.asked.Load())
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			m, err := l.Metadata(t.Context())
			if err != nil || m.TokenEndpoint != d.URL+"/token" || m.DeviceAuthorizationEndpoint != d.URL+"/device" ||
				m.AuthorizationEndpoint != d.URL+"/auth" || len(m.CodeChallengeMethods) != 1 {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, d.asked.Load())
}

// What clients would send codes to, and get tokens from, must be the issuer's and safe.
func TestLoginRefusesMetadata(t *testing.T) {
	d := newDiscoverable(t)
	for name, c := range map[string]struct{ body, err string }{
		"none":               {"", "HTTP status 404"},
		"no JSON":            {"<html>", "not the JSON of OpenID Connect Discovery"},
		"another issuer":     {d.metadata(map[string]any{"issuer": "https://evil.example.org"}), "are of"},
		"a slash at its end": {d.metadata(map[string]any{"issuer": d.URL + "/realm/"}), "are of"},
		"no token endpoint":  {d.metadata(map[string]any{"token_endpoint": ""}), "token_endpoint is not an"},
		"a token endpoint in the clear": {
			d.metadata(map[string]any{"token_endpoint": "http://login.example.org/"}), "token_endpoint is not an",
		},
		"another scheme": {
			d.metadata(map[string]any{"authorization_endpoint": "javascript:alert(1)"}), "authorization_endpoint is",
		},
		"a device endpoint in the clear": {
			d.metadata(map[string]any{"device_authorization_endpoint": "http://x/"}), "device_authorization_endpoint",
		},
		"too large": {d.metadata(map[string]any{"x": strings.Repeat("x", 600<<10)}), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			d.answer(c.body)
			l, err := identity.NewLogin(d.options())
			require.NoError(t, err)
			before := d.asked.Load()
			for range 5 {
				_, err = l.Metadata(t.Context())
				require.ErrorContains(t, err, "does not tell how to log in")
				require.ErrorContains(t, err, c.err)
				require.Equal(t, "try again later, or use a token that you have", secret.Hint(err))
			}
			require.Equal(t, before+1, d.asked.Load(), "callers without credentials make the server ask")
		})
	}
	d.answer(d.metadata(map[string]any{"authorization_endpoint": "", "device_authorization_endpoint": ""}))
	l, err := identity.NewLogin(d.options())
	require.NoError(t, err)
	_, err = l.Metadata(t.Context())
	require.NoError(t, err, "an issuer for programs has neither")
}

func TestLoginOptions(t *testing.T) {
	d := newDiscoverable(t)
	for name, c := range map[string]struct {
		change func(*identity.LoginOptions)
		err    string
	}{
		"issuer in the clear": {func(o *identity.LoginOptions) { o.Issuer = "http://example.org" }, "not an https"},
		"no issuer":           {func(o *identity.LoginOptions) { o.Issuer = "" }, "not an https URL"},
		"a user":              {func(o *identity.LoginOptions) { o.Issuer = "https://me:pass@x.org" }, "not an https"},
		"no client":           {func(o *identity.LoginOptions) { o.ClientID = "" }, "client-id is missing"},
		"redirect":            {func(o *identity.LoginOptions) { o.RedirectURI = "localhost:1" }, "redirect-uri"},
		"CA":                  {func(o *identity.LoginOptions) { o.CAFile = "/nonexistent" }, "CA file"},
	} {
		o := d.options()
		c.change(&o)
		_, err := identity.NewLogin(o)
		require.ErrorIs(t, err, secret.ErrInvalid, name)
		require.ErrorContains(t, err, c.err, name)
		require.NotContains(t, err.Error(), "pass")
	}
}

// The last answer of an issuer counts while it does not answer, and is replaced when it does.
func TestLoginAgain(t *testing.T) {
	d := newDiscoverable(t)
	endpoint := func(n int) string { return fmt.Sprintf("%s/token%d", d.URL, n) }
	l, err := identity.NewLogin(d.options())
	require.NoError(t, err)
	now := time.Now()
	l.SetClock(func() time.Time { return now })
	for _, step := range []struct {
		after    time.Duration
		body     string
		endpoint string // "" for an error
		asked    int64
	}{
		{0, "", "", 1},
		{9 * time.Second, d.metadata(map[string]any{"token_endpoint": endpoint(1)}), "", 1},
		{2 * time.Second, d.metadata(map[string]any{"token_endpoint": endpoint(1)}), endpoint(1), 2},
		{4 * time.Minute, d.metadata(map[string]any{"token_endpoint": endpoint(2)}), endpoint(1), 2},
		{2 * time.Minute, d.metadata(map[string]any{"token_endpoint": endpoint(2)}), endpoint(2), 3},
		{6 * time.Minute, "", endpoint(2), 4},
		{9 * time.Second, d.metadata(map[string]any{"token_endpoint": endpoint(3)}), endpoint(2), 4},
		{2 * time.Second, d.metadata(map[string]any{"token_endpoint": endpoint(3)}), endpoint(3), 5},
	} {
		now = now.Add(step.after)
		d.answer(step.body)
		m, err := l.Metadata(t.Context())
		if step.endpoint == "" {
			require.Error(t, err)
		} else {
			require.NoError(t, err)
			require.Equal(t, step.endpoint, m.TokenEndpoint)
		}
		require.Equal(t, step.asked, d.asked.Load())
	}
}
