package serve_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/transport"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

var webDevelopment = secret.Scope{Org: "flyte", Project: "web", Domain: "development"}

// seedAt stores a secret without using the server, and returns its value.
func (r *running) seedAt(ref secret.Ref) []byte {
	r.t.Helper()
	v := storetest.Value(r.t, 40)
	require.NoError(r.t, r.backend.Create(r.t.Context(), ref, secret.NewValue(v), store.Regular))
	return v
}

// Invalid credentials are refused, and valid ones do not reach beyond their scope. The same
// credentials without the defect are accepted.
func TestHostileCredentials(t *testing.T) {
	jwts := newIssuer(t, t.TempDir()+"/jwks.json")
	known, tokens := tokenFile(t, t.TempDir()+"/tokens", "writer")
	r := start(t, matrixPolicy, nil, identity.MTLS{}, known, jwts.authenticator())
	value := r.seedAt(secret.Ref{Scope: webDevelopment, Key: "LISTED"})
	other := r.seedAt(secret.Ref{Scope: webDevelopment, Key: "OTHER"})
	good := map[string]any{"repository": "acme/web"}
	with := func(name string, value any) map[string]any {
		return map[string]any{"repository": "acme/web", name: value}
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	parts := strings.Split(jwts.token(good), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	longer := base64.RawURLEncoding.EncodeToString(
		[]byte(`{"iss":"` + issuer + `","sub":"admin","aud":"injectd","exp":9999999999}`),
	)
	ask := `{"secrets":[{"key":"LISTED"}]}`
	client := r.client(nil)

	a := r.ask(client, resolve, ask, "Authorization", "Bearer "+jwts.token(good))
	require.Equal(t, http.StatusOK, a.status, a.raw)
	require.Contains(t, a.raw, base64.StdEncoding.EncodeToString(value))

	bearers := map[string]struct{ bearer, reason string }{
		"wrong audience": {jwts.token(with("aud", "another")), "audience"},
		"no audience":    {jwts.token(with("aud", nil)), "audience"},
		"expired":        {jwts.token(with("exp", time.Now().Add(-time.Minute).Unix())), "expired"},
		"expired, another key": {
			jwts.sign(foreign, "k", with("exp", time.Now().Add(-time.Minute).Unix())), "signature",
		},
		"never expires":         {jwts.token(with("exp", nil)), "lifetime"},
		"not yet":               {jwts.token(with("nbf", time.Now().Add(time.Hour).Unix())), "not_yet"},
		"another issuer":        {jwts.token(with("iss", "https://elsewhere.example")), "unknown"},
		"alg none":              {none, "algorithm"},
		"claims exchanged":      {parts[0] + "." + longer + "." + parts[2], "signature"},
		"another key":           {jwts.sign(foreign, "k", good), "signature"},
		"a key of unknown id":   {jwts.sign(foreign, "other", good), "key"},
		"no token of the file":  {"inj_" + rand.Text(), "unknown"},
		"half a token":          {tokens["writer"][:20], "unknown"},
		"nothing that is known": {rand.Text(), "unknown"},
	}
	for name, test := range bearers {
		before := len(r.audit.lines(t, 0))
		a := r.ask(client, resolve, ask, "Authorization", "Bearer "+test.bearer)
		require.Equalf(t, http.StatusUnauthorized, a.status, "%s: %s", name, a.raw)
		lines := r.audit.lines(t, before)
		if test.reason == "none" {
			require.Empty(t, lines, name)
			continue
		}
		require.Equalf(t, test.reason == "expired", strings.Contains(a.raw, "the credentials have expired"), "%s: %s",
			name, a.raw)
		require.Lenf(t, lines, 1, name)
		require.Equalf(t, "unauthenticated", lines[0]["decision"], name)
		require.Equalf(t, test.reason, lines[0]["reason"], name)
		require.NotContainsf(t, lines[0], "who", name)
		if len(test.bearer) > 0 {
			require.NotContainsf(t, r.audit.String()+r.log.String()+a.raw, test.bearer, name)
		}
	}
	// Without credentials a request is counted, and not audited.
	before := len(r.audit.lines(t, 0))
	require.Equal(t, http.StatusUnauthorized, r.ask(client, resolve, ask, "Authorization", "Bearer ").status)
	require.Equal(t, http.StatusUnauthorized, r.ask(client, resolve, ask).status)
	require.Equal(
		t, http.StatusUnauthorized,
		r.ask(client, resolve, ask, "Authorization", "Basic "+jwts.token(good)).status,
	)
	require.Len(t, r.audit.lines(t, 0), before)
	require.InDelta(t, 3+len(bearers), metric(t, r.registry, "inject_refusals_total", "code=unauthenticated"), 0)

	// A certificate of another CA, or one that is not for clients, fails in the handshake.
	stranger := harness.NewAuthority(t, t.TempDir())
	server, key := r.Issue("no client", func(c *x509.Certificate) {
		c.ExtKeyUsage, c.DNSNames = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{"web.teams.example.org"}
	})
	pair, err := tls.LoadX509KeyPair(server, key)
	require.NoError(t, err)
	task := "spiffe://example.org/project/web/domain/development/task/t"
	lines := len(r.audit.lines(t, 0))
	for name, cert := range map[string]*tls.Certificate{
		"another CA": certOf(stranger, "task", task), "no client's": &pair,
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := r.client(cert).Do(r.request(resolve, ask))
			if err == nil {
				_ = answer.Body.Close()
			}
			require.Errorf(t, err, name)
		})
	}
	require.Len(t, r.audit.lines(t, 0), lines, "a refused connection makes no line")
	require.Equal(t, http.StatusOK, r.ask(r.client(certOf(r.Authority, "task", task)), resolve, ask).status)

	// A certificate that is not accepted decides, even with a valid token beside it.
	known2 := r.client(certOf(r.Authority, "elsewhere", "spiffe://example.org/elsewhere"))
	require.Equal(
		t, http.StatusForbidden,
		r.ask(known2, resolve, ask, "Authorization", "Bearer "+jwts.token(good)).status,
	)

	// With valid credentials, the claims of the request are only compared.
	as := []string{"Authorization", "Bearer " + jwts.token(good)}
	for _, claim := range []string{
		`{"project":"shop","domain":"development"}`, `{"project":"web","domain":"production"}`,
		`{"organization":"acme","project":"web","domain":"development"}`, `{"project":"web"}`,
	} {
		a := r.ask(client, resolve, `{"scope":`+claim+`,"secrets":[{"key":"LISTED"}]}`, as...)
		require.Equal(t, http.StatusForbidden, a.status, a.raw)
		require.NotContains(t, a.raw, "shop")
	}
	require.Equal(
		t, http.StatusOK,
		r.ask(
			client, resolve, `{"scope":{"project":"web","domain":"development"},"secrets":[{"key":"LISTED"}]}`,
			as...).status,
	)

	// A key that the policy does not list looks absent, and no value is sent with it.
	texts := map[string]string{}
	for _, key := range []string{"OTHER", "ABSENT"} {
		a := r.ask(client, resolve, `{"secrets":[{"key":"LISTED"},{"key":"`+key+`"}]}`, as...)
		require.Equal(t, http.StatusOK, a.status)
		require.Contains(t, a.raw, "CODE_NOT_FOUND")
		texts[key] = a.raw
		require.NotContains(t, a.raw, base64.StdEncoding.EncodeToString(value))
		require.NotContains(t, a.raw, base64.StdEncoding.EncodeToString(other))
	}
	require.JSONEq(t, texts["ABSENT"], texts["OTHER"])
	requireNoValue(t, [][]byte{value, other}, map[string]string{"audit log": r.audit.String(), "log": r.log.String()})
}

