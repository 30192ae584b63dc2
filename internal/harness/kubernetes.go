package harness

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// KubernetesVersion is the release of Kubernetes whose API server tests run, unless
// INJECT_TEST_KUBE_APISERVER names another one.
const KubernetesVersion = "v1.37.2"

// Kubernetes is a real API server of Kubernetes with its etcd, on loopback ports: without nodes, with
// RBAC and an audit log, and with controllers after [Kubernetes.StartControllers]. Its processes and its
// folder end with [Kubernetes.Stop], and the processes also if the test process ends in another way.
type Kubernetes struct {
	Dir  string // holds everything
	Addr string // host and port of the API server
	Etcd string // the address of etcd's clients, as a URL

	authority *Authority
	http      *http.Client // as a cluster administrator
	args      []string     // of the API server
	etcd      *process
	api       *process
	manager   *process // the controllers, if they were started
	mu        sync.Mutex
	names     int
}

// KubernetesOptions change how an API server is started.
type KubernetesOptions struct {
	Args []string // further arguments of kube-apiserver
	// Accounts gives pods the account default and the volume with its token, as in any cluster. The
	// account of a pod must then exist, and without controllers no namespace has one.
	Accounts bool
}

// SharedKubernetes is an API server that the tests of a package share. It starts when the first test
// asks for it. The package's TestMain stops it.
type SharedKubernetes struct {
	Options KubernetesOptions

	once sync.Once
	k    *Kubernetes
	err  error
}

// Get returns the API server. It skips the test if a program is missing, and fails it in CI.
func (s *SharedKubernetes) Get(t testing.TB) *Kubernetes {
	t.Helper()
	programs := kubernetesPrograms(t)
	s.once.Do(func() { s.k, s.err = startKubernetes(programs, s.Options) })
	check(t, s.err)
	return s.k
}

// Stop ends the API server, if it was started.
func (s *SharedKubernetes) Stop() {
	if s.k != nil {
		s.k.Stop()
	}
}

// StartKubernetes starts an API server of the test's own, which ends with it. It skips the test if a
// program is missing, and fails it in CI.
func StartKubernetes(t testing.TB, o KubernetesOptions) *Kubernetes {
	t.Helper()
	k, err := startKubernetes(kubernetesPrograms(t), o)
	check(t, err)
	t.Cleanup(k.Stop)
	return k
}

// kubernetesPrograms returns the paths of etcd and of the API server.
func kubernetesPrograms(t testing.TB) [2]string {
	t.Helper()
	programs, err := findKubernetes(Root(t))
	if err != nil {
		Skip(t, err)
	}
	return programs
}

// HasKubernetes returns nil if an API server can be started, by a test in the repository at root.
func HasKubernetes(root string) error {
	_, err := findKubernetes(root)
	return err
}

// findKubernetes returns the paths of etcd and of the API server, which is that of the variable, of bin
// below root, or of PATH.
func findKubernetes(root string) (programs [2]string, err error) {
	api := os.Getenv("INJECT_TEST_KUBE_APISERVER")
	if api == "" {
		if api, err = findProgram(root, "kube-apiserver"); err != nil {
			return programs, err
		}
	}
	etcd, err := exec.LookPath("etcd")
	return [2]string{etcd, api}, err
}

const (
	etcdStarts = 30 * time.Second
	apiStarts  = 90 * time.Second // mostly it takes four
)

func startKubernetes(programs [2]string, o KubernetesOptions) (_ *Kubernetes, err error) {
	dir, err := os.MkdirTemp("", "kubernetes")
	if err != nil {
		return nil, err
	}
	k := &Kubernetes{Dir: dir}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, k.log())
			k.Stop()
		}
	}()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	local := func(i int) string { return fmt.Sprintf("http://127.0.0.1:%d", ports[i]) }
	k.Addr, k.Etcd = fmt.Sprintf("127.0.0.1:%d", ports[0]), local(1)

	if err := failing(func(t T) { k.certificates(t) }); err != nil {
		return nil, err
	}
	k.etcd, err = start(dir, "etcd", programs[0], "--name", "test", "--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", local(1), "--advertise-client-urls", local(1),
		"--listen-peer-urls", local(2), "--initial-advertise-peer-urls", local(2),
		"--initial-cluster", "test="+local(2))
	if err != nil {
		return nil, err
	}
	if err := k.wait(k.etcd, http.DefaultClient, k.Etcd+"/health", etcdStarts); err != nil {
		return nil, err
	}

	k.args = append([]string{
		programs[1], "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(ports[0]),
		"--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none", "--etcd-servers", k.Etcd,
		"--tls-cert-file", k.path("apiserver.pem"), "--tls-private-key-file", k.path("apiserver.key"),
		"--client-ca-file", k.authority.CA(), "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-signing-key-file", k.path("accounts.key"),
		"--service-account-key-file", k.path("accounts.key"),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--audit-policy-file", k.path("audit.yaml"), "--audit-log-path", k.AuditLog(),
	}, o.Args...)
	if !o.Accounts {
		// Without the controller that makes the account default in each namespace, no pod could be created.
		k.args = append(k.args, "--disable-admission-plugins", "ServiceAccount")
	}
	return k, k.StartAPI()
}

