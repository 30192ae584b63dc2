package main_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// A flyte is Flyte's command line with the configuration of one server, and that server.
type flyte struct {
	t      *testing.T
	server *process
	home   string
	flags  []string // before the verb
	store  string   // the server for inject
	audit  string   // the file

	mu   sync.Mutex
	seen map[string]int // HTTP status of the first answer, by RPC
}

// startFlyte starts a server. policy is "" for one that checks no credentials, and whose requests by
// Flyte's command line are noted on the way.
func startFlyte(t *testing.T, policy string) *flyte {
	t.Helper()
	return startFlyteWith(t, policy)
}

// startFlyteWith is startFlyte with more flags.
func startFlyteWith(t *testing.T, policy string, more ...string) *flyte {
	t.Helper()
	f := &flyte{t: t, home: t.TempDir(), seen: map[string]int{}}
	f.audit = filepath.Join(f.home, "audit.log")
	args := []string{
		"--audit-log", f.audit, "--store", "file://" + f.home + "/secrets.db", "--key-file", f.home + "/key.txt",
	}
	if policy == "" {
		args = append(args, "--insecure")
	} else {
		a := harness.NewAuthority(t, filepath.Join(f.home, "pki"))
		cert, key := a.Issue("server", harness.Local)
		out, err := exec.Command(filepath.Join(binaries, "injectd"), "token", "--tokens-file", f.home+"/tokens",
			"--out", f.home+"/token", "alice").CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		f.write("policy.yaml", policy)
		args = append(args, "--cert-file", cert, "--cert-key-file", key, "--tokens-file", f.home+"/tokens", "--policy",
			f.home+"/policy.yaml")
	}
	var err error
	f.server, err = startServer(f.home, []string{"HOME=" + f.home}, append(args, more...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.server.cmd.Process.Kill() })
	f.store = f.server.store
	if policy == "" {
		f.flags = []string{"--endpoint", f.noted(), "--insecure"}
	} else {
		_, port, _ := strings.Cut(f.server.host(), ":")
		f.write("config.yaml", fmt.Sprintf(`admin:
  endpoint: dns:///localhost:%s
  authType: ExternalCommand
  command: [cat, %s/token]
  caCertFilePath: %s/pki/ca.pem
  disableKeyring: true
`, port, f.home, f.home))
		f.flags = []string{"--config", f.home + "/config.yaml"}
	}
	return f
}

// audited returns the audit log.
func (f *flyte) audited() string {
	f.t.Helper()
	return read(f.t, f.audit)
}

func (f *flyte) write(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.home, name)
	require.NoError(f.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// noted returns the address of a proxy to the server that notes every RPC.
func (f *flyte) noted() string {
	f.t.Helper()
	to := &url.URL{Scheme: "http", Host: f.server.host()}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = func(r *http.Response) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, known := f.seen[r.Request.URL.Path]; !known {
			f.seen[r.Request.URL.Path] = r.StatusCode
		}
		return nil
	}
	s := httptest.NewServer(proxy)
	f.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// cmd returns Flyte's command line with arguments.
func (f *flyte) cmd(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	f.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, harness.SDK(f.t, "flyte"), slices.Concat(f.flags, args)...)
	cmd.Dir = f.home
	cmd.Env = []string{
		"HOME=" + f.home, "PATH=" + os.Getenv("PATH"), "FLYTE_DISABLE_SENTRY=true", "TERM=dumb",
		"NO_COLOR=1", "COLUMNS=400",
	}
	return cmd
}

// flyte runs Flyte's command line and returns what it printed, and whether it ended with 0. On a busy
// machine it sometimes aborts while it ends, after it has done its work (flyte 2.12.1). That counts
// as 0 unless it has printed an error; the tests look at what it has done.
func (f *flyte) flyte(args ...string) (string, bool) {
	f.t.Helper()
	cmd := f.cmd(args...)
	out, err := cmd.CombinedOutput()
	f.t.Logf("flyte %s: %v", strings.Join(args, " "), err)
	return string(out), ended(cmd, string(out))
}

// ended reports whether Flyte's command line, which has ended and printed out, has done its work.
func ended(cmd *exec.Cmd, out string) bool {
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	aborted := status.Signaled() && status.Signal() == syscall.SIGABRT
	return cmd.ProcessState.Success() || aborted && !strings.Contains(out, "Error")
}

// ok is flyte, and requires that it ends with 0.
func (f *flyte) ok(args ...string) string {
	f.t.Helper()
	out, ok := f.flyte(args...)
	require.True(f.t, ok, out)
	return out
}

// failed is flyte, and requires that it fails with a text.
func (f *flyte) failed(text string, args ...string) {
	f.t.Helper()
	out, ok := f.flyte(args...)
	require.False(f.t, ok, out)
	require.Contains(f.t, words(out), text)
}