// Requests that are too large or cannot be decoded are refused, and the next request works.
func TestHostileMessages(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	task := r.client(certOf(r.Authority, "task", "spiffe://example.org/project/web/domain/development/task/t"))
	declared := func(n int) string {
		return `{"namesOnly":true,"secrets":[` + strings.TrimSuffix(strings.Repeat(`{"key":"K"},`, n), ",") + `]}`
	}
	for n, want := range map[int]int{
		0: http.StatusBadRequest, 1: http.StatusOK, 4096: http.StatusOK,
		4097: http.StatusBadRequest, 100_000: http.StatusBadRequest,
	} {
		before := len(r.audit.lines(t, 0))
		a := r.ask(task, resolve, declared(n))
		require.Equalf(t, want, a.status, "%d declarations", n)
		require.Less(t, len(a.raw), 4<<20)
		lines := r.audit.lines(t, before)
		require.Len(t, lines, 1)
		require.Equal(
			t, map[int]string{http.StatusOK: "allowed", http.StatusBadRequest: "invalid"}[want],
			lines[0]["decision"],
		)
		if want != http.StatusOK {
			require.NotContains(t, lines[0], "secrets")
			require.Contains(t, a.raw, fmt.Sprint(n))
		}
	}

	post := func(kind, body string) (int, string) {
		request := r.request(secrets+"CreateSecret", body)
		request.Header.Set("Content-Type", kind)
		answer, err := platform.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close() //nolint:errcheck // read whole
		b, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(b)
	}
	text := rand.Text()
	for _, test := range []struct {
		kind, body string
		want       int
	}{
		{"application/json", `{"id":{"name":"J"},"secretSpec":{"stringValue":"v"}}`, http.StatusOK},
		{"application/json", ``, http.StatusBadRequest},
		{"application/json", `{`, http.StatusBadRequest},
		{"application/json", `[]`, http.StatusBadRequest},
		{"application/json", `{"id":{"name":"K"},"secretSpec":{"stringValue":` + text + `}}`, http.StatusBadRequest},
		{"application/json", `{"id":{"name":"K"},"secretSpec":{"binaryValue":"!` + text + `"}}`, http.StatusBadRequest},
		{
			"application/json", `{"id":{"name":"K"},"secretSpec":{"stringValue":"` + text + "\xff" + `"}}`,
			http.StatusBadRequest,
		},
		{"application/json", strings.Repeat(`{"id":`, 20_000), http.StatusBadRequest},
		{"application/proto", "\x0a\x03\x0a\x01P\x12\x03\x0a\x01v", http.StatusOK},
		{"application/proto", "\x0a\x7f" + text, http.StatusBadRequest},
		{"application/proto", text, http.StatusBadRequest},
		{"application/proto", strings.Repeat("\xff", 1000), http.StatusBadRequest},
		{"application/x-" + text, `{}`, http.StatusUnsupportedMediaType},
	} {
		status, body := post(test.kind, test.body)
		require.Equalf(t, test.want, status, "%s %.100q: %s", test.kind, test.body, body)
		require.Less(t, len(body), 1000)
		require.NotContains(t, body, text, "a value may have been given in the wrong place")
	}
	for _, key := range []string{"J", "P"} {
		_, err := r.backend.Describe(t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: key})
		require.NoError(t, err)
	}
	require.NotContains(t, r.audit.String()+r.log.String(), text)
}

