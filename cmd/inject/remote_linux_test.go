package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/policy"
	"inject/resolver/serve/transport"
	"inject/resolver/store/storetest"
)

// serverRules is the policy of the server of these tests.
const serverRules = `
version: 1
rules:
  - name: platform
    identity: {token: platform}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
  - name: tasks
    identity: {spiffe: "spiffe://example.org/project/{project}/domain/{domain}"}
    resolve: {project: "{project}", domain: "{domain}"}
  - name: one key
    identity: {token: one-key}
    resolve: {project: p, domain: d, keys: [K]}
`

// server is the real server's code, on a port of its own.
type server struct {
	t       *testing.T
	dir     string
	store   string // the address as --store takes it
	address string
	tokens  map[string]string // by name
	audit   *harness.Buffer
	stop    func()
}

// path returns the path of a file in the server's folder.
func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) write(name, text string) string {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(text), 0o600))
	return s.path(name)
}

// startServer starts a server: with TLS, or without TLS for every caller on this machine.
func startServer(t *testing.T, tls bool, changes ...func(*serve.Options)) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), tokens: map[string]string{}, audit: &harness.Buffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	o := serve.Options{
		Store: storetest.Memory(), Audit: serve.NewAudit(s.audit), Log: hclog.NewNullLogger(),
		Metrics: prometheus.NewRegistry(), Cluster: "test", Org: secret.DefaultOrg, AnyOrg: true,
	}
	var certificates *transport.Certificates
	if tls {
		a := harness.NewAuthority(t, s.dir)
		a.Issue("server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
		a.Issue("task", a.SPIFFE("spiffe://example.org/project/p/domain/d"))
		var err error
		certificates, err = transport.LoadCertificates(
			ctx,
			transport.CertificateFiles{
				Cert:     s.path("server.pem"),
				Key:      s.path("server.key"),
				ClientCA: s.path("ca.pem"),
			},
			o.Log,
		)
		require.NoError(t, err)
		lines := ""
		for _, name := range []string{"platform", "one-key"} {
			token, line, err := identity.NewToken(name)
			require.NoError(t, err)
			s.tokens[name] = string(token.Reveal())
			s.write(name+".token", s.tokens[name]+"\n")
			lines += line + "\n"
		}
		tokens, err := identity.NewTokens(ctx, s.write("tokens", lines), o.Log)
		require.NoError(t, err)
		o.Authenticator = identity.Chain{identity.MTLS{}, tokens}
		p, err := policy.Parse([]byte(serverRules), secret.DefaultOrg)
		require.NoError(t, err)
		o.Policy = func() *policy.Policy { return p }
	}
	for _, change := range changes {
		change(&o)
	}
	limits := transport.Limits{Connections: 100, Streams: 100}
	port, err := transport.Listen(ctx, "127.0.0.1:0", certificates, limits)
	require.NoError(t, err)
	s.address = port.Addr().String()
	s.store = "grpc://" + s.address
	if tls {
		s.store = "grpcs://" + s.address
	}
	done := make(chan error, 1)
	go func() {
		done <- transport.Serve(ctx, transport.HTTP(serve.New(o).Handler(), limits, o.Log), port, 5*time.Second)
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(s.stop)
	return s
}

// A call is one run of inject against a server: what it printed and its exit code.
type call struct {
	t              *testing.T
	stdout, stderr string
	code           int
	fails          int // the code of a failure of the verb
}

// inject runs inject with stdin and args, and with env added to its environment.
func (s *server) inject(stdin string, env []string, args ...string) call {
	s.t.Helper()
	cmd := command(s.dir, args...)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok {
		require.NoError(s.t, err)
	} else {
		require.Less(s.t, exit.ExitCode(), 128, stderr.String())
	}
	fails := 125
	if slices.Contains([]string{
		"create", "update", "get", "delete", "explain", "whoami", "status", "login", "logout",
	}, args[0]) {
		fails = 1
	}
	return call{s.t, stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), fails}
}

