package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
)

const (
	issuer   = "https://issuer.example.com"
	audience = "injectd"
)

// rsaKey returns one key for all tests, because generating one is slow.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func rsaOf(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsaKey()
	require.NoError(t, err)
	return k
}

func ecOf(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	return k
}

func edOf(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return k
}

type object = map[string]any

// claims returns the claims of a valid token.
func claims() object {
	return object{
		"iss": issuer, "sub": "system:serviceaccount:flyte:task", "aud": []string{"other", audience},
		"exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "nbf": time.Now().Unix(),
	}
}

// with returns the claims with changes applied; nil removes a claim.
func with(changes object) object {
	c := claims()
	for name, value := range changes {
		c[name] = value
		if value == nil {
			delete(c, name)
		}
	}
	return c
}

// sign returns a token with the claims, or the text, and the headers.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, payload any, headers object) string {
	t.Helper()
	options := &jose.SignerOptions{}
	for name, value := range headers {
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	require.NoError(t, err)
	b, ok := payload.(string)
	if !ok {
		text, err := json.Marshal(payload)
		require.NoError(t, err)
		b = string(text)
	}
	signed, err := signer.Sign([]byte(b))
	require.NoError(t, err)
	token, err := signed.CompactSerialize()
	require.NoError(t, err)
	return token
}

// jwkOf returns a public key for a JWKS, with additional fields.
func jwkOf(t testing.TB, key any, fields object) object {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKey{Key: key})
	require.NoError(t, err)
	all := object{}
	require.NoError(t, json.Unmarshal(b, &all))
	maps.Copy(all, fields)
	return all
}

func jwks(t testing.TB, keys ...object) string {
	t.Helper()
	b, err := json.Marshal(object{"keys": keys})
	require.NoError(t, err)
	return string(b)
}

func jwksFile(t testing.TB, keys ...object) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(path, []byte(jwks(t, keys...)), 0o600))
	return path
}

func newJWT(t *testing.T, keys string, change func(*identity.JWTOptions)) *identity.JWT {
	t.Helper()
	o := identity.JWTOptions{Issuer: issuer, Audience: audience, Keys: keys}
	if change != nil {
		change(&o)
	}
	j, err := identity.NewJWT(t.Context(), o)
	require.NoError(t, err)
	return j
}

func TestJWT(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	j := newJWT(t, jwksFile(t, jwkOf(t, key.Public(), object{"kid": "k"})), nil)
	require.NoError(t, j.Err())
	require.Equal(t, issuer, j.Issuer())
	id := accepts(t, j, bearer(sign(t, jose.ES256, key, with(object{
		"groups": []string{"a", "b"}, "mixed": []any{"a", 1}, "none": nil, "empty": []string{},
		"big": json.Number("12345678901234567890"), "float": 1.5, "yes": true,
		"kubernetes.io": object{
			"pod": object{"name": "pod-1", "uid": "u"}, "namespace": "flyte",
			"list": []any{object{"x": "y"}},
		},
		`a\b`: object{"": "z"},
	}), object{"kid": "k"})))
	require.Equal(t, "jwt", id.Method)
	require.Equal(t, issuer+"#system:serviceaccount:flyte:task", id.Name)
	for name, want := range map[string][]string{
		"issuer": {issuer}, "subject": {"system:serviceaccount:flyte:task"}, "audience": {"other", audience},
		"claim.iss": {issuer}, "claim.groups": {"a", "b"}, "claim.mixed": nil, "claim.none": nil, "claim.empty": nil,
		"claim.big": {"12345678901234567890"}, "claim.float": {"1.5"}, "claim.yes": {"true"},
		`claim.kubernetes\.io.pod.name`: {"pod-1"}, `claim.kubernetes\.io.namespace`: {"flyte"},
		"claim.kubernetes.io.pod.name": nil, `claim.kubernetes\.io`: nil, `claim.kubernetes\.io.list`: nil,
		`claim.a\\b.`: {"z"}, "token": nil, "dns": nil, "spiffe": nil,
	} {
		t.Run(name, func(t *testing.T) {
			if got := id.Attribute(name); len(got) > 0 || len(want) > 0 {
				require.Equal(t, want, got, name)
			}
		})
	}
	require.Equal(
		t, []string{audience},
		accepts(t, j, bearer(sign(t, jose.ES256, key, with(object{"aud": audience}), nil))).Attribute("audience"),
	)
}

