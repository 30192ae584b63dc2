// Package login logs a person in at the issuer of the tokens that a server accepts, in a browser or
// with a code for another device, and keeps the tokens for that server alone.
//
// Package golang.org/x/oauth2 speaks the protocol: OAuth 2.0 (RFC 6749) for native programs (RFC
// 8252) with PKCE (RFC 7636), and the device grant (RFC 8628). This package adds the page that the
// browser comes back to, the bounds on what an issuer may send and how long it may take, and the file
// of tokens.
package login

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"inject/internal/printable"
	"inject/resolver/secret"
	"inject/resolver/store"
)

const (
	maxToken = 16 << 10 // bytes of a token; package rpc sends none that is longer
	maxText  = 300      // bytes of an issuer's text that are shown
	maxURL   = 2 << 10  // bytes of an address that a server or an issuer gives
)

// How long a login may take, from the printed address to the token.
const (
	browserTime = 10 * time.Minute
	deviceTime  = 15 * time.Minute // an issuer may give it less
)

// A Provider says where people log in, and as which client they do. A server tells it, so its
// addresses are checked before they are used: all are https, or http on this machine.
type Provider struct {
	Issuer                string
	AuthorizationEndpoint string // "" if the issuer has no login in a browser
	TokenEndpoint         string
	DeviceEndpoint        string // "" if the issuer has no login on another device
	ClientID              string // of a public client, which has no secret
	RedirectURI           string // where the issuer sends the browser: a port of this machine
	Audience              string // what the issuer is asked to put into the token; "" for nothing
	Scopes                []string
}

// check returns an error that names every part of p that is missing or unsafe.
func (p Provider) check() error {
	var errs []error
	for _, part := range []struct {
		name, text string
		required   bool
	}{
		{"issuer", p.Issuer, true},
		{"authorization endpoint", p.AuthorizationEndpoint, false},
		{"token endpoint", p.TokenEndpoint, true},
		{"device authorization endpoint", p.DeviceEndpoint, false},
	} {
		if part.text == "" && !part.required {
			continue
		}
		if _, err := safeURL(part.text); err != nil {
			errs = append(errs, fmt.Errorf("its %s is %w", part.name, err))
		}
	}
	if p.ClientID == "" {
		errs = append(errs, errors.New("it names no client"))
	}
	if n := len(p.ClientID) + len(p.Audience) + len(strings.Join(p.Scopes, " ")); n > maxURL {
		errs = append(errs, fmt.Errorf("its client, audience and scopes have %d bytes (at most %d)", n, maxURL))
	}
	if err := errors.Join(errs...); err != nil {
		return secret.WithHint(
			fmt.Errorf("%w: the login that the server offers cannot be used: %w", secret.ErrInvalid, err),
			"tell the server's operator: --login and the issuer's metadata say where people log in")
	}
	return nil
}

var errUnsafe = errors.New("not an https URL (or http on this machine)")

// safeURL returns the URL in text if a request to it reaches that host alone.
func safeURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || u.Host == "" || u.User != nil || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !store.Loopback(u.Hostname())) {
		return nil, errUnsafe
	}
	return u, nil
}

// config returns the settings of package oauth2 for p.
func (p Provider) config() *oauth2.Config {
	return &oauth2.Config{
		ClientID: p.ClientID, RedirectURL: p.RedirectURI, Scopes: p.Scopes,
		Endpoint: oauth2.Endpoint{
			AuthURL: p.AuthorizationEndpoint, TokenURL: p.TokenEndpoint, DeviceAuthURL: p.DeviceEndpoint,
			AuthStyle: oauth2.AuthStyleInParams, // as a public client must; to try both would spend the code
		},
	}
}

// options returns options with the audience, if p has one.
func (p Provider) options(options ...oauth2.AuthCodeOption) []oauth2.AuthCodeOption {
	if p.Audience != "" {
		options = append(options, oauth2.SetAuthURLParam("audience", p.Audience))
	}
	return options
}

// Tokens are the tokens that an issuer gives for a login.
type Tokens struct {
	Access  secret.Value
	Refresh secret.Value // empty if the issuer gives none
	Expiry  time.Time    // of Access; zero if the issuer does not say
}

// A Login is one login of a person.
type Login struct {
	Provider Provider
	CAFile   string // PEM: authorities that may sign the issuer's certificate, beside those of the system
	// Show tells the person a sentence.
	Show func(text string)
	// Open opens an address in a browser, and reports whether it could; nil for none.
	Open func(address string) bool

	limit time.Duration // tests set it, in place of browserTime and deviceTime
}