// as returns the flags with which a caller identifies itself.
func (s *server) as(name string, args ...string) []string {
	flags := []string{"--store", s.store, "--ca-file", s.path("ca.pem"), "--token-file", s.path(name + ".token")}
	if name == "task" {
		flags = []string{
			"--store",
			s.store,
			"--ca-file",
			s.path("ca.pem"),
			"--cert-file",
			s.path("task.pem"),
			"--cert-key-file",
			s.path("task.key"),
		}
	}
	if len(args) > 1 && args[1] == "secret" {
		return append(args[:2:2], append(flags, args[2:]...)...)
	}
	return append(args[:1:1], append(flags, args[1:]...)...)
}

// ok requires that inject succeeded.
func (c call) ok() call {
	c.t.Helper()
	require.Equal(c.t, 0, c.code, c.stderr)
	return c
}

// failed requires that inject failed with the code of its verb, and that stderr contains each of texts.
func (c call) failed(texts ...string) call {
	c.t.Helper()
	require.Equal(c.t, c.fails, c.code, c.stderr)
	for _, text := range texts {
		require.Contains(c.t, c.stderr, text)
	}
	return c
}

// without requires that no value is in the output, neither plain nor in a usual encoding.
func (c call) without(values ...string) call {
	c.t.Helper()
	hides := func(text, value string) bool {
		quoted := fmt.Sprintf("%q", value)
		for _, form := range []string{
			value, quoted[1 : len(quoted)-1], base64.StdEncoding.EncodeToString([]byte(value)),
			hex.EncodeToString([]byte(value)), value[len(value)-20:],
		} {
			if strings.Contains(text, form) {
				return false
			}
		}
		return true
	}
	for _, value := range values {
		require.False(c.t, hides(c.stdout+c.stderr+value, value), "the search finds a planted value")
		require.True(c.t, hides(c.stdout, value), "stdout has it")
		require.True(c.t, hides(c.stderr, value), "stderr has it")
	}
	return c
}

func awkward() string { return "'\"$HOME`\\\n\xff%s " + rand.Text() }

// Secrets on a server work like secrets in a file: create, complete, run, update, delete.
func TestServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, true)
	first, second := awkward(), awkward()
	s.inject(
		first,
		nil,
		s.as("platform", "create", "secret", "K", "-p", "p", "--from-file", "-")...).ok().without(
		first,
	)
	s.inject(
		first,
		nil,
		s.as("platform", "create", "secret", "K", "-p", "p")...).failed(
		"K at project p: secret already exists",
		"inject update secret K -p p",
	).without(
		first,
	)
	s.inject(first, nil, s.as("platform", "create", "secret", "FILE")...).ok()
	s.inject(second, nil, s.as("platform", "update", "secret", "K", "-p", "p")...).ok().without(second)

	require.Contains(t, s.inject("", nil, s.as("platform", "get", "secret")...).ok().without(first, second).stdout,
		"p        -       K     regular")
	require.Equal(t, "FILE\n",
		s.inject("", nil, s.as("platform", "get", "secret", "FILE", "-o", "name")...).ok().stdout)
	s.inject(
		"",
		nil,
		s.as("platform", "get", "secret", "K")...).failed(
		"secret not found",
		"it is at project p: inject get secret K -p p",
	)
	complete := append([]string{"__complete"}, s.as("platform", "delete", "secret")...)
	require.Contains(t, s.inject("", nil, append(complete, "")...).ok().stdout, "FILE\n")
	require.Contains(t, s.inject("", nil, append(complete, "-p", "p", "")...).ok().stdout, "K\n")

	// The task does not give its scope: the server knows it.
	got := s.inject(
		"",
		nil,
		s.as(
			"task",
			"run",
			"--secret",
			"K=V",
			"--secret-file",
			"FILE",
			"--files-dir",
			s.path("files"),
			"--",
			"sh",
			"-c",
			`printf %s "$V" > "$1/k"; cat "$1/files/FILE" > "$1/file"; printf 'it is <%s>' "$V"; cat "$1/files/FILE" >&2`,
			"sh",
			s.dir,
		)...).ok().without(
		first,
		second,
	)
	require.Equal(t, "it is <[REDACTED:K]>", got.stdout)
	require.Equal(t, "[REDACTED:FILE]", got.stderr)
	for name, want := range map[string]string{"k": second, "file": first} {
		b, err := os.ReadFile(s.path(name))
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	require.NoDirExists(t, s.path("files"))

	got = s.inject(
		"",
		nil,
		s.as("task", "explain", "--secret", "K", "--secret-file", "FILE")...).ok().without(
		first,
		second,
	)
	require.Contains(t, got.stdout, "task scope:  project p, domain d\n")
	require.Regexp(
		t,
		`(?m)^  1  project p, domain d +not found\n\* 2  project p +found\n  3  domain d +not tried\n  4  org flyte +not tried$`,
		got.stdout,
	)
	require.Regexp(t, `(?m)^\* 4  org flyte +found$`, got.stdout)
	s.inject("", nil, s.as("task", "explain", "-p", "other", "-d", "d", "--secret", "K")...).failed("denied")

	s.inject(
		"",
		nil,
		s.as("task", "init", "--files", "--secret-file", "K", "--files-dir", s.path("placed"))...).ok().without(
		second,
	)
	b, err := os.ReadFile(s.path("placed/K"))
	require.NoError(t, err)
	require.Equal(t, second, string(b))

	require.Equal(t, "<[REDACTED:K]>",
		s.inject("<"+second+">", nil, s.as("task", "redact", "--secret", "K")...).ok().stdout)

	got = s.inject("", nil, s.as("platform", "delete", "secret", "K", "-p", "p")...).ok()
	require.Equal(t, "deleted secret K at project p\n", got.stdout)
	s.inject(
		"",
		nil,
		s.as("platform", "delete", "secret", "K", "-p", "p")...).failed(
		"secret not found",
		"inject get secret lists the secrets and their scopes",
	)
	s.inject("", nil, s.as("task", "run", "--secret", "K", "--secret", "L", "--", "echo", "started")...).failed(
		"K: secret not found", "L: secret not found", "looked in: project p, domain d; project p; domain d; org flyte")
	call{t: t, stdout: s.audit.String()}.without(first, second)
}

