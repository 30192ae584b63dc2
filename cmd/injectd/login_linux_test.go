package main_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// fileKeyring is a keyring for Flyte's command line, which has none on a machine without a desktop.
const fileKeyring = `
import json, os
import keyring.backend

PATH = os.path.expanduser("~/keyring.json")


class Keyring(keyring.backend.KeyringBackend):
    priority = 1

    def load(self):
        return json.load(open(PATH)) if os.path.exists(PATH) else {}

    def save(self, all):
        json.dump(all, open(PATH, "w"))

    def get_password(self, service, name):
        return self.load().get(service + " " + name)

    def set_password(self, service, name, text):
        self.save({**self.load(), service + " " + name: text})

    def delete_password(self, service, name):
        all = self.load()
        if all.pop(service + " " + name, None) is None:
            raise keyring.errors.PasswordDeleteError()
        self.save(all)
`

// Flyte's command line keeps its tokens in the keyring. When the token has expired it gets another
// one without a person; when the session has ended, it opens the browser again.
func testFlyteRefresh(t *testing.T, k *keycloak, f *flyte, login func(kind, more string)) {
	login("Pkce", "")
	f.write("config.yaml", strings.Replace(read(t, f.home+"/config.yaml"), "disableKeyring: true",
		"disableKeyring: false", 1))
	f.write("file_keyring.py", fileKeyring)
	opened := f.write("browser", "#!/bin/sh\necho \"opened: $1\" >&2\n")
	require.NoError(t, os.Chmod(opened, 0o700))
	cmd := func(args ...string) *exec.Cmd {
		cmd := f.cmd(args...)
		cmd.Env = append(cmd.Env, "BROWSER="+opened+" %s &", "PYTHONPATH="+f.home,
			"PYTHON_KEYRING_BACKEND=file_keyring.Keyring")
		return cmd
	}
	address := regexp.MustCompile(regexp.QuoteMeta("http://"+k.address) + `/\S*code_challenge=\S+`)
	list := []string{"get", "secret", "--project", "fraud", "--domain", "d"}
	tokens := func() string { return read(t, f.home+"/keyring.json") }

	const life = 4
	k.life(life)
	k.interactive(t, cmd(list...), address, "successfully authenticated")
	first := tokens()
	time.Sleep((life + 1) * time.Second)
	out, err := cmd(list...).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.NotContains(t, string(out), "opened:")
	require.NotEqual(t, first, tokens(), "a new token")

	k.endSessions()
	time.Sleep((life + 1) * time.Second)
	said := k.interactive(t, cmd(list...), address, "successfully authenticated")
	require.Contains(t, said, "Logging in...")
	require.NoError(t, os.Remove(f.home+"/keyring.json"))
}