// A deeply nested claim is no attribute, and takes no time.
func TestJWTDeepClaims(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	j := newJWT(t, jwksFile(t, jwkOf(t, key.Public(), nil)), nil)
	nest := func(depth int) object {
		deep := any("x")
		for range depth {
			deep = object{"a": deep}
		}
		return with(object{"a": deep})
	}
	name := func(depth int) string { return "claim" + strings.Repeat(".a", depth+1) }
	require.Equal(t, []string{"x"}, accepts(t, j, bearer(sign(t, jose.ES256, key, nest(15), nil))).Attribute(name(15)))
	require.Empty(t, accepts(t, j, bearer(sign(t, jose.ES256, key, nest(16), nil))).Attribute(name(16)))
	require.Empty(t, accepts(t, j, bearer(sign(t, jose.ES256, key, nest(1000), nil))).Attribute(name(1000)))
}

func TestJWTClaims(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	path := jwksFile(t, jwkOf(t, key.Public(), nil))
	j := newJWT(t, path, nil)
	bird := canary()
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	token := func(changes object) identity.Credentials {
		return bearer(sign(t, jose.ES256, key, with(changes), nil))
	}
	for _, c := range []struct {
		reason    string
		bad, good object
	}{
		{identity.ReasonAudience, object{"aud": bird}, object{"aud": audience}},
		{identity.ReasonAudience, object{"aud": []string{audience + "x", "injec"}}, object{"aud": []string{
			"x", audience,
		}}},
		{identity.ReasonAudience, object{"aud": nil}, object{}},
		{identity.ReasonAudience, object{"aud": []string{}}, object{}},
		{identity.ReasonMalformed, object{"aud": 1}, object{}},
		{identity.ReasonExpired, object{"exp": at(-time.Second)}, object{"exp": at(time.Hour)}},
		{identity.ReasonExpired, object{"exp": -1}, object{"exp": float64(at(time.Hour)) + .5}},
		{identity.ReasonLifetime, object{"exp": nil}, object{}},
		{identity.ReasonMalformed, object{"exp": bird}, object{}},
		{identity.ReasonMalformed, object{"exp": 1e300}, object{"exp": 1e11}},
		{identity.ReasonNotYet, object{"nbf": at(10 * time.Minute)}, object{"nbf": at(15 * time.Second)}},
		{identity.ReasonNotYet, object{"nbf": 1e12}, object{"nbf": nil}},
		{identity.ReasonNotYet, object{"iat": at(10 * time.Minute)}, object{"iat": at(15 * time.Second)}},
		{identity.ReasonMalformed, object{"nbf": []string{bird}}, object{"iat": nil}},
		{identity.ReasonName, object{"sub": nil}, object{"sub": "x"}},
		{identity.ReasonName, object{"sub": ""}, object{"sub": " "}},
		{identity.ReasonMalformed, object{"sub": 5}, object{}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			accepts(t, j, token(c.good))
			c.bad["canary"] = bird
			refuses(t, j, token(c.bad), c.reason, bird)
		})
	}
	refuses(
		t, newJWT(t, path, func(o *identity.JWTOptions) { o.Leeway = -1 }),
		token(object{"nbf": at(time.Minute)}), identity.ReasonNotYet,
	)
	accepts(
		t, newJWT(t, path, func(o *identity.JWTOptions) { o.Leeway = time.Hour }),
		token(object{"nbf": at(10 * time.Minute)}),
	)

	short := newJWT(t, path, func(o *identity.JWTOptions) { o.MaxLifetime = time.Hour })
	accepts(t, short, token(object{"iat": at(0), "exp": at(time.Hour)}))
	refuses(t, short, token(object{"iat": at(0), "exp": at(time.Hour + time.Second)}), identity.ReasonLifetime)
	refuses(t, short, token(object{"iat": nil, "exp": at(time.Minute)}), identity.ReasonLifetime)
	accepts(t, j, token(object{"iat": at(0), "exp": at(9999 * time.Hour)}))

	// A token of another issuer is for the next authenticator; if none accepts it, it is
	// refused.
	for _, iss := range []any{issuer + "/", "https://ISSUER.example.com", "", nil, 5, bird} {
		passesOn(t, j, token(object{"iss": iss}))
		refuses(t, identity.Chain{j, j}, token(object{"iss": iss}), identity.ReasonUnknown, bird)
	}
	other := newJWT(t, path, func(o *identity.JWTOptions) { o.Issuer = "https://other" })
	require.Equal(
		t,
		[]string{"https://other"},
		accepts(t, identity.Chain{j, other}, token(object{"iss": "https://other"})).Attribute("issuer"),
	)
}