// names returns the names of the secrets that are listed with arguments.
func (f *flyte) names(args ...string) (names []string) {
	f.t.Helper()
	out := f.ok(slices.Concat([]string{"--output-format", "json-raw", "get", "secret"}, args)...)
	var all []struct {
		ID struct{ Name string }
	}
	require.NoError(f.t, json.Unmarshal([]byte(out), &all), out)
	for _, one := range all {
		names = append(names, one.ID.Name)
	}
	slices.Sort(names)
	return names
}

// inject runs inject as the person who runs Flyte's command line.
func (f *flyte) inject(args ...string) (string, bool) {
	f.t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "inject"), args...)
	cmd.Env = []string{"HOME=" + f.home, "PATH=" + os.Getenv("PATH"), "INJECT_STORE=" + f.store}
	if strings.HasPrefix(f.store, "grpcs:") {
		cmd.Env = append(cmd.Env, "INJECT_CA_FILE="+f.home+"/pki/ca.pem", "INJECT_TOKEN_FILE="+f.home+"/token")
	}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// value returns the value of a secret that a task of the project p and the domain development
// gets, in base64, or false.
func (f *flyte) value(project, domain, key string) (string, bool) {
	f.t.Helper()
	out, ok := f.inject("--no-redact", "-p", project, "-d", domain, "--secret", key+"=V", "--", "sh", "-c",
		`printf %s "$V" | base64 -w0`)
	return out, ok
}

// oneIdentity lets alice do everything, and resolve as a task of the project p.
const oneIdentity = `version: 1
rules:
  - name: alice
    identity: {token: alice}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
    resolve: {project: p, domain: development}
`

// Flyte's own command line manages the secrets of a server, which tasks then get: of each scope,
// with every source of a value, without credentials and with a token over TLS.
func TestFlyteCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: each command takes a second to start")
	}
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "create, get, delete secret, whoami")
	for name, policy := range map[string]string{"insecure": "", "token": oneIdentity} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFlyte(t, policy)
			awkward := "'\"$HOME`\\ é%s " + rand.Text()
			scopes := [][]string{
				nil, {"--domain", "development"}, {"--project", "p"}, {"--project", "p", "--domain", "development"},
			}
			for i, scope := range scopes {
				key := fmt.Sprint("K", i)
				f.ok(slices.Concat([]string{"create", "secret", key, "--value", awkward}, scope)...)
				got, ok := f.value("p", "development", key)
				require.True(t, ok, got)
				require.Equal(t, base64.StdEncoding.EncodeToString([]byte(awkward)), got)
				if name == "insecure" { // the identity of a token is bound to its task
					_, ok = f.value("q", "staging", key)
					require.Equal(t, i == 0, ok, "only the org's secret is that of every task")
				}
				require.Contains(t, f.names(scope...), key)
				require.Contains(t, f.ok(slices.Concat([]string{"get", "secret", key}, scope)...), "FULLY_PRESENT")
				f.failed("Resource already exists",
					slices.Concat([]string{"create", "secret", key, "--value", "w"}, scope)...)
				f.ok(slices.Concat([]string{"delete", "secret", key}, scope)...)
				f.failed("secret "+key+" not found", slices.Concat([]string{"get", "secret", key}, scope)...)
				f.failed("secret "+key+" not found", slices.Concat([]string{"delete", "secret", key}, scope)...)
			}

			// It has no update: people delete and create.
			f.ok("create", "secret", "KEY", "--value", "one")
			f.ok("delete", "secret", "KEY")
			f.ok("create", "secret", "KEY", "--value", "two")
			got, ok := f.value("p", "development", "KEY")
			require.True(t, ok, got)
			require.Equal(t, base64.StdEncoding.EncodeToString([]byte("two")), got)

			// Bytes from a file, and a value that is typed.
			binary := make([]byte, 300)
			_, _ = rand.Read(binary)
			binary = slices.DeleteFunc(binary, func(c byte) bool { return c == 0 }) // a variable has none
			f.ok("create", "secret", "BINARY", "--from-file", f.write("binary", string(binary)))
			got, ok = f.value("p", "development", "BINARY")
			require.True(t, ok, got)
			require.Equal(t, base64.StdEncoding.EncodeToString(binary), got)
			f.typed("TYPED", awkward)
			got, ok = f.value("p", "development", "TYPED")
			require.True(t, ok, got)
			require.Equal(t, base64.StdEncoding.EncodeToString([]byte(awkward)), got)

			f.ok("create", "secret", "PULL", "--type", "image_pull", "--registry", "ghcr.io", "--username", "me",
				"--password", "pass-"+awkward)
			require.Contains(t, f.ok("get", "secret", "PULL"), "IMAGE_PULL")

			// A list has pages of ten.
			var env strings.Builder
			var want []string
			for i := range 23 {
				fmt.Fprintf(&env, "PAGE_%02d=%s\n", i, rand.Text())
				want = append(want, fmt.Sprintf("PAGE_%02d", i))
			}
			out, ok := f.inject("create", "secret", "-p", "pages", "-d", "d", "--from-env-file",
				f.write("many.env", env.String()))
			require.True(t, ok, out)
			require.Equal(t, want, f.names("--project", "pages", "--domain", "d"))

			who := f.ok("whoami")
			if name == "insecure" {
				require.Contains(t, who, `"anyone"`)
				f.requireServed("flyteidl2.auth.IdentityService/UserInfo")
			} else {
				require.Contains(t, who, `"alice"`)
			}
			audit := f.audited()
			require.Contains(t, audit, `"verb":"create"`)
			// The first request of each command has no token: that is no refusal worth a line.
			require.NotContains(t, audit, `"unauthenticated"`)
			require.NoError(t, harness.FindLeak(map[string]string{"audit": audit, "log": f.server.stderr.String()},
				map[string]string{"value": awkward, "binary": string(binary)}))
		})
	}
}

