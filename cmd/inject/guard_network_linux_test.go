package main_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// A webProxy is a proxy for HTTP and, by CONNECT, for TLS, that wants a password. It knows one server,
// which has all names.
type webProxy struct {
	*httptest.Server

	to    string
	mu    sync.Mutex
	asked []string // hosts
}

func startWebProxy(t *testing.T, to string) *webProxy {
	t.Helper()
	p := &webProxy{to: to}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// url returns the proxy's address with a password.
func (p *webProxy) url(password string) string {
	return strings.Replace(p.URL, "://", "://user:"+password+"@", 1)
}

// hosts returns those that were asked, each once.
func (p *webProxy) hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.asked)
	return slices.Compact(p.asked)
}

// ServeHTTP implements [http.Handler].
func (p *webProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("user:password")) {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, r.Host)
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		r.Header.Del("Proxy-Authorization")
		transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, p.to)
		}}
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close() //nolint:errcheck // the copy reports errors
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
		return
	}
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close() //nolint:errcheck // nothing follows
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close() //nolint:errcheck // nothing follows
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(up, buffered) }()
	_, _ = io.Copy(c, up)
}

// putByCLI is a task that writes the value of V to an object by the AWS command line, which is the first
// argument. The second is the key.
const putByCLI = `set -e
export AWS_ACCESS_KEY_ID=$FLYTE_AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY=$FLYTE_AWS_SECRET_ACCESS_KEY
export AWS_MAX_ATTEMPTS=1 AWS_EC2_METADATA_DISABLED=true
printf 'it is %s' "$V" > "$HOME/$2"
"$1" --endpoint-url "$FLYTE_AWS_ENDPOINT" s3api put-object --bucket bkt --key "$2" --body "$HOME/$2"`

// A network is how a store is reached.
type network struct {
	name string
	cert []func(*x509.Certificate) // of the store; nil for one without TLS
	host string                    // of the store; "" for its own address
	env  []string                  // of the pod, where PROXY, WRONG and CA stand for addresses
	a0   bool                      // the task is one of Flyte's, else the AWS command line
	// asked is what the proxy is asked for, which is the same without the guard.
	asked string
	says  string // why it fails, "" if it does not
}

