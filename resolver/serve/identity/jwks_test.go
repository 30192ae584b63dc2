package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
)

// An issuerServer serves a JWKS, or another response.
type issuerServer struct {
	*httptest.Server

	fetches atomic.Int64
	answer  atomic.Pointer[http.HandlerFunc]
}

func serveJWKS(t *testing.T, start func(http.Handler) *httptest.Server, body string) *issuerServer {
	t.Helper()
	s := &issuerServer{}
	s.serves(body)
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuerServer) does(f http.HandlerFunc) { s.answer.Store(&f) }

func (s *issuerServer) serves(body string) {
	s.does(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
}

func unavailable(t *testing.T, j identity.Authenticator, c identity.Credentials) {
	t.Helper()
	_, err := j.Authenticate(t.Context(), c)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotErrorIs(t, err, identity.ErrUnauthenticated)
	require.NotErrorIs(t, err, identity.ErrNone)
	require.Equal(t, identity.ReasonUnavailable, identity.Reason(err))
	require.Empty(t, leaks(err.Error(), string(c.Bearer.Reveal())))
}

func signedBy(t *testing.T, key *ecdsa.PrivateKey, kid string) identity.Credentials {
	t.Helper()
	return bearer(sign(t, jose.ES256, key, claims(), object{"kid": kid}))
}

func TestJWKSFile(t *testing.T) {
	t.Parallel()
	log, out := harness.Logger()
	old, young := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P256())
	oldKey, youngKey := jwkOf(t, old.Public(), object{"kid": "old"}), jwkOf(t, young.Public(), object{"kid": "young"})
	path := jwksFile(t, oldKey)
	j := newJWT(t, path, func(o *identity.JWTOptions) { o.Log = log })
	accepts(t, j, signedBy(t, old, "old"))
	refuses(t, j, signedBy(t, young, "young"), identity.ReasonKey)
	refuses(t, j, signedBy(t, young, "old"), identity.ReasonSignature)
	accepted := func(c identity.Credentials) func() bool {
		return func() bool { _, err := j.Authenticate(t.Context(), c); return err == nil }
	}

	write(t, path, jwks(t, oldKey, youngKey))
	require.Eventually(t, accepted(signedBy(t, young, "young")), patience, often)
	accepts(t, j, signedBy(t, old, "old"))
	write(t, path, jwks(t, youngKey))
	was := signedBy(t, old, "old")
	require.Eventually(t, func() bool { return !accepted(was)() }, patience, often)
	refuses(t, j, was, identity.ReasonKey)
	accepts(t, j, signedBy(t, young, "young"))

	for _, bad := range []string{
		"", "x", "{}", "[]", `{"keys":null}`, `{"keys":[]}`,
		`{"keys":[{"kty":"oct","k":"AAAA"}]}`, `{"keys":[5]}`,
	} {
		write(t, path, bad)
		require.Eventually(t, func() bool { return j.Err() != nil }, patience, often, bad)
		accepts(t, j, signedBy(t, young, "young"))
		unavailable(t, j, was) // its key may be a new one
		write(t, path, jwks(t, youngKey))
		require.Eventually(t, func() bool { return j.Err() == nil }, patience, often)
	}
	require.Contains(t, out.String(), path)
	require.Contains(t, out.String(), "[ERROR]")
	require.NoError(t, os.Remove(path))
	require.Eventually(t, func() bool { return j.Err() != nil }, patience, often)
	accepts(t, j, signedBy(t, young, "young"))
}

// Kubelet replaces the link ..data, through which the file is a link.
func TestJWKSFileOfKubelet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish := func(version string, key *ecdsa.PrivateKey) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version, "jwks.json"), jwks(t, jwkOf(t, key.Public(), object{"kid": version})))
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	one, two := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P256())
	publish("..1", one)
	require.NoError(t, os.Symlink("..data/jwks.json", filepath.Join(dir, "jwks.json")))
	j := newJWT(t, filepath.Join(dir, "jwks.json"), nil)
	accepts(t, j, signedBy(t, one, "..1"))
	publish("..2", two)
	c := signedBy(t, two, "..2")
	require.Eventually(t, func() bool { _, err := j.Authenticate(t.Context(), c); return err == nil }, patience, often)
	refuses(t, j, signedBy(t, one, "..1"), identity.ReasonKey)
}

