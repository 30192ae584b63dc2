package login_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/cli/login"
	"inject/resolver/secret"
)

func TestMain(m *testing.M) {
	login.Shorten()
	goleak.VerifyTestMain(m)
}

// An issuer is a small OAuth 2.0 issuer. Its refresh tokens can be used once: a second use ends the
// session, as issuers that rotate them do.
type issuer struct {
	t       *testing.T
	url     string
	token   http.HandlerFunc // instead of its own, if it is set
	device  http.HandlerFunc
	rewrite func(metadata map[string]string)

	mu        sync.Mutex
	challenge string // of the login that is under way
	code      string
	refresh   string // the one that is accepted
	ended     bool
	pending   int // answers that tell the device to wait
	life      int // of an access token, in seconds; with 0 the answer does not say it
	asked     map[string][]url.Values
}

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, life: 3600, asked: map[string][]url.Values{}}
	mux := http.NewServeMux()
	note := func(name string, h http.HandlerFunc) {
		mux.HandleFunc(name, func(w http.ResponseWriter, r *http.Request) {
			i.mu.Lock()
			defer i.mu.Unlock()
			_ = r.ParseForm()
			i.asked[name] = append(i.asked[name], r.Form)
			h(w, r)
		})
	}
	note("/token", func(w http.ResponseWriter, r *http.Request) {
		if i.token != nil {
			i.token(w, r)
			return
		}
		i.grant(w, r.Form)
	})
	note("/device", func(w http.ResponseWriter, r *http.Request) {
		if i.device != nil {
			i.device(w, r)
			return
		}
		i.challenge, i.code = r.Form.Get("code_challenge"), rand.Text()
		answer(w, http.StatusOK, map[string]any{
			"device_code": i.code, "user_code": "ABCD-EFGH", "verification_uri": i.url + "/enter", "interval": 1,
			"verification_uri_complete": i.url + "/enter?user_code=ABCD-EFGH", "expires_in": 600,
		})
	})
	note("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		metadata := map[string]string{"issuer": i.url, "revocation_endpoint": i.url + "/revoke"}
		if i.rewrite != nil {
			i.rewrite(metadata)
		}
		answer(w, http.StatusOK, metadata)
	})
	note("/revoke", func(_ http.ResponseWriter, r *http.Request) {
		if r.Form.Get("token") == i.refresh {
			i.ended = true
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	i.url = s.URL
	return i
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// grant answers a request for a token. The caller holds i.mu.
func (i *issuer) grant(w http.ResponseWriter, form url.Values) {
	fail := func(code, description string) {
		answer(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": description})
	}
	if form.Get("client_id") != "inject" || form.Has("client_secret") {
		fail("invalid_client", "")
		return
	}
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	proved := base64.RawURLEncoding.EncodeToString(sum[:]) == i.challenge
	switch form.Get("grant_type") {
	case "refresh_token":
		if i.ended || form.Get("refresh_token") != i.refresh {
			i.ended = true
			fail("invalid_grant", "Session not active")
			return
		}
	case "authorization_code":
		if form.Get("code") != i.code || !proved {
			fail("invalid_grant", "Code not valid")
			return
		}
	case "urn:ietf:params:oauth:grant-type:device_code":
		if i.pending > 0 {
			i.pending--
			fail("authorization_pending", "")
			return
		}
		if form.Get("device_code") != i.code || !proved {
			fail("invalid_grant", "Code not valid")
			return
		}
	default:
		fail("unsupported_grant_type", "")
		return
	}
	i.refresh = "refresh+/=" + rand.Text()
	body := map[string]any{"access_token": "access-" + rand.Text(), "token_type": "bearer", "refresh_token": i.refresh}
	if i.life != 0 {
		body["expires_in"] = i.life
	}
	answer(w, http.StatusOK, body)
}

// requests returns the forms of the requests for name, and forgets them.
func (i *issuer) requests(name string) []url.Values {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := i.asked[name]
	i.asked[name] = nil
	return all
}

// browserLogin returns a login whose page is on a free port, and its redirect URI.
func (i *issuer) browserLogin() *login.Login {
	i.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(i.t, err)
	require.NoError(i.t, l.Close())
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(i.t, err)
	return &login.Login{
		Provider: login.Provider{
			Issuer: i.url, AuthorizationEndpoint: i.url + "/auth?tenant=a", TokenEndpoint: i.url + "/token",
			DeviceEndpoint: i.url + "/device", ClientID: "inject", Scopes: []string{"openid", "offline_access"},
			RedirectURI: "http://localhost:" + port + "/callback",
			Audience:    "injectd",
		},
		Show: func(string) {},
	}
}

// begin starts a login in a browser, and returns what the address of the issuer asks for. end returns
// what the login returned.
func (i *issuer) begin(ctx context.Context, l *login.Login) (query url.Values, end func() (login.Tokens, error)) {
	i.t.Helper()
	shown := make(chan string, 1)
	l.Show = func(text string) { shown <- text }
	type result struct {
		login.Tokens
		error
	}
	done := make(chan result, 1)
	go func() {
		tokens, err := l.Browser(ctx)
		done <- result{tokens, err}
	}()
	end = sync.OnceValues(func() (login.Tokens, error) { r := <-done; return r.Tokens, r.error })
	select {
	case text := <-shown:
		u, err := url.Parse(text[strings.LastIndex(text, ": ")+2:])
		require.NoError(i.t, err)
		query = u.Query()
		i.mu.Lock()
		defer i.mu.Unlock()
		i.challenge, i.code = query.Get("code_challenge"), rand.Text()
	case r := <-done:
		done <- r
	}
	return query, end
}

// back requests the page with parameters, and returns the status and the text.
func back(t *testing.T, method, address string, query url.Values) (int, string) {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.RawQuery = query.Encode()
	request, err := http.NewRequest(method, u.String(), http.NoBody)
	require.NoError(t, err)
	transport := &http.Transport{DisableKeepAlives: true}
	r, err := transport.RoundTrip(request)
	require.NoError(t, err)
	defer r.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, "no-referrer", r.Header.Get("Referrer-Policy"))
	return r.StatusCode, string(body)
}

func TestBrowser(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	l := i.browserLogin()
	var opened string
	l.Open = func(address string) bool { opened = address; return true }
	query, end := i.begin(t.Context(), l)
	p := l.Provider
	require.Contains(t, opened, i.url+"/auth?tenant=a&")
	require.Len(t, query.Get("state"), 43, "256 bits")
	require.Len(t, query.Get("code_challenge"), 43)
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "inject", "redirect_uri": p.RedirectURI, "audience": "injectd",
		"scope": "openid offline_access", "code_challenge_method": "S256", "tenant": "a",
	} {
		require.Equal(t, []string{want}, query[name], name)
	}

	// Only the answer with the state of this login ends the wait.
	right := url.Values{"state": query["state"], "code": {i.code}, "iss": {i.url}}
	but := func(name string, values ...string) url.Values {
		other := url.Values{}
		maps.Copy(other, right)
		if other[name] = values; values == nil {
			delete(other, name)
		}
		return other
	}
	state := query.Get("state")
	for _, c := range []struct {
		name, method, path string
		query              url.Values
		status             int
	}{
		{"no state", "GET", "/callback", but("state"), 400},
		{"another state", "GET", "/callback", but("state", rand.Text()), 400},
		{"two states", "GET", "/callback", but("state", state, state), 400},
		{"a longer state", "GET", "/callback", but("state", state+"a"), 400},
		{"an error without the state", "GET", "/callback", url.Values{"error": {"access_denied"}}, 400},
		{"neither code nor error", "GET", "/callback", but("code"), 400},
		{"two codes", "GET", "/callback", but("code", i.code, i.code), 400},
		{"another path", "GET", "/", right, 404},
		{"a path below", "GET", "/callback/x", right, 404},
		{"an icon", "GET", "/favicon.ico", nil, 404},
		{"POST", "POST", "/callback", right, 405},
		{"HEAD", "HEAD", "/callback", right, 405},
	} {
		status, text := back(t, c.method, strings.Replace(p.RedirectURI, "/callback", c.path, 1), c.query)
		require.Equal(t, c.status, status, c.name)
		require.NotContains(t, text, state, c.name)
	}
	status, text := back(t, "GET", p.RedirectURI, right)
	require.Equal(t, 200, status)
	require.Contains(t, text, "close this page")
	tokens, err := end()
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(tokens.Access.Reveal()), "access-"))
	require.Equal(t, i.refresh, string(tokens.Refresh.Reveal()))
	require.WithinDuration(t, time.Now().Add(time.Hour), tokens.Expiry, time.Minute)
	asked := i.requests("/token")
	require.Len(t, asked, 1)
	require.Equal(t, p.RedirectURI, asked[0].Get("redirect_uri"))

	_, err = net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(p.RedirectURI, "http://"), "/callback"))
	require.Error(t, err, "the page is closed")
}