// The guard reaches its store as the task would: by TLS, whose certificates it checks, by proxies, with
// the bucket in the host's name, and by the variable that wins over Flyte's.
func TestGuardNetwork(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestGuardClouds has a store with TLS, and TestPlace the forms of addresses")
	}
	ranFlyte(t, "a0: outputs in a bucket behind TLS, a proxy or a virtual host, through the guard")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	authority, other := harness.NewAuthority(t, t.TempDir()), harness.NewAuthority(t, t.TempDir())
	named := func(c *x509.Certificate) { c.DNSNames = []string{"store.example", "*.store.example"} }
	local, far := []func(*x509.Certificate){harness.Local}, []func(*x509.Certificate){named}
	past := []func(*x509.Certificate){harness.Local, harness.Expires(time.Now().Add(-time.Hour))}
	for i, n := range []network{
		{name: "AWS_CA_BUNDLE", cert: local, env: []string{"AWS_CA_BUNDLE=CA"}},
		{name: "SSL_CERT_FILE", cert: local, env: []string{"SSL_CERT_FILE=CA"}, a0: true},
		{name: "unknown authority", cert: local, says: "signed by unknown authority"},
		{name: "other authority", cert: local, env: []string{"AWS_CA_BUNDLE=OTHER"}, says: "unknown authority"},
		{name: "other name", cert: far, env: []string{"AWS_CA_BUNDLE=CA"}, says: "doesn't contain any IP SANs"},
		{name: "expired", cert: past, env: []string{"AWS_CA_BUNDLE=CA"}, says: "certificate has expired"},
		{
			name: "HTTPS_PROXY", cert: far, host: "store.example",
			env: []string{"SSL_CERT_FILE=CA", "HTTPS_PROXY=PROXY"}, a0: true, asked: "store.example:443",
		},
		{
			name: "HTTPS_PROXY with a wrong password", cert: far, host: "store.example",
			env: []string{"AWS_CA_BUNDLE=CA", "HTTPS_PROXY=WRONG"}, says: "Proxy Authentication Required",
		},
		{
			name: "NO_PROXY", cert: far, host: "store.example",
			env:  []string{"AWS_CA_BUNDLE=CA", "HTTPS_PROXY=PROXY", "NO_PROXY=other.example,store.example"},
			says: "lookup store.example", // nothing else has this name
		},
		{
			name: "HTTP_PROXY", host: "store.example", env: []string{"HTTP_PROXY=PROXY"},
			a0: true, asked: "store.example",
		},
		{
			name: "virtual host", cert: far, host: "bkt.store.example",
			env: []string{"SSL_CERT_FILE=CA", "HTTPS_PROXY=PROXY", "FLYTE_AWS_S3_ADDRESSING_STYLE=virtual"},
			a0:  true, asked: "bkt.store.example:443",
		},
		{
			name: "AWS_ENDPOINT_URL_S3", cert: local, a0: true,
			env: []string{
				"SSL_CERT_FILE=CA", "AWS_ENDPOINT_URL_S3=STORE", "FLYTE_AWS_ENDPOINT=http://127.0.0.1:1",
				"AWS_ACCESS_KEY_ID=other", "AWS_SECRET_ACCESS_KEY=keys",
			},
		},
	} {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			flags, scheme := []string{"--virtual-domain", "store.example"}, "http"
			if n.cert != nil {
				cert, key := authority.Issue(rand.Text(), n.cert...)
				flags, scheme = append(flags, "--cert", cert, "--key", key), "https"
			}
			g := startGateway(t, flags...)
			proxy := startWebProxy(t, g.addr)
			store := scheme + "://" + cmp.Or(n.host, g.addr)
			words := strings.NewReplacer("=PROXY", "="+proxy.url("password"), "=WRONG", "="+proxy.url("wrong"),
				"=CA", "="+authority.CA(), "=OTHER", "="+other.CA(), "=STORE", "="+store)
			env := []string{"FLYTE_AWS_ENDPOINT=" + store}
			for _, line := range n.env {
				env = append(env, words.Replace(line))
			}
			key := "k" + strconv.Itoa(i)
			argv := []string{"sh", "-c", putByCLI, "sh", harness.Storage(t, "aws"), key}
			modes := []string{"guard"}
			if n.a0 {
				argv, modes = inBucket(t, "job", key, "ends"), []string{"off", "auto"}
				key += "/out/outputs.pb"
			}
			for _, mode := range modes {
				code, said := g.ranIn(home, []string{"--storage", mode}, argv, env...)
				if n.says != "" {
					require.NotZero(t, code)
					require.Contains(t, said, n.says)
					require.Empty(t, proxy.hosts())
					require.Empty(t, g.files(t, ""))
					return
				}
				if !abortedAtEnd(code, said) {
					require.Zero(t, code, said)
				}
				require.Equal(t, n.asked, strings.Join(proxy.hosts(), " "))
				if mode == "off" {
					require.Contains(t, g.object(t, key), "it is "+value)
					require.NoError(t, os.Remove(filepath.Join(g.dir, key)))
					continue
				}
				require.Contains(t, g.object(t, key), "it is "+mask)
				g.noLeak(t, said, value)
			}
		})
	}
}

// What flytekit makes of a virtual host is another address than that of Flyte v2.
func TestGuardFlytekitVirtualHost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestPlace has the forms of addresses")
	}
	harness.Ran(t, "flytekit", harness.FlytekitVersion(t),
		"pyflyte-execute: outputs in a bucket behind a virtual host and a proxy, through the guard")
	authority := harness.NewAuthority(t, t.TempDir())
	cert, key := authority.Issue("store", func(c *x509.Certificate) { c.DNSNames = []string{"*.store.example"} })
	g := startGateway(t, "--virtual-domain", "store.example", "--cert", cert, "--key", key)
	// s3fs asks the store to make the bucket, which must then know whose it is.
	require.NoError(t, os.Remove(g.dir))
	create := exec.Command(harness.Storage(t, "aws"), "--endpoint-url", "https://"+g.addr, "--no-verify-ssl",
		"s3api", "create-bucket", "--bucket", "bkt", "--create-bucket-configuration", "LocationConstraint=eu-north-1")
	create.Env = []string{"HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true"}
	for _, line := range g.env {
		create.Env = append(create.Env, strings.TrimPrefix(line, "FLYTE_"))
	}
	out, err := create.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	j := newV1Job(t)
	for _, mode := range []string{"off", "auto"} {
		proxy := startWebProxy(t, g.addr)
		cmd := g.v1Cmd(t, j, "answers", "--storage", mode)
		cmd.Env = append(cmd.Env, "FLYTE_AWS_ENDPOINT=https://store.example", "FLYTE_AWS_ADDRESSING_STYLE=path",
			"HTTPS_PROXY="+proxy.url("password"), "AWS_CA_BUNDLE="+authority.CA())
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		require.Contains(t, proxy.hosts(), "bkt.store.example:443") // there are those of flytekit's own, too
		if mode == "off" {
			require.Error(t, harness.FindLeak(g.files(t, ""), j.values))
			require.NoError(t, os.RemoveAll(filepath.Join(g.dir, "answers")))
			continue
		}
		require.Contains(t, g.object(t, "answers/out/outputs.pb"), "[REDACTED:db-env-var]", "%s", out)
		require.NoError(t, harness.FindLeak(g.files(t, ""), j.values))
	}
}

