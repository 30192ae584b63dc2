package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"

	"inject/resolver/secret"
)

// LoginOptions say how people get a token of an issuer. All but Audience and CAFile are required.
type LoginOptions struct {
	Issuer      string // whose tokens the server accepts
	ClientID    string // as which clients ask the issuer; a public client, which has no secret
	Audience    string // what clients ask the issuer to put into the token, "" for nothing
	Scopes      []string
	RedirectURI string // where the issuer sends the browser: a port that the client opens
	CAFile      string // PEM: the CAs for the issuer's certificate; "" for those of the system
	Log         hclog.Logger
}

// IssuerMetadata is what an issuer says of itself (OpenID Connect Discovery 1.0, RFC 8414), as far
// as clients need it to log in.
type IssuerMetadata struct {
	Issuer                      string   `json:"issuer"`
	AuthorizationEndpoint       string   `json:"authorization_endpoint"`
	TokenEndpoint               string   `json:"token_endpoint"`
	DeviceAuthorizationEndpoint string   `json:"device_authorization_endpoint"`
	JWKSURI                     string   `json:"jwks_uri"`
	ResponseTypes               []string `json:"response_types_supported"`
	Scopes                      []string `json:"scopes_supported"`
	TokenAuthMethods            []string `json:"token_endpoint_auth_methods_supported"`
	CodeChallengeMethods        []string `json:"code_challenge_methods_supported"`
	GrantTypes                  []string `json:"grant_types_supported"`
}

const (
	discovered   = 5 * time.Minute  // how long metadata is used before it is fetched again
	undiscovered = 10 * time.Second // the least time between two fetches, since anyone may ask
)

// A Login tells clients how to get a token of an issuer. It is safe for concurrent use.
type Login struct {
	o       LoginOptions
	url     *url.URL
	flights singleflight.Group
	now     func() time.Time

	mu       sync.Mutex
	metadata *IssuerMetadata // of the last fetch that succeeded
	err      error           // of the last fetch
	fetched  time.Time       // when it ended
}

// NewLogin returns the login at an issuer. It asks the issuer nothing yet. The error wraps
// [secret.ErrInvalid]: an option is missing or unsafe.
func NewLogin(o LoginOptions) (*Login, error) {
	u, err := url.Parse(strings.TrimSuffix(o.Issuer, "/") + "/.well-known/openid-configuration")
	var errs []error
	if err != nil || !isSafe(u) || u.User != nil {
		errs = append(errs, errors.New("the issuer is not an https URL (or http on loopback)"))
	}
	if o.ClientID == "" {
		errs = append(errs, errors.New("client-id is missing: the issuer knows clients by it"))
	}
	redirect, err := url.Parse(o.RedirectURI)
	if err != nil || redirect.Host == "" || redirect.User != nil ||
		redirect.Scheme != "http" && redirect.Scheme != "https" {
		errs = append(errs, errors.New("redirect-uri is not a URL such as http://localhost:53593/callback"))
	}
	if _, err := rootsOf(o.CAFile); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return &Login{o: o, url: u, now: time.Now}, nil
}

// Options returns the options. Callers must not change them.
func (l *Login) Options() LoginOptions { return l.o }

// Metadata returns what the issuer says of itself. It asks the issuer at most every ten seconds,
// and every five minutes if it answers. If it no longer answers, its last answer counts. The error
// says why there is none, for the caller; or it is that of ctx.
func (l *Login) Metadata(ctx context.Context) (*IssuerMetadata, error) {
	if m, err, known := l.last(); known {
		return m, err
	}
	done := l.flights.DoChan("", func() (any, error) {
		if _, _, known := l.last(); !known { // a flight has ended since
			l.learn(context.WithoutCancel(ctx))
		}
		return nil, nil //nolint:nilnil // the result is in l
	})
	select {
	case <-done:
		m, err, _ := l.last()
		return m, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// last returns the result of the last fetch. known is false if it is too old.
func (l *Login) last() (m *IssuerMetadata, err error, known bool) { //nolint:revive // known is about both
	l.mu.Lock()
	defer l.mu.Unlock()
	age := undiscovered
	if l.err == nil {
		age = discovered
	}
	known = !l.fetched.IsZero() && l.now().Sub(l.fetched) < age
	if l.metadata != nil {
		return l.metadata, nil, known
	}
	return nil, l.err, known
}

// learn fetches the metadata.
func (l *Login) learn(ctx context.Context) {
	m, err := l.discover(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fetched, l.err = l.now(), err; err == nil {
		l.metadata = m
		return
	}
	l.err = secret.WithHint(
		fmt.Errorf("the issuer %s does not tell how to log in: %w", l.o.Issuer, err),
		"try again later, or use a token that you have")
	l.o.Log.Error("the issuer's metadata cannot be fetched", "issuer", l.o.Issuer, "error", err)
}

func (l *Login) discover(ctx context.Context) (*IssuerMetadata, error) {
	body, err := fetch(ctx, l.url, l.o.CAFile, secret.Value{}, "application/json")
	if err != nil {
		return nil, err
	}
	m := &IssuerMetadata{}
	if err := json.Unmarshal(body, m); err != nil {
		return nil, errors.New("its metadata is not the JSON of OpenID Connect Discovery")
	}
	if m.Issuer != l.o.Issuer { // clients would get tokens that the server refuses
		return nil, fmt.Errorf("its metadata are of %.200q", m.Issuer)
	}
	for _, e := range []struct{ name, text string }{
		{"authorization_endpoint", m.AuthorizationEndpoint},
		{"token_endpoint", m.TokenEndpoint},
		{"device_authorization_endpoint", m.DeviceAuthorizationEndpoint},
	} {
		u, err := url.Parse(e.text)
		if e.text == "" && e.name != "token_endpoint" { // an issuer may lack a login
			continue
		}
		if err != nil || !isSafe(u) { // clients send codes and get tokens there
			return nil, fmt.Errorf("its %s is not an https URL", e.name)
		}
	}
	return m, nil
}