// typed creates a secret whose value is typed at the prompt.
func (f *flyte) typed(name, value string) {
	f.t.Helper()
	cmd := f.cmd("create", "secret", name)
	terminal, err := pty.Start(cmd)
	require.NoError(f.t, err)
	defer terminal.Close() //nolint:errcheck // the program has ended
	var shown strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(shown.String(), "Enter secret value") {
		n, err := terminal.Read(b)
		shown.Write(b[:n])
		require.NoError(f.t, err, shown.String())
	}
	_, err = terminal.WriteString(value + "\n")
	require.NoError(f.t, err)
	for err == nil {
		var n int
		n, err = terminal.Read(b)
		shown.Write(b[:n])
	}
	_ = cmd.Wait() // how it has ended is looked at
	require.True(f.t, ended(cmd, shown.String()), shown.String())
	require.NotContains(f.t, shown.String(), value)
}

// requireServed requires that the server serves every RPC that was asked for, and that those of
// secrets and the ones in more were asked for.
func (f *flyte) requireServed(more ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range append(more,
		"flyteidl2.cluster.ClusterService/SelectCluster", "flyteidl2.secret.SecretService/CreateSecret",
		"flyteidl2.secret.SecretService/ListSecrets", "flyteidl2.secret.SecretService/GetSecret",
		"flyteidl2.secret.SecretService/DeleteSecret",
	) {
		require.Contains(f.t, f.seen, "/"+name)
	}
	for path, status := range f.seen {
		require.NotContains(f.t, []int{http.StatusNotFound, http.StatusNotImplemented}, status, path)
	}
}

// Programs with Flyte's SDK manage secrets as its command line does.
func TestFlyteSDK(t *testing.T) {
	python := harness.SDK(t, "python")
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "flyte.remote.Secret")
	for name, policy := range map[string]string{"insecure": "", "token": oneIdentity} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFlyte(t, policy)
			config := filepath.Join(f.home, "config.yaml")
			if policy == "" {
				config = f.write("config.yaml", "admin:\n  endpoint: dns:///"+f.flags[1]+"\n  insecure: true\n")
			}
			out, ok := f.inject("create", "secret", "--from-env-file", f.write("env", "A=1\nB=2\nC=3\nD=4\n"))
			require.True(t, ok, out)
			value := "'\"$HOME`\\\n é%s " + rand.Text()
			cmd := f.cmd()
			cmd.Path, cmd.Args = python, []string{python, "manage.py", config, "FROM_SDK", f.write("value", value)}
			root, err := filepath.Abs("../../deploy/sdk")
			require.NoError(t, err)
			cmd.Dir = root
			var stderr strings.Builder
			cmd.Stderr = &stderr
			printed, err := cmd.Output()
			require.NoError(t, err, stderr.String())
			var seen map[string]any
			require.NoError(t, json.Unmarshal(printed, &seen), string(printed))
			four, five := []any{"A", "B", "C", "D"}, []any{"A", "B", "C", "D", "FROM_SDK"}
			require.Equal(t, four, seen["before"])
			require.Equal(t, five, seen["created"])
			require.Equal(t, "FROM_SDK", seen["got"])
			require.Equal(t, "regular", seen["type"])
			require.Contains(t, seen["duplicate"], "already exists")
			require.Equal(t, four, seen["deleted"])
			require.Contains(t, seen["absent"], "secret FROM_SDK not found")
			require.NotContains(t, f.audited(), `"unauthenticated"`)
			if policy == "" {
				f.requireServed()
			}
			got, ok := f.value("p", "development", "FROM_SDK")
			require.True(t, ok, got)
			require.Equal(t, base64.StdEncoding.EncodeToString([]byte(value)), got)
		})
	}
}