// A server on loopback without TLS identifies no caller.
func TestServerOnLoopback(t *testing.T) {
	t.Parallel()
	s := startServer(t, false)
	value := awkward()
	s.inject(value, nil, "create", "secret", "--store", s.store, "K").ok()
	require.Equal(
		t,
		"[REDACTED:K]",
		s.inject("", []string{"INJECT_STORE=" + s.store}, "--secret", "K", "--", "sh", "-c",
			`printf %s "$K"`).ok().without(
			value,
		).stdout,
	)
	s.inject("", nil, "--store", "grpcs://"+s.address, "--secret", "K", "--", "true").failed(
		"TLS with "+s.address,
		"hint: the server does not speak TLS on that port",
	)
	s.inject("", []string{"INJECT_STORE=" + s.store, "INJECT_TOKEN=" + value[len(value)-26:]}, "get",
		"secret").failed(
		"a token or a certificate can only be sent over TLS",
	).without(
		value,
	)
	s.inject("", nil, "--store", "grpc://injectd.example:443", "--secret", "K", "--", "true").failed("in the clear")
}

// If the server refuses a caller, the error says why and what to do. A
// wrong server gets no credentials.
func TestServerRefuses(t *testing.T) {
	t.Parallel()
	s, other := startServer(t, true), startServer(t, true)
	value := awkward()
	s.inject(value, nil, s.as("platform", "create", "secret", "K")...).ok()
	s.inject(value, nil, s.as("platform", "create", "secret", "OTHER")...).ok()
	wrong := "inj_" + rand.Text() + rand.Text()
	address, ca, token := []string{
		"--store",
		s.store,
	}, []string{
		"--ca-file",
		s.path("ca.pem"),
	}, []string{
		"--token-file",
		s.path("one-key.token"),
	}
	read := func(name string) string {
		text, err := os.ReadFile(s.path(name))
		require.NoError(t, err)
		return string(text)
	}
	s.write("both.pem", read("task.pem")+read("task.key"))
	s.inject("", nil, "--store", s.store, "--ca-file", s.path("ca.pem"), "--cert-file", s.path("both.pem"), "--secret",
		"K", "--", "true").ok()
	// open returns a copy of a file that everyone may read.
	open := func(name string) string {
		path := s.write("open "+name, read(name))
		require.NoError(t, os.Chmod(path, 0o644))
		return path
	}
	for name, c := range map[string]struct {
		args [][]string
		told []string
	}{
		"no token": {[][]string{address, ca}, []string{"no credentials", s.address, "--token-file"}},
		"another token": {
			[][]string{address, ca, {"--token-file", s.write("wrong", wrong)}},
			[]string{"the credentials were refused", s.address, "expired"},
		},
		"the system's CAs": {
			[][]string{address, token},
			[]string{"TLS with " + s.address, "unknown authority", "--ca-file"},
		},
		"another CA": {
			[][]string{address, token, {"--ca-file", other.path("ca.pem")}},
			[]string{"TLS with " + s.address, "is signed by none of the authorities in", other.path("ca.pem")},
		},
		"another's certificate": {
			[][]string{address, ca, {"--cert-file", other.path("task.pem"), "--cert-key-file", other.path("task.key")}},
			[]string{s.address + " does not accept the client certificate", "--cert-file"},
		},
		"no key": {
			[][]string{address, ca, {"--cert-file", s.path("task.pem")}},
			[]string{
				"the client's certificate and key in " + s.path("task.pem"),
				"the private key there, too, or in --cert-key-file",
			},
		},
		"no certificate": {
			[][]string{address, ca, {"--cert-key-file", s.path("task.key")}},
			[]string{"a private key is given without its certificate", "--cert-file"},
		},
		"a token for all": {
			[][]string{address, ca, {"--token-file", open("one-key.token")}},
			[]string{"the file of the token, " + open("one-key.token") + ": it is open to others than its owner " +
				"(mode 0644): run chmod 600 " + open("one-key.token")},
		},
		"a key for all": {
			[][]string{address, ca, {"--cert-file", s.path("task.pem"), "--cert-key-file", open("task.key")}},
			[]string{"the file of the private key, " + open("task.key") + ": it is open to others"},
		},
		"a certificate with its key for all": {
			[][]string{address, ca, {"--cert-file", open("both.pem")}},
			[]string{"the file of the private key, " + open("both.pem") + ": it is open to others", "--cert-key-file"},
		},
		"no TLS": {
			[][]string{{"--store", "grpc://" + s.address}},
			[]string{s.address, "does the server expect TLS?"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // a case with an outage waits
			s := *s
			s.t = t
			got := s.inject(
				"",
				nil,
				append(slices.Concat(c.args...), "--secret", "K", "--", "echo", "started")...).failed(
				c.told...).without(value, wrong, s.tokens["one-key"])
			require.Empty(t, got.stdout)
		})
	}

	// The error for a denied key is the same as for a missing key.
	denied := s.inject(
		"",
		nil,
		s.as("one-key", "run", "--secret", "OTHER", "--", "true")...).failed(
		"OTHER: secret not found",
	).without(
		value,
	)
	absent := s.inject(
		"",
		nil,
		s.as("one-key", "run", "--secret", "ABSENT", "--", "true")...).failed(
		"ABSENT: secret not found",
	)
	require.Equal(t, absent.stderr, strings.ReplaceAll(denied.stderr, "OTHER", "ABSENT"))
	s.inject("", nil, s.as("one-key", "run", "--secret", "K", "--", "true")...).ok()
	denied = s.inject("", nil, s.as("one-key", "delete", "secret", "OTHER")...).failed("secret not found")
	absent = s.inject("", nil, s.as("one-key", "delete", "secret", "ABSENT")...).failed("secret not found")
	require.Equal(t, absent.stderr, strings.ReplaceAll(denied.stderr, "OTHER", "ABSENT"))
	require.NotContains(t, denied.stderr, "no scope of org", "the error claims a search that was not made")
	s.inject("", nil, s.as("one-key", "create", "secret", "NEW", "v")...).failed("denied")

	// Flags for a server are refused without its address: otherwise another store would be changed.
	for _, flag := range []string{"--token-file", "--ca-file", "--cert-file", "--cert-key-file"} {
		s.inject("", nil, "create", "secret", flag, s.path("ca.pem"), "K", "v").failed(
			flag+" is for a server",
			"--store grpcs://host:port",
		)
	}
	require.NoDirExists(t, s.path(".local"))
	// A flag for making a store file is refused with a server.
	s.inject(
		"",
		nil,
		s.as("platform", "create", "secret", "--passphrase", "NEW", "v")...).failed(
		"--passphrase is for a new store file of your own",
	)
	s.inject("", []string{"INJECT_PASSPHRASE=true"}, s.as("platform", "create", "secret", "NEW2", "v")...).ok()
}

