package main_test

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// A keycloak is a real Keycloak with the realm of keycloak.json: alice with her password, the public
// client inject, and the client ci with its secret.
type keycloak struct {
	t       *testing.T
	issuer  string
	address string
	driver  string // URL of chromedriver
	version string // as it says itself
	browser string // the version of the last browser
}

const (
	alicesPassword = "alices-password"
	clientsSecret  = "secret-of-the-client-ci"
)

//go:embed testdata/keycloak.json
var realm []byte

// startKeycloak starts what make keycloak installs, and a browser's driver.
func startKeycloak(t *testing.T) *keycloak {
	t.Helper()
	home, err := filepath.Abs("../../bin/keycloak")
	require.NoError(t, err)
	if _, err := os.Stat(home + "/installed"); err != nil {
		harness.Skip(t, "run make keycloak: ", err)
	}
	harness.Need(t, "java")
	harness.Need(t, "chromedriver")
	k := &keycloak{t: t, address: "127.0.0.1:" + freePort(t)}
	k.issuer = "http://" + k.address + "/realms/inject"
	_, port, _ := strings.Cut(k.address, ":")
	k.run(exec.Command(
		home+"/bin/kc.sh", "start-dev", "--db", "dev-mem", "--http-host", "127.0.0.1", "--http-port", port,
	), "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=admin")
	driver := freePort(t)
	k.driver = "http://127.0.0.1:" + driver
	k.run(exec.Command("chromedriver", "--port="+driver))

	require.Eventually(t, func() bool { return k.administrator() != "" }, // it takes half a minute to start
		5*time.Minute, 500*time.Millisecond)
	k.administer(http.MethodPost, "/realms", realm)
	var info struct {
		SystemInfo struct{ Version string }
	}
	require.NoError(t, json.Unmarshal(k.administer(http.MethodGet, "/serverinfo", nil), &info))
	k.version = info.SystemInfo.Version
	return k
}

// administrator returns a token of the administrator, "" if there is none yet. It is good for a minute.
func (k *keycloak) administrator() string {
	r, err := http.PostForm("http://"+k.address+"/realms/master/protocol/openid-connect/token", url.Values{
		"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"},
	})
	if err != nil {
		return ""
	}
	defer r.Body.Close() //nolint:errcheck // read only
	var admin struct {
		Token string `json:"access_token"`
	}
	if r.StatusCode != http.StatusOK || json.NewDecoder(r.Body).Decode(&admin) != nil {
		return ""
	}
	return admin.Token
}

// administer sends a request of the administrator, and returns the answer.
func (k *keycloak) administer(method, path string, body []byte) []byte {
	k.t.Helper()
	request, err := http.NewRequestWithContext(k.t.Context(), method, "http://"+k.address+"/admin"+path,
		bytes.NewReader(body))
	require.NoError(k.t, err)
	request.Header.Set("Authorization", "Bearer "+k.administrator())
	request.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(request)
	require.NoError(k.t, err)
	defer r.Body.Close() //nolint:errcheck // read only
	said, err := io.ReadAll(r.Body)
	require.NoError(k.t, err)
	require.Less(k.t, r.StatusCode, 300, string(said))
	return said
}

// id returns Keycloak's own name of the only thing that a path below the realm lists.
func (k *keycloak) id(path string) string {
	k.t.Helper()
	var all []struct{ ID string }
	require.NoError(k.t, json.Unmarshal(k.administer(http.MethodGet, "/realms/inject/"+path, nil), &all))
	require.Len(k.t, all, 1)
	return all[0].ID
}

// life sets how many seconds an access token is good for from now on. A refresh token can be used once.
func (k *keycloak) life(seconds int) {
	k.t.Helper()
	k.administer(http.MethodPut, "/realms/inject", fmt.Appendf(nil,
		`{"accessTokenLifespan": %d, "revokeRefreshToken": true, "refreshTokenMaxReuse": 0}`, seconds))
}

// endSessions ends all sessions of alice.
func (k *keycloak) endSessions() {
	k.t.Helper()
	k.administer(http.MethodPost, "/realms/inject/users/"+k.id("users?username=alice&exact=true")+"/logout", nil)
}