// Other processes of the pod reach the port of the guard, but write nothing without the task's keys; these
// are of no use elsewhere, nor when the task has ended. No key leads out of the bucket.
func TestGuardOthers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestSignatures and TestPaths have a store in memory")
	}
	harness.Ran(t, "boto3", harness.StorageVersion(t, "boto3"),
		"writes of other processes, with the task's keys and without")
	g := startGateway(t)
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	task := command(home, "run", "--secret", "V", "--storage", "guard", "--", "sh", "-c",
		`printf '%s\n' "$FLYTE_AWS_ENDPOINT" "$FLYTE_AWS_ACCESS_KEY_ID" "$FLYTE_AWS_SECRET_ACCESS_KEY"; read -r _; exit 0`)
	task.Env = append(task.Env, g.env...)
	end, err := task.StdinPipe()
	require.NoError(t, err)
	out, err := task.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, task.Start())
	lines := bufio.NewScanner(out)
	next := func() string {
		require.True(t, lines.Scan(), "the task has ended")
		return lines.Text()
	}
	guard, id, key := next(), next(), next()

	other := exec.Command(harness.Storage(t, "python"), "others.py")
	other.Dir = "../../deploy/storage"
	other.Env = []string{"HOME=" + t.TempDir(), "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true"}
	asks, err := other.StdinPipe()
	require.NoError(t, err)
	says, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	answers := bufio.NewScanner(says)
	try := func(want, endpoint, id, key, object string) {
		t.Helper()
		require.NoError(t, json.NewEncoder(asks).Encode([]string{endpoint, id, key, object, "it is " + value}))
		require.True(t, answers.Scan())
		assert.Equal(t, want, answers.Text(), object)
	}
	env := func(name string) string {
		at := slices.IndexFunc(g.env, func(line string) bool { return strings.HasPrefix(line, name+"=") })
		return strings.TrimPrefix(g.env[at], name+"=")
	}
	store := env("FLYTE_AWS_ENDPOINT")
	storeID, storeKey := env("FLYTE_AWS_ACCESS_KEY_ID"), env("FLYTE_AWS_SECRET_ACCESS_KEY")

	try("AccessDenied", guard, "", "", "unsigned")
	try("InvalidAccessKeyId", guard, rand.Text(), rand.Text(), "guessed")
	try("SignatureDoesNotMatch", guard, id, rand.Text(), "guessed")
	try("InvalidAccessKeyId", guard, storeID, storeKey, "of-the-store") // which it may ask itself
	try("XAdminUserNotFound", store, id, key, "around")                 // as versitygw says it
	for _, out := range []string{"../../x", "a/../../../x", "%2e%2e/%2e%2e/x", "..", "a/.."} {
		want := "InvalidURI"
		if strings.HasPrefix(out, "%") {
			want = "stored" // it is a name, whose characters boto3 writes as %252e
		}
		try(want, guard, id, key, out)
	}
	try("stored", guard, id, key, "/tmp/absolute")
	try("stored", guard, id, key, "stolen")
	require.Equal(t, "it is "+mask, g.object(t, "stolen"))
	require.NoError(t, end.Close())
	require.NoError(t, task.Wait())
	try("no connection", guard, id, key, "late")
	try("XAdminUserNotFound", store, id, key, "late")
	g.noLeak(t, "", value)
	require.Equal(t, []string{"%2e%2e/%2e%2e/x", "stolen", "tmp/absolute"}, slices.Sorted(maps.Keys(g.files(t, ""))))
	for _, outside := range []string{g.dir + "/../x", g.dir + "/../../x", "/tmp/absolute"} {
		require.NoFileExists(t, outside)
	}
	try("stored", store, storeID, storeKey, "allowed")
	require.NoError(t, asks.Close())
	require.NoError(t, other.Wait())
}