// StartControllers starts the controllers of Kubernetes, each with an account of its own, as kubeadm does.
// They must be of the API server's version. It skips the test if the program is missing, and fails it in CI.
func (k *Kubernetes) StartControllers(t testing.TB) {
	t.Helper()
	var err error
	k.manager, err = start(k.Dir, "controllers", Bin(t, "kube-controller-manager"),
		"--kubeconfig", k.Kubeconfig(), "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file", k.path("accounts.key"), "--root-ca-file", k.authority.CA(),
		"--bind-address", "127.0.0.1", "--secure-port", "0", "--flex-volume-plugin-dir", k.Dir)
	check(t, err)
}

// certificates makes the files that the API server and its administrator need.
func (k *Kubernetes) certificates(t T) {
	k.authority = NewAuthority(t, filepath.Join(k.Dir, "pki"))
	k.authority.Issue("apiserver", Local, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "kubernetes") })
	admin := k.authority.Pair("admin", groups("system:masters"))
	// Tests that send much at once would spend their time on handshakes.
	k.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: k.authority.Pool(), Certificates: []tls.Certificate{admin},
	}}}
	check(t, os.WriteFile(k.path("admin.kubeconfig"), k.kubeconfig("admin"), 0o600))
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.MarshalECPrivateKey(accounts)
	check(t, err)
	k.authority.write("accounts.key", "EC PRIVATE KEY", der)
	// What the audit log has of secrets must not be their values.
	check(t, os.WriteFile(k.path("audit.yaml"), []byte(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources:
  - {group: "", resources: [secrets, configmaps, serviceaccounts/token]}
  - {group: authentication.k8s.io, resources: [tokenreviews]}
- level: RequestResponse
`), 0o600))
}

func groups(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: c.Subject.CommonName, Organization: names}
	}
}

func (k *Kubernetes) path(name string) string { return k.authority.Path(name) }

// AuditLog returns the path of the audit log, one event a line. Of Secrets it has metadata only.
func (k *Kubernetes) AuditLog() string { return filepath.Join(k.Dir, "audit.log") }

// Kubeconfig returns the path of the kubeconfig of an administrator of the cluster.
func (k *Kubernetes) Kubeconfig() string { return k.path("admin.kubeconfig") }

func (k *Kubernetes) kubeconfig(user string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: "https://%s", certificate-authority: %q}
users:
- name: %q
  user: {client-certificate: %q, client-key: %q}
contexts:
- name: test
  context: {cluster: test, user: %q}
current-context: test
`, k.Addr, k.authority.CA(), user, k.path(user+".pem"), k.path(user+".key"), user)
}

// A Rule is what a user may do, as in a Role.
type Rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	ResourceNames []string `json:"resourceNames,omitempty"`
	Verbs         []string `json:"verbs"`
}

// User makes a user who may do what rules say in a namespace, or everywhere if that is "", and
// returns the path of his kubeconfig. changes apply to his certificate.
func (k *Kubernetes) User(t testing.TB, namespace string, rules []Rule, changes ...func(*x509.Certificate)) string {
	t.Helper()
	name := k.name("user")
	k.authority.Issue(name, changes...)
	kubeconfig := k.path(name + ".kubeconfig")
	check(t, os.WriteFile(kubeconfig, k.kubeconfig(name), 0o600))
	path, kind := "/apis/rbac.authorization.k8s.io/v1/namespaces/"+namespace, "Role"
	if namespace == "" {
		path, kind = "/apis/rbac.authorization.k8s.io/v1", "ClusterRole"
	}
	metadata := map[string]any{"name": name}
	role := map[string]any{"metadata": metadata, "rules": rules}
	binding := map[string]any{
		"metadata": metadata,
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}},
	}
	kind = strings.ToLower(kind)
	k.Call(t, http.MethodPost, path+"/"+kind+"s", role)
	k.Call(t, http.MethodPost, path+"/"+kind+"bindings", binding)
	return kubeconfig
}

