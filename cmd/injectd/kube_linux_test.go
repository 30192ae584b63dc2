package main_test

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// kubernetes is the API server of all tests of this package.
var kubernetes harness.SharedKubernetes

// storeVerbs is what a store needs to do with the Secrets of its namespace.
var storeVerbs = []string{"create", "delete", "get", "list", "update"}

// newNamespace makes a namespace, and a user who may do verbs with its Secrets, and returns its name and
// the user's kubeconfig.
func newNamespace(t *testing.T, k *harness.Kubernetes, verbs ...string) (name, kubeconfig string) {
	t.Helper()
	name = k.Namespace(t)
	return name, k.User(t, name, []harness.Rule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: verbs},
		{
			APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{name},
			Verbs: []string{"get"},
		},
	})
}

// makeNamespace is the command namespace of scripts.
func makeNamespace(t *testing.T, ts *testscript.TestScript, name string, verbs ...string) {
	t.Helper()
	if len(verbs) == 0 {
		verbs = storeVerbs
	}
	k := kubernetes.Get(t)
	namespace, kubeconfig := newNamespace(t, k, verbs...)
	ts.Setenv(name, namespace)
	ts.Setenv(name+"_URL", "kube://"+namespace+"?kubeconfig="+kubeconfig)
	ts.Setenv(name+"_CONFIG", kubeconfig)
	ts.Setenv(name+"_ADMIN", "kube://"+namespace+"?kubeconfig="+k.Kubeconfig())
}

// callAPI is the command api of scripts.
func callAPI(t *testing.T, ts *testscript.TestScript, args []string) {
	t.Helper()
	k := kubernetes.Get(t)
	name, method, path := args[0], args[1], args[2]
	call := func(body any) {
		code, answer, err := k.Try(t.Context(), method, "/api/v1/namespaces/"+ts.Getenv(name)+"/"+path, body)
		ts.Check(err)
		if code/100 != 2 {
			ts.Fatalf("%s %s: %d: %s", method, path, code, answer)
		}
	}
	if len(args) < 4 {
		if method == http.MethodGet || method == http.MethodDelete {
			call(nil)
		}
		return
	}
	for d := yaml.NewDecoder(strings.NewReader(ts.ReadFile(args[3]))); ; {
		var object map[string]any
		err := d.Decode(&object)
		if errors.Is(err, io.EOF) {
			return
		}
		ts.Check(err)
		if metadata, ok := object["metadata"].(map[string]any); ok {
			delete(metadata, "namespace") // it is that of the path
		}
		call(object)
	}
}

// serveKube starts a server of a namespace.
func serveKube(t *testing.T, namespace, kubeconfig string, flags ...string) *process {
	t.Helper()
	p, err := startServer(t.TempDir(), nil, append([]string{
		"--insecure", "--store", "kube://" + namespace + "?kubeconfig=" + kubeconfig,
	}, flags...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.stop(syscall.SIGKILL) })
	return p
}

