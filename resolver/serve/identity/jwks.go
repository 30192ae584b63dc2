package identity

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/hashicorp/go-hclog"

	"inject/internal/keyfile"
	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

const minRSA = 2048 // bits of a key (NIST SP 800-131A)

// A keySource holds the keys of an issuer. It is safe for concurrent use.
type keySource interface {
	current() *keySet // nil if none could be read yet
	// refresh replaces current if it is still seen and newer keys can be read. It returns why
	// they could not be read.
	refresh(ctx context.Context, seen *keySet) error
	lastErr() error
}

// A keySet holds the usable keys of a JWKS. It is immutable.
type keySet struct{ keys []jose.JSONWebKey }

// find returns the public keys with the key id kid that may verify alg; keys of every id if
// kid is "".
func (s *keySet) find(kid string, alg jose.SignatureAlgorithm) (found []any) {
	if s == nil {
		return nil
	}
	for _, k := range s.keys {
		if (kid == "" || k.KeyID == kid) && (k.Algorithm == "" || k.Algorithm == string(alg)) && fits(k.Key, alg) {
			found = append(found, k.Key)
		}
	}
	return found
}

// parseKeys reads a JWKS. It leaves out keys that are unusable or unsafe, and logs each with
// its position in the list. A set without usable keys is an error.
func parseKeys(data []byte, log hclog.Logger) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &raw); err != nil || raw.Keys == nil {
		return nil, errors.New(`not a JWKS: {"keys": [...]}`)
	}
	set := &keySet{}
	for i, b := range raw.Keys {
		key, why := parseKey(b)
		if why != "" {
			log.Warn("a key of the JWKS is not used", "number", i+1, "reason", why)
			continue
		}
		set.keys = append(set.keys, key)
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf("none of the %d keys of the JWKS can be used", len(raw.Keys))
	}
	return set, nil
}

// parseKey returns a key, or why it is not used. The reason quotes nothing, because a wrong
// file may hold a secret.
func parseKey(b []byte) (key jose.JSONWebKey, why string) {
	var limits struct {
		Kty    string   `json:"kty"`
		KeyOps []string `json:"key_ops"`
	}
	if json.Unmarshal(b, &limits) != nil {
		return key, "malformed"
	}
	if limits.Kty == "oct" {
		return key, "a symmetric key: it could also sign tokens"
	}
	if json.Unmarshal(b, &key) != nil || !key.Valid() {
		return key, "malformed, or of an unsupported type"
	}
	r, isRSA := key.Key.(*rsa.PublicKey)
	switch {
	case !key.IsPublic():
		return key, "a private key: only the issuer may have it"
	case key.Use != "" && key.Use != "sig" && key.Use != "jwt-svid": // the last is SPIFFE's
		return key, "not for signatures (use)"
	case limits.KeyOps != nil && !slices.Contains(limits.KeyOps, "verify"):
		return key, "not for signatures (key_ops)"
	case isRSA && r.N.BitLen() < minRSA:
		return key, fmt.Sprintf("RSA with %d bits (at least %d are required)", r.N.BitLen(), minRSA)
	case !slices.ContainsFunc(signing, func(alg jose.SignatureAlgorithm) bool { return fits(key.Key, alg) }):
		return key, "of an unsupported type"
	}
	return key, ""
}

// A keyFile is a JWKS in a file.
type keyFile struct{ file *watch.Watched[*keySet] }

func newKeyFile(ctx context.Context, path string, log hclog.Logger) (keyFile, error) {
	file, err := watch.Load(ctx, path, func(b []byte) (*keySet, error) { return parseKeys(b, log) }, log)
	return keyFile{file}, err
}

func (f keyFile) current() *keySet                       { return f.file.Current() }
func (f keyFile) refresh(context.Context, *keySet) error { return f.file.Err() } // the file is watched
func (f keyFile) lastErr() error                         { return f.file.Err() }

// A keyURL is a JWKS at a URL. One goroutine fetches it; requests that need newer keys wake
// that goroutine and share the fetch.
type keyURL struct {
	url               *url.URL
	caFile, tokenFile string
	interval, between time.Duration // from one regular fetch to the next; the least between any two
	log               hclog.Logger
	wake              chan struct{} // asks for a fetch; has room for one element
	ended             chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	keys   *keySet
	body   []byte // that keys were read from
	since  time.Time
	err    error         // of the last fetch
	begun  time.Time     // start of the last fetch
	flight chan struct{} // closed when the requested or running fetch ends; nil without one
}