func TestJWTForm(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	path := jwksFile(t, jwkOf(t, key.Public(), nil))
	j := newJWT(t, path, nil)
	good := sign(t, jose.ES256, key, claims(), nil)
	accepts(t, j, bearer(good))
	parts := strings.Split(good, ".")
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

	for _, other := range []string{
		"", "x", "inj_x", "..", "a.b", "a.b.c", "a.b.c.d.e", good + ".", good + "\n", " " + good, good + "=",
		parts[0] + "." + parts[1], "\n" + good, parts[0] + "\r\n." + parts[1] + "." + parts[2],
		b64("null") + "." + parts[1] + "." + parts[2], b64("[]") + "." + parts[1] + ".",
		parts[0] + "." + b64("x") + "." + parts[2], parts[0] + "." + b64("null") + "." + parts[2],
		parts[0] + "." + b64(`{"iss":"`+issuer+`","iss":"`+issuer+`"}`) + ".",
		string([]byte{0, 255, '.', '.', 200}),
	} {
		passesOn(t, j, bearer(other))
	}
	swapped := sign(t, jose.ES256, key, with(object{"sub": "somebody-else"}), nil)
	refuses(t, j, bearer(parts[0]+"."+strings.Split(swapped, ".")[1]+"."+parts[2]), identity.ReasonSignature)
	refuses(t, j, bearer(parts[0]+"."+parts[1]+"."), identity.ReasonSignature)
	refuses(t, j, bearer(parts[0]+"."+parts[1]+"."+parts[2][:len(parts[2])-4]), identity.ReasonSignature)

	large := sign(t, jose.ES256, key, with(object{"x": strings.Repeat("x", 11<<10)}), nil)
	require.Less(t, len(large), 16<<10)
	accepts(t, j, bearer(large))
	huge := sign(t, jose.ES256, key, with(object{"x": strings.Repeat("x", 13<<10)}), nil)
	refuses(t, j, bearer(huge), identity.ReasonSize)
	accepts(t, newJWT(t, path, func(o *identity.JWTOptions) { o.MaxSize = 1 << 20 }), bearer(huge))
	refuses(t, j, bearer(parts[0]+"."+strings.Repeat("A", 128<<10)+"."), identity.ReasonSize)

	// A payload with duplicate claims is refused, because readers differ in which one they
	// take.
	text := strings.TrimSuffix(mustJSON(t, claims()), "}")
	accepts(t, j, bearer(sign(t, jose.ES256, key, text+`,"x":1,"X":2}`, nil)))
	twice := bearer(sign(t, jose.ES256, key, text+`,"x":1,"x":2}`, nil))
	passesOn(t, j, twice)
	refuses(t, identity.Chain{j}, twice, identity.ReasonUnknown)
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

func TestJWTAlgorithms(t *testing.T) {
	r, ed := rsaOf(t), edOf(t)
	p256, p384, p521 := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P384()), ecOf(t, elliptic.P521())
	path := jwksFile(
		t, jwkOf(t, r.Public(), object{"kid": "rsa"}), jwkOf(t, ed.Public(), object{"kid": "ed"}),
		jwkOf(
			t, p256.Public(), object{"kid": "p256"},
		),
		jwkOf(t, p384.Public(), object{"kid": "p384"}), jwkOf(t, p521.Public(), object{"kid": "p521"}),
		jwkOf(t, r.Public(), object{"kid": "rs512 only", "alg": "RS512"}),
	)
	usual := newJWT(t, path, nil)
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	every := newJWT(t, path, func(o *identity.JWTOptions) { o.Algorithms = all })
	kids := map[string]string{"RS": "rsa", "PS": "rsa", "ES256": "p256", "ES384": "p384", "ES512": "p521", "Ed": "ed"}
	keys := map[string]any{"rsa": r, "p256": p256, "p384": p384, "p521": p521, "ed": ed}
	for _, alg := range all {
		kid := kids[alg]
		if kid == "" {
			kid = kids[alg[:2]]
		}
		token := bearer(sign(t, jose.SignatureAlgorithm(alg), keys[kid], claims(), object{"kid": kid}))
		accepts(t, every, token)
		only := newJWT(t, path, func(o *identity.JWTOptions) { o.Algorithms = []string{alg} })
		accepts(t, only, token)
		others := newJWT(t, path, func(o *identity.JWTOptions) {
			for _, a := range all {
				if a != alg {
					o.Algorithms = append(o.Algorithms, a)
				}
			}
		})
		refuses(t, others, token, identity.ReasonAlgorithm)
		switch alg {
		case "RS256", "PS256", "ES256", "EdDSA":
			accepts(t, usual, token)
		default:
			refuses(t, usual, token, identity.ReasonAlgorithm)
		}
		// The key with this id is of another type.
		for other := range keys {
			if other != kid {
				refuses(
					t, every,
					bearer(sign(t, jose.SignatureAlgorithm(alg), keys[kid], claims(), object{"kid": other})),
					identity.ReasonKey,
				)
			}
		}
	}
	accepts(t, every, bearer(sign(t, jose.RS512, r, claims(), object{"kid": "rs512 only"})))
	refuses(t, every, bearer(sign(t, jose.RS256, r, claims(), object{"kid": "rs512 only"})), identity.ReasonKey)

	// The public key as the secret of HS256 could make tokens.
	der, err := x509.MarshalPKIXPublicKey(r.Public())
	require.NoError(t, err)
	for _, text := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), r.N.Bytes()} {
		for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
			refuses(t, every, bearer(sign(t, alg, text, claims(), object{"kid": "rsa"})), identity.ReasonAlgorithm)
		}
	}
	bird := canary()
	for _, alg := range []any{
		"none", "None", "NONE", "", "rs256", "HS256", bird, nil, 5, []string{"RS256"}, object{"alg": bird},
	} {
		payload := base64.RawURLEncoding.EncodeToString([]byte(mustJSON(t, claims())))
		head := base64.RawURLEncoding.EncodeToString([]byte(mustJSON(t, object{"alg": alg, "typ": "JWT"})))
		refuses(t, every, bearer(head+"."+payload+"."), identity.ReasonAlgorithm, bird)
		refuses(t, every, bearer(head+"."+payload+".AAAA"), identity.ReasonAlgorithm, bird)
	}
	for _, algorithms := range [][]string{{}, {"none"}, {"HS256"}, {"RS256", "HS512"}, {"rs256"}, {""}, {"ML-DSA-44"}} {
		_, err := identity.NewJWT(
			t.Context(),
			identity.JWTOptions{Issuer: issuer, Audience: audience, Keys: path, Algorithms: algorithms},
		)
		require.ErrorIs(t, err, secret.ErrInvalid)
	}
}