// The page takes one answer: a second one does not change what the first began.
func TestBrowserTakesOneAnswer(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	release := make(chan struct{})
	i.token = func(w http.ResponseWriter, r *http.Request) {
		<-release
		i.grant(w, r.Form)
	}
	l := i.browserLogin()
	query, end := i.begin(t.Context(), l)
	right := url.Values{"state": query["state"], "code": {i.code}}
	status, _ := back(t, "GET", l.Provider.RedirectURI, right)
	require.Equal(t, 200, status)
	status, _ = back(t, "GET", l.Provider.RedirectURI, url.Values{"state": query["state"], "error": {"access_denied"}})
	require.Equal(t, 409, status)
	close(release)
	_, err := end()
	require.NoError(t, err)
}

func TestBrowserFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		query  url.Values
		want   string
		denied bool
	}{
		{
			"refused",
			url.Values{
				"error": {"access_denied"}, "error_description": {"No \x1b[2Jentry" + strings.Repeat("y", 9000)},
			},
			`access_denied (No \x1b[2Jentry`, true,
		},
		{"another issuer", url.Values{"code": {"x"}, "iss": {"https://other.example.org"}}, "of another issuer", true},
		{"two issuers", url.Values{"code": {"x"}, "iss": {"", ""}}, "of another issuer", true},
		{"a wrong code", url.Values{"code": {"hunter2"}}, "invalid_grant (Code not valid)", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := startIssuer(t)
			l := i.browserLogin()
			query, end := i.begin(t.Context(), l)
			c.query.Set("state", query.Get("state"))
			status, _ := back(t, "GET", l.Provider.RedirectURI, c.query)
			require.Equal(t, 200, status)
			_, err := end()
			require.ErrorContains(t, err, c.want)
			require.Equal(t, c.denied, errors.Is(err, secret.ErrDenied))
			require.NotContains(t, err.Error(), "hunter2")
			require.Less(t, len(err.Error()), 500)
		})
	}

	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		i := startIssuer(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		_, end := i.begin(ctx, i.browserLogin())
		cause := errors.New("the cause")
		cancel(cause)
		_, err := end()
		require.ErrorIs(t, err, cause)
	})
	t.Run("late", func(t *testing.T) {
		t.Parallel()
		i := startIssuer(t)
		l := i.browserLogin()
		l.Limit(100 * time.Millisecond)
		_, end := i.begin(t.Context(), l)
		_, err := end()
		require.ErrorContains(t, err, "not completed in time")
	})
	t.Run("the port is taken", func(t *testing.T) {
		t.Parallel()
		i := startIssuer(t)
		l := i.browserLogin()
		u, err := url.Parse(l.Provider.RedirectURI)
		require.NoError(t, err)
		for _, host := range []string{"127.0.0.1", "::1"} {
			port, err := net.Listen("tcp", net.JoinHostPort(host, u.Port()))
			if host == "::1" && err != nil { // no IPv6 here
				continue
			}
			require.NoError(t, err)
			_, err = l.Browser(t.Context())
			require.ErrorContains(t, err, "address already in use", host)
			require.Contains(t, secret.Hint(err), "--device")
			require.NoError(t, port.Close())
		}
	})
}