// --key-file was the private key for a server, too. With a server it still is, with a warning; a
// variable is taken for it only where no other key is.
func TestOldKeyFile(t *testing.T) {
	t.Parallel()
	s := startServer(t, true)
	value := rand.Text()
	s.inject(value, nil, s.as("platform", "create", "secret", "K")...).ok()
	pem := func(name string) string {
		text, err := os.ReadFile(s.path(name))
		require.NoError(t, err)
		return string(text)
	}
	both := s.write("both.pem", pem("task.pem")+pem("task.key"))
	age := s.write("age.txt", "AGE-SECRET-KEY-1"+rand.Text())
	flag := "--key-file is the old name of --cert-key-file"
	variable := "INJECT_KEY_FILE is the old name of INJECT_CERT_KEY_FILE"
	cert, key := s.path("task.pem"), s.path("task.key")
	for name, c := range map[string]struct {
		flags, env []string
		warning    string
		failed     string
	}{
		"present":      {[]string{"--cert-file", cert, "--cert-key-file", key}, nil, "", ""},
		"both in one":  {[]string{"--cert-file", both}, nil, "", ""},
		"old flag":     {[]string{"--cert-file", cert, "--key-file", key}, nil, flag, ""},
		"old variable": {[]string{"--cert-file", cert}, []string{"INJECT_KEY_FILE=" + key}, variable, ""},
		"old variable beside the new one": {nil, []string{
			"INJECT_CERT_FILE=" + cert, "INJECT_CERT_KEY_FILE=" + key, "INJECT_KEY_FILE=" + age,
		}, "", ""},
		"variable of a store file": {[]string{"--cert-file", both}, []string{"INJECT_KEY_FILE=" + age}, "", ""},
		"old flag of a store file": {
			[]string{"--cert-file", both, "--key-file", age},
			nil, flag,
			"the client's certificate and key in " + both,
		},
		"both flags": {
			[]string{"--cert-file", cert, "--cert-key-file", key, "--key-file", age},
			nil, "",
			"--key-file opens a store file, and the store is a server",
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"run", "--store", s.store, "--ca-file", s.path("ca.pem")}, c.flags...)
			got := s.inject("", c.env, append(args, "--secret", "K", "--", "sh", "-c", `printf %s "$K" | wc -c`)...)
			if c.failed != "" {
				got.failed(c.failed)
			} else {
				got.ok()
				require.Equal(t, strconv.Itoa(len(value)), strings.TrimSpace(got.stdout))
			}
			require.Equal(t, min(1, len(c.warning)), strings.Count(got.stderr, "old name"), got.stderr)
			require.Contains(t, got.stderr, c.warning)
			got.without(value)
		})
	}
}

