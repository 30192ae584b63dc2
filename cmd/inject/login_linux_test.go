package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/serve"
	"inject/resolver/serve/identity"
)

// An issuer logs everyone in at once, and gives a token that its test sets. Real logins at a real
// issuer are tested with injectd.
type issuer struct {
	url string

	mu     sync.Mutex
	token  string
	device bool // whether it has a login on another device
	asked  []string
}

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	s := httptest.NewServer(i)
	t.Cleanup(s.Close)
	i.url = s.URL
	return i
}

// set changes what it answers with, and wasAsked returns the paths that it was asked for since.
func (i *issuer) set(token string, device bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.token, i.device, i.asked = token, device, nil
}

func (i *issuer) wasAsked() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.asked)
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, r.URL.Path)
	w.Header().Set("Content-Type", "application/json")
	say := func(body map[string]any) { _ = json.NewEncoder(w).Encode(body) }
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		all := map[string]any{
			"issuer": i.url, "authorization_endpoint": i.url + "/auth", "token_endpoint": i.url + "/token",
			"revocation_endpoint": i.url + "/revoke",
		}
		if i.device {
			all["device_authorization_endpoint"] = i.url + "/device"
		}
		say(all)
	case "/auth":
		back := url.Values{"code": {"c"}, "state": {r.FormValue("state")}, "iss": {i.url}}
		http.Redirect(w, r, r.FormValue("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	case "/device":
		say(map[string]any{
			"device_code": "d", "user_code": "WXYZ", "verification_uri": i.url + "/enter", "interval": 1,
			"expires_in": 60,
		})
	case "/token":
		say(map[string]any{
			"access_token": i.token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": "again",
		})
	}
}

// startLoginServer starts a server that offers a login at i, and returns a function that runs inject
// with environment variables. curl is the browser.
func startLoginServer(t *testing.T, i *issuer) (*server, func(env []string, args ...string) call) {
	t.Helper()
	harness.Need(t, "curl")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	how, err := identity.NewLogin(identity.LoginOptions{
		Issuer: i.url, ClientID: "inject", Scopes: []string{"openid"}, Log: hclog.NewNullLogger(),
		RedirectURI: "http://127.0.0.1:" + port + "/callback",
	})
	require.NoError(t, err)
	s := startServer(t, true, func(o *serve.Options) { o.Login = how })
	i.set(s.tokens["platform"], true)
	require.NoError(t, os.MkdirAll(s.path(".config/inject"), 0o700))
	s.write(".config/inject/config.yaml", "profiles: {work: {store: \""+s.store+"\", ca-file: "+s.path("ca.pem")+"}}\n")
	return s, func(env []string, args ...string) call { return s.inject("", env, args...) }
}