// Namespace makes a namespace for one test and returns its name. It stays until the server ends,
// since without controllers a namespace cannot be deleted.
func (k *Kubernetes) Namespace(t testing.TB) string {
	t.Helper()
	name := k.name("test")
	k.Call(t, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": name}})
	return name
}

// name returns a name that no other object has.
func (k *Kubernetes) name(prefix string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names++
	return fmt.Sprintf("%s-%d", prefix, k.names)
}

// Call calls the API server as an administrator, with body as JSON unless it is nil, and returns the
// answer. It fails the test unless the call succeeds.
func (k *Kubernetes) Call(t testing.TB, method, path string, body any) []byte {
	t.Helper()
	code, answer, err := k.Try(t.Context(), method, path, body)
	check(t, err)
	if code/100 != 2 {
		t.Fatalf("%s %s: %d: %s", method, path, code, answer)
	}
	return answer
}

// Try is [Kubernetes.Call] that returns the status of the answer, whatever it is.
func (k *Kubernetes) Try(ctx context.Context, method, path string, body any) (code int, answer []byte, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+k.Addr+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return send(k.http, r)
}

// Kubectl runs kubectl as an administrator with this input, and returns what it prints. It fails the test unless
// kubectl succeeds, and skips it if kubectl is missing, which in CI fails, too.
func (k *Kubernetes) Kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Bin(t, "kubectl"), args...) //nolint:gosec // the repository's own
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %q: %v: %s", args, err, out)
	}
	return string(out)
}

// Minor returns the minor version of the API server, such as 37.
func (k *Kubernetes) Minor(t testing.TB) int {
	t.Helper()
	var version struct{ Minor string }
	check(t, json.Unmarshal(k.Call(t, http.MethodGet, "/version", nil), &version))
	minor, err := strconv.Atoi(strings.TrimSuffix(version.Minor, "+"))
	check(t, err)
	return minor
}

// Transport returns the connections of an administrator, for a proxy of a test in front of the API
// server, whose address is then "https://" and Addr.
func (k *Kubernetes) Transport() http.RoundTripper { return k.http.Transport }

// etcdctl posts body to a path of etcd's API as JSON (etcd's grpc-gateway), such as
// /v3/kv/compaction, and returns the answer.
func (k *Kubernetes) etcdctl(t testing.TB, path string, body any) []byte {
	t.Helper()
	text, err := json.Marshal(body)
	check(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, k.Etcd+path, bytes.NewReader(text))
	check(t, err)
	code, answer, err := send(http.DefaultClient, r)
	check(t, err)
	if code != http.StatusOK {
		t.Fatalf("etcd %s: %d: %s", path, code, answer)
	}
	return answer
}

// Compact makes etcd forget what was before now.
func (k *Kubernetes) Compact(t testing.TB) {
	t.Helper()
	var answer struct{ Header struct{ Revision string } }
	check(t, json.Unmarshal(k.etcdctl(t, "/v3/kv/range", map[string]string{"key": "AA=="}), &answer))
	k.etcdctl(t, "/v3/kv/compaction", map[string]string{"revision": answer.Header.Revision})
}

// Dump returns everything that etcd has, by key.
func (k *Kubernetes) Dump(t testing.TB) map[string]string {
	t.Helper()
	all := base64.StdEncoding.EncodeToString([]byte{0})
	var answer struct {
		KVs []struct{ Key, Value []byte }
	}
	check(t, json.Unmarshal(k.etcdctl(t, "/v3/kv/range", map[string]string{"key": all, "range_end": all}), &answer))
	dump := map[string]string{}
	for _, kv := range answer.KVs {
		dump[string(kv.Key)] = string(kv.Value)
	}
	return dump
}