// Keys in the header of a token are ignored.
func TestJWTHeaders(t *testing.T) {
	key, attacker := ecOf(t, elliptic.P256()), ecOf(t, elliptic.P256())
	j := newJWT(t, jwksFile(t, jwkOf(t, key.Public(), object{"kid": "k"})), nil)
	bird := canary()
	embedded := jwkOf(t, attacker.Public(), object{"kid": "k"})
	for _, h := range []object{
		{"kid": "k"},
		{"typ": "at+jwt", "kid": "k"},
		{"kid": "k", "jku": "https://attacker/" + bird},
		{"kid": "k", "x5u": "https://attacker/" + bird},
		{"kid": "k", "jwk": embedded},
	} {
		accepts(t, j, bearer(sign(t, jose.ES256, key, claims(), h)))
		refuses(t, j, bearer(sign(t, jose.ES256, attacker, claims(), h)), identity.ReasonSignature, bird)
	}
	for _, h := range []object{
		{"kid": "k", "crit": []string{"exp"}},
		{"kid": "k", "crit": []string{bird}, bird: 1},
		{"kid": "k", "crit": []string{"b64"}, "b64": true},
		{"kid": "k", "b64": false},
		{"kid": "k", "crit": bird},
	} {
		refuses(t, j, bearer(sign(t, jose.ES256, key, claims(), h)), identity.ReasonMalformed, bird)
	}
	payload := base64.RawURLEncoding.EncodeToString([]byte(mustJSON(t, claims())))
	for _, h := range []object{
		{"kid": []string{bird}},
		{"jwk": bird},
		{"x5c": []string{bird}},
		{"nonce": object{bird: bird}},
	} {
		h["alg"] = "ES256"
		head := base64.RawURLEncoding.EncodeToString([]byte(mustJSON(t, h)))
		refuses(t, j, bearer(head+"."+payload+".AAAA"), identity.ReasonMalformed, bird)
	}
	refuses(t, j, bearer(sign(t, jose.ES256, key, claims(), object{"kid": bird})), identity.ReasonKey, bird)

	// Without a key id, a bounded number of keys of the right type is tried.
	accepts(t, j, bearer(sign(t, jose.ES256, key, claims(), nil)))
	refuses(t, j, bearer(sign(t, jose.ES256, attacker, claims(), nil)), identity.ReasonSignature)
	refuses(t, j, bearer(sign(t, jose.EdDSA, edOf(t), claims(), nil)), identity.ReasonKey)
	var many []object
	var last *ecdsa.PrivateKey
	for range 9 {
		last = ecOf(t, elliptic.P256())
		many = append(many, jwkOf(t, last.Public(), nil))
	}
	refuses(
		t, newJWT(t, jwksFile(t, many...), nil), bearer(sign(t, jose.ES256, last, claims(), nil)),
		identity.ReasonSignature,
	)
	accepts(t, newJWT(t, jwksFile(t, many[1:]...), nil), bearer(sign(t, jose.ES256, last, claims(), nil)))
}