// demandPKCE makes the issuer refuse logins of the client inject without a challenge of the method
// S256.
func (k *keycloak) demandPKCE() {
	k.t.Helper()
	k.administer(http.MethodPut, "/realms/inject/clients/"+k.id("clients?clientId=inject"), []byte(
		`{"clientId": "inject", "attributes": {"pkce.code.challenge.method": "S256"}}`))
}

// freePort returns a port of this machine that no server listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() //nolint:errcheck // it is for another process
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// run runs a program until the test ends.
func (k *keycloak) run(cmd *exec.Cmd, environ ...string) {
	k.t.Helper()
	cmd.Env = append(os.Environ(), environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(k.t, cmd.Start())
	k.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// ask sends a command to the browser's driver and returns the value of its answer.
func (k *keycloak) ask(method, path string, body any) (json.RawMessage, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, k.driver+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close() //nolint:errcheck // read only
	var answer struct{ Value json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s", method, path, answer.Value)
	}
	return answer.Value, nil
}

// logIn opens an address in a new browser, logs alice in, and agrees to what else is asked, until
// the page has a text.
func (k *keycloak) logIn(t *testing.T, address, until string) {
	t.Helper()
	var session struct {
		SessionID    string
		Capabilities struct{ BrowserVersion string }
	}
	require.Eventually(t, func() bool { // the driver takes a moment to start
		b, err := k.ask(http.MethodPost, "/session", map[string]any{
			"capabilities": map[string]any{"alwaysMatch": map[string]any{"goog:chromeOptions": map[string]any{
				"args": []string{"--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"},
			}}},
		})
		return err == nil && json.Unmarshal(b, &session) == nil
	}, 3*time.Minute, 500*time.Millisecond)
	at := "/session/" + session.SessionID
	k.browser = session.Capabilities.BrowserVersion
	defer k.ask(http.MethodDelete, at, nil) //nolint:errcheck // the driver ends it otherwise
	must := func(path string, body any) json.RawMessage {
		t.Helper()
		b, err := k.ask(http.MethodPost, at+path, body)
		require.NoError(t, err)
		return b
	}
	must("/url", map[string]string{"url": address})
	const step = `
		const text = document.body ? document.body.innerText : "";
		if (text.includes(arguments[0])) return "done";
		const name = document.getElementById("username"), password = document.getElementById("password");
		if (name && password && !password.value) {
			name.value = "alice"; password.value = arguments[1];
			document.getElementById("kc-form-login").submit();
			return "logged in";
		}
		const yes = document.getElementById("kc-login");
		if (yes) { yes.click(); return "agreed"; }
		return "waiting: " + text;`
	var last harness.Buffer // of the last attempts
	require.Eventuallyf(t, func() bool {
		b, err := k.ask(http.MethodPost, at+"/execute/sync", map[string]any{
			"script": step, "args": []string{until, alicesPassword},
		})
		if err != nil { // the page is changing
			b = []byte(err.Error())
		}
		if text := string(b) + "\n"; !strings.HasSuffix(last.String(), text) {
			_, _ = last.Write([]byte(text))
		}
		return string(b) == `"done"`
	}, 2*time.Minute, 200*time.Millisecond, "the browser: %s", &last)
}

// policy returns the policy that the page about policies has for Keycloak, with this issuer.
func (k *keycloak) policy() string {
	k.t.Helper()
	_, text, ok := strings.Cut(read(k.t, "../../docs/how-to/policy.md"), "\n### Keycloak\n")
	require.True(k.t, ok)
	_, text, _ = strings.Cut(text, "```yaml\n")
	text, _, ok = strings.Cut(text, "```")
	require.True(k.t, ok)
	const issuer = "https://login.example.org/realms/inject"
	require.Contains(k.t, text, issuer)
	return strings.ReplaceAll(text, issuer, k.issuer)
}

// Each login of Flyte's command line works against a real identity provider: the browser, the
// device, a program's secret, and a command that prints a token. So do those of inject.
func TestLogins(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: Keycloak takes a minute to start")
	}
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"),
		"Pkce, DeviceFlow, ClientSecret, ExternalCommand; refresh, and an ended session")
	k := startKeycloak(t)
	harness.Ran(t, "Keycloak", k.version,
		"each login of Flyte's command line and of inject; refresh, and an ended session")
	f := startFlyteWith(t, k.policy(), "--jwt", "issuer="+k.issuer+",audience=injectd,keys="+k.issuer+
		"/protocol/openid-connect/certs", "--login", "client-id=inject")
	_, port, _ := strings.Cut(f.server.host(), ":")
	login := func(kind, more string) {
		f.write("config.yaml", fmt.Sprintf("admin:\n  endpoint: dns:///localhost:%s\n  authType: %s\n"+
			"  caCertFilePath: %s/pki/ca.pem\n  disableKeyring: true\n%s", port, kind, f.home, more))
	}

	t.Run("ClientSecret", func(t *testing.T) {
		for _, c := range []struct {
			client, project string
			denied          bool
		}{{"ci", "ci", false}, {"ci", "fraud", true}, {"platform", "anything", false}} {
			login("ClientSecret", "  clientId: "+c.client+"\n  clientSecretEnvVar: CLIENT_SECRET\n")
			cmd := f.cmd("create", "secret", "CI", "--project", c.project, "--domain", "d", "--value", "v")
			cmd.Env = append(cmd.Env, "CLIENT_SECRET="+clientsSecret)
			out, err := cmd.CombinedOutput()
			require.Equalf(t, c.denied, err != nil, "%s", out)
			if c.denied {
				require.Contains(t, words(string(out)), "access denied")
			}
		}
	})

	t.Run("DeviceFlow", func(t *testing.T) {
		login("DeviceFlow", "")
		cmd := f.cmd("create", "secret", "DEVICE", "--project", "fraud", "--domain", "d", "--value", "v")
		out := k.interactive(t, cmd, regexp.MustCompile(regexp.QuoteMeta("http://"+k.address)+`/\S*user_code=[A-Z-]+`),
			"Device Login Successful")
		require.Contains(t, f.audited(), `"DEVICE"`, out)
	})

	t.Run("Pkce", func(t *testing.T) {
		login("Pkce", "")
		cmd := f.cmd("create", "secret", "BROWSER", "--project", "fraud", "--domain", "d", "--value", "v")
		opened := f.write("browser", "#!/bin/sh\necho \"opened: $1\" >&2\n")
		require.NoError(t, os.Chmod(opened, 0o700))
		cmd.Env = append(cmd.Env, "BROWSER="+opened+" %s &")
		out := k.interactive(t, cmd, regexp.MustCompile(regexp.QuoteMeta("http://"+k.address)+`/\S*code_challenge=\S+`),
			"successfully authenticated")
		require.Contains(t, f.audited(), `"BROWSER"`, out)
	})

	t.Run("ExternalCommand", func(*testing.T) {
		f.write("token.sh", fmt.Sprintf("curl -s -d grant_type=client_credentials -d client_id=ci -d client_secret=%s "+
			"-d scope=openid %s/protocol/openid-connect/token | jq -r .access_token\n", clientsSecret, k.issuer))
		login("ExternalCommand", "  command: [sh, "+f.home+"/token.sh]\n")
		f.ok("delete", "secret", "CI", "--project", "ci", "--domain", "d")
	})

	t.Run("Refresh", func(t *testing.T) { testFlyteRefresh(t, k, f, login) })
	t.Run("inject", func(t *testing.T) { testInjectLogin(t, k, f) })
	harness.Ran(t, "Chromium", k.browser+"*", "logins at Keycloak")
	require.NoError(t, harness.FindLeak(map[string]string{"audit": f.audited(), "log": f.server.stderr.String()},
		map[string]string{"password": alicesPassword, "client's secret": clientsSecret}))
}

// interactive runs a command that prints an address, at which alice logs in with a browser. The
// command must end with 0. It returns what the command printed.
func (k *keycloak) interactive(t *testing.T, cmd *exec.Cmd, address *regexp.Regexp, until string) string {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = write, write
	require.NoError(t, cmd.Start())
	require.NoError(t, write.Close())
	defer read.Close() //nolint:errcheck // read only
	var said strings.Builder
	opened := false
	lines := bufio.NewReader(read)
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if found := address.FindString(line); found != "" && !opened {
			opened = true
			k.logIn(t, found, until)
		}
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
	}
	err = cmd.Wait()
	require.Truef(t, opened && err == nil, "%v: %s", err, &said)
	return said.String()
}

// words returns a text without the frame and the line breaks of a box.
func words(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "│", "")), " ")
}