// Whatever a name contains, each line of the audit log is one JSON object without control
// characters, and invalid names are not repeated.
func TestHostileNames(t *testing.T) {
	jwts := newIssuer(t, t.TempDir()+"/jwks.json")
	r := start(t, matrixPolicy, nil, identity.MTLS{}, jwts.authenticator())
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	mark := rand.Text()
	long := mark + strings.Repeat("x", 10<<10)
	names := []string{
		long, mark + "\n{\"decision\":\"allowed\"}", mark + "\x1b[2J", mark + "\x00", mark + "\u2028", mark + "\u202e",
		mark + "\u00e9", mark + "/../x", mark + " x", "", mark + "\ufeff", mark + "<script>",
	}
	count := 0
	for i, name := range names {
		for _, at := range []secret.Scope{{Org: name}, {Org: "flyte", Project: name}, {Org: "flyte", Domain: name}} {
			if name == "" || strings.ContainsAny(name, "\u00e9\u202e\ufeff<") { // an odd scope, which there may be
				continue
			}
			body, err := json.Marshal(
				map[string]any{"scope": scopeJSON(at), "secrets": []any{map[string]any{"key": "K"}}},
			)
			require.NoError(t, err)
			a := r.ask(platform, resolve, string(body))
			require.Equalf(t, http.StatusBadRequest, a.status, "%d: %s", i, a.raw)
			body, err = json.Marshal(map[string]any{"id": idJSON(at, "K")})
			require.NoError(t, err)
			require.Equal(t, http.StatusBadRequest, r.ask(platform, secrets+"GetSecret", string(body)).status)
			count += 2
		}
		for _, method := range []string{"GetSecret", "DeleteSecret", "CreateSecret", "UpdateSecret"} {
			body, err := json.Marshal(
				map[string]any{"id": idJSON(webDevelopment, name), "secretSpec": map[string]any{"stringValue": "v"}},
			)
			require.NoError(t, err)
			if method[0] == 'G' || method[0] == 'D' {
				body, err = json.Marshal(map[string]any{"id": idJSON(webDevelopment, name)})
				require.NoError(t, err)
			}
			a := r.ask(platform, secrets+method, string(body))
			require.Equalf(t, http.StatusBadRequest, a.status, "%d: %s", i, a.raw)
			require.Less(t, len(a.raw), 500)
			require.NotContains(t, a.raw, mark, "it may be a value")
			count++
		}
		body, err := json.Marshal(
			map[string]any{
				"scope":   scopeJSON(webDevelopment),
				"secrets": []any{map[string]any{"name": name, "value": "dg=="}},
			},
		)
		require.NoError(t, err)
		a := r.ask(platform, imported, string(body))
		require.NotContains(t, a.raw, mark)
		require.True(t, a.status == http.StatusBadRequest || strings.Contains(a.raw, "CODE_INVALID"), a.raw)
		count++
	}
	// A valid request, from an identity with an odd, but signed name.
	a := r.ask(
		platform, secrets+"CreateSecret",
		`{"id":{"name":"`+mark+`","project":"web"},"secretSpec":{"stringValue":"v"}}`,
	)
	require.Equal(t, http.StatusOK, a.status, a.raw)
	odd := jwts.token(map[string]any{"repository": "acme/web", "sub": "eve\n{\"who\":\"platform\"}\x1b[2J\u202e"})
	a = r.ask(
		r.client(nil), secrets+"GetSecret", `{"id":{"name":"`+mark+`","project":"web"}}`, "Authorization",
		"Bearer "+odd, "X-Request-Id", "{}\u00e9",
	)
	require.Equal(t, http.StatusNotFound, a.status)
	// An unauthenticated request to a path that is not a method.
	answer, err := r.client(nil).Do(r.request(secrets+"%0a%1b"+mark, "{}", "Authorization", "Bearer x"))
	require.NoError(t, err)
	_ = answer.Body.Close()
	require.Equal(t, http.StatusUnauthorized, answer.StatusCode)

	lines := r.audit.lines(t, 0)
	require.Len(t, lines, count+4) // a change that is allowed has two
	for _, line := range lines[:count] {
		require.Equal(t, "invalid", line["decision"])
		require.NotContains(t, fmt.Sprint(line), mark)
	}
	require.Equal(t, mark, lines[count]["key"])
	require.Equal(t, issuer+`#eve\n{\"who\":\"platform\"}\x1b[2J\u202e`, lines[count+2]["who"])
	require.NotContains(t, lines[count+2], "client")
	require.Equal(t, "unknown", lines[count+3]["verb"])
	odds := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	require.Positive(t, strings.IndexFunc(r.audit.String()+"\x1b", odds), "the search finds what is there")
	require.Negative(t, strings.IndexFunc(r.audit.String(), odds))
}