// Unusable keys are left out, and logged.
func TestJWKSKeys(t *testing.T) {
	log, out := harness.Logger()
	good, bad := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P256())
	p224 := ecOf(t, elliptic.P224())
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	bird := canary()
	private := jwkOf(t, bad, object{"kid": "private"})
	require.Contains(t, private, "d")
	path := jwksFile(
		t,
		jwkOf(t, bad.Public(), object{"kid": "enc", "use": "enc"}),
		jwkOf(t, bad.Public(), object{"kid": "ops", "key_ops": []string{"encrypt"}}),
		jwkOf(t, []byte(bird), object{"kid": "oct"}),
		jwkOf(t, weak.Public(), object{"kid": "weak"}),
		private,
		object{"kty": "EC", "crv": "P-224", "kid": "p224", "x": p224.X.Text(62), "y": "AA"},
		object{"kty": bird, "kid": "odd"},
		object{"kty": "RSA", "kid": "half", "n": bird},
		jwkOf(t, good.Public(), object{"kid": "sig", "use": "sig"}),
		jwkOf(t, good.Public(), object{"kid": "svid", "use": "jwt-svid"}),
		jwkOf(t, good.Public(), object{"kid": "verify", "key_ops": []string{"sign", "verify"}}),
		jwkOf(t, rsaOf(t).Public(), object{"kid": "strong"}),
	)
	j := newJWT(t, path, func(o *identity.JWTOptions) { o.Log = log })
	for _, kid := range []string{"enc", "ops", "private", "odd", "p224", "half"} {
		refuses(t, j, signedBy(t, bad, kid), identity.ReasonKey)
	}
	refuses(t, j, bearer(sign(t, jose.RS256, weak, claims(), object{"kid": "weak"})), identity.ReasonKey)
	refuses(t, j, bearer(sign(t, jose.RS256, weak, claims(), nil)), identity.ReasonSignature)
	for _, kid := range []string{"sig", "svid", "verify"} {
		accepts(t, j, signedBy(t, good, kid))
	}
	accepts(t, j, bearer(sign(t, jose.RS256, rsaOf(t), claims(), object{"kid": "strong"})))
	require.Equal(t, 8, strings.Count(out.String(), "[WARN]"))
	for _, why := range []string{"(use)", "(key_ops)", "symmetric", "1024 bits", "private key", "malformed"} {
		require.Contains(t, out.String(), why)
	}
	d, ok := private["d"].(string)
	require.True(t, ok)
	require.Empty(t, leaks(out.String(), "", bird, d))
	require.NotEmpty(t, leaks(out.String()+d, "", bird, d))
}

func TestJWKSServer(t *testing.T) {
	t.Parallel()
	log, out := harness.Logger()
	old, young := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P256())
	oldKey, youngKey := jwkOf(t, old.Public(), object{"kid": "old"}), jwkOf(t, young.Public(), object{"kid": "young"})
	s := serveJWKS(t, httptest.NewServer, jwks(t, oldKey))
	j := newJWT(
		t, s.URL+"/keys?key=query-of-the-url",
		func(o *identity.JWTOptions) { o.Cooldown, o.Log = time.Millisecond, log },
	)
	require.Equal(t, int64(1), s.fetches.Load())
	for range 10 {
		accepts(t, j, signedBy(t, old, "old"))
	}
	require.Equal(t, int64(1), s.fetches.Load())

	// A new key works for the first token that is signed by it; a removed key no longer works.
	s.serves(jwks(t, youngKey))
	time.Sleep(10 * time.Millisecond) // the cooldown
	accepts(t, j, signedBy(t, young, "young"))
	require.Equal(t, int64(2), s.fetches.Load())
	refuses(t, j, signedBy(t, old, "old"), identity.ReasonKey)

	// An outage keeps the keys. A token with another key cannot be verified meanwhile.
	for _, outage := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat(" ", 512<<10) + jwks(t, oldKey)))
		},
		func(_ http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
	} {
		s.does(outage)
		time.Sleep(10 * time.Millisecond) // the cooldown
		unavailable(t, j, signedBy(t, old, "old"))
		require.Error(t, j.Err())
		accepts(t, j, signedBy(t, young, "young"))
	}
	require.Contains(t, out.String(), "[ERROR]")
	require.NotContains(t, out.String()+j.Err().Error(), "query-of-the-url")

	s.serves(jwks(t, oldKey, youngKey))
	time.Sleep(10 * time.Millisecond)
	accepts(t, j, signedBy(t, old, "old"))
	require.NoError(t, j.Err())
}