// Connections that say nothing, or too much, do not keep the browser out for long.
func TestBrowserCrowd(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	l := i.browserLogin()
	query, end := i.begin(t.Context(), l)
	u, err := url.Parse(l.Provider.RedirectURI)
	require.NoError(t, err)
	for n := range 2 * login.MaxCallbacks {
		conn, err := net.Dial("tcp", "127.0.0.1:"+u.Port())
		require.NoError(t, err)
		defer conn.Close() //nolint:errcheck,revive // the end of the test is meant
		if n%2 == 0 {
			_, err = io.WriteString(conn, "GET /callback HTTP/1.1\r\n")
			require.NoError(t, err)
		}
	}
	u.Host = "127.0.0.1:" + u.Port()
	status, _ := back(t, "GET", u.String(), url.Values{"state": query["state"], "code": {i.code}})
	require.Equal(t, 200, status)
	_, err = end()
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	_, end = i.begin(ctx, l)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	long := strings.Repeat("x", 64<<10)
	_, _ = io.WriteString(conn, "GET /callback HTTP/1.1\r\nHost: localhost\r\nX: "+long+"\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil { // otherwise it has closed the connection before we had written all
		require.Contains(t, line, "431")
	}
	require.NoError(t, conn.Close())
	cancel()
	_, err = end()
	require.ErrorIs(t, err, context.Canceled)
}

