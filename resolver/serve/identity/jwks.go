package identity

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/hashicorp/go-hclog"

	"inject/resolver/serve/watch"
	"inject/resolver/store"
)

const (
	minRSA       = 2048             // bits of a key (NIST SP 800-131A)
	maxJWKS      = 512 << 10        // bytes of an answer
	fetchTime    = 10 * time.Second // of one fetch, from the name's look-up to the last byte
	maxRedirects = 3
)

// A keySource is where an issuer's keys are. Several goroutines may use it.
type keySource interface {
	current() *keySet // nil if there never were any
	// refresh makes current newer than seen, if there are newer keys and it may look for
	// them, else returns why they are not as new as they could be.
	refresh(ctx context.Context, seen *keySet) error
	lastErr() error
}

// A keySet is a JWKS, with what cannot be used left out. It does not change.
type keySet struct{ keys []jose.JSONWebKey }

// find returns the public keys for tokens signed with alg under the key id kid; those of
// any id if kid is "".
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

// parseKeys reads a JWKS. Keys that are of no use for us, or would be of harm, are left
// out, and told to log by their place in the list; a set without any other is refused.
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

// parseKey returns a key, or why it is not used. The reason quotes nothing of it: in a
// file that is not what it should be there may be a secret.
func parseKey(b []byte) (key jose.JSONWebKey, why string) {
	var limits struct {
		Kty    string   `json:"kty"`
		KeyOps []string `json:"key_ops"`
	}
	if json.Unmarshal(b, &limits) != nil {
		return key, "malformed"
	}
	if limits.Kty == "oct" {
		return key, "a symmetric key: whoever can check a token with it can make one"
	}
	if json.Unmarshal(b, &key) != nil || !key.Valid() {
		return key, "malformed, or of a type that is not supported"
	}
	r, isRSA := key.Key.(*rsa.PublicKey)
	switch {
	case !key.IsPublic():
		return key, "a private key: nobody but the issuer should have it"
	case key.Use != "" && key.Use != "sig" && key.Use != "jwt-svid": // the last is SPIFFE's
		return key, "not for signatures (use)"
	case limits.KeyOps != nil && !slices.Contains(limits.KeyOps, "verify"):
		return key, "not for signatures (key_ops)"
	case isRSA && r.N.BitLen() < minRSA:
		return key, fmt.Sprintf("RSA of %d bits, at least %d", r.N.BitLen(), minRSA)
	case !slices.ContainsFunc(signing, func(alg jose.SignatureAlgorithm) bool { return fits(key.Key, alg) }):
		return key, "of a type that is not supported"
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
func (f keyFile) refresh(context.Context, *keySet) error { return f.file.Err() } // it is kept current anyway
func (f keyFile) lastErr() error                         { return f.file.Err() }

// A keyURL is a JWKS at a URL. One goroutine fetches; who needs newer keys asks it to, and
// shares the fetch that is under way.
type keyURL struct {
	url               *url.URL
	caFile            string
	interval, between time.Duration // of fetches that nobody asks for; at least between two
	log               hclog.Logger
	wake              chan struct{} // asks for a fetch; holds one
	ended             chan struct{} // closed when nobody fetches any more

	mu     sync.Mutex
	keys   *keySet
	body   []byte // of which they are
	since  time.Time
	err    error         // of the last fetch
	begun  time.Time     // the last fetch
	flight chan struct{} // closed when the fetch that is asked for, or under way, ends; nil without one
}

func newKeyURL(ctx context.Context, o JWTOptions) (*keyURL, error) {
	u, err := url.Parse(o.Keys)
	if err != nil {
		return nil, errors.New("the URL of the keys is not one")
	}
	switch {
	case u.User != nil:
		return nil, errors.New("the URL of the keys has a user in it: a JWKS is public")
	case u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !store.Loopback(u.Hostname())):
		return nil, errors.New("the URL of the keys is not https (or http on loopback): whoever is on the way could replace them")
	}
	r := &keyURL{
		url: u, caFile: o.CAFile, interval: o.Refresh, between: o.Cooldown, log: o.Log.With("keys", u.Host+u.EscapedPath()),
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if _, err := r.roots(); err != nil {
		return nil, err
	}
	go r.run(ctx)
	_ = r.refresh(ctx, nil) // is logged
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

// refresh fetches the keys unless that was tried a moment ago: key ids are the callers'
// to choose, and must not make us fetch more often.
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
		default: // is asked already
		}
	}
	flight := r.flight
	r.mu.Unlock()
	select {
	case <-flight:
		return r.lastErr()
	case <-r.ended:
		return errors.New("the server is ending")
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
				continue // it was answered by the fetch before this
			}
		}
		failed++
		if r.end(r.fetch(ctx)) {
			failed = 0
		}
		wait := r.interval
		if failed > 0 { // soon, then ever later
			wait = min(wait, max(r.between, time.Second)<<min(failed-1, 16))
		}
		timer.Reset(wait)
	}
}

// begin notes that a fetch begins; unless always, only if somebody waits for one.
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

// end takes what was fetched, and reports whether it is of use. Nobody else writes keys,
// body, since and err, so it may read them as they are.
func (r *keyURL) end(body []byte, err error) bool {
	keys, same := r.keys, err == nil && r.keys != nil && bytes.Equal(body, r.body)
	if err == nil && !same { // else the same warnings again
		keys, err = parseKeys(body, r.log)
	}
	switch {
	case err != nil:
		r.log.Error("the keys cannot be fetched; those fetched before stay in use", "fetched", r.since, "error", err)
	case !same:
		r.log.Info("the keys are in use as they were fetched", "number", len(keys.keys))
	case r.err != nil:
		r.log.Info("the keys can be fetched again, and are the same")
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

// roots returns the CAs of the URL, nil for the system's. They are read at each fetch, so
// that they can be replaced.
func (r *keyURL) roots() (*x509.CertPool, error) {
	if r.caFile == "" {
		return nil, nil //nolint:nilnil // no pool is the system's, as in tls.Config
	}
	pem, err := os.ReadFile(r.caFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file: %s: no certificate in it", r.caFile)
	}
	return pool, nil
}

// fetch returns the body of the URL. The URL is not in the error: it may have a query.
func (r *keyURL) fetch(ctx context.Context) ([]byte, error) {
	roots, err := r.roots()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url.String(), http.NoBody)
	if err != nil {
		return nil, errors.New("no request can be made of the URL")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	transport := &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DisableKeepAlives:      true, // the next fetch is minutes away
		MaxResponseHeaderBytes: 64 << 10,
	}
	if r.url.Scheme == "https" { // http is for loopback, and a proxy could replace the keys
		transport.Proxy = http.ProxyFromEnvironment
	}
	client := &http.Client{CheckRedirect: sameHost, Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, fmt.Errorf("%s: %w", r.url.Host, err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: HTTP status %d", r.url.Host, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxJWKS+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", r.url.Host, err)
	case len(body) > maxJWKS:
		return nil, fmt.Errorf("%s: more than %d bytes", r.url.Host, maxJWKS)
	}
	return body, nil
}

// sameHost keeps a redirect from naming another host as the one whose keys we believe.
func sameHost(to *http.Request, via []*http.Request) error {
	switch first := via[0].URL; {
	case to.URL.Host != first.Host || to.URL.Scheme != first.Scheme:
		return errors.New("it redirects to another host")
	case len(via) > maxRedirects:
		return errors.New("it redirects too often")
	}
	return nil
}