func TestLogin(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	s, inject := startLoginServer(t, i)
	file := s.path(".local/state/inject/logins/" + url.QueryEscape(s.store) + ".json")
	kept := func() string {
		t.Helper()
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(b)
	}
	curl := []string{"BROWSER=curl -sL %s &"}
	work := []string{"get", "secret", "--profile", "work"}

	inject(nil, work...).failed("credentials", "or log in with inject login if it offers that")
	good := s.tokens["platform"]
	c := inject(curl, "login", "--profile", "work").ok().without(good)
	require.Equal(t, "store  "+s.store+"\n       of the profile work\nlogin  "+file+"\nas     token platform\n",
		c.stdout[:strings.Index(c.stdout, "rule")])
	require.Contains(t, c.stderr, "a browser opens for the login at "+strings.TrimPrefix(i.url, "http://"))
	require.Contains(t, c.stderr, "inject: logged in to "+s.address+"\n")
	inject(nil, work...).ok()
	inject(nil, "create", "secret", "K", "value-of-k", "-p", "p", "-d", "d", "--profile", "work").ok()
	inject(nil, "get", "secret", "--store", s.store, "--ca-file", s.path("ca.pem")).ok()
	require.Contains(t, inject(nil, "__complete", "get", "secret", "--profile", "work", "").ok().stdout, "K\n")
	require.Contains(t, inject(nil, "whoami", "--profile", "work", "-o", "json").ok().stdout, `"login": "`+file)

	// What is given wins over the login.
	const wrong = "is the token or certificate meant for"
	inject(nil, append(work, "--token-file", s.write("bad.token", "bad"))...).failed(wrong)
	env := []string{"INJECT_TOKEN=bad", "INJECT_STORE=" + s.store, "INJECT_CA_FILE=" + s.path("ca.pem")}
	inject(env, "get", "secret").failed(wrong)
	require.Contains(t, inject(nil, "whoami", "--profile", "work", "--cert-file", s.path("task.pem"), "--cert-key-file",
		s.path("task.key")).ok().stdout, "as     mtls ")
	inject(nil, "run", "--profile", "work", "-p", "p", "-d", "d", "--secret", "K", "--cert-file", s.path("task.pem"),
		"--cert-key-file", s.path("task.key"), "--", "true").ok()

	// Another server does not get the token, and the folder of a task may be of another user.
	other := startServer(t, true)
	ca := []string{"--store", other.store, "--ca-file", other.path("ca.pem")}
	const unknown = "hint: %s does not know the caller: identify it with" // another hint tells of a token
	inject(nil, append([]string{"get", "secret"}, ca...)...).failed(fmt.Sprintf(unknown, other.address))
	inject([]string{"HOME=", "XDG_STATE_HOME=/dev/null"}, "get", "secret", "--store", s.store, "--ca-file",
		s.path("ca.pem")).failed(fmt.Sprintf(unknown, s.address))

	// A token that the server does not accept says how to log in again.
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(kept(), good, "revoked", 1)), 0o600))
	inject(nil, work...).failed("hint: the server does not accept the token of the login; log in again: " +
		"inject login --profile work")
	before := kept()
	const unknownToken = "unknown-to-the-server"
	i.set(unknownToken, true)
	inject(curl, "login", "--profile", "work").failed("credentials", "nothing was stored").without(unknownToken)
	require.Equal(t, before, kept())
	i.set(good, true)

	// A login on another device: without a browser, or because that is asked for.
	for _, env := range [][]string{nil, append(curl, "INJECT_DEVICE=true"), {"DISPLAY=:0", "SSH_CONNECTION=a"}} {
		c = inject(env, "login", "--profile", "work").ok()
		require.Contains(t, c.stderr, "open "+i.url+"/enter in any browser and enter the code WXYZ\n")
	}
	inject(nil, work...).ok()

	// The server names another issuer.
	s.write(strings.TrimPrefix(file, s.dir), strings.Replace(kept(), `"issuer": "`, `"issuer": "https://old.`, 1))
	i.set(good, true)
	inject(curl, "login", "--profile", "work").failed(s.address+" now names the issuer ",
		"hint: ask the operator of the server; if the new one is right, run inject logout --profile work first")
	require.NotContains(t, i.wasAsked(), "/auth")
	inject(nil, "logout", "--profile", "work").failed("are deleted, but not revoked", "at old.")
	require.NoFileExists(t, file)

	inject(curl, "login", "--store", s.store, "--ca-file", s.path("ca.pem")).ok()
	c = inject(nil, "logout", "--profile", "work").ok()
	require.Equal(t, "inject: logged out of "+s.address+": the tokens are deleted, and revoked by their issuer\n",
		c.stderr)
	require.NoFileExists(t, file)
	require.Contains(t, i.wasAsked(), "/revoke")
	c = inject(nil, "logout", "--profile", "work").ok()
	require.Equal(t, "inject: there is no login for "+s.address+"\n", c.stderr)
	inject(nil, work...).failed("credentials")
}

// Ctrl-C ends a login, and nothing is stored.
func TestLoginStopped(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	s, inject := startLoginServer(t, i)
	i.set(s.tokens["platform"], false) // so a browser is waited for where none can be opened
	for sig, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		cmd := command(s.dir, "login", "--profile", "work")
		var out harness.Buffer
		cmd.Stderr = &out
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return strings.Contains(out.String(), "open this address in a browser") },
			time.Minute, 10*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(sig))
		require.Error(t, cmd.Wait())
		require.Equal(t, code, cmd.ProcessState.ExitCode())
		require.Contains(t, out.String(), "); nothing was stored\n")
		entries, err := filepath.Glob(s.path(".local/state/inject/logins/*"))
		require.NoError(t, err)
		require.Empty(t, entries)
	}
	inject(nil, "login", "--profile", "work", "--device").failed("has no login on another device")
}

// A login needs a server that offers one, over TLS, and nothing else that identifies the caller.
func TestLoginRefused(t *testing.T) {
	t.Parallel()
	s, plain := startServer(t, true), startServer(t, false)
	ca := []string{"--store", s.store, "--ca-file", s.path("ca.pem")}
	s.inject("", nil, append([]string{"login"}, ca...)...).failed("offers no login", "injectd serve --login")
	for _, verb := range []string{"login", "logout"} {
		s.inject("", nil, verb).failed("a login is for a server, and the store is "+s.dir, "--store grpcs://host:port")
		s.inject("", nil, verb, "--store", plain.store).failed("has no TLS, without which no token is sent")
	}
	for flag, args := range map[string][]string{
		"--token-file": {"--token-file", s.path("platform.token")},
		"--cert-file":  {"--cert-file", s.path("task.pem"), "--cert-key-file", s.path("task.key")},
	} {
		c := s.inject("", nil, append(append([]string{"login"}, args...), ca...)...)
		c.failed(flag, "a login would not be used")
	}
	s.inject("", []string{"INJECT_TOKEN=x", "INJECT_STORE=" + s.store}, "login").failed("INJECT_TOKEN identifies you")
}
