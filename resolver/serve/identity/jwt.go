package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
)

// The defaults of JWTOptions.
const (
	defaultLeeway   = 30 * time.Second
	defaultMaxSize  = 16 << 10
	defaultRefresh  = 5 * time.Minute
	defaultCooldown = 10 * time.Second
)

// maxCandidates is how many keys are tried to verify one token.
const maxCandidates = 8

// signing are the algorithms that may be allowed: those with a public key. With HS* the
// server would hold a key that can sign tokens, and with none anyone could make one.
var signing = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// JWTOptions say which tokens are accepted. Issuer, Audience and Keys are required.
type JWTOptions struct {
	Issuer   string // the claim iss must equal it
	Audience string // the claim aud must contain it: the issuer's name of this service
	// Keys locates the issuer's public keys, a JWKS: the path of a file, which is read again
	// when it changes, or an https URL; http is allowed on loopback only.
	Keys   string
	CAFile string // PEM: the CAs for the certificate of the URL; "" for those of the system
	// TokenFile holds a bearer token for the URL, "" for none. Kubernetes needs one: it answers
	// 403 to anonymous callers. The file is read for each fetch, because such tokens are replaced.
	TokenFile string

	Algorithms  []string      // of RS*, PS*, ES* and EdDSA; nil for RS256, PS256, ES256 and EdDSA
	Leeway      time.Duration // how far the issuer's clock may be ahead (nbf, iat); 0 for 30 s, negative for none
	MaxLifetime time.Duration // from iat to exp; 0 for any
	MaxSize     int           // of a token in bytes; 0 for 16 KiB

	Refresh  time.Duration // how often the URL is fetched; 0 for 5 min
	Cooldown time.Duration // the least time between fetches for unknown keys; 0 for 10 s

	Log hclog.Logger // nil for none
}

// A JWT authenticates the tokens of one issuer that are meant for this service and signed by
// one of the issuer's keys. The identity's Method is jwt; its Name is ISSUER#SUBJECT, as in
// the Kubernetes API server. Keys inside a token, or that it points to (jwk, jku, x5u, x5c),
// are ignored.
type JWT struct {
	o          JWTOptions
	algorithms []jose.SignatureAlgorithm
	keys       keySource
	who        string
}

// NewJWT returns the authenticator of an issuer. It follows changes of the keys until ctx
// ends. A key that is removed stops working when the change of the file is noticed, or with
// the next fetch of the URL. A new key works from then on; the first token that is signed by
// one makes the URL be fetched at once. While the keys cannot be read, the previous ones stay
// in use.
//
// The error wraps [secret.ErrInvalid]: an option is wrong or a file cannot be read. A URL
// that does not answer is only logged and tried again, because the callers of other
// authenticators must not wait for it.
func NewJWT(ctx context.Context, o JWTOptions) (*JWT, error) {
	j := &JWT{o: o}
	errs := j.complete()
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: jwt: %w", secret.ErrInvalid, errors.Join(errs...))
	}
	j.who = "jwt of " + j.o.Issuer
	var err error
	if strings.Contains(o.Keys, "://") {
		j.keys, err = newKeyURL(ctx, j.o)
	} else {
		j.keys, err = newKeyFile(ctx, o.Keys, j.o.Log)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", secret.ErrInvalid, j.who, err)
	}
	return j, nil
}