// A loopback URL is fetched without a proxy, even if Go does not recognise it as loopback.
func TestJWKSServerWithoutProxy(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	s := serveJWKS(t, httptest.NewServer, jwks(t, jwkOf(t, key.Public(), nil)))
	j := newJWT(t, strings.Replace(s.URL, "127.0.0.1", "LocalHost", 1), nil)
	require.NoError(t, j.Err())
	accepts(t, j, signedBy(t, key, ""))
}

// The keys are also fetched at regular times, and soon again after a failure.
func TestJWKSServerInBackground(t *testing.T) {
	t.Parallel()
	old, young := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P256())
	s := serveJWKS(t, httptest.NewServer, jwks(t, jwkOf(t, old.Public(), nil)))
	s.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	j := newJWT(
		t, s.URL,
		func(o *identity.JWTOptions) { o.Cooldown, o.Refresh = 20*time.Millisecond, 50*time.Millisecond },
	)
	require.Error(t, j.Err()) // and the server starts
	unavailable(t, j, signedBy(t, old, ""))
	accepted := func(c identity.Credentials) func() bool {
		return func() bool { _, err := j.Authenticate(t.Context(), c); return err == nil }
	}
	s.serves(jwks(t, jwkOf(t, old.Public(), nil)))
	was := signedBy(t, old, "")
	require.Eventually(t, accepted(was), patience, often)
	s.serves(jwks(t, jwkOf(t, young.Public(), nil))) // of the same kind and without an id
	require.Eventually(t, accepted(signedBy(t, young, "")), patience, often)
	refuses(t, j, was, identity.ReasonSignature)
}

// Made-up key ids do not cause more fetches.
func TestJWKSServerFlood(t *testing.T) {
	t.Parallel()
	key := ecOf(t, elliptic.P256())
	s := serveJWKS(t, httptest.NewServer, jwks(t, jwkOf(t, key.Public(), object{"kid": "k"})))
	const cooldown = 200 * time.Millisecond
	begun := time.Now()
	j := newJWT(t, s.URL, func(o *identity.JWTOptions) { o.Cooldown = cooldown })
	calm := newJWT(t, s.URL+"/calm", nil)
	good := signedBy(t, key, "k")
	var odd [16]identity.Credentials
	for i := range odd {
		odd[i] = signedBy(t, key, canary())
	}
	s.fetches.Store(0)
	var asked atomic.Int64
	var all sync.WaitGroup
	for i := range odd {
		all.Go(func() {
			for end := time.Now().Add(time.Second); time.Now().Before(end); asked.Add(1) {
				_, err := j.Authenticate(t.Context(), odd[i])
				if identity.Reason(err) != identity.ReasonKey {
					t.Errorf("%v", err)
				}
				if _, err := calm.Authenticate(t.Context(), odd[i]); identity.Reason(err) != identity.ReasonKey {
					t.Errorf("%v", err)
				}
				if _, err := j.Authenticate(t.Context(), good); err != nil {
					t.Errorf("%v", err)
				}
			}
		})
	}
	all.Wait()
	fetched := s.fetches.Load()
	require.LessOrEqual(
		t, fetched, int64(time.Since(begun)/cooldown)+1,
	) // calm, with its ten seconds, fetched none or one
	require.GreaterOrEqual(t, fetched, int64(1))
	require.Greater(t, asked.Load(), 10*fetched)
}