func TestDevice(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	i.pending = 1
	l := i.browserLogin()
	var shown string
	l.Show = func(text string) { shown = text }
	tokens, err := l.Device(t.Context())
	require.NoError(t, err)
	require.Equal(t, i.refresh, string(tokens.Refresh.Reveal()))
	require.Equal(t, "open "+i.url+"/enter in any browser and enter the code ABCD-EFGH; this address has it: "+i.url+
		"/enter?user_code=ABCD-EFGH", shown)
	require.Len(t, i.requests("/token"), 2)
	asked := i.requests("/device")[0]
	for name, want := range map[string]string{
		"client_id": "inject", "audience": "injectd", "scope": "openid offline_access", "code_challenge_method": "S256",
	} {
		require.Equal(t, want, asked.Get(name), name)
	}
}

func TestDeviceFails(t *testing.T) {
	t.Parallel()
	device := func(i *issuer, change func(body map[string]any)) {
		i.device = func(w http.ResponseWriter, _ *http.Request) {
			body := map[string]any{
				"device_code": "x", "user_code": "AB", "verification_uri": i.url, "interval": 1, "expires_in": 600,
			}
			change(body)
			answer(w, http.StatusOK, body)
		}
	}
	for _, c := range []struct {
		name   string
		change func(map[string]any)
		want   string
	}{
		{"a wrong code", func(map[string]any) {}, "invalid_grant (Code not valid)"},
		{"no address", func(b map[string]any) { b["verification_uri"] = "" }, "no https address"},
		{"a script", func(b map[string]any) { b["verification_uri"] = "javascript:alert(1)" }, "no https address"},
		{"no TLS", func(b map[string]any) { b["verification_uri"] = "http://login.example.org" }, "no https address"},
		{"no user code", func(b map[string]any) { b["user_code"] = "" }, "names no code"},
		{"a code that has expired", func(b map[string]any) { b["expires_in"] = -5 }, "not completed in time"},
		{"an endless interval", func(b map[string]any) { b["interval"] = 1 << 40 }, "not completed in time"},
		{"an expiry that soon comes", func(b map[string]any) {
			b["expires_in"], b["interval"] = 1, 100
		}, "not completed in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := startIssuer(t)
			device(i, c.change)
			l := i.browserLogin()
			if c.name == "an endless interval" {
				l.Limit(100 * time.Millisecond)
			}
			_, err := l.Device(t.Context())
			require.ErrorContains(t, err, c.want)
		})
	}
	t.Run("characters that steer a terminal", func(t *testing.T) {
		t.Parallel()
		i := startIssuer(t)
		device(i, func(b map[string]any) { b["user_code"] = "\x1b[2J\nA" })
		l := i.browserLogin()
		var shown string
		l.Show = func(text string) { shown = text }
		_, err := l.Device(t.Context())
		require.Error(t, err)
		require.Contains(t, shown, `\x1b[2J\nA`)
	})
	t.Run("stopped while the issuer is silent", func(t *testing.T) {
		t.Parallel()
		i := startIssuer(t)
		quiet, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer quiet.Close() //nolint:errcheck // nothing is read
		l := i.browserLogin()
		l.Provider.DeviceEndpoint = "http://" + quiet.Addr().String()
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the cause")
		time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
		began := time.Now()
		_, err = l.Device(ctx)
		require.ErrorIs(t, err, cause)
		require.Less(t, time.Since(began), 700*time.Millisecond)
		_, err = l.Device(t.Context())
		require.ErrorContains(t, err, "deadline exceeded", "it has not for ever")
	})
}