func send(c *http.Client, r *http.Request) (code int, answer []byte, err error) {
	resp, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // was read
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// StartAPI starts the API server again after [Kubernetes.KillAPI], and waits until it is ready.
func (k *Kubernetes) StartAPI() (err error) {
	if k.api, err = start(k.Dir, "apiserver", k.args[0], k.args[1:]...); err != nil {
		return err
	}
	return k.wait(k.api, k.http, "https://"+k.Addr+"/readyz", apiStarts)
}

// KillAPI kills the API server, as a lost machine would.
func (k *Kubernetes) KillAPI() { k.api.kill() }

// Stop ends the processes and removes the folder.
func (k *Kubernetes) Stop() {
	for _, p := range []*process{k.manager, k.api, k.etcd} {
		if p != nil {
			p.kill()
		}
	}
	if k.http != nil {
		k.http.CloseIdleConnections()
	}
	http.DefaultClient.CloseIdleConnections()
	_ = os.RemoveAll(k.Dir)
}

// wait waits until a URL answers with 200.
func (k *Kubernetes) wait(p *process, c *http.Client, url string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		if code, _, err := send(c, r); err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %w", p.name, p.err)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v", p.name, limit)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// log returns the ends of the processes' logs, for a start that failed.
func (k *Kubernetes) log() string {
	var all strings.Builder
	for _, name := range []string{"etcd", "apiserver"} {
		text, _ := os.ReadFile(filepath.Join(k.Dir, name+".log")) //nolint:gosec // of this test
		fmt.Fprintf(&all, "%s: …%s\n", name, text[max(0, len(text)-2000):])
	}
	return all.String()
}

// process is a program that ends with this process.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // once ended is closed
}

// start starts a program with its output in a log in dir.
func start(dir, name, program string, args ...string) (*process, error) {
	const flags = os.O_APPEND | os.O_CREATE | os.O_WRONLY
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), flags, 0o600) //nolint:gosec // of this test
	if err != nil {
		return nil, err
	}
	defer log.Close()                     //nolint:errcheck // the program has its own
	cmd := exec.Command(program, args...) //nolint:gosec,noctx // the repository's own; it outlives the test that starts it
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	p := &process{name: name, cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.ended)
		release := endTogether(cmd)
		defer release()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = errors.Join(cmd.Wait(), errors.New("see its log"))
		}
	}()
	return p, <-started
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// freePorts returns n ports of the loopback interface that nothing listens on.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // does not block
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck,revive // all stay open until all are known
		address, _ := l.Addr().(*net.TCPAddr)
		ports = append(ports, address.Port)
	}
	return ports, nil
}

// failing runs fn with a T that belongs to no test, and returns what would have failed it.
func failing(fn func(T)) (err error) {
	done := make(chan struct{})
	f := &failed{}
	go func() {
		defer close(done)
		fn(f)
	}()
	<-done
	return f.err
}

type failed struct{ err error }

func (f *failed) Fatal(args ...any) {
	f.err = errors.New(fmt.Sprint(args...))
	runtime.Goexit()
}

// created is how the field creationTimestamp begins in the binary format of Kubernetes
// (k8s.io/apimachinery pkg/apis/meta/v1/generated.proto): the field 8 of the metadata, of eight bytes,
// which are the field 1, the seconds in five bytes, and no nanoseconds.
const created, noNanoseconds = "\x42\x08\x08", "\x10\x00"

// Backdate makes the objects of etcd whose keys begin with prefix, such as
// /registry/validatingadmissionpolicies/, older. It fails the test if there is none.
func (k *Kubernetes) Backdate(t testing.TB, prefix string, by time.Duration) {
	t.Helper()
	n := 0
	for key, value := range k.Dump(t) {
		head, rest, found := strings.Cut(value, created)
		if !strings.HasPrefix(key, prefix) || !found || !strings.HasPrefix(rest[5:], noNanoseconds) {
			continue
		}
		made, _ := binary.Uvarint([]byte(rest[:5]))
		made -= uint64(by / time.Second) //nolint:gosec // by is not negative
		earlier := binary.AppendUvarint([]byte(head+created), made)
		k.etcdctl(t, "/v3/kv/put", map[string]any{"key": []byte(key), "value": append(earlier, rest[5:]...)})
		n++
	}
	if n == 0 {
		t.Fatalf("etcd has nothing at %s", prefix)
	}
}