// inject logs in with a browser and with a device, renews the token, says what to do when the session
// has ended, and logs out. The token goes to the server of the login alone.
func testInjectLogin(t *testing.T, k *keycloak, f *flyte) {
	k.demandPKCE() // inject proves that it began the login, on a device, too
	require.NoError(t, os.MkdirAll(f.home+"/.config/inject", 0o700))
	f.write(".config/inject/config.yaml",
		"profiles:\n  work: {store: \""+f.store+"\", ca-file: "+f.home+"/pki/ca.pem}\n")
	opened := f.write("browser", "#!/bin/sh\necho \"$1\" > \"$HOME/opened\"\nenv > \"$HOME/environment\"\n")
	require.NoError(t, os.Chmod(opened, 0o700))
	ca := []string{"INJECT_CA_FILE=" + f.home + "/pki/ca.pem"}
	inject := func(env []string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "inject"), args...)
		cmd.Env = append([]string{"HOME=" + f.home, "PATH=" + os.Getenv("PATH"), "BROWSER=" + opened + " %s &"}, env...)
		return cmd
	}
	ok := func(args ...string) string {
		t.Helper()
		out, err := inject(nil, args...).CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		return string(out)
	}
	failed := func(cmd *exec.Cmd, wants ...string) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		require.Errorf(t, err, "%s", out)
		for _, want := range wants {
			require.Contains(t, string(out), want)
		}
	}
	file := f.home + "/.local/state/inject/logins/" + url.QueryEscape(f.store) + ".json"
	type kept struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	everything := map[string]string{}
	tokens := func() (now kept) {
		t.Helper()
		require.NoError(t, json.Unmarshal([]byte(read(t, file)), &now))
		everything["access "+now.Access], everything["refresh "+now.Refresh] = now.Access, now.Refresh
		return now
	}
	said := map[string]string{}
	inBrowser := regexp.MustCompile(regexp.QuoteMeta("http://"+k.address) + `/\S*code_challenge=\S+`)
	onDevice := regexp.MustCompile(regexp.QuoteMeta("http://"+k.address) + `/\S*user_code=[A-Z-]+`)
	list := []string{"get", "secret", "-o", "name", "-p", "fraud", "-d", "d", "--profile", "work"}
	const life = 4

	k.life(300)
	failed(inject(nil, list...), "credentials", "or log in with inject login")
	t.Run("browser", func(t *testing.T) {
		env := []string{"INJECT_KEY=key-of-the-environment"}
		said["login"] = k.interactive(t, inject(env, "login", "--profile", "work"), inBrowser,
			"You can close this page")
		require.Contains(t, said["login"], "inject: logged in to "+f.server.host())
		require.Contains(t, said["login"], "of the profile work\nlogin  "+file+"\nas     jwt ")
		require.Contains(t, said["login"], "may    manage at project fraud, any domain, org flyte")
		require.Contains(t, read(t, f.home+"/opened"), k.issuer+"/protocol/openid-connect/auth?")
		require.NotContains(t, read(t, f.home+"/environment"), "INJECT_")
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode())

		ok("create", "secret", "MINE", "value", "-p", "fraud", "-d", "d", "--profile", "work")
		require.Contains(t, ok(list...), "MINE\n")
		require.Contains(t, ok("whoami", "--profile", "work"), "login  "+file+"\nas     jwt ")
		out, err := inject(ca, "get", "secret", "--store", f.store).CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		failed(inject(nil, "create", "secret", "MINE", "value", "-p", "other", "-d", "d", "--profile", "work"),
			"access denied")
	})

	t.Run("other servers and credentials", func(t *testing.T) {
		// The same server by another name, and another server: neither gets the token.
		_, port, _ := strings.Cut(f.server.host(), ":")
		failed(inject(ca, "get", "secret", "--store", "grpcs://localhost:"+port), "credentials")
		require.NotContains(t, ok("whoami", "--profile", "work", "--token-file", f.home+"/token"), "login")
		failed(inject(append(ca, "INJECT_STORE="+f.store, "INJECT_TOKEN=wrong"), "get", "secret"),
			"is the token or certificate meant for")
		failed(inject(nil, "login", "--profile", "work", "--token-file", f.home+"/token"), "a login would not be used")
		require.NoError(t, os.Chmod(file, 0o644))
		failed(inject(nil, list...), "mode 0644): run chmod 600 "+file)
		require.NoError(t, os.Chmod(file, 0o600))
	})

	t.Run("stopped", func(t *testing.T) {
		before := read(t, file)
		require.NoError(t, os.Remove(f.home+"/opened"))
		cmd := inject(nil, "login", "--profile", "work")
		var out harness.Buffer
		cmd.Stderr = &out
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { _, err := os.Stat(f.home + "/opened"); return err == nil }, time.Minute,
			10*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		require.Error(t, cmd.Wait())
		require.Equal(t, 130, cmd.ProcessState.ExitCode())
		require.Contains(t, out.String(), "stopped by a signal (interrupt); nothing was stored")
		require.Equal(t, before, read(t, file))
	})

	t.Run("another issuer", func(t *testing.T) {
		before := read(t, file)
		f.write(strings.TrimPrefix(file, f.home), strings.Replace(before, k.issuer+`"`, k.issuer+`-before"`, 1))
		failed(inject(nil, "login", "--profile", "work"), "now names the issuer \""+k.issuer+"\"",
			"run inject logout --profile work first")
		f.write(strings.TrimPrefix(file, f.home), before)
	})

	t.Run("device, and refresh", func(t *testing.T) {
		k.life(life)
		cmd := inject(nil, "login", "--profile", "work")
		cmd.Env = cmd.Env[:2] // no BROWSER, no DISPLAY
		said["device"] = k.interactive(t, cmd, onDevice, "Device Login Successful")
		before := tokens()
		time.Sleep((life + 1) * time.Second)
		require.Contains(t, ok(list...), "MINE")
		after := tokens()
		require.NotEqual(t, before, after)

		// Many at the same time: the issuer ends the session if a refresh token comes twice.
		for range 3 {
			var wait sync.WaitGroup
			for range 6 {
				wait.Go(func() {
					if out, err := inject(nil, list...).CombinedOutput(); err != nil {
						t.Errorf("%v: %s", err, out)
					}
				})
			}
			wait.Wait()
		}
		require.NotEqual(t, after, tokens())
	})

	t.Run("ended", func(t *testing.T) {
		k.endSessions()
		for _, args := range [][]string{list, {"--profile", "work", "--secret", "MINE", "--", "true"}} {
			failed(inject(nil, args...), "the login at "+k.address+" has ended: invalid_grant",
				"hint: log in again: inject login --profile work")
		}
		said["again"] = k.interactive(t, inject(nil, "login", "--profile", "work"), inBrowser,
			"You can close this page")
		require.Contains(t, ok(list...), "MINE")
	})

	t.Run("logout", func(t *testing.T) {
		before := tokens()
		said["logout"] = ok("logout", "--profile", "work")
		require.Contains(t, said["logout"], "revoked by their issuer")
		require.NoFileExists(t, file)
		failed(inject(nil, list...), "credentials")
		r, err := http.PostForm(k.issuer+"/protocol/openid-connect/token", url.Values{
			"grant_type": {"refresh_token"}, "client_id": {"inject"}, "refresh_token": {before.Refresh},
		})
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		require.Equal(t, http.StatusBadRequest, r.StatusCode)
		require.Contains(t, ok("logout", "--profile", "work"), "there is no login for "+f.server.host())
	})
	said["audit"], said["log"] = f.audited(), f.server.stderr.String()
	require.NoError(t, harness.FindLeak(said, everything))
}