// What a server offers is used only if nothing that is sent to the issuer can be read on the way.
func TestProvider(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	for _, c := range []struct {
		name   string
		change func(*login.Provider)
		want   string
	}{
		{"no issuer", func(p *login.Provider) { p.Issuer = "" }, "its issuer is not an https URL"},
		{"an issuer without TLS", func(p *login.Provider) { p.Issuer = "http://example.org" }, "its issuer is not"},
		{"no token endpoint", func(p *login.Provider) { p.TokenEndpoint = "" }, "its token endpoint is not"},
		{"tokens without TLS", func(p *login.Provider) {
			p.TokenEndpoint = "http://example.org/t"
		}, "its token endpoint is not"},
		{"a name that begins like this machine", func(p *login.Provider) {
			p.TokenEndpoint = "http://localhost.example.org/t"
		}, "its token endpoint is not"},
		{"a login without TLS", func(p *login.Provider) {
			p.AuthorizationEndpoint = "http://example.org/a"
		}, "its authorization endpoint is not"},
		{"a program", func(p *login.Provider) {
			p.AuthorizationEndpoint = "file:///usr/bin/calc"
		}, "its authorization endpoint is not"},
		{"a fragment", func(p *login.Provider) {
			p.AuthorizationEndpoint = "https://example.org/a#b"
		}, "its authorization endpoint is not"},
		{"a user", func(p *login.Provider) {
			p.DeviceEndpoint = "https://a:b@example.org"
		}, "its device authorization"},
		{"a long address", func(p *login.Provider) {
			p.TokenEndpoint = "https://example.org/" + strings.Repeat("x", 4096)
		}, "its token endpoint is not"},
		{"long scopes", func(p *login.Provider) {
			p.Scopes = []string{strings.Repeat("x", 1024), strings.Repeat("x", 1024)}
		}, "scopes have 2062 bytes (at most 2048)"},
		{"no client", func(p *login.Provider) { p.ClientID = "" }, "it names no client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := i.browserLogin()
			c.change(&l.Provider)
			for _, do := range []func(context.Context) (login.Tokens, error){l.Browser, l.Device} {
				_, err := do(t.Context())
				require.ErrorIs(t, err, secret.ErrInvalid)
				require.ErrorContains(t, err, c.want)
			}
		})
	}
	for _, redirect := range []string{
		"", "http://localhost/callback", "https://localhost:5000/callback", "http://example.org:5000/callback",
		"http://0.0.0.0:5000/callback", "myapp://callback",
	} {
		l := i.browserLogin()
		l.Provider.RedirectURI = redirect
		_, err := l.Browser(t.Context())
		require.ErrorIs(t, err, secret.ErrInvalid, redirect)
		require.ErrorContains(t, err, "no port of this machine", redirect)
	}
	l := i.browserLogin()
	l.Provider.AuthorizationEndpoint, l.Provider.DeviceEndpoint = "", ""
	_, err := l.Browser(t.Context())
	require.ErrorContains(t, err, "has no login in a browser")
	_, err = l.Device(t.Context())
	require.ErrorContains(t, err, "has no login on another device")
	l.CAFile = "/dev/null"
	l.Provider.DeviceEndpoint = i.url
	_, err = l.Device(t.Context())
	require.ErrorContains(t, err, "/dev/null holds no certificate")
}

// An issuer cannot make us hold much, wait long or send anything elsewhere.
func TestHostileIssuer(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request went to another host")
	}))
	t.Cleanup(other.Close)
	endless := func(w http.ResponseWriter, begin string) {
		_, err := io.WriteString(w, begin)
		for err == nil {
			_, err = w.Write([]byte(strings.Repeat("x", 64<<10)))
		}
	}
	for name, c := range map[string]struct {
		token http.HandlerFunc
		want  string
	}{
		"an endless answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			endless(w, `{"access_token":"`)
		}, "cannot parse json"},
		"an endless error": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			endless(w, "canary-of-the-body")
		}, "HTTP status 502"},
		"an endless header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, "server response headers exceeded"},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
		"drops": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		}, "Client.Timeout"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/token", http.StatusTemporaryRedirect)
		}, "no other address"},
		"a long token": {func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, map[string]string{"access_token": strings.Repeat("x", login.MaxToken+1)})
		}, "over 16384 bytes long"},
		"a long refresh token": {func(w http.ResponseWriter, _ *http.Request) {
			long := strings.Repeat("x", login.MaxToken+1)
			answer(w, 200, map[string]string{"access_token": "x", "refresh_token": long})
		}, "over 16384 bytes long"},
		"another type": {func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, map[string]string{"access_token": "x", "token_type": "DPoP"})
		}, "of another type than Bearer"},
		"no token": {func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, map[string]string{"refresh_token": "canary-of-the-body"})
		}, "missing access_token"},
		"an error in the answer": {func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 200, map[string]string{"access_token": "canary-of-the-body", "error": "\x1b]0;x\a"})
		}, `\x1b]0;x\a`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := startIssuer(t)
			i.token = c.token
			l := i.browserLogin()
			query, end := i.begin(t.Context(), l)
			back(t, "GET", l.Provider.RedirectURI, url.Values{"state": query["state"], "code": {"canary-of-the-code"}})
			_, err := end()
			require.ErrorContains(t, err, c.want)
			require.Less(t, len(err.Error()), 500)
			for _, canary := range []string{"canary", "\x1b"} {
				require.NotContains(t, err.Error(), canary)
			}

			// The same when a token is renewed, and the login that is kept stays as it was.
			k := keepOf(t, i, -time.Minute)
			before := content(t, k)
			_, err = k.Token(t.Context())
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "canary")
			require.Equal(t, before, content(t, k))
		})
	}
}

func content(t *testing.T, k login.Keep) string {
	t.Helper()
	b, err := os.ReadFile(k.Path())
	require.NoError(t, err)
	return string(b)
}