func dialInsecure(t *testing.T, p *process) *rpc.Client {
	t.Helper()
	c, err := rpc.Open(rpc.Options{Address: p.host()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// A server is not ready while the API server cannot be reached, and is ready again by itself. It asks the
// API server once a second, however often it is asked itself.
func TestKubeReady(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	namespace, kubeconfig := newNamespace(t, k, storeVerbs...)
	p := serveKube(t, namespace, kubeconfig)
	probe := func() string {
		r, err := http.Get("http://" + p.ops + "/readyz")
		require.NoError(t, err)
		defer r.Body.Close() //nolint:errcheck // read whole
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return fmt.Sprintf("%d %s", r.StatusCode, text)
	}
	asked := func() int { return strings.Count(read(t, k.AuditLog()), "/namespaces/"+namespace+"/secrets/") }

	before, began := asked(), time.Now()
	for range 500 {
		require.Equal(t, "200 ok\n", probe())
	}
	require.LessOrEqual(t, asked()-before, int(time.Since(began)/time.Second)+2)

	c := dialInsecure(t, p)
	ref := secret.Ref{Scope: task, Key: "K"}
	value := awkward()
	require.NoError(t, c.Create(t.Context(), ref, secret.NewValue(value), store.Regular))
	k.KillAPI()
	const down = "503 the store cannot be read: connection refused\n"
	require.Eventually(t, func() bool { return probe() == down }, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		said := p.stderr.String()
		return strings.Contains(said, "not ready") && strings.Contains(said, "dial tcp "+k.Addr)
	}, time.Minute, time.Millisecond, "the log says where")
	_, err := c.Resolve(t.Context(), task, []secret.Declaration{{Key: "K"}})
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotErrorIs(t, err, secret.ErrNotFound)

	require.NoError(t, k.StartAPI())
	require.Eventually(t, func() bool { return probe() == "200 ok\n" }, time.Minute, 50*time.Millisecond)
	got, err := c.Resolve(t.Context(), task, []secret.Declaration{{Key: "K"}})
	require.NoError(t, err)
	require.True(t, got[0].Value.Equal(secret.NewValue(value)))
}

// A migration to an API server that is killed ends soon, tells what it did, and goes on when there is one
// again.
func TestKubeMigrateOutage(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	namespace, kubeconfig := newNamespace(t, k, storeVerbs...)
	n := 3000
	if testing.Short() {
		n = 1000
	}
	m := newMoved(t, n, 1, func() []byte { return random(100) })
	migrate := func() (stdout, stderr *harness.Buffer, cmd *exec.Cmd) {
		cmd = exec.Command(filepath.Join(binaries, "injectd"), "migrate", "--from", "file:from.db", "--from-key-file",
			"from.key", "--to", "kube://"+namespace+"?kubeconfig="+kubeconfig)
		cmd.Dir, cmd.Env = m.dir, []string{"HOME=" + m.dir}
		stdout, stderr = &harness.Buffer{}, &harness.Buffer{}
		cmd.Stdout, cmd.Stderr = stdout, stderr
		return stdout, stderr, cmd
	}
	objects := func() int {
		return strings.Count(strings.Join(slices.Collect(maps.Keys(k.Dump(t))), "\n"), "/secrets/"+namespace+"/")
	}

	stdout, stderr, cmd := migrate()
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return objects() > n/10 }, time.Minute, 10*time.Millisecond)
	k.KillAPI()
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, stderr.String(), "ended early, because the rest would fail as well: ")
	require.Contains(t, stderr.String(), "hint: run it again: it goes on")
	done := objects()
	require.Less(t, done, n)
	created := strings.Count(stdout.String(), "created  ")
	require.LessOrEqual(t, created, done, "what was created is there; of what failed some may be")
	require.LessOrEqual(t, done-created, 16)

	require.NoError(t, k.StartAPI())
	stdout, stderr, cmd = migrate()
	require.NoError(t, cmd.Run(), stderr.String())
	require.Contains(t, stderr.String(), fmt.Sprintf("injectd: %d secrets: %d created, %d equal", n, n-done, done))
	require.Equal(t, n-done, strings.Count(stdout.String(), "created  "))
	require.Equal(t, n, objects())
}

// Flyte's own command line manages the secrets of a namespace through a server, and Flyte's own service
// would find each where it looks for it.
func TestKubeFlyte(t *testing.T) {
	t.Parallel()
	k := kubernetes.Get(t)
	namespace, kubeconfig := newNamespace(t, k, storeVerbs...)
	f := startFlyteWith(t, "", "--store", "kube://"+namespace+"?kubeconfig="+kubeconfig)
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "create, get, delete secret, whoami")
	value := "'\"$HOME`\\ é%s " + rand.Text()
	scope := []string{"--project", "p", "--domain", "development"}
	f.ok(slices.Concat([]string{"create", "secret", "KEY", "--value", value}, scope)...)
	require.Equal(t, []string{"KEY"}, f.names(scope...))
	f.failed("Resource already exists", slices.Concat([]string{"create", "secret", "KEY", "--value", "w"}, scope)...)
	got, ok := f.value("p", "development", "KEY")
	require.True(t, ok, got)
	require.Equal(t, base64.StdEncoding.EncodeToString([]byte(value)), got)

	const id = "u__org__flyte__domain__development__project__p__key__KEY"
	sum := md5.Sum([]byte(id))
	var o struct{ Data map[string][]byte }
	require.NoError(t, json.Unmarshal(k.Call(t, http.MethodGet,
		"/api/v1/namespaces/"+namespace+"/secrets/"+hex.EncodeToString(sum[:]), nil), &o))
	require.Equal(t, map[string][]byte{id: []byte(value)}, o.Data)

	f.ok(slices.Concat([]string{"delete", "secret", "KEY"}, scope)...)
	f.failed("secret KEY not found", slices.Concat([]string{"get", "secret", "KEY"}, scope)...)

	// The value was in that Secret and nowhere else: not in what the server and the API server logged.
	texts := map[string]string{
		"stderr": f.server.stderr.String(), "stdout": f.server.stdout.String(), "audit": f.audited(),
		"the API server's audit log": read(t, k.AuditLog()),
	}
	require.Contains(t, texts["the API server's audit log"], hex.EncodeToString(sum[:]), "it has the Secret")
	require.NoError(t, harness.FindLeak(texts, map[string]string{"KEY": value}))
}