// dial opens a raw connection.
func (r *running) dial(cert *tls.Certificate, protocol string) *tls.Conn {
	r.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(r.Cert)
	config := &tls.Config{
		RootCAs: pool, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13, ServerName: "localhost",
	}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(r.t.Context(), "tcp", r.address)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	c, ok := conn.(*tls.Conn)
	require.True(r.t, ok)
	return c
}

// drip writes text byte by byte, repeating the last byte, until the other side closes the
// connection. It returns what the other side sent.
func drip(conn net.Conn, text string) string {
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(conn)
		said <- string(b)
	}()
	for i := 0; ; i++ {
		_, _ = conn.Write([]byte{text[min(i, len(text)-1)]})
		select {
		case answer := <-said:
			return answer
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Slow clients are cut off, also those that are silent before or after the handshake, while
// others are served.
func TestHostileSlow(t *testing.T) {
	t.Parallel()
	r := setup{
		policy: matrixPolicy,
		limits: transport.Limits{HeaderTime: 2 * time.Second, RequestTime: 3 * time.Second, IdleTime: 2 * time.Second},
	}.start(
		t,
	)
	cert := certOf(r.Authority, "platform", "spiffe://example.org/platform/p")
	head := "POST /" + secrets + "ListSecrets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	var all sync.WaitGroup
	for name, text := range map[string]string{
		"headers that do not end":  head + "X-Slow: a",
		"a body that does not end": head + "Content-Length: 100000\r\n\r\n ",
	} {
		all.Go(func() { require.NotContainsf(t, drip(r.dial(cert, "http/1.1"), text), " 200 ", name) })
	}
	all.Go(func() {
		conn := r.dial(cert, "http/1.1")
		_, err := io.WriteString(conn, head+"Content-Length: 2\r\n\r\n{}")
		require.NoError(t, err)
		b, _ := io.ReadAll(conn) // until the server has had enough of waiting for more
		require.Truef(t, strings.HasPrefix(string(b), "HTTP/1.1 200 OK"), "%s", b)
	})
	all.Go(func() {
		_, _ = io.ReadAll(r.dial(cert, "http/1.1")) // says nothing
	})
	all.Go(func() { // no handshake
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.address)
		require.NoError(t, err)
		defer conn.Close() //nolint:errcheck // a test's
		_, _ = io.ReadAll(conn)
	})
	all.Go(func() { // HTTP/2, and nothing asked
		conn := r.dial(cert, "h2")
		_, err := io.WriteString(conn, http2.ClientPreface)
		require.NoError(t, err)
		require.NoError(t, http2.NewFramer(conn, conn).WriteSettings())
		_, _ = io.ReadAll(conn)
	})
	client := r.client(cert)
	for range 20 {
		require.Equal(t, http.StatusOK, r.ask(client, secrets+"ListSecrets", `{}`).status)
	}
	all.Wait()
}

// A small body that decompresses to a large one is refused at the limit, and takes no more
// memory than the largest message.
func TestHostileGzip(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	platform := r.client(certOf(r.Authority, "platform", "spiffe://example.org/platform/p"))
	zip := func(b []byte) string {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, err := w.Write(b)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return z.String()
	}
	// A message with one field of zeros. Concatenated gzip streams are one stream.
	const large = 400 << 20
	bomb := zip(binary.AppendUvarint([]byte{0x0a}, large)) + strings.Repeat(zip(make([]byte, 1<<20)), large>>20)
	require.Less(t, len(bomb), 1<<20)
	small := zip([]byte("\x0a\x03\x0a\x01Z\x12\x03\x0a\x01v"))
	post := func(c *http.Client, method, kind, encoding, body string) (*http.Response, string) {
		request := r.request(method, body)
		request.Header.Set("Content-Type", kind)
		request.Header.Set(encoding, "gzip")
		answer, err := c.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close() //nolint:errcheck // read whole
		b, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer, string(b)
	}
	send := func(kind, encoding, body string) (*http.Response, string) {
		return post(platform, secrets+"CreateSecret", kind, encoding, body)
	}
	enveloped := func(s string) string {
		return string(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(s)))) + s
	}
	answer, body := send("application/proto", "Content-Encoding", small)
	require.Equal(t, http.StatusOK, answer.StatusCode, body)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 2 {
		answer, body = send("application/proto", "Content-Encoding", bomb)
		require.Equal(t, http.StatusTooManyRequests, answer.StatusCode, body)
		require.Contains(t, body, "resource_exhausted")
		require.Contains(t, body, "the message is too large")
		answer, body = send("application/grpc", "Grpc-Encoding", enveloped(bomb))
		require.Equal(t, "8", answer.Trailer.Get("Grpc-Status")+answer.Header.Get("Grpc-Status"), body)
		// Without credentials, at a service that needs none.
		for _, method := range []string{
			"grpc.health.v1.Health/Check", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		} {
			answer, body = post(r.client(nil), method, "application/grpc", "Grpc-Encoding", enveloped(bomb))
			require.Equal(t, "8", answer.Trailer.Get("Grpc-Status")+answer.Header.Get("Grpc-Status"), body)
		}
	}
	runtime.ReadMemStats(&after)
	require.Less(
		t, after.TotalAlloc-before.TotalAlloc, uint64(large),
		"in all eight together less than one of them would take",
	)
	_, body = send("application/proto", "Content-Encoding", small)
	require.Contains(t, body, "already_exists", "it serves on")
	_, body = send("application/proto", "Content-Encoding", small[:10])
	require.Contains(t, body, "invalid_argument")
	for info, err := range store.All(t.Context(), r.backend, store.Filter{}) {
		require.NoError(t, err)
		require.Equal(t, "Z", info.Ref.Key)
	}
}