// complete fills in the defaults and returns what is wrong with the options.
func (j *JWT) complete() (errs []error) {
	o := &j.o
	for _, field := range []struct{ name, value string }{
		{"issuer", o.Issuer},
		{"audience", o.Audience},
		{"keys", o.Keys},
	} {
		if field.value == "" {
			errs = append(errs, fmt.Errorf("no %s", field.name))
		}
	}
	if o.Algorithms == nil {
		o.Algorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
	}
	if len(o.Algorithms) == 0 {
		errs = append(errs, errors.New("no algorithm"))
	}
	for _, name := range o.Algorithms {
		alg := jose.SignatureAlgorithm(name)
		if !slices.Contains(signing, alg) {
			errs = append(errs, fmt.Errorf("algorithm %.20q: only %v", name, signing))
		}
		j.algorithms = append(j.algorithms, alg)
	}
	o.Leeway = max(cmp.Or(o.Leeway, defaultLeeway), 0)
	o.MaxSize = cmp.Or(o.MaxSize, defaultMaxSize)
	o.Refresh = cmp.Or(o.Refresh, defaultRefresh)
	o.Cooldown = cmp.Or(o.Cooldown, min(defaultCooldown, o.Refresh))
	if o.MaxSize < 0 || o.MaxLifetime < 0 || o.Cooldown < 0 || o.Refresh < o.Cooldown {
		errs = append(errs, errors.New("sizes and times must not be negative, and refresh not shorter than cooldown"))
	}
	if o.CAFile != "" && !strings.HasPrefix(o.Keys, "https://") {
		errs = append(errs, errors.New("a CA file needs keys at an https URL"))
	}
	if o.TokenFile != "" && !strings.Contains(o.Keys, "://") {
		errs = append(errs, errors.New("a token file needs keys at a URL"))
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	return errs
}

// Issuer returns the issuer of the tokens that j accepts.
func (j *JWT) Issuer() string { return j.o.Issuer }

// Options returns what j was made from, with the defaults filled in.
func (j *JWT) Options() JWTOptions { return j.o }

// Err returns why the keys could not be read last time, or nil.
func (j *JWT) Err() error { return j.keys.lastErr() }

// HasKeys reports whether the keys could be read at least once. Without keys no token is accepted.
func (j *JWT) HasKeys() bool { return j.keys.current() != nil }

// Authenticate implements [Authenticator]. For a bearer token that is not a JWT, or names
// another issuer, it returns ErrNone.
func (j *JWT) Authenticate(ctx context.Context, c Credentials) (Identity, error) {
	raw := c.Bearer.Reveal()
	parts := bytes.Split(raw, []byte("."))
	if len(parts) != 3 || !isWords(parts) {
		return Identity{}, fmt.Errorf("%w: not a JWT", ErrNone)
	}
	if len(raw) > j.o.MaxSize {
		return Identity{}, refuse("jwt", ReasonSize, "%d bytes, at most %d", len(raw), j.o.MaxSize)
	}
	var header map[string]json.RawMessage
	var claimed struct {
		Issuer string `json:"iss"`
	}
	if !decode(parts[0], &header) || header == nil || !decode(parts[1], &claimed) || claimed.Issuer != j.o.Issuer {
		return Identity{}, fmt.Errorf("%w: not a JWT of %s", ErrNone, j.o.Issuer)
	}
	payload, err := j.verify(ctx, string(raw), header)
	if err != nil {
		return Identity{}, err
	}
	return j.identify(payload)
}

// isWords reports whether all parts are in the alphabet of base64url. The decoder would
// ignore line ends.
func isWords(parts [][]byte) bool {
	for _, part := range parts {
		for _, b := range part {
			if b != '-' && b != '_' && (b < '0' || b > '9') && (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') {
				return false
			}
		}
	}
	return true
}

func decode(part []byte, to any) bool {
	b, err := base64.RawURLEncoding.AppendDecode(nil, part)
	return err == nil && json.Unmarshal(b, to) == nil
}

// verify returns the payload of a token after checking its signature. The library's errors
// quote the token's header, so they are not passed on.
func (j *JWT) verify(ctx context.Context, raw string, header map[string]json.RawMessage) (json.RawMessage, error) {
	var alg jose.SignatureAlgorithm
	if err := json.Unmarshal(header["alg"], &alg); err != nil || !slices.Contains(j.algorithms, alg) {
		return nil, refuse(j.who, ReasonAlgorithm, "signed with %s, allowed are %v", known(alg), j.algorithms)
	}
	for _, name := range []string{"crit", "b64"} {
		if _, has := header[name]; has { // RFC 7515, 4.1.11: an unknown extension must be refused
			return nil, refuse(j.who, ReasonMalformed, "it has the header %s, but no extension is supported", name)
		}
	}
	token, err := jwt.ParseSigned(raw, j.algorithms)
	if err != nil || len(token.Headers) != 1 {
		return nil, refuse(j.who, ReasonMalformed, "not a well-formed JWS")
	}
	kid := token.Headers[0].KeyID
	keys := j.keys.current()
	candidates := keys.find(kid, alg)
	if len(candidates) == 0 {
		err := j.keys.refresh(ctx, keys)
		candidates = j.keys.current().find(kid, alg)
		if len(candidates) == 0 && err != nil {
			return nil, fmt.Errorf(
				"%w: %s: its key is unknown, and the keys cannot be read now: %w", secret.ErrUnavailable, j.who,
				err,
			)
		}
	}
	switch {
	case len(candidates) == 0 && kid == "":
		return nil, refuse(j.who, ReasonKey, "there is no key for %s", alg)
	case len(candidates) == 0: // the id is text of the caller, so it is not quoted
		return nil, refuse(j.who, ReasonKey, "there is no key for %s with its key id", alg)
	}
	for _, key := range candidates[:min(len(candidates), maxCandidates)] {
		var payload json.RawMessage
		if token.Claims(key, &payload) == nil {
			return payload, nil
		}
	}
	return nil, refuse(j.who, ReasonSignature, "the signature is wrong")
}

// known returns alg if it is a well-known name, since the token may have any text there.
func known(alg jose.SignatureAlgorithm) string {
	if slices.Contains(signing, alg) ||
		slices.Contains([]jose.SignatureAlgorithm{"none", jose.HS256, jose.HS384, jose.HS512}, alg) {
		return string(alg)
	}
	return "an unknown algorithm"
}

// identify validates the claims of a token whose signature is valid.
func (j *JWT) identify(payload json.RawMessage) (Identity, error) {
	var c jwt.Claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Identity{}, refuse(j.who, ReasonMalformed, "one of iss, sub, aud, exp, nbf, iat has the wrong type")
	}
	if err := j.valid(c, time.Now()); err != nil {
		return Identity{}, err
	}
	var all map[string]any
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.SetNumberType(json.UnmarshalJSONNumber) // a float64 would round large ids
	if err := decoder.Decode(&all); err != nil {
		return Identity{}, refuse(j.who, ReasonMalformed, "its claims are not an object")
	}
	attributes := map[string][]string{"issuer": {c.Issuer}, "subject": {c.Subject}, "audience": c.Audience}
	addClaims(attributes, "claim", all, maxDepth)
	return New("jwt", c.Issuer+"#"+c.Subject, attributes), nil
}