func TestJWTOptions(t *testing.T) {
	key := ecOf(t, elliptic.P256())
	path := jwksFile(t, jwkOf(t, key.Public(), nil))
	good := identity.JWTOptions{Issuer: issuer, Audience: audience, Keys: path}
	_, err := identity.NewJWT(t.Context(), good)
	require.NoError(t, err)
	_, err = identity.NewJWT(t.Context(), identity.JWTOptions{MaxSize: -1})
	for _, missing := range []string{"issuer", "audience", "keys", "negative"} {
		require.ErrorContains(t, err, missing)
	}
	for _, change := range []func(*identity.JWTOptions){
		func(o *identity.JWTOptions) { o.Issuer = "" },
		func(o *identity.JWTOptions) { o.Audience = "" },
		func(o *identity.JWTOptions) { o.Keys = "" },
		func(o *identity.JWTOptions) { o.Keys = path + ".none" },
		func(o *identity.JWTOptions) { o.MaxLifetime = -1 },
		func(o *identity.JWTOptions) { o.Refresh, o.Cooldown = time.Second, time.Minute },
		func(o *identity.JWTOptions) { o.CAFile = path },
		func(o *identity.JWTOptions) { o.Keys, o.CAFile = "https://127.0.0.1:1/jwks", path },
		func(o *identity.JWTOptions) { o.Keys, o.CAFile = "https://127.0.0.1:1/jwks", path+".none" },
		func(o *identity.JWTOptions) { o.Keys = "http://issuer.example.com/jwks" },
		func(o *identity.JWTOptions) { o.Keys = "http://10.0.0.1/jwks" },
		func(o *identity.JWTOptions) { o.Keys = "http://localhost.example.com/jwks" },
		func(o *identity.JWTOptions) { o.Keys = "ftp://127.0.0.1/jwks" },
		func(o *identity.JWTOptions) { o.Keys = "https:///jwks" },
		func(o *identity.JWTOptions) { o.Keys = "https://user:password@127.0.0.1:1/jwks" },
		func(o *identity.JWTOptions) { o.Keys = "https://%zz/jwks" },
	} {
		o := good
		change(&o)
		_, err := identity.NewJWT(t.Context(), o)
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.NotContains(t, err.Error(), "password")
	}
}

// FuzzBearer: only the valid token is accepted.
func FuzzBearer(f *testing.F) {
	log, _ := harness.Logger()
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	key, attacker := ecOf(f, elliptic.P256()), ecOf(f, elliptic.P256())
	j, err := identity.NewJWT(
		ctx,
		identity.JWTOptions{Issuer: issuer, Audience: audience, Keys: jwksFile(f, jwkOf(f, key.Public(), nil))},
	)
	require.NoError(f, err)
	path := filepath.Join(f.TempDir(), "tokens")
	value, line, err := identity.NewToken("a")
	require.NoError(f, err)
	require.NoError(f, os.WriteFile(path, []byte(line), 0o600))
	tokens, err := identity.NewTokens(ctx, path, log)
	require.NoError(f, err)
	chain := identity.Chain{identity.MTLS{}, j, tokens}
	for _, good := range []string{sign(f, jose.ES256, key, claims(), nil), string(value.Reveal())} {
		_, err := chain.Authenticate(ctx, bearer(good))
		require.NoError(f, err)
	}
	forged := sign(f, jose.ES256, attacker, claims(), nil)
	for _, seed := range []string{
		"", "inj_", "a.b.c", forged, strings.Replace(forged, ".", ".e30", 1),
		"eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0.",
	} {
		f.Add([]byte(seed))
	}
	// Separate parts, so that the fuzzer does not have to find valid base64.
	f.Add([]byte(`{"alg":"ES256"} {"iss":"` + issuer + `"} x`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var parts []string
		for part := range strings.SplitSeq(string(b), " ") {
			parts = append(parts, base64.RawURLEncoding.EncodeToString([]byte(part)))
		}
		for _, text := range []string{string(b), strings.Join(parts, ".")} {
			id, err := chain.Authenticate(t.Context(), bearer(text))
			require.ErrorIs(t, err, identity.ErrUnauthenticated)
			require.Equal(t, identity.Identity{}, id)
		}
	})
}
