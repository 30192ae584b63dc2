package main_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// The messages of Flyte's command line, or of the TLS in it, that docs/troubleshooting.md explains.
const (
	unknownIssuer = "invalid peer certificate: UnknownIssuer"
	badSignature  = "invalid peer certificate: BadSignature"
	notForName    = "invalid peer certificate: certificate not valid for name"
	ownCA         = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))"
	notTLS        = "received corrupt message of type InvalidContentType"
	refused       = "tcp connect error: Connection refused"
	notEndpoint   = "expected format is dns:///<hostname>"
	noToken       = "Failed to refresh token with command"
)

// configure gives f a configuration with an endpoint and more lines.
func (f *flyte) configure(endpoint string, more ...string) {
	f.t.Helper()
	text := "admin:\n  endpoint: " + endpoint + "\n  disableKeyring: true\n"
	for _, line := range more {
		text += "  " + line + "\n"
	}
	f.flags = []string{"--config", f.write("config.yaml", text)}
}

// port returns the port of the server.
func (f *flyte) port() string {
	_, port, _ := strings.Cut(f.server.host(), ":")
	return port
}

// Flyte's command line takes each way to write an endpoint, and says of the other mistakes in a
// configuration what is wrong.
func TestFlyteMistakes(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: each command takes a second to start")
	}
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "wrong endpoints, certificates and tokens")

	t.Run("without TLS", func(t *testing.T) {
		t.Parallel()
		f := startFlyte(t, "")
		for _, scheme := range []string{"", "http://", "https://", "dns:///"} {
			f.configure(scheme+"127.0.0.1:"+f.port(), "insecure: true")
			f.ok("get", "secret")
		}
		f.configure("localhost:" + f.port())
		f.failed(notTLS, "get", "secret")
		f.configure("grpc://localhost:"+f.port(), "insecure: true")
		f.failed(notEndpoint, "get", "secret")
	})

	t.Run("Flyte 1", func(t *testing.T) {
		t.Parallel()
		harness.Ran(t, "flytekit", harness.FlytekitVersion(t), "pyflyte fetch, whose answer names flyte 2.0 or later")
		f := startFlyte(t, "")
		f.configure("localhost:"+f.port(), "insecure: true")
		cmd := f.cmd()
		cmd.Path = harness.Flytekit(t, "pyflyte")
		cmd.Args = []string{cmd.Path, "-c", f.flags[1], "fetch", "flyte://p/d/wf/ex/n1"}
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, words(string(out)), "no such service: this is injectd")
	})

	t.Run("with TLS", func(t *testing.T) {
		t.Parallel()
		f := startFlyte(t, oneIdentity)
		ca, token := "caCertFilePath: "+f.home+"/pki/ca.pem", "command: [cat, "+f.home+"/token]"
		const command = "authType: ExternalCommand"
		for _, endpoint := range []string{"localhost:", "http://localhost:", "127.0.0.1:"} {
			f.configure(endpoint+f.port(), ca, command, token)
			f.ok("get", "secret")
		}
		at := "dns:///localhost:" + f.port()
		f.configure(at, ca, command, token, "insecure: true")
		f.failed("this port takes TLS only, and the request came without", "get", "secret")
		f.configure(at, command, token)
		f.failed(unknownIssuer, "get", "secret")
		other := harness.NewAuthority(t, f.home+"/other") // of the same name
		f.configure(at, "caCertFilePath: "+other.CA(), command, token)
		f.failed(badSignature, "get", "secret")
		f.configure("dns:///localhost:1", ca, command, token)
		f.failed(refused, "get", "secret")
		f.configure(at, ca, command, "command: [cat, "+f.home+"/none]")
		f.failed(noToken, "get", "secret")
	})

	t.Run("certificates", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		for _, c := range []struct{ name, host, constraint, says string }{
			{"own CA", "localhost", "CA:TRUE", ownCA},
			{"self-signed", "localhost", "CA:FALSE", ""},
			{"other name", "other.example.org", "CA:FALSE", notForName},
		} {
			cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
			out, err := exec.Command(harness.Need(t, "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
				"ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=injectd", "-keyout", key, "-out",
				cert, "-addext", "subjectAltName=DNS:"+c.host, "-addext", "basicConstraints=critical,"+c.constraint).
				CombinedOutput()
			require.NoErrorf(t, err, "%s", out)
			f := startFlyteWith(t, oneIdentity, "--cert-file", cert, "--cert-key-file", key)
			f.configure("localhost:"+f.port(), "authType: ExternalCommand", "command: [cat, "+f.home+"/token]",
				"caCertFilePath: "+cert)
			log := f.server.stderr.String()
			if c.says == "" {
				f.ok("get", "secret")
			} else {
				f.failed(c.says, "get", "secret")
			}
			warned := strings.Contains(log, "is a CA's, which Flyte's command line refuses")
			require.Equal(t, c.name == "own CA", warned, log)
		}
	})
}