func (j *JWT) valid(c jwt.Claims, now time.Time) error {
	at := func(n *jwt.NumericDate) string { return n.Time().UTC().Format(time.RFC3339) }
	switch ahead := now.Add(j.o.Leeway); {
	case c.Issuer != j.o.Issuer:
		return refuse(j.who, ReasonUnknown, "it is of another issuer")
	case !c.Audience.Contains(j.o.Audience):
		return refuse(j.who, ReasonAudience, "it is not for the audience %q", j.o.Audience)
	case c.Subject == "":
		return refuse(j.who, ReasonName, "it has no subject")
	case c.Expiry == nil:
		return refuse(j.who, ReasonLifetime, "it has no expiry (exp)")
	case !now.Before(c.Expiry.Time()):
		return refuse(j.who, ReasonExpired, "it has expired (%s)", at(c.Expiry))
	case c.NotBefore != nil && ahead.Before(c.NotBefore.Time()):
		return refuse(j.who, ReasonNotYet, "it is not valid yet (from %s)", at(c.NotBefore))
	case c.IssuedAt != nil && ahead.Before(c.IssuedAt.Time()):
		return refuse(j.who, ReasonNotYet, "it was issued in the future (%s)", at(c.IssuedAt))
	case j.o.MaxLifetime == 0:
		return nil
	case c.IssuedAt == nil:
		return refuse(
			j.who, ReasonLifetime, "it has no time of issue (iat), which is needed to limit its lifetime to %s",
			j.o.MaxLifetime,
		)
	case c.Expiry.Time().Sub(c.IssuedAt.Time()) > j.o.MaxLifetime:
		return refuse(j.who, ReasonLifetime, "it is valid for longer than %s", j.o.MaxLifetime)
	}
	return nil
}

// maxDepth is how deeply nested claims become attributes.
const maxDepth = 16

var claimName = strings.NewReplacer(`\`, `\\`, `.`, `\.`)

// addClaims adds the claims to attributes, as described at [Identity.Attribute].
func addClaims(attributes map[string][]string, prefix string, claims map[string]any, depth int) {
	if depth == 0 {
		return
	}
	for name, value := range claims {
		name = prefix + "." + claimName.Replace(name)
		switch v := value.(type) {
		case string:
			attributes[name] = []string{v}
		case json.Number:
			attributes[name] = []string{v.String()}
		case bool:
			attributes[name] = []string{fmt.Sprint(v)}
		case []any:
			texts := make([]string, 0, len(v))
			for _, e := range v {
				if s, ok := e.(string); ok {
					texts = append(texts, s)
				}
			}
			if len(texts) == len(v) {
				attributes[name] = texts
			}
		case map[string]any:
			addClaims(attributes, name, v, depth-1)
		}
	}
}

// fits reports whether key may be used with alg. A key must not be used with an algorithm of
// another family or curve, for which its owner did not make it.
func fits(key any, alg jose.SignatureAlgorithm) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(alg), "RS") || strings.HasPrefix(string(alg), "PS")
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && k.Curve == elliptic.P256() ||
			alg == jose.ES384 && k.Curve == elliptic.P384() ||
			alg == jose.ES512 && k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}