// Browser logs a person in with a browser of this machine. It waits for at most ten minutes, or
// until ctx ends.
func (l *Login) Browser(ctx context.Context) (Tokens, error) {
	if err := l.Provider.check(); err != nil {
		return Tokens{}, err
	}
	if l.Provider.AuthorizationEndpoint == "" {
		return Tokens{}, secret.WithHint(fmt.Errorf("%w: %s has no login in a browser", secret.ErrInvalid,
			l.Provider.host()), "use --device")
	}
	client, err := newClient(l.CAFile)
	if err != nil {
		return Tokens{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(l.limit, browserTime), errLate)
	defer cancel()
	state, verifier := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	back, err := listen(l.Provider.RedirectURI, state)
	if err != nil {
		return Tokens{}, err
	}
	defer back.close()

	config := l.Provider.config()
	address := config.AuthCodeURL(state, l.Provider.options(oauth2.S256ChallengeOption(verifier))...)
	if l.Open != nil && l.Open(address) {
		l.show("a browser opens for the login at " + l.Provider.host() + "; if not, open this address: " + address)
	} else {
		l.show("open this address in a browser of this machine to log in: " + address)
	}
	code, err := back.wait(ctx, l.Provider.Issuer)
	if err != nil {
		return Tokens{}, l.failed(ctx, err)
	}
	t, err := config.Exchange(context.WithValue(ctx, oauth2.HTTPClient, client), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return Tokens{}, l.failed(ctx, err)
	}
	return l.Provider.tokens(t)
}

// Device logs a person in with a browser of any machine, in which the person enters a code. It waits
// for at most 15 minutes, until the code expires, or until ctx ends.
func (l *Login) Device(ctx context.Context) (Tokens, error) {
	if err := l.Provider.check(); err != nil {
		return Tokens{}, err
	}
	if l.Provider.DeviceEndpoint == "" {
		return Tokens{}, secret.WithHint(fmt.Errorf("%w: %s has no login on another device", secret.ErrInvalid,
			l.Provider.host()), "log in on a machine with a browser, or use a token: --token-file FILE")
	}
	client, err := newClient(l.CAFile)
	if err != nil {
		return Tokens{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(l.limit, deviceTime), errLate)
	defer cancel()
	config, verifier := l.Provider.config(), oauth2.GenerateVerifier()
	asking, answered := context.WithTimeout(ctx, requestTime)
	answer, err := config.DeviceAuth(context.WithValue(ctx, oauth2.HTTPClient, under(asking, client)),
		l.Provider.options(oauth2.S256ChallengeOption(verifier))...)
	answered()
	if err != nil {
		return Tokens{}, l.failed(ctx, err)
	}
	if _, err := safeURL(answer.VerificationURI); err != nil || answer.UserCode == "" || answer.DeviceCode == "" {
		return Tokens{}, fmt.Errorf("%s names no code and no https address to enter it at", l.Provider.host())
	}
	text := "open " + answer.VerificationURI + " in any browser and enter the code " +
		printable.Text(answer.UserCode, maxText)
	if _, err := safeURL(answer.VerificationURIComplete); err == nil {
		text += "; this address has it: " + answer.VerificationURIComplete
	}
	l.show(text)
	t, err := config.DeviceAccessToken(context.WithValue(ctx, oauth2.HTTPClient, client), answer,
		oauth2.VerifierOption(verifier))
	if err != nil {
		return Tokens{}, l.failed(ctx, err)
	}
	return l.Provider.tokens(t)
}

// show shows a text to the person. Parts of it come from the issuer, so control characters are escaped.
// The longest text has an address of four parts of maxURL, and an escape is up to three times as long
// as its character.
func (l *Login) show(text string) { l.Show(printable.Text(text, 16*maxURL)) }

var errLate = errors.New("the login was not completed in time")

// failed returns the error of a login that failed with err, or because ctx has ended.
func (l *Login) failed(ctx context.Context, err error) error {
	if err == context.DeadlineExceeded { //nolint:errorlint // that of the device's code, not of a request
		err = errLate
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, errLate) {
		return secret.WithHint(err, "start it again: nothing was stored")
	}
	return l.Provider.failed("log in", err)
}

// host returns where the issuer is, for messages.
func (p Provider) host() string {
	u, err := url.Parse(p.Issuer)
	if err != nil {
		return "the issuer"
	}
	return printable.Text(u.Host, maxText)
}

// failed returns the error of a request to the issuer. It has the issuer's text about the error
// (RFC 6749, section 5.2), but neither the body of an answer nor the query of an address, which may
// hold tokens and codes. It wraps [secret.ErrDenied] if the issuer refuses the request for good.
func (p Provider) failed(what string, err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		switch {
		case e.ErrorCode == "":
			return fmt.Errorf("%s at %s: HTTP status %d", what, p.host(), e.Response.StatusCode)
		case temporary(e):
			return fmt.Errorf("%s at %s: %s", what, p.host(), said(e.ErrorCode, e.ErrorDescription))
		}
		err = &refusedError{said(e.ErrorCode, e.ErrorDescription)}
	}
	if e, ok := errors.AsType[*refusedError](err); ok {
		return fmt.Errorf("%w: %s at %s: %w", secret.ErrDenied, what, p.host(), e)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%s at %s: %w", what, p.host(), &quoted{err})
}

// temporary reports whether the same request may be answered later.
func temporary(e *oauth2.RetrieveError) bool {
	return e.Response.StatusCode >= http.StatusInternalServerError ||
		e.Response.StatusCode == http.StatusTooManyRequests || e.ErrorCode == "temporarily_unavailable" ||
		e.ErrorCode == "server_error" || e.ErrorCode == "slow_down"
}

// said returns the text of an issuer about an error.
func said(code, description string) string {
	text := code
	if description != "" {
		text += " (" + description + ")"
	}
	return printable.Text(text, maxText)
}

// quoted is an error whose text an issuer may have chosen.
type quoted struct{ error }

func (q *quoted) Error() string { return printable.Text(q.error.Error(), maxText) }
func (q *quoted) Unwrap() error { return q.error }

// tokens returns the tokens in an answer of the issuer.
func (p Provider) tokens(t *oauth2.Token) (Tokens, error) {
	why := ""
	switch {
	case t.Type() != "Bearer":
		why = "of another type than Bearer"
	case len(t.AccessToken) > maxToken || len(t.RefreshToken) > maxToken:
		why = fmt.Sprintf("over %d bytes long", maxToken)
	}
	if why != "" {
		return Tokens{}, fmt.Errorf("%w: a token of %s is %s", secret.ErrInvalid, p.host(), why)
	}
	return Tokens{
		Access: secret.NewValue([]byte(t.AccessToken)), Refresh: secret.NewValue([]byte(t.RefreshToken)),
		Expiry: t.Expiry.Round(0),
	}, nil
}