// Thousands of requests that are reset at once cost at most their own connection: others are
// answered, and the server needs little memory.
func TestHostileReset(t *testing.T) {
	const streams = 50
	r := setup{policy: matrixPolicy, limits: transport.Limits{Streams: streams}}.start(t)
	cert := certOf(r.Authority, "platform", "spiffe://example.org/platform/p")
	client := r.client(cert)
	require.Equal(t, http.StatusOK, r.ask(client, secrets+"ListSecrets", `{}`).status)
	before := runtime.NumGoroutine()
	var peak atomic.Int64
	watching, stop := context.WithCancel(t.Context())
	var watch, attack sync.WaitGroup
	watch.Go(func() {
		for watching.Err() == nil {
			peak.Store(max(peak.Load(), int64(runtime.NumGoroutine())))
			time.Sleep(time.Millisecond)
		}
	})
	const attackers, resets = 4, 5000
	var sent atomic.Int64
	for range attackers {
		attack.Go(func() { sent.Add(int64(r.reset(t, cert, resets))) })
	}
	for range 50 {
		require.Equal(t, http.StatusOK, r.ask(client, secrets+"ListSecrets", `{}`).status)
	}
	attack.Wait()
	stop()
	watch.Wait()
	require.Greater(t, sent.Load(), int64(attackers*streams), "more than may run at the same time")
	require.Less(t, peak.Load(), int64(before+attackers*(streams+10)+50))
	require.Eventually(
		t, func() bool { return runtime.NumGoroutine() < before+30 }, 10*time.Second, 10*time.Millisecond,
	)
	require.Equal(t, http.StatusOK, r.ask(client, secrets+"ListSecrets", `{}`).status)
	require.Equal(t, 1, r.reset(t, cert, 0), "the same frames ask for something when they are not taken back")
}