// Waiting requests share a fetch.
func TestJWKSServerSingleFlight(t *testing.T) {
	t.Parallel()
	key := ecOf(t, elliptic.P256())
	s := serveJWKS(t, httptest.NewServer, jwks(t, jwkOf(t, key.Public(), object{"kid": "k"})))
	j := newJWT(t, s.URL, func(o *identity.JWTOptions) { o.Cooldown = time.Nanosecond })
	arrived, release := make(chan struct{}), make(chan struct{})
	young := ecOf(t, elliptic.P256())
	body := jwks(t, jwkOf(t, young.Public(), object{"kid": "young"}))
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = w.Write([]byte(body))
	})
	c := signedBy(t, young, "young")
	var all sync.WaitGroup
	ask := func() {
		all.Go(func() {
			if _, err := j.Authenticate(t.Context(), c); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	ask()
	<-arrived
	for range 20 {
		ask()
	}
	// A request with a deadline stops waiting, and known keys need no fetch.
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := j.Authenticate(impatient, c)
	require.ErrorIs(t, err, secret.ErrUnavailable)
	accepts(t, j, signedBy(t, key, "k"))
	close(release)
	all.Wait()
	require.Equal(t, int64(2), s.fetches.Load())
}

func TestJWKSServerTLS(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	s := serveJWKS(t, httptest.NewTLSServer, jwks(t, jwkOf(t, key.Public(), object{"kid": "k"})))
	s.Config.ErrorLog = nil
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	accepts(t, newJWT(t, s.URL, func(o *identity.JWTOptions) { o.CAFile = ca }), signedBy(t, key, "k"))
	fetched := s.fetches.Load()
	stranger := newJWT(t, s.URL, nil) // the system does not know that CA
	require.Error(t, stranger.Err())
	unavailable(t, stranger, signedBy(t, key, "k"))
	require.Equal(t, fetched, s.fetches.Load())
}

func TestJWKSServerRedirects(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	body := jwks(t, jwkOf(t, key.Public(), object{"kid": "k"}))
	other := serveJWKS(t, httptest.NewServer, body)
	s := serveJWKS(t, httptest.NewServer, "")
	s.does(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		switch {
		case r.URL.Path == "/other":
			http.Redirect(w, r, other.URL+"/0", http.StatusFound)
		case n > 0:
			http.Redirect(w, r, "/"+strconv.Itoa(n-1), http.StatusFound)
		default:
			_, _ = w.Write([]byte(body))
		}
	})
	accepts(t, newJWT(t, other.URL, nil), signedBy(t, key, "k"))
	fetched := other.fetches.Load()
	accepts(t, newJWT(t, s.URL+"/3", nil), signedBy(t, key, "k"))
	for path, why := range map[string]string{"/other": "another host", "/4": "too often"} {
		t.Run(path, func(t *testing.T) {
			j := newJWT(t, s.URL+path, nil)
			require.ErrorContains(t, j.Err(), why)
			unavailable(t, j, signedBy(t, key, "k"))
		})
	}
	require.Equal(t, fetched, other.fetches.Load())
}

// The goroutine ends with its context, even during a fetch; the keys stay in use.
func TestJWKSServerEnds(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	s := serveJWKS(t, httptest.NewServer, jwks(t, jwkOf(t, key.Public(), object{"kid": "k"})))
	ctx, cancel := context.WithCancel(t.Context())
	j, err := identity.NewJWT(
		ctx, identity.JWTOptions{Issuer: issuer, Audience: audience, Keys: s.URL, Cooldown: time.Nanosecond},
	)
	require.NoError(t, err)
	s.does(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	unavailable(t, j, signedBy(t, key, "other"))
	unavailable(t, j, signedBy(t, key, "other"))
	accepts(t, j, signedBy(t, key, "k"))
}

// A server of keys that asks for a token gets the one in the file, also after it was replaced.
func TestJWKSServerToken(t *testing.T) {
	t.Parallel()
	key := ecOf(t, elliptic.P256())
	body := jwks(t, jwkOf(t, key.Public(), object{"kid": "1"}))
	var want atomic.Pointer[string]
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+*want.Load() {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(body))
	}
	s := serveJWKS(t, httptest.NewServer, "")
	s.does(answer)
	path := filepath.Join(t.TempDir(), "token")
	replace := func(token string) { require.NoError(t, os.WriteFile(path, []byte(token+"\n"), 0o600)) }
	first, second := "first-token", "second-token"
	want.Store(&first)
	replace(first)
	log, out := harness.Logger()
	j := newJWT(t, s.URL, func(o *identity.JWTOptions) {
		o.TokenFile, o.Log = path, log
		o.Refresh, o.Cooldown = 20*time.Millisecond, 10*time.Millisecond
	})
	require.NoError(t, j.Err())
	require.True(t, j.HasKeys())

	want.Store(&second)
	require.Eventually(t, func() bool { return j.Err() != nil }, 10*time.Second, time.Millisecond)
	require.ErrorContains(t, j.Err(), "403")
	accepts(t, j, signedBy(t, key, "1")) // by the keys from before
	replace(second)
	require.Eventually(t, func() bool { return j.Err() == nil }, 10*time.Second, time.Millisecond)

	for _, bad := range []string{"", "two words", "tab\there", "\x7f", strings.Repeat("x", 20<<10)} {
		replace(bad)
		require.Eventually(t, func() bool { return j.Err() != nil }, 10*time.Second, time.Millisecond)
		require.ErrorContains(t, j.Err(), path+" holds no token")
		replace(second)
		require.Eventually(t, func() bool { return j.Err() == nil }, 10*time.Second, time.Millisecond)
	}
	require.Empty(t, leaks(out.String(), first))
	require.Empty(t, leaks(out.String(), second))
}