// A token from the environment is sent only to the server of the environment: a person who
// controls the command line alone cannot have it sent to a server of their own.
func TestTokenGoesNowhereElse(t *testing.T) {
	t.Parallel()
	s, other := startServer(t, true), startServer(t, true)
	text, file := "INJECT_TOKEN="+s.tokens["one-key"], "INJECT_TOKEN_FILE="+s.path("one-key.token")
	s.inject("value of k", nil, s.as("platform", "create", "secret", "K")...).ok()
	for _, token := range []string{text, file} {
		variable, _, _ := strings.Cut(token, "=")
		for _, env := range [][]string{
			{token},
			{token, "INJECT_STORE=" + s.store},
			{token, "INJECT_STORE=file:///nowhere"},
		} {
			s.inject("", env, "--store", other.store, "--ca-file", other.path("ca.pem"), "--secret", "K", "--", "true").
				failed(
					"the token of "+variable+" goes only to the server in INJECT_STORE",
					"INJECT_STORE="+other.store,
				).without(s.tokens["one-key"])
		}
		ca := "INJECT_CA_FILE=" + s.path("ca.pem")
		s.inject("", []string{token, ca, "INJECT_STORE=" + s.store}, "--secret", "K", "--", "true").ok()
		s.inject("", []string{token, ca, "INJECT_STORE=" + s.store},
			"--store", "GRPCS"+strings.TrimPrefix(s.store, "grpcs"), "--secret", "K", "--", "true").ok()
		s.inject("", []string{token, ca}, s.as("platform", "get", "secret")...).ok() // another token, by flag
		// Variables for a store file are ignored with a server, and those for a server with a file.
		s.inject("", []string{token, ca, "INJECT_STORE=" + s.store, "INJECT_KEY_FILE=/nowhere", "INJECT_KEY=nothing"},
			"--secret", "K", "--", "true").ok()
		s.inject("v", []string{token, ca, "INJECT_STORE=" + s.store}, "create", "secret",
			"--store", "file://"+s.path(variable), "K").ok()
	}
	require.Empty(t, other.audit.String(), "the other server got a request")
}