func newKeyURL(ctx context.Context, o JWTOptions) (*keyURL, error) {
	u, err := url.Parse(o.Keys)
	if err != nil {
		return nil, errors.New("the URL of the keys is invalid")
	}
	switch {
	case u.User != nil:
		return nil, errors.New("the URL of the keys names a user: a JWKS must be public")
	case !isSafe(u):
		return nil, errors.New(
			"the URL of the keys is not https (or http on loopback): an attacker on the network could replace the keys",
		)
	}
	r := &keyURL{
		url: u, caFile: o.CAFile, tokenFile: o.TokenFile, interval: o.Refresh, between: o.Cooldown,
		log:  o.Log.With("keys", u.Host+u.EscapedPath()),
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	_, err = rootsOf(o.CAFile)
	_, err2 := r.token()
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	go r.run(ctx)
	_ = r.refresh(ctx, nil) // run logs the error
	return r, nil
}

func (r *keyURL) current() *keySet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys
}

func (r *keyURL) lastErr() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// refresh fetches the keys unless the last fetch was a moment ago. Callers choose key ids, so
// unknown ids must not cause more fetches.
func (r *keyURL) refresh(ctx context.Context, seen *keySet) error {
	r.mu.Lock()
	if r.keys != seen { // a fetch has ended since
		defer r.mu.Unlock()
		return r.err
	}
	if r.flight == nil {
		if !r.begun.IsZero() && time.Since(r.begun) < r.between {
			defer r.mu.Unlock()
			return r.err
		}
		r.flight = make(chan struct{})
		select {
		case r.wake <- struct{}{}:
		default: // a fetch is requested already
		}
	}
	flight := r.flight
	r.mu.Unlock()
	select {
	case <-flight:
		return r.lastErr()
	case <-r.ended:
		return errors.New("the server is shutting down")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *keyURL) run(ctx context.Context) {
	defer close(r.ended)
	timer := time.NewTimer(r.interval)
	defer timer.Stop()
	failed := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			r.begin(true)
		case <-r.wake:
			if !r.begin(false) {
				continue // the fetch before answered this request, too
			}
		}
		failed++
		if r.end(r.fetch(ctx)) {
			failed = 0
		}
		wait := r.interval
		if failed > 0 { // retry soon, then with longer and longer waits
			wait = min(wait, max(r.between, time.Second)<<min(failed-1, 16))
		}
		timer.Reset(wait)
	}
}

// begin records the start of a fetch. Unless always, it does so only if a request waits for
// one, and reports whether one does.
func (r *keyURL) begin(always bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight == nil {
		if !always {
			return false
		}
		r.flight = make(chan struct{})
	}
	r.begun = time.Now()
	return true
}

// end stores the result of a fetch, and reports whether it is usable. Only this goroutine
// writes keys, body, since and err, so it may read them without the lock.
func (r *keyURL) end(body []byte, err error) bool {
	keys, same := r.keys, err == nil && r.keys != nil && bytes.Equal(body, r.body)
	if err == nil && !same { // parsing the same again would repeat its warnings
		keys, err = parseKeys(body, r.log)
	}
	switch {
	case err != nil && r.keys == nil:
		r.log.Error("the keys cannot be fetched, and there are none yet: no token of this issuer is accepted",
			"error", err)
	case err != nil:
		r.log.Error("the keys cannot be fetched; the previous ones stay in use", "fetched", r.since, "error", err)
	case !same:
		r.log.Info("the fetched keys are in use", "number", len(keys.keys))
	case r.err != nil:
		r.log.Info("the keys can be fetched again, and have not changed")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if err == nil {
		r.keys, r.body, r.since = keys, body, time.Now()
	}
	close(r.flight)
	r.flight = nil
	return err == nil
}

// token returns the bearer token for the URL, an empty one without a file. The error does not quote
// the file's content.
func (r *keyURL) token() (secret.Value, error) {
	if r.tokenFile == "" {
		return secret.Value{}, nil
	}
	if err := keyfile.Check(r.tokenFile); err != nil {
		return secret.Value{}, fmt.Errorf("token file: %s: %w", r.tokenFile, err)
	}
	f, err := os.Open(r.tokenFile)
	if err != nil {
		return secret.Value{}, fmt.Errorf("token file: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(io.LimitReader(f, defaultMaxSize+1))
	if err != nil {
		return secret.Value{}, fmt.Errorf("token file: %w", err)
	}
	b = bytes.TrimSpace(b)
	unfit := func(c byte) bool { return c <= ' ' || c > '~' } // in a header
	if len(b) == 0 || len(b) > defaultMaxSize || slices.ContainsFunc(b, unfit) {
		return secret.Value{}, fmt.Errorf("token file: %s holds no token", r.tokenFile)
	}
	return secret.NewValue(b), nil
}

// fetch returns the body of the URL.
func (r *keyURL) fetch(ctx context.Context) ([]byte, error) {
	token, err := r.token()
	if err != nil {
		return nil, err
	}
	return fetch(ctx, r.url, r.caFile, token, "application/jwk-set+json, application/json")
}