// An identity that goes on taking requests back is read from slowly, on all its connections together.
func TestHostileResetsAreSlow(t *testing.T) {
	r := start(t, matrixPolicy, nil)
	cert := certOf(r.Authority, "platform", "spiffe://example.org/platform/p")
	const attackers, ahead = 4, 200 // ahead are the requests that are under way or in what is read at once
	var sent atomic.Int64
	begin := time.Now()
	var attack sync.WaitGroup
	for range attackers {
		attack.Go(func() {
			conn := r.dial(cert, "h2")
			defer conn.Close() //nolint:errcheck // a test's
			_, err := io.WriteString(conn, http2.ClientPreface)
			require.NoError(t, err)
			framer := http2.NewFramer(conn, conn)
			require.NoError(t, framer.WriteSettings())
			go io.Copy(io.Discard, conn) //nolint:errcheck // what is not read keeps the server from writing
			ask := newAsker(framer, secrets+"ListSecrets")
			for stream := uint32(1); time.Since(begin) < 3*time.Second; stream += 2 {
				if ask(stream) != nil || framer.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
					return
				}
				sent.Add(1)
				time.Sleep(200 * time.Microsecond) // the server ends a connection on which too many wait
			}
		})
	}
	attack.Wait()
	handled := metric(t, r.registry, "inject_decisions_total", "decision=invalid")
	may := (transport.InputBurst + transport.InputRate*time.Since(begin).Seconds()) / transport.TakenBackInput
	t.Logf("of %d requests that were taken back, %v were handled in %v; %v may be", sent.Load(), handled,
		time.Since(begin), may)
	require.Positive(t, handled)
	require.Less(t, handled, may+attackers*ahead)
}

// reset sends n requests on a connection of its own and resets each. It returns how many it
// could send. For n = 0 it sends one request and returns 1 if that was answered.
func (r *running) reset(t *testing.T, cert *tls.Certificate, n int) int {
	conn := r.dial(cert, "h2")
	defer conn.Close() //nolint:errcheck // a test's
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, framer.WriteSettings())
	answered := make(chan bool, 1)
	go func() { // what is not read keeps the server from writing
		ok := false
		defer func() { answered <- ok }()
		for {
			f, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if h, is := f.(*http2.MetaHeadersFrame); is && n == 0 {
				ok = h.PseudoValue("status") == "200"
				return
			}
		}
	}()
	ask := newAsker(framer, secrets+"ListSecrets")
	if n == 0 {
		require.NoError(t, ask(1))
		require.NoError(t, framer.WriteData(1, true, []byte("{}")))
		if <-answered {
			return 1
		}
		return 0
	}
	for i := range n {
		stream := uint32(2*i + 1)
		if ask(stream) != nil || framer.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			return i
		}
	}
	return n
}

// newAsker returns a function that sends the header of a request for path in JSON.
func newAsker(framer *http2.Framer, path string) func(stream uint32) error {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	return func(stream uint32) error {
		b.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"},
			{Name: ":scheme", Value: "https"},
			{Name: ":authority", Value: "localhost"},
			{Name: ":path", Value: "/" + path},
			{Name: "content-type", Value: "application/json"},
		} {
			_ = encoder.WriteField(f) // to a buffer
		}
		return framer.WriteHeaders(
			http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true},
		)
	}
}