// The task gets neither the token nor the path of its file, and the debug output of libraries
// contains no value.
func TestTokenIsOurs(t *testing.T) {
	t.Parallel()
	s := startServer(t, true)
	value := awkward()
	s.inject(value, nil, s.as("platform", "create", "secret", "K")...).ok()
	env := []string{
		"INJECT_STORE=" + s.store,
		"INJECT_CA_FILE=" + s.path("ca.pem"),
		"INJECT_TOKEN=" + s.tokens["one-key"],
		"CANARY=" + rand.Text(),
		"GODEBUG=http2debug=2",
		"GRPC_GO_LOG_SEVERITY_LEVEL=info",
		"GRPC_GO_LOG_VERBOSITY_LEVEL=99",
	}
	got := s.inject("", env, "--secret", "K", "--no-redact", "--", "env", "-u", "K", "-u", "_UNION_K").ok().without(
		value,
		s.tokens["one-key"],
	)
	require.Contains(t, got.stdout, "CANARY=")
	require.NotContains(t, strings.ReplaceAll(got.stdout, "INJECT_PARENT=", ""), "INJECT_")

	// A token is masked in errors, too, if it was pasted into an argument.
	s.inject("", env, "--secret", "K", "--", s.tokens["one-key"]+"/no/such/command")
	got = s.inject("", env, "--task", s.path(s.tokens["one-key"]), "--", "true").failed(
		"[REDACTED:INJECT_TOKEN]",
	).without(
		s.tokens["one-key"],
	)
	require.NotContains(t, got.stderr, "inj_")
}

// A server that is down or does not answer is an outage: the task may be retried.
func TestServerIsDown(t *testing.T) {
	t.Parallel()
	s := startServer(t, true)
	s.inject("value of k", nil, s.as("platform", "create", "secret", "K")...).ok()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close() //nolint:errcheck // of a test
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	s.stop()
	for _, c := range []struct{ address, timeout, text string }{
		{s.address, "1m", "connection refused"},
		{silent.Addr().String(), "1s", "no answer from " + silent.Addr().String() + " in time"},
	} {
		s.store = "grpcs://" + c.address
		message := s.path("message")
		s.inject(
			"",
			nil,
			s.as("task", "run", "--secret", "K", "--resolve-timeout", c.timeout, "--termination-log", message,
				"--", "touch", s.path("started"))...).failed(
			c.address,
			c.text,
		)
		b, err := os.ReadFile(message)
		require.NoError(t, err)
		var m struct {
			Reason, Message string
			Retryable       bool
		}
		require.NoError(t, json.Unmarshal(b, &m))
		require.Equal(t, "unavailable", m.Reason)
		require.True(t, m.Retryable)
		require.Contains(t, m.Message, c.address)
		require.NoFileExists(t, s.path("started"))
	}
	s.store = "grpcs://" + s.address
	s.inject(
		"",
		nil,
		s.as("platform", "create", "secret", "L", "value of l")...).failed("L at org flyte: ", s.address,
		"hint: is an injectd running there")
}