// An issuer that does not answer keeps a person from the server for seconds and not for minutes, and
// the message says that it is the issuer.
func TestFlyteIssuerDown(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: Flyte's command line tries again for seconds")
	}
	harness.SDK(t, "flyte")
	issuer := "http://127.0.0.1:" + freePort(t)
	f := startFlyteWith(t, oneIdentity, "--jwt", "issuer="+issuer+",audience=inject,keys="+issuer+"/keys", "--login",
		"client-id=inject")
	ca := "caCertFilePath: " + f.home + "/pki/ca.pem"
	for _, auth := range []string{"Pkce", "ClientSecret"} {
		f.configure("localhost:"+f.port(), ca, "authType: "+auth, "clientId: ci", "clientSecretEnvVar: HOME")
		began := time.Now()
		f.failed("the issuer "+issuer+" does not tell how to log in", "get", "secret")
		require.Less(t, time.Since(began), 30*time.Second)
	}
	signer, err := makeSigner(f.home)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": issuer, "sub": "me", "aud": "inject", "exp": time.Now().Add(time.Hour).Unix(),
	}).Serialize()
	require.NoError(t, err)
	f.configure("localhost:"+f.port(), ca, "authType: ExternalCommand", "command: [cat, "+f.write("jwt", token)+"]")
	began := time.Now()
	f.failed("the caller cannot be identified now", "get", "secret")
	require.Less(t, time.Since(began), 30*time.Second)
}

// withJWT is oneIdentity, and lets people with a token of an issuer list everything.
const withJWT = oneIdentity + `
  - name: people
    identity: {issuer: "https://login.example.org"}
    list: [{project: "*", domain: "*"}]
`

// expiring are the tokens of a person, each valid for seconds until a page of a list has waited for the
// end of the last one, and a proxy before a server in which the page waits.
type expiring struct {
	signer jose.Signer
	fixed  bool // the same token is told again after its end

	mu      sync.Mutex
	token   string
	expires time.Time
	pages   int
}

// ServeHTTP tells a token.
func (e *expiring) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pages == 0 || !e.fixed {
		e.expires = time.Now().Add(4 * time.Second).Truncate(time.Second)
		if e.pages > 0 {
			e.expires = e.expires.Add(time.Hour)
		}
		var err error
		e.token, err = jwt.Signed(e.signer).Claims(map[string]any{
			"iss": "https://login.example.org", "sub": "me", "aud": "inject", "exp": e.expires.Unix(),
		}).Serialize()
		if err != nil {
			panic(err)
		}
	}
	_, _ = io.WriteString(w, e.token) // an error means that the client is gone
}

// pass lets the answers of a server pass. The first page of a list waits until the token has expired.
func (e *expiring) pass(r *http.Response) error {
	if !strings.HasSuffix(r.Request.URL.Path, "/ListSecrets") || r.StatusCode != http.StatusOK {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pages++; e.pages == 1 {
		time.Sleep(time.Until(e.expires) + 100*time.Millisecond)
	}
	return nil
}

// before starts a proxy with the server's certificate and returns its port.
func (e *expiring) before(f *flyte) (port string) {
	f.t.Helper()
	pool := x509.NewCertPool()
	require.True(f.t, pool.AppendCertsFromPEM([]byte(read(f.t, f.home+"/pki/ca.pem"))))
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: "localhost:" + f.port()})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	proxy.ModifyResponse = e.pass
	front := httptest.NewUnstartedServer(proxy)
	pair, err := tls.LoadX509KeyPair(f.home+"/pki/server.pem", f.home+"/pki/server.key")
	require.NoError(f.t, err)
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	front.StartTLS()
	f.t.Cleanup(front.Close)
	_, port, _ = strings.Cut(front.Listener.Addr().String(), ":")
	return port
}

// A token that expires between two pages of a list is replaced by the command that prints tokens. If
// that prints the same one again, the message says that it has expired and what to do.
func TestFlyteExpires(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: a token is waited for until it expires")
	}
	harness.SDK(t, "flyte")
	harness.Need(t, "curl")
	for name, fixed := range map[string]bool{"again": false, "fixed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			signer, err := makeSigner(dir)
			require.NoError(t, err)
			f := startFlyteWith(t, withJWT, "--jwt", "issuer=https://login.example.org,audience=inject,keys="+dir+
				"/jwks.json")
			var env strings.Builder
			var want []string
			for i := range 23 {
				fmt.Fprintf(&env, "PAGE_%02d=x\n", i)
				want = append(want, fmt.Sprintf("PAGE_%02d", i))
			}
			out, ok := f.inject("create", "secret", "--from-env-file", f.write("many.env", env.String()))
			require.True(t, ok, out)

			e := &expiring{signer: signer, fixed: fixed}
			tokens := httptest.NewServer(e)
			defer tokens.Close()
			f.configure("localhost:"+e.before(f), "caCertFilePath: "+f.home+"/pki/ca.pem", "authType: ExternalCommand",
				"command: [curl, -sS, "+tokens.URL+"]")
			if fixed {
				f.failed("the credentials have expired", "get", "secret")
				f.failed("log in again, or make a new token or certificate as you made this one", "get", "secret")
				require.Equal(t, 1, e.pages)
				out, ok := f.inject("get", "secret", "--token-file", f.write("expired", e.token))
				require.False(t, ok)
				require.Contains(t, out, "hint: log in again")
			} else {
				require.Equal(t, want, f.names())
				require.Equal(t, 3, e.pages)
			}
			require.Contains(t, f.audited(), `"reason":"expired"`)
		})
	}
}
